"""`swarm doctor`: probes that look, checks that judge what they saw. Nothing here changes anything."""
