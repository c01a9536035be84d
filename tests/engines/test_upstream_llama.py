"""A real second server: llama.cpp's own, with the embedded model, as the upstream of an engine and of a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp_host import start_server
from swarm.engines.upstream.address import parse_upstream
from swarm.engines.upstream.upstream_engine import UpstreamEngine
from swarm.engines.upstream.upstream_http import UpstreamHttp
from swarm.errors import BadRequest, UpstreamFailed, UpstreamRefused
from swarm.generation import Delta, Finish, GenerationRequest

SLOTS, CONTEXT_TOKENS = 2, 1024
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def engine(demo_model: Path) -> AsyncIterator[UpstreamEngine]:
    """llama-server listening with a key, as the upstream."""
    async with AsyncExitStack() as stack:
        servers = [await asyncio.to_thread(start_server, EngineSpec("demo", demo_model, CONTEXT_TOKENS, SLOTS, 1))]
        stack.push_async_callback(asyncio.to_thread, servers.clear)
        engine = UpstreamEngine(UpstreamHttp(parse_upstream(servers[0].address), servers[0].key), SLOTS)
        stack.push_async_callback(engine.aclose)
        assert await engine.http.models() == ("demo",)
        yield engine


def chat(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0.0, "seed": 7, **fields}
    )


async def read(engine: UpstreamEngine, request: GenerationRequest, n: int = 1) -> list[Delta | Finish]:
    async with aclosing(engine.candidates(request, n)) as events:
        return [event async for event in events]


async def test_an_answer_is_deltas_then_one_finish_with_its_usage(engine: UpstreamEngine) -> None:
    *deltas, last = await read(engine, chat("What is the capital of France?"))
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    assert isinstance(last, Finish)
    assert last.reason == "stop"
    assert last.usage.prompt_tokens > 0
    assert last.usage.completion_tokens > 0


async def test_each_of_several_choices_finishes_once(engine: UpstreamEngine) -> None:
    events = await read(engine, chat("hello", temperature=0.8), n=SLOTS)
    assert sorted(event.choice for event in events if isinstance(event, Finish)) == list(range(SLOTS))
    with pytest.raises(BadRequest, match="n is 3"):
        await read(engine, chat("hello"), n=SLOTS + 1)


async def test_tools_come_through(engine: UpstreamEngine) -> None:
    events = await read(engine, chat("What is the weather in Paris?", tools=[WEATHER]))
    calls = [call for event in events if isinstance(event, Delta) for call in event.tool_calls]
    assert calls[0].name == "get_weather"
    assert calls[0].id


async def test_a_completion_needs_no_messages(engine: UpstreamEngine) -> None:
    request = GenerationRequest(model="demo", prompt="one two three", max_tokens=3, temperature=0)
    *deltas, _ = await read(engine, request)
    assert deltas


async def test_a_prompt_beyond_the_context_keeps_both_numbers(engine: UpstreamEngine) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        await read(engine, chat("word " * 3000))
    assert caught.value.refusal.status == 400
    assert caught.value.refusal.sizes["n_ctx"] == CONTEXT_TOKENS
    assert caught.value.refusal.sizes["n_prompt_tokens"] > CONTEXT_TOKENS


async def test_a_wrong_key_is_told_with_the_remedy(engine: UpstreamEngine) -> None:
    wrong = UpstreamHttp(engine.http.address, "wrong")
    try:
        with pytest.raises(UpstreamRefused, match="SWARM_UPSTREAM_KEY"):
            await read(UpstreamEngine(wrong, SLOTS), chat("hello"))
    finally:
        await wrong.aclose()


async def test_embeddings(engine: UpstreamEngine) -> None:
    answer = await engine.http.embed("demo", ["the cat", "the dog"])
    assert len(answer.vectors) == 2
    assert answer.prompt_tokens > 0


async def test_after_closing_nothing_is_generated(engine: UpstreamEngine) -> None:
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(UpstreamFailed, match="closing"):
        await read(engine, chat("hello"))
