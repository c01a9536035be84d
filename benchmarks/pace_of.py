"""How fast a real engine is, as the figures that a paced one takes: `paced_time.Pace`.

    python benchmarks/pace_of.py OUT.json [--model FILE.gguf | --layers 4] [--rounds 5] [--threads N]

Loads the model as a node does and measures the engine past everything else: prompts that no cache has seen, read
alone; steps of 1 to 8 answers at once; steps beside a long context; and a prompt read while answers run. Medians of the
rounds. The machine should do nothing else: its load before and after is printed. With one thread (as it is measured
where nothing else is said) others on the machine disturb least: no thread waits for one that is kept from its core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path

from nodes import random_model
from report import ROOT, progress

sys.path.insert(0, str(ROOT))  # this checkout's engines, whatever is installed

from benchmarks.paced_time import Pace
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.llama_cpp.prefill import LONG_TOKENS, MIN_SLICE_TOKENS, SLICE_S
from swarm.engines.llama_cpp.xllamacpp import load
from swarm.generation import Delta, GenerationRequest

SEED = 20_261_202
MOST = 8  # answers at once
LENGTHS = (16, 64, 128, 256, 512, 1024, 1536, 2048)  # of prompts
BESIDE_TOKENS = 128  # few: what the answers beside it take is a larger part of the step
STEPS = 32  # of an answer whose steps are measured
CONTEXT_TOKENS = 4096
COMMON_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "that",
    "with",
    "as",
    "at",
    "by",
    "from",
    "it",
)


def request(dice: random.Random, tokens: int, answer: int) -> GenerationRequest:
    """A prompt of so many tokens, each a common word, and an answer of exactly so many (no end of text is drawn)."""
    prompt = " ".join(dice.choice(COMMON_WORDS) for _ in range(tokens))
    fields = {"model": "m", "prompt": prompt, "max_tokens": answer, "temperature": 0.0, "ignore_eos": True}
    return GenerationRequest.model_validate(fields)


async def first_token_s(engine: Engine, asked: GenerationRequest) -> float:
    begun = time.perf_counter()
    async with aclosing(engine.candidates(asked, 1)) as events:
        async for _ in events:
            return time.perf_counter() - begun
    raise RuntimeError("no token came")


@asynccontextmanager
async def running(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[list[list[float]]]:
    """All of them answered at once within the block, which begins when each has begun; the instants of their tokens."""
    instants: list[list[float]] = [[] for _ in requests]
    begun = [asyncio.Event() for _ in requests]

    async def follow(number: int) -> None:
        async with aclosing(engine.candidates(requests[number], 1)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    instants[number].append(time.perf_counter())
                    begun[number].set()

    tasks = [asyncio.create_task(follow(number)) for number in range(len(requests))]
    try:
        for each in begun:
            await each.wait()
        yield instants
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def step_s(engine: Engine, dice: random.Random, answers: int, prompt_tokens: int = 16) -> float:
    """The median time between two tokens while so many answers run."""
    requests = [request(dice, prompt_tokens, 4 * STEPS + MOST) for _ in range(answers)]
    async with running(engine, requests) as instants:
        since = time.perf_counter()
        while min(sum(at > since for at in one) for one in instants) < STEPS:  # noqa: ASYNC110 - each token would wake it
            await asyncio.sleep(0.02)
    return statistics.median(b - a for one in instants for a, b in pairwise([at for at in one if at > since]))


async def beside_s(engine: Engine, dice: random.Random, answers: int, alone_s: float, steps_s: float) -> float:
    """By how much each running answer makes the step longer in which BESIDE_TOKENS are read."""
    requests = [request(dice, 16, 2048) for _ in range(answers)]
    async with running(engine, requests):
        took_s = await first_token_s(engine, request(dice, BESIDE_TOKENS, 1))
    return (took_s - steps_s / 2 - alone_s) / answers  # it begins in the middle of a step, on average


async def measured(engine: Engine, rounds: int) -> Pace:
    dice = random.Random(SEED)
    await first_token_s(engine, request(dice, 512, 1))  # what is slow the first time
    reads: list[tuple[int, float]] = []
    for tokens in LENGTHS:
        took = [await first_token_s(engine, request(dice, tokens, 1)) for _ in range(rounds)]
        reads.append((tokens, max(statistics.median(took), (reads[-1][1] if reads else 0.0) + 1e-6)))
        progress(f"{tokens} tokens read in {reads[-1][1]:.3f} s ({min(took):.3f} to {max(took):.3f})")
    steps: list[float] = []
    for answers in range(1, MOST + 1):
        took = [await step_s(engine, dice, answers) for _ in range(rounds)]
        steps.append(statistics.median(took))
        progress(f"a step of {answers}: {1000 * steps[-1]:.1f} ms ({1000 * min(took):.1f} to {1000 * max(took):.1f})")
    long = statistics.median([await step_s(engine, dice, 1, 2048) for _ in range(rounds)])
    context_s = max(0.0, (long - steps[0]) / 2048)
    alone_s = dict(reads)[BESIDE_TOKENS]
    beside = [
        await beside_s(engine, dice, answers, alone_s, steps[answers - 1]) for _ in range(rounds) for answers in (4, 7)
    ]
    tps = 512 / dict(reads)[512]
    progress(
        f"beside a context of 2048: {1000 * long:.1f} ms; beside a prompt {1000 * statistics.median(beside):.1f} ms"
    )
    return Pace(
        tuple(steps),
        tuple(reads),
        context_s,
        max(0.0, statistics.median(beside)),
        slice_tokens=min(max(MIN_SLICE_TOKENS, int(SLICE_S * tps)), 2048),
        whole_tokens=LONG_TOKENS,
    )


async def run(args: argparse.Namespace, model: Path) -> Pace:
    engine = await load(EngineSpec("m", model, CONTEXT_TOKENS, MOST, args.threads), "always")
    try:
        return await measured(engine, args.rounds)
    finally:
        await engine.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, metavar="FILE.gguf")
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="of a random model (default 4)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the engine (default 1)")
    args = parser.parse_args()
    progress(f"load before: {os.getloadavg()[0]:.2f}")
    pace = asyncio.run(run(args, args.model or random_model(args.layers)))
    pace.write(args.out)
    progress(f"load after: {os.getloadavg()[0]:.2f}")
    print(args.out.read_text(), end="")


if __name__ == "__main__":
    main()
