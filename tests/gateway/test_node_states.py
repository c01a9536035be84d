"""The states of nodes: what is told of memory, what a peer may tell, and three real nodes that show each other."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.advertisement import LendOffer
from federation.errors import PeerProtocolError
from swarm.engines.engine import Capabilities, Computation
from swarm.gateway.observing.board import BOARD
from swarm.gateway.observing.node_states import (
    NodeHardware,
    NodeReport,
    PoolMemory,
    PoolNow,
    SeenPeer,
    hardware_of,
    memory_of,
    parse_report,
    shown_age_s,
    steadied,
)
from swarm.gateway.observing.view import LendingEntry, LentEntry
from swarm.moving_mean import RecentRate
from swarm.workers.model_workers import ModelState
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

TYPES = Path(__file__).parents[2] / "swarm/gateway/page/static/js/types.d.ts"


def model(size_bytes: int | None, **taken: int) -> ModelState:
    return ModelState(
        model_id="m", engine="e", slots=1, slots_free=1, context_tokens=1, capabilities=Capabilities(), params=None,
        tokens_per_s=None, problem=None, size_bytes=size_bytes, taken=taken,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([], {"ram": (0, 0), "vram0": (0, 0)}),
        ([model(600, ram=1000)], {"ram": (600, 400), "vram0": (0, 0)}),
        ([model(None, ram=1000)], {"ram": (0, 1000), "vram0": (0, 0)}),
        ([model(5000, ram=1000)], {"ram": (1000, 0), "vram0": (0, 0)}),
        ([model(500, ram=250, vram0=750), model(10, ram=10)], {"ram": (135, 125), "vram0": (375, 375)}),
    ],
)
def test_memory_is_weights_and_what_stands_beside_them(models: list[ModelState], told: dict[str, Any]) -> None:
    pools = memory_of([PoolNow("ram", 4000, 2000), PoolNow("vram0", None, None)], models)
    assert {pool.pool: (pool.weights_bytes, pool.kv_bytes) for pool in pools} == told


def test_of_a_model_over_several_machines_the_weights_are_those_of_the_layers_here() -> None:
    over = Computation("llama-server", "b1", ("attic",), 20, 25, ("den", "attic"))
    pooled = replace(model(1000, ram=500), nodes=over.nodes, computation=over)
    (pool,) = memory_of([PoolNow("ram", 4000, 2000)], [pooled])
    assert (pool.weights_bytes, pool.kv_bytes) == (200, 300)
    untold = replace(pooled, computation=replace(over, gpu_layers=None, layers=None))
    (pool,) = memory_of([PoolNow("ram", 4000, 2000)], [untold])
    assert (pool.weights_bytes, pool.kv_bytes) == (500, 0)


def test_what_is_lent_is_of_its_pool_and_no_models() -> None:
    lent = [LentEntry(node="den", model="m", bytes=300), LentEntry(node="den", model="n", bytes=40, pool="vram0")]
    lending = LendingEntry(total_bytes=1000, free_bytes=660, build="b1", lent=(*lent, lent[0]))
    pools = memory_of([PoolNow("ram", 4000, 2000), PoolNow("vram0", None, None)], [model(600, ram=1000)], lending)
    assert [(pool.weights_bytes, pool.kv_bytes, pool.lent_bytes) for pool in pools] == [(600, 400, 600), (0, 0, 40)]


GOOD = NodeReport(status="ok", hardware=NodeHardware(cpu="x")).model_dump(mode="json")


@pytest.mark.parametrize(
    "told",
    [
        b"", b"[]", b"nonsense", b"{}",
        json.dumps({**GOOD, "tokens_per_s": -1}).encode(),
        json.dumps({**GOOD, "tokens_per_s": 1e999}).encode(),
        json.dumps({**GOOD, "waiting": "many"}).encode(),
        json.dumps({**GOOD, "waiting": 2**53 + 1}).encode(),
        json.dumps({**GOOD, "models": [{"id": "x"}] * 501}).encode(),
        json.dumps({**GOOD, "memory": [{"pool": "ram" * 100}]}).encode(),
        json.dumps({**GOOD, "peers": [{"id": "a", "name": "b" * 1000, "state": "alive"}]}).encode(),
        json.dumps({**GOOD, "lending": {"total_bytes": -1, "free_bytes": 0, "build": "b"}}).encode(),
        json.dumps({**GOOD, "lending": {"total_bytes": 1, "free_bytes": 2**60, "build": "b"}}).encode(),
    ],
)  # fmt: skip
def test_what_a_peer_tells_in_another_form_is_not_shown(told: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        parse_report(told)


def test_a_newer_peer_may_tell_more() -> None:
    report = parse_report(json.dumps({**GOOD, "fans": 3, "hardware": {"cpu": "x", "fans": 3}}).encode())
    assert report.hardware.cpu == "x"


def test_a_machine_that_describes_itself_as_nonsense_is_unknown() -> None:
    assert hardware_of({"cores": "many"}) == NodeHardware()
    assert hardware_of({"cpu": "x", "cores": 2, "more": 1}).cores == 2


def test_tokens_a_second_are_those_of_late() -> None:
    now = [100.0]
    rate = RecentRate(window_s=2.0, clock=lambda: now[0])
    assert rate.per_s() == 0
    for _ in range(40):
        rate.add()
        now[0] += 0.1
    assert rate.per_s() == pytest.approx(10, abs=1.5)
    now[0] += 2.5
    assert rate.per_s() == 0
    rate.add(6)
    assert rate.per_s() == 3


def test_what_a_peer_tells_is_one_clean_line_everywhere() -> None:
    bad = "red\x1b[31m \u202eevil\nline"
    told = {
        **GOOD,
        "status": bad,
        "hardware": {"cpu": bad},
        "models": [
            {"id": bad, "engine": bad, "slots": 1, "slots_free": 1, "waiting": 0, "problem": bad, "nodes": [bad]}
        ],
        "lending": {"total_bytes": 9, "free_bytes": 1, "build": bad, "lent": [{"node": bad, "model": bad, "bytes": 8}]},
        "peers": [{"id": "a", "name": bad, "state": bad[:4]}],
    }
    report = parse_report(json.dumps(told).encode())
    [model_told], [seen] = report.models, report.peers
    assert report.lending is not None
    [lent], [host] = report.lending.lent, model_told.nodes
    shown = [report.status, report.hardware.cpu, model_told.id, model_told.engine, model_told.problem, seen.name]
    shown += [lent.node, lent.model, report.lending.build, host]
    assert all(text is not None and text.isprintable() and "\u202e" not in text for text in shown), shown


@pytest.mark.parametrize(("age_s", "shown"), [(0, 0), (4.9, 0), (5, 5), (14.2, 10)])
def test_an_age_changes_the_board_rarely(age_s: float, shown: float) -> None:
    assert shown_age_s(age_s) == shown


@pytest.mark.parametrize(
    ("was_ms", "now_ms", "told_ms"),
    [(4.0, 4.9, 4.0), (4.0, 5.1, 5.1), (40.0, 49.0, 40.0), (40.0, 29.0, 29.0), (None, 3.0, 3.0), (3.0, None, None)],
)
def test_a_round_trip_time_that_wavers_is_no_news(
    was_ms: float | None, now_ms: float | None, told_ms: float | None
) -> None:
    def report(rtt_ms: float | None) -> NodeReport:
        seen = SeenPeer(id="a", name="a", state="alive", rtt_ms=rtt_ms)
        return NodeReport(status="ok", hardware=NodeHardware(), peers=(seen,))

    assert steadied(report(now_ms), report(was_ms)).peers[0].rtt_ms == told_ms
    assert steadied(report(now_ms), None) == report(now_ms)


@pytest.mark.parametrize(
    ("was_mib", "now_mib", "told_mib"),
    [(1000, 1050, 1000), (1000, 950, 1000), (1000, 1200, 1200), (1000, 800, 800), (1000, None, None), (None, 7, 7)],
)
def test_free_memory_that_wavers_is_no_news(was_mib: int | None, now_mib: int | None, told_mib: int | None) -> None:
    def report(free_mib: int | None) -> NodeReport:
        free_bytes = None if free_mib is None else free_mib * 2**20
        pool = PoolMemory(pool="ram", total_bytes=2**33, free_bytes=free_bytes)
        lends = None if free_bytes is None else LendingEntry(total_bytes=2**33, free_bytes=free_bytes, build="b1")
        return NodeReport(status="ok", hardware=NodeHardware(), memory=(pool,), lending=lends)

    assert steadied(report(now_mib), report(was_mib)) == report(told_mib)


async def test_three_real_nodes_show_each_other_while_somebody_looks() -> None:
    engine = lambda: ready(ScriptedEngine(saying("a word")))  # noqa: E731
    async with (
        RunningNode("garage", engine()) as garage,
        RunningNode("cellar", engine()) as cellar,
        RunningNode("kitchen", engine(), options=NodeOptions(peers=(garage.address, cellar.address))) as kitchen,
    ):
        board = kitchen.app[BOARD]

        def told() -> dict[str, str]:
            shown = json.loads(board.since(0, ("node",)) or "{}")
            return {name: state["source"] for name, state in shown.get("node", {}).items()}

        assert told() == {}, "nobody looks"
        with board.watching(("node",)):
            await eventually(lambda: told() == {kitchen.id: "own", garage.id: "peer", cellar.id: "peer"})

        def at_work() -> set[str]:
            names = {task.get_name() for task in asyncio.all_tasks()}
            return {name for name in names if name.startswith(("looks at the nodes of the swarm", "asks "))}

        await eventually(lambda: not at_work())  # a swarm that nobody looks at costs nothing


async def test_who_looks_later_sees_nothing_of_what_was_told_to_who_looked_before() -> None:
    """One picture is all that `swarm top --once` takes: it must not be that of an hour ago."""
    lent: list[LentEntry] = []
    offer = LendOffer(bytes_free=2**30, bytes_total=2**30, build="b11434", rpc="7.0.0")
    lends = NodeOptions(lends=offer, lent=lambda: tuple(lent))
    async with (
        RunningNode("attic", options=lends) as attic,
        RunningNode("kitchen", options=NodeOptions(peers=(attic.address,))) as kitchen,
    ):
        board = kitchen.app[BOARD]

        def told_by_attic() -> dict[str, Any] | None:
            shown = json.loads(board.since(0, ("node",)) or "{}").get("node", {}).get(attic.id)
            return shown if shown is not None and shown["source"] == "peer" else None

        with board.watching(("node",)):
            await eventually(lambda: told_by_attic() is not None)
        lent.append(LentEntry(node="kitchen", model="m", bytes=2**29))
        with board.watching(("node",)):
            assert told_by_attic() is None
            await eventually(lambda: told_by_attic() is not None)
            told = told_by_attic()
            assert told is not None
            assert told["lending"]["lent"] == [{"node": "kitchen", "model": "m", "bytes": 2**29, "pool": "ram"}]
