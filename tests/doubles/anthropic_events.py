"""Anthropic's event streams, read as strictly as the protocol is: by the official package's types, and in order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from anthropic.types import Message, MessageDeltaUsage, RawMessageStreamEvent
from pydantic import TypeAdapter

EVENT = TypeAdapter[RawMessageStreamEvent](RawMessageStreamEvent)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A whole stream: how it began, the blocks as they added up, how it ended, and the pings between."""

    start: Message
    blocks: list[dict[str, Any]]
    stop_reason: str | None
    usage: MessageDeltaUsage
    swarm: dict[str, Any] | None
    pings: int


def parsed(text: str) -> list[tuple[str, Any]]:
    """Name and data of each event."""
    events: list[tuple[str, Any]] = []
    for event in text.split("\n\n"):
        if event:
            name, data = event.split("\n")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def streamed(text: str) -> Streamed:
    """Read a stream that came to its end; fails where it breaks a rule of the protocol."""
    events = parsed(text)
    assert all(name == data["type"] for name, data in events)
    said = [(data, EVENT.validate_python(data)) for name, data in events if name != "ping"]
    start, *middle, (last_data, last), (_, stop) = said
    assert start[1].type == "message_start"
    assert (last.type, stop.type) == ("message_delta", "message_stop")
    assert last.type == "message_delta"
    assert start[1].message.stop_reason is None
    assert start[1].message.content == []
    blocks = added_up([data for data, _ in middle])
    return Streamed(
        start[1].message,
        blocks,
        last.delta.stop_reason,
        last.usage,
        last_data.get("swarm"),
        pings=len(events) - len(said),
    )


def added_up(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks in order of their indices. Every one opens once, grows while it is open, and ends."""
    blocks: list[dict[str, Any]] = []
    growing: set[int] = set()
    for event in events:
        index = event["index"]
        if event["type"] == "content_block_start":
            assert index == len(blocks), "indices are dense"
            growing.add(index)
            blocks.append({**event["content_block"], "json": ""})
            continue
        assert index in growing, "only an open block grows or ends"
        if event["type"] == "content_block_stop":
            growing.discard(index)
            continue
        match event["delta"]["type"]:
            case "text_delta":
                blocks[index]["text"] += event["delta"]["text"]
            case "thinking_delta":
                blocks[index]["thinking"] += event["delta"]["thinking"]
            case "input_json_delta":
                blocks[index]["json"] += event["delta"]["partial_json"]
    assert not growing, "every block ends"
    return blocks
