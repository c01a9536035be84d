"""Two hundred hostile schemas at the real engine, in a child: each is refused, or answered; and so are contradictions.

What a schema may cost is bounded by a model of the engine (`schema_cost.py`). Here the engine says whether that is
true: one that hangs is a failure. The model is steered to what the schemas are made of, so that an answer stands in all
the places where it can.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible_schemas
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import BadRequest, ContextExceeded, EngineDied, EngineFailed
from swarm.generation import GenerationRequest
from tests.doubles.hostile_schemas import ALIKE, contradictions, hostile_schemas
from tests.doubles.schemas import Schema
from tests.engines.test_schema_refusal import for_answer, for_tool

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMAS = 200
CONTRADICTIONS = 400
ANSWER_TOKENS = 40
HUNG_S = 30.0  # a hang is for ever; the slowest takes half a second, on a busy machine some
UNREADABLE = "output that does not match the expected"
SEED = int(os.environ.get("SWARM_TEST_SEED") or int.from_bytes(os.urandom(4)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(demo_model: Path) -> AsyncIterator[LlamaServerEngine]:
    loaded = await load_xllamacpp(EngineSpec("demo", demo_model, 1024, 2, threads=1), isolation="always")
    yield loaded
    await loaded.aclose()


async def steering(engine: LlamaServerEngine) -> dict[str, float]:
    """Biases towards what hostile schemas are made of, and away from white space."""
    biases: dict[str, float] = {}
    for text, bias in (
        (ALIKE, 30.0),
        (ALIKE * 2, 30.0),
        ('"', 6.0),
        ("[", 3.0),
        ("{", 3.0),
        (" ", -50.0),
        ("\n", -50.0),
    ):
        tokens = await engine.tokenize(text, add_special=False, parse_special=False)
        if len(tokens.ids) == 1:
            biases[str(tokens.ids[0])] = bias
    assert len(biases) > 4
    return biases


async def refused_or_answered(engine: LlamaServerEngine, request: GenerationRequest, name: str) -> str:
    """What became of it. A refusal is a BadRequest, here or by llama.cpp; everything else is raised."""
    try:
        refuse_impossible_schemas(request)
    except BadRequest:
        return "refused"
    try:
        async with asyncio.timeout(HUNG_S), aclosing(engine.candidates(request, 1)) as events:
            async for _ in events:
                pass
    except ContextExceeded:
        return "too long to be shown"
    except BadRequest as error:
        return "refused by llama.cpp" if error.param else f"refused without a field: {name}"
    except EngineDied as error:
        raise AssertionError(f"{name} ends the engine, or has it ended: {error}") from error
    except EngineFailed as error:  # rare: an answer that is cut right behind a minus sign is none to its parser
        if UNREADABLE not in str(error):
            raise
        return "cut where llama.cpp cannot read it"
    except TimeoutError:
        raise AssertionError(f"{name} hangs") from None
    return "answered"


async def outcomes(engine: LlamaServerEngine, schemas: list[tuple[str, Schema]], wrap: Any) -> dict[str, list[str]]:
    biases = await steering(engine)
    found: dict[str, list[str]] = {}
    for name, schema in schemas:
        request = wrap(schema).model_copy(update={"max_tokens": ANSWER_TOKENS, "logit_bias": biases, "seed": 1})
        outcome = await refused_or_answered(engine, request, name)
        found.setdefault(outcome, []).append(name)
    odd = [outcome for outcome in found if "without" in outcome]
    assert not odd, f"seed {SEED}: {odd}"
    return found


async def test_two_hundred_hostile_schemas_are_refused_or_answered(engine: LlamaServerEngine) -> None:
    found = await outcomes(engine, hostile_schemas(SEED, SCHEMAS), for_answer)
    assert len(found["refused"]) > SCHEMAS / 10
    assert len(found["answered"]) > SCHEMAS / 10, "the bounds would refuse everything"
    await engine.http.loop_counts()  # its main loop answers


async def test_hostile_tools_are_refused_or_answered(engine: LlamaServerEngine) -> None:
    def required(schema: Schema) -> GenerationRequest:
        return for_tool({"type": "object", "properties": {"a": schema}, "$defs": schema.get("$defs", {})}).model_copy(
            update={"tool_choice": "required"}
        )

    await outcomes(engine, hostile_schemas(SEED + 1, SCHEMAS // 4), required)
    await engine.http.loop_counts()  # its main loop answers


async def test_contradictions_are_refused_or_answered(engine: LlamaServerEngine) -> None:
    found = await outcomes(engine, contradictions(SEED, CONTRADICTIONS), for_answer)
    assert found.get("refused by llama.cpp", []) == [], "what it refuses is known here before"
