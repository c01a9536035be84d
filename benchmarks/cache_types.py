"""What keys and values in fewer bits (`kv_cache = "q8_0"`) cost: reading and writing at the end of a long prompt.

    python benchmarks/cache_types.py --model FILE.gguf [--tokens 3000] [--quick] [--json FILE]

The same file in two engine hosts, f16 and q8_0, in turn: a prompt is read, and 64 tokens are written after it, the
likeliest each time. How many of these texts are the same in both is said, too: fewer bits are another model, slightly.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from measure import Figure, ratios
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))  # this checkout's engines, whatever is installed

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.llama_cpp.xllamacpp import load
from swarm.generation import Delta, GenerationRequest
from swarm.registry.model_memory import CacheType

TYPES: tuple[CacheType, ...] = ("f16", "q8_0")
WRITTEN_TOKENS = 64
WORDS = (
    "the",
    "a",
    "cat",
    "house",
    "river",
    "over",
    "under",
    "green",
    "small",
    "runs",
    "sleeps",
    "and",
    "then",
    "with",
)


async def one(engine: Engine, prompt: str) -> tuple[float, float, str]:
    """Seconds until the first token, tokens a second after it, and the text."""
    asked = {"model": "model", "prompt": prompt, "max_tokens": WRITTEN_TOKENS, "temperature": 0.0}
    begun, came, text = time.perf_counter(), list[float](), ""
    async with aclosing(engine.candidates(GenerationRequest.model_validate(asked), 1)) as events:
        async for event in events:
            if isinstance(event, Delta):
                came.append(time.perf_counter())
                text += event.text
    return came[0] - begun, (len(came) - 1) / (came[-1] - came[0]), text


async def figures(options: argparse.Namespace) -> list[Figure]:
    read: dict[str, list[float]] = {kind: [] for kind in TYPES}
    written: dict[str, list[float]] = {kind: [] for kind in TYPES}
    same: list[float] = []
    async with AsyncExitStack() as stack:
        engines: dict[str, Engine] = {}
        for kind in TYPES:
            spec = EngineSpec("model", options.model, options.tokens + 512, 1, options.threads, cache_type=kind)
            engines[kind] = await stack.enter_async_context(aclosing(await load(spec, "always")))
        for number in range(-1, options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            prompt = " ".join(random.Random(f"round {number}").choices(WORDS, k=options.tokens))
            texts: set[str] = set()
            for kind in TYPES if number % 2 == 0 else TYPES[::-1]:
                first_s, speed, text = await one(engines[kind], prompt)
                texts.add(text)
                if number >= 0:
                    read[kind].append(first_s)
                    written[kind].append(speed)
            if number >= 0:
                same.append(float(len(texts) == 1))
    made = [Figure(f"{kind}: until the first token", "s", tuple(read[kind])) for kind in TYPES]
    made += [Figure(f"{kind}: writing", "tokens/s", tuple(written[kind])) for kind in TYPES]
    made.append(Figure("until the first token, q8_0 / f16", "", ratios(read["q8_0"], read["f16"])))
    made.append(Figure("writing, q8_0 / f16", "", ratios(written["q8_0"], written["f16"])))
    made.append(Figure("texts that are the same", "", tuple(same)))
    return made


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, required=True, metavar="FILE.gguf")
    made.add_argument("--tokens", type=int, default=3000, metavar="N", help="words of the prompt (default 3000)")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")
    made.add_argument("--rounds", type=int, metavar="N", help="default 5")
    options = made.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else 5
    environment = read_environment()
    publish(environment, asyncio.run(figures(options)), options.json)


if __name__ == "__main__":
    main()
