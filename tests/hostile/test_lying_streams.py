"""Proxied streams that go wrong late, deep or without end: the peer's fault, within bounds, and never the client's."""

from __future__ import annotations

from functools import partial

import pytest

from federation.client import PeerClient
from federation.peer_response import AnswerLimits
from tests.doubles.clients import connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying

SINGLE = {"strategy": "single"}
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null,"logprobs":%s}]}\n\n'
LAST = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)
MAX_STREAM_BYTES = 1 << 20  # in these tests; 64 MiB otherwise


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("depth", [17, 100, 250, 900, 975])
async def test_logprobs_nested_beyond_reason_are_the_peers_fault(depth: int, stream: bool) -> None:
    """Python's JSON reads them, and what writes them for the client gives up."""
    await rubbish_costs_the_client_nothing([CHUNK % (b"lie", b"[" * depth + b"]" * depth), LAST], stream)


async def test_a_broken_off_answer_is_given_by_another_where_the_client_has_seen_nothing() -> None:
    await rubbish_costs_the_client_nothing([CHUNK % (b"half a lie", b"null")], stream=False)


async def test_an_answer_without_end_is_cut_off() -> None:
    piece = CHUNK % (b"x" * 60_000, b"null")
    await rubbish_costs_the_client_nothing([piece] * 400, stream=False)


async def rubbish_costs_the_client_nothing(pieces: list[bytes], stream: bool) -> None:
    """The peer with the stronger model answers with `pieces`; the kitchen's own engine answers then."""
    engine = ScriptedEngine(saying("the truth"), model_id="m")
    async with FakePeer("attic", *pieces, model="large") as attic:
        bounded = partial(PeerClient, limits=AnswerLimits(stream_bytes=MAX_STREAM_BYTES))
        kitchen = RunningNode("kitchen", ready(engine), options=NodeOptions(peers=[attic.address], client=bounded))
        async with run_nodes(kitchen), connect(kitchen.url) as client:
            reports: list[bool] = []
            kitchen.membership.report_traffic = lambda _, ok: reports.append(ok)
            reply = await client.chat(stream=stream, swarm=SINGLE)
            assert attic.asked, "it was asked first"
            text = reply.said() if stream else reply.json["choices"][0]["message"]["content"]
            assert (reply.status, text) == (200, "the truth")
            assert reports == [False]
