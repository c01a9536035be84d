"""`swarm status` on how peers behave: facts with numbers, and the command that a person may give then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from swarm.commands.status import problem_lines, render
from swarm.errors import SwarmError
from swarm.gateway.observing.view import FederationView, LoadEntry, OwnModel, parse_view

PEER: dict[str, Any] = {
    "id": "abcdefghijklmnopqrstuvwxyz234567",
    "name": "attic",
    "models": ["demo"],
    "url": "http://10.0.0.2:17615",
    "state": "alive",
    "rtt_ms": 1.0,
    "last_seen_s": 0.1,
    "slots_free": 4,
    "source": "mdns",
    "problems": [
        "31 of 40 countable votes against the rest; all others together 20 of 200",
        "3 of 13 answers were none",
    ],
}


def view(mode: str, *peers: dict[str, Any]) -> FederationView:
    node = {"id": "id-kitchen", "name": "kitchen", "url": "http://10.0.0.1:17615", "version": "1", "mode": mode}
    return parse_view({"node": node, "status": "ok", "models": {"demo": ["kitchen"]}, "peers": list(peers)})


def test_a_member_that_stands_out_is_named_with_the_command_that_puts_it_out() -> None:
    lines = render(view("paired", PEER)).splitlines()
    told = lines.index(
        "  ! attic (abcdefghijkl): 31 of 40 countable votes against the rest; all others together 20 of 200; "
        "3 of 13 answers were none"
    )
    assert lines[told - 1].startswith("  peer attic")
    assert lines[told + 1].endswith("swarm revoke abcdefghijkl")
    assert "weak model" in lines[told + 1], "it is a fact, and no verdict"


def test_in_an_open_swarm_the_remedy_is_to_pair() -> None:
    (_, remedy) = problem_lines(view("open", PEER).peers[0], "open")
    assert "swarm invite" in remedy
    assert "revoke" not in remedy


@pytest.mark.parametrize("peer", [{**PEER, "problems": []}, {k: v for k, v in PEER.items() if k != "problems"}])
def test_of_a_peer_like_the_rest_and_by_an_older_node_nothing_is_said(peer: dict[str, Any]) -> None:
    assert "!" not in render(view("paired", peer))


@pytest.mark.parametrize(
    "answer",
    [{}, {"status": "ok"}, {"status": "ok", "node": {}, "peers": [], "models": {}}, {"trust": 1}, {"peers": ["attic"]}],
)
def test_what_is_no_view_is_refused_in_words(answer: dict[str, Any]) -> None:
    with pytest.raises(SwarmError, match="--json"):
        parse_view(answer)


def test_a_model_that_is_loaded_over_several_machines_says_over_which() -> None:
    told = view("paired", {**PEER, "problems": [], "pooled": {"qwen3:32b": ["attic", "den"]}})
    loading = OwnModel(
        id="llama3.3:70b", engine="llama-server", slots=0, slots_free=0, waiting=1, problem=None, state="loading",
        loading=LoadEntry(share=0.4, left_s=60), nodes=("kitchen", "attic", "den"),
    )  # fmt: skip
    waits = replace(loading, id="qwen3:14b", state="failed", reason="waiting for den", loading=None, waiting=0)
    lines = render(replace(told, own_models=(loading, waits))).splitlines()
    assert "    qwen3:32b: over attic + den" in lines, "of a peer that does not say by what"
    (line,) = (line for line in lines if "llama3.3:70b" in line)
    assert line.startswith("  loading llama3.3:70b over kitchen + attic + den 40 %")
    assert "  own model qwen3:14b: failed: waiting for den, over kitchen + attic + den" in lines
