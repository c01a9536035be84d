"""Weights and pins: read and refused, and what they make of replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SetupError
from swarm.node.settings import Settings, make_settings
from swarm.routing.rules import MAX_RULES, RoutingRules, read_rules, ruled, unheard_of
from tests.doubles.replicas import replica


def test_weights_and_pins_are_read_from_the_configuration_file(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(
        "votes = 3\n[routing.weights]\nattic = 0.25\nid1 = 0\n"
        '[routing.pins]\n"qwen3:4b:q4_k_m" = ["kitchen"]\nx = "a"\n'
    )
    settings = make_settings({}, config, {})
    assert settings.votes == 3
    assert settings.routing == RoutingRules({"attic": 0.25, "id1": 0.0}, {"qwen3:4b:q4_k_m": ("kitchen",), "x": ("a",)})
    assert Settings().routing == RoutingRules()


@pytest.mark.parametrize(
    ("routing", "says"),
    [
        ({"weights": {"attic": -1}}, r"\[routing.weights\] attic = -1: use 0 \(only if nobody else can\) to 100; 1 is"),
        ({"weights": {"attic": float("nan")}}, "attic = nan: use 0"),
        ({"weights": {"attic": float("inf")}}, "attic = inf: use 0"),
        ({"weights": {"attic": 101}}, "attic = 101: use 0"),
        ({"weights": {"attic": True}}, "attic = True: use 0"),
        ({"weights": {"attic": "much"}}, "attic = 'much': use 0"),
        ({"weights": 3}, r"\[routing.weights\] is a table, not 3: write \[routing.weights\] on a line of its own"),
        ({"weights": {"": 1}}, "'' has 0 characters"),
        ({"weights": {str(n): 1 for n in range(MAX_RULES + 1)}}, f"at most {MAX_RULES}"),
        ({"pins": {"m": []}}, r'"m" = \[\]: use a list of node names such as \["kitchen"\]'),
        ({"pins": {"m": 3}}, '"m" = 3: use a list'),
        ({"pins": {"m": [""]}}, "use a list"),
        ({"pins": {"m": [3]}}, r'"m" = \[3\]: use a list'),
        ({"pins": {"m": ["n" * 65]}}, r"\[routing.pins\]: 'n{40}' has 65 characters: names have 1 to 64"),
        ({"pins": {"m" * 300: ["a"]}}, r"\[routing.pins\]: 'm{40}' has 300 characters: names have 1 to "),
        ({"pins": 3}, r"\[routing.pins\] is a table, not 3"),
        ({"pin": {}}, "unknown setting 'pin'; there are: weights, pins"),
        ([], r"\[routing\] is a table, not \[\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_remedy(routing: Any, says: str) -> None:
    with pytest.raises(SetupError, match=says):
        read_rules(routing)


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text("[routing.weights]\nattic = nan\n")
    with pytest.raises(SetupError, match=r"--config .*swarm.toml: \[routing.weights\] attic = nan"):
        make_settings({}, config, {})


def test_a_rule_means_a_node_by_its_id_or_by_its_name() -> None:
    nodes = [replica("id1", name="attic"), replica("id2", name="attic"), replica("here"), replica("here", model="x")]
    rules = RoutingRules({"attic": 0.5, "id2": 2.0}, {"m": ("here",)})
    found = ruled(nodes, rules)
    assert [one.weight for one in found] == [0.5, 2.0, 1.0, 1.0]
    assert [one.pinned for one in found] == [False, False, True, None]
    assert ruled(nodes, RoutingRules()) == tuple(nodes)


def test_names_that_nobody_has_and_that_two_have_are_told() -> None:
    nodes = [replica("id1", name="attic"), replica("id2", name="attic"), replica("here")]
    assert unheard_of(RoutingRules({"here": 1.0, "id1": 1.0}), nodes) == ()
    nobody, two = unheard_of(RoutingRules({"atic": 1.0}, {"m": ("attic",)}), nodes)
    assert "names 'atic', and no node that serves a model is called so" in nobody
    assert "names 'attic', and 2 nodes are called so: use ids (id1, id2)" in two
