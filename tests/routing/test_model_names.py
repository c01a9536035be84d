"""What a model is called: one content has one name, one name one content, and a liar only puts itself apart."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UnknownModel
from swarm.routing.replicas import (
    Holder,
    Identity,
    KnownNames,
    NameKeeper,
    Replica,
    called_by,
    holders_of,
    named,
    names_by_content,
)
from tests.doubles.replicas import replica

X, Y, Z = "aa" * 32, "bb" * 32, "cc" * 32
OWN = "here"


def holder(node: str, *models: tuple[str, ...], party: str | None = None) -> Holder:
    """Each model is its id, fingerprint and sha256, as far as they are known."""
    return Holder(
        node, party or node, node == OWN, tuple(Identity(*(part or None for part in model)) for model in models)
    )


def called(holders: list[Holder], before: KnownNames | None = None) -> dict[str, str]:
    """The name here of each model, as NODE/ID."""
    names = names_by_content(holders, before)
    return {f"{h.node_id}/{m.id}": names.of(h.node_id, m.id) for h in holders for m in h.models}


CASES: dict[str, tuple[list[Holder], dict[str, str]]] = {
    "one content under two ids: this node's own": (
        [holder(OWN, ("qwen3:4b", X)), holder("a", ("qwen3-4b-q4_k_m", X))],
        {"here/qwen3:4b": "qwen3:4b", "a/qwen3-4b-q4_k_m": "qwen3:4b"},
    ),
    "the id that most parties use": (
        [holder("a", ("aaa", X)), holder("b", ("zzz", X)), holder("c", ("zzz", X))],
        {"a/aaa": "zzz", "b/zzz": "zzz", "c/zzz": "zzz"},
    ),
    "two identities behind one address are one party": (
        [holder("a", ("zzz", X), party="p"), holder("b", ("zzz", X), party="p"), holder("c", ("aaa", X))],
        {"a/zzz": "aaa", "b/zzz": "aaa", "c/aaa": "aaa"},
    ),
    "one id with two contents: this node's own keeps it": (
        [holder(OWN, ("m", Y)), holder("a", ("m", X)), holder("b", ("m", X))],
        {"here/m": "m", "a/m": "m@aaaaaa", "b/m": "m@aaaaaa"},
    ),
    "one id with two contents: the one of most parties keeps it": (
        [holder("a", ("m", X)), holder("b", ("m", Y)), holder("c", ("m", Y))],
        {"a/m": "m@aaaaaa", "b/m": "m", "c/m": "m"},
    ),
    "one id with two contents, each once: the least fingerprint": (
        [holder("a", ("m", Y)), holder("b", ("m", X))],
        {"a/m": "m@bbbbbb", "b/m": "m"},
    ),
    "who tells nothing counts by the name alone": (
        [holder("a", ("m",)), holder("b", ("m", X)), holder("c", ("m", X)), holder("d", ("m", Y)), holder("e", ("n",))],
        {"a/m": "m", "b/m": "m", "c/m": "m", "d/m": "m@bbbbbb", "e/n": "n"},
    ),
    "so does this node's own model of which nothing is known": (
        [holder(OWN, ("m",)), holder("b", ("m", X))],
        {"here/m": "m", "b/m": "m"},
    ),
    "two files of one header": (
        [holder("a", ("m", X, Y)), holder("b", ("m", X, Z)), holder("c", ("m", X, Z))],
        {"a/m": "m@bbbbbb", "b/m": "m", "c/m": "m"},
    ),
    "a file that is not hashed yet is that of its header": (
        [holder("a", ("m", X)), holder("b", ("n", X, Z)), holder("c", ("n", X))],
        {"a/m": "n", "b/n": "n", "c/n": "n"},
    ),
    "of two files, the one that this node has": (
        [holder(OWN, ("m", X, Y)), holder("a", ("n", X)), holder("b", ("k", X, Z)), holder("c", ("k", X, Z))],
        {"here/m": "m", "a/n": "m", "b/k": "k", "c/k": "k"},
    ),
    "a file of which only the hash is known": (
        [holder("a", ("m", "", Z)), holder("b", ("n", X, Z)), holder("c", ("n", X, Z)), holder("d", ("o", "", Y))],
        {"a/m": "n", "b/n": "n", "c/n": "n", "d/o": "o"},
    ),
    "two own names of one content stay two": (
        [holder(OWN, ("m", X), ("n", X)), holder("a", ("o", X)), holder("b", ("n", Y))],
        {"here/m": "m", "here/n": "n", "a/o": "m", "b/n": "n@bbbbbb"},
    ),
    "the store's own name for a second content": (
        [holder(OWN, ("m", X), ("m@bbbbbb", Y)), holder("a", ("m", Y)), holder("b", ("m@bbbbbb", Z))],
        {"here/m": "m", "here/m@bbbbbb": "m@bbbbbb", "a/m": "m@bbbbbb", "b/m@bbbbbb": "m@bbbbbb@cccccc"},
    ),
    "a name that another content has is not given": (
        [holder(OWN, ("m", X)), holder("a", ("m", Y)), holder("b", ("m@bbbbbb", Z))],
        {"here/m": "m", "a/m": "m@bbbbbbb", "b/m@bbbbbb": "m@bbbbbb"},
    ),
    "of two that one node calls alike the first counts": (
        [holder(OWN, ("m", X)), holder("a", ("m", X), ("m", Y))],
        {"here/m": "m", "a/m": "m"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_called(case: str) -> None:
    holders, wanted = CASES[case]
    for order in list(permutations(holders))[:24]:
        assert called(list(order)) == wanted, "whoever is asked first"


def test_a_name_stays_with_who_had_it_unless_more_have_another_content() -> None:
    first = [holder("a", ("m", Y))]
    names = names_by_content(first)
    other = [*first, holder("b", ("m", X))]
    assert called(other)["b/m"] == "m", "of two strangers the least"
    assert called(other, names) == {"a/m": "m", "b/m": "m@aaaaaa"}
    assert called([holder("a", ("m", Y, Z)), other[1]], names)["a/m"] == "m", "more is known of it"
    more = [*other, holder("c", ("m", X))]
    assert called(more, names) == {"a/m": "m@bbbbbb", "b/m": "m", "c/m": "m"}, "a majority has the name"
    again = names_by_content(more, names)
    assert called(other, again) == {"a/m": "m@bbbbbb", "b/m": "m"}, "and keeps it while it is no minority"
    renamed = [holder("a", ("m", Y)), holder("e", ("l", Y))]
    assert set(called(renamed, names).values()) == {"m"}, "a content keeps the name that it had"


def test_whoever_copies_a_content_takes_no_name_and_whoever_tells_another_is_apart() -> None:
    honest = [holder("a", ("m", X)), holder("b", ("m", X))]
    names = names_by_content(honest)
    for lie in (("m", Y), ("m", X, Y), ("n", X), ("m@aaaaaa", Y), ("m",)):
        found = called([*honest, holder("liar", lie)], names)
        assert {found["a/m"], found["b/m"]} == {"m"}, lie
        assert (found[f"liar/{lie[0]}"] == "m") == (lie in (("m", X, Y), ("n", X), ("m",))), lie


CONTENTS = st.sampled_from([(), (X,), (Y,), (X, Y), (X, Z), ("", Y)])
MODELS = st.lists(st.tuples(st.sampled_from(["m", "n", "m@aaaaaa"]), CONTENTS), max_size=3, unique_by=lambda m: m[0])


@given(st.lists(MODELS, min_size=1, max_size=5), st.booleans(), st.data())
def test_two_that_differ_never_have_one_name_and_this_nodes_models_keep_theirs(
    nodes: list[list[tuple[str, tuple[str, ...]]]], own: bool, data: Any
) -> None:
    holders = [
        holder(OWN if own and not at else f"n{at}", *((name, *content) for name, content in models))
        for at, models in enumerate(nodes)
    ]
    before = names_by_content(data.draw(st.permutations(holders))[: data.draw(st.integers(0, len(holders)))])
    names = names_by_content(holders, before)
    assert names == names_by_content(data.draw(st.permutations(holders)), before), "the same in any order"
    by_name: dict[str, list[tuple[Holder, Identity]]] = {}
    for each in holders:
        for model in each.models:
            assert isinstance(model, Identity)
            if each.local:
                assert names.of(each.node_id, model.id) == model.id
            by_name.setdefault(names.of(each.node_id, model.id), []).append((each, model))
    for copies in by_name.values():
        for (_, one), (_, other) in permutations(copies, 2):
            for known, its in ((one.fingerprint, other.fingerprint), (one.sha256, other.sha256)):
                assert not known or not its or known == its
    again = names_by_content(holders, names)
    assert again.others == names.others, "nothing changed, so no name does"


def test_who_lost_a_name_to_another_content_keeps_what_it_got_instead() -> None:
    swapped = [holder("n0", ("m", X), ("n", Y)), holder("n1", ("m", Y), ("n", X)), holder("n2", ("n", Y))]
    names = names_by_content(swapped, names_by_content(swapped[1:2]))
    assert names.contents["n@aaaaaa"].fingerprint == X
    assert names_by_content(swapped, names).contents == names.contents


# As replicas


def test_replicas_have_the_names_of_here_and_are_asked_by_their_own() -> None:
    told = (
        replica(OWN, model="m", fingerprint=X, params=4),
        replica("a", model="qwen", fingerprint=X, params=None),
        replica("b", model="m", fingerprint=Y, params=4),
        replica("c", model="m", params=4),
    )
    found = called_by(names_by_content(holders_of(told)), told, {"m": 4})
    assert [(r.model, r.model_there, r.params) for r in found] == [
        ("m", "m", 4),
        ("m", "qwen", 4),
        ("m@bbbbbb", "m", None),
        ("m", "m", 4),
    ]
    assert [r.key for r in found] == [r.key for r in told], "what is remembered of a place outlasts its names"
    assert [r.node for r in named("m", found)] == [OWN, "a", "c"]
    assert [r.node for r in named("m@bbbbbb", found)] == ["b"]
    with pytest.raises(UnknownModel):
        named("m", found[2:3])  # what b calls so is another content, even while nobody else runs any


def test_what_people_may_mean_by_a_name_is_known_and_this_nodes_own_apart() -> None:
    own = Holder(OWN, OWN, True, (Identity("qwen3:4b", X, also=("llama3.2:3b",)),))
    peer = Holder("a", "a", False, (Identity("q", X, also=("hf:o/r/q.gguf",)), Identity("z", also=("llama3.2:3b",))))
    names = names_by_content([own, peer])
    assert names.own == {"qwen3:4b": {"llama3.2:3b"}}
    assert names.known == {"qwen3:4b": {"llama3.2:3b", "q", "hf:o/r/q.gguf"}, "z": {"llama3.2:3b"}}


def test_names_are_looked_for_again_only_where_something_changed() -> None:
    keeper = NameKeeper()
    first = keeper.names((holder("a", ("m", Y)),))
    assert keeper.names((holder("a", ("m", Y)),)) is first
    assert keeper.names((holder("a", ("m", Y)), holder("b", ("m", X)))).of("a", "m") == "m"


def test_a_thousand_models_of_fifty_nodes_are_named_at_once() -> None:
    """Names that all collide: the work grows with the models, and not with their square."""
    holders = [
        holder(f"n{node}", *(("m" if model == 0 else f"m{model}", f"{node:032x}{model:032x}") for model in range(20)))
        for node in range(50)
    ]
    found = called(holders)
    assert len(set(found.values())) == 1000


def test_an_older_nodes_replica_is_as_it_was() -> None:
    told = (replica("a", model="m"), replica("b", model="m"))
    assert called_by(names_by_content(holders_of(told)), told, {}) == told
    assert all(isinstance(each, Replica) for each in told)
