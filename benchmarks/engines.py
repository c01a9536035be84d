"""What each engine of this machine reads and writes a second, against llama.cpp's own `llama-bench`.

    python benchmarks/engines.py --engines-dir DIR [--llama-bench FILE] [--model FILE.gguf] [--quick] [--json FILE]

The same file, the same number of threads, all in turn: a prompt of 512 tokens is read, and 128 tokens are written after
a short one, as `llama-bench -p 512 -n 128` does it (which draws no tokens; the engines take the likeliest). Then a
prompt of some 300 tokens is answered once, and five times at once, in 32 tokens and in 64: those are sampled.
`llama-bench` is that of the same sources as `llama-server`. An engine's own loads are timed one after the other, and
its memory is what it was measured to take in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path

from measure import Figure, Target, ratios
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))  # this checkout's engines, whatever is installed

from swarm.engines.engine import Engine, EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.registry import ENGINES
from swarm.generation import Delta, Finish, GenerationRequest

CONTEXT_TOKENS, SLOTS = 1024, 5
READ_TOKENS, WRITTEN_TOKENS = 512, 128
ANSWER_TOKENS = (32, 64)
SHARED_TOKENS = 300
LOADS = 3
ALONE, FIVE = "one answer", "five answers"
READING, WRITING = "reading", "writing"
LLAMA_BENCH = "llama-bench"


@dataclass
class Side:
    """An engine with its model, and what was measured of it, a sample a round."""

    name: str
    engine: Engine
    load_s: tuple[float, ...]
    words: list[int] = field(default_factory=list[int])  # tokens that stand for a word each
    end: int = 0  # the token that ends an answer


async def loaded(build: EngineBuild, path: Path, threads: int, loads: int) -> Side:
    """The engine after `loads` of them: what the first has read of the disk, the others find in memory."""
    spec = EngineSpec("model", path, CONTEXT_TOKENS, SLOTS, threads, build=build)
    took: list[float] = []
    engine: Engine | None = None
    for _ in range(loads):
        if engine is not None:
            await engine.aclose()
        begun = time.perf_counter()
        engine = await ENGINES[build.engine].load(spec, "always")
        took.append(time.perf_counter() - begun)
    assert engine is not None
    side = Side(f"{build.engine} {build.version}", engine, tuple(took))
    side.words = list(
        (await engine.tokenize("one two three four five six seven", add_special=False, parse_special=False)).ids
    )
    side.end = (await engine.tokenize(engine.loaded.eos_token, add_special=False, parse_special=True)).ids[-1]
    return side


def request(side: Side, prompt: Sequence[int], max_tokens: int, temperature: float = 0.0) -> GenerationRequest:
    """What goes on for `max_tokens`: the end of an answer is left out."""
    return GenerationRequest.model_validate(
        {
            "model": "model",
            "prompt": tuple(prompt),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "logit_bias": {str(side.end): -100.0},
        }
    )


def prompt_of(side: Side, tokens: int, purpose: str) -> list[int]:
    """So many tokens, drawn anew for each `purpose`: no cache has more than the first few of them."""
    dice = random.Random(purpose)
    return dice.choices(side.words, k=tokens)


async def arrivals(side: Side, asked: GenerationRequest, n: int = 1) -> list[float]:
    """When each piece came, after the request went out; the last entry is the end."""
    begun = time.perf_counter()
    came: list[float] = []
    ends: list[Finish] = []
    async with aclosing(side.engine.candidates(asked, n)) as events:
        async for event in events:
            if isinstance(event, Delta):
                came.append(time.perf_counter() - begun)
            else:
                ends.append(event)
    written = sum(end.usage.completion_tokens for end in ends)
    wanted = n * (asked.max_tokens or 0)
    if written != wanted:
        raise SystemExit(f"{side.name} wrote {written} tokens instead of {wanted}")
    return [*came, time.perf_counter() - begun]


async def measure(side: Side, number: int) -> dict[str, float]:
    """One round: tokens a second of reading and writing, and the seconds of one answer and of five, by their length."""
    read = await arrivals(side, request(side, prompt_of(side, READ_TOKENS, f"{number} read"), 1))
    written = await arrivals(side, request(side, prompt_of(side, 8, f"{number} written"), WRITTEN_TOKENS))
    made = {READING: READ_TOKENS / read[0], WRITING: (WRITTEN_TOKENS - 1) / (written[-1] - written[0])}
    for tokens in ANSWER_TOKENS:
        for name, n in ((ALONE, 1), (FIVE, SLOTS)):
            prompt = prompt_of(side, SHARED_TOKENS, f"{number} {name} {tokens}")
            took = await arrivals(side, request(side, prompt, tokens, temperature=1.0), n)
            made[f"{name}, {tokens} tokens"] = took[-1]
    return made


def bench(program: Path, path: Path, threads: int) -> dict[str, float]:
    """What llama.cpp's own program measures, once."""
    command = [program, "-m", path, "-p", READ_TOKENS, "-n", WRITTEN_TOKENS, "-t", threads, "-r", 1, "-o", "json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    return {READING if row["n_prompt"] else WRITING: float(row["avg_ts"]) for row in rows}


async def figures(options: argparse.Namespace) -> list[Figure]:
    places = EnginePlaces(options.engines_dir, options.llama_server)
    builds = [build for entry in ENGINES.values() if "gguf" in entry.formats for build in entry.builds(places)]
    if options.engine:
        builds = [build for build in builds if build.engine in options.engine]
    samples: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for build in builds:
            progress(f"loading {build.engine} {build.version}")
            side = await loaded(build, options.model, options.threads, 1 if options.quick else LOADS)
            await stack.enter_async_context(aclosing(side.engine))
            sides.append(side)
        for number in range(-1, options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            for side in sides if number % 2 == 0 else reversed(sides):
                for name, value in (await measure(side, number + 1)).items():
                    if number >= 0:
                        samples.setdefault(side.name, {}).setdefault(name, []).append(value)
            if options.llama_bench is not None:
                made = await asyncio.to_thread(bench, options.llama_bench, options.model, options.threads)
                for name, value in made.items():
                    if number >= 0:
                        samples.setdefault(LLAMA_BENCH, {}).setdefault(name, []).append(value)
        return [figure for side in sides for figure in of_side(side, samples)] + of_bench(samples)


def of_side(side: Side, samples: dict[str, dict[str, list[float]]]) -> list[Figure]:
    own, reference = samples[side.name], samples.get(LLAMA_BENCH)
    made = [Figure(f"{side.name}: {task}", "tokens/s", tuple(own[task])) for task in (READING, WRITING)]
    if reference is not None:
        targets = {READING: Target("at least", 0.95), WRITING: Target("at least", 0.97)}
        judged = side.engine.name == "llama-server"  # of the same build; of the others it is told
        made += [
            Figure(
                f"{side.name}: {task} / {LLAMA_BENCH}",
                "",
                ratios(own[task], reference[task]),
                targets[task] if judged else None,
            )
            for task in (READING, WRITING)
        ]
    for tokens in ANSWER_TOKENS:
        five = ratios(own[f"{FIVE}, {tokens} tokens"], own[f"{ALONE}, {tokens} tokens"])
        made.append(Figure(f"{side.name}: five answers / one, of {tokens} tokens", "", five, Target("at most", 2.0)))
    made.append(Figure(f"{side.name}: load", "s", side.load_s))
    if (taken := side.engine.taken_bytes) is not None:
        made.append(Figure(f"{side.name}: memory", "MB", (taken / 1e6,)))
    return made


def of_bench(samples: dict[str, dict[str, list[float]]]) -> list[Figure]:
    return [
        Figure(f"{LLAMA_BENCH}: {task}", "tokens/s", tuple(values))
        for task, values in samples.get(LLAMA_BENCH, {}).items()
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, required=True, metavar="FILE.gguf")
    made.add_argument("--engines-dir", type=Path, metavar="DIR", help="what `swarm engines install` made")
    made.add_argument("--llama-server", type=Path, metavar="FILE", help="a program to measure, too")
    made.add_argument("--llama-bench", type=Path, metavar="FILE", help="of the same sources as llama-server")
    made.add_argument("--engine", action="append", metavar="NAME", help="only these; repeatable")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="of every engine (default 1)")
    made.add_argument("--rounds", type=int, metavar="N", help="default 8")
    options = made.parse_args()
    if options.rounds is None:
        options.rounds = 2 if options.quick else 8
    environment = read_environment()
    publish(environment, asyncio.run(figures(options)), options.json)


if __name__ == "__main__":
    main()
