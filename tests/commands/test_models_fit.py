"""`swarm models fit` beside a running node: what the nodes of its swarm have for what does not fit here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from federation.advertisement import LendOffer
from hardware.snapshot import Cpu, HardwareSnapshot, Memory
from swarm.cli import main
from swarm.commands.models import other_nodes, others_in
from swarm.commands.node_client import NodeUnreachable
from swarm.commands.running_models import NodePlace
from swarm.commands.swarm_state import SwarmState, after
from swarm.node.settings import Settings
from swarm.registry.elsewhere import OtherNode
from swarm.registry.pooled_fit import UNKNOWN_RTT_S, PoolMachine
from tests.commands.swarms import GIB, OWN, node_entry, node_id, peer_entry, view_entry
from tests.commands.test_top import event_node
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying


def memory(free_gib: int) -> list[dict[str, Any]]:
    return [
        {"pool": "ram", "total_bytes": 999 * GIB, "free_bytes": free_gib * GIB},
        {"pool": "gpu0", "total_bytes": 24 * GIB, "free_bytes": 2 * GIB},
    ]


def lending(free_gib: int, **given: Any) -> dict[str, Any]:
    sizes = {"total_bytes": 999 * GIB, "free_bytes": free_gib * GIB}
    return {**sizes, "build": "b11434", "bytes_per_s": 40e9, "draining": False, "lent": [], "problem": None, **given}


def swarm_with(*peers: dict[str, Any], rtts_ms: tuple[float | None, ...] = ()) -> dict[str, Any]:
    """This node, and such peers."""
    nodes = [node_entry(0, []), *(node_entry(number, [], **peer) for number, peer in enumerate(peers, 1))]
    seen = [
        peer_entry(number, **({"least_rtt_ms": rtts_ms[number - 1]} if number <= len(rtts_ms) else {}))
        for number in range(1, len(nodes))
    ]
    return {"view": {"": view_entry(seen)}, "node": {node["id"]: node for node in nodes}}


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a machine with 12 GiB free, whichever runs this."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    machine = HardwareSnapshot(Cpu(usable_cores=2), Memory(total_bytes=16 * GIB, free_bytes=12 * GIB))
    monkeypatch.setattr("swarm.commands.models.probe_hardware", lambda: machine)
    return tmp_path / "data"


def test_peers_are_known_by_what_they_tell_of_their_memory(data_dir: Path) -> None:
    parts = swarm_with(
        {"memory": memory(30), "lending": lending(16)},
        {"memory": memory(8), "lending": lending(6, draining=True)},
        {"memory": [], "lending": lending(6, problem="its llama.cpp is b1")},
        {"memory": memory(500), "state": "dead"},
        {"memory": memory(9), "lending": lending(4, bytes_per_s=None)},
        rtts_ms=(12.5, 1.0, 1.0, 1.0, None),
    )
    with event_node(parts) as node:
        assert other_nodes(Settings(data_dir=data_dir), NodePlace(node.url)) == [
            OtherNode("node-1", 30 * GIB, PoolMachine("node-1", node_id(1), 16 * GIB, 40e9, 0.0125)),
            OtherNode("node-2", 8 * GIB),
            OtherNode("node-3", None),
            OtherNode("node-5", 9 * GIB, PoolMachine("node-5", node_id(5), 4 * GIB, None, UNKNOWN_RTT_S)),
        ]


def test_the_table_says_where_what_does_not_fit_here_does(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with event_node(swarm_with({"memory": memory(999)}, {"memory": memory(4), "lending": lending(3)})) as node:
        words = ["models", "fit", "--url", node.url, "--data-dir", str(data_dir)]
        assert main([*words, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert main(words) == 0
        table = capsys.readouterr().out
    largest = max(rows, key=lambda row: row["needs_bytes"])
    assert (largest["where"], largest["on"], largest["fits"]) == ("fits on node-1", ["node-1"], False)
    assert all(row["fits"] == (row["where"] == "fits here") for row in rows)
    (line,) = [line for line in table.splitlines() if line.startswith(f"{largest['name']} ")]
    assert line.endswith("; fits on node-1")


def test_what_nobody_holds_alone_lies_over_several(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = {"memory": memory(4), "lending": lending(900, bytes_per_s=400e9)}
    with event_node(swarm_with(peer, rtts_ms=(15.0,))) as node:
        words = ["models", "fit", "--url", node.url, "--data-dir", str(data_dir)]
        assert main([*words, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert main(words) == 0
        table = capsys.readouterr().out
    largest = max(rows, key=lambda row: row["needs_bytes"])
    assert largest["over"] == ["this node", "node-1"]
    assert largest["where"].startswith("only over this node + node-1 (about ")
    assert largest["over_tokens_per_s"] > 1
    assert any(warning.startswith("node-1 is 15 ms away") for warning in largest["warnings"])
    assert f"; {largest['where']}\n" in table
    assert "node-1 is 15 ms away: above 10 ms" in table


def test_a_lender_that_is_too_far_away_is_named_with_its_distance_once(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = {"memory": memory(4), "lending": lending(900)}
    with event_node(swarm_with(peer, rtts_ms=(40.0,))) as node:
        words = ["models", "fit", "--url", node.url, "--data-dir", str(data_dir)]
        assert main([*words, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert main(words) == 0
        table = capsys.readouterr().out
    largest = max(rows, key=lambda row: row["needs_bytes"])
    assert (largest["where"], largest["over"]) == ("nowhere", [])
    assert "node-1 (900.0 GiB) is 40 ms away, more than 30 ms" in largest["refused"]
    assert table.count("is 40 ms away, more than 30 ms") == 1
    assert 'pool = ["node-1"] in the configuration takes it anyway' in table


def test_a_node_elsewhere_that_is_asked_is_one_of_the_others() -> None:
    """The node that runs here is this machine, and is not."""
    parts = swarm_with({"memory": memory(8)})
    parts["node"][OWN] |= {"memory": memory(30)}
    state = after(SwarmState(), "snapshot", parts)
    there = others_in(state, own_is_here=False)
    assert [(other.node, other.free_bytes) for other in there] == [("node-0", 30 * GIB), ("node-1", 8 * GIB)]
    assert others_in(state, own_is_here=True) == there[1:]


def test_without_a_node_the_table_is_of_this_machine(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["models", "fit", "--data-dir", str(data_dir)]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["where"] for row in rows} <= {"fits here", "nowhere"}
    with pytest.raises(NodeUnreachable):
        other_nodes(Settings(data_dir=data_dir), NodePlace("http://127.0.0.1:9"))
    assert main([*words, "--url", "http://127.0.0.1:9"]) != 0
    assert "no node answers" in capsys.readouterr().err


async def test_a_real_node_knows_what_its_peer_lends(tmp_path: Path) -> None:
    """As its lender tells it, with the round trip that its probes measured."""
    offer = LendOffer(bytes_free=3 * GIB, bytes_total=8 * GIB, build="b11434", rpc="7.0.0", bytes_per_s=31e9)
    async with RunningNode("attic", ready(ScriptedEngine(saying("yes"))), options=NodeOptions(lends=offer)) as attic:
        options = NodeOptions(peers=[attic.address])
        async with RunningNode("kitchen", ready(ScriptedEngine(saying("yes"))), options=options) as kitchen:
            place = NodePlace(kitchen.url)
            (found,) = await asyncio.to_thread(other_nodes, Settings(data_dir=tmp_path), place)
    assert found.node == "attic"
    assert found.lends is not None
    assert (found.lends.node_id, found.lends.free_bytes, found.lends.bytes_per_s) == (attic.id, 3 * GIB, 31e9)
    assert 0 < found.lends.rtt_s < 1
