"""Peers that answer rubbish, by the thousand: an error that names the peer, never another, and clients are answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.advertisement import list_body, parse_description, parse_hints, parse_loadable
from federation.client import PeerClient
from federation.errors import FederationError, PeerError
from federation.file_exchange import FilePeer, list_files, parse_file_list, parse_pieces, piece_hashes, read_piece
from federation.peer_response import AnswerLimits, LineSplitter
from federation.roster import Roster, parse_roster
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.engine import Tokens
from swarm.engines.openai_dialect import ChunkReader, sse_data
from swarm.errors import BadRequest, PeerFailed, SwarmError, Unavailable
from swarm.gateway.http.bodies import compact
from swarm.gateway.openai.utility_calls import PEER_UTILITIES, TokenizeBody, tokenize
from swarm.generation import GenerationRequest
from swarm.routing.peer_answers import (
    LEADER_LINE,
    peer_candidates,
    peer_events,
    read_candidate,
    read_chunk,
    read_leader_step,
)
from swarm.routing.replicas import Replica
from swarm.routing.router import FailureLimits
from swarm.routing.utilities import UtilityCall, ask_peer, read_answer
from tests.doubles.clients import connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.hostile import malformed
from tests.hostile.lying_server import LyingServer
from tests.hostile.malformed import FRAMES, OVER_SOCKETS, PARSED, ROUNDS, THROUGH_A_NODE, cut_up, messages

ATTIC = Replica("id-attic", "attic", "m", slots=4, slots_free=4, url="http://attic")
REQUEST = GenerationRequest(model="m", messages=({"role": "user", "content": "hello"},))
ANSWER_S = 5.0
GROWN_BYTES = 96 << 20  # the allocator keeps some of what a few large messages took; a leak of all would be twice that
SEEDED = settings(
    max_examples=ROUNDS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TOKENIZE: UtilityCall[Tokens] = tokenize(TokenizeBody(content="ab", with_pieces=True))
CALLS = {
    name: utility.call(utility.schema.model_validate(body))
    for name, utility, body in (
        ("tokenize", PEER_UTILITIES["tokenize"], {"content": "ab", "with_pieces": True}),
        ("detokenize", PEER_UTILITIES["detokenize"], {"tokens": [1]}),
        ("apply-template", PEER_UTILITIES["apply-template"], {"messages": [{"role": "user", "content": "a"}]}),
        (
            "count-tokens",
            PEER_UTILITIES["count-tokens"],
            {"model": "m", "messages": [{"role": "user", "content": "a"}]},
        ),
        ("embeddings", PEER_UTILITIES["embeddings"], {"model": "m", "input": "a"}),
        ("rerank", PEER_UTILITIES["rerank"], {"query": "a", "documents": ["b"]}),
        ("props", PEER_UTILITIES["props"], {}),
    )
}


# Every parser, in this process


def read_lines(raw: bytes, source: random.Random) -> None:
    splitter = LineSplitter(AnswerLimits().line_bytes)
    lines = [line for piece in cut_up(source, raw) for line in splitter.feed(piece)]
    for line in (*lines, splitter.finish() or b"{}"):
        if line.startswith(LEADER_LINE):
            read_leader_step(line, ATTIC)
        else:
            candidate = read_candidate(line, ATTIC, 5)
            json.loads(compact(candidate.model_dump()), parse_constant=pytest.fail)


def read_events(raw: bytes, source: random.Random) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for piece in cut_up(source, b"data: " + raw + b"\n\n"):
            yield piece

    async def read() -> None:
        reader, builder = ChunkReader(chat=True), AnswerBuilder()
        async for data in sse_data(stream()):
            for event in read_chunk(reader, data, ATTIC):
                builder.add(event)
        made = builder.candidate("Rex@attic", "attic", "m", 5)
        json.loads(compact(made.model_dump()), parse_constant=pytest.fail)

    driven = read()
    with pytest.raises(StopIteration):  # nothing in it waits, so no event loop is needed
        driven.send(None)


def read_utility(raw: bytes, source: random.Random) -> None:
    name = source.choice(list(CALLS))
    compact(CALLS[name].answer.dump_python(read_answer(raw, ATTIC, CALLS[name])))


Parser = Callable[[bytes, random.Random], object]
PARSERS: Mapping[str, tuple[Parser, tuple[Any, ...]]] = {
    "node": (lambda raw, _: parse_description(raw).model_dump_json(), (malformed.NODE,)),
    "peers": (lambda raw, _: [hint.address for hint in parse_hints(raw)], (malformed.PEERS,)),
    "loadable": (lambda raw, _: list_body(parse_loadable(raw).models), (malformed.LOADABLE,)),
    "roster": (lambda raw, _: parse_roster(raw).digest, (malformed.ROSTER,)),
    "models": (lambda raw, _: parse_file_list(raw), (malformed.FILES,)),
    "pieces": (lambda raw, _: parse_pieces(raw).span(0), (malformed.PIECES,)),
    "candidates": (
        read_lines,
        (malformed.CANDIDATE, malformed.CANDIDATE, malformed.STEP, malformed.REFUSAL, malformed.BUSY),
    ),
    "generate": (read_events, (malformed.CHUNK, malformed.CHUNK, malformed.LAST_CHUNK, malformed.REFUSAL)),
    "utilities": (read_utility, tuple(itertools.chain(*malformed.UTILITIES.values(), (malformed.REFUSAL,)))),
}


def test_thousands_of_messages_are_parsed_or_refused() -> None:
    """No exception but those declared, and no memory kept."""
    counted: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    told: list[str] = []
    each = PARSED // ROUNDS // len(PARSERS)

    @SEEDED
    @given(seed=st.integers(0, 2**32))
    def parse(seed: int) -> None:
        source = random.Random(seed)
        for kind, (parser, honest) in PARSERS.items():
            for raw in itertools.islice(messages(seed, *honest), each):
                counted[kind] += 1
                try:
                    parser(raw, source)
                    outcomes["taken"] += 1
                except (FederationError, SwarmError) as error:
                    outcomes[type(error).__name__] += 1
                    told.append(str(error))

    before = psutil.Process().memory_info().rss
    parse()
    assert sum(counted.values()) == PARSED
    assert max(map(len, told)) < 2000, "what they quote is bounded"
    assert [text for text in told if not text.isprintable()] == []
    assert set(counted.values()) == {PARSED // len(PARSERS)}
    assert outcomes["taken"] > PARSED // 100, f"some survive the damage, or nothing was tested: {outcomes}"
    assert outcomes["PeerMalformed"] > PARSED // 10
    assert psutil.Process().memory_info().rss - before < GROWN_BYTES


# Real sockets


async def drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


def ways_to_ask(
    client: PeerClient, server: LyingServer
) -> dict[str, tuple[tuple[Any, ...], Callable[[], Awaitable[object]]]]:
    """Everything that is ever asked of a peer, with what an honest one answers."""
    replica = Replica("id-attic", "attic", "m", slots=4, slots_free=4, url=server.address.url)
    peer, at = FilePeer("id-attic", "attic", server.address), server.address
    loop = asyncio.get_running_loop()

    def deadline() -> float:
        return loop.time() + ANSWER_S

    return {
        "node": ((malformed.NODE,), lambda: client.describe(at, ANSWER_S)),
        "peers": ((malformed.PEERS,), lambda: client.peers(at, ANSWER_S)),
        "loadable": ((malformed.LOADABLE,), lambda: client.loadable(at, ANSWER_S)),
        "goodbye": (({"status": "ok"},), lambda: client.goodbye(at, "id-here", ANSWER_S)),
        "roster": ((malformed.ROSTER,), lambda: client.exchange_roster(at, Roster(swarm="0" * 16), ANSWER_S)),
        "models": ((malformed.FILES,), lambda: list_files(client, peer)),
        "pieces": ((malformed.PIECES,), lambda: piece_hashes(client, peer, malformed.SHA256)),
        "content": (("abcde",), lambda: read_piece(client, peer, malformed.SHA256, (0, 5))),
        "candidates": (
            (malformed.CANDIDATE, malformed.REFUSAL),
            lambda: drained(peer_candidates(client, replica, REQUEST, 2, deadline())),
        ),
        "generate": (
            (malformed.CHUNK, malformed.REFUSAL),
            lambda: drained(peer_events(client, replica, REQUEST, deadline())),
        ),
        "utilities": (
            (*malformed.UTILITIES["tokenize"], malformed.BUSY),
            lambda: ask_peer(client, replica, TOKENIZE, deadline()),
        ),
    }


async def test_over_real_sockets_every_answer_is_one_or_a_peers_error(caplog: pytest.LogCaptureFixture) -> None:
    counted, outcomes = 0, Counter[str]()
    async with LyingServer() as server, PeerClient("id-here") as client:
        source = random.Random(7)
        ways = ways_to_ask(client, server)
        streams = {kind: messages(11 + place, *honest) for place, (kind, (honest, _)) in enumerate(ways.items())}
        for kind, (_, ask) in itertools.islice(itertools.cycle(ways.items()), OVER_SOCKETS):
            body = next(streams[kind])
            server.reply = source.choice(FRAMES)(b"data: " + body + b"\n\n" if kind == "generate" else body)
            counted += 1
            try:
                async with asyncio.timeout(2 * ANSWER_S):
                    await ask()
                outcomes["taken"] += 1
            except (PeerError, PeerFailed, BadRequest, Unavailable) as error:
                outcomes[type(error).__name__] += 1
        assert server.asked > OVER_SOCKETS * 0.95, "now and then a connection it has closed is found closed"
    assert counted == OVER_SOCKETS
    assert outcomes["PeerProtocolError"] > OVER_SOCKETS // 20, outcomes
    assert outcomes["PeerFailed"] + outcomes["PeerMalformed"] > OVER_SOCKETS // 10, outcomes
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


# Through a node, for a client


@asynccontextmanager
async def kitchen_beside(liar: FakePeer, **options: Any) -> AsyncIterator[tuple[RunningNode, list[bool]]]:
    """A kitchen that says "Answer: 16" itself and knows the liar, which claims the stronger model; its reports."""
    async with liar:
        engine = ScriptedEngine(saying("Answer: 16"), model_id="m")
        kitchen = RunningNode("kitchen", ready(engine), options=NodeOptions(peers=[liar.address], **options))
        async with run_nodes(kitchen):
            reports: list[bool] = []
            kitchen.membership.report_traffic = lambda _, ok: reports.append(ok)
            yield kitchen, reports


def said(reply: Any) -> str:
    return reply.json["choices"][0]["message"]["content"] or ""


async def test_a_client_gets_a_right_answer_whatever_a_peer_sends(caplog: pytest.LogCaptureFixture) -> None:
    """Of the whole node nothing breaks; the lies are the peer's fault and not the client's."""
    patient = FailureLimits(to_open=10 * THROUGH_A_NODE, retry_share=1.0)  # else it is asked three times only
    counted = 0
    liar = FakePeer("attic", model="large", slots=1)
    async with kitchen_beside(liar, failure_limits=patient) as (kitchen, reports), connect(kitchen.url) as client:
        lies = messages(3, malformed.CHUNK, malformed.CANDIDATE)
        for swarm in itertools.islice(itertools.cycle(({"strategy": "single"}, {"votes": 3})), THROUGH_A_NODE):
            lie = next(lies)
            liar.pieces = [b"data: " + lie + b"\n\n"] if "strategy" in swarm else [lie + b"\n"]
            counted += 1
            reply = await client.chat(swarm=swarm, max_tokens=9)
            assert reply.status == 200, (lie[:300], reply.text)
            json.loads(reply.text, parse_constant=pytest.fail)
            assert said(reply) == "Answer: 16", (lie[:300], reply.text)
    assert counted == THROUGH_A_NODE
    assert reports.count(False) > THROUGH_A_NODE // 4, "the liar is charged"
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
