"""An engine host: a child process that loads one model and serves it on loopback until its parent lets go of it.

    python -m swarm.engines.host  < one JSON line (EngineSpec), then the pipe is held open by the parent

Answers one JSON line: {"address", "key"} or {"error"}. Ends when its standard input ends, so it never outlives the
node, not even one killed with SIGKILL. JSON on pipes only: no pickle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from swarm.engines.engine import EngineSpec
from swarm.engines.free_memory import trim_from_time_to_time
from swarm.engines.xllamacpp_server import start_server
from swarm.errors import EngineFailed


def spec_to_json(spec: EngineSpec) -> str:
    """One line that `spec_from_json` reads back."""
    return json.dumps(
        {
            "model_id": spec.model_id,
            "path": None if spec.path is None else str(spec.path),
            "context_tokens": spec.context_tokens,
            "slots": spec.slots,
            "threads": spec.threads,
            "gpu_layers": spec.gpu_layers,
        }
    )


def spec_from_json(line: str) -> EngineSpec:
    fields: dict[str, Any] = json.loads(line)
    path = fields.pop("path")
    return EngineSpec(path=None if path is None else Path(path), **fields)


def serve() -> int:
    """Load what standard input says, report the address, and wait for the parent to go."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches the whole group; the parent drains first
    try:
        running = start_server(spec_from_json(sys.stdin.readline()))
    except EngineFailed as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    sys.stdout.write(json.dumps({"address": running.address, "key": running.key}) + "\n")
    sys.stdout.flush()
    trim_from_time_to_time()
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    code = serve()
    sys.stdout.flush()
    os._exit(code)  # llama.cpp's teardown is not needed: the system takes the memory back at once
