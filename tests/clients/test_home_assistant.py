"""What Home Assistant's Ollama integration asks of a node, call by call, through the package that it uses.

The program itself needs a newer Python than these tests. Its calls are those of `homeassistant/components/ollama/`
(config_flow.py, coordinator.py, entity.py) at 0d0db908 of October 2026: every conversation streams, keeps its
model for ever, wants a context of 8,192 tokens, and brings results of tools without the name or the id of their calls.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import ollama
import pytest
import pytest_asyncio

from swarm.generation import GenerationRequest
from tests.doubles.played_engine import Call, Conversation, Part, Say, calls
from tests.doubles.played_node import KEY, UNKNOWN_MODEL, PlayedNode, played_node

ASSIST = [
    {"role": "system", "content": "You are a voice assistant for Home Assistant."},
    {"role": "user", "content": "Turn on the light and close the blinds."},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": words,
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": []},
        },
    }
    for name, words in (("HassTurnOn", "Turns on a device."), ("HassCloseCover", "Closes a cover."))
]
TASK = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "eggs": {"type": "integer"}},
    "required": ["name", "eggs"],
}


def assistant(conversation: Conversation) -> Say:
    if conversation.answer_schema:
        return Say('{"name": "cake", "eggs": 3}')
    if conversation.results:
        return Say(" and ".join(conversation.results))
    return calls(Call("HassTurnOn", {"name": "light"}), Call("HassCloseCover", {"name": "blinds"}))


def play(_: object) -> Part:
    return assistant


@pytest.fixture(scope="module")
def node() -> Any:
    with played_node(play) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: PlayedNode) -> AsyncIterator[Any]:
    made: Any = ollama.AsyncClient(host=node.url, headers={"Authorization": f"Bearer {KEY}"}, verify=False)
    yield made
    await made._client.aclose()


async def said(client: Any, messages: list[Any], **fields: Any) -> tuple[str, list[Any]]:
    """What the integration makes of a conversation's next turn: its words, and the calls in them."""
    words, called = "", []
    async for part in await client.chat(
        model="swarm", messages=messages, stream=True, keep_alive=-1, options={"num_ctx": 8192}, **fields
    ):
        message = part["message"]
        words += message.get("content") or ""
        called += message.get("tool_calls") or []
    return words, called


async def test_it_connects_and_offers_what_there_is(node: PlayedNode, client: Any) -> None:
    assert "swarm" in {model["model"] for model in (await client.list()).get("models", [])}
    loaded = await client.ps()
    assert "played" in sorted(model.model for model in loaded.models if model.model)
    assert sum(model.size_vram or 0 for model in loaded.models) == 0
    stranger: Any = ollama.AsyncClient(host=node.url, verify=False)
    with pytest.raises(ollama.ResponseError) as refused:
        await stranger.list()
    assert refused.value.status_code in (401, 403)  # by which it asks for a key
    await stranger._client.aclose()


async def test_devices_are_switched_and_both_results_find_their_calls(node: PlayedNode, client: Any) -> None:
    _, called = await said(client, ASSIST, tools=TOOLS, think=False, format=None)
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in called] == [
        ("HassTurnOn", {"name": "light"}), ("HassCloseCover", {"name": "blinds"}),
    ]  # fmt: skip
    functions = [call["function"] for call in called]
    turn = ollama.Message(
        role="assistant", content="", tool_calls=[ollama.Message.ToolCall(function=each) for each in functions]
    )
    results = [
        ollama.Message(role="tool", content=json.dumps({"data": words, "error": None})) for words in ("on", "closed")
    ]
    words, more = await said(client, [*ASSIST, turn, *results], tools=TOOLS, think=False, format=None)
    assert not more
    assert words.index("on") < words.index("closed")
    request: GenerationRequest = node.asked[-1]
    made = [message for message in request.messages or () if message.get("tool_calls")]
    ids = [call["id"] for message in made for call in message["tool_calls"]]  # type: ignore[union-attr]
    assert [message.get("tool_call_id") for message in (request.messages or ())[-2:]] == ids
    assert len(set(ids)) == 2


async def test_a_task_is_answered_as_data(client: Any) -> None:
    messages = [{"role": "user", "content": "How many eggs are in the cake?"}]
    words, _ = await said(client, messages, tools=None, think=None, format=TASK)
    assert json.loads(words) == {"name": "cake", "eggs": 3}


async def test_it_can_tell_a_model_that_is_gone_from_a_node_that_is(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as refused:
        await client.chat(model=UNKNOWN_MODEL, messages=ASSIST, stream=False, keep_alive="60s")
    assert refused.value.status_code == 404
