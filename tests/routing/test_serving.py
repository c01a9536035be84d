"""Models as peers are told of them, and as replicas."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from pydantic import ValidationError

from federation.advertisement import ADVERTISED, MAX_NAME_CHARS, MAX_POOLED_NODES, NodeDescription, ServedModel
from federation.hostport import Address
from federation.peer import Peer, PeerState, Source
from swarm.engines.engine import Capabilities, Computation
from swarm.routing.policy import spread
from swarm.routing.replicas import local_replicas, peer_replicas, served_models
from swarm.workers.model_workers import ModelState

CAN = Capabilities(tools=True, grammar=True, logprobs=True, embeddings=True)
STATE = ModelState("demo", "xllamacpp", 4, 3, 2048, CAN, 2_000_000, 120.0, None)
MODEL = ServedModel(id="demo", slots=4, slots_free=2, params=2_000_000)


def peer(state: PeerState = PeerState.ALIVE, model: ServedModel = MODEL, draining: bool = False) -> Peer:
    description = NodeDescription(
        id="abc", name="attic", version="1", url="http://10.0.0.2:17615", models=(model,), draining=draining
    )
    address = Address("10.0.0.2", 17615)
    return Peer("abc", "attic", state, description, address, (address,), Source.MDNS, 1.0, 0.0)


def test_a_model_whose_engine_is_down_is_neither_told_nor_asked() -> None:
    broken = replace(STATE, model_id="other", problem="the engine ended")
    assert [model.id for model in served_models([STATE, broken])] == ["demo"]
    (here,) = local_replicas([STATE, broken], "me", "kitchen")
    assert (here.model, here.slots, here.slots_free, here.node, here.local) == ("demo", 4, 3, "kitchen", True)


@pytest.mark.parametrize("name", [each.name for each in fields(Capabilities)])
def test_a_capability_goes_from_the_engine_to_the_wire_and_to_replicas_by_its_field_alone(name: str) -> None:
    unlike = replace(CAN, **{name: not getattr(CAN, name)})
    (local,) = local_replicas([replace(STATE, capabilities=unlike)], "me", "kitchen")
    assert local.capabilities == unlike
    (served,) = served_models([replace(STATE, capabilities=unlike)])
    said = json.loads(served.model_dump_json())
    assert "capabilities" not in said
    assert (name in said) == (name in ADVERTISED)
    if name in ADVERTISED:
        assert said[name] == getattr(unlike, name)
        (remote,) = peer_replicas([peer(model=ServedModel.model_validate_json(served.model_dump_json()))])
        assert getattr(remote.capabilities, name) == getattr(unlike, name)


def test_the_wire_is_that_of_protocol_1() -> None:
    (served,) = served_models([STATE])
    assert list(json.loads(served.model_dump_json())) == [
        "id", "context_tokens", "params", "tools", "embeddings", "reasoning", "rerank", "infill", "vision", "generates",
        "fingerprint",
        "sha256", "slots", "slots_free", "tokens_per_s", "waiting", "wait_s", "state",
        "engine", "nodes",
    ]  # fmt: skip
    assert ServedModel.model_validate({"id": "m"}).capabilities.tools, "of nodes that do not say, as it was"
    nonsense = ServedModel.model_validate({"id": "m", "capabilities": ["of", "the future"], "infill": True})
    assert nonsense.capabilities == Capabilities(infill=True)


def test_with_what_a_model_is_computed_is_told_to_peers_in_words() -> None:
    card = Computation("llama-server", "b11434", ("NVIDIA GeForce RTX 4090",), 29, 29)
    (served,) = served_models([replace(STATE, computation=card)])
    assert served.engine == "llama-server b11434 on NVIDIA GeForce RTX 4090 (29 of 29 layers)"
    (remote,) = peer_replicas([peer(model=served)])
    assert remote.computed_by == served.engine
    long = replace(card, devices=("a GPU with a long name",) * 99)
    (served,) = served_models([replace(STATE, computation=long)])
    read = ServedModel.model_validate_json(served.model_dump_json())
    assert read.engine == served.engine, "it is cut, and no reason to be refused"
    (silent,) = peer_replicas([peer()])
    assert silent.computed_by is None


def test_a_model_over_several_machines_is_one_replica_of_its_host_and_says_which_they_are() -> None:
    pooled = replace(STATE, nodes=("den", "attic", "cellar"))
    (served,) = served_models([pooled])
    assert json.loads(served.model_dump_json())["nodes"] == ["den", "attic", "cellar"]
    (here,) = local_replicas([pooled], "me", "den")
    told = ServedModel.model_validate_json(served.model_dump_json())
    (there,) = peer_replicas([peer(model=told)], members=True)
    assert (here.nodes, there.nodes) == (("den", "attic", "cellar"),) * 2
    assert (there.node, there.party, there.slots) == ("attic", "abc", 4), "whoever it lies on, its host answers"
    (alone,) = peer_replicas([peer()])
    assert alone.nodes == (), "as nodes of earlier versions tell it"


def test_more_machines_or_longer_names_than_the_wire_takes_are_cut_and_no_reason_to_be_refused() -> None:
    (served,) = served_models([replace(STATE, nodes=tuple(f"{'n' * 80}-{number}" for number in range(40)))])
    read = ServedModel.model_validate_json(served.model_dump_json())
    assert (len(read.nodes), {len(name) for name in read.nodes}) == (MAX_POOLED_NODES, {MAX_NAME_CHARS})
    with pytest.raises(ValidationError, match="nodes"):
        ServedModel.model_validate({"id": "m", "nodes": ["n"] * (MAX_POOLED_NODES + 1)})


def test_a_pooled_model_has_one_seat_and_its_lenders_models_keep_theirs() -> None:
    """A lender that also runs the model by itself is a replica of its own, as it was before it lent."""
    (host,) = local_replicas([replace(STATE, nodes=("den", "attic"))], "me", "den")
    lender = peer_replicas([peer()], members=True)
    seats = spread([host, *lender], 2, idle_only=True)
    assert {(seat.node, seat.party) for seat in seats} == {("den", "me"), ("attic", "abc")}


def test_a_suspect_peer_counts_as_busy_but_stays_a_replica() -> None:
    (alive,) = peer_replicas([peer()])
    (suspect,) = peer_replicas([peer(PeerState.SUSPECT)])
    assert (alive.slots_free, alive.url, alive.node) == (2, "http://10.0.0.2:17615", "attic")
    assert (suspect.slots, suspect.slots_free) == (4, 0)


@pytest.mark.parametrize("gone", [peer(draining=True), peer(model=MODEL.model_copy(update={"slots": 0}))])
def test_a_peer_that_leaves_or_has_no_slots_is_no_replica(gone: Peer) -> None:
    assert peer_replicas([gone]) == ()


def at(node_id: str, *hosts: str, **facts: object) -> Peer:
    """A peer that answers at these hosts, and says these things of its one model."""
    model = MODEL.model_copy(update=facts)
    addresses = tuple(Address(host, 17615) for host in hosts)
    found = peer(model=model)
    description = found.description.model_copy(update={"id": node_id})
    return replace(found, id=node_id, description=description, address=addresses[0], addresses=addresses)


def test_two_identities_behind_one_address_are_one_party_in_an_open_swarm_only() -> None:
    peers = [at("a", "10.0.0.6"), at("b", "10.0.0.6"), at("c", "10.0.0.7"), at("d", "127.0.0.1"), at("e", "127.0.0.1")]
    assert [r.party for r in peer_replicas(peers)] == ["10.0.0.6", "10.0.0.6", "10.0.0.7", "d", "e"]
    assert [r.party for r in peer_replicas(peers, members=True)] == ["a", "b", "c", "d", "e"]
    assert [r.member for r in peer_replicas(peers, members=True)] == [True] * 5


def test_two_that_boast_behind_one_address_have_one_seat_of_five_beside_three_honest_nodes() -> None:
    sybils = [at(name, "10.0.0.6", params=10**15, slots=32, slots_free=32, tokens_per_s=1e7) for name in ("a", "b")]
    honest = [at("c", "10.0.0.7"), at("d", "10.0.0.8")]
    everybody = [*local_replicas([STATE], "me", "kitchen"), *peer_replicas([*sybils, *honest])]
    seats = [replica.party for replica in spread(everybody, 5, idle_only=False)]
    assert sorted(seats) == ["10.0.0.6", "10.0.0.7", "10.0.0.8", "me", "me"]


@pytest.mark.parametrize(
    ("model", "own", "params"),
    [("demo", {}, 2_166_720), ("demo", {"demo": 7}, 7), ("made-up", {}, None), ("made-up", {"made-up": 7}, 7)],
)
def test_what_a_peer_says_of_its_size_is_kept_apart_from_what_is_known(
    model: str, own: dict[str, int], params: int | None
) -> None:
    (found,) = peer_replicas([at("a", "10.0.0.6", id=model, params=10**15)], own)
    assert (found.params, found.reported_params) == (params, 10**15)
