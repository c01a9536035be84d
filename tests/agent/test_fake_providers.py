"""The fake providers say what the official SDKs' own types allow, and refuse what the clouds refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.agent.fake_providers.chat import ChatWire, OpenRouterWire
from tests.agent.fake_providers.google import GoogleWire
from tests.agent.fake_providers.messages import MessagesWire
from tests.agent.fake_providers.replies import Asked, Called, Refusal, Trouble, Turn, Wire
from tests.agent.fake_providers.responses import ResponsesWire

TURN = Turn(
    text=("It is ", "42."),
    thinking=("Six ", "times seven."),
    calls=(Called("read", '{"path": "a.txt"}', "call_1"), Called("grep", '{"pattern": "x"}', "call_2")),
)
WIRES: dict[str, Wire] = {
    "chat": ChatWire(thinking_field="reasoning_content"),
    "responses": ResponsesWire(),
    "anthropic": MessagesWire(),
    "google": GoogleWire(),
    "vertex": GoogleWire(vertex=True),
}
WHOLE: dict[str, TypeAdapter[Any]] = {
    "chat": TypeAdapter(ChatCompletion),
    "responses": TypeAdapter(Response),
    "anthropic": TypeAdapter(Message),
    "google": TypeAdapter(GenerateContentResponse),
    "vertex": TypeAdapter(GenerateContentResponse),
}
EVENT: dict[str, TypeAdapter[Any]] = {
    **WHOLE,
    "chat": TypeAdapter(ChatCompletionChunk),
    "responses": TypeAdapter(ResponseStreamEvent),
    "anthropic": TypeAdapter(RawMessageStreamEvent),
}
ASKED = {
    name: Asked("model-a", True, {"stream_options": {"include_usage": True}} if name == "chat" else {})
    for name in WIRES
}


def data_of(events: list[bytes]) -> list[str]:
    """The data of server-sent events, in order."""
    lines = b"".join(events).decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("turn", [TURN, Turn(text=("Hi",)), Turn(text=("Hi",), cut=True)], ids=["all", "text", "cut"])
def test_answers_are_what_the_official_sdk_has_types_for(name: str, turn: Turn) -> None:
    whole = WIRES[name].whole(turn, ASKED[name])
    validated = WHOLE[name].validate_json(json.dumps(whole))
    assert validated is not None


@pytest.mark.parametrize("name", WIRES)
def test_events_are_what_the_official_sdk_has_types_for(name: str) -> None:
    events = data_of(WIRES[name].stream(TURN, ASKED[name]))
    if name == "chat":
        assert events.pop() == "[DONE]"
    for event in events:
        if name == "anthropic" and json.loads(event) == {"type": "ping"}:
            continue  # documented, and no type of the SDK's
        EVENT[name].validate_json(event)


def test_models_are_listed_as_each_has_it() -> None:
    for listed in WIRES["chat"].listing(("a", "b"))["data"]:
        Model.model_validate(listed)
    for listed in WIRES["anthropic"].listing(("a", "b"))["data"]:
        ModelInfo.model_validate(listed)
    assert [model["name"] for model in WIRES["google"].listing(("a",))["models"]] == ["models/a"]


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("trouble", Trouble)
def test_every_error_has_the_status_of_its_kind(name: str, trouble: Trouble) -> None:
    status, _, body = WIRES[name].error(Refusal(trouble), ASKED[name], "sk-x")
    assert 400 <= status < 600
    assert body["error"]["message"]


def test_chat_refuses_histories_as_openai_does() -> None:
    wire = ChatWire()
    call = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
    assert wire.fault({"messages": [user, assistant, result]}) is None
    assert "did not have response messages: call_1" in str(wire.fault({"messages": [user, assistant, user]}))
    assert "did not have response messages: call_1" in str(wire.fault({"messages": [user, assistant]}))
    assert "must be a response to a preceeding message" in str(wire.fault({"messages": [user, result]}))
    long = {**assistant, "tool_calls": [{**call, "id": "c" * 41}]}
    assert "maximum length 40" in str(wire.fault({"messages": [user, long]}))


def test_messages_refuse_histories_as_anthropic_does() -> None:
    wire = MessagesWire()
    user = {"role": "user", "content": "Hi"}

    def with_call(ident: str, result: str | None) -> dict[str, Any]:
        use = {"type": "tool_use", "id": ident, "name": "read", "input": {}}
        results = [] if result is None else [{"type": "tool_result", "tool_use_id": result, "content": "x"}]
        after = {"role": "user", "content": [*results, {"type": "text", "text": "go on"}]}
        return {"max_tokens": 9, "messages": [user, {"role": "assistant", "content": [use]}, after]}

    assert wire.fault(with_call("call_1", "call_1")) is None
    assert "without `tool_result` blocks" in str(wire.fault(with_call("call_1", None)))
    assert "without `tool_result` blocks" in str(wire.fault(with_call("call_1", "call_2")))
    assert "should match pattern" in str(wire.fault(with_call("call|1", "call|1")))
    assert wire.fault({"messages": [user]}) == "max_tokens: Field required"
    thought = {"type": "thinking", "thinking": "hm", "signature": "another's"}
    body = {"max_tokens": 9, "messages": [user, {"role": "assistant", "content": [thought]}, user]}
    assert "Invalid `signature`" in str(wire.fault(body))


def test_genai_refuses_histories_as_google_does() -> None:
    wire = GoogleWire()
    user = {"role": "user", "parts": [{"text": "Hi"}]}
    call = {"role": "model", "parts": [{"functionCall": {"name": "read", "args": {}}}]}
    result = {"role": "user", "parts": [{"functionResponse": {"name": "read", "response": {}}}]}
    assert wire.fault({"contents": [user, call, result]}) is None
    assert "function response parts" in str(wire.fault({"contents": [user, call, user]}))
    assert "function response parts" in str(wire.fault({"contents": [user, result]}))
    signed = {"role": "model", "parts": [{"text": "x", "thoughtSignature": "Zm9yZWlnbg=="}]}
    assert wire.fault({"contents": [user, signed]}) == "Thought signature is not valid."


def test_responses_refuse_histories_as_openai_does() -> None:
    wire = ResponsesWire()
    call = {"type": "function_call", "call_id": "call_1", "name": "read", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    assert wire.fault({"input": [call, result]}) is None
    assert "No tool output found" in str(wire.fault({"input": [call]}))
    assert "No tool call found" in str(wire.fault({"input": [result]}))
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "another's"}
    assert "could not be verified" in str(wire.fault({"input": [sealed]}))


def test_the_types_would_refuse_what_is_wrong() -> None:
    """What validates the fakes is no rubber stamp."""
    event = json.loads(data_of(WIRES["anthropic"].stream(TURN, ASKED["anthropic"]))[0])
    del event["message"]["usage"]
    with pytest.raises(ValueError, match="usage"):
        EVENT["anthropic"].validate_python(event)


RECORDED: dict[tuple[str, ...], set[str]] = {
    # Fields of live answers of 2026, as recordings in the test suites of open-source clients have them: path, fields.
    ("anthropic", "message_start"): {"type", "message"},
    ("anthropic", "message_start", "message"): {
        "model", "id", "type", "role", "content", "stop_reason", "stop_sequence", "stop_details", "usage",
    },
    ("anthropic", "message_start", "message", "usage"): {
        "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "output_tokens",
        "service_tier", "inference_geo",
    },
    ("anthropic", "content_block_start"): {"type", "index", "content_block"},
    ("anthropic", "content_block_delta"): {"type", "index", "delta"},
    ("anthropic", "content_block_stop"): {"type", "index"},
    ("anthropic", "message_delta", "delta"): {"stop_reason", "stop_sequence", "stop_details"},
    ("anthropic", "message_stop"): {"type"},
    ("responses", "response.created"): {"type", "response", "sequence_number"},
    ("responses", "response.output_item.added"): {"type", "item", "output_index", "sequence_number"},
    ("responses", "response.content_part.added"): {
        "type", "content_index", "item_id", "output_index", "part", "sequence_number",
    },
    ("responses", "response.output_text.delta"): {
        "type", "content_index", "delta", "item_id", "logprobs", "obfuscation", "output_index", "sequence_number",
    },
    ("responses", "response.output_text.done"): {
        "type", "content_index", "item_id", "logprobs", "output_index", "sequence_number", "text",
    },
    ("responses", "response.function_call_arguments.delta"): {
        "type", "delta", "item_id", "obfuscation", "output_index", "sequence_number",
    },
    ("responses", "response.function_call_arguments.done"): {
        "type", "arguments", "item_id", "output_index", "sequence_number",
    },
    ("openrouter", "chat.completion.chunk"): {"id", "provider", "model", "object", "created", "choices"},
}  # fmt: skip


@pytest.mark.parametrize("path", RECORDED, ids=" ".join)
def test_events_have_the_fields_of_recorded_ones(path: tuple[str, ...]) -> None:
    name, kind, *inner = path
    wire = OpenRouterWire() if name == "openrouter" else WIRES[name]
    asked = Asked("model-a", True, {})
    events = [json.loads(event) for event in data_of(wire.stream(TURN, asked)) if event != "[DONE]"]
    found = [event for event in events if kind in (event.get("type"), event.get("object"))]
    assert found
    for event in found:
        for field in inner:
            event = event[field]
        assert event.keys() == RECORDED[path]


def test_streams_of_google_end_their_lines_as_recorded() -> None:
    events = WIRES["google"].stream(TURN, ASKED["google"])
    assert all(event.startswith(b"data: {") and event.endswith(b"}\r\n\r\n") for event in events)
    last = json.loads(events[-1].decode().removeprefix("data: "))
    assert last["candidates"] == [
        {"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0, "finishReason": "STOP"}
    ]
    assert last.keys() == {"candidates", "usageMetadata", "modelVersion", "responseId"}
