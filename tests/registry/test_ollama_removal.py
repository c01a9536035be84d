"""`DELETE /api/delete` has the rules of `swarm models rm`, and `POST /api/copy` gives names that outlive the node."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import pytest

from swarm.errors import BadRequest, ModelInUse, SetupError
from swarm.gateway.answers.model_names import MAX_GIVEN, NAMES, GivenNames, read_given_names
from swarm.gateway.page.ollama_management import check_idle
from swarm.registry.file_hashes import hashes_path
from swarm.registry.removal import ArrivedOf, NotDownloaded, Removal, removal_of
from swarm.registry.stored import StoredModels, damaged
from swarm.workers.pool import WorkerPool
from tests.doubles.clients import Client
from tests.doubles.machine import Machine
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.tiny_models import write_named_model
from tests.doubles.waiting import eventually
from tests.registry.fake_hub import Hub, Upload
from tests.registry.test_ollama_pull import Ollama, package
from tests.registry.test_page_pulls import FILE, NAME, REPO, node_with_a_disk


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a request whose method no client of the tests has."""

    status: int
    json: Any


async def deleted(node: RunningNode, body: Any, **headers: str) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.delete(f"{node.url}/api/delete", json=body, headers=headers) as answer,
    ):
        return Answer(answer.status, await answer.json())


@asynccontextmanager
async def node_with_a_model(folder: Path) -> AsyncGenerator[tuple[RunningNode, Client, Path]]:
    """A node with one downloaded model, `tiny-q8_0`, in the folder that is given; its file."""
    place = folder / "models" / REPO.replace("/", "--")
    place.mkdir(parents=True)
    shutil.copy(write_named_model(folder / "made" / FILE), place / FILE)
    async with node_with_a_disk(folder) as (node, client, _):
        await client.get("/swarm/v1/models")
        await node.app[NAMES].look_again()
        yield node, client, place / FILE


async def names(client: Client) -> set[str]:
    """As `/api/tags` and `/v1/models` list them, which is the same but for copies."""
    return {model["name"] for model in (await client.get("/api/tags")).json["models"]} - {"swarm"}


async def ids(client: Client) -> set[str]:
    return {model["id"] for model in (await client.get("/v1/models")).json["data"]} - {"swarm"}


# Deleting


@pytest.mark.parametrize("field", ["model", "name"])
async def test_a_model_is_deleted_from_the_disk_and_from_every_list(tmp_path: Path, field: str) -> None:
    async with node_with_a_model(tmp_path) as (node, client, file):
        assert await names(client) == await ids(client) == {"tiny-q8_0"}
        answer = await deleted(node, {field: "tiny-q8_0:latest"})
        assert (answer.status, answer.json) == (200, {"status": "success"})
        assert not file.exists()
        assert not file.parent.exists(), "its folder is empty"
        assert await names(client) == await ids(client) == set()
        again = await deleted(node, {field: "tiny-q8_0"})
        assert (again.status, set(again.json)) == (404, {"error"})
        assert (await client.post("/api/generate", {"model": "tiny-q8_0", "prompt": "a"})).status == 404


async def test_the_ollama_package_deletes(tmp_path: Path) -> None:
    async with node_with_a_model(tmp_path) as (node, client, file), package(node.url) as asked:
        assert (await asked.delete("tiny-q8_0")).status == "success"
        assert not file.exists()
        with pytest.raises(ollama.ResponseError, match="'tiny-q8' not found") as caught:
            await asked.delete("tiny-q8")
        assert caught.value.status_code == 404
        assert await names(client) == set()


async def test_one_that_idles_is_unloaded_first(tmp_path: Path) -> None:
    async with node_with_a_model(tmp_path) as (node, client, file):
        body = {"model": "tiny-q8_0", "prompt": "a", "raw": True, "options": {"num_predict": 1}, "stream": False}
        assert (await client.post("/api/generate", body)).status == 200
        assert node.pool.get("tiny-q8_0") is not None
        assert (await deleted(node, {"model": "tiny-q8_0"})).status == 200
        assert node.pool.states() == ()
        assert not file.exists()


async def test_one_that_is_pinned_or_at_work_stays(tmp_path: Path) -> None:
    async with node_with_a_model(tmp_path) as (node, client, file):
        await client.post("/v1/models/pin", {"model": "tiny-q8_0", "pinned": True})
        pinned = await deleted(node, {"model": "tiny-q8_0"})
        assert (pinned.status, "is pinned" in pinned.json["error"]) == (409, True)
        await client.post("/v1/models/pin", {"model": "tiny-q8_0", "pinned": False})
        async with node.pool.using("tiny-q8_0") as workers, workers.lease(1):
            busy = await deleted(node, {"model": "tiny-q8_0"})
        assert (busy.status, "answers somebody" in busy.json["error"]) == (409, True)
        assert file.exists()


async def test_models_on_their_way_are_in_use() -> None:
    machine = Machine()
    machine.add("a", 100)
    machine.gate.clear()
    async with machine.pool() as pool:
        check_idle(None)
        pool.begin("a")
        await _until_loading(pool)
        with pytest.raises(ModelInUse, match="is loading"):
            check_idle(pool.states()[0])
        machine.gate.set()
        await pool.ensure("a")
        check_idle(pool.states()[0])


async def _until_loading(pool: WorkerPool) -> None:
    await eventually(lambda: [state.phase for state in pool.states()] == ["loading"])


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("demo", 400, "comes with this program"), ("swarm", 400, "stands for all models"),
        ("tiny-q8_1", 404, "did you mean 'tiny-q8_0'"), ("nothing", 404, "not found"), ("t", 404, "not found"),
        ("/etc/passwd", 404, "not found"), ("../made/tiny-q8_0.gguf", 404, "not found"),
        ("a\nb", 400, "not a model name"), ("hf:owner/other", 404, "not found"),
        ("house", 400, "this node's configuration"),
    ],
)  # fmt: skip
async def test_what_is_not_this_programs_is_not_deleted(tmp_path: Path, name: str, status: int, said: str) -> None:
    async with node_with_a_model(tmp_path) as (node, _, file):
        node.app[NAMES]._aliases["house"] = ("house", "tiny-q8_0")  # type: ignore[reportPrivateUsage]
        answer = await deleted(node, {"model": name})
        assert (answer.status, set(answer.json)) == (status, {"error"})
        assert said in answer.json["error"]
        assert file.exists()
        assert (tmp_path / "made" / FILE).exists()


async def test_a_copy_of_another_program_stays_and_is_told(tmp_path: Path) -> None:
    """The same content lies in a folder that is only read."""
    theirs = tmp_path / "none"
    theirs.mkdir()
    shutil.copy(write_named_model(tmp_path / "made" / FILE), theirs / FILE)
    async with node_with_a_model(tmp_path) as (node, client, file):
        answer = await deleted(node, {"model": "tiny-q8_0"})
        assert answer.status == 200
        assert f"a copy stays at {theirs / FILE}" in answer.json["note"]
        assert (file.exists(), (theirs / FILE).exists()) == (False, True)
        assert await names(client) == {"tiny-q8_0"}
        again = await deleted(node, {"model": "tiny-q8_0"})
        assert (again.status, "remove it there yourself" in again.json["error"]) == (400, True)
        assert (theirs / FILE).exists()


async def test_what_had_arrived_of_a_pull_is_deleted_by_its_name(hub: Hub, tmp_path: Path) -> None:
    content = write_named_model(tmp_path / "made" / FILE).read_bytes() + bytes(3 << 20)
    hub.put(REPO, FILE, Upload(content))
    hub.cuts, hub.cut_rest = [1 << 20], True
    async with node_with_a_disk(tmp_path / "data") as (node, client, settings):
        assert (await client.post("/api/pull", {"model": NAME, "stream": False})).status >= 400
        removal = removal_of(StoredModels(), settings.own_models_dir, NAME)
        assert isinstance(removal, ArrivedOf)
        assert removal.size_bytes == 1 << 20
        assert (await deleted(node, {"model": NAME})).json == {"status": "success"}
        assert removal.size_bytes == 0
        assert (await deleted(node, {"model": NAME})).status == 404


async def test_only_those_who_manage_the_node_may(tmp_path: Path) -> None:
    async with node_with_a_model(tmp_path) as (node, client, file):
        refused = await deleted(node, {"model": "tiny-q8_0"}, **{"X-Forwarded-For": "192.0.2.7"})
        assert (refused.status, set(refused.json)) == (403, {"error"})
        body = {"source": "tiny-q8_0", "destination": "mine"}
        assert (await client.post("/api/copy", body, X_Forwarded_For="192.0.2.7")).status == 403
        assert file.exists()
        assert await names(client) == {"tiny-q8_0"}


async def test_a_node_without_a_disk_has_none_to_delete() -> None:
    async with RunningNode("kitchen", ready(ScriptedEngine(saying("a"), model_id="a"))) as node:
        answer = await deleted(node, {"model": "a"})
        assert (answer.status, "loads no models of its own" in answer.json["error"]) == (400, True)


def test_an_image_part_that_the_disk_refuses_to_remove_is_told(tmp_path: Path) -> None:
    model = damaged(write_named_model(tmp_path / "repo" / FILE), tmp_path)
    assert model is not None
    stuck = tmp_path / "repo" / "mmproj.gguf"
    stuck.mkdir()
    with pytest.raises(SetupError, match=r"cannot remove .*mmproj\.gguf: "):
        Removal(model, tmp_path, stuck).carry_out()
    assert not model.path.exists(), "a model that stays has its image part"


def test_nothing_is_left_of_a_model_and_its_image_part(tmp_path: Path) -> None:
    model = damaged(write_named_model(tmp_path / "repo" / FILE), tmp_path)
    assert model is not None
    part = tmp_path / "repo" / "mmproj.gguf"
    for file in (part, hashes_path(part), hashes_path(model.path)):
        file.write_bytes(b"x" * 5)
    assert Removal(model, tmp_path, part).carry_out() == model.size_bytes + 5
    assert not any(tmp_path.iterdir())


def test_a_persons_beginning_of_a_name_is_not_a_programs(tmp_path: Path) -> None:
    place = tmp_path / "own"
    with pytest.raises(NotDownloaded, match="nothing"):
        removal_of(StoredModels(), place, "tiny", typed=False)
    with pytest.raises(NotDownloaded, match="nothing"):
        removal_of(StoredModels(), place, "x.gguf", typed=True)


# Copying


async def test_a_copy_is_a_second_name_that_is_listed_and_deleted_alone(tmp_path: Path) -> None:
    async with node_with_a_model(tmp_path) as (node, client, file), package(node.url) as asked:
        assert (await asked.copy("tiny-q8_0", "Mine:latest")).status == "success"
        assert await names(client) == {"tiny-q8_0", "Mine"}
        (entry,) = [model for model in (await client.get("/v1/models")).json["data"] if model["id"] == "tiny-q8_0"]
        assert entry["aliases"] == ["Mine"]
        assert (await client.post("/api/show", {"model": "mine:latest"})).status == 200
        body = {"model": "MINE", "prompt": "a", "raw": True, "options": {"num_predict": 1}, "stream": False}
        said = (await client.post("/api/generate", body)).json
        assert (said["model"], said["done"]) == ("MINE", True)
        near = await deleted(node, {"model": "minee"})
        assert "did you mean 'Mine'" in near.json["error"]
        tags = {model["name"]: model for model in (await client.get("/api/tags")).json["models"]}
        assert tags["Mine"] == {**tags["tiny-q8_0"], "name": "Mine", "model": "Mine"}, "it is one model"
        await asked.copy("mine", "other")
        assert await names(client) == {"tiny-q8_0", "Mine", "other"}, "a copy of a copy is one of the model"
        assert (await deleted(node, {"model": "mine:latest"})).json["status"] == "success"
        assert await names(client) == {"tiny-q8_0", "other"}
        assert file.exists()


async def test_a_name_whose_model_may_be_several_by_now_does_not_hide_the_others() -> None:
    loaders = [ready(ScriptedEngine(saying("a"), model_id=name)) for name in ("a-b", "a-d")]
    async with RunningNode("kitchen", *loaders) as node, package(node.url) as asked:
        await node.app[NAMES].given.give("mine", "a")
        assert [model.model for model in (await asked.list()).models] == ["swarm", "a-b", "a-d"]


async def test_a_name_is_given_to_a_model_with_the_longest_id_and_to_none_beyond(tmp_path: Path) -> None:
    given = GivenNames(tmp_path / "given_names.json")
    with pytest.raises(BadRequest, match="513 characters"):
        await given.give("mine", "m" * 513)
    assert given.all() == {}
    assert await given.give("mine", "m" * 512) is None
    assert GivenNames(tmp_path / "given_names.json").meaning("mine") == "m" * 512


async def test_a_name_may_be_given_anew() -> None:
    loaders = [ready(ScriptedEngine(saying("a"), model_id=name)) for name in ("a", "b")]
    async with RunningNode("kitchen", *loaders) as node, package(node.url) as asked:
        for source in ("a", "b", "swarm", "swarm:latest"):
            await asked.copy(source, "mine")
            shown = [model.model for model in (await asked.list()).models]
            assert shown == ["swarm", "a", "b", "mine"]
        answer = await asked.chat("mine", [{"role": "user", "content": "Tell me."}])
        assert answer.model == "mine"


@pytest.mark.parametrize(
    ("source", "destination", "status", "said"),
    [
        ("nothing", "mine", 404, "not found"),
        ("a-v", "mine", 404, "did you mean 'a-b'"), ("a-b", "swarm", 400, "taken"),
        ("a-b", "demo", 400, "taken"), ("a-b", "c-d", 400, "name of the model 'c-d'"), ("a-b", "A-B", 400, "taken"),
        ("a-b", "c", 400, "it means 'c-d'"), ("a-b", "a\nb", 400, "no name"), ("a-b", " ", 400, "no name"),
        ("a-b", "x" * 300, 400, "no name"), ("a-b", ":latest", 400, "no name"), ("", "mine", 400, "source"),
        ("a-b", None, 400, "destination"),
    ],
)  # fmt: skip
async def test_names_that_cannot_be_given(source: str, destination: str | None, status: int, said: str) -> None:
    loaders = [ready(ScriptedEngine(saying("a"), model_id=name)) for name in ("a-b", "c-d")]
    async with RunningNode("kitchen", *loaders) as node:
        client: Ollama
        async with package(node.url) as client:
            reply = await client._client.post("/api/copy", json={"source": source, "destination": destination})
        assert (reply.status_code, list(reply.json())) == (status, ["error"])
        assert said in reply.json()["error"]
        assert node.app[NAMES].given.all() == {}


async def test_a_beginning_that_may_be_two_is_given_to_one() -> None:
    loaders = [ready(ScriptedEngine(saying("a"), model_id=name)) for name in ("a-b", "a-d")]
    async with RunningNode("kitchen", *loaders) as node, package(node.url) as asked:
        with pytest.raises(ollama.ResponseError, match="may be a-b or a-d"):
            await asked.chat("a", [{"role": "user", "content": "Tell me."}])
        await asked.copy("a-d", "a")
        assert (await asked.chat("a", [{"role": "user", "content": "Tell me."}])).done


async def test_names_are_kept_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "data" / "given_names.json"
    given = GivenNames(path)
    assert await given.give("Mine", "tiny-q8_0") is None
    assert await given.give("other", "swarm") is None
    again = GivenNames(path)
    assert (again.meaning("mine"), again.meaning("OTHER")) == ("tiny-q8_0", "swarm")
    assert await again.take_back("MINE") is None
    assert read_given_names(path) == {"other": "swarm"}
    for number in range(MAX_GIVEN - 1):
        again._names[f"n{number}"] = (f"n{number}", "x")  # type: ignore[reportPrivateUsage]  # 256 writes take seconds
    with pytest.raises(Exception, match="which is all: delete one first"):
        await again.give("one more", "x")
    assert await again.give("other", "y") is None, "that is none more"


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 2, "names": {}}', b'{"version": 1, "names": {"a": 5}}', b"\xff" * 50, b"[]"]
)
def test_a_damaged_file_of_names_is_begun_anew(tmp_path: Path, content: bytes, caplog: Any) -> None:
    path = tmp_path / "given_names.json"
    path.write_bytes(content)
    assert read_given_names(path) == {}
    assert "is not used" in caplog.text


async def test_where_names_cannot_be_kept_the_answer_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = GivenNames(tmp_path / "file" / "given_names.json")
    assert "cannot be written" in (await given.give("mine", "a") or "")
    assert given.meaning("mine") == "a"
    async with RunningNode("kitchen", ready(ScriptedEngine(saying("a"), model_id="a"))) as node:
        async with package(node.url) as asked:
            reply = await asked._client.post("/api/copy", json={"source": "a", "destination": "mine"})
        assert reply.json()["status"] == "success"
        assert "until this node stops" in reply.json()["note"]
