"""The agent: a client of a swarm like any other, that does what was asked by tools, each step decided by votes."""
