"""Loads of real files by a real engine in a process of its own, in which everything goes wrong that can."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from hardware.snapshot import Cpu, HardwareSnapshot, Memory
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import EngineFailed, Unavailable, UnknownModel
from swarm.generation import Delta, GenerationRequest
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import model_store
from swarm.node.models import NodeModels
from swarm.node.settings import Settings
from swarm.registry import model_index
from swarm.registry.stored import ModelStore
from swarm.workers import load_records
from swarm.workers.pool import WorkerPool
from tests.doubles.machine import Machine
from tests.doubles.tiny_models import write_named_model, write_projector
from tests.doubles.waiting import eventually

QUESTION = "What is the capital of France?"
HOST = "swarm.engines.llama_cpp.xllamacpp_host"
SNAPSHOT = HardwareSnapshot(Cpu(usable_cores=2), Memory(total_bytes=16 << 30, free_bytes=8 << 30))


class Disk:
    """A pool over the models in a folder, as a node has it; its clock is `ahead_s` ahead."""

    def __init__(self, folder: Path, store: ModelStore, models: NodeModels) -> None:
        self.folder = folder
        self.store = store
        self.models = models
        self.ahead_s = 0.0
        self.pool = WorkerPool("node", clock=lambda: asyncio.get_running_loop().time() + self.ahead_s)
        self.pool.load_from(models, models.memory, models)

    @property
    def phases(self) -> dict[str, str]:
        return {state.model_id: state.phase for state in self.pool.states()}

    async def says(self, model_id: str) -> str:
        """What a model answers, loaded if need be."""
        request = GenerationRequest.model_validate(
            {"model": model_id, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0.0}
        )
        async with (
            self.pool.using(model_id) as workers,
            workers.lease(1) as lease,
            aclosing(lease.engine.candidates(request, 1)) as events,
        ):
            return "".join([event.text async for event in events if isinstance(event, Delta)])

    async def look_again(self) -> None:
        """As half a minute later."""
        await asyncio.to_thread(self.store.look, 0.0)


@asynccontextmanager
async def disk_with(folder: Path, *names: str) -> AsyncGenerator[Disk]:
    """One model for each of `names`; every engine is in a process of its own."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    for name in names:
        await asyncio.to_thread(write_named_model, disk / f"{name}.gguf")
    settings = Settings(data_dir=folder / "data", models_dir=(disk,), isolation="always", context=512, workers=1)
    store = await asyncio.to_thread(model_store, settings)
    await asyncio.to_thread(store.look)
    made = Disk(disk, store, await asyncio.to_thread(NodeModels, store, settings, NodeEngines.look(settings, SNAPSHOT)))
    async with made.pool:
        yield made
    assert not hosts(), "every engine's process is gone"


def hosts() -> list[psutil.Process]:
    """The engines' processes that this one has started."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        try:
            if HOST in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


async def new_host(before: list[psutil.Process] | None = None) -> psutil.Process:
    """The process of an engine that has just been started; it takes half a second until it reads its model."""
    known = set(before or ())
    await eventually(lambda: bool(set(hosts()) - known))
    (started,) = set(hosts()) - known
    return started


async def test_an_engine_that_is_killed_while_it_loads_is_told_and_tried_again_later(tmp_path: Path) -> None:
    async with disk_with(tmp_path, "tale") as disk:
        waiting = [asyncio.create_task(disk.pool.ensure("tale")) for _ in range(3)]
        (await new_host()).kill()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, EngineFailed)
            assert "ended while loading" in str(error)
            assert "tale.gguf" in str(error)
        assert disk.phases == {"tale": "failed"}
        with pytest.raises(Unavailable, match=r"could not be loaded.*again in \d s") as caught:
            await disk.pool.ensure("tale")
        disk.ahead_s += caught.value.retry_after_s or 0
        assert "Paris" in await disk.says("tale")


async def test_a_file_that_is_removed_while_its_model_runs_goes_on_answering_until_it_is_unloaded(
    tmp_path: Path,
) -> None:
    async with disk_with(tmp_path, "tale", "other") as disk:
        assert "Paris" in await disk.says("tale")
        (disk.folder / "tale.gguf").unlink()
        await disk.look_again()
        assert "Paris" in await disk.says("tale")
        assert {model.model_id for model in disk.models.all() if model.listed} == {"other"}
        await disk.pool.unload("tale")
        with pytest.raises(UnknownModel):
            await disk.pool.ensure("tale")
        assert "Paris" in await disk.says("other")


async def test_a_file_that_is_removed_while_it_is_loaded_is_named(tmp_path: Path) -> None:
    async with disk_with(tmp_path, "tale") as disk:
        loading = asyncio.create_task(disk.pool.ensure("tale"))
        host = await new_host()
        host.suspend()
        path = disk.folder / "tale.gguf"
        path.unlink()
        host.resume()
        with pytest.raises(EngineFailed, match=r"tale\.gguf"):
            await loading
        await disk.look_again()
        disk.ahead_s += 60
        with pytest.raises(UnknownModel):
            await disk.pool.ensure("tale")
        await asyncio.to_thread(write_named_model, path)
        await disk.look_again()
        assert "Paris" in await disk.says("tale")


async def test_a_load_that_hangs_is_given_up_and_holds_up_no_other_model(tmp_path: Path, demo_model: Path) -> None:
    machine = Machine(total=1000)
    machine.add("other", 100)
    hanging = machine.add("hanging", 300)
    spec = EngineSpec("hanging", demo_model, context_tokens=512, slots=1, threads=1)
    load = partial(load_xllamacpp, spec, "always", load_least_s=1.5)
    machine.models["hanging"] = replace(hanging, load=lambda _: load())
    async with machine.pool() as pool:
        await pool.ensure("other")
        loading = asyncio.create_task(pool.ensure("hanging"))
        host = await new_host()
        host.suspend()
        async with pool.using("other") as workers, workers.lease(1) as lease:
            assert lease.engine.model_id == "other", "what is loaded answers meanwhile"
        with pytest.raises(EngineFailed, match=r"was not loaded within 2 s and was given up"):
            await loading
        assert not hosts()
        assert {state.model_id: state.phase for state in pool.states()} == {"other": "ready", "hanging": "failed"}
        machine.add("large", 850)
        await pool.ensure("large")  # what was promised to it is nobody's any more


async def test_a_full_disk_costs_what_would_be_kept_and_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(model_index, "write_atomically", full)
    monkeypatch.setattr(load_records, "write_atomically", full)
    async with disk_with(tmp_path, "tale") as disk:
        async with disk.models.looking(lambda: None):
            assert "Paris" in await disk.says("tale")
        assert not (tmp_path / "data" / "loads.json").exists()
        monkeypatch.undo()
        async with disk.models.looking(lambda: None):
            await disk.pool.unload("tale")
            assert "Paris" in await disk.says("tale")
        assert (tmp_path / "data" / "loads.json").exists()
    assert "what loads took is not kept: [Errno 28] No space left on device" in caplog.text


async def test_a_load_changes_what_is_expected_and_nothing_else_is_made_anew(tmp_path: Path) -> None:
    async with disk_with(tmp_path, "one", "two") as disk:
        models = disk.models
        one, two = models.find("one"), models.find("two")
        assert one is not None
        assert two is not None
        taken = 5 * one.usual.need["ram"]
        models.note_load(one, one.usual, 77.0, taken)
        again = models.find("one")
        assert again is not None
        assert (again.expected_load_s, again.usual.need["ram"]) == (77.0, taken)
        assert models.find("two") is two
        write_named_model(disk.folder / "three.gguf")
        await disk.look_again()
        assert (models.find("three") is not None, models.find("two") is two) == (True, True)


async def test_a_model_is_loaded_with_the_image_part_beside_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    projector = tmp_path / "disk" / "mmproj-eyes.gguf"
    write_projector(projector)
    async with disk_with(tmp_path, "eyes", "blind") as disk:
        eyes, blind = (disk.models.find(name) for name in ("eyes", "blind"))
        assert eyes is not None
        assert blind is not None
        assert (eyes.capabilities.vision, blind.capabilities.vision) == (True, False)
        more = {pool: size - blind.usual.need[pool] for pool, size in eyes.usual.need.items()}
        assert list(more.values()) == [projector.stat().st_size], "it takes its memory"
        await disk.pool.ensure("eyes")
        (state,) = disk.pool.states()
        assert state.capabilities.vision
        assert await disk.says("eyes")


async def test_a_model_with_which_its_image_part_does_not_go_is_loaded_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "disk").mkdir()
    write_projector(tmp_path / "disk" / "mmproj-eyes.gguf", hidden=64)
    async with disk_with(tmp_path, "eyes") as disk:
        assert await disk.says("eyes")
        assert "eyes sees no images: it is loaded without its image part" in caplog.text
        found = disk.models.find("eyes")
        assert found is not None
        assert not found.capabilities.vision, "it is not expected of it again"


def test_a_model_that_is_named_by_its_path_has_the_image_part_beside_it(tmp_path: Path) -> None:
    path = write_named_model(tmp_path / "eyes.gguf")
    for name in ("mmproj-eyes-f16.gguf", "mmproj-others.gguf"):
        write_projector(tmp_path / name)
    store = model_store(Settings(data_dir=tmp_path / "data"))
    assert store.at(path).projector == tmp_path / "mmproj-eyes-f16.gguf"
