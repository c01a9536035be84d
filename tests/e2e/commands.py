"""What a person types on a node's own machine."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Final

from tests.e2e.node_process import NodeProcess, environment

COMMAND_TIMEOUT_S: Final = 30.0


async def swarm_command(node: NodeProcess, folder: Path, *words: str) -> dict[str, object]:
    """What a `swarm` command on the node's own machine prints with --json."""
    home = folder / node.name
    command = (*node.program, *words, "--json", "--data-dir", str(home / "data"))
    if node.machine is not None:
        command = tuple(node.machine.command(*command))
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment(home), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
