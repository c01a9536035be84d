"""Pulls that are asked for over HTTP: from a hub on loopback to a model that is loaded here, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardware.probe import probe_hardware
from swarm.errors import SetupError, Unavailable
from swarm.gateway.http.access import AccessRules
from swarm.gateway.observing.board import BOARD, EventBoard
from swarm.gateway.page.pulls import MAX_OVER, MAX_WAITING, Pulls
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import model_store
from swarm.node.models import NodeModels
from swarm.node.settings import Settings, make_settings
from swarm.node.shelf import NodeShelf
from swarm.registry.hub import Progress
from swarm.registry.table import row_json
from tests.doubles.clients import Client, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.tiny_models import write_named_model
from tests.doubles.waiting import eventually
from tests.registry.fake_hub import Hub, Upload

PULLS = "/swarm/v1/pulls"
REPO, FILE = "owner/repo-GGUF", "tiny-q8_0.gguf"
NAME = f"hf:{REPO}/{FILE}"


@asynccontextmanager
async def node_with_a_disk(folder: Path) -> AsyncIterator[tuple[RunningNode, Client, Settings]]:
    """One whose models are those of its data directory."""
    settings = make_settings({"data_dir": folder, "models_dir": [folder / "none"]})
    engines = await asyncio.to_thread(NodeEngines.look, settings, probe_hardware())
    models = await asyncio.to_thread(NodeModels, model_store(settings), settings, engines)
    nodes: list[RunningNode] = []

    def looked() -> None:
        for node in nodes:
            node.loadables.changed()

    shelf = NodeShelf(settings, None, lambda: models, looked)
    options = NodeOptions(source=models, memory=models.memory, shelf=shelf, look_again=models.look_again)
    async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
        nodes.append(node)
        yield node, client, settings


async def begun(client: Client, model: str, **more: object) -> dict[str, Any]:
    reply = await client.post(PULLS, {"model": model, **more})
    assert reply.status == 200, reply.text
    return reply.json


async def ended(client: Client, pull_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20.0):
        while True:
            found = next(pull for pull in (await client.get(PULLS)).json["data"] if pull["id"] == pull_id)
            if found["state"] not in ("waiting", "running"):
                return found


async def test_what_is_pulled_is_on_the_disk_listed_and_loadable_at_once(hub: Hub, tmp_path: Path) -> None:
    content = write_named_model(tmp_path / "made" / FILE).read_bytes()
    hub.put(REPO, FILE, Upload(content))
    async with node_with_a_disk(tmp_path / "data") as (node, client, settings):
        entry = await begun(client, NAME)
        assert (entry["model"], entry["node"], entry["state"]) == (NAME, "kitchen", "waiting")
        over = await ended(client, entry["id"])
        assert (over["state"], over["problem"]) == ("done", None)
        assert over["done_bytes"] == over["total_bytes"] == len(content)
        path = next(settings.own_models_dir.glob("*/*.gguf"))
        assert path.read_bytes() == content
        listed = (await client.get("/swarm/v1/models")).json
        row = next(row for row in listed["data"] if row["id"] == "tiny-q8_0")
        assert (row["state"], row["size_bytes"], row["fits"]) == ("available", len(content), True)
        assert "needs " in row["why"]
        assert node.app[BOARD].since(0, ("pull",)) is not None, "the page hears of it"

        hub.asked.clear()
        again = await ended(client, (await begun(client, NAME))["id"])
        assert (again["state"], hub.asked) == ("done", []), "what is here is not brought again"


async def test_a_pull_that_breaks_off_keeps_what_arrived_and_the_next_goes_on(hub: Hub, tmp_path: Path) -> None:
    content = write_named_model(tmp_path / "made" / FILE).read_bytes()
    content += bytes(3 << 20)
    hub.put(REPO, FILE, Upload(content))
    hub.cuts = [1 << 20]
    hub.cut_rest = True
    async with node_with_a_disk(tmp_path / "data") as (_, client, settings):
        over = await ended(client, (await begun(client, NAME))["id"])
        assert over["state"] == "failed"
        assert over["problem"]
        assert not list(settings.own_models_dir.glob("*/*.gguf")), "nothing lies there in half"
        hub.cuts, hub.cut_rest = [], False
        hub.asked.clear()
        over = await ended(client, (await begun(client, NAME))["id"])
        assert over["state"] == "done"
        assert any("1048576-" in asked for asked in hub.asked), "it went on where it was"
        assert next(settings.own_models_dir.glob("*/*.gguf")).read_bytes() == content


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("demo", "comes with the program"), ("/etc/passwd", "is a path"), ("../x.gguf", "is a path"),
        ("file:///etc/passwd", "is a path"), ("https://evil.example/x.gguf", "not on the hub"),
        ("nonsuch:4b", "nonsuch"), ("qwen3:9999b", "does not come in size"), ("hf:x", "does not name a hub repository"),
        ("a\nb", "is not a model name"),
    ],
)  # fmt: skip
async def test_what_no_pull_can_bring_is_refused_at_once(tmp_path: Path, model: str, said: str) -> None:
    async with node_with_a_disk(tmp_path) as (_, client, _settings):
        reply = await client.post(PULLS, {"model": model})
        assert (reply.status, reply.error["param"]) == (400, "model")
        assert said in reply.error["message"]
        assert (await client.get(PULLS)).json == {"data": []}


async def test_what_the_hub_does_not_have_fails_with_its_reason(hub: Hub, tmp_path: Path) -> None:
    async with node_with_a_disk(tmp_path) as (_, client, _settings):
        over = await ended(client, (await begun(client, "hf:owner/none/x.gguf"))["id"])
        assert over["state"] == "failed"
        assert "owner/none" in over["problem"]
        assert (await client.post(f"{PULLS}/nonsuch/cancel", {})).status == 404
        assert (await client.post(f"{PULLS}/{over['id']}/cancel", {})).json["state"] == "failed"
        assert (await client.post(PULLS, {"model": NAME, "node": "attic"})).status == 400


async def test_the_catalogue_is_judged_as_models_fit_does(tmp_path: Path) -> None:
    async with node_with_a_disk(tmp_path) as (_, client, settings):
        listed = (await client.get("/swarm/v1/models?node=kitchen")).json
        from swarm.node.model_choice import fit_here
        from swarm.registry.model_memory import AskedLoad

        engines = NodeEngines.look(settings, probe_hardware())
        rows, _ = fit_here(engines, AskedLoad(), model_store(settings).look())
        assert {row["name"] for row in listed["fit"]} == {row_json(row)["name"] for row in rows}
        assert all(row["why"] and row["need_bytes"] for row in listed["fit"])
        memory = listed["free"]
        assert all(0 < pool["free_bytes"] < pool["total_bytes"] for pool in memory)
        assert {"ram"} == {pool["pool"] for pool in memory}
        assert (await client.get("/swarm/v1/models?node=attic")).status == 400


async def two_members(folder: Path, manage: bool, stack: AsyncExitStack, **more: Any) -> Client:
    """The kitchen's client, and the study, whose models its members may manage or not."""
    ours, theirs = paired_trusts(folder, "kitchen", "study")
    here, study = Machine(), Machine()
    study.add("a", 100)
    given = NodeOptions(source=study, memory=study.rules(), pool_pace=QUICK, trust=theirs, **more)
    there = await stack.enter_async_context(
        RunningNode("study", options=replace(given, access=AccessRules(members_manage=manage)))
    )
    own = NodeOptions(source=here, memory=here.rules(), pool_pace=QUICK, trust=ours, peers=[there.address])
    kitchen = await stack.enter_async_context(RunningNode("kitchen", options=own))
    await eventually(lambda: bool(kitchen.membership.alive()[0].loadable))
    return await stack.enter_async_context(connect(kitchen.url))


async def test_another_node_is_told_to_pull_where_its_owner_lets_it(tmp_path: Path) -> None:
    pulled: list[str] = []

    async def pull(name: str, _: str | None) -> str:
        pulled.append(name)
        return "copied"

    async with AsyncExitStack() as stack:
        client = await two_members(tmp_path / "yes", True, stack, pull=pull)
        over = await ended(client, (await begun(client, NAME, node="study"))["id"])
        assert (over["state"], over["node"], pulled) == ("done", "study", [NAME])
        told = (await client.get("/swarm/v1/models?node=study")).json
        assert told["node"] == "study"
        assert [(row["id"], row["fits"], row["why"]) for row in told["data"]] == [
            ("a", True, "study says that it fits there")
        ]
        here = await client.post(PULLS, {"model": NAME})
        assert (here.status, "loads no models of its own" in here.error["message"]) == (400, True)
    async with AsyncExitStack() as stack:
        client = await two_members(tmp_path / "no", False, stack, pull=pull)
        over = await ended(client, (await begun(client, NAME, node="study"))["id"])
        assert over["state"] == "failed"
        assert "[peers] manage = true" in over["problem"]


async def test_a_node_that_has_not_looked_at_its_disk_yet_says_so(tmp_path: Path) -> None:
    shelf = NodeShelf(make_settings({"data_dir": tmp_path}), None, lambda: None, lambda: None)
    async with RunningNode("kitchen", options=NodeOptions(shelf=shelf)) as node, connect(node.url) as client:
        over = await ended(client, (await begun(client, "qwen3:4b"))["id"])
        assert (over["state"], "still starting" in over["problem"]) == ("failed", True)
        listed = (await client.get("/swarm/v1/models")).json
        assert listed == {"node": "kitchen", "free": [], "data": [], "fit": []}


class Slow:
    """Work that goes on until it is let end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.progress: Progress | None = None
        self.cancelled = False

    async def __call__(self, progress: Progress) -> None:
        self.progress = progress
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_one_pull_at_a_time_to_each_node_and_each_in_its_turn() -> None:
    board, works = EventBoard(), [Slow() for _ in range(3)]
    pulls = Pulls(board, tick_s=0.01)
    first, second = pulls.begin("a", "kitchen", works[0]), pulls.begin("b", "kitchen", works[1])
    other = pulls.begin("a", "study", works[2])
    assert pulls.begin("a", "kitchen", works[2]).id == first.id, "the same is not brought twice"
    await eventually(lambda: works[0].progress is not None and works[2].progress is not None)
    assert {entry.id: entry.state for entry in pulls.entries()} == {
        first.id: "running", second.id: "waiting", other.id: "running",
    }  # fmt: skip
    assert (await pulls.cancel(first.id)).state == "cancelled"
    assert works[0].cancelled
    await eventually(lambda: works[1].progress is not None)
    works[1].end.set()
    await eventually(lambda: pulls.entries()[1].state == "done")
    waiting = pulls.begin("c", "study", works[0])
    assert (await pulls.cancel(waiting.id)).state == "cancelled", "before it had begun"
    await pulls.aclose()
    assert pulls.entries()[1].state == "cancelled"


async def test_pulls_are_bounded_waiting_and_over() -> None:
    board, slow = EventBoard(), Slow()
    pulls = Pulls(board, tick_s=0.01)
    for number in range(MAX_WAITING):
        pulls.begin(f"m{number}", "kitchen", slow)
    with pytest.raises(Unavailable, match="which is all"):
        pulls.begin("one more", "kitchen", slow)
    await pulls.aclose()

    async def fails(_: Progress) -> None:
        raise SetupError("no room: free some space")

    for number in range(MAX_OVER + 5):
        entry = pulls.begin(f"n{number}", "kitchen", fails)
        await eventually(lambda entry=entry: pulls.entries()[0].state == "failed")  # type: ignore[misc]
    assert pulls.entries()[0].problem == "no room: free some space"
    assert len(pulls.entries()) == MAX_OVER
    told = board.since(0, ("pull",))
    assert told is not None
    assert told.count('"model"') == MAX_OVER


async def test_how_far_a_pull_is_and_how_fast_is_told_without_what_was_there_before() -> None:
    now, slow = [100.0], Slow()
    pulls = Pulls(EventBoard(), clock=lambda: now[0], tick_s=0.005)
    pulls.begin("a", "kitchen", slow)
    await eventually(lambda: slow.progress is not None)
    assert slow.progress is not None
    slow.progress(5_000, 10_000)
    await eventually(lambda: pulls.entries()[0].done_bytes == 5_000)
    assert pulls.entries()[0].bytes_per_s in (None, 0.0), "half of it lay here already"
    now[0] += 2.0
    slow.progress(7_000, 10_000)
    await eventually(lambda: pulls.entries()[0].bytes_per_s == 1000.0)
    assert pulls.entries()[0].total_bytes == 10_000
    slow.end.set()
    await eventually(lambda: pulls.entries()[0].state == "done")
    assert (pulls.entries()[0].done_bytes, pulls.entries()[0].bytes_per_s) == (10_000, None)
