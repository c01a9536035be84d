"""What this machine is: processor, memory, GPUs. What a model needs of them belongs to `swarm/registry`."""
