"""Engines whose library runs in a process of its own and is spoken to in JSON lines."""
