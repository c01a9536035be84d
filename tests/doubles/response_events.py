"""The event stream of the Responses API, read strictly: every event must be one that the official package knows."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_KNOWN: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LIFECYCLE = ("response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed")


def read_events(text: str) -> list[dict[str, Any]]:
    """The events of a whole stream, each checked against the package's own types."""
    events: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        _KNOWN.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The events' types without "response.", repeated deltas once."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]


def built(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client puts together from the deltas alone; the ends of items must say the same."""
    items: dict[int, dict[str, Any]] = {}
    texts: dict[int, str] = {}
    for event in events:
        index = event.get("output_index", -1)
        if event["type"] == "response.output_item.added":
            assert index == len(items), "indices are dense"
            items[index], texts[index] = event["item"], ""
        elif event["type"].endswith(".delta"):
            assert event["item_id"] == items[index]["id"]
            texts[index] += event["delta"]
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] == items[index]["id"]
            assert text_in(event["item"]) == texts[index]
            items[index] = event["item"]
    return [items[index] for index in sorted(items)]


def text_in(item: dict[str, Any]) -> str:
    """Everything that was written into one item."""
    parts = [*item.get("summary", ()), *item.get("content", ())]
    return "".join(part["text"] for part in parts) + item.get("arguments", "") + item.get("input", "")


def ended(events: list[dict[str, Any]]) -> Response:
    """The final response, which must agree with what was streamed."""
    last = events[-1]
    assert last["type"] in LIFECYCLE[2:]
    assert last["response"]["output"] == built(events)
    assert {event["response"]["id"] for event in events if "response" in event} == {last["response"]["id"]}
    return Response.model_validate(last["response"])
