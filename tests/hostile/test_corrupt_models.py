"""Models that are corrupt or cut: refused with a reason before native code sees them, or the child alone dies."""

from __future__ import annotations

import asyncio
import random
import struct
from pathlib import Path

import pytest

from swarm.engines.engine import EngineSpec
from swarm.engines.registry import load_engine
from swarm.errors import SwarmError
from swarm.generation import GenerationRequest
from swarm.registry.embedded import embedded_model_path
from swarm.registry.gguf_header import read_gguf

MUTATIONS = 1000
REACH_NATIVE_CODE = 6  # of those that pass the check, tried with llama.cpp by default; `--slow` tries all
ANSWER_S = 60.0
HOSTILE = (0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
HEAD_BYTES = 4096  # numbers that lengths and offsets are made of are dense here


def mutated(content: bytes, choose: random.Random) -> bytes:
    """The model with one thing wrong: cut anywhere, bytes flipped, a hostile number, a piece repeated or zeroed."""
    at = choose.randrange(len(content) if choose.randrange(2) else HEAD_BYTES)
    match choose.randrange(5):
        case 0:
            return content[:at]
        case 1:
            flipped = bytearray(content)
            for _ in range(choose.randint(1, 8)):
                flipped[choose.randrange(HEAD_BYTES)] = choose.randrange(256)
            return bytes(flipped)
        case 2:
            return content[:at] + struct.pack("<Q", choose.choice(HOSTILE)) + content[at + 8 :]
        case 3:
            return content[:at] + content[max(0, at - 64) : at] + content[at:]
        case _:
            return content[:at] + bytes(64) + content[at + 64 :]


def survivors(tmp_path: Path, most: int) -> list[Path]:
    """Of MUTATIONS mutated models those that pass the check, `most` of them as files; all others have a reason."""
    content = embedded_model_path("demo").read_bytes()
    choose = random.Random(20261)
    refused, kept = 0, []
    path = tmp_path / "mutated.gguf"
    for number in range(MUTATIONS):
        path.write_bytes(mutated(content, choose))
        reason = reason_against(path)
        if reason is not None:
            refused += 1
            assert str(path) in reason
            assert len(reason) > len(str(path)) + 10, reason
        elif len(kept) < most:
            kept.append(path.rename(tmp_path / f"survivor-{number}.gguf"))
    assert refused > MUTATIONS // 4, "cut files and impossible sizes at least"
    return kept


def reason_against(path: Path) -> str | None:
    """Why the check refuses a file; None where it passes."""
    try:
        read_gguf(path)
    except SwarmError as error:
        return str(error)
    return None


async def try_native(path: Path) -> str:
    """Load and use it in a process of its own. What became of it; a failure of ours fails the test."""
    spec = EngineSpec("mutated", path, context_tokens=256, slots=1, threads=1)
    try:
        async with asyncio.timeout(ANSWER_S):
            engine = await load_engine("xllamacpp", spec, "always")
    except SwarmError:
        return "refused"
    except TimeoutError:
        return "hung while it loaded"
    try:
        async with asyncio.timeout(ANSWER_S):
            request = GenerationRequest(model="mutated", prompt="hello", max_tokens=2, temperature=0)
            async for _ in await as_events(engine.candidates(request, 1)):
                pass
        return "answered"
    except SwarmError:
        return "failed while it answered"
    except TimeoutError:
        return "hung while it answered"
    finally:
        await engine.aclose()


async def as_events(events):  # type: ignore[no-untyped-def]
    """What `candidates` gives, be it a generator or a coroutine of one."""
    return await events if asyncio.iscoroutine(events) else events


async def native(paths: list[Path]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        fate = await try_native(path)
        found[fate] = found.get(fate, 0) + 1
        path.unlink()
    return found


async def test_what_is_wrong_with_a_model_is_found_before_native_code_or_costs_the_child_alone(tmp_path: Path) -> None:
    """CVE-2026-7482: sizes larger than the file. This process is the node: it is still here afterwards."""
    paths = await asyncio.to_thread(survivors, tmp_path, REACH_NATIVE_CODE)
    found = await native(paths)
    assert sum(found.values()) == REACH_NATIVE_CODE
    assert not any(fate.startswith("hung") for fate in found), found


@pytest.mark.slow
async def test_every_mutation_that_passes_the_check_costs_the_child_alone(tmp_path: Path) -> None:
    paths = await asyncio.to_thread(survivors, tmp_path, MUTATIONS)
    found = await native(paths)
    print(f"{MUTATIONS} mutations, {MUTATIONS - len(paths)} refused by the check; of the others: {found}")  # noqa: T201
    assert sum(found.values()) == len(paths)
    assert not any(fate.startswith("hung") for fate in found), found
