"""What engines do with the schemas that are let through: JSON by grammar, whatever the model's skill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.hosted.hosted_engine import HostedEngine
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.registry import load_engine
from swarm.engines.schema_check import violations
from swarm.errors import BadRequest, ContextExceeded
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.inside_llama import prompt_tokens_evaluated
from tests.doubles.made_engines import made_engine
from tests.doubles.schemas import POSSIBLE, record
from tests.engines.test_grammar_schema import KEPT

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOO_MUCH = {"repeated repeats"}  # for llguidance, which makes automata: a request is refused for it
ENDLESS = {"a condition that says nothing", "notes"}  # texts that a model this small may not end
ANSWER_S = 60.0  # a hang is forever; this is for a busy machine
EMAIL = r"^[\w.+-]{1,8}@[^@\s]{1,8}\.[a-z]{2,3}$"
HELD = {
    "digits": (record(a={"type": "string", "pattern": r"^\d{3}-\d{4}$"})),
    "no quote in a class": (record(a={"type": "string", "pattern": "^[^@]{1,9}$"})),
    "an address": (record(a={"type": "string", "pattern": EMAIL})),
    "a number in all of one": (record(a={"allOf": [{"type": "integer", "minimum": 3, "maximum": 9}]})),
    "two objects in one": (record(a={"allOf": [record(x={"type": "boolean"}), record(y={"enum": [1, 2]})]})),
    "an enum": (record(n={"enum": [41, "42", None, 'a"\\€']})),
    "a pair": (record(a={"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}]})),
    "bounds": (record(a={"type": "integer", "minimum": -5, "maximum": 10})),
    "a date": (record(a={"type": "string", "format": "date"})),
    "at most two": (record(a={"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2})),
    "a text of escapes that are none": (record(a={"type": "string", "pattern": r"^\/api\/[a-z]{2}$"})),
    "a dash behind a class": (record(a={"type": "string", "pattern": r"^[\w-\.]{3}$"})),
    "quotes and backslashes": (record(a={"type": "string", "pattern": r'^["\\]{2}\n$'})),
    "what is merged of two": {
        "$defs": {"B": record(x={"type": "boolean"})},
        "allOf": [{"$ref": "#/$defs/B"}, record(z={"enum": [1, 2]})],
    },
    "one of two required": {
        "properties": {"x": {"type": "null"}, "y": {"type": "null"}},
        "type": "object",
        "anyOf": [{"required": ["x"]}, {"required": ["y"]}],
    },
    "a name that nobody describes": {
        "properties": {"y": {"type": "null"}},
        "required": ["y", "z"],
        "patternProperties": {"z": {"enum": [1]}},
    },
    "a short text": (record(a={"type": "string", "maxLength": 12})),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["xllamacpp", "llama-cpp-python"])
async def engine(request: pytest.FixtureRequest, demo_model: Path) -> AsyncIterator[Engine]:
    name = request.param
    build = None if name == "xllamacpp" else made_engine(name)
    loaded = await load_engine(name, EngineSpec("demo", demo_model, 1024, 2, threads=1, build=build))
    yield loaded
    await loaded.aclose()


@pytest.fixture
def server(engine: Engine) -> LlamaServerEngine:
    if not isinstance(engine, LlamaServerEngine):
        pytest.skip("of a llama.cpp server alone")
    return engine


def asking(**fields: Any) -> GenerationRequest:
    messages = ({"role": "user", "content": "Tell me of Paris."},)
    return GenerationRequest.model_validate({"model": "demo", "messages": messages, "temperature": 1.0, **fields})


async def answer(engine: Engine, request: GenerationRequest) -> tuple[str, str, str]:
    """Text, arguments and reason of one answer."""
    text, arguments, reason = "", "", ""
    async with asyncio.timeout(ANSWER_S), aclosing(engine.candidates(request, 1)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
                arguments += "".join(call.arguments for call in event.tool_calls)
            else:
                reason = event.reason
    return text, arguments, reason


def for_answer(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}}


def for_call(schema: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}], "tool_choice": "required"}


@pytest.mark.parametrize("name", KEPT)
async def test_whatever_is_told_to_be_kept_is_kept_at_a_high_temperature(engine: Engine, name: str) -> None:
    schema = record(a=KEPT[name])
    ended = 0
    for seed in range(3):
        text, _, reason = await answer(engine, asking(**for_answer(schema), max_tokens=60, seed=seed, temperature=1.5))
        if reason == "stop":
            ended += 1
            assert violations(schema, json.loads(text)) == (), text
    assert ended or name in ENDLESS


@pytest.mark.parametrize("name", POSSIBLE)
async def test_no_schema_that_is_let_through_breaks_or_hangs_the_engine(engine: Engine, name: str) -> None:
    if name in TOO_MUCH and isinstance(engine, HostedEngine):
        with pytest.raises(BadRequest, match="response_format: the schema cannot be kept within an answer"):
            await answer(engine, asking(**for_answer(POSSIBLE[name]), max_tokens=40, seed=1))
        return
    text, _, reason = await answer(engine, asking(**for_answer(POSSIBLE[name]), max_tokens=40, seed=1))
    if reason == "stop":
        json.loads(text)
    try:
        text, arguments, reason = await answer(engine, asking(**for_call(POSSIBLE[name]), max_tokens=40, seed=1))
    except ContextExceeded:
        return  # the tool is shown to the model, and its context is small
    assert not text
    if reason == "tool_calls":
        assert isinstance(json.loads(arguments), dict)
    else:
        assert reason == "length"


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("seed", [1, 2])
async def test_answers_and_arguments_keep_their_schema(engine: Engine, name: str, seed: int) -> None:
    schema = HELD[name]
    text, _, reason = await answer(engine, asking(**for_answer(schema), seed=seed))
    assert reason == "stop"
    assert violations(schema, json.loads(text)) == ()
    text, arguments, reason = await answer(engine, asking(**for_call(schema), seed=seed))
    assert (text, reason) == ("", "tool_calls")
    assert violations(schema, json.loads(arguments)) == ()


async def test_what_only_llama_cpp_sees_names_the_field_too(server: LlamaServerEngine) -> None:
    odd = record(a={"type": "string", "format": 5})
    with pytest.raises(BadRequest, match="format must be a string") as caught:
        await answer(server, asking(**for_answer(odd)))
    assert caught.value.param == "response_format"
    with pytest.raises(BadRequest) as caught:
        await answer(server, asking(**for_call(odd)))
    assert caught.value.param == "tools"


async def test_forced_candidates_share_one_prefill(server: LlamaServerEngine) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": record(sure={"type": "boolean"})}}]
    request = asking(tools=tools, tool_choice="required", seed=3).model_copy(
        update={"messages": ({"role": "user", "content": "word " * 300},)}
    )
    before = await prompt_tokens_evaluated(server.http)
    async with aclosing(server.candidates(request, 2)) as events:
        finishes = [event async for event in events if isinstance(event, Finish)]
    assert [finish.reason for finish in finishes] == ["tool_calls"] * 2
    evaluated = await prompt_tokens_evaluated(server.http) - before
    assert evaluated < 1.5 * await server.count_tokens(request)
