"""Conversations that end with an assistant's turn: continued, the same for every API, and never under a grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.engines.llama_cpp.http import engine_body
from swarm.gateway.openai.bodies import FORM_ASKED, ChatCompletionBody
from swarm.generation import GenerationRequest
from tests.doubles.clients import Client, Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = {"role": "user", "content": "What is the capital of France?"}
BEGUN = {"role": "assistant", "content": "The capital of France is"}
END = {"role": "assistant", "content": "<|im_end|>"}
SILENT = {"role": "assistant", "content": ""}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
LIMITS = {"model": "demo", "max_tokens": 12, "temperature": 0, "swarm": {"strategy": "single"}}
JSON: dict[str, Any] = {"response_format": {"type": "json_object"}}
REQUIRED: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}

Turns = list[dict[str, Any]]


def chat(turns: Turns, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {**LIMITS, "messages": turns, **fields}


def generate(turns: Turns, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/federation/v1/generate", chat(turns, **fields)[1]


def candidates(turns: Turns, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/federation/v1/candidates", {"request": chat(turns, **fields)[1], "votes": 1}


def messages(turns: Turns, **fields: Any) -> tuple[str, dict[str, Any]]:
    """In Anthropic's words."""
    body: dict[str, Any] = {**LIMITS, "messages": [_blocks(turn) for turn in turns]}
    if "tools" in fields:
        body["tools"] = [{"name": "f", "input_schema": PARAMETERS}]
        body["tool_choice"] = {"type": "any"}
    if "response_format" in fields:
        body["output_config"] = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    return "/v1/messages", body


def _blocks(turn: dict[str, Any]) -> dict[str, Any]:
    used = [{"type": "tool_use", "id": "c", "name": "f", "input": {}}] if "tool_calls" in turn else turn["content"]
    return {"role": turn["role"], "content": used}


def responses(turns: Turns, **fields: Any) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {**LIMITS, "input": [item for turn in turns for item in _items(turn)]}
    if "tools" in fields:
        body |= {"tools": [{"type": "function", "name": "f", "parameters": PARAMETERS}], "tool_choice": "required"}
    if "response_format" in fields:
        body["text"] = {"format": {"type": "json_object"}}
    return "/v1/responses", body


def _items(turn: dict[str, Any]) -> list[dict[str, Any]]:
    if "tool_calls" in turn:
        return [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]
    return [turn]


def said_by(reply: Reply) -> str:
    """Everything in an answer, which may be a stream of chunks."""
    return reply.said() if reply.chunks else reply.text


EVERY_API = pytest.mark.parametrize("api", [chat, messages, responses, generate, candidates])


@EVERY_API
async def test_the_answer_is_what_follows_the_begun_turn(client: Client, api: Any) -> None:
    reply = await client.post(*api([ASK, BEGUN]))
    assert reply.status == 200
    assert "Paris" in said_by(reply)
    assert "The capital" not in said_by(reply)


EVERY_BEGINNING = pytest.mark.parametrize("begun", [END, BEGUN, {"role": "assistant", "content": '{"a": '}])
EVERY_FORM = pytest.mark.parametrize("form", [JSON, REQUIRED], ids=["json", "required"])


@EVERY_BEGINNING
@EVERY_FORM
async def test_nothing_is_continued_under_a_grammar(
    client: Client, begun: dict[str, Any], form: dict[str, Any]
) -> None:
    """140 bytes ended every node that was asked: llama.cpp feeds the begun turn to the grammar, and aborts."""
    reply = await client.post(*messages([ASK, begun], **form))
    assert reply.status == 400
    assert "end with a user's message" in reply.error["message"]
    assert reply.error.get("param", "messages") == "messages"
    assert (await client.chat("hello", max_tokens=1)).status == 200


@pytest.mark.parametrize("api", [chat, responses, generate, candidates])
@EVERY_BEGINNING
@EVERY_FORM
async def test_in_openais_apis_an_answer_with_a_form_is_a_turn_of_its_own(
    client: Client, api: Any, begun: dict[str, Any], form: dict[str, Any]
) -> None:
    """As LangGraph's agents ask for an object: when they have said all that they know."""
    for turns in ([ASK, begun], [ASK, begun, SILENT]):
        assert (await client.post(*api(turns, **form))).status == 200
    assert (await client.chat("hello", max_tokens=1)).status == 200


async def test_an_object_is_whole_whatever_was_begun(client: Client) -> None:
    begun = {"role": "assistant", "content": '{"a": '}
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    reply = await client.post(*chat([ASK, begun], response_format=form, max_tokens=40))
    assert json.loads(reply.json["choices"][0]["message"]["content"])["a"] in (1, 2)


async def test_the_form_is_asked_for_in_a_users_turn(client: Client) -> None:
    body = {"model": "demo", "messages": [ASK, BEGUN], **JSON}
    reply = await client.post("/apply-template", body)
    turns = f"<|im_start|>user\n{FORM_ASKED}<|im_end|>\n<|im_start|>assistant\n"
    assert reply.json["prompt"].endswith(f"is<|im_end|>\n{turns}")


@EVERY_API
async def test_calls_at_the_end_wait_for_their_results(client: Client, api: Any) -> None:
    reply = await client.post(*api([ASK, CALLED]))
    assert reply.status == 400
    assert "send those as messages of role tool" in reply.error["message"]


@EVERY_API
async def test_a_begun_turn_may_spell_a_control_token(client: Client, api: Any) -> None:
    assert (await client.post(*api([ASK, END]))).status == 200


@EVERY_API
async def test_a_turn_that_says_nothing_is_left_out(client: Client, api: Any) -> None:
    reply = await client.post(*api([ASK, SILENT]))
    assert reply.status == 200
    assert "Paris" in said_by(reply)
    assert (await client.post(*api([ASK, SILENT], **JSON))).status == 200


@EVERY_API
async def test_a_conversation_in_which_nothing_is_said_is_refused(client: Client, api: Any) -> None:
    reply = await client.post(*api([SILENT]))
    assert reply.status == 400
    assert "nothing is said" in reply.error["message"]


@pytest.mark.parametrize(
    ("turns", "end"),
    [
        ([ASK, BEGUN], "<|im_start|>assistant\nThe capital of France is"),
        ([ASK, BEGUN, {"role": "assistant", "content": "b"}], "is<|im_end|>\n<|im_start|>assistant\nb"),
        ([BEGUN], "<|im_start|>assistant\nThe capital of France is"),
        ([ASK, SILENT], "<|im_start|>assistant\n"),
        ([ASK, SILENT, SILENT], "<|im_start|>assistant\n"),
        ([ASK, BEGUN, SILENT], "<|im_start|>assistant\nThe capital of France is"),
        ([ASK, BEGUN, ASK], "<|im_start|>assistant\n"),
        ([ASK, {**SILENT, "reasoning_content": "hm"}], "<|im_start|>assistant\n"),
    ],
)
async def test_what_the_model_sees(client: Client, turns: Turns, end: str) -> None:
    reply = await client.post("/apply-template", {"model": "demo", "messages": turns})
    assert reply.json["prompt"].endswith(end)
    assert (await client.post(*chat(turns))).status == 200


async def test_tools_that_may_be_called_leave_a_turn_to_continue(client: Client) -> None:
    assert (await client.post(*chat([ASK, BEGUN], tools=TOOLS))).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_call_is_nothing_to_continue(client: Client, stream: bool) -> None:
    begun = {"role": "assistant", "content": "<tool_call>\n{"}
    reply = await client.post(*chat([ASK, begun], tools=TOOLS, stream=stream))
    assert reply.status == 400
    assert "half of a call" in reply.error["message"]


# Parameters, whose edges end llama.cpp under a grammar


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-45, 1e-38, 1e-10, 9.9e-5])
async def test_a_temperature_next_to_zero_is_zero(client: Client, temperature: float) -> None:
    """Logits divided by it are no numbers, and then the last token of the vocabulary is taken, whatever it is."""
    _, body = chat([ASK], temperature=temperature, top_k=0, top_p=1, min_p=0)
    assert ChatCompletionBody.model_validate_json(json.dumps(body)).to_request().temperature == 0
    assert (await client.post("/v1/chat/completions", {**body, **JSON})).status == 200


@pytest.mark.parametrize(
    "arguments", ['{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', '{"a": "\\ud800"}', '{"a": ' + "9" * 400 + "}"]
)
async def test_numbers_that_are_none_in_a_historys_arguments(client: Client, arguments: str) -> None:
    called = {**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": arguments}}]}
    reply = await client.post(*chat([ASK, called, {"role": "tool", "tool_call_id": "c", "content": "5"}]))
    assert reply.status == 200


@pytest.mark.parametrize("penalty", [0, 5e-324, 1e-38, 0.009, 11, -1])
async def test_a_repeat_penalty_that_nothing_can_be_divided_by_is_refused(client: Client, penalty: float) -> None:
    for path, body in (chat([ASK], repeat_penalty=penalty), generate([ASK], repeat_penalty=penalty)):
        reply = await client.post(path, body)
        assert reply.status == 400
        assert reply.error["param"] == "repeat_penalty"


async def test_what_reaches_the_engine_all_the_same_is_bounded_there() -> None:
    request = GenerationRequest.model_validate(
        {"model": "demo", "prompt": "x", "temperature": 1e-38, "repeat_penalty": 1e-30}
    )
    body = engine_body(request, 1, None)
    assert (body["temperature"], body["repeat_penalty"]) == (0, 0.01)
    usual = engine_body(request.model_copy(update={"temperature": 0.7, "repeat_penalty": 1.1}), 1, None)
    assert (usual["temperature"], usual["repeat_penalty"]) == (0.7, 1.1)
