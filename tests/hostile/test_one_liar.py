"""One node that lies about its size, its slots, its speed and in every answer, in open and in paired swarms."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from federation import wire
from federation.peer import PeerState
from swarm.routing.observations import MIN_VOTES
from tests.doubles.clients import Client, connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.lying_member import LARGE, Claims, liar
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

TRUTH, LIE = "Answer: 42", "Answer: 43"
SUM = "What is 40 + 2?"
QUESTIONS = 27  # as many as the attackers asked
LIES = {
    "a quadrillion parameters": ("demo", Claims()),
    "the name of a large model": (LARGE, Claims(70_600_000_000)),
    "a model of its own": ("better-than-all", Claims()),
    "nothing": ("demo", Claims(2_166_720, 1, None)),
}


@dataclass(frozen=True, slots=True)
class House:
    client: Client
    asked: RunningNode
    liars: tuple[RunningNode, ...]


@asynccontextmanager
async def house(
    folder: Path,
    mode: str,
    *lies: tuple[str, Claims],
    honest: int = 3,
    own_slots: int = 2,
    contents: tuple[str | None, str | None] = (None, None),
) -> AsyncIterator[House]:
    """`honest` nodes that say the truth, the last of which is asked and has `own_slots`; and a liar for each lie.

    `contents` are the fingerprints that the liars and the honest tell of their models.
    """
    names = [*(f"liar-{number}" for number in range(len(lies))), *(f"honest-{number}" for number in range(honest))]
    trusts = paired_trusts(folder, *names) if mode == "paired" else (None,) * len(names)
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        for number, (name, trust) in enumerate(zip(names, trusts, strict=True)):
            is_liar = number < len(lies)
            model, told = (lies[number][0] if is_liar else "demo"), contents[not is_liar]
            options = NodeOptions(
                peers=[node.address for node in nodes],
                trust=trust,
                params=2_166_720,
                contents={} if told is None else {model: told},
            )
            if is_liar:
                model, claims = lies[number]
                node: RunningNode = liar(name, options, model=model, claims=claims)
            else:
                slots = own_slots if number == len(names) - 1 else 2
                loaders = [ready(ScriptedEngine(saying(TRUTH), model_id="demo", slots=slots))] if slots else []
                node = RunningNode(name, *loaders, options=options)
            nodes.append(await stack.enter_async_context(node))
        asked = nodes[-1]
        await asked.until(lambda: len(asked.membership.alive()) == len(names) - 1)
        yield House(await stack.enter_async_context(connect(asked.url)), asked, tuple(nodes[: len(lies)]))


def said(reply: Any) -> str:
    return reply.json["choices"][0]["message"]["content"]


def seats_of(account: dict[str, Any], name: str) -> int:
    return sum(part["voter"].split("@")[1].startswith(name) for part in account["candidates"])


@pytest.mark.parametrize("mode", ["open", "paired"])
@pytest.mark.parametrize("lie", LIES)
async def test_one_liar_of_four_decides_no_answer_and_has_one_seat(tmp_path: Path, mode: str, lie: str) -> None:
    async with house(tmp_path, mode, LIES[lie]) as swarm:
        for _ in range(QUESTIONS):
            reply = await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
            account = reply.json["swarm"]
            assert said(reply) == TRUTH, account
            assert account["outcome"] == "consensus"
            assert seats_of(account, "liar") <= 1
        unasked = (await swarm.client.chat(SUM)).json  # as most clients ask: of the strongest, by the names here known
        named = lie == "the name of a large model"
        assert unasked["choices"][0]["message"]["content"] == (LIE if named else TRUTH)
        assert unasked["swarm"]["outcome"] == ("single" if named else "consensus"), "alone it agrees with nobody"


@pytest.mark.parametrize("mode", ["open", "paired"])
async def test_two_liars_of_five_decide_no_answer_where_the_honest_agree(tmp_path: Path, mode: str) -> None:
    claims = (LIES["a quadrillion parameters"], LIES["the name of a large model"])
    async with house(tmp_path, mode, *claims) as swarm:
        for _ in range(9):
            reply = await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
            assert (said(reply), seats_of(reply.json["swarm"], "liar")) == (TRUTH, 2)


HONEST, OTHER = "aa" * 32, "00" * 32
BIG = Claims(70_600_000_000)


@pytest.mark.parametrize("mode", ["open", "paired"])
@pytest.mark.parametrize("own_slots", [2, 0], ids=["of its own", "of peers"])
@pytest.mark.parametrize(
    ("lie", "told", "seats"),
    [
        (("demo", Claims()), HONEST, 1),
        ((LARGE, BIG), HONEST, 1),
        (("better-than-all", Claims()), HONEST, 1),
        (("demo", Claims()), OTHER, 0),
        (("demo", Claims()), None, 1),
    ],
    ids=["copies", "copies under a large name", "copies under a name of its own", "tells another", "tells none"],
)
async def test_a_liar_gains_nothing_by_the_content_that_it_tells(
    tmp_path: Path, mode: str, own_slots: int, lie: tuple[str, Claims], told: str | None, seats: int
) -> None:
    """Whoever copies a content has the seat of one that copies a name; whoever tells another puts itself apart."""
    async with house(tmp_path, mode, lie, honest=4, own_slots=own_slots, contents=(told, HONEST)) as swarm:
        for _ in range(3):
            reply = await swarm.client.chat(SUM, model="demo", swarm={"votes": 5, "min_votes": 5})
            assert said(reply) == TRUTH, reply.json["swarm"]
            assert seats_of(reply.json["swarm"], "liar") <= seats
        unasked = (await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})).json
        assert unasked["choices"][0]["message"]["content"] == TRUTH
        assert seats_of(unasked["swarm"], "liar") <= 1
        listed = {model["id"] for model in (await swarm.client.get("/v1/models")).json["data"]}
        assert listed == {"demo", "swarm"} | ({"demo@000000"} if told == OTHER else set())


async def test_where_the_honest_are_split_a_liars_vote_counts_like_any_other(tmp_path: Path) -> None:
    """The two workers of the asked node err as it lies, and so its vote makes three of five."""
    async with house(tmp_path, "paired", LIES["nothing"]) as swarm:
        workers = swarm.asked.pool.get("demo")
        assert workers is not None
        workers.engine.script = lambda *_: [LIE]  # type: ignore[attr-defined]
        reply = await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5, "strategy": "majority"})
        assert (said(reply), reply.json["swarm"]["agreement"]) == (LIE, 0.6)


async def test_as_many_liars_as_honest_nodes_outvote_a_node_without_workers(tmp_path: Path) -> None:
    """What votes cannot do: three of five that agree are a majority, whoever they are."""
    lies = (LIES["nothing"],) * 3
    async with house(tmp_path, "paired", *lies, honest=3, own_slots=0) as swarm:
        reply = await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
        assert said(reply) == LIE


@pytest.mark.parametrize("mode", ["open", "paired"])
async def test_answers_of_one_peer_alone_are_single_however_many(tmp_path: Path, mode: str) -> None:
    async with house(tmp_path, mode, LIES["a quadrillion parameters"], honest=1, own_slots=0) as swarm:
        reply = await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
        account = reply.json["swarm"]
        assert (account["votes"], account["outcome"], account["agreement"]) == (5, "single", None)
        assert "X-Swarm-Agreement" not in reply.headers
        strict = {"votes": 3, "min_votes": 3, "on_no_quorum": "error"}
        assert (await swarm.client.chat(SUM, swarm=strict)).json["swarm"]["outcome"] == "single"


async def test_a_stranger_beside_a_lone_open_node_never_has_half_of_a_vote(tmp_path: Path) -> None:
    for lie in LIES.values():
        async with house(tmp_path, "open", lie, honest=1) as swarm:
            reply = await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 2})
            assert said(reply) == TRUTH
            assert seats_of(reply.json["swarm"], "liar") <= 1


async def test_a_member_that_claims_a_larger_model_answers_alone_beside_one_node_and_it_is_called_single(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, "paired", LIES["the name of a large model"], honest=1) as swarm:
        reply = await swarm.client.chat(SUM, swarm={"votes": 5})
        assert (said(reply), reply.json["swarm"]["outcome"]) == (LIE, "single")
        assert reply.json["swarm"]["winner"].endswith("@liar-0")
        named = await swarm.client.chat(SUM, model="demo", swarm={"votes": 5, "min_votes": 2})
        assert said(named) == TRUTH, "a name is asked of those who serve it"


@pytest.mark.parametrize("mode", ["open", "paired"])
async def test_single_answers_of_the_alias_go_to_whoever_claims_the_largest_known_name(
    tmp_path: Path, mode: str
) -> None:
    async with house(tmp_path, mode, LIES["the name of a large model"]) as swarm:
        assert said(await swarm.client.chat(SUM, swarm={"strategy": "single"})) == LIE
    async with house(tmp_path, mode, LIES["a model of its own"]) as swarm:
        assert said(await swarm.client.chat(SUM, swarm={"strategy": "single"})) == TRUTH


async def test_a_race_is_won_by_whoever_answers_first_and_called_single(tmp_path: Path) -> None:
    async with house(tmp_path, "paired", LIES["nothing"], honest=1) as swarm:
        workers, gate = swarm.asked.pool.get("demo"), asyncio.Event()
        assert workers is not None
        workers.engine.script = lambda *_: [gate, TRUTH]  # type: ignore[attr-defined]
        reply = await swarm.client.chat(SUM, swarm={"votes": 2, "strategy": "first"})
        assert (said(reply), reply.json["swarm"]["outcome"]) == (LIE, "single")


async def test_a_boast_of_speed_brings_one_answer_at_most(tmp_path: Path) -> None:
    """Its answers are too short to be measured, which is no way to keep a boast."""
    async with house(tmp_path, "open", ("demo", Claims(2_166_720, 32, 1e7))) as swarm:
        winners = [
            (await swarm.client.chat(SUM, swarm={"strategy": "single"})).json["swarm"]["winner"] for _ in range(8)
        ]
        assert sum("liar" in winner for winner in winners) <= 1, winners


@pytest.mark.parametrize("mode", ["open", "paired"])
async def test_a_member_that_dissents_is_named_with_its_numbers_and_what_to_do(tmp_path: Path, mode: str) -> None:
    async with house(tmp_path, mode, LIES["a quadrillion parameters"]) as swarm:
        for _ in range(MIN_VOTES):
            await swarm.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
        peers = {peer["name"]: peer for peer in (await swarm.client.get("/v1/federation/health")).json["peers"]}
        size, votes = sorted(peers["liar-0"]["problems"], reverse=True)
        assert size == "says that demo has 1,000,000,000,000,000 parameters; it has about 2,166,720"
        assert votes == f"{MIN_VOTES} of {MIN_VOTES} countable votes against the rest; all others together 0 of 40"
        assert [peers[f"honest-{number}"]["problems"] for number in range(2)] == [[], []]


# Goodbyes over sockets: the peer is at 127.0.0.2, and whoever forges at 127.0.0.1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_forged_goodbyes_keep_no_peer_out_of_routing() -> None:
    async with FakePeer("attic", host="127.0.0.2") as attic:
        node = RunningNode("kitchen", options=NodeOptions(peers=[attic.address]))
        async with run_nodes(node), connect(node.url) as client:
            left: list[object] = []
            node.membership.subscribe(left.append)
            for instance in ("run-of-attic", "another", None) * 5:
                body = {"id": "id-attic"} if instance is None else {"id": "id-attic", "instance": instance}
                assert (await client.post(wire.GOODBYE_PATH, body)).status == 200
                assert [peer.state for peer in node.membership.alive()] == [PeerState.ALIVE]
                await asyncio.sleep(0)
            assert left == [], "it was not even doubted aloud"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_a_goodbye_from_where_the_peer_is_and_of_its_run_is_believed_at_once() -> None:
    async with FakePeer("attic") as attic:
        node = RunningNode("kitchen", options=NodeOptions(peers=[attic.address]))
        async with run_nodes(node), connect(node.url) as client:
            await client.post(wire.GOODBYE_PATH, {"id": "id-attic", "instance": "run-of-attic"})
            assert node.membership.alive() == ()
            await eventually(lambda: bool(node.membership.alive()))  # it answers: the next probe corrects


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_an_outsider_cannot_send_a_node_to_other_addresses_in_a_peers_name() -> None:
    async with FakePeer("attic", host="127.0.0.2") as attic, FakePeer("target", host="127.0.0.3") as target:
        node = RunningNode("kitchen", options=NodeOptions(peers=[attic.address]))
        async with run_nodes(node), connect(node.url) as client:
            host, port = target.address
            news = json.dumps([{"id": "id-target", "what": "joined", "host": host, "port": port}])
            headers = {"x_swarm_from": "id-attic", "x_swarm_news": news}
            assert (await client.get(wire.NODE_PATH, **headers)).status == 200
            assert not any(target.address in peer.addresses for peer in node.membership.peers())
            assert target.address not in node.membership._table._held.contacts
