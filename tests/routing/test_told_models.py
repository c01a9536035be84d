"""What is kept of peers from one request to the next: always what would be made of them anew."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.advertisement import NodeDescription, ServedModel
from federation.hostport import Address
from federation.peer import Peer, PeerState, Source
from swarm.errors import PeerFailed
from swarm.generation import Usage
from swarm.routing.observations import PACE_LIFETIME_S
from swarm.routing.replicas import KnownNames, called_by, holders_of, names_by_content, peer_replicas
from swarm.routing.router import Router
from swarm.routing.rules import RoutingRules
from swarm.routing.told_models import NamedKeeper, ToldKeeper, told_replicas
from tests.doubles.replicas import Clock, replica

NODES = ("attic", "kitchen", "study")
NAMES = ("qwen3:4b", "gemma3:1b", "mine")
NOBODY: MappingProxyType[str, int] = MappingProxyType({})

models = st.builds(
    ServedModel,
    id=st.sampled_from(NAMES),
    slots=st.integers(0, 2),
    slots_free=st.integers(0, 2),
    fingerprint=st.sampled_from([None, "a" * 64, "b" * 64]),
    tokens_per_s=st.sampled_from([None, 20.0, 1e6]),
    state=st.sampled_from(["ready", "draining"]),
)
descriptions = st.builds(
    lambda served, draining: (tuple({model.id: model for model in served}.values()), draining),
    st.lists(models, max_size=3),
    st.booleans() | st.just(False),
)


@st.composite
def peers(draw: st.DrawFn) -> tuple[Peer, ...]:
    """Some of the nodes, each of which says and is anything."""
    found: list[Peer] = []
    for number, name in enumerate(NODES):
        if not draw(st.booleans() | st.just(True)):
            continue
        served, draining = draw(descriptions)
        said = NodeDescription(
            id=f"id-{name}", name=name, version="1", url="http://x:1", models=served, draining=draining
        )
        address = Address(f"10.0.0.{draw(st.sampled_from([number, 9]))}", 17615)
        state = draw(st.sampled_from([PeerState.ALIVE, PeerState.ALIVE, PeerState.SUSPECT]))
        rtt_ms, described_at = draw(st.sampled_from([None, 1.0])), draw(st.sampled_from([0.0, 1.0]))
        found.append(
            Peer(said.id, name, state, said, address, (address,), Source.MDNS, rtt_ms, 0.0, described_at)
        )  # fmt: skip
    return tuple(found)


def some_unchanged(before: tuple[Peer, ...], after: tuple[Peer, ...], kept: set[str]) -> tuple[Peer, ...]:
    """`after`, where those `kept` are the very peers of `before`, in another snapshot."""
    was = {peer.id: peer for peer in before if peer.name in kept}
    return tuple(replace(was[peer.id], last_answer_at=1.0) if peer.id in was else peer for peer in after)


@given(
    seen=st.lists(
        st.tuples(peers(), st.sets(st.sampled_from(NODES)), st.sampled_from([NOBODY, {"mine": 4}]), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None)
def test_what_is_kept_of_peers_is_what_would_be_made_of_them_anew(
    seen: list[tuple[tuple[Peer, ...], set[str], dict[str, int], bool]],
) -> None:
    keeper, named, names, before = ToldKeeper(), NamedKeeper(), None, tuple[Peer, ...]()
    for after, kept, own, members in seen:
        before = now = some_unchanged(before, after, kept)
        told, anew = keeper.of(now, own, members), peer_replicas(now, own, members)
        assert told_replicas(told) == anew
        names = names_by_content([each.holder for each in told if each.holder is not None], names)
        assert names == names_by_content(holders_of(anew), names)
        served = named.of(told, names, own)
        assert served.replicas == called_by(names, anew, own)
        for name in NAMES:
            assert served.called(name) == tuple(each for each in served.replicas if each.model == name)
        assert all(each.key in served for each in served.replicas)
        assert ("id-attic", "other") not in served
        assert named.of(told, names, own) is served, "nothing has changed"


def test_a_peer_that_answers_again_leaves_what_the_others_told_as_it_is() -> None:
    keeper, named = ToldKeeper(), NamedKeeper()
    model = ServedModel(id="m", slots=4, slots_free=4, fingerprint="a" * 64)
    everybody = [a_peer(name, model) for name in NODES]
    told = keeper.of(everybody, {})
    names = names_by_content([each.holder for each in told if each.holder is not None])
    served = named.of(told, names, {})
    everybody[1] = replace(a_peer("kitchen", model.model_copy(update={"slots_free": 1})), described_at=2.0)
    again = keeper.of(everybody, {})
    assert [one is other for one, other in zip(told, again, strict=True)] == [True, False, True]
    assert again[1].holder is told[1].holder, "its names are not looked for again"
    now = named.of(again, names, {})
    assert [r.slots_free for r in now.called("m")] == [4, 1, 4]
    assert [r.slots_free for r in served.called("m")] == [4, 4, 4], "whoever plans with what was there keeps it"


def a_peer(name: str, *served: ServedModel) -> Peer:
    said = NodeDescription(id=f"id-{name}", name=name, version="1", url="http://x:1", models=served)
    address = Address("10.0.0.2", 17615)
    return Peer(said.id, name, PeerState.ALIVE, said, address, (address,), Source.MDNS, 1.0, 0.0)


places = st.tuples(st.sampled_from(["here", "id-attic", "id-kitchen"]), st.sampled_from(NAMES))


@given(
    paced=st.lists(st.tuples(places, st.sampled_from([0.2, 2.0, 20.0]), st.integers(1, 80)), max_size=6),
    asked=st.lists(places, max_size=3),
    failed=st.lists(places, max_size=5),
    claims=st.sampled_from([None, 20.0, 1e6]),
    has_own=st.booleans(),
    passed_s=st.sampled_from([0.0, PACE_LIFETIME_S + 1]),
    rules=st.sampled_from([RoutingRules(), RoutingRules(weights={"attic": 0.0}, pins={"mine": ("kitchen",)})]),
)
@settings(deadline=None)
def test_one_model_is_known_as_it_is_among_all(
    paced: list[tuple[tuple[str, str], float, int]],
    asked: list[tuple[str, str]],
    failed: list[tuple[str, str]],
    claims: float | None,
    has_own: bool,
    passed_s: float,
    rules: RoutingRules,
) -> None:
    clock = Clock()
    router = Router(lambda node, ok: None, rules, clock)
    served = [ServedModel(id=name, slots=4, slots_free=2, tokens_per_s=claims) for name in NAMES]
    told = ToldKeeper().of([a_peer(name, *served) for name in ("attic", "kitchen")], {})
    everywhere = NamedKeeper().of(told, names_by_content([]), {})
    own = replica("here", model="mine", tokens_per_s=50.0)
    here = (own,) if has_own else ()
    at = {each.key: each for each in (own, *everywhere.replicas)}
    for place, writing_s, tokens in paced:
        router.note_pace(at.get(place, own), 0.1, writing_s, Usage(completion_tokens=tokens))
    for place in failed:
        with suppress(PeerFailed), router.asking(at.get(place, everywhere.replicas[0]), 1e9):
            raise PeerFailed("attic", "broke off")
    running = [router.asking(at[place], 1e9) for place in asked if place in at and not at[place].local]
    for one in running:
        one.__enter__()
    clock.now += passed_s
    everybody = router.with_local_knowledge((*here, *everywhere.replicas))
    for name in NAMES:
        wanted = tuple(each for each in (*here, *everywhere.replicas) if each.model == name)
        assert router.with_local_knowledge_of(wanted, here, everywhere) == tuple(
            each for each in everybody if each.model == name
        )
    for one in running:
        one.__exit__(None, None, None)


def test_what_is_over_at_a_place_that_is_gone_is_forgotten_by_a_look_at_one_model() -> None:
    router = Router(lambda node, ok: None, clock=(clock := Clock()))
    gone = replica("gone", model="mine", free=2, reported_at=100.0)
    clock.now = 99.0
    with router.asking(gone, 1e9):  # it was at work when the node told of itself, and is over
        clock.now = 101.0
    assert router.with_local_knowledge([gone], everything=False)[0].slots_free == 3
    served = NamedKeeper().of(ToldKeeper().of([a_peer("attic", ServedModel(id="mine", slots=1))], {}), KnownNames(), {})
    router.with_local_knowledge_of((), (), served)
    assert router.with_local_knowledge([gone], everything=False)[0].slots_free == 2
