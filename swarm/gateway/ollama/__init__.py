"""Ollama's API, for programs that speak nothing else."""
