"""What is counted: under names that clients cannot multiply, and for answers only once in a swarm."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from prometheus_client.parser import text_string_to_metric_families

from swarm.gateway.observing.metrics import Metrics
from swarm.workers.life import AS_ASKED, GIVEN, MENDED, UNDER_PRESSURE, UNWANTED, WANTED_FOR, LifeEvent, Phase
from tests.doubles.clients import Client, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

SINGLE = {"strategy": "single"}


async def samples(client: Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and label values."""
    text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def node(name: str, *peers: RunningNode, engine: bool = True) -> RunningNode:
    loaders = [ready(ScriptedEngine(saying("a word")))] if engine else []
    return RunningNode(name, *loaders, options=NodeOptions(peers=[peer.address for peer in peers]))


async def test_requests_are_counted_by_route_and_status() -> None:
    kitchen = node("kitchen")
    async with kitchen, connect(kitchen.url) as client:
        await client.chat(swarm=SINGLE)
        await client.chat(temperature=9)
        await client.get("/v1/models/a")
        await client.get("/v1/models/b")
        await client.get("/made/up/1")
        await client.post("/made/up/2", {})
        found = await samples(client)
        requests = {labels: value for (name, labels), value in found.items() if name == "swarm_requests_total"}
        assert requests == {
            ("/v1/chat/completions", "200"): 1,
            ("/v1/chat/completions", "400"): 1,
            ("/v1/models/{id}", "404"): 2,
            ("unknown", "404"): 2,
        }
        assert found["swarm_request_seconds_count", ("/v1/chat/completions",)] == 2


async def test_tokens_are_counted_where_the_client_asked_and_not_again_at_the_peer() -> None:
    study = node("study")
    async with study:
        kitchen = node("kitchen", study, engine=False)
        async with kitchen, connect(kitchen.url) as asked, connect(study.url) as peer:
            await asked.chat(swarm=SINGLE)
            assert (await samples(asked))["swarm_completion_tokens_total", ()] == 1
            assert (await samples(peer))["swarm_completion_tokens_total", ()] == 0
            assert (await samples(asked))["swarm_peers_alive", ()] == 1


async def test_gauges_are_read_when_somebody_looks() -> None:
    kitchen = node("kitchen")
    async with run_nodes(kitchen), connect(kitchen.url) as client:
        workers = kitchen.pool.get("scripted")
        assert workers is not None
        async with workers.lease(3):
            assert (await samples(client))["swarm_slots_free", ()] == 1
        found = await samples(client)
        assert (found["swarm_slots_free", ()], found["swarm_slots", ()]) == (4, 4)


def test_an_answer_of_nobody_counts_nothing() -> None:
    metrics = Metrics()
    metrics.answered([], None)
    assert b"swarm_completion_tokens_total 0.0" in metrics.render()


@pytest.mark.parametrize("path", ["/metrics", "/livez"])
async def test_a_node_without_a_model_still_reports(path: str) -> None:
    kitchen = node("kitchen", engine=False)
    async with kitchen, connect(kitchen.url) as client:
        assert (await client.get(path)).status == 200


async def test_an_answer_by_exception_is_no_client_that_left() -> None:
    metrics = Metrics()
    app = web.Application(middlewares=[metrics.middleware])

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("/there")

    app.router.add_get("/here", elsewhere)
    async with (
        TestServer(app) as server,
        ClientSession() as session,
        session.get(server.make_url("/here"), allow_redirects=False) as reply,
    ):
        assert reply.status == 302
    assert 'swarm_requests_total{endpoint="/here",status="302"} 1.0' in metrics.render().decode()


def life(model: str, *steps: tuple[Phase, str, float]) -> list[LifeEvent]:
    """What the pool tells of a model that becomes each of these, for a reason, at an instant."""
    before: Phase = "available"
    events: list[LifeEvent] = []
    for after, reason, at in steps:
        events.append(LifeEvent(model, before, after, reason, at))
        before = after
    return events


def test_loads_and_unloads_are_counted_by_words_that_nobody_can_multiply() -> None:
    metrics = Metrics()
    reasons = [f"{WANTED_FOR}qwen3:4b", f"{WANTED_FOR}demo", UNWANTED, UNDER_PRESSURE, AS_ASKED, "what nobody knows"]
    for number, reason in enumerate(reasons):
        for event in life(
            f"m{number}", ("loading", "it was asked for", 1.0), ("ready", "it is loaded", 3.0),
            ("draining", reason, 4.0), ("unloading", reason, 5.0), ("available", reason, 6.0),
        ):  # fmt: skip
            metrics.lived(event)
    broken: list[tuple[Phase, str, float]] = [("loading", "", 1.0), ("failed", "it is damaged", 90.0)]
    mended: list[tuple[Phase, str, float]] = [
        ("loading", GIVEN, 1.0), ("ready", GIVEN, 1.0), ("failed", "it ended", 2.0), ("loading", "", 3.0),
        ("ready", MENDED, 3.0),
    ]  # fmt: skip
    for event in life("broken", *broken) + life("mended", *mended):
        metrics.lived(event)
    text = metrics.render().decode()
    for line in [
        'swarm_model_loads_total{to="ready"} 8.0', 'swarm_model_loads_total{to="failed"} 1.0',
        'swarm_model_unloads_total{cause="room"} 2.0', 'swarm_model_unloads_total{cause="idle"} 1.0',
        'swarm_model_unloads_total{cause="pressure"} 1.0', 'swarm_model_unloads_total{cause="asked"} 1.0',
        'swarm_model_unloads_total{cause="other"} 1.0',
        "swarm_model_load_seconds_count 6.0", "swarm_model_load_seconds_sum 12.0",
    ]:  # fmt: skip
        assert line in text


async def test_memory_is_shown_for_each_model_that_takes_some() -> None:
    machine = Machine()
    machine.add("a", 100)
    machine.add("b", 200)
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK)
    async with RunningNode("kitchen", options=options) as kitchen, connect(kitchen.url) as client:
        await kitchen.pool.ensure("b")
        found = await samples(client)
        assert {labels: value for (name, labels), value in found.items() if name == "swarm_model_memory_bytes"} == {
            ("b",): 200 * 2**20
        }
        assert found["swarm_model_loads_total", ("ready",)] == 1


async def test_how_late_the_event_loop_is_can_be_seen() -> None:
    metrics, app = Metrics(), web.Application()
    metrics.lag_look_s = 0.001
    app.cleanup_ctx.append(metrics.watching_the_loop)
    runner = web.AppRunner(app)
    await runner.setup()
    await eventually(lambda: b"swarm_event_loop_lag_seconds_count 0.0" not in metrics.render())
    await runner.cleanup()
