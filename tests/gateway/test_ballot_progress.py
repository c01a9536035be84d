"""How a vote stands, told while it is held to clients that ask for it, and to nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from swarm.errors import EngineFailed
from tests.doubles.clients import chat_body, openai_client
from tests.doubles.stage import Stage, staged

CHAT = "/v1/chat/completions"
NUMBER = "Reply with only a number: 4 + 4"  # nobody's answer is streamed live
WATCHED = {"votes": 4, "min_votes": 4, "strategy": "majority", "progress": True}  # all four are asked at once


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield await staged(stack)


async def next_ballot(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The standing in the next chunk that has no choices; the answer's first chunk, its role, may come before it."""
    while True:
        chunk = json.loads((await response.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        assert chunk["object"] == "chat.completion.chunk"
        if not chunk["choices"]:
            return dict(chunk["swarm"]["ballot"])


def ballots(chunks: list[Any]) -> list[dict[str, Any]]:
    return [chunk["swarm"]["ballot"] for chunk in chunks if "ballot" in chunk.get("swarm", {})]


async def test_the_standing_is_told_at_the_start_and_on_every_arrival(stage: Stage) -> None:
    gates = [asyncio.Event() for _ in range(4)]
    stage.voters_say(*([gate, f"Answer: {n}"] for gate, n in zip(gates, (8, 9, 8, 7), strict=True)))
    body = chat_body(NUMBER, stream=True, swarm=WATCHED)
    async with stage.client.open(CHAT, body) as response:
        first = await next_ballot(response)
        assert (first["final"], first["stopped_by"], first["candidates"], first["winner"]) == (False, None, [], None)
        seats = first["out"]
        assert [(seat["node"], seat["model"]) for seat in seats] == [("kitchen", "scripted")]
        for voter, gate in enumerate(gates[:3], 1):
            gate.set()
            told = await next_ballot(response)
            assert len(told["candidates"]) == voter
        assert [(part["group"], part["answer"]) for part in told["candidates"]] == [(0, "8"), (0, "8"), (1, "9")]
        assert told["out"] == [{"node": "kitchen", "model": "scripted", "seats": 1}]
        gates[3].set()
        last = await next_ballot(response)
        assert last["out"] == []
        rest = await response.content.read()
    final = json.loads(next(line for line in rest.splitlines() if b'"stop"' in line).removeprefix(b"data: "))["swarm"]
    assert (final["stopped_by"], last["stopped_by"], last["final"]) == ("all_in", None, False)
    assert final["candidates"] == [{k: v for k, v in part.items() if k != "answer"} for part in last["candidates"]]
    same = set(final) & set(last) - {"candidates", "elapsed_ms", "stopped_by", "wasted_tokens"}
    assert {"strategy", "votes", "agreement", "quorum", "winner", "total_completion_tokens"} <= same
    assert {name: final[name] for name in same} == {name: last[name] for name in same}


async def test_a_second_wave_is_news(stage: Stage) -> None:
    stage.voters_say("Answer: 8", "Answer: 9", ["Answer: ", asyncio.Event()], "Answer: 9")
    body = chat_body(NUMBER, stream=True, swarm={**WATCHED, "min_votes": 1})
    async with stage.client.open(CHAT, body) as response:
        first = await next_ballot(response)
        assert (first["asked"], first["wanted"]) == (3, 4)
        while (told := await next_ballot(response))["asked"] < 4:
            pass
        while len(told["candidates"]) < 3:
            told = await next_ballot(response)
        assert told["out"] == [{"node": "kitchen", "model": "scripted", "seats": 1}]


async def test_nobody_else_is_told(stage: Stage) -> None:
    stage.voters_say(*["Answer: 8"] * 4)
    reply = await stage.client.chat(NUMBER, stream=True, swarm={"votes": 4})
    assert ballots(reply.chunks) == []


async def test_one_voter_has_no_ballot(stage: Stage) -> None:
    reply = await stage.client.chat(stream=True, swarm={"strategy": "single", "progress": True})
    assert ballots(reply.chunks) == []
    assert reply.said() == "yes"


@pytest.mark.parametrize("fields", [{}, {"stream": False}])
async def test_progress_of_an_answer_that_does_not_stream_is_refused(stage: Stage, fields: dict[str, Any]) -> None:
    reply = await stage.client.chat(swarm={"progress": True}, **fields)
    assert reply.status == 400
    assert "swarm.progress needs stream: true" in reply.error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "swarm", "input": NUMBER}),
        ("/v1/messages", {"model": "swarm", "max_tokens": 9, "messages": [{"role": "user", "content": NUMBER}]}),
    ],
)
async def test_other_apis_streams_have_no_room_for_it(stage: Stage, path: str, body: dict[str, Any]) -> None:
    stage.voters_say(*["Answer: 8"] * 4)
    reply = await stage.client.post(path, {**body, "stream": True, "swarm": WATCHED})
    assert reply.status == 200
    assert '"ballot"' not in reply.text
    assert "Answer: 8" in reply.text


async def test_plain_completions_tell_it_too(stage: Stage) -> None:
    stage.voters_say(*["Answer: 8"] * 4)
    reply = await stage.client.post(
        "/v1/completions", {"model": "swarm", "prompt": NUMBER, "stream": True, "swarm": WATCHED}
    )
    assert ballots(reply.chunks)[0]["final"] is False


async def test_the_official_client_reads_past_it(stage: Stage) -> None:
    stage.voters_say(*["Answer: 8"] * 4)
    async with openai_client(stage.node.url) as client:
        stream = await client.chat.completions.create(
            model="swarm",
            messages=[{"role": "user", "content": NUMBER}],
            stream=True,
            extra_body={"swarm": WATCHED},
        )
        said = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(said) == "Answer: 8"


async def test_a_failed_voter_is_part_of_the_standing(stage: Stage) -> None:
    stage.voters_say([EngineFailed("out of memory")], "x", "x", "x")
    reply = await stage.client.chat(NUMBER, stream=True, temperature=0.5, swarm=WATCHED)  # one batch
    assert reply.chunks[-1]["error"]["message"].endswith("out of memory")
    told = ballots(reply.chunks)
    assert told[0]["candidates"] == []
    assert all("out of memory" in part["abstained"] for part in told[-1]["candidates"])


async def test_answers_are_told_short(stage: Stage) -> None:
    stage.voters_say("word " * 1000, "word\n\nword", "<think>hm</think>word", "yes")
    reply = await stage.client.chat("Tell me", stream=True, swarm={**WATCHED, "strategy": "medoid"})
    said = sorted(part["answer"] for part in ballots(reply.chunks)[-1]["candidates"])
    assert max(map(len, said)) <= 200
    assert any(text.endswith("…") for text in said)
    assert {"word word", "word", "yes"} <= set(said)


async def test_a_client_that_leaves_while_it_watches_frees_the_voters(stage: Stage) -> None:
    stage.voters_say("Answer: 8", *([["Answer: ", asyncio.Event()]] * 3))
    async with stage.client.open(CHAT, chat_body(NUMBER, stream=True, swarm=WATCHED)) as response:
        await next_ballot(response)
        response.close()
    await stage.engine.until(lambda engine: engine.running == 0)
    assert stage.engine.cancelled >= 3
