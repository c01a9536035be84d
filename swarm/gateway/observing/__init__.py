"""What the node says of itself: health, its view of the swarm, metrics, the requests in progress.."""
