"""`POST /api/pull` through the `ollama` package: from a hub on loopback to this node's disk, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ollama
import pytest

from swarm.errors import SetupError
from swarm.gateway.answers.answer_form import Pacing
from swarm.gateway.page.ollama_management import pull_status
from swarm.gateway.page.pulls import PULLS, PullEntry
from swarm.node.shelf import usual_size
from swarm.registry.hub import Progress
from swarm.registry.removal import ArrivedOf, NotDownloaded, Removal
from swarm.registry.table import FitRow
from tests.doubles.clients import connect
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.tiny_models import write_named_model
from tests.doubles.waiting import eventually
from tests.registry.fake_hub import Hub, Upload
from tests.registry.test_page_pulls import FILE, NAME, REPO, begun, node_with_a_disk

Ollama = Any  # an `ollama.AsyncClient`, whose own types are partly unknown


@asynccontextmanager
async def package(url: str) -> AsyncGenerator[Ollama]:
    """The official package."""
    client = ollama.AsyncClient(host=url)
    try:
        yield client
    finally:
        await client._client.aclose()  # type: ignore[reportPrivateUsage]  # it has no other way


def test_a_status_has_bytes_once_it_is_known_how_many() -> None:
    entry = PullEntry("1", "qwen3:4b", "kitchen", "running", done_bytes=5)
    assert pull_status(entry) == {"status": "pulling manifest"}
    known = PullEntry("1", "qwen3:4b", "kitchen", "running", done_bytes=5, total_bytes=9)
    assert pull_status(known) == {"status": "pulling qwen3:4b", "total": 9, "completed": 5}


async def test_a_model_is_pulled_told_of_and_on_the_disk(hub: Hub, tmp_path: Path) -> None:
    content = write_named_model(tmp_path / "made" / FILE).read_bytes()
    hub.put(REPO, FILE, Upload(content))
    async with node_with_a_disk(tmp_path / "data") as (node, _, settings), package(node.url) as client:
        lines = [line async for line in await client.pull(NAME, stream=True)]
        assert lines[0].status == "pulling manifest"
        assert (lines[-2].completed, lines[-2].total) == (len(content), len(content))
        assert lines[-1].status == "success"
        assert next(settings.own_models_dir.glob("*/*.gguf")).read_bytes() == content
        assert "tiny-q8_0" in [model.model for model in (await client.list()).models]
        hub.asked.clear()
        assert (await client.pull(NAME)).status == "success"
        assert hub.asked == [], "what is here is not brought again"


@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("nonsuch:4b", 404, "nonsuch"), ("qwen33:4b", 404, "did you mean qwen3"), ("/etc/passwd", 400, "is a path"),
        ("qwen3:5b", 404, "it comes in 0.6b, 1.7b"), ("qwen3:4b:q9", 404, "there is"), ("demo", 400, "comes with"),
        ("qwen33", 404, "did you mean qwen3"), ("a b", 400, "is not a model name"),
    ],
)  # fmt: skip
async def test_what_no_registry_has_is_refused_with_what_there_is(
    tmp_path: Path, model: str, status: int, said: str
) -> None:
    async with node_with_a_disk(tmp_path) as (node, client, _), package(node.url) as asked:
        with pytest.raises(ollama.ResponseError, match=said) as caught:
            await asked.pull(model)
        assert caught.value.status_code == status
        assert (await client.get("/swarm/v1/pulls")).json == {"data": []}


async def test_a_second_name_is_not_pulled_since_it_would_go_on_to_mean_the_other_model(
    hub: Hub, tmp_path: Path
) -> None:
    hub.put(REPO, FILE, Upload(write_named_model(tmp_path / "made" / FILE).read_bytes()))
    async with node_with_a_disk(tmp_path / "data") as (node, client, _), package(node.url) as asked:
        await asked.copy("swarm", NAME.upper())
        with pytest.raises(ollama.ResponseError, match="a second name of 'swarm'") as caught:
            await asked.pull(NAME)
        assert caught.value.status_code == 400
        assert (await client.post("/swarm/v1/pulls", {"model": NAME})).status == 400
        assert (await client.get("/swarm/v1/pulls")).json == {"data": []}
        await asked.delete(NAME)
        assert (await asked.pull(NAME)).status == "success"


async def test_what_the_hub_does_not_have_is_said_in_the_stream_and_without_one(hub: Hub, tmp_path: Path) -> None:
    del hub
    async with node_with_a_disk(tmp_path) as (node, client, _), package(node.url) as asked:
        with pytest.raises(ollama.ResponseError, match="owner/none") as caught:
            await asked.pull("hf:owner/none/x.gguf")
        assert caught.value.status_code == 404
        reply = await client.post("/api/pull", {"name": "hf:owner/none/x.gguf"})
        last = json.loads(reply.text.strip().splitlines()[-1])
        assert list(last) == ["error"]
        assert "owner/none" in last["error"]


async def test_what_may_be_had_later_is_unavailable(hub: Hub, tmp_path: Path) -> None:
    hub.put(REPO, FILE, Upload(write_named_model(tmp_path / "made" / FILE).read_bytes() + bytes(3 << 20)))
    hub.cuts, hub.cut_rest = [1 << 20], True
    async with node_with_a_disk(tmp_path / "data") as (node, _, _), package(node.url) as asked:
        with pytest.raises(ollama.ResponseError, match=r"run it again|goes on") as caught:
            await asked.pull(NAME)
        assert caught.value.status_code == 503
        hub.cuts, hub.cut_rest = [], False
        assert (await asked.pull(NAME)).status == "success"


async def test_a_family_alone_is_the_size_that_fits_best_here(hub: Hub, tmp_path: Path) -> None:
    """The hub has none of them, and says which one was asked of it."""
    async with node_with_a_disk(tmp_path) as (node, client, _), package(node.url) as asked:
        for name in ("qwen2.5-coder", "qwen2.5-coder:latest"):
            with pytest.raises(ollama.ResponseError, match=r"Qwen2\.5-Coder-[0-9.]+B-Instruct-GGUF") as caught:
                await asked.pull(name)
            assert caught.value.status_code == 404
        listed = (await client.get("/swarm/v1/pulls")).json["data"]
        fitting = [row["name"] for row in (await client.get("/swarm/v1/models")).json["fit"] if row["fits"]]
        best = next(name for name in fitting if name.startswith("qwen2.5-coder:"))
        assert {pull["model"] for pull in listed} == {best}
    assert hub.asked


def test_which_size_is_meant_by_a_family() -> None:
    def row(name: str, needs_bytes: int, fits: bool = True, on_disk: bool = False) -> FitRow:
        return FitRow(name, 1.0, None, "q4_k_m", "gguf", 1, needs_bytes, True, 9.0, fits, "too large", on_disk, False)

    names = {"q:1b:q4_k_m", "q:4b:q4_k_m"}
    other, small, large = row("r:1b:q4_k_m", 1), row("q:1b:q4_k_m", 1), row("q:4b:q4_k_m", 4)
    assert usual_size("q", names, [other, large, small]) == "q:4b:q4_k_m"
    assert usual_size("q", names, [other, replace(large, fits=False), small]) == "q:1b:q4_k_m"
    assert usual_size("q", names, [large, replace(small, on_disk=True)]) == "q:1b:q4_k_m", "what is here is not left"
    with pytest.raises(SetupError, match=r"not even q:1b:q4_k_m \(too large\)"):
        usual_size("q", names, [replace(large, fits=False), replace(small, fits=False)])


class EndlessShelf:
    """Brings models that never arrive."""

    def check(self, model: str) -> None:
        del model

    async def sized(self, model: str) -> str:
        return model

    async def pull(self, model: str, progress: Progress) -> str:
        progress(1, 2)
        await asyncio.Event().wait()
        return model

    def totals(self) -> dict[str, int]:
        return {}

    async def fit(self) -> tuple[()]:
        return ()

    async def removal(self, model: str) -> Removal | ArrivedOf:
        raise NotDownloaded(model)

    async def remove(self, removal: Removal | ArrivedOf) -> int:
        return removal.carry_out()


async def test_a_pull_without_lines_has_white_space_before_its_end() -> None:
    """Node's `fetch` gives up on it otherwise, and to leave is to end it."""
    pacing = Pacing(client_beat_s=1 / 64, whole_patience_s=2 / 64)
    async with (
        RunningNode("kitchen", options=NodeOptions(shelf=EndlessShelf(), pacing=pacing)) as node,
        connect(node.url) as client,
        asyncio.timeout(10.0),
        client.open("/api/pull", {"model": "qwen3:4b", "stream": False}) as response,
    ):
        assert (response.status, await response.content.readexactly(2)) == (200, b"  ")


async def test_a_client_that_leaves_does_not_end_what_was_on_its_way_before() -> None:
    async with (
        RunningNode("kitchen", options=NodeOptions(shelf=EndlessShelf())) as node,
        connect(node.url) as page,
        package(node.url) as client,
    ):
        await begun(page, "qwen3:4b")
        for model in ("qwen3:4b", "qwen3:8b"):
            lines = await client.pull(model, stream=True)
            await anext(lines)
            await lines.aclose()
        await eventually(lambda: "cancelled" in [entry.state for entry in node.app[PULLS].entries()])
        states = {entry.model: entry.state for entry in node.app[PULLS].entries()}
        assert (states["qwen3:4b"] != "cancelled", states["qwen3:8b"]) == (True, "cancelled")


async def test_a_client_that_leaves_ends_its_pull() -> None:
    async with RunningNode("kitchen", options=NodeOptions(shelf=EndlessShelf())) as node, package(node.url) as client:
        lines = await client.pull("qwen3:4b", stream=True)
        assert (await anext(lines)).status == "pulling manifest"
        await lines.aclose()

        await eventually(lambda: [entry.state for entry in node.app[PULLS].entries()] == ["cancelled"])
