"""What every streamed chat completion keeps to, however it was made: a judge of chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.doubles.clients import Reply

FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter"}


@dataclass
class Heard:
    """One choice as a client puts it together from its deltas."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    reason: str | None = None


def heard(reply: Reply, choices: int, usage: tuple[int, int] | None) -> list[Heard]:
    """The choices of a stream that keeps every rule; fails on one that does not.

    `usage` are the tokens of the prompt and of all choices, where the client asked for them.
    """
    assert reply.status == 200, reply.text
    assert reply.done
    chunks = reply.chunks
    assert len({(c["id"], c["created"], c["object"], c["model"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    if usage is not None:
        *chunks, last = chunks
        assert last["choices"] == []
        assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == usage
        assert last["usage"]["total_tokens"] == sum(usage)
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert not any(chunk.get("usage") for chunk in chunks)
    assert all(chunk["choices"] for chunk in chunks), "no chunk is empty but the one with the usage"
    parts = [part for chunk in chunks for part in chunk["choices"]]
    assert {part["index"] for part in parts} == set(range(choices))
    return [_choice([part for part in parts if part["index"] == index]) for index in range(choices)]


def _choice(parts: list[dict[str, Any]]) -> Heard:
    opening = parts[0]["delta"]
    assert opening["role"] == "assistant"
    assert not opening.get("content")
    assert not any("role" in part["delta"] for part in parts[1:]), "the role comes once"
    *reasons, reason = [part["finish_reason"] for part in parts]
    assert reasons == [None] * len(reasons)
    assert reason in FINISH_REASONS
    made = Heard(reason=reason)
    deltas = [part["delta"] for part in parts]
    made.text = "".join(delta.get("content") or "" for delta in deltas)
    made.reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    made.calls = _calls([call for delta in deltas for call in delta.get("tool_calls", ())])
    assert (reason == "tool_calls") == bool(made.calls)
    if made.calls and not (made.text or made.reasoning):
        assert opening["content"] is None, "a call has no text, not an empty one"
    return made


def _calls(deltas: list[dict[str, Any]]) -> list[tuple[str, str]]:
    ids: list[str] = []
    names: list[str] = []
    arguments: list[str] = []
    for delta in deltas:
        if delta["index"] == len(ids):
            assert set(delta) == {"index", "id", "type", "function"}, "a call's first delta has all of it"
            assert delta["type"] == "function"
            ids.append(delta["id"])
            names.append(delta["function"]["name"])
            arguments.append(delta["function"]["arguments"])
        else:
            assert 0 <= delta["index"] < len(ids), "indices are dense and in order"
            assert set(delta) == {"index", "function"}
            assert set(delta["function"]) == {"arguments"}
            arguments[delta["index"]] += delta["function"]["arguments"]
    assert all(isinstance(given, str) and given.strip() for given in ids)
    assert len(set(ids)) == len(ids)
    assert all(names)
    return list(zip(names, arguments, strict=True))
