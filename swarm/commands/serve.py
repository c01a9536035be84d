"""`swarm`: run a node."""

from __future__ import annotations

import asyncio

from swarm.commands.terminal import Terminal
from swarm.node.run import end_process, run_node
from swarm.node.settings import Settings
from swarm.open_files import raise_limit


def serve(settings: Settings) -> int:
    """Run until stopped; 0 is a clean stop."""
    raise_limit()
    asyncio.run(run_node(settings, Terminal()))
    end_process()
    return 0
