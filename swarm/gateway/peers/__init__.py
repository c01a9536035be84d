"""What nodes, and this machine's commands, ask of this node. Asking belongs to federation/."""
