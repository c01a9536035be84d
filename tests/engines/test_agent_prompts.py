"""Prompts as long as coding agents': read once and known afterwards, whoever asks beside them.

A real engine with random weights, whose cache is larger than what llama.cpp keeps in memory of prompts that left their
slot, as that of any model of use is.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from benchmarks.random_model import Shape, write_model
from federation.tasks import cancel_and_wait
from swarm.consensus.options import Strategy
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.server_host import LEAST_SLOTS, PROMPT_CACHE_MIB
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from tests.doubles.agent_prompts import AgentTalk
from tests.doubles.clients import Client
from tests.doubles.inside_llama import busy_slots, prompt_tokens_evaluated
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # each prompt takes half a minute to read

CONTEXT_TOKENS, WORKERS = 32_768, 2
SHAPE, LAYERS, CACHE = Shape(hidden=768, heads=3, kv_heads=3, feed_forward=256, vocabulary=2048), 1, "f32"
TOKEN_BYTES = LAYERS * 2 * 4 * SHAPE.hidden
SECTIONS = 44  # of instructions: with 16 tools as many tokens as Claude Code says before its user does
LEAST_TOKENS = 20_000
REREAD_TOKENS = 64  # of a turn, at most: what stands where the answer begins is written otherwise afterwards
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class House:
    """A node, a client of it, and its engine."""

    client: Client
    engine: LlamaServerEngine

    async def evaluated(self) -> int:
        return await prompt_tokens_evaluated(self.engine.http)

    async def until_idle(self) -> None:
        await eventually(lambda: busy_slots(self.engine.http), TIMEOUT_S, "no slot is busy", until=operator.not_)


@dataclass(frozen=True)
class Reading:
    """What a turn cost: tokens of its prompt, those of them that were in the cache, and the answer's text."""

    prompt: int
    cached: int
    text: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    path = tmp_path_factory.mktemp("model") / "agents.gguf"
    await asyncio.to_thread(write_model, path, LAYERS, shape=SHAPE)
    assert TOKEN_BYTES * CONTEXT_TOKENS * WORKERS > PROMPT_CACHE_MIB * 2**20
    engine = await load_xllamacpp(EngineSpec("m", path, CONTEXT_TOKENS, WORKERS, threads=2, cache_type=CACHE))
    options = NodeOptions(strategy=Strategy.SINGLE)
    patient = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with (
        RunningNode("kitchen", ready(engine), options=options) as node,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=patient) as session,
    ):
        yield House(Client(session, node.url), engine)


Ask = Callable[[Client, AgentTalk], Awaitable[Reading]]


async def by_messages(client: Client, talk: AgentTalk) -> Reading:
    reply = await client.post("/v1/messages", talk.to_messages())
    assert reply.status == 200, reply.text
    usage: dict[str, Any] = reply.json["usage"]
    cached = usage.get("cache_read_input_tokens") or 0
    return Reading(usage["input_tokens"] + cached, cached, reply.json["content"][0]["text"])


async def by_chat(client: Client, talk: AgentTalk) -> Reading:
    reply = await client.post("/v1/chat/completions", talk.to_chat())
    assert reply.status == 200, reply.text
    usage = reply.json["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Reading(usage["prompt_tokens"], cached, reply.json["choices"][0]["message"]["content"] or "")


async def by_responses(client: Client, talk: AgentTalk) -> Reading:
    reply = await client.post("/v1/responses", talk.to_responses())
    assert reply.status == 200, reply.text
    usage = reply.json["usage"]
    text = "".join(part["text"] for item in reply.json["output"] for part in item.get("content", ()))
    return Reading(usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"], text)


async def turn(house: House, talk: AgentTalk, ask: Ask = by_messages) -> Reading:
    talk.says()
    reading = await ask(house.client, talk)
    talk.answered(reading.text)
    return reading


async def title(house: House, talk: AgentTalk) -> None:
    reply = await house.client.post("/v1/chat/completions", talk.title())
    assert reply.status == 200, reply.text


async def test_there_are_slots_that_only_keep_what_was_read(house: House) -> None:
    assert house.engine.loaded.slots == WORKERS
    assert len(house.engine.http.prefill.slots.slots) == LEAST_SLOTS


@pytest.mark.parametrize(("ask", "sections"), [(by_messages, SECTIONS), (by_chat, 0), (by_responses, 0)])
async def test_an_agents_prompt_is_read_once(house: House, ask: Ask, sections: int) -> None:
    """The next turn reads what is new, and one that its client changes reads what is changed; titles in between."""
    talk = AgentTalk(f"Ann {ask.__name__}", sections)
    first = await turn(house, talk, ask)
    assert first.prompt > (LEAST_TOKENS if sections else LEAST_TOKENS / 3)
    assert first.cached < first.prompt / 2
    await title(house, talk)
    before = await house.evaluated()
    second = await turn(house, talk, ask)
    assert second.cached >= first.prompt - REREAD_TOKENS
    assert await house.evaluated() - before <= second.prompt - first.prompt + REREAD_TOKENS
    await title(house, talk)
    talk.messages.pop()
    talk.says_otherwise("Do it in another way.")
    changed = await ask(house.client, talk)
    assert changed.cached >= first.prompt - REREAD_TOKENS
    assert changed.prompt - changed.cached < 4 * REREAD_TOKENS


async def test_what_was_read_when_a_client_leaves_is_not_read_again(house: House) -> None:
    talk = AgentTalk("Cat", SECTIONS)
    talk.says()
    before = await house.evaluated()
    asked = asyncio.create_task(by_messages(house.client, talk))
    enough = before + LEAST_TOKENS / 4
    await eventually(house.evaluated, TIMEOUT_S, "a quarter is read", until=lambda tokens: tokens >= enough)
    await cancel_and_wait(asked)
    await house.until_idle()
    read = await house.evaluated() - before
    again = await by_messages(house.client, talk)
    assert read < again.prompt / 2, "it was read to its end for nobody"
    assert again.cached >= read - REREAD_TOKENS
    assert await house.evaluated() - before <= again.prompt + REREAD_TOKENS


async def test_two_agents_and_a_chat_neither_starve_nor_drive_each_other_out(house: House) -> None:
    agents = [AgentTalk("Dan", SECTIONS), AgentTalk("Eve", SECTIONS)]
    began = time.monotonic()
    alone = await turn(house, agents[0])
    alone_s = time.monotonic() - began
    known = {"Dan": alone.prompt}
    waited: list[float] = []

    async def chat(words: str) -> None:
        began = time.monotonic()
        reply = await house.client.chat(f"{words}: hello, what is new?", max_tokens=8)
        assert reply.status == 200, reply.text
        waited.append(time.monotonic() - began)

    for number in range(3):
        async with asyncio.TaskGroup() as group:
            readings = [group.create_task(turn(house, talk)) for talk in agents]
            group.create_task(chat(f"Gus {number}"))
            group.create_task(title(house, agents[0]))
        for talk, reading in zip(agents, readings, strict=True):
            assert reading.result().cached >= known.get(talk.name, 0) - REREAD_TOKENS, (number, talk.name)
            known[talk.name] = reading.result().prompt
    # It waits for a worker at most, which is one agent's turn beside another one's.
    assert max(waited) < 4 * alone_s
    await asyncio.gather(*(chat(f"Hal {number}") for number in range(6)))
    for talk in agents:
        assert (await turn(house, talk)).cached >= known[talk.name] - REREAD_TOKENS
