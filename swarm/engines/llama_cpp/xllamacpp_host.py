"""An engine host: a child process that loads one model and serves it on loopback until its parent lets go of it.

    python -m swarm.engines.llama_cpp.xllamacpp_host < one JSON line of `order_to_json`; then the pipe is held open

Answers one JSON line: {"address", "key"} or {"error"}. Ends when its standard input ends, so it never outlives the
node, not even one killed with SIGKILL; one that hangs while it loads (which holds the GIL) ends by a timer in C. JSON
on pipes only: no pickle.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from swarm.engines.engine import EngineSpec
from swarm.engines.free_memory import trim_from_time_to_time
from swarm.engines.llama_cpp.xllamacpp_server import Batching, Pooling, load_limit_s, start_server
from swarm.errors import EngineFailed


def order_to_json(spec: EngineSpec, batching: Batching) -> str:
    """What a host is to load, as one line that `order_from_json` reads back."""
    return json.dumps(
        {
            "model_id": spec.model_id,
            "path": None if spec.path is None else str(spec.path),
            "context_tokens": spec.context_tokens,
            "slots": spec.slots,
            "threads": spec.threads,
            "gpu_layers": spec.gpu_layers,
            "pooling": batching.pooling,
            "step_tokens": batching.step_tokens,
        }
    )


def order_from_json(line: str) -> tuple[EngineSpec, Batching]:
    fields: dict[str, Any] = json.loads(line)
    path, pooling = fields.pop("path"), fields.pop("pooling")
    batching = Batching(None if pooling is None else Pooling(pooling), fields.pop("step_tokens"))
    return EngineSpec(path=None if path is None else Path(path), **fields), batching


def serve() -> NoReturn:
    """Load what standard input says, report the address, and wait for the parent to go.

    Never returns: leaving this function would unload the model, which never ends where llama.cpp hangs.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches the whole group; the parent drains first
    spec, batching = order_from_json(sys.stdin.readline())
    faulthandler.dump_traceback_later(load_limit_s(spec.path), exit=True)
    try:
        running = start_server(spec, batching)
    except EngineFailed as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        sys.stdout.flush()
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(json.dumps({"address": running.address, "key": running.key}) + "\n")
    sys.stdout.flush()
    trim_from_time_to_time()
    sys.stdin.read()
    os._exit(0)  # llama.cpp's teardown is not needed: the system takes the memory back at once


if __name__ == "__main__":
    serve()
