"""A model that one engine does not know is loaded by the next one here, in that one's memory, and it is said."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hardware.snapshot import Cpu, Gpu, HardwareSnapshot, Memory
from swarm.engines.engine import Device, EngineBuild, EngineSpec
from swarm.errors import UnknownArchitecture
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import model_store
from swarm.node.models import NodeModels
from swarm.node.settings import Settings
from swarm.workers.pool import WorkerPool
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.tiny_models import write_named_model

CARD = Gpu("nvidia", "NVIDIA GeForce RTX 4090", 0, None, 24 << 30, 23 << 30, False, "8.9", "555.42")
SNAPSHOT = HardwareSnapshot(Cpu(usable_cores=2), Memory(total_bytes=16 << 30, free_bytes=8 << 30), (CARD,))
SERVER = EngineBuild("llama-server", "b1", (Device("CUDA0", CARD.name, 24 << 30, 23 << 30),), program=Path("/server"))
WHEEL = EngineBuild("xllamacpp", "2026.10")


@dataclass
class Loads:
    """What was tried, and the builds that know no architecture."""

    know_nothing: set[EngineBuild]
    tried: list[EngineBuild] = field(default_factory=list[EngineBuild])

    async def load(self, _: object, spec: EngineSpec, isolation: str) -> ScriptedEngine:
        assert spec.build is not None
        self.tried.append(spec.build)
        if spec.build in self.know_nothing:
            raise UnknownArchitecture(f"{spec.build.words} does not know the architecture 'llama'")
        return ScriptedEngine(saying("yes"), model_id=spec.model_id)


async def pool_of_tale(folder: Path) -> tuple[WorkerPool, NodeModels]:
    """A pool over one file, on a machine with a card that only the server sees."""
    await asyncio.to_thread(write_named_model, folder / "models" / "tale.gguf")
    settings = Settings(data_dir=folder, models_dir=(folder / "models",), context=512, workers=1)
    store = await asyncio.to_thread(model_store, settings)
    await asyncio.to_thread(store.look)
    engines = NodeEngines(settings, SNAPSHOT, (WHEEL, SERVER))
    models = await asyncio.to_thread(NodeModels, store, settings, engines)
    pool = WorkerPool("node")
    pool.load_from(models, models.memory, models)
    return pool, models


def pools_of(models: NodeModels, model_id: str) -> set[str]:
    """Where its memory is counted."""
    found = models.find(model_id)
    assert found is not None
    return set(found.usual.need)


async def test_the_next_engine_is_tried_and_its_memory_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads({SERVER})
    monkeypatch.setattr("swarm.engines.registry.EngineEntry.load", lambda *given: loads.load(*given))
    pool, models = await pool_of_tale(tmp_path)
    heard: list[tuple[str, str]] = []
    pool.subscribe(lambda event: heard.append((event.after, event.reason)))
    assert pools_of(models, "tale") == {"vram0"}
    async with pool:
        await pool.ensure("tale")
        assert loads.tried == [SERVER, WHEEL]
        assert pools_of(models, "tale") == {"ram"}
        reason = "llama-server b1 does not know the architecture 'llama'; xllamacpp 2026.10 may"
        assert ("failed", reason) in heard
        assert [phase for phase, _ in heard] == ["loading", "failed", "loading", "ready"]
        await pool.unload("tale")
        await pool.ensure("tale")
        assert loads.tried == [SERVER, WHEEL, WHEEL], "it is not tried again"


async def test_where_no_engine_knows_it_each_is_tried_once_and_who_asks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads({SERVER, WHEEL})
    monkeypatch.setattr("swarm.engines.registry.EngineEntry.load", lambda *given: loads.load(*given))
    pool, _ = await pool_of_tale(tmp_path)
    async with pool:
        with pytest.raises(UnknownArchitecture, match=r"xllamacpp 2026.10 does not know .*`swarm engines` says"):
            await pool.ensure("tale")
        assert loads.tried == [SERVER, WHEEL]
