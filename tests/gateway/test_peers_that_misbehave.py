"""Peers that answer rubbish, too much, in another's name or not at all: outvoted, replaced, and never believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from federation.client import PeerClient
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.fake_peer import FakePeer, Piece
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying

SINGLE = {"strategy": "single"}
SHORT_S = 0.5  # how long this node waits for a silent peer in these tests: on a busy machine, too, others speak before
NEVER = asyncio.Event


class ImpatientClient(PeerClient):
    """Gives a silent peer SHORT_S."""

    def open_generation(self, *args: Any, **options: Any) -> Any:
        return super().open_generation(*args, **{**options, "idle_s": SHORT_S})


def candidate(text: str, voter: str = "Rex@attic", **fields: Any) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return (
        json.dumps({"voter": voter, "text": text, "finish_reason": "stop", "usage": usage, **fields}).encode() + b"\n"
    )


def chunk(content: str | None = None, **choice: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]})


def sse(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


LAST = chunk(finish_reason="stop") + sse({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def kitchen_with(liar: FakePeer, *answers: str) -> AsyncIterator[tuple[Client, RunningNode]]:
    """The liar, and a node "kitchen" that knows it and whose own voters say `answers` (no model without any)."""
    loaders = [ready(ScriptedEngine(saying(*answers), model_id="m"))] if answers else []
    async with liar:
        is_silent = any(isinstance(piece, asyncio.Event) for piece in liar.pieces)
        options = NodeOptions(peers=[liar.address], client=ImpatientClient if is_silent else PeerClient)
        node = RunningNode("kitchen", *loaders, options=options)
        async with run_nodes(node), connect(node.url) as client:
            yield client, node


def voters_at(reply: Reply, node: str) -> list[dict[str, Any]]:
    return [c for c in reply.json["swarm"]["candidates"] if c["voter"].endswith(f"@{node}")]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"rubbish\n"],
        [b"[]\n"],
        [b"\xff\xfe\n"],
        [b"{}\n"],
        [b"[" * 100_000 + b"\n"],
        [candidate("Answer: 18", usage={"completion_tokens": -5})],
        [candidate("Answer: 18", usage={"completion_tokens": 10**300})],
        [candidate("Answer: 18", tool_calls="many")],
        [b'{"error": "no"}\n'],
        [b'{"error": {"message": 5, "code": []}}\n'],
        [b"x" * (5 * 2**20)],
        [],
        [NEVER()],
    ],
    ids=[
        "no JSON", "a list", "bytes", "no candidate", "deep", "negative tokens", "absurd tokens", "wrong types",
        "odd error", "odder error", "endless line", "nothing", "silence",
    ],
)  # fmt: skip
async def test_rubbish_is_no_vote_and_costs_the_peer_its_standing(pieces: list[Piece]) -> None:
    async with kitchen_with(FakePeer("attic", *pieces, slots=1), "Answer: 16") as (client, node):
        reports: list[tuple[str, bool]] = []
        node.membership.report_traffic = lambda peer, ok: reports.append((peer, ok))
        reply = await client.chat(swarm={"votes": 2, "min_votes": 2})  # or a silent peer would not be waited for
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 16"
        assert not voters_at(reply, "attic")
        assert reports == [("id-attic", False)]


async def test_a_peer_that_lies_is_outvoted() -> None:
    liar = FakePeer("attic", candidate("Answer: 18"), slots=1)
    async with kitchen_with(liar, "Answer: 16", "Answer: 16") as (client, _):
        reply = await client.chat(swarm={"votes": 3, "strategy": "majority"})
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 16"


async def test_a_peer_has_as_many_votes_as_it_was_asked_for() -> None:
    flood = [candidate("Answer: 18", voter=f"Rex{i}@attic") for i in range(50)]
    async with kitchen_with(FakePeer("attic", *flood, slots=1), "Answer: 16", "Answer: 16") as (client, _):
        reply = await client.chat(swarm={"votes": 3})
        assert len(voters_at(reply, "attic")) <= 1
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 16"


async def test_a_peer_cannot_speak_in_anothers_name() -> None:
    async with Kitchen() as kitchen:
        zeus = kitchen.first_voter
        kitchen.liar.pieces = [candidate("Answer: 18", voter=zeus, node="kitchen", model="strong")]
        reply = await kitchen.client.chat(swarm={"votes": 2})
        (lie,) = voters_at(reply, "attic")
        assert lie["voter"] == f"{zeus.split('@')[0]}@attic"
        assert lie["model"] == "large"
        assert len(reply.json["swarm"]["candidates"]) == 2


async def test_a_peer_that_gives_all_its_voters_one_name_still_has_the_seats_it_was_given() -> None:
    same = [candidate("Answer: 16", voter="Rex@attic")] * 2
    async with kitchen_with(FakePeer("attic", *same, slots=2)) as (client, _):
        reply = await client.chat(swarm={"votes": 2})
        assert sorted(c["voter"] for c in voters_at(reply, "attic")) == ["Rex#2@attic", "Rex@attic"]
        assert reply.json["swarm"]["votes"] == 2


async def test_what_a_peer_puts_in_is_always_valid_json_on_the_way_out() -> None:
    odd = b'{"voter":"\\u001b[31mRex\\n@attic","text":"Answer: 18 \\u0000","finish_reason":"stop",'
    odd += b'"logprobs":{"content":[{"token":"x","logprob":NaN,"top_logprobs":[]}]},"mean_logprob":-Infinity}\n'
    async with kitchen_with(FakePeer("attic", odd, odd)) as (client, _):
        reply = await client.chat(swarm={"votes": 2})
        body = json.loads(reply.text, parse_constant=lambda name: pytest.fail(name))
        assert body["choices"][0]["logprobs"]["content"][0]["logprob"] is None
        assert {c["voter"].split("#")[0].split("@")[0] for c in body["swarm"]["candidates"]} == {"?[31mRex?"}


async def test_a_peers_own_error_ends_only_its_part_of_the_vote() -> None:
    line = b'{"error": {"message": "out of memory", "type": "server_error", "code": "engine_failed", "param": null}}\n'
    async with kitchen_with(FakePeer("attic", candidate("Answer: 16"), line), "Answer: 16") as (client, _):
        reply = await client.chat(swarm={"votes": 5, "min_votes": 5})
        assert len(voters_at(reply, "attic")) == 1
        assert len(voters_at(reply, "kitchen")) >= 2


BEFORE = [
    b"rubbish",
    sse([]),
    sse(5),
    sse({}),
    sse({"choices": [5]}),
    sse({"choices": [{"index": 0, "delta": "x"}]}),
    sse({"choices": [{"index": 0, "delta": {"content": ["x"]}}]}),
    sse({"choices": [{"index": 7, "delta": {"content": "x"}}]}),
    sse({"choices": [{"index": 0, "delta": {"tool_calls": [5]}}]}),
    sse({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": "0", "function": {"name": 5}}]}}]}),
    sse({"error": "no"}),
    sse({"error": {"code": 5}}),
    b"data: " + b"[" * 100_000 + b"\n\n",
    b"data: " + b"x" * (5 * 2**20),
    DONE,
    b"",
]


@pytest.mark.parametrize(
    "pieces", [[piece] for piece in BEFORE] + [[NEVER()]], ids=[*(str(piece)[:40] for piece in BEFORE), "silence"]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_rubbish_before_the_first_word_fails_over(pieces: list[Piece], stream: bool) -> None:
    """The liar claims the name of a stronger model, so it is asked first."""
    async with Kitchen(*pieces) as kitchen:
        reply = await kitchen.client.chat(stream=stream, swarm=SINGLE)
        said = reply.said() if stream else reply.json["choices"][0]["message"]["content"]
        assert said == "Answer: 16"
        assert len(kitchen.liar.asked) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [sse(5)],
        [chunk("x", index=3)],
        [LAST.replace(b'"completion_tokens": 1', b'"completion_tokens": -1')],
        [sse({"error": {"message": "broke", "code": "engine_failed"}})],
        [DONE],
        [NEVER()],
        [],
    ],
    ids=["rubbish", "another choice", "negative tokens", "its error", "no finish", "silence", "cut"],
)
async def test_rubbish_after_the_first_word_ends_the_stream_with_an_error(pieces: list[Piece]) -> None:
    async with Kitchen(chunk("half an "), *pieces) as kitchen:
        reply = await kitchen.client.chat(stream=True, swarm=SINGLE)
        assert reply.said() == "half an "
        assert not reply.done
        assert reply.chunks[-1]["error"]["code"] == "peer_failed"
        assert "attic" in reply.chunks[-1]["error"]["message"]


async def test_a_proper_stream_of_a_peer_is_taken() -> None:
    async with Kitchen(b": hello\n\n", chunk("one "), chunk("two"), LAST, DONE) as kitchen:
        reply = await kitchen.client.chat(stream=True, swarm=SINGLE)
        assert reply.said() == "one two"
        assert reply.done
        (sent,) = kitchen.liar.headers
        assert sent["X-Swarm-Hops"] == "1"
        assert sent["X-Request-Id"] == reply.headers["X-Request-Id"]
        assert 0 < int(sent["X-Swarm-Deadline-Ms"]) <= 600_000


async def test_the_rest_of_the_deadline_travels_along() -> None:
    async with Kitchen(chunk("one"), LAST, DONE) as kitchen:
        await kitchen.client.chat(swarm={**SINGLE, "deadline_s": 20})
        kitchen.liar.pieces = [candidate("Answer: 16")]
        await kitchen.client.chat(swarm={"votes": 2, "deadline_s": 20})
        assert all(15_000 < int(sent["X-Swarm-Deadline-Ms"]) <= 20_000 for sent in kitchen.liar.headers)
        assert len(kitchen.liar.headers) == 2


@pytest.mark.parametrize("status", [404, 409, 500, 502])
async def test_a_peer_that_answers_another_status_is_passed_over(status: int) -> None:
    async with Kitchen(b"<html>") as kitchen:
        kitchen.liar.status = status
        reply = await kitchen.client.chat(swarm=SINGLE)
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 16"


@pytest.mark.parametrize("swarm", [SINGLE, {"votes": 2}], ids=["single", "vote"])
async def test_a_peer_that_is_shutting_down_is_busy_and_not_broken(swarm: dict[str, Any]) -> None:
    liar = FakePeer("attic", b'{"error": {"code": "unavailable", "message": "shutting down"}}')
    liar.status = 503
    async with kitchen_with(liar) as (client, node):
        reports: list[bool] = []
        node.membership.report_traffic = lambda _, ok: reports.append(ok)
        reply = await client.chat(swarm=swarm)
        assert reply.status == 503
        assert int(reply.headers["Retry-After"]) > 0
        assert not reports


class Kitchen:
    """A liar called "attic" by whose word its model is stronger, and a kitchen that says "Answer: 16"."""

    def __init__(self, *pieces: Piece) -> None:
        self.liar = FakePeer("attic", *pieces, model="large", slots=1)

    async def __aenter__(self) -> Kitchen:
        self._context = kitchen_with(self.liar, "Answer: 16")
        self.client, self.node = await self._context.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._context.__aexit__(*details)

    @property
    def first_voter(self) -> str:
        workers = self.node.pool.get("m")
        assert workers is not None
        return f"{workers.workers[0].name}@kitchen"
