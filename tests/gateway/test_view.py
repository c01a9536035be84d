"""The node's view: one object behind the health answer, `swarm status`, the document, the gauges, and its changes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from federation.advertisement import LendOffer
from hardware.snapshot import GIB_BYTES
from swarm.commands.status import render
from swarm.engines.engine import Computation
from swarm.errors import EngineFailed
from swarm.gateway.documentation.document import make_document
from swarm.gateway.documentation.operations import OPERATIONS
from swarm.gateway.http.bodies import compact
from swarm.gateway.http.keys import DISPATCHER
from swarm.gateway.observing.changes import CHANGES, ViewChange, ViewChanges, changed_parts
from swarm.gateway.observing.endpoints import VIEW
from swarm.gateway.observing.findings import findings_of
from swarm.gateway.observing.view import (
    AccessEntry,
    ConductEntry,
    FederationView,
    LendingEntry,
    LentEntry,
    NodeEntry,
    NodeView,
    OwnModel,
    PeerEntry,
    TrustEntry,
    json_object,
    parse_view,
)
from swarm.routing.observations import ConductCounts
from tests.doubles.clients import connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

HEALTH = "/v1/federation/health"
PEER = PeerEntry(
    id="id-study", name="study", url="http://10.0.0.2:17615", state="alive", models=("demo",), rtt_ms=1.5,
    last_seen_s=0.2, slots_free=4, source="mdns", circuit="closed", conduct=ConductEntry(), problems=(),
)  # fmt: skip
OFFER = LendOffer(bytes_free=3 * GIB_BYTES, bytes_total=8 * GIB_BYTES, build="b11434", rpc="7.0.0")
LENT = LentEntry(node="study", model="qwen3:32b", bytes=5 * GIB_BYTES)
MODEL = OwnModel(id="demo", engine="scripted", slots=4, slots_free=4, waiting=0, problem=None)


def view(*peers: PeerEntry, status: str = "ok", models: Sequence[OwnModel] = (MODEL,), **more: Any) -> NodeView:
    """A view with these peers; `more` is what differs from an idle node's."""
    federation = FederationView(
        status=status,
        node=NodeEntry(id="id-kitchen", name="kitchen", version="1", url="http://10.0.0.1:17615", mode="open"),
        trust=TrustEntry(mode="open", problem=None, absent=()),
        access=AccessEntry(api="anyone", peers="anyone", management="this machine"),
        peers=peers,
        changes=(),
        rejected=(),
        names=(),
        sources=(),
        models={"demo": ["kitchen"]},
        own_models=models,
        upstream=None,
        upstreams=(),
        records=False,
        tools=(),
        lending=None,
    )
    idle = NodeView(
        federation=federation, loading=False, draining=False, requests=0, file_transfers=None,
        peers_by_state={}, changes_to_state={},
    )  # fmt: skip
    return replace(idle, **more)


def lending(*lent: LentEntry) -> NodeView:
    """The idle node while it lends."""
    entry = LendingEntry(total_bytes=8 * GIB_BYTES, free_bytes=0, build="b11434", lent=lent)
    return replace(view(PEER), federation=replace(view(PEER).federation, lending=entry))


# One view, four faces


def gauges_of(text: str) -> dict[tuple[str, ...], float]:
    """What `/metrics` shows, by names and the values of their labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_health_status_document_and_gauges_show_the_same_view() -> None:
    study = RunningNode("study", ready(ScriptedEngine(saying("yes"))))
    async with study:
        options = NodeOptions(peers=[study.address])
        kitchen = RunningNode("kitchen", ready(ScriptedEngine(saying("yes"))), options=options)
        async with kitchen, connect(kitchen.url) as client:
            answer = (await client.get(HEALTH)).json
            text = (await client.get("/metrics")).text
            swarm, listed = (await client.get("/v1/models")).json["data"]
            seen = kitchen.app[VIEW].look()
    told = parse_view(answer)

    assert still(told) == still(seen.federation), "what is told is what is seen, and can be read back"
    assert json.loads(compact(json_object(told))) == answer
    assert list(answer) == [field.name for field in fields(FederationView)]

    shown = render(told)
    assert "peer study" in shown
    assert "model scripted: kitchen, study" in shown
    assert "own model scripted: ready, 4 of 4 slots free, pinned, by scripted 1 on the CPU" in shown
    assert "    scripted: by scripted 1 on the CPU" in shown, "the peer's, under its line"
    entry = {"name": "scripted", "version": "1", "devices": [], "gpu_layers": None, "layers": None}
    assert answer["own_models"][0]["computation"] == {**entry, "words": "scripted 1 on the CPU"}
    assert listed["engine"] == answer["own_models"][0]["computation"]
    assert listed["engines"] == {"kitchen": "scripted 1 on the CPU", "study": "scripted 1 on the CPU"}
    assert "engine" not in swarm, "which is many models"

    document: dict[str, Any] = json.loads(compact(make_document(OPERATIONS, "1")))
    schema = document["components"]["schemas"]["FederationView"]
    assert list(schema["properties"]) == list(answer)
    assert schema["required"] == list(answer)
    base = "urn:document"
    registry = Registry[Any]().with_resource(base, DRAFT202012.create_resource(document))
    Draft202012Validator({"$ref": f"{base}#/components/schemas/FederationView"}, registry=registry).validate(answer)

    gauges = gauges_of(text)
    assert gauges["swarm_slots",] == sum(model.slots for model in seen.models) == 4
    assert gauges["swarm_peers_alive",] == seen.peers_alive == len(answer["peers"]) == 1
    assert gauges["swarm_draining",] == seen.draining == 0
    for state in ("alive", "suspect", "dead"):
        assert gauges["swarm_peers", state] == sum(peer["state"] == state for peer in answer["peers"])
        assert gauges["swarm_peer_changes_total", state] == sum(c["state"] == state for c in answer["changes"])


async def test_a_model_over_several_machines_is_one_everywhere_and_says_which_they_are() -> None:
    """Of the node that hosts it and of one that hears of it: the lists, the health, the status and the page's part."""
    engine = ScriptedEngine(saying("yes"), model_id="large")
    engine.computation = Computation("llama-server", "b11434", ("attic",), 20, 25, ("den", "attic"))
    async with RunningNode("den", ready(engine)) as den:
        options = NodeOptions(peers=[den.address])
        kitchen = RunningNode("kitchen", ready(ScriptedEngine(saying("yes"), model_id="small")), options=options)
        async with kitchen, connect(den.url) as at_den, connect(kitchen.url) as at_kitchen:
            own = (await at_den.get(HEALTH)).json
            seen = (await at_kitchen.get(HEALTH)).json
            listed = {model["id"]: model for model in (await at_kitchen.get("/v1/models")).json["data"]}
            pooled = gauges_of((await at_den.get("/metrics")).text)["swarm_pooled_models",]
            (replica,) = (one for one in kitchen.app[DISPATCHER].replicas() if one.model == "large")
    words = "llama-server b11434 over den + attic (5 of 25 layers on den)"
    assert (replica.node, replica.nodes, replica.slots) == ("den", ("den", "attic"), 4)
    assert (own["own_models"][0]["nodes"], pooled) == (["den", "attic"], 1)
    assert (seen["models"], seen["peers"][0]["pooled"]) == (
        {"large": ["den"], "small": ["kitchen"]},
        {"large": ["den", "attic"]},
    )
    assert (listed["large"]["nodes"], listed["large"]["pooled"]) == (["den"], {"den": ["den", "attic"]})
    assert "pooled" not in listed["small"]
    assert "pooled" not in listed["swarm"], "which is many models"
    assert f"  own model large: ready, 4 of 4 slots free, pinned, by {words}" in render(parse_view(own)).splitlines()
    assert f"    large: by {words}" in render(parse_view(seen)).splitlines()


async def test_lent_memory_is_told_by_the_lender_and_what_it_offers_by_everybody() -> None:
    lends = NodeOptions(lends=OFFER, lent=lambda: [LENT])
    async with RunningNode("attic", ready(ScriptedEngine(saying("yes"))), options=lends) as attic:
        unused = {"attic": "its llama.cpp is b11434, and this node's b11500"}
        options = NodeOptions(peers=[attic.address], unused_lenders=unused)
        kitchen = RunningNode("kitchen", ready(ScriptedEngine(saying("yes"))), options=options)
        async with kitchen, connect(attic.url) as at_attic, connect(kitchen.url) as at_kitchen:
            own = (await at_attic.get(HEALTH)).json
            gauges = gauges_of((await at_attic.get("/metrics")).text)
            seen = (await at_kitchen.get(HEALTH)).json
            state = (await at_attic.get("/federation/v1/state")).json
            none = gauges_of((await at_kitchen.get("/metrics")).text)
            found = findings_of(kitchen.app[VIEW].look().federation, {})
    offer = {
        "total_bytes": 8 * GIB_BYTES,
        "free_bytes": 3 * GIB_BYTES,
        "build": "b11434",
        "bytes_per_s": None,
        "draining": False,
    }
    lent = {"node": "study", "model": "qwen3:32b", "bytes": 5 * GIB_BYTES, "pool": "ram"}
    assert own["lending"] == {**offer, "lent": [lent], "problem": None}
    assert state["lending"] == own["lending"], "for the pages of others"
    assert seen["lending"] is None
    assert seen["peers"][0]["lending"] == {**offer, "lent": [], "problem": unused["attic"]}
    assert (gauges["swarm_lending_bytes",], gauges["swarm_lent_bytes",]) == (8 * GIB_BYTES, 5 * GIB_BYTES)
    assert (gauges["swarm_lent_parts",], none["swarm_lent_parts",], none["swarm_lending_bytes",]) == (1, 0, 0)
    lines = render(parse_view(own)).splitlines()
    at = lines.index("  lends 8.0 GiB of memory, 3.0 GiB free (llama.cpp b11434)")
    assert lines[at + 1] == "    5.0 GiB to study for qwen3:32b"
    lines = render(parse_view(seen)).splitlines()
    assert f"    lends 8.0 GiB of memory, 3.0 GiB free, unused: {unused['attic']}" in lines
    entry = found[f"lender:{attic.id}"]
    assert entry.what == f"attic lends memory that this node does not use: {unused['attic']}"
    assert "swarm engines install native" in entry.remedy


def still(seen: FederationView) -> FederationView:
    """Without the clocks, which go on between two looks."""
    peers = tuple(replace(peer, last_seen_s=0.0, rtt_ms=None) for peer in seen.peers)
    return replace(seen, peers=peers)


def test_a_peers_account_is_told_whole() -> None:
    assert [field.name for field in fields(ConductEntry)] == [field.name for field in fields(ConductCounts)]
    assert asdict(ConductEntry()) == asdict(ConductCounts())


@pytest.mark.parametrize(
    "key", ["trust", "access", "changes", "rejected", "names", "sources", "own_models", "upstream", "records", "tools",
     "lending"],
)  # fmt: skip
def test_what_earlier_versions_do_not_tell_reads_as_nothing_to_say(key: str) -> None:
    told = json_object(view(PEER, models=()).federation)
    del told[key]
    assert parse_view(told) == view(PEER, models=()).federation


@pytest.mark.parametrize("key", ["circuit", "conduct", "problems", "engines", "pooled", "lending"])
def test_what_earlier_versions_do_not_tell_of_a_peer_reads_as_nothing_to_say(key: str) -> None:
    told: dict[str, Any] = json_object(view(PEER).federation)
    told["peers"] = [{name: value for name, value in told["peers"][0].items() if name != key}]
    assert parse_view(told) == view(PEER).federation


# What counts as a change


@pytest.mark.parametrize(
    ("after", "parts"),
    [
        (view(PEER), set[str]()),
        (view(replace(PEER, last_seen_s=9.0, rtt_ms=7.0)), set[str]()),
        (view(), {"peers"}),
        (view(PEER, replace(PEER, id="id-attic")), {"peers"}),
        (view(replace(PEER, state="suspect")), {"peers"}),
        (view(replace(PEER, slots_free=0)), {"peers"}),
        (view(PEER, status="draining", draining=True), {"node"}),
        (view(PEER, status="loading the model", loading=True, models=()), {"node", "models"}),
        (view(PEER, models=(replace(MODEL, problem="broke"),)), {"models"}),
        (view(PEER, models=(MODEL, replace(MODEL, id="b", state="loading"))), {"models"}),
        (view(PEER, requests=3), {"requests"}),
        (lending(LENT), {"models"}),
    ],
)
def test_parts_that_differ_are_named_and_clocks_are_none(after: NodeView, parts: set[str]) -> None:
    assert changed_parts(view(PEER), after) == parts


@pytest.mark.parametrize(("now_mib", "parts"), [(1050, set[str]()), (950, set[str]()), (1100, {"peers", "models"})])
def test_free_memory_that_wavers_is_no_change(now_mib: int, parts: set[str]) -> None:
    def lent_by_both(free_mib: int) -> NodeView:
        entry = LendingEntry(total_bytes=8 * GIB_BYTES, free_bytes=free_mib * 2**20, build="b11434")
        seen = view(replace(PEER, lending=entry))
        return replace(seen, federation=replace(seen.federation, lending=entry))

    assert changed_parts(lent_by_both(1000), lent_by_both(now_mib)) == parts


# Subscribers


class Node:
    """A view that a test changes, and the subscribers to it; they wait for nothing between two calls."""

    def __init__(self) -> None:
        self.seen = view()
        self.changes = ViewChanges(lambda: self.seen, look_s=0.0, rest_s=0.0, sleep=self._sleep)
        self.looks = asyncio.Event()  # set: the periodic look happens

    async def _sleep(self, seconds: float) -> None:
        assert seconds == 0.0
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith("looks"):
            await self.looks.wait()
            self.looks.clear()

    def shows(self, seen: NodeView) -> None:
        self.seen = seen
        self.changes.notice()


@asynccontextmanager
async def watched() -> AsyncIterator[Node]:
    node = Node()
    try:
        yield node
    finally:
        await node.changes.aclose()


def into(told: list[ViewChange]) -> Callable[[ViewChange], Any]:
    async def callback(change: ViewChange) -> None:
        told.append(change)

    return callback


async def test_a_subscriber_is_told_of_each_change_until_it_ends_that() -> None:
    async with watched() as node:
        told: list[ViewChange] = []
        unsubscribe = node.changes.subscribe(into(told))
        node.shows(view(PEER))
        await eventually(lambda: len(told) == 1)
        assert (told[0].before, told[0].after, told[0].parts) == (view(), view(PEER), {"peers"})
        node.shows(view(PEER))  # the same
        node.shows(view(PEER, requests=1))
        await eventually(lambda: len(told) == 2)
        assert told[1].parts == {"requests"}
        unsubscribe()
        unsubscribe()  # twice does no harm
        node.shows(view())
        others: list[ViewChange] = []
        node.changes.subscribe(into(others))
        node.shows(view(PEER))
        await eventually(lambda: len(others) == 1)
        assert len(told) == 2


async def test_what_nobody_reports_is_found_by_looking() -> None:
    async with watched() as node:
        told: list[ViewChange] = []
        node.changes.subscribe(into(told))
        node.seen = view(requests=2)
        node.looks.set()
        await eventually(lambda: len(told) == 1)


async def test_one_that_fails_harms_nobody_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as node:
        calls: list[ViewChange] = []
        told: list[ViewChange] = []

        async def fails(change: ViewChange) -> None:
            calls.append(change)
            raise RuntimeError("a defect")

        node.changes.subscribe(fails)
        node.changes.subscribe(into(told))
        with caplog.at_level(logging.ERROR):
            for count in (1, 2, 3):
                node.shows(view(requests=count))
                await eventually(lambda: len(told) == len(calls) == count)  # noqa: B023 - awaited in the loop
        assert [change.after.requests for change in calls] == [1, 2, 3], "it is called again"
        (logged,) = caplog.records
        assert "a subscriber to the node's view failed" in logged.message


async def test_a_view_that_cannot_be_made_is_no_end_either(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as node:
        told: list[ViewChange] = []
        node.changes.subscribe(into(told))
        good, node.changes._look = node.changes._look, lambda: view(**{"no such": "field"})
        node.changes.notice()
        await eventually(lambda: bool(caplog.records))
        node.changes._look = good
        node.shows(view(PEER))
        await eventually(lambda: len(told) == 1)


async def test_a_slow_one_blocks_nobody_and_is_told_the_sum_of_what_it_missed() -> None:
    async with watched() as node:
        slow: list[ViewChange] = []
        quick: list[ViewChange] = []
        goes_on = asyncio.Event()

        async def waits(change: ViewChange) -> None:
            slow.append(change)
            await goes_on.wait()

        node.changes.subscribe(waits)
        node.changes.subscribe(into(quick))
        for count in (1, 2, 3):
            node.shows(view(requests=count))
            await eventually(lambda: len(quick) == count)  # noqa: B023 - awaited in the loop
        assert len(slow) == 1
        goes_on.set()
        await eventually(lambda: len(slow) == 2)
        assert (slow[1].before.requests, slow[1].after.requests) == (1, 3)


async def test_a_running_node_tells_of_peers_and_of_its_end() -> None:
    study = RunningNode("study", ready(ScriptedEngine(saying("yes"))))
    kitchen = RunningNode("kitchen", ready(ScriptedEngine(saying("yes"))))
    told: list[ViewChange] = []
    async with run_nodes(study, kitchen):
        async with kitchen.membership:
            kitchen.app[CHANGES].subscribe(into(told))
            kitchen.membership.listed([study.address])
            await eventually(lambda: any("peers" in change.parts for change in told))
            kitchen.condition.draining = True
            await eventually(lambda: told[-1].after.draining)
        assert {"node"} <= told[-1].parts


async def test_models_that_come_and_go_for_requests_leave_the_node_ready_and_are_told() -> None:
    machine = Machine(total=250)
    for name in ("a", "b", "broken"):
        machine.add(name, 150)
    machine.failures["broken"] = [EngineFailed("its file is damaged")]
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK)
    told: list[ViewChange] = []
    async with RunningNode("kitchen", options=options) as kitchen, connect(kitchen.url) as client:
        kitchen.app[CHANGES].subscribe(into(told))
        assert (await client.get("/readyz")).status == 200, "nothing is loaded, and all of it can be"
        await kitchen.pool.ensure("a")
        await kitchen.pool.ensure("b")  # for which the other goes
        with pytest.raises(EngineFailed):
            await kitchen.pool.ensure("broken")
        states = {model.id: (model.state, model.reason) for model in kitchen.app[VIEW].look().models}
        assert states == {"broken": ("failed", "its file is damaged")}
        assert (await client.get("/readyz")).status == 200
        kitchen.pool.pin("broken")
        assert (await client.get("/readyz")).json["reason"] == "model 'broken': its file is damaged"
        await eventually(lambda: bool(told) and told[-1].after.models[0].state == "failed")
