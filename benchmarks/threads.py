"""How many threads an engine should have, and whether they should spin: its speed alone and beside others.

    python benchmarks/threads.py [--model FILE.gguf] [--quick] [--json FILE]

The same model in engine hosts that differ in how OpenMP's threads wait (`spinning`: libgomp's own way; `passive`: as a
node starts them, `OMP_WAIT_POLICY=passive`) and in their number: all cores, and all but one. Each writes an answer, and
reads a prompt, alone, beside one busy program, and beside a second engine like it that does the same; all in turn, so
that they share whatever else the machine does. The random model is as large as one of half a billion parameters.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure import Figure, ratios
from nodes import random_model
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))  # this checkout's engines, whatever is installed

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load
from swarm.generation import Delta, GenerationRequest

CONTEXT_TOKENS = 1024
PROMPT = "one two three four five six seven eight"
PROMPT_REPEATS = 40  # of what is read: some 300 tokens
# Not a policy: libgomp then does as where nothing is set, with a line on stderr. A node would set `passive` there.
SPINNING = "undefined"
POLICIES = {"spinning": SPINNING, "passive": "passive"}
SITUATIONS = ("alone", "beside a busy program", "two at once")
TASKS = ("writing", "reading")


@dataclass(frozen=True, slots=True)
class Side:
    """Two engines that are alike; the second works only where two are measured."""

    name: str
    first: LlamaServerEngine
    second: LlamaServerEngine


@asynccontextmanager
async def engine(path: Path, policy: str, threads: int) -> AsyncGenerator[LlamaServerEngine]:
    """A model in a host of its own, whose threads wait as `policy` says."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = policy
    try:
        loaded = await load(EngineSpec("model", path, CONTEXT_TOKENS, 1, threads), "always")
    finally:
        os.environ.pop("OMP_WAIT_POLICY")
        if before is not None:
            os.environ["OMP_WAIT_POLICY"] = before
    async with aclosing(loaded):
        yield loaded


@contextmanager
def busy_program() -> Generator[None]:
    """Somebody else's program, which computes on one core at normal priority."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


async def writing(engine: LlamaServerEngine, tokens: int) -> float:
    """Tokens a second of an answer once it has begun."""
    request = GenerationRequest.model_validate(
        {"model": "model", "prompt": PROMPT, "max_tokens": tokens, "temperature": 1.0}
    )
    async with aclosing(engine.candidates(request, 1)) as events:
        came = [time.perf_counter() async for event in events if isinstance(event, Delta)]
    return (len(came) - 1) / (came[-1] - came[0]) if len(came) > 1 else 0.0


async def reading(engine: LlamaServerEngine, _: int) -> float:
    """Tokens a second of a prompt, of which nothing is in the cache."""
    tokens, seconds = await engine.http.prompt_pace(" ".join([PROMPT] * PROMPT_REPEATS))
    return tokens / seconds


async def run(side: Side, task: str, situation: str, tokens: int) -> float:
    """Tokens a second; of two that work at once, of both together."""
    speed = writing if task == "writing" else reading
    match situation:
        case "alone":
            return await speed(side.first, tokens)
        case "two at once":
            return sum(await asyncio.gather(speed(side.first, tokens), speed(side.second, tokens)))
        case _:
            with busy_program():
                return await speed(side.first, tokens)


async def measure(options: argparse.Namespace, path: Path) -> list[Figure]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    numbers = sorted({cores, max(1, cores - 1)}, reverse=True)
    cases = [(task, situation) for task in TASKS for situation in SITUATIONS]
    speeds: dict[tuple[str, str], dict[str, list[float]]] = {case: {} for case in cases}
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for policy in ("passive",) if options.passive else POLICIES:
            for threads in numbers:
                pair = [await stack.enter_async_context(engine(path, POLICIES[policy], threads)) for _ in range(2)]
                sides.append(Side(f"{policy}, {threads} thread{'s' if threads > 1 else ''}", *pair))
        for number in range(-1, options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            for case in cases:
                for side in sides if number % 2 == 0 else reversed(sides):
                    speed = await run(side, *case, options.tokens)
                    if number >= 0:
                        speeds[case].setdefault(side.name, []).append(speed)
    return [figure for case in cases for figure in figures_of(", ".join(case), speeds[case])]


def figures_of(case: str, speeds: Mapping[str, list[float]]) -> Generator[Figure]:
    """Every side's speed, and each against the last: passive threads, all cores but one."""
    *others, last = speeds
    for name in speeds:
        yield Figure(f"{case}: {name}", "tokens/s", tuple(speeds[name]))
    for name in others:
        yield Figure(f"{case}: {name} / {last}", "", ratios(speeds[name], speeds[last]))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, metavar="FILE.gguf", help="default: the random model")
    made.add_argument("--layers", type=int, metavar="N", help="of the random model (default 24)")
    made.add_argument("--passive", action="store_true", help="leave out the threads that spin: they hold others up")
    made.add_argument("--rounds", type=int, metavar="N", help="default 6")
    made.add_argument("--tokens", type=int, metavar="N", help="per answer (default 48)")
    options = made.parse_args()
    for name, small, full in (("rounds", 2, 6), ("tokens", 8, 48), ("layers", 2, 24)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    environment = read_environment()
    path = options.model or random_model(options.layers)
    publish(environment, asyncio.run(measure(options, path)), options.json)


if __name__ == "__main__":
    main()
