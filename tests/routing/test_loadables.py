"""Where a model that is not loaded is loaded: one place, whoever asks, and the one that has it soonest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.advertisement import Capabilities, LoadableModel, NodeDescription, ServedModel, parse_loadable
from federation.hostport import Address
from federation.peer import Peer, PeerState, Source
from swarm.routing.loadables import (
    LIST_AGE_S,
    OwnLoadables,
    Stock,
    StockIndex,
    loadable_replicas,
    peer_stocks,
    ready_in_s,
    soonest_ready,
    worth_a_second,
)
from swarm.routing.replicas import KnownNames, Replica, names_by_content
from tests.doubles.replicas import Clock, replica

X, Y = "aa" * 32, "bb" * 32


def loadable(node: str, **facts: Any) -> Replica:
    return replica(node, free=0, **{"state": "available", "fingerprint": X, "load_s": 4.0, **facts})


def order(*replicas: Replica) -> list[str]:
    return [each.node for each in soonest_ready(replicas)]


# The order


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"suspect": True}, {"load_s": 100.0}),
        ({"circuit": "open"}, {"fits": False}),
        ({"pinned": False}, {"pinned": True, "load_s": 100.0}),
        ({"weight": 0.0}, {"load_s": 100.0}),
        ({"fits": False, "load_s": 1.0}, {"load_s": 100.0}),
        ({"load_s": 1.0}, {"state": "loading", "load_s": 100.0}),
        ({"load_s": 9.0, "at_work": 0}, {"load_s": 4.0, "at_work": 9}),
        ({"load_s": None, "size_bytes": 10**10}, {"load_s": 4.0}),
        ({"load_s": 4.0}, {"load_s": None, "size_bytes": 10**7}),
        ({"at_work": 5}, {"at_work": 0}),
        ({"at_work": 5, "load_s": 4.1}, {"at_work": 0, "load_s": 4.2}),
    ],
    ids=str,
)
def test_the_first_difference_decides(worse: dict[str, Any], better: dict[str, Any]) -> None:
    for names in (("a", "b"), ("b", "a")):
        assert order(loadable(names[0], **worse), loadable(names[1], **better)) == [names[1], names[0]]


def test_what_is_leaving_or_has_failed_comes_last() -> None:
    states = ("dreaming", "failed", "draining", "available", "loading")
    found = soonest_ready(loadable(f"n{place}", state=state) for place, state in enumerate(states))
    assert [each.state for each in found][:3] == ["loading", "available", "draining"]
    roomless = loadable("a", state="available", fits=False)
    assert order(roomless, loadable("b", state="unloading")) == ["a", "b"]


def test_equal_ones_are_drawn_by_the_same_lot_for_all_and_another_for_each_model() -> None:
    nodes = [f"n{number}" for number in range(5)]
    firsts = {
        fingerprint: order(*(loadable(node, fingerprint=fingerprint) for node in nodes))[0]
        for fingerprint in (f"{number:064x}" for number in range(60))
    }
    assert set(firsts.values()) == set(nodes), "each has its share"
    unknown = [loadable(node, fingerprint=None) for node in nodes]
    assert order(*reversed(unknown)) == nodes


@given(st.data())
def test_every_node_that_asks_chooses_the_same(data: Any) -> None:
    """Whoever looks, and whichever of them is "here": what differs between them decides nothing."""
    facts = st.fixed_dictionaries(
        {
            "load_s": st.one_of(st.none(), st.floats(0, 100)),
            "fits": st.booleans(),
            "at_work": st.integers(0, 20),
            "state": st.sampled_from(["available", "loading", "failed"]),
            "size_bytes": st.integers(0, 10**11),
        }
    )
    nodes = {f"n{number}": data.draw(facts) for number in range(data.draw(st.integers(1, 5)))}
    seen: set[tuple[str, ...]] = set()
    for here in nodes:
        view = [
            replace(
                loadable(node, **told),
                url=None if node == here else f"http://{node}",
                rtt_s=data.draw(st.floats(0, 1)),
                params=data.draw(st.sampled_from([None, 5])),
                model=data.draw(st.sampled_from(["m", "n"])),
                tokens_per_s=data.draw(st.floats(0, 100)),
            )
            for node, told in data.draw(st.permutations(list(nodes.items())))
        ]
        seen.add(tuple(each.node for each in soonest_ready(view)))
    assert len(seen) == 1


def test_how_long_a_load_takes_is_told_or_guessed_by_size() -> None:
    assert ready_in_s(loadable("a", load_s=0.01)) == 1.0, "what takes no time is not sooner than what takes little"
    assert ready_in_s(loadable("a", load_s=None, size_bytes=0)) == 1.0
    assert ready_in_s(loadable("a", load_s=None, size_bytes=4 * 10**9)) == pytest.approx(21.0)


# A second one


def busy(node: str = "a", wait_s: float = 60.0, **facts: Any) -> Replica:
    return replica(node, free=0, waiting=8, wait_s=wait_s, fingerprint=X, **facts)


@pytest.mark.parametrize(
    ("ready", "others", "where"),
    [
        ([busy()], [loadable("b")], "b"),
        ([busy()], [loadable("here")], "here"),
        ([busy(wait_s=5.9)], [loadable("b")], None),
        ([busy(wait_s=6.1)], [loadable("b")], "b"),
        ([busy(wait_s=4.9)], [loadable("b", load_s=1.0)], None),
        ([busy(wait_s=60), busy("c", wait_s=3)], [loadable("b")], None),
        ([busy(), replica("c", free=1)], [loadable("b")], None),
        ([busy(), replica("c", free=1, suspect=True)], [loadable("b")], "b"),
        ([busy()], [loadable("b", at_work=1)], None),
        ([busy()], [loadable("b", fits=False)], None),
        ([busy()], [loadable("b", suspect=True)], None),
        ([busy()], [loadable("b", weight=0.0)], None),
        ([busy()], [loadable("b", state="failed")], None),
        ([busy(pinned=True)], [loadable("b", pinned=False)], None),
        ([busy()], [loadable("b"), loadable("c", state="loading")], None),
        ([busy()], [loadable("a")], None),
        ([busy()], [], None),
        ([], [loadable("b")], None),
        ([busy(upstream=True)], [loadable("b")], None),
    ],
)
def test_a_queue_that_is_longer_than_a_load_is_worth_one(
    ready: list[Replica], others: list[Replica], where: str | None
) -> None:
    found = worth_a_second(ready, others)
    assert (found and found.node) == where


# What is told


@dataclass(frozen=True)
class Stored:
    """A `Storable`."""

    model_id: str
    expected_load_s: float | None = 3.14159
    listed: bool = True
    also: tuple[str, ...] = ()
    params: int | None = 4_000_000_000
    size_bytes: int = 2_600_000_000
    fingerprint: str | None = X
    sha256: str | None = None
    context_tokens: int = 8192
    slots: int = 4
    capabilities: Capabilities = field(default_factory=Capabilities)


def test_what_is_told_is_what_is_planned_with_and_the_same_while_nothing_changes() -> None:
    clock, stored = (
        Clock(),
        [(Stored("qwen3:4b"), "available", True), (Stored("demo", listed=False), "available", True)],
    )
    own = OwnLoadables(lambda: list(stored), clock)
    models, digest = own.models(), own.digest
    assert [(m.id, m.load_s, m.fits, m.state) for m in models] == [
        ("qwen3:4b", 3.1, True, "available"),
        ("demo", 3.1, True, "available"),
    ]
    told = parse_loadable(own.body())
    assert (told.models, told.digest, own.unlisted) == (models[:1], digest, {"demo"})
    stored[0] = (Stored("qwen3:4b", expected_load_s=3.1001), "available", True)
    clock.now += LIST_AGE_S
    assert (own.models(), own.digest) == (models, digest), "a measurement more is no change"
    assert own.models() is models
    stored[0] = (Stored("qwen3:4b"), "loading", True)
    assert own.digest == digest, "looked at some time ago"
    own.changed()
    assert own.digest != digest
    assert own.models()[0].state == "loading"
    assert OwnLoadables().digest is None


def test_what_a_store_has_and_the_wire_does_not_take_is_left_out() -> None:
    names = ("", "x" * 257, *(f"n{number}" for number in range(20)))
    own = OwnLoadables(lambda: [(Stored("m", expected_load_s=1e9, also=names), "available", False)])
    (model,) = parse_loadable(own.body()).models
    assert (model.also, model.load_s, model.fits) == (tuple(f"n{number}" for number in range(8)), 1e6, False)


def peer(*models: LoadableModel, state: PeerState = PeerState.ALIVE, **said: Any) -> Peer:
    served = (ServedModel(id="s", slots=4, slots_free=1, waiting=2),)
    fields = {"id": "id-a", "name": "attic", "version": "0", "url": "http://x:1", "models": served, **said}
    at = Address("10.0.0.2", 17615)
    return Peer(
        "id-a",
        "attic",
        state,
        NodeDescription.model_validate(fields),
        at,
        (at,),
        Source.MDNS,
        20.0,
        0.0,
        loadable=models,
    )


def test_peers_tell_where_models_could_be_loaded() -> None:
    qwen = LoadableModel(
        id="q", fingerprint=X, params=9, size_bytes=7, load_s=2.0, context_tokens=64, slots=3, also=("b",)
    )
    own = Stock("me", "here", (LoadableModel(id="qwen3:4b", fingerprint=X, params=5, state="ready"),))
    other = LoadableModel(id="qwen3:4b", fingerprint=Y, params=9, state="loading", fits=False)
    running = LoadableModel(id="r", fingerprint="cc" * 32, state="ready")
    stocks = (own, *peer_stocks([peer(qwen, other, running)]))
    names = names_by_content([stock.holder for stock in stocks])
    mine, found, apart, runs = loadable_replicas(stocks, names, {"qwen3:4b": 5})
    assert [(each.model, each.state) for each in (mine, runs)] == [("qwen3:4b", "loading"), ("r", "loading")], (
        "for who has not heard yet that they are served"
    )
    assert (found.model, found.model_there, found.node, found.url) == (
        "qwen3:4b",
        "q",
        "attic",
        "http://10.0.0.2:17615",
    )
    assert (found.params, found.reported_params) == (5, 9), "as this node knows that content"
    assert (found.slots, found.slots_free, found.context_tokens, found.load_s, found.at_work) == (3, 0, 64, 2.0, 5)
    assert (found.size_bytes, found.also, found.party, found.state) == (7, ("b",), "10.0.0.2", "available")
    assert (apart.model, apart.model_there, apart.fits, apart.state) == (
        "qwen3:4b@bbbbbb",
        "qwen3:4b",
        False,
        "loading",
    )
    assert apart.params != 5
    assert [each.node for each in loadable_replicas(stocks, names, {}, "qwen3:4b")] == ["here", "attic"]
    assert loadable_replicas(stocks, KnownNames(), {}) == (), "whose content has no name yet"


def test_nothing_is_loaded_at_a_peer_that_leaves_and_one_in_doubt_is_known_to_be() -> None:
    model = LoadableModel(id="m")
    assert peer_stocks([peer(model, draining=True), peer()]) == ()
    (stock,) = peer_stocks([peer(model, state=PeerState.SUSPECT)], members=True)
    assert (stock.suspect, stock.member, stock.holder.party) == (True, True, "id-a")


def test_what_was_found_before_is_no_other_than_what_is_found_anew() -> None:
    """Of one index over all that happens: a list that changes, a content that gets another name, a node that goes."""
    index = StockIndex()
    shared, apart = LoadableModel(id="q", fingerprint=X), LoadableModel(id="r", fingerprint=Y)
    first = Stock("a", "attic", (shared, apart))
    second = Stock("b", "barn", (LoadableModel(id="z", fingerprint=X), LoadableModel(id="untold")))
    loading = replace(first, models=(shared.model_copy(update={"state": "loading"}), apart))
    busy = replace(second, at_work=3)  # the very list, and other figures
    names: KnownNames | None = None
    for stocks in [(first, second), (loading, second), (loading, busy), (busy,), (first, busy), ()]:
        names = names_by_content([stock.holder for stock in stocks], names)
        for model in (None, "q", "z", "r", "untold", "nothing"):
            found = loadable_replicas(stocks, names, {}, model, index)
            assert sorted(found, key=str) == sorted(loadable_replicas(stocks, names, {}, model), key=str)
            assert {each.at_work for each in found} <= {stock.at_work for stock in stocks}
