"""Plain completions, embeddings and models through the official package."""

from __future__ import annotations

import math
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.doubles.clients import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_prompt_is_continued(ai: AsyncOpenAI) -> None:
    answer = await ai.completions.create(model="demo", prompt="The capital of", max_tokens=4, temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


async def test_a_continuation_streams_the_same_text(ai: AsyncOpenAI) -> None:
    fields = {"model": "demo", "prompt": "The capital of", "max_tokens": 6, "temperature": 0}
    whole = await ai.completions.create(**fields)  # type: ignore[call-overload]
    stream = await ai.completions.create(**fields, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    *chunks, usage = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_puts_the_prompt_first_once(client: Client, stream: bool) -> None:
    body = {"model": "demo", "prompt": "one two", "max_tokens": 3, "temperature": 0, "n": 2}
    plain = await client.post("/v1/completions", body)
    echoed = await client.post("/v1/completions", {**body, "echo": True, "stream": stream})
    for index, choice in enumerate(plain.json["choices"]):
        if stream:
            pieces = [c for chunk in echoed.chunks for c in chunk["choices"] if c["index"] == index]
            text = "".join(piece["text"] for piece in pieces)
        else:
            text = echoed.json["choices"][index]["text"]
        assert text == "one two" + choice["text"]


@pytest.mark.parametrize("tops", [0, 2])
async def test_log_probabilities_of_a_continuation_are_parallel_lists(ai: AsyncOpenAI, tops: int) -> None:
    answer = await ai.completions.create(
        model="demo", prompt="The capital of", max_tokens=4, logprobs=tops, temperature=0
    )
    choice = answer.choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert found.top_logprobs is not None
    assert found.token_logprobs is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 4
    assert {len(top) for top in found.top_logprobs} == {tops}
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token


@pytest.mark.parametrize(
    "fields", [{}, {"max_tokens": 0}, {"prompt": ["a", "b"]}, {"prompt": [5, 6]}, {"stream": True}]
)
async def test_log_probabilities_of_the_prompt_are_refused_not_made_up(client: Client, fields: dict[str, Any]) -> None:
    """Evaluations would take the answer's for the prompt's: `echo` shows these, too, and no engine tells them."""
    body = {"model": "demo", "prompt": "The capital of", "max_tokens": 1, "echo": True, "logprobs": 1, **fields}
    reply = await client.post("/v1/completions", body)
    assert reply.status == 400
    assert "echo with logprobs" in reply.json["error"]["message"]


@pytest.mark.parametrize("model", ["demo", "swarm"])
@pytest.mark.parametrize("stream", [False, True])
async def test_no_tokens_may_be_asked_for(client: Client, model: str, stream: bool) -> None:
    """It reads the prompt, and so warms the cache; with `echo` it says the prompt again."""
    prompt = f"A prompt that nobody has sent before, {model} {stream}"
    body = {"model": model, "prompt": prompt, "max_tokens": 0, "echo": True, "n": 2 if model == "demo" else 1}
    reply = await client.post(
        "/v1/completions", {**body, "stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
    )
    assert reply.status == 200
    chunks = reply.chunks if stream else [reply.json]
    for index in range(body["n"]):  # type: ignore[call-overload]
        choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(choice["text"] for choice in choices) == prompt
        assert choices[-1]["finish_reason"] == "length"
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == 0
    again = await client.post("/v1/completions", {**body, "n": 1})
    assert again.json["usage"]["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_chat_may_ask_for_no_tokens(client: Client, field: str) -> None:
    reply = await client.chat(model="demo", **{field: 0})
    assert reply.status == 200
    choice = reply.json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert reply.json["usage"]["completion_tokens"] == 0


async def test_filling_in_the_middle_is_refused_not_ignored(ai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="cannot fill in the middle"):
        await ai.completions.create(model="demo", prompt="a", suffix="b", max_tokens=1)


async def test_embeddings_come_as_numbers_and_as_base64_alike(ai: AsyncOpenAI) -> None:
    as_base64 = await ai.embeddings.create(model="demo", input="the cat")  # the SDK's default is base64
    as_floats = await ai.embeddings.create(model="demo", input="the cat", encoding_format="float")
    assert as_base64.data[0].embedding == pytest.approx(as_floats.data[0].embedding, abs=1e-6)
    assert math.hypot(*as_floats.data[0].embedding) == pytest.approx(1, abs=1e-3)
    assert as_floats.usage.prompt_tokens == as_floats.usage.total_tokens > 0


async def test_many_texts_are_embedded_in_order(ai: AsyncOpenAI) -> None:
    texts = [f"number {i}" for i in range(70)]  # more than two batches
    answer = await ai.embeddings.create(model="demo", input=texts, encoding_format="float")
    assert [row.index for row in answer.data] == list(range(70))
    alone = await ai.embeddings.create(model="demo", input=texts[69], encoding_format="float")
    assert answer.data[69].embedding == pytest.approx(alone.data[0].embedding, abs=1e-3)
    assert answer.usage.prompt_tokens >= 70


async def test_dimensions_other_than_the_models_are_refused_with_its_own(ai: AsyncOpenAI) -> None:
    size = len((await ai.embeddings.create(model="demo", input="x")).data[0].embedding)
    with pytest.raises(BadRequestError, match=f"dimensions is 3; 'demo' gives vectors of {size} numbers"):
        await ai.embeddings.create(model="demo", input="x", dimensions=3)
    assert len((await ai.embeddings.create(model="demo", input="x", dimensions=size)).data[0].embedding) == size


async def test_every_model_and_the_alias_are_listed(ai: AsyncOpenAI) -> None:
    listed = [model async for model in ai.models.list()]
    assert [model.id for model in listed] == ["swarm", "demo"]
    assert all(model.object == "model" and model.owned_by == "local-swarm" and model.created > 0 for model in listed)
    assert (await ai.models.retrieve("demo")).id == "demo"


async def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(ai: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError, match="model 'gpt-9' is not served here; available: demo, swarm") as caught:
        await ai.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError, match="available: demo, swarm"):
        await ai.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(NotFoundError, match="available: demo, swarm"):
        await ai.embeddings.create(model="gpt-9", input="x")


async def test_health_says_ok_while_a_model_is_served(client: Client) -> None:
    for path in ("/livez", "/readyz", "/health", "/v1/health"):
        reply = await client.get(path)
        assert (reply.status, reply.json) == (200, {"status": "ok"})


async def test_the_federations_health_names_this_node_and_who_serves_what(client: Client) -> None:
    seen = (await client.get("/v1/federation/health")).json
    assert seen["status"] == "ok"
    assert seen["node"]["id"] == "id-kitchen"
    assert set(seen["node"]) == {"id", "name", "version", "url", "mode"}
    assert seen["peers"] == []
    assert seen["models"] == {"demo": ["kitchen"]}


async def test_codex_is_given_the_list_that_it_reads(client: Client) -> None:
    """It reports an error where `models` is missing; others might take an empty one for the whole list."""
    assert (await client.get("/v1/models?client_version=0.153.4")).json["models"] == []
    assert "models" not in (await client.get("/v1/models")).json
