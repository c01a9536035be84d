"""Models as peers are told of them, and as replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.advertisement import NodeDescription, ServedModel
from federation.hostport import Address
from federation.peer import Peer, PeerState, Source
from swarm.engines.engine import Capabilities
from swarm.routing.serving import local_replicas, peer_replicas, served_models
from swarm.workers.pool import ModelState

CAN = Capabilities(4, 2048, tools=True, grammar=True, logprobs=True, embeddings=True, reasoning=False)
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


def test_a_suspect_peer_counts_as_busy_but_stays_a_replica() -> None:
    (alive,) = peer_replicas([peer()])
    (suspect,) = peer_replicas([peer(PeerState.SUSPECT)])
    assert (alive.slots_free, alive.url, alive.node) == (2, "http://10.0.0.2:17615", "attic")
    assert (suspect.slots, suspect.slots_free) == (4, 0)


@pytest.mark.parametrize("gone", [peer(draining=True), peer(model=MODEL.model_copy(update={"slots": 0}))])
def test_a_peer_that_leaves_or_has_no_slots_is_no_replica(gone: Peer) -> None:
    assert peer_replicas([gone]) == ()
