"""What hostile schemas cost: time of the look at each, time of the engine, and the engine's memory before and after.

    python -m benchmarks.hostile_schemas [--seed N] [--schemas N] [--model PATH]

The schemas are those of the tests (tests/doubles/hostile_schemas.py), the engine is llama.cpp in a child, steered to
stand in all the places of a schema where it can. What is asked of them: 100 ms of the event loop, 2 s of the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from contextlib import aclosing
from pathlib import Path

import psutil

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible_schemas
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest
from swarm.registry.embedded import embedded_model_path
from tests.doubles.hostile_schemas import ALIKE, hostile_schemas
from tests.doubles.schemas import Schema

ANSWER_TOKENS = 100
MIB = 2**20
STEERED = ((ALIKE, 30.0), (ALIKE * 2, 30.0), ('"', 6.0), ("[", 3.0), ("{", 3.0), (" ", -50.0), ("\n", -50.0))


def asking(schema: Schema, biases: dict[str, float]) -> GenerationRequest:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return GenerationRequest.model_validate(
        {
            "model": "m",
            "messages": ({"role": "user", "content": "x"},),
            "response_format": wanted,
            "max_tokens": ANSWER_TOKENS,
            "logit_bias": biases,
        }
    )


def told(name: str, times_s: list[float]) -> str:
    ms = [1000 * each for each in times_s]
    return f"{name}: median {statistics.median(ms):.1f} ms, max {max(ms):.0f} ms of {len(ms)}"


async def main(seed: int, count: int, model: Path) -> None:
    engine = await load_xllamacpp(EngineSpec("m", model, 1024, 2, threads=1), isolation="always")
    child = max(psutil.Process().children(), key=lambda process: process.create_time())
    biases: dict[str, float] = {}
    for text, bias in STEERED:
        tokens = await engine.tokenize(text, add_special=False, parse_special=False)
        biases |= {str(tokens.ids[0]): bias} if len(tokens.ids) == 1 else {}
    before, refused = child.memory_info().rss, 0
    looks_s: list[float] = []
    answers_s: list[float] = []
    for name, schema in hostile_schemas(seed, count):
        request = asking(schema, biases)
        begun = time.perf_counter()
        try:
            refuse_impossible_schemas(request)
        except BadRequest:
            refused += 1
            continue
        finally:
            looks_s.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        try:
            async with aclosing(engine.candidates(request, 1)) as events:
                async for _ in events:
                    pass
        except BadRequest as error:
            print(f"refused by llama.cpp: {name}: {error}")
        answers_s.append(time.perf_counter() - begun)
        if answers_s[-1] > 1:
            print(f"slow: {name}: {answers_s[-1]:.1f} s")
    after = child.memory_info().rss
    await engine.aclose()
    print(f"{count} schemas of seed {seed}, {refused} refused")
    print(told("look", looks_s))
    print(told("engine", answers_s))
    print(f"engine's memory: {before / MIB:.0f} MiB before, {after / MIB:.0f} MiB after")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--model", type=Path, default=embedded_model_path())
    given = parser.parse_args()
    asyncio.run(main(given.seed, given.schemas, given.model))
