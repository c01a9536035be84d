"""The bytes that clients get: every object parses, and says what it should say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.gateway.answers.answer_form import CallOpening, honest_reason, message_object, with_unique_ids
from swarm.gateway.http.bodies import compact
from swarm.gateway.openai.bodies import Message, as_object
from swarm.gateway.openai.shapes import CompletionShape, add_usage, text_logprobs
from swarm.generation import Candidate, Delta, FinishReason, ToolCall, ToolCallDelta, Usage

any_text = st.text(st.characters(), max_size=20)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
)


def parsed(chunk: str) -> Any:
    assert chunk.startswith("data: ")
    assert chunk.endswith("\n\n")
    assert "\n" not in chunk[:-2]
    return json.loads(chunk[6:].encode())


def chunk(shape: CompletionShape, choice: str, extension: Any = None) -> Any:
    return parsed(f"{shape.head()}{choice}{shape.tail(extension)}")


@given(any_json)
def test_everything_is_written_as_valid_json_and_utf8(value: Any) -> None:
    text = compact(value)
    again = json.loads(text.encode(), parse_constant=lambda name: pytest.fail(name))
    if not has_odd_numbers(value):
        assert again == json.loads(json.dumps(value))


def has_odd_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_odd_numbers, value.values()))
    if isinstance(value, list):
        return any(map(has_odd_numbers, value))
    return isinstance(value, float) and not math.isfinite(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, "é", "\U0001f600"]}, '{"a":[1,"é","\U0001f600"]}'),
        ("\ud800é", '"\\ud800\\u00e9"'),
        ([math.nan, math.inf, {"a": (-math.inf, 1.5)}], '[null,null,{"a":[null,1.5]}]'),
        ("\u2028\0", '"\u2028\\u0000"'),
    ],
)
def test_json_is_short_and_never_invalid(value: Any, text: str) -> None:
    assert compact(value) == text


@given(model=any_text, text=any_text, usage=st.booleans(), kind=st.sampled_from(["chat", "text"]))
def test_a_delta_arrives_as_it_was(model: str, text: str, usage: bool, kind: Any) -> None:
    shape = CompletionShape(kind, model, include_usage=usage)
    made = chunk(shape, shape.delta(Delta(2, text)))
    (choice,) = made["choices"]
    assert choice["index"] == 2
    assert choice["finish_reason"] is None
    assert (choice["delta"].get("content", "") if kind == "chat" else choice["text"]) == text
    assert made["model"] == model
    assert made["object"] == ("chat.completion.chunk" if kind == "chat" else "text_completion")
    assert made["id"].startswith("chatcmpl-" if kind == "chat" else "cmpl-")
    assert made.get("usage", "none") == (None if usage else "none")


def test_a_delta_has_only_what_the_step_added() -> None:
    shape = CompletionShape("chat", "m")
    assert chunk(shape, shape.delta(Delta(0, "x")))["choices"][0]["delta"] == {"content": "x"}
    assert chunk(shape, shape.delta(Delta(0, reasoning="x")))["choices"][0]["delta"] == {"reasoning_content": "x"}
    calls = (ToolCallDelta(0, "c", "f", '{"'), ToolCallDelta(0, None, None, "é"))
    assert chunk(shape, shape.delta(Delta(0, tool_calls=calls)))["choices"][0]["delta"] == {
        "tool_calls": [
            {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"'}},
            {"index": 0, "function": {"arguments": "é"}},
        ]
    }
    both = chunk(shape, shape.delta(Delta(0, "x", logprobs={"content": []})))["choices"][0]
    assert both["logprobs"] == {"content": []}


def test_the_last_chunks_carry_the_account_and_the_usage() -> None:
    shape = CompletionShape("chat", "m", include_usage=True)
    last = chunk(shape, shape.finish(0, "stop"), {"votes": 3})
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert (last["swarm"], last["usage"]) == ({"votes": 3}, None)
    usage = parsed(shape.usage_chunk(Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=2)))
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_the_role_opens_a_chat_and_the_echo_a_text() -> None:
    chat, text, echo = (
        CompletionShape("chat", "m"),
        CompletionShape("text", "m"),
        CompletionShape("text", "m", echo="é"),
    )
    assert json.loads(chat.opening(1, calls=False) or "")["delta"] == {"role": "assistant", "content": ""}
    assert json.loads(chat.opening(1, calls=True) or "")["delta"] == {"role": "assistant", "content": None}
    assert text.opening(0, calls=False) is None
    assert json.loads(echo.opening(0, calls=False) or "")["text"] == "é"


def test_usage_of_choices_adds_up_but_for_the_prompt() -> None:
    one = Usage(prompt_tokens=5, completion_tokens=2, cached_tokens=1)
    assert add_usage([one, one, one]) == Usage(prompt_tokens=5, completion_tokens=6, cached_tokens=1)
    assert add_usage([]) == Usage()


def test_content_is_null_only_beside_calls() -> None:
    call = ToolCall(id="c", name="f", arguments="{}")
    assert message_object(Candidate(voter="v"))["content"] == ""
    assert message_object(Candidate(voter="v", tool_calls=(call,)))["content"] is None
    assert message_object(Candidate(voter="v", text="x", tool_calls=(call,)))["content"] == "x"


@given(st.lists(st.builds(ToolCall, id=st.sampled_from(["", "a", "b"]), name=st.just("f"), arguments=st.just(""))))
def test_every_call_has_an_id_of_its_own(calls: list[ToolCall]) -> None:
    made = with_unique_ids(calls)
    assert len({call.id for call in made} - {""}) == len(calls)
    assert [call.name for call in made] == [call.name for call in calls]
    unique = [call.id for call in calls]
    for index, call in enumerate(calls):
        if call.id and call.id not in unique[:index]:
            assert made[index].id == call.id, "what was right is kept"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("x" * 32, "call_" + "x" * 32),  # as llama.cpp draws them
        ("call_abc", "call_abc"),
        ("functions.get_weather:0", "functions.get_weather:0"),  # the model's own: its template wants to see it again
        ("abcDEF123", "abcDEF123"),
    ],
)
def test_an_id_has_openais_beginning_where_it_is_llama_cpps(given: str, shown: str) -> None:
    assert [call.id for call in with_unique_ids([ToolCall(id=given, name="f", arguments="")])] == [shown]
    assert CallOpening().opened(ToolCallDelta(3, given, "f", "")).id == shown


any_deltas = st.lists(
    st.builds(
        ToolCallDelta,
        st.integers(0, 4),
        st.none() | st.sampled_from(["", "a", "b"]),
        st.none() | st.sampled_from(["f", "g"]),
        st.sampled_from(["", "{", "}"]),
    ),
    max_size=12,
)


@given(any_deltas)
def test_calls_open_once_in_dense_order_and_lose_nothing(deltas: list[ToolCallDelta]) -> None:
    opening = CallOpening()
    made = [opening.opened(delta) for delta in deltas]
    opened = [delta for delta in made if delta.id is not None]
    assert [delta.index for delta in opened] == list(range(len({delta.index for delta in deltas})))
    assert len({delta.id for delta in opened} - {""}) == len(opened)
    assert all(delta.name is None for delta in made if delta.id is None)
    assert [delta.arguments for delta in made] == [delta.arguments for delta in deltas]
    assert opening.any == bool(deltas)


@pytest.mark.parametrize(
    ("reason", "called", "told"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("length", True, "length"),
        ("length", False, "length"),
        ("content_filter", True, "content_filter"),
    ],
)
def test_the_reason_is_true_to_the_calls(reason: FinishReason, called: bool, told: str) -> None:
    assert honest_reason(reason, called) == told


def test_log_probabilities_of_text_are_parallel_lists_with_offsets() -> None:
    content = [
        {"token": "ab", "logprob": -0.5, "top_logprobs": [{"token": "ab", "logprob": -0.5}, {"token": "x"}]},
        {"token": "c", "logprob": -1},
    ]
    assert text_logprobs({"content": content}, offset=3) == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -1],
        "top_logprobs": [{"ab": -0.5, "x": None}, {}],
        "text_offset": [3, 5],
    }


@given(any_json, any_json)
def test_log_probabilities_of_any_other_form_do_no_harm(whole: Any, entry: Any) -> None:
    compact(text_logprobs(whole, 0))
    compact(text_logprobs({"content": [entry, {"token": entry, "top_logprobs": entry}]}, 0))


@given(any_text | any_json.map(json.dumps))
def test_arguments_in_the_history_are_always_an_object(arguments: str) -> None:
    made = json.loads(as_object(arguments))
    assert isinstance(made, dict)
    if not arguments.strip():
        assert made == {}, "no text is no arguments"
    elif made != {"arguments": arguments}:
        assert as_object(arguments) == arguments, "an object is passed on to the letter"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_in_the_history_are_taken_under_both_names(name: str) -> None:
    turn = Message.model_validate({"role": "assistant", "content": "yes", name: "hm"})
    assert turn.to_engine() == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
