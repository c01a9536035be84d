"""The rules of streams on every way an answer can take: here, by a vote, through a peer, by a vote of peers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from swarm.generation import Delta, ToolCallDelta
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import PROMPT_TOKENS, ScriptedEngine, Step, ending
from tests.gateway.stream_rules import Heard, heard

WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    # whether a peer's model answers, and what the request asks of the swarm
    "here": (False, {"swarm": {"strategy": "single"}}),
    "vote": (False, {"swarm": {"votes": 3}}),
    "majority": (False, {"swarm": {"votes": 3, "strategy": "majority"}}),
    "leader": (False, {"swarm": {"votes": 3, "stream": "leader"}}),
    "buffer": (False, {"swarm": {"votes": 3, "stream": "buffer"}}),
    "reasoning": (False, {"swarm": {"votes": 3, "stream": "reasoning"}}),
    "peer": (True, {"swarm": {"strategy": "single"}}),
    "vote of peers": (True, {"swarm": {"votes": 3}}),
    "leading peer": (True, {"swarm": {"votes": 3, "stream": "leader"}}),
    "buffering peers": (True, {"swarm": {"votes": 3, "stream": "buffer"}}),
    "reasoning peer": (True, {"swarm": {"votes": 3, "stream": "reasoning"}}),
    "choices": (False, {"n": 3}),
    "choices of a peer": (True, {"n": 3}),
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("f", "g")]
PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'


def calls(*deltas: tuple[int, str | None, str | None, str]) -> Delta:
    return Delta(tool_calls=tuple(ToolCallDelta(*delta) for delta in deltas))


def one_by_one(index: int, name: str, arguments: str, call_id: str | None) -> list[Step]:
    """A call in three deltas."""
    half = len(arguments) // 2
    pieces = (arguments[:half], arguments[half:])
    return [calls((index, call_id, name, "")), *(calls((index, None, None, piece)) for piece in pieces)]


BOTH = Heard(calls=[("f", PARIS), ("g", ROME)], reason="tool_calls")
ANSWERS: dict[str, tuple[list[Step], Heard]] = {
    "words": (["one ", "two"], Heard("one two", reason="stop")),
    "cut short": (["one ", ending("length")], Heard("one ", reason="length")),
    "nothing": ([], Heard(reason="stop")),
    "thoughts": ([Delta(reasoning="hm "), Delta(reasoning="m"), "yes"], Heard("yes", "hm m", reason="stop")),
    "a call": (
        [*one_by_one(0, "f", PARIS, "a"), ending("tool_calls")],
        Heard(calls=[("f", PARIS)], reason="tool_calls"),
    ),
    "words and a call": (
        ["I will look. ", *one_by_one(0, "f", PARIS, "a"), ending("tool_calls")],
        Heard("I will look. ", calls=[("f", PARIS)], reason="tool_calls"),
    ),
    "two calls": ([*one_by_one(0, "f", PARIS, "a"), *one_by_one(1, "g", ROME, "b"), ending("tool_calls")], BOTH),
    "two calls in turn": (
        [
            calls((0, "a", "f", ""), (1, "b", "g", "")),
            calls((0, None, None, PARIS[:5])),
            calls((1, None, None, ROME[:5])),
            calls((0, None, None, PARIS[5:]), (1, None, None, ROME[5:])),
            ending("tool_calls"),
        ],
        BOTH,
    ),
    "the same call twice": (
        [*one_by_one(0, "f", PARIS, "a"), *one_by_one(1, "f", PARIS, "b"), ending("tool_calls")],
        Heard(calls=[("f", PARIS), ("f", PARIS)], reason="tool_calls"),
    ),
    "calls at indices with gaps": ([*one_by_one(2, "f", PARIS, "a"), *one_by_one(9, "g", ROME, "b")], BOTH),
    "calls without ids": ([*one_by_one(0, "f", PARIS, None), *one_by_one(1, "g", ROME, "")], BOTH),
    "calls with one id": ([*one_by_one(0, "f", PARIS, "a"), *one_by_one(1, "g", ROME, "a")], BOTH),
    "calls opened again and again": (
        [calls((0, "a", "f", PARIS[:5])), calls((0, "a", "f", PARIS[5:])), calls((1, "b", "g", ROME))],
        BOTH,
    ),
    "the reason of a call, and none": (["no call", ending("tool_calls")], Heard("no call", reason="stop")),
}


@asynccontextmanager
async def asking(steps: list[Step], through_a_peer: bool) -> AsyncGenerator[Client]:
    engine = ScriptedEngine(lambda _, __: steps)
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(RunningNode("study", ready(engine)))
        if through_a_peer:
            hall = RunningNode("hall", options=NodeOptions(peers=[node.address]))
            node = await stack.enter_async_context(hall)
        yield await stack.enter_async_context(connect(node.url))


@pytest.mark.parametrize("usage_asked", [False, True], ids=["", "usage"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("way", WAYS)
async def test_every_stream_keeps_the_rules(way: str, answer: str, usage_asked: bool) -> None:
    through_a_peer, fields = WAYS[way]
    steps, expected = ANSWERS[answer]
    if usage_asked:
        fields = {**fields, "stream_options": {"include_usage": True}}
    if expected.calls:
        fields = {**fields, "tools": TOOLS}
    choices = fields.get("n", 1)
    async with asking(steps, through_a_peer) as client:
        reply = await client.chat(stream=True, **fields)
        tokens = sum(isinstance(step, str | Delta) for step in steps)
        usage = (PROMPT_TOKENS, choices * tokens) if usage_asked else None
        assert heard(reply, choices, usage) == [expected] * choices
        if usage_asked:
            asked = {name: value for name, value in fields.get("swarm", {}).items() if name != "stream"}
            whole = (await client.chat(**{**fields, "swarm": asked})).json["usage"]
            assert reply.chunks[-1]["usage"] == whole, "a stream costs what a whole answer does"
