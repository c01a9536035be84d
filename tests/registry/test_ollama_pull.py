"""`POST /api/pull` through the `ollama` package: from a hub on loopback to this node's disk, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest

from swarm.gateway.page.ollama_management import pull_status
from swarm.gateway.page.pulls import PULLS, PullEntry
from swarm.registry.hub import Progress
from swarm.registry.removal import ArrivedOf, NotDownloaded, Removal
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.tiny_models import write_named_model
from tests.doubles.waiting import eventually
from tests.registry.fake_hub import Hub, Upload
from tests.registry.test_page_pulls import FILE, NAME, REPO, node_with_a_disk

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
    ("model", "said"),
    [("nonsuch:4b", "nonsuch"), ("qwen33:4b", "qwen3"), ("/etc/passwd", "is a path"), ("demo", "comes with")],
)
async def test_what_no_registry_has_is_refused_with_what_there_is(tmp_path: Path, model: str, said: str) -> None:
    async with node_with_a_disk(tmp_path) as (node, client, _), package(node.url) as asked:
        with pytest.raises(ollama.ResponseError, match=said) as caught:
            await asked.pull(model)
        assert caught.value.status_code == 400
        assert (await client.get("/swarm/v1/pulls")).json == {"data": []}


async def test_what_the_hub_does_not_have_is_said_in_the_stream_and_without_one(hub: Hub, tmp_path: Path) -> None:
    del hub
    async with node_with_a_disk(tmp_path) as (node, client, _), package(node.url) as asked:
        with pytest.raises(ollama.ResponseError, match="owner/none"):
            await asked.pull("hf:owner/none/x.gguf")
        reply = await client.post("/api/pull", {"name": "hf:owner/none/x.gguf"})
        last = json.loads(reply.text.strip().splitlines()[-1])
        assert list(last) == ["error"]
        assert "owner/none" in last["error"]


class EndlessShelf:
    """Brings models that never arrive."""

    def check(self, model: str) -> None:
        del model

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


async def test_a_client_that_leaves_ends_its_pull() -> None:
    async with RunningNode("kitchen", options=NodeOptions(shelf=EndlessShelf())) as node, package(node.url) as client:
        lines = await client.pull("qwen3:4b", stream=True)
        assert (await anext(lines)).status == "pulling manifest"
        await lines.aclose()

        await eventually(lambda: [entry.state for entry in node.app[PULLS].entries()] == ["cancelled"])
