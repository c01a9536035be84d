"""The models of a running node: what its store has, how each is loaded on this machine, and what loads took.

`NodeModels` is where the worker pool finds what it may load. It looks at the disk in the background, and again when
somebody names what it does not know.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from federation.lending import LendRequest
from federation.tasks import cancel_and_wait
from hardware.pools import FreeMemory, PoolName, pool_limits, pool_of, pool_totals
from hardware.snapshot import HardwareSnapshot
from swarm.engines.engine import Capabilities, Engine, EngineBuild, EngineSpec
from swarm.engines.free_memory import trim
from swarm.engines.registry import ENGINES, EngineEntry, Isolation, chosen_engine
from swarm.errors import EngineFailed, UnknownArchitecture
from swarm.node.engines import NodeEngines
from swarm.node.lenders import LendingPeer
from swarm.node.model_settings import ModelSettings, settings_for
from swarm.node.pooling import NodePooling, PooledFile, PooledModel
from swarm.node.settings import Settings
from swarm.registry.file_hashes import WorkStopped, stoppable
from swarm.registry.gguf_header import GgufFacts, why_no_draft
from swarm.registry.model_ids import AmbiguousModel, meant
from swarm.registry.model_memory import AskedLoad, Load, MemoryNeed, ModelShape
from swarm.registry.stored import ModelStore, StoredModel, StoredModels
from swarm.workers.ledger import Bytes, reserve_of
from swarm.workers.load_records import LoadRecords
from swarm.workers.loadable import NO_BYTES, Loadable, LoadOption, MemoryRules

LOOK_S = 30.0  # between two looks at the disk
LOOK_AGAIN_S = 2.0  # since the last one, where somebody names a model that is not known
RECORDS_FILE = "loads.json"
# Of weights read for each token. A second thread costs 30 % more computing time a token at 93 MiB, and 10 % at 500.
SMALL_WEIGHTS_BYTES = 256 * 2**20
NO_BUILD_POOL: PoolName = "ram"  # what is counted for a model that no engine here loads

NoteUnknown = Callable[[StoredModel, GgufFacts, EngineBuild], EngineBuild | None]

log = logging.getLogger(__name__)


def compute_threads(threads: int | None, snapshot: HardwareSnapshot, weights_bytes: int) -> tuple[int, int]:
    """The engine's threads for a token, and for a prompt: all usable cores, since they wait without spinning.

    Of a small model they wait for each other as long as they compute: a token has one less, so that a busy program
    beside it holds up none of them. `threads` is what the user decided.
    """
    if threads is not None:
        return threads, threads
    cores = snapshot.cpu.usable_cores or 2
    return max(1, cores - 1) if weights_bytes < SMALL_WEIGHTS_BYTES else cores, cores


def read_for_each_token(facts: GgufFacts) -> int:
    """Bytes of weights: of a mixture of experts those of the chosen ones."""
    return facts.size_bytes * facts.active_params // max(1, facts.params)


def draft_among(models: Mapping[str, StoredModel], facts: GgufFacts, name: str) -> StoredModel | str:
    """Of `models` the one called `name`, to guess for the one with such `facts`; else why none does, in words."""
    try:
        id_ = meant(name, {model.id: model.also for model in models.values()}, loose=True)
    except AmbiguousModel as error:
        return str(error)
    draft = None if id_ is None else models[id_]
    if draft is None or draft.facts is None:
        return f"{name!r} is not on this disk: `swarm models pull {name}` fetches it"
    return draft if (why := why_no_draft(facts, draft.facts)) is None else f"{draft.id}: {why}"


def with_draft(need: MemoryNeed, draft: MemoryNeed) -> MemoryNeed:
    """What a model and the one that guesses for it take, in one process."""
    return replace(
        need,
        weights_bytes=need.weights_bytes + draft.weights_bytes,
        kv_bytes=need.kv_bytes + draft.kv_bytes,
        compute_bytes=need.compute_bytes + draft.compute_bytes,
    )


class NodeModels:
    """The `ModelSource` of the worker pool, and who keeps what loads took.

    Make it in a thread: it reads a file.
    """

    def __init__(self, store: ModelStore, settings: Settings, engines: NodeEngines) -> None:
        self.store = store
        self._settings = settings
        self.engines = engines
        self._snapshot = snapshot = engines.snapshot
        self._free = FreeMemory(snapshot)
        self.totals = pool_totals(snapshot)
        self._records_path = settings.data_path / RECORDS_FILE
        self._records = LoadRecords.read(self._records_path)
        self._given: dict[str, StoredModel] = {}  # what was chosen before the disk was looked at, by id
        self._looked: StoredModels | None = None
        self._made: dict[str, tuple[StoredModel, Loadable]] = {}
        self._drafts_in = store.latest
        self._drafts: dict[tuple[tuple[Path, ...], str], StoredModel | str] = {}
        self._unfit: set[Path] = set()  # image parts with which their model was not loaded
        self._on_look: Callable[[], None] = lambda: None
        self._named = frozenset(() if settings.model else store.latest.problems)  # who chose among all has named them
        self._cannot: set[tuple[EngineBuild, str]] = set()  # builds, and the architectures that they do not know
        self.pooling: NodePooling | None = None  # set before anything is loaded
        self.held: Callable[[str], Bytes] = lambda but: NO_BYTES  # what the pool's models take, all but one
        self._pools = {build: pool_of(engines.memory(build), snapshot) for build in engines.builds}
        self._rules = self._memory_rules()

    @property
    def memory(self) -> MemoryRules:
        """What the models may take of this machine."""
        return self._rules

    def _memory_rules(self) -> MemoryRules:
        pools, most = {*self._pools.values()} or {NO_BUILD_POOL}, self._settings.memory
        limit = {pool: size for pool, size in pool_limits(self._snapshot).items() if pool in pools}
        if most is not None:
            limit = {pool: min(most, limit.get(pool, most)) for pool in pools}
        reserve = {pool: reserve_of(size) for pool, size in self.totals.items() if pool in pools}
        return MemoryRules(self._read_free, limit, reserve, self._settings.max_models)

    async def _read_free(self) -> Mapping[PoolName, int]:
        """Bytes free in each pool now. RAM is read at once, a GPU's memory by a tool that takes its time."""
        pools = {*self._pools.values()} or {NO_BUILD_POOL}
        if pools <= {"ram", "unified"}:
            return self._free.read(pools)
        return await asyncio.to_thread(self._free.read, pools)

    # What there is

    def take(self, path: Path) -> StoredModel:
        """The model in the file at `path`, which can be loaded from now on. Blocks. Raises SetupError for no model."""
        model = self.store.at(path)
        self._given[model.id] = model
        if self.pooling is not None:
            self.pooling.learn(model.path)
        self._looked = None
        self._drafts = {}
        return model

    def find(self, model_id: str) -> Loadable | None:
        found = self._current().get(model_id)
        return None if found is None else found[1]

    def all(self) -> Sequence[Loadable]:
        return tuple(loadable for _, loadable in self._current().values())

    def _current(self) -> Mapping[str, tuple[StoredModel, Loadable]]:
        found = self.store.latest
        if found is not self._looked:
            self._looked = found
            models = {**found.by_id(), **{id_: model for id_, model in self._given.items() if model.path.exists()}}
            self._made = {
                model.id: (model, self._loadable(model, model.facts))
                for model in models.values()
                if model.facts is not None and self._has_engine(model)
            }
        return self._made

    def _has_engine(self, model: StoredModel) -> bool:
        """Whether something here loads files of its format: what nothing does is offered to nobody."""
        decided = self.decided(model.id, model.also)
        return model.format == "gguf" or bool(self.engines.ranked(model.format, decided.engine))

    def _loadable(self, model: StoredModel, facts: GgufFacts) -> Loadable:
        """What was made of the model before, where it is the same; of 200 models all would take 30 ms of the loop."""
        was, known = self._made.get(model.id, (None, None))
        if known is None or was != model:
            return self._make(model, facts)
        load_s = self._expected_load_s(model)
        return known if known.expected_load_s == load_s else replace(known, expected_load_s=load_s)

    def _expected_load_s(self, model: StoredModel) -> float:
        return self._records.expected_s(model.fingerprint, model.size_bytes, model.source)

    def decided(self, model_id: str, also: Sequence[str] = ()) -> ModelSettings:
        """What the user decided of this model: by its id, another of its names, or the beginning of its id."""
        return settings_for(self._settings.models, model_id, also)[1]

    def _draft(self, facts: GgufFacts, name: str) -> StoredModel | str:
        """The model called `name`, which guesses for the one with such `facts`; else why it does not, in words."""
        latest = self.store.latest
        if latest is not self._drafts_in:
            self._drafts_in, self._drafts = latest, {}
        if (key := (facts.parts, name)) not in self._drafts:
            self._drafts[key] = draft_among({**latest.by_id(), **self._given}, facts, name)
        return self._drafts[key]

    def _make(self, model: StoredModel, facts: GgufFacts) -> Loadable:
        decided = self.decided(model.id, model.also)
        build = self._build_for(model, facts, decided)
        draft = partial(self._draft, facts, decided.draft) if decided.draft is not None else None
        way = _LoadPlan.of(
            model, facts, decided, self._settings, self._snapshot, build, self._note_unknown, draft=draft
        ).with_projector(self._unfit)
        pool, rules = self._pools.get(build, NO_BUILD_POOL) if build else NO_BUILD_POOL, self._rules
        most_bytes = rules.room(pool, self.totals.get(pool))

        pooled = self._pooled(model, facts, decided)

        def options(free: Bytes) -> tuple[LoadOption, ...]:
            alone = tuple(
                LoadOption(load.context_tokens, load.slots, {pool: self._need_bytes(model, way, load)})
                for load in way.loads(rules.room(pool, free.get(pool)), most_bytes)
            )
            if pooled is None or not pooled.rules.on or self._fits_here(model.id, alone[-1].need, free):
                return alone
            return pooled.options(self._room(pooled.pool, free, model.id))

        alone_load = way.loader(self._unfit.add)

        async def load(option: LoadOption) -> Engine:
            return await (pooled.load(option) if pooled and (option.nodes or option.waits) else alone_load(option))

        def hint(free: Bytes) -> str:
            on = pooled is None or pooled.rules.on
            return "" if pooled is None or on else pooled.hint(self._room(pooled.pool, free, model.id))

        ttl_s = decided.ttl if decided.ttl is not None else self._settings.ttl
        return Loadable(
            model_id=model.id,
            usual=options(self.totals)[0],
            options=options,
            load=load,
            rest=asyncio.sleep if pooled is None else pooled.rest,
            hint=hint,
            engine=way.engine.name,
            build=way.build,
            params=facts.params,
            size_bytes=model.size_bytes,
            fingerprint=model.fingerprint,
            sha256=model.sha256,
            capabilities=Capabilities(
                embeddings=model.role != "reranks",
                rerank=model.role == "reranks",
                generates=model.role == "writes",
                vision=way.projector is not None,
            ),
            expected_load_s=self._expected_load_s(model),
            listed=model.listed,
            ttl_s=None if ttl_s in (None, math.inf) else ttl_s,
            pinned=decided.pin,
            also=model.also,
            format=model.format,
            facts=facts,
            template=model.template,
            modified_s=model.modified_s,
        )

    def _pooled(self, model: StoredModel, facts: GgufFacts, decided: ModelSettings) -> PooledModel | None:
        """The same model over lenders; None where this node pools nothing, or cannot pool such a model."""
        pooling = self.pooling
        if pooling is None or (build := pooling.build) is None or model.format != "gguf" or model.role != "writes":
            return None
        plain = replace(decided, draft=None, speculate=False)
        way = _LoadPlan.of(model, facts, plain, self._settings, self._snapshot, build, self._note_unknown)
        pool = self._pools.get(build, NO_BUILD_POOL)

        async def room() -> int:
            return self._room(pool, await self._read_free(), model.id)

        def ask(lender: LendingPeer, size_bytes: int, context_tokens: int) -> LendRequest:
            return LendRequest(
                model=model.id, bytes=size_bytes, build=build.version, rpc=lender.offer.rpc,
                fingerprint=model.fingerprint, sha256=model.sha256, context_tokens=context_tokens,
            )  # fmt: skip

        disk = PooledFile(model.id, model.path, facts, way.asked)
        return PooledModel(pooling, disk, pool, room, way.spec, way.plainly, ask)

    def _room(self, pool: PoolName, free: Bytes, model_id: str) -> int:
        """What of this machine one model may take, beside what others have; 0 where nobody knows what is free."""
        rules, held = self._rules, self.held(model_id).get(pool, 0)
        room = rules.room(pool, free.get(pool)) or 0
        return room if pool not in rules.limit else min(room, max(0, rules.limit[pool] - held))

    def _fits_here(self, model_id: str, need: Bytes, free: Bytes) -> bool:
        """Whether so much is here, were all other models unloaded."""
        held = self.held(model_id)
        for pool, size in need.items():
            free_bytes = free.get(pool)
            most = self._rules.room(pool, None if free_bytes is None else free_bytes + held.get(pool, 0))
            if most is not None and size > most:
                return False
        return True

    def _build_for(self, model: StoredModel, facts: GgufFacts, decided: ModelSettings) -> EngineBuild | None:
        """What loads it: the best that is not known to be unable to; the last where all are. None: nothing is ready."""
        ways = self.engines.ranked(model.format, decided.engine, shipped=model.source == "embedded")
        able = (build for build in ways if (build, facts.architecture) not in self._cannot)
        return next(able, ways[-1] if ways else None)

    def _note_unknown(self, model: StoredModel, facts: GgufFacts, build: EngineBuild) -> EngineBuild | None:
        """`build` does not know that kind of model: the next one loads them from now on. None where none is left."""
        self._cannot.add((build, facts.architecture))
        self._made.clear()
        self._looked = None
        other = self._build_for(model, facts, self.decided(model.id, model.also))
        return None if other is None or (other, facts.architecture) in self._cannot else other

    def _need_bytes(self, model: StoredModel, way: _LoadPlan, load: Load) -> int:
        estimated = way.estimate(way.facts.shape, load).total_bytes
        return self._records.need_bytes(self._measured_as(model), load.context_tokens, load.slots, estimated)

    def _measured_as(self, model: StoredModel) -> str:
        """By what the memory that a model took is known: with another cache, or another that guesses, it is another."""
        decided = self.decided(model.id, model.also)
        cache_type = decided.kv_cache if decided.kv_cache != "f16" else None
        return "+".join(filter(None, (model.fingerprint, cache_type, decided.draft)))

    def note_load(self, model: Loadable, way: LoadOption, took_s: float, taken_bytes: int | None) -> None:
        stored = self._given.get(model.model_id) or self.store.latest.by_id().get(model.model_id)
        if stored is None:
            return
        self._records.note_load(stored.fingerprint, stored.size_bytes, stored.source, took_s)
        if taken_bytes is not None:
            self._records.note_taken(self._measured_as(stored), way.context_tokens, way.slots, taken_bytes)
        self._made.pop(model.model_id, None)
        self._looked = None  # what is expected of its next load, and of others from that disk, has changed

    def unusable(self, name: str) -> str | None:
        """What to tell who asks for a model whose file lies here and cannot be used; None for any other name.

        Where it lies is told to people on this machine only.
        """
        if self.store.latest.problem_with(name) is None:
            return None
        return "its file lies on this node's disk and cannot be used: `swarm models list` there says why"

    # Looking

    async def look_again(self) -> None:
        """Look at the disk, unless that was done lately: somebody names a model that is not known."""
        before = self.store.latest
        try:
            found = await stoppable(partial(self.store.look, LOOK_AGAIN_S))
        except WorkStopped:
            return
        if found is not before:
            await asyncio.to_thread(trim)  # reading headers takes memory in pieces
            self._name_problems(found)
            self._on_look()

    def _name_problems(self, found: StoredModels) -> None:
        """What cannot be used is named once, with the reason."""
        for problem in found.problems:
            if problem not in self._named:
                log.warning("not used: %s", problem)
        self._named = frozenset(found.problems)

    @asynccontextmanager
    async def looking(self, on_look: Callable[[], None]) -> AsyncGenerator[None]:
        """While it runs, the disk is looked at now and then, and what loads took is kept; `on_look` is called then."""
        self._on_look = on_look
        task = asyncio.create_task(self._look_now_and_then(), name="looking for models")
        try:
            yield
        finally:
            await cancel_and_wait(task)
            await asyncio.to_thread(self._write_records)

    async def _look_now_and_then(self) -> None:
        while True:
            try:
                await self.look_again()
            except Exception:  # a node without this goes on, with the models that it knows
                log.exception("the disk could not be looked at for models")
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self._write_records)

    def _write_records(self) -> None:
        if self._records.changed:
            try:
                self._records.write(self._records_path)
            except OSError as error:
                log.warning("what loads took is not kept: %s", error)


@dataclass(frozen=True, slots=True)
class _LoadPlan:
    """How one model is loaded here: by which build of an engine, with how many threads, and as the user decided.

    `build` None: none is ready, and loading says so. `unknown` is told where the build does not know such models, and
    names the next one that may.

    `draft` has the model that guesses for it, or why there is none; None where none is wanted. llama.cpp guesses for
    every answer that it writes or for none, and with several at once that is slower: where nobody said how many slots
    such a model is to have, it has one. What is read of prompts is kept in `saves`, in `saves_bytes`.
    """

    model: StoredModel
    facts: GgufFacts
    engine: EngineEntry
    build: EngineBuild | None
    asked: AskedLoad
    decided: ModelSettings
    threads: tuple[int, int]
    isolation: Isolation
    unknown: NoteUnknown
    draft: Callable[[], StoredModel | str] | None = None
    saves: Path | None = None
    saves_bytes: int = 0
    projector: Path | None = None
    projector_bytes: int = 0

    @staticmethod
    def of(
        model: StoredModel,
        facts: GgufFacts,
        decided: ModelSettings,
        settings: Settings,
        snapshot: HardwareSnapshot,
        build: EngineBuild | None,
        unknown: NoteUnknown,
        draft: Callable[[], StoredModel | str] | None = None,
    ) -> _LoadPlan:
        context_tokens = decided.context or settings.context
        if context_tokens is not None and facts.context_tokens is not None:
            context_tokens = min(context_tokens, facts.context_tokens)  # it has no more; `--model` refused it
        name = decided.engine or settings.engine
        engine = chosen_engine(name, model.format) if build is None else ENGINES[build.engine]
        slots = 1 if decided.guesses and engine.guesses else settings.workers
        return _LoadPlan(
            model,
            facts,
            engine,
            build,
            AskedLoad(context_tokens, decided.slots or slots),
            decided,
            compute_threads(decided.threads or settings.threads, snapshot, read_for_each_token(facts)),
            settings.isolation,
            unknown,
            draft,
            settings.saved_prompts_dir if settings.kv_disk else None,
            settings.kv_disk or 0,
        )

    def with_projector(self, unfit: Collection[Path]) -> _LoadPlan:
        """The same with the image part that lies beside the model, where the engine takes one and it goes with it."""
        path = self.model.projector
        if path is None or path in unfit or not self.engine.sees or self.model.role != "writes":
            return self
        try:
            return replace(self, projector=path, projector_bytes=path.stat().st_size)
        except OSError:  # it is gone
            return self

    def estimate(self, shape: ModelShape, load: Load) -> MemoryNeed:
        need = self.engine.estimate(shape, replace(load, cache_type=self.decided.kv_cache or load.cache_type))
        need = replace(need, weights_bytes=need.weights_bytes + self.projector_bytes)
        draft = self._draft()
        if isinstance(draft, StoredModel) and draft.facts is not None:
            return with_draft(need, self.engine.estimate(draft.facts.shape, load))
        return need

    def _draft(self) -> StoredModel | str | None:
        return self.draft() if self.draft is not None and self.engine.guesses else None

    def loads(self, free_bytes: int | None, most_bytes: int | None) -> tuple[Load, ...]:
        """The best first; at least one."""
        return self.asked.ways(self.facts.shape, free_bytes, most_bytes, self.estimate)

    def loader(self, is_unfit: Callable[[Path], None]) -> Callable[[LoadOption], Awaitable[Engine]]:
        """Loads it; once more in a process of its own, if it has to be: what broke breaks alone from then on.

        Without its image part, where it is not loaded with that: then the part `is_unfit`.
        """
        isolation: Isolation = self.isolation
        projector = self.projector

        async def load(option: LoadOption) -> Engine:
            nonlocal projector
            spec = self.spec(option)
            if projector is not None:
                try:
                    return watched(await self.engine.load(replace(spec, projector=projector), isolation))
                except EngineFailed as error:
                    engine = await loaded(spec)
                    log.warning("%s sees no images: it is loaded without its image part: %s", self.model.id, error)
                    is_unfit(projector)
                    projector = None
                    return engine
            return await loaded(spec)

        async def loaded(spec: EngineSpec) -> Engine:
            try:
                engine = await self.engine.load(spec, isolation)
            except UnknownArchitecture as error:
                if self.build is None:
                    raise
                other = self.unknown(self.model, self.facts, self.build)
                then = "a newer one may: `swarm engines` says what is here" if other is None else f"{other.words} may"
                raise UnknownArchitecture(f"{error}; {then}") from error
            return watched(engine)

        def watched(engine: Engine) -> Engine:
            engine.failed.add_done_callback(broke)
            return engine

        def broke(ended: asyncio.Future[str]) -> None:
            nonlocal isolation
            if not ended.cancelled():
                isolation = "always"

        return load

    async def plainly(self, spec: EngineSpec) -> Engine:
        """The engine of `spec`, a part of whose model is elsewhere, which the next engine would not know either."""
        return await self.engine.load(spec, "always")

    def spec(self, option: LoadOption) -> EngineSpec:
        """The order for the engine, but for the image part."""
        threads, reading = self.threads
        draft = self._draft()
        if isinstance(draft, str):
            log.warning("%s: nobody guesses its next tokens: its draft %s", self.model.id, draft)
        if self.decided.guesses and not self.engine.guesses:
            log.warning("%s: no tokens are guessed: the engine %s cannot", self.model.id, self.engine.name)
        if self.saves and not self.engine.saves:
            words = "%s: its prompts are not saved (--kv-disk): the engine %s keeps them in memory only"
            log.warning(words, self.model.id, self.engine.name)
        return EngineSpec(
            self.model.id,
            self.model.path,
            option.context_tokens,
            option.slots,
            threads,
            gpu_layers=self.decided.gpu_layers,
            reading_threads=reading,
            cache_type=self.decided.kv_cache or "f16",
            draft=draft.path if isinstance(draft, StoredModel) else None,
            ngram=self.decided.speculate and self.engine.guesses,
            build=self.build,
            saves=self.saves if self.engine.saves else None,
            saves_bytes=self.saves_bytes,
        )
