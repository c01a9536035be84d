"""Events of the Responses API: for any answer they are the package's own, in order, and add up to the response."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from swarm.errors import BadRequest, ContextExceeded, PeerFailed, SwarmError
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.gateway.responses.events import ResponseEvents
from swarm.gateway.responses.response_object import ResponseObject, reasoning_tokens
from swarm.generation import Candidate, Delta, FinishReason, ToolCall, ToolCallDelta, Usage
from tests.doubles.response_events import built, ended, kinds, read_events

USAGE = Usage(prompt_tokens=7, completion_tokens=10, cached_tokens=3)
SAID = ["output_item.added", "content_part.added", "output_text.delta"]
SAID_DONE = ["output_text.done", "content_part.done", "output_item.done"]
CALLED = ["output_item.added", "function_call_arguments.delta"]
CALLED_DONE = ["function_call_arguments.done", "output_item.done"]


def body_of(**fields: Any) -> ResponsesBody:
    return ResponsesBody.model_validate({"model": "demo", "input": "hello", **fields})


def stream(*deltas: Delta, reason: FinishReason = "stop", **fields: Any) -> list[dict[str, Any]]:
    events = ResponseEvents(ResponseObject(body_of(**fields)))
    written = "".join(map(events.delta, deltas)) + events.finish(reason) + events.end(reason, USAGE, {"votes": 1})
    return read_events(written)


def call(index: int, name: str | None, arguments: str) -> Delta:
    return Delta(tool_calls=(ToolCallDelta(index, f"call_{index}" if name else None, name, arguments),))


def test_words() -> None:
    events = stream(Delta(text="Hel"), Delta(text="lo"))
    assert kinds(events) == ["created", "in_progress", *SAID, *SAID_DONE, "completed"]
    response = ended(events)
    assert response.status == "completed"
    assert response.output_text == "Hello"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 10, 17)
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert events[-1]["response"]["swarm"] == {"votes": 1}


def test_an_answer_without_words_is_an_empty_message() -> None:
    response = ended(stream())
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == ""


def test_thoughts_come_first_and_as_what_was_asked_for() -> None:
    deltas = [Delta(reasoning="hm "), Delta(reasoning="so"), Delta(text="x")]
    events = stream(*deltas)
    thought = ["output_item.added", "content_part.added", "reasoning_text.delta"]
    thought += ["reasoning_text.done", "content_part.done", "output_item.done"]
    assert kinds(events) == ["created", "in_progress", *thought, *SAID, *SAID_DONE, "completed"]
    assert ended(events).output[0].to_dict()["content"] == [{"type": "reasoning_text", "text": "hm so"}]

    events = stream(*deltas, reasoning={"effort": "low", "summary": "auto"})
    thought = ["output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"]
    thought += ["reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"]
    assert kinds(events) == ["created", "in_progress", *thought, *SAID, *SAID_DONE, "completed"]
    assert ended(events).output[0].to_dict()["summary"] == [{"type": "summary_text", "text": "hm so"}]


def test_calls_after_words() -> None:
    events = stream(Delta(text="Let me look."), call(0, "f", '{"a":'), call(0, None, "1}"), reason="tool_calls")
    assert kinds(events) == ["created", "in_progress", *SAID, *SAID_DONE, *CALLED, *CALLED_DONE, "completed"]
    said, called = ended(events).output
    assert said.type == "message"
    assert called.type == "function_call"
    assert (called.call_id, called.name, called.arguments, called.status) == ("call_0", "f", '{"a":1}', "completed")
    assert called.id is not None
    assert called.id.startswith("fc_")


def test_parallel_calls_may_grow_in_turns() -> None:
    deltas = [call(0, "f", '{"a":'), call(1, "g", "{"), call(0, None, "1}"), call(1, None, "}")]
    f, g = built(stream(*deltas, reason="tool_calls"))
    assert (f["name"], f["arguments"]) == ("f", '{"a":1}')
    assert (g["name"], g["arguments"]) == ("g", "{}")
    assert f["call_id"] != g["call_id"]


def test_a_call_without_arguments_or_with_a_repeated_id() -> None:
    again = ToolCallDelta(1, "call_0", "g", "")
    f, g = built(stream(call(0, "f", "{}"), Delta(tool_calls=(again,)), reason="tool_calls"))
    assert f["call_id"] != g["call_id"]
    assert g["arguments"] == ""


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")], ids=str
)
def test_an_answer_cut_short_is_incomplete(reason: FinishReason, why: str) -> None:
    events = stream(Delta(reasoning="hm"), Delta(text="half an ans"), reason=reason)
    assert events[-1]["type"] == "response.incomplete"
    response = ended(events)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == why
    assert response.output[-1].to_dict()["status"] == "incomplete"


def test_log_probabilities_stream_and_add_up() -> None:
    entry = {"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}
    deltas = [Delta(text="a", logprobs={"content": [entry]}), Delta(text="a", logprobs={"content": [entry]})]
    events = stream(*deltas)
    assert [event["logprobs"] for event in events if event["type"].endswith("text.delta")] == [[entry], [entry]]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [entry, entry]


def test_log_probabilities_of_a_calls_tokens_are_no_message() -> None:
    entry = {"token": "{", "bytes": [123], "logprob": -0.5, "top_logprobs": []}
    events = stream(replace(call(0, "f", "{}"), logprobs={"content": [entry]}), reason="tool_calls")
    assert [item.type for item in ended(events).output] == ["function_call"]


pieces = st.lists(
    st.builds(lambda text: Delta(text=text), st.text(st.characters(), min_size=1, max_size=5))
    | st.builds(lambda text: Delta(reasoning=text), st.text(min_size=1, max_size=5))
    | st.builds(lambda i, text: call(i, "f", text), st.integers(0, 2), st.text(max_size=5)),
    max_size=8,
)


@settings(max_examples=20, deadline=None)  # the package's union of all events takes its time
@given(pieces, st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), st.booleans())
def test_any_answer_adds_up(deltas: list[Delta], reason: FinishReason, summed: bool) -> None:
    reasoning = {"summary": "auto"} if summed else None
    response = ended(stream(*deltas, reason=reason, reasoning=reasoning))
    assert response.output
    assert response.output_text == "".join(delta.text for delta in deltas).encode("utf-16", "surrogatepass").decode(
        "utf-16", "surrogatepass"
    )


@settings(deadline=None)
@given(st.text(max_size=5), st.text(max_size=5), st.lists(st.text(max_size=5), max_size=2))
def test_any_whole_answer_is_a_response(text: str, thought: str, calls: list[str]) -> None:
    made = tuple(ToolCall(id="", name="f", arguments=arguments) for arguments in calls)
    candidate = Candidate(voter="Zeus@here", text=text, reasoning=thought, tool_calls=made, usage=USAGE)
    response = Response.model_validate(ResponseObject(body_of()).whole(candidate, None))
    assert response.output_text == text
    assert response.output
    assert [item.type for item in response.output].count("function_call") == len(calls)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContextExceeded(2000, 1024), "context_length_exceeded"),
        (BadRequest("bad"), "invalid_prompt"),
        (PeerFailed("study", "it left"), "server_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SwarmError) else str(value),
)
@pytest.mark.parametrize("deltas", [[], [Delta(text="half")]], ids=["before", "amid"])
def test_a_failure_is_told_in_both_forms(error: SwarmError, code: str, deltas: list[Delta]) -> None:
    events = ResponseEvents(ResponseObject(body_of()))
    text = "".join(map(events.delta, deltas)) + events.failed(error).decode()
    failed = text.rindex("event: response.failed")
    told, response = read_events(text[:failed])[-1], text[failed:]
    assert told["type"] == "error"
    assert told["message"] == told["error"]["message"] == str(error)
    assert f'"code":"{code}"' in response
    assert '"status":"failed"' in response
    if code == "server_error":
        read_events(text)


def test_half_a_call_is_never_passed_off_as_one() -> None:
    events = ResponseEvents(ResponseObject(body_of()))
    deltas = [Delta(text="Let me look."), call(0, "f", '{"path": "/'), call(1, "g", "")]
    told = read_events("".join(map(events.delta, deltas)) + events.failed(PeerFailed("study", "it left")).decode())
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["message"]
    assert [event["item"]["type"] for event in told if event["type"] == "response.output_item.done"] == ["message"]


def test_thoughts_are_counted_by_their_share_of_the_text() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x" * 30}]}
    said = {"type": "message", "content": [{"type": "output_text", "text": "y" * 60}]}
    called = {"type": "function_call", "arguments": "z" * 10}
    assert reasoning_tokens(50, [thought, said, called]) == 15
    assert reasoning_tokens(50, [said]) == 0
    assert reasoning_tokens(50, [thought]) == 50
