"""A real node that also tells where its engine listens, and whose limits are short: for tests that hang libraries.

    python -m tests.doubles.opened_node [--hold-gil] OPTIONS OF swarm

Its program is swarm's own, from the command line to the exit; it prints one JSON line for each engine that is loaded.
With --hold-gil closing an engine never returns and holds the GIL, as llama.cpp's destructor does in a wedge.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

from swarm import cli
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp import xllamacpp
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.registry import Isolation
from swarm.node import run

GONE_VARIABLE, LEAST_VARIABLE = "TEST_GONE_S", "TEST_LEAST_S"  # deadline of a stop; time without a step


load = xllamacpp.load


async def load_and_tell(spec: EngineSpec, isolation: Isolation = "auto") -> LlamaServerEngine:
    least_s = os.environ.get(LEAST_VARIABLE)
    limits = None
    if least_s is not None:
        limits = Limits(least_s=float(least_s), doubt_least_s=0.5, ask_every_s=0.1, look_s=0.1)
    engine = await load(spec, isolation, limits)
    key = engine.http._session.headers["Authorization"].removeprefix("Bearer ")
    sys.stdout.write(json.dumps({"address": engine.http._address, "key": key, "where": engine._home.where}) + "\n")
    sys.stdout.flush()
    return engine


async def never_closed(_: object) -> None:
    ctypes.PyDLL(None).sleep(600)  # a PyDLL keeps the GIL while it runs


def main(arguments: list[str]) -> int:
    xllamacpp.load = load_and_tell
    if "--hold-gil" in arguments:
        arguments.remove("--hold-gil")
        LlamaServerEngine.aclose = never_closed  # type: ignore[method-assign,assignment]
    if GONE_VARIABLE in os.environ:
        run.GONE_S = float(os.environ[GONE_VARIABLE])
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
