"""Schemas over every API: one way in for tools and answers, strict or not, and what an answer says that breaks one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.doubles.clients import Client
from tests.doubles.schemas import record

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TREE: Any = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
}


def bodies(schema: Any, strict: bool | None, choice: str = "auto") -> dict[str, dict[str, Any]]:
    """The same tool for each API; what it leaves unsaid is left out."""
    said = {} if strict is None else {"strict": strict}
    function = {"name": "f", "parameters": schema, **said}
    anthropic = {"type": {"required": "any"}.get(choice, choice)}
    return {
        "/v1/chat/completions": {
            "messages": ASK, "tools": [{"type": "function", "function": function}], "tool_choice": choice,
            "max_tokens": 4,
        },
        "/v1/messages": {
            "messages": ASK, "tools": [{"name": "f", "input_schema": schema, **said}], "tool_choice": anthropic,
            "max_tokens": 4,
        },
        "/v1/responses": {
            "input": ASK, "tools": [{"type": "function", **function}], "tool_choice": choice, "max_output_tokens": 4,
        },
    }  # fmt: skip


def formats(schema: Any, strict: bool | None) -> dict[str, dict[str, Any]]:
    said = {} if strict is None else {"strict": strict}
    return {
        "/v1/chat/completions": {
            "messages": ASK, "max_tokens": 4,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **said}},
        },
        "/v1/responses": {
            "input": ASK, "max_output_tokens": 4,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": schema, **said}},
        },
    }  # fmt: skip


APIS = list(bodies({}, None))


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_tool_whose_schema_refers_to_itself_is_taken(
    client: Client, path: str, choice: str, stream: bool
) -> None:
    body = bodies(TREE, None, choice)[path] | {"model": "demo", "stream": stream, "swarm": {"strategy": "single"}}
    assert (await client.post(path, body)).status == 200


async def test_such_a_tool_is_shown_and_counted(client: Client) -> None:
    offered = [{"type": "function", "function": {"name": "f", "parameters": TREE}}]
    shown = await client.post("/apply-template", {"model": "demo", "messages": ASK, "tools": offered})
    assert shown.status == 200
    counted = {"model": "demo", "messages": ASK, "tools": [{"name": "f", "input_schema": TREE}]}
    assert (await client.post("/v1/messages/count_tokens", counted)).status == 200


HINTS: Any = record(
    a={"type": "number", "minimum": 0, "multipleOf": 0.5, "default": 1},
    b={"type": "string", "format": "duration", "pattern": r"^(?!x)\w+$"},
    c={"type": "array", "items": {"type": "string"}, "uniqueItems": True, "contains": {"const": "x"}},
)


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("strict", [None, False])
async def test_hints_that_no_grammar_keeps_are_taken(client: Client, path: str, strict: bool | None) -> None:
    body = bodies(HINTS, strict)[path] | {"model": "demo", "swarm": {"strategy": "single"}}
    assert (await client.post(path, body)).status == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", ["tool", "format"])
async def test_a_strict_schema_is_refused_for_what_no_grammar_keeps(client: Client, form: str, stream: bool) -> None:
    price = record(price={"type": "number", "exclusiveMinimum": 0})
    for path, body in (bodies if form == "tool" else formats)(price, True).items():
        reply = await client.post(path, body | {"model": "demo", "stream": stream})
        message = json.loads(reply.text)["error"]["message"]
        assert (reply.status, "properties.price.exclusiveMinimum" in message) == (400, True), path
