"""A running node's own disk, as those who manage it ask for it: models that come to it, and which would fit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

from hardware.probe import probe_hardware
from swarm.errors import SetupError, Unavailable
from swarm.node.engines import NodeEngines
from swarm.node.files import pull_here
from swarm.node.model_choice import fit_here
from swarm.node.models import NodeModels
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue
from swarm.registry.file_hashes import stoppable
from swarm.registry.hub import Progress
from swarm.registry.lan_download import LanFiles
from swarm.registry.model_memory import AskedLoad
from swarm.registry.names import CatalogueRef, EmbeddedRef, FileRef, HubRef, matches, parse_model
from swarm.registry.removal import ArrivedOf, Removal, removal_of
from swarm.registry.stored import ModelStore
from swarm.registry.table import FitRow

FIT_AGE_S = 5.0  # what is free changes; a probe of the hardware takes up to a second

STARTING = "this node is still starting, or loads no models of its own: try again in a moment"


class NodeShelf:
    """`ModelShelf` of a node. `models`: None until it has looked at its disk; `looked` is called after a change."""

    def __init__(
        self,
        settings: Settings,
        nearby: LanFiles | None,
        models: Callable[[], NodeModels | None],
        looked: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._nearby = nearby
        self._models = models
        self._looked = looked
        self._fitting = asyncio.Lock()
        self._fit: tuple[float, tuple[FitRow, ...]] | None = None

    def check(self, model: str) -> None:
        if (models := self._models()) is not None and models.store.latest.named(model) is not None:
            return  # it is here already
        match parse_model(model):
            case CatalogueRef() as ref:
                matches(ref, Catalogue.load(), ("gguf", "mlx"))
            case HubRef():
                return
            case EmbeddedRef():
                raise SetupError(f"{model!r} comes with the program: there is nothing to pull")
            case FileRef():
                raise SetupError(
                    f"{model!r} is a path, and a path cannot be downloaded: give NAME:SIZE[:QUANT] or "
                    "hf:OWNER/REPO/FILE.gguf"
                )

    async def sized(self, model: str) -> str:
        if (latest := self._ready().store.latest.named(model)) is not None:
            return latest.id
        ref = parse_model(model)
        if not isinstance(ref, CatalogueRef) or ref.size is not None:
            return model
        choices = matches(ref, Catalogue.load(), ("gguf", "mlx"))
        if len({choice.entry.size for choice in choices}) == 1:
            return model
        return usual_size(model, {choice.id for choice in choices}, await self.fit())

    async def pull(self, model: str, progress: Progress) -> str:
        models = self._ready()
        path = await stoppable(partial(pull_here, self._settings, self._nearby, model, progress))
        found = await asyncio.to_thread(models.take, path)
        self._looked()
        return found.id

    async def removal(self, model: str) -> Removal | ArrivedOf:
        store, own_dir = self._ready().store, self._settings.own_models_dir
        return await asyncio.to_thread(lambda: removal_of(store.look(), own_dir, model, typed=False))

    async def remove(self, removal: Removal | ArrivedOf) -> int:
        models = self._ready()
        try:
            return await asyncio.to_thread(removal.carry_out)
        finally:  # what is gone is gone, even where not all of it went
            await asyncio.to_thread(models.store.look, 0.0)
            self._looked()

    def totals(self) -> Mapping[str, int]:
        models = self._models()
        return {} if models is None else {str(pool): size for pool, size in models.totals.items()}

    async def fit(self) -> tuple[FitRow, ...]:
        models = self._ready()
        async with self._fitting:
            now = time.monotonic()
            if self._fit is None or now - self._fit[0] > FIT_AGE_S:
                rows = await asyncio.to_thread(fit_now, self._settings, models.engines, models.store)
                self._fit = time.monotonic(), rows
            return self._fit[1]

    def _ready(self) -> NodeModels:
        models = self._models()
        if models is None:
            raise Unavailable(STARTING)
        return models


def usual_size(family: str, names: Collection[str], rows: Iterable[FitRow]) -> str:
    """Which of `names`, all sizes of a family, is meant by the family alone: one that is here, else the best that fits.

    `rows` are the catalogue, the best first. Raises SetupError where none fits. Pure.
    """
    sizes = [row for row in rows if row.name in names]
    meant = next((row for row in sizes if row.on_disk), None) or next((row for row in sizes if row.fits), None)
    if meant is not None:
        return meant.name
    least = min(sizes, key=lambda row: row.needs_bytes, default=None)
    why = "" if least is None else f", not even {least.name} ({least.why})"
    raise SetupError(f"no size of {family} fits this machine{why}: name one to have it brought all the same")


def fit_now(settings: Settings, engines: NodeEngines, store: ModelStore) -> tuple[FitRow, ...]:
    """The catalogue against what is free now. Blocks: the hardware is looked at. Raises Unavailable where it cannot."""
    fresh = replace(engines, snapshot=probe_hardware(), _memory={})
    try:
        rows, _ = fit_here(fresh, AskedLoad(settings.context, settings.workers), store.latest)
    except SetupError as error:
        raise Unavailable(str(error)) from error
    return tuple(rows)
