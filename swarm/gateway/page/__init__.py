"""The page of the swarm: its files, as every node serves them at `/`, and what only the page asks."""
