"""Chat completions through the official package, against a real node with the embedded model."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from pydantic import BaseModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
HELLO = [{"role": "user", "content": "hello"}]
SINGLE = {"swarm": {"strategy": "single"}}


async def chunks_of(ai: AsyncOpenAI, **fields: object) -> list[ChatCompletionChunk]:
    stream = await ai.chat.completions.create(model="demo", temperature=0, stream=True, **fields)  # type: ignore[call-overload]
    return [chunk async for chunk in stream]


async def test_a_chat_is_answered_with_its_usage(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(model="demo", messages=CAPITAL, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "demo"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("extra", [SINGLE, {}], ids=["single", "vote"])
async def test_a_stream_says_the_same_in_pieces(ai: AsyncOpenAI, extra: dict[str, object]) -> None:
    whole = await ai.chat.completions.create(model="demo", messages=CAPITAL, temperature=0, extra_body=SINGLE)
    chunks = await chunks_of(ai, messages=CAPITAL, extra_body=extra)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert len(chunks) > 5, "token by token"
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert deltas[0].content == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.object, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_sdks_stream_helper_puts_the_answer_together(ai: AsyncOpenAI) -> None:
    async with ai.chat.completions.stream(model="demo", messages=CAPITAL, temperature=0) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert "Paris" in (final.choices[0].message.content or "")


@pytest.mark.parametrize("extra", [SINGLE, {}], ids=["single", "vote"])
async def test_usage_streams_only_when_asked_and_then_last(ai: AsyncOpenAI, extra: dict[str, object]) -> None:
    *earlier, last = await chunks_of(ai, messages=CAPITAL, stream_options={"include_usage": True}, extra_body=extra)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 3
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in earlier)
    assert earlier[-1].choices[0].finish_reason == "stop"


async def test_usage_of_several_choices_is_their_sum(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(model="demo", messages=HELLO, n=3, max_tokens=5, temperature=1, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.finish_reason == "length" for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15
    one = await ai.chat.completions.create(model="demo", messages=HELLO, max_tokens=5, extra_body=SINGLE)
    assert one.usage is not None
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens, "the prompt counts once"


async def test_several_choices_stream_side_by_side(ai: AsyncOpenAI) -> None:
    *chunks, usage = await chunks_of(ai, messages=HELLO, n=3, max_tokens=5, stream_options={"include_usage": True})
    for index in range(3):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert [choice.delta.role for choice in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert [choice.finish_reason for choice in mine] == [None] * (len(mine) - 1) + ["length"]
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 15


async def test_more_choices_than_workers_is_refused_with_the_remedy(ai: AsyncOpenAI) -> None:
    with pytest.raises(Exception, match=r"n is 5; 'demo' gives at most 4 answers at once \(--workers") as caught:
        await ai.chat.completions.create(model="demo", messages=HELLO, n=5)
    assert getattr(caught.value, "status_code", None) == 400


@pytest.mark.parametrize("stop", ["capital", ["nowhere", " capital"]], ids=["string", "list"])
async def test_a_stop_string_ends_the_answer_and_is_left_out(ai: AsyncOpenAI, stop: str | list[str]) -> None:
    answer = await ai.chat.completions.create(model="demo", messages=CAPITAL, temperature=0, stop=stop)
    assert (answer.choices[0].message.content or "").strip() == "The"
    assert answer.choices[0].finish_reason == "stop"


async def test_the_same_seed_gives_the_same_answer(ai: AsyncOpenAI) -> None:
    anything = {"min_p": 0, "top_k": 0, "top_p": 1, **SINGLE}  # however sure the model is, its samples differ

    async def sampled(seed: int) -> str | None:
        answer = await ai.chat.completions.create(
            model="demo", messages=HELLO, temperature=2, seed=seed, max_tokens=20, extra_body=anything
        )
        return answer.choices[0].message.content

    assert await sampled(5) == await sampled(5)
    assert len({await sampled(seed) for seed in range(6)}) > 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_token_limit_work(ai: AsyncOpenAI, field: Literal["max_tokens"]) -> None:
    answer = await ai.chat.completions.create(model="demo", messages=CAPITAL, temperature=0, **{field: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_log_probabilities_come_with_as_many_alternatives_as_asked(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(
        model="demo", messages=CAPITAL, temperature=0, logprobs=True, top_logprobs=3, max_tokens=4
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content
    assert tokens is not None
    assert len(tokens) == 4
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)


async def test_log_probabilities_stream_with_their_tokens(ai: AsyncOpenAI) -> None:
    chunks = await chunks_of(ai, messages=CAPITAL, logprobs=True, top_logprobs=1, max_tokens=4, extra_body=SINGLE)
    tokens = [
        token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content or ()
    ]
    assert len(tokens) == 4
    assert all(len(token.top_logprobs) == 1 for token in tokens)


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool


async def test_a_pydantic_model_is_parsed_from_the_answer(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.parse(model="demo", messages=CAPITAL, temperature=0, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_a_json_schema_binds_a_stream_too(ai: AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [41, 42]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    chunks = await chunks_of(ai, messages=HELLO, response_format=wanted)
    assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks))["n"] in (41, 42)


async def test_json_object_gives_a_json_object(ai: AsyncOpenAI) -> None:
    asked: ChatCompletionMessageParam = {"role": "user", "content": "Give me a JSON object with city Paris."}
    answer = await ai.chat.completions.create(
        model="demo", messages=[asked], temperature=0, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_conversations_with_every_role_and_form_of_content_are_taken(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(
        model="demo",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}], "name": "a"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")


async def test_fields_that_no_local_engine_knows_are_ignored(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(
        model="demo",
        messages=CAPITAL,
        temperature=0,
        user="somebody",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        prompt_cache_key="k",
        reasoning_effort="low",
        extra_body={"a_field_of_the_future": {"deep": [1]}},
    )
    assert "Paris" in (answer.choices[0].message.content or "")


async def test_the_alias_swarm_is_answered_under_its_own_name(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(model="swarm", messages=CAPITAL, temperature=0)
    assert answer.model == "swarm"
    assert "Paris" in (answer.choices[0].message.content or "")
