"""Schemas that no answer could be held to, refused by name; and those that only look so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from swarm.engines.llama_cpp.schema_refusal import refuse_impossible_schemas
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest
from tests.doubles.schemas import IMPOSSIBLE, POSSIBLE, record

MAX_LOOK_S = 0.3  # far above what the largest accepted schema takes on a busy machine


def asking(**fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": "m", "messages": ({"role": "user", "content": "x"},), **fields})


def for_answer(schema: Any) -> GenerationRequest:
    return asking(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def for_tool(schema: Any) -> GenerationRequest:
    tools = [{"type": "function", "function": {"name": "fine", "parameters": {}}}]
    return asking(tools=[*tools, {"type": "function", "function": {"name": "f", "parameters": schema}}])


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_schema_is_refused_with_its_place(name: str) -> None:
    schema, words = IMPOSSIBLE[name]
    with pytest.raises(BadRequest, match=words) as caught:
        refuse_impossible_schemas(for_answer(schema))
    assert caught.value.param == "response_format.json_schema.schema"
    with pytest.raises(BadRequest, match=words) as caught:
        refuse_impossible_schemas(for_tool(schema))
    assert caught.value.param == "tools[1].function.parameters"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", POSSIBLE)
def test_a_possible_schema_is_let_through_in_no_time(name: str) -> None:
    started = time.thread_time()
    refuse_impossible_schemas(for_answer(POSSIBLE[name]))
    refuse_impossible_schemas(for_tool(POSSIBLE[name]))
    assert time.thread_time() - started < MAX_LOOK_S


def test_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(BadRequest, match="arguments are an object"):
        refuse_impossible_schemas(for_tool({"type": "string"}))
    refuse_impossible_schemas(for_answer({"type": "string"}))


def test_the_place_is_told_to_the_name() -> None:
    schema = record(a={"type": "array", "items": record(b={"anyOf": [{"type": "string"}, {"type": "wat"}]})})
    with pytest.raises(
        BadRequest, match=r"schema\.properties\.a\.items\.properties\.b\.anyOf\[1\]: unknown type 'wat'"
    ):
        refuse_impossible_schemas(for_answer(schema))


def test_a_request_without_schemas_is_none_of_its_business() -> None:
    refuse_impossible_schemas(asking())
    refuse_impossible_schemas(asking(response_format={"type": "json_object"}))
