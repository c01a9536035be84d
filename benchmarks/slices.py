"""What it costs that long prompts are read in slices: the same engine, the same lengths of prompts, both ways in turn.

    python benchmarks/slices.py [--model FILE.gguf] [--quick] [--json FILE]

A prompt is sliced so that a client who leaves frees its slot within about half a second (`llama_cpp/prefill.py`); a
short one is read in one request. Here prompts that no cache has seen are answered with one token, in slices and in one
request, by the same loaded model; wall time, and the computing time of the engine's process, which other programs
disturb less.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import psutil
from measure import Figure, Target, ratios
from nodes import random_model
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))  # this checkout's engines, whatever is installed

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import EngineHost, LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load
from swarm.generation import GenerationRequest

PROMPTS_SEED = 20_261_130
COMMON_WORDS = "the of and to in is was for on that with as at by from it an be this are or his which"  # a token each
TARGET = Target("at most", 1.05)


async def answered(engine: LlamaServerEngine, prompt: str) -> tuple[float, float]:
    """Seconds until one token of an answer to `prompt`, and what the engine's process computed for it."""
    home = engine._home
    assert isinstance(home, EngineHost)
    process = psutil.Process(home._process.pid)
    began, before = time.perf_counter(), sum(process.cpu_times()[:2])
    request = GenerationRequest.model_validate({"model": "m", "prompt": prompt, "max_tokens": 1, "temperature": 0.0})
    async with aclosing(engine.candidates(request, 1)) as events:
        async for _ in events:
            pass
    return time.perf_counter() - began, sum(process.cpu_times()[:2]) - before


async def measured(model: Path, options: argparse.Namespace) -> list[Figure]:
    dice = random.Random(PROMPTS_SEED)
    engine = await load(EngineSpec("m", model, options.tokens * 2, 1, options.threads), "always")
    figures: list[Figure] = []
    try:
        prefill = engine.http.prefill
        usual = prefill.long_tokens
        for part in (4, 2, 1):  # of the longest
            tokens = options.tokens // part
            got: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
            for number in range(options.rounds):
                for sliced in (True, False) if number % 2 else (False, True):
                    prefill.long_tokens = usual if sliced else 2**31
                    prompt = " ".join(dice.choices(COMMON_WORDS.split(), k=tokens))  # which no cache has seen
                    got[sliced].append(await answered(engine, prompt))
                progress(f"{tokens} tokens, round {number + 1} of {options.rounds}")
            figures += of(tokens, got[True], got[False])
    finally:
        await engine.aclose()
    return figures


def of(tokens: int, sliced: Sequence[tuple[float, float]], whole: Sequence[tuple[float, float]]) -> list[Figure]:
    """Times and their ratios, round by round."""
    walls = [tuple(wall for wall, _ in side) for side in (sliced, whole)]
    computed = [tuple(cpu for _, cpu in side) for side in (sliced, whole)]
    return [
        Figure(f"{tokens} tokens, in one request", "s", walls[1]),
        Figure(f"{tokens} tokens, in slices / in one request", "", ratios(walls[0], walls[1])),
        Figure(f"**{tokens} tokens, the same of computing time**", "", ratios(computed[0], computed[1]), TARGET),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, metavar="FILE", help="a .gguf file (default: random weights, 0.5B shape)")
    made.add_argument("--layers", type=int, default=24, metavar="N", help="of random weights (default 24)")
    made.add_argument("--threads", type=int, default=2, metavar="N", help="the engine's (default 2)")
    made.add_argument("--tokens", type=int, metavar="N", help="of the longest prompt (default 4096)")
    made.add_argument("--rounds", type=int, metavar="N", help="default 7")
    options = made.parse_args()
    options.tokens = options.tokens or (2048 if options.quick else 4096)
    options.rounds = options.rounds or (2 if options.quick else 7)
    environment = read_environment()
    model = options.model or random_model(options.layers)
    publish(environment, asyncio.run(measured(model, options)), options.json)


if __name__ == "__main__":
    main()
