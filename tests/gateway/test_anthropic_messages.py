"""Anthropic's Messages API through the official package, against a real node with the embedded model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import anthropic
import pytest
import pytest_asyncio
from anthropic.types import MessageParam
from pydantic import BaseModel

from tests.doubles.anthropic_events import streamed
from tests.doubles.clients import Client, anthropic_client
from tests.doubles.inside_llama import busy_slots
from tests.doubles.running_node import RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAPITAL: list[MessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
ASK: list[MessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SHORT: Any = {"model": "demo", "max_tokens": 60}
SINGLE = {"swarm": {"strategy": "single"}}
GREEDY = {**SINGLE, "temperature": 0}
BOTH_WAYS = pytest.mark.parametrize("extra", [SINGLE, {}], ids=["single", "vote"])


@pytest_asyncio.fixture(loop_scope="module")
async def claude(demo_node: RunningNode) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official package, without retries: what is answered is what was sent."""
    async with anthropic_client(demo_node.url, max_retries=0) as opened:
        yield opened


async def ask(claude: anthropic.AsyncAnthropic, messages: Any = CAPITAL, **fields: Any) -> anthropic.types.Message:
    extra = {"temperature": 0, **fields.pop("extra_body", SINGLE)}  # the package knows no samplers any more
    return await claude.messages.create(messages=messages, extra_body=extra, **{**SHORT, **fields})


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.client("anthropic-python", "text")
@BOTH_WAYS
async def test_a_message_is_answered_with_its_usage(claude: anthropic.AsyncAnthropic, extra: dict[str, Any]) -> None:
    answer = await ask(claude, extra_body=extra)
    assert "Paris" in text_of(answer)
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "demo")
    assert answer.id.startswith("msg_")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.output_tokens > 3
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > 5
    assert answer.model_extra is not None
    assert answer.model_extra["swarm"]["coordinator"] == "kitchen"
    assert answer._request_id


@pytest.mark.client("anthropic-python", "stream")
@BOTH_WAYS
async def test_the_stream_helper_gives_the_same_in_pieces(
    claude: anthropic.AsyncAnthropic, extra: dict[str, Any]
) -> None:
    whole = await ask(claude)
    async with claude.messages.stream(**SHORT, messages=CAPITAL, extra_body={"temperature": 0, **extra}) as stream:
        pieces = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    assert len(pieces) > 3, "token by token"
    assert "".join(pieces) == text_of(final) == text_of(whole)
    assert (final.stop_reason, final.model) == ("end_turn", "demo")
    assert final.usage.output_tokens == whole.usage.output_tokens


@BOTH_WAYS
async def test_every_event_is_of_the_protocol(client: Client, extra: dict[str, Any]) -> None:
    body = {"model": "demo", "max_tokens": 60, "messages": CAPITAL, "temperature": 0, "stream": True, **extra}
    reply = await client.post("/v1/messages?beta=true", body)
    whole = streamed(reply.text)
    assert whole.stop_reason == "end_turn"
    assert [block["type"] for block in whole.blocks] == ["text"]
    assert whole.start.usage.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert whole.swarm is not None
    assert whole.swarm["coordinator"] == "kitchen"
    assert reply.headers["request-id"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/messages", "/messages?beta=true", "/v1/messages"])
async def test_every_path_answers(client: Client, path: str) -> None:
    reply = await client.post(path, {"model": "demo", "max_tokens": 2, "messages": CAPITAL})
    assert reply.json["type"] == "message"


@pytest.mark.parametrize("name", ["claude-of-tomorrow", "swarm"])
async def test_a_name_of_anthropics_is_the_default_and_the_answer_says_so(
    claude: anthropic.AsyncAnthropic, name: str
) -> None:
    answer = await ask(claude, model=name)
    assert answer.model == "swarm"
    assert "Paris" in text_of(answer)


async def test_the_token_limit_is_told_as_such(claude: anthropic.AsyncAnthropic) -> None:
    answer = await ask(claude, max_tokens=3)
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_of_no_tokens_warms_the_cache(client: Client, stream: bool) -> None:
    turns = [{"role": "user", "content": f"A prompt that is sent for nothing but the cache, stream {stream}"}]
    body = {"model": "demo", "max_tokens": 0, "messages": turns}
    reply = await client.post("/v1/messages", {**body, "stream": stream})
    assert reply.status == 200
    if stream:
        assert '"stop_reason":"max_tokens"' in reply.text
        assert "text_delta" not in reply.text
    else:
        assert (reply.json["content"], reply.json["stop_reason"]) == ([], "max_tokens")
        assert reply.json["usage"]["output_tokens"] == 0
    again = (await client.post("/v1/messages", {**body, "max_tokens": 4, **SINGLE})).json["usage"]
    assert again["cache_read_input_tokens"] > again["input_tokens"]


async def test_a_stop_sequence_ends_the_answer_and_is_left_out(claude: anthropic.AsyncAnthropic) -> None:
    answer = await ask(claude, stop_sequences=["nowhere", " capital"])
    assert text_of(answer).strip() == "The"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " capital")
    votes = await ask(claude, stop_sequences=["nowhere", " capital"], extra_body={"swarm": {"votes": 2}})
    assert (votes.stop_reason, votes.stop_sequence) == ("stop_sequence", " capital")


async def test_a_stream_tells_which_stop_sequence_was_hit(claude: anthropic.AsyncAnthropic) -> None:
    wanted: Any = {"model": "demo", "max_tokens": 40, "messages": CAPITAL, "extra_body": SINGLE}
    async with claude.messages.stream(**wanted, stop_sequences=["\n\n\n", " is"]) as stream:
        final = await stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", " is")
    async with claude.messages.stream(**wanted, stop_sequences=["no such words"]) as stream:
        final = await stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("end_turn", None)


async def test_tokens_are_counted_as_the_answer_counts_them(claude: anthropic.AsyncAnthropic) -> None:
    turns: Any = [*CAPITAL, {"role": "assistant", "content": "Paris."}, *ASK]
    prompt: Any = {"model": "claude-x", "messages": turns, "system": "Be brief.", "tools": [WEATHER]}
    counted = await claude.messages.count_tokens(**prompt)
    answer = await claude.messages.create(**prompt, max_tokens=1, extra_body=SINGLE)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert (await claude.messages.count_tokens(model="demo", messages=CAPITAL)).input_tokens < counted.input_tokens


async def test_a_system_prompt_counts_in_both_its_forms(claude: anthropic.AsyncAnthropic) -> None:
    async def tokens(system: Any) -> int:
        counted = await claude.messages.count_tokens(model="demo", messages=CAPITAL, system=system)
        return counted.input_tokens

    cached: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    claudes_own = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=fa690;"}
    assert await tokens(cached) == await tokens("Be brief.") == await tokens([claudes_own, *cached])
    bare = await claude.messages.count_tokens(model="demo", messages=CAPITAL)
    assert await tokens("Be brief.") != bare.input_tokens
    assert "Paris" in text_of(await ask(claude, system=cached))


async def test_an_answer_goes_on_where_the_client_began_it(claude: anthropic.AsyncAnthropic) -> None:
    answer = await ask(claude, [*CAPITAL, {"role": "assistant", "content": "The capital of France is"}])
    assert "Paris" in text_of(answer)
    assert "capital" not in text_of(answer)


@pytest.mark.client("anthropic-python", "tools")
@BOTH_WAYS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_loop_comes_to_its_end(
    claude: anthropic.AsyncAnthropic, extra: dict[str, Any], stream: bool
) -> None:
    turns: list[Any] = list(ASK)
    prompt: Any = {**SHORT, "max_tokens": 100, "tools": [WEATHER], "extra_body": {"temperature": 0, **extra}}

    async def answered() -> anthropic.types.Message:
        if not stream:
            return await claude.messages.create(messages=turns, **prompt)
        async with claude.messages.stream(messages=turns, **prompt) as events:
            return await events.get_final_message()

    first = await answered()
    (call,) = first.content
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    assert call.id.startswith("toolu_")
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    turns += [first.to_param(), {"role": "user", "content": [result]}]
    last = await answered()
    assert text_of(last)
    assert last.stop_reason == "end_turn"


@pytest.mark.client("anthropic-python", "tools")
async def test_the_tool_runner_sends_all_of_a_conversation_that_nobody_keeps(claude: anthropic.AsyncAnthropic) -> None:
    """It begins with a `thread`, which the server is to hold, and sends only what is new from then on."""
    cities: list[str] = []

    @anthropic.beta_async_tool
    async def get_weather(city: str) -> str:
        """Weather of a city"""
        cities.append(city)
        return "sunny"

    asked: Any = {**SHORT, "messages": ASK, "tools": [get_weather], "extra_body": GREEDY}
    turns: list[Any] = [turn async for turn in claude.beta.messages.tool_runner(**asked)]
    assert cities == ["Paris"]
    assert [turn.stop_reason for turn in turns] == ["tool_use", "end_turn"]
    first, second = (turn.usage.input_tokens + (turn.usage.cache_read_input_tokens or 0) for turn in turns)
    assert second > first, "the second prompt has the tool, the question and the call, too"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
async def test_a_thread_is_refused_in_words_that_the_sdks_know(client: Client, thread: Any, stream: bool) -> None:
    body = {**SHORT, "messages": CAPITAL, **SINGLE, "stream": stream}
    refused = await client.post("/v1/messages", {**body, "thread": thread})
    assert refused.status == 400
    assert refused.error["type"] == "invalid_request_error"
    assert "leave thread out" in refused.error["message"]
    assert refused.error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert (await client.post("/v1/messages", {**body, "thread": None})).status == 200


async def test_arguments_stream_in_fragments(client: Client) -> None:
    body = {"model": "demo", "max_tokens": 60, "messages": ASK, "tools": [WEATHER], "stream": True, **GREEDY}
    reply = await client.post("/v1/messages", body)
    (call,) = streamed(reply.text).blocks
    assert call["input"] == {}
    assert json.loads(call["json"]) == {"city": "Paris"}
    assert reply.text.count("input_json_delta") > 3


async def test_with_tool_choice_none_nothing_is_called(claude: anthropic.AsyncAnthropic) -> None:
    answer = await ask(claude, ASK, tools=[WEATHER], tool_choice={"type": "none"})
    assert [block.type for block in answer.content] == ["text"]
    assert "get_weather" not in text_of(answer)


async def test_hosted_tools_are_left_out(claude: anthropic.AsyncAnthropic) -> None:
    hosted = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    ]
    answer = await ask(claude, ASK, tools=[*hosted, {**WEATHER, "type": "custom"}])
    assert [getattr(block, "name", None) for block in answer.content] == ["get_weather"]
    plain = await claude.messages.count_tokens(model="demo", messages=ASK)
    assert (await claude.messages.count_tokens(model="demo", messages=ASK, tools=hosted)) == plain  # type: ignore[arg-type]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool


@pytest.mark.client("anthropic-python", "structured")
async def test_a_pydantic_model_is_parsed_from_the_answer(claude: anthropic.AsyncAnthropic) -> None:
    answer = await claude.messages.parse(**SHORT, messages=CAPITAL, output_format=City, extra_body=GREEDY)
    assert isinstance(answer.parsed_output, City)


async def test_fields_that_only_anthropics_models_know_are_taken(claude: anthropic.AsyncAnthropic) -> None:
    answer = await ask(
        claude,
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        service_tier="auto",
        extra_body={
            **SINGLE,
            "top_k": 5,
            "top_p": 1,
            "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "output_config": {"effort": "high", "format": None},
            "a_field_of_the_future": {"deep": [1]},
        },
    )
    assert "Paris" in text_of(answer)


async def test_a_conversation_with_every_form_of_content_is_taken(claude: anthropic.AsyncAnthropic) -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "They want the weather.", "signature": "x"},
                {"type": "redacted_thinking", "data": "eA=="},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
                {"type": "text", "text": "What is the capital of France?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    answer = await ask(claude, turns)
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert text_of(answer)


@pytest.mark.client("anthropic-python", "cancel")
async def test_a_client_that_leaves_frees_the_slots(claude: anthropic.AsyncAnthropic, demo_node: RunningNode) -> None:
    workers = demo_node.pool.get("demo")
    assert workers is not None
    http: Any = getattr(workers.engine, "http")  # noqa: B009
    async with claude.messages.stream(model="demo", max_tokens=900, messages=ASK, extra_body=SINGLE) as stream:
        async for _ in stream.text_stream:
            break
    async with asyncio.timeout(5):
        while await busy_slots(http):
            pass
    assert workers.state().slots_free == workers.state().slots


@pytest.mark.client("anthropic-python", "errors")
async def test_the_sdk_tells_the_errors_apart(claude: anthropic.AsyncAnthropic) -> None:
    long: Any = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 1024 maximum") as caught:
        await ask(claude, long)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    with pytest.raises(anthropic.NotFoundError) as lost:
        await claude.messages.batches.retrieve("none")
    assert lost.value.type == "not_found_error"


async def test_models_are_listed_in_the_shape_of_whoever_asks(claude: anthropic.AsyncAnthropic, client: Client) -> None:
    listed = [model async for model in await claude.models.list()]
    assert [(model.type, model.id, model.display_name) for model in listed] == [
        ("model", "swarm", "swarm"),
        ("model", "demo", "demo"),
    ]
    assert listed[0].max_input_tokens == 1024
    assert (await claude.models.retrieve("demo")).display_name == "demo"
    plain = (await client.get("/v1/models")).json
    assert plain["object"] == "list"
    assert "first_id" not in plain
    with pytest.raises(anthropic.NotFoundError, match="nobody") as refused:
        await claude.models.retrieve("nobody")
    assert refused.value.type == "not_found_error"


async def test_the_list_of_models_has_pages(claude: anthropic.AsyncAnthropic) -> None:
    first = await claude.models.list(limit=1)
    assert ([model.id for model in first.data], first.has_more) == (["swarm"], True)
    assert (first.first_id, first.last_id) == ("swarm", "swarm")
    assert [model.id async for model in first] == ["swarm", "demo"]
    back = await claude.models.list(before_id="demo")
    assert ([model.id for model in back.data], back.has_more) == (["swarm"], False)
    assert (await claude.models.list(after_id="demo")).data == []
    wrong: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": 1001},
        {"after_id": "x"},
        {"after_id": "demo", "before_id": "demo"},
    ]
    for query in wrong:
        with pytest.raises(anthropic.BadRequestError):
            await claude.models.list(**query)
