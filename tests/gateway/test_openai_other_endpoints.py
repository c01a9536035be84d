"""Plain completions, embeddings and models through the official package."""

from __future__ import annotations

import math

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


async def test_log_probabilities_of_a_continuation_are_parallel_lists(ai: AsyncOpenAI) -> None:
    answer = await ai.completions.create(
        model="demo", prompt="The capital of", max_tokens=4, logprobs=2, echo=True, temperature=0
    )
    choice = answer.choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert found.top_logprobs is not None
    assert found.token_logprobs is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 4
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token


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
    assert [model.id for model in listed] == ["demo", "swarm"]
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
