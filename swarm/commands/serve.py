"""`swarm`: run a node."""

from __future__ import annotations

import asyncio

from swarm.node import run_node
from swarm.settings import Settings


def say(line: str) -> None:
    print(line, flush=True)


def serve(settings: Settings) -> int:
    """Run until stopped; 0 is a clean stop."""
    asyncio.run(run_node(settings, say))
    return 0
