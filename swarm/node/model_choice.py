"""Which model this node serves: what the user named, exactly; else the best that fits; else the embedded one.

A name that does not exist or does not fit is refused with the numbers; nothing is ever replaced silently.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hardware.memory_speed import weights_bytes_per_s
from hardware.snapshot import ModelMemory
from swarm.engines.engine import EngineBuild
from swarm.engines.registry import AUTO, ENGINES
from swarm.errors import SetupError
from swarm.node.console import Console
from swarm.node.engines import NodeEngines
from swarm.node.model_settings import settings_for
from swarm.node.pooling import NodePooling, PooledFile
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue, CatalogueChoice, Format
from swarm.registry.download import Nearby, download, download_choice
from swarm.registry.elsewhere import OtherNode, SwarmMemory, Whereabouts, where_else
from swarm.registry.embedded import embedded_model_path, is_shipped
from swarm.registry.fit import (
    Capacity,
    Fit,
    best_first,
    expected_tokens_per_s,
    explain_misfit,
    is_quick,
    offers,
    pick,
    speed_words,
)
from swarm.registry.found_files import is_model_folder
from swarm.registry.gguf_header import GgufFacts, read_layers, read_model, why_no_model
from swarm.registry.hub import file_of, hub_reachable
from swarm.registry.layer_sizes import LayerSizes, estimated_layers
from swarm.registry.model_index import INDEX_FILE
from swarm.registry.model_memory import (
    MOST_CONTEXT_TOKENS,
    MOST_WORKERS,
    SMALL_CACHE,
    AskedLoad,
    Load,
    MemoryNeed,
    ModelShape,
    size_text,
    small_cache_tokens,
)
from swarm.registry.names import CatalogueRef, EmbeddedRef, FileRef, HubRef, matches, parse_model
from swarm.registry.places import ModelPlaces
from swarm.registry.pooled_fit import PoolMachine
from swarm.registry.stored import ModelStore, StoredModel, StoredModels
from swarm.registry.table import FitRow, fit_rows

OFFERED = 5  # models in the question to a person: the best, and smaller ones that are quicker to download
# What clients say before their user has said anything, in tokens: those of swarm/commands/clients.toml that say much.
OWN_PROMPTS = (
    ("Open WebUI", 7_000), ("opencode", 7_100), ("Codex", 10_900), ("Claude Code", 12_100), ("Qwen Code", 12_800),
)  # fmt: skip
ANSWER_TOKENS = 500  # that must fit beside it


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model to load. `path` is None for an engine without weights; `reason` says in words why this one.

    `context_reason` says in words why its context is no larger. `weights_bytes` are read for each token.
    """

    model_id: str
    path: Path | None
    context_tokens: int
    slots: int
    params: int | None
    reason: str
    context_reason: str
    weights_bytes: int = 0


def model_store(settings: Settings) -> ModelStore:
    """The models of this machine, with what was read of them kept in the data directory."""
    places = ModelPlaces.of(settings.own_models_dir, settings.models_dir)
    return ModelStore(places, Catalogue.load(), settings.data_path / INDEX_FILE)


def context_words(context_tokens: int, reason: str) -> str | None:
    """What the banner says of a context that is too small for what some clients say by themselves; None where none is.

    `reason` says in words why it is no larger.
    """
    small = [f"{name} ({tokens:,})" for name, tokens in OWN_PROMPTS if tokens + ANSWER_TOKENS > context_tokens]
    if not small:
        return None
    return f"{context_tokens} tokens, {reason}: too small for the prompts of {', '.join(small)}"


def capacity_of(
    engines: NodeEngines, memory: ModelMemory, asked: AskedLoad, local: StoredModels, bytes_per_s: float | None = None
) -> Capacity:
    """What this machine offers. Raises SetupError where its free memory is unknown, or no engine is ready."""
    if memory.free_bytes is None:
        raise SetupError("the free memory of this machine could not be read: name a file with --model PATH.gguf")
    return Capacity(
        memory.free_bytes,
        asked.judged,
        engines.formats,
        bytes_per_s,
        measured=local.measured(),
        estimate=ENGINES[engines.usual.engine].estimate,
    )


def fit_here(
    engines: NodeEngines, asked: AskedLoad, local: StoredModels, others: Sequence[OtherNode] = ()
) -> tuple[list[FitRow], Capacity]:
    """Every model of the catalogue against this machine's free memory, best first, and that memory. Blocks.

    `others` are the nodes of its swarm, where what does not fit here may. Raises as `capacity_of` does.
    """
    memory = engines.memory(engines.usual)
    capacity = capacity_of(engines, memory, asked, local, weights_bytes_per_s(engines.snapshot, memory))
    choices = Catalogue.load().choices(formats=engines.formats)
    if not others:
        return fit_rows(choices, capacity, local), capacity
    speed = weights_bytes_per_s(engines.snapshot, memory, native=True)
    swarm = SwarmMemory(PoolMachine("this node", None, capacity.free_bytes, speed), tuple(others))
    here = local.by_id()

    def look_elsewhere(fit: Fit) -> Whereabouts:
        choice, shape = fit.choice, capacity.shape(fit.choice)

        def layers() -> LayerSizes:
            stored = here.get(choice.id)
            if stored is not None:
                with suppress(SetupError):  # it does not say: as one like it
                    return read_layers(stored.path)
            return estimated_layers(shape, (choice.entry.active_params_b or shape.params_b) / shape.params_b)

        gguf = choice.variant.format == "gguf"
        return where_else(fit.need.total_bytes, layers, capacity.load.carried_by(shape), swarm, gguf=gguf)

    return fit_rows(choices, capacity, local, look_elsewhere), capacity


def choose_models(
    settings: Settings,
    engines: NodeEngines,
    console: Console,
    store: ModelStore | None = None,
    nearby: Nearby | None = None,
    pooling: NodePooling | None = None,
    stop: threading.Event | None = None,
) -> tuple[ChosenModel, ...]:
    """The models to load at the start, at least one, each once: those that are named, else the best.

    With `pooling` one that is named may be too large for this machine.
    Blocks: reads files, may ask the person, may download, from `nearby` first. Raises SetupError, and WorkStopped where
    `stop` was set during a download.
    """
    if settings.engine != AUTO and not (engine := ENGINES[settings.engine]).formats:
        name, context_tokens = next(iter(settings.model), engine.name), settings.context or MOST_CONTEXT_TOKENS
        slots = settings.workers or MOST_WORKERS
        return (ChosenModel(name, None, context_tokens, slots, None, engine.about, "as asked"),)
    if (words := engines.gpu_line) is not None:
        console.say(f"  GPU        {words}")
    choosing = _Choosing(settings, engines, console, store or model_store(settings), nearby, pooling, stop)
    names = settings.model or ((settings.default_model,) if settings.default_model else ())
    chosen = [choosing.named(name) for name in names] or [choosing.best()]
    return tuple({model.model_id: model for model in chosen}.values())


class _Choosing:
    """One run of the choice, with what it needs at hand."""

    def __init__(
        self,
        settings: Settings,
        engines: NodeEngines,
        console: Console,
        store: ModelStore,
        nearby: Nearby | None,
        pooling: NodePooling | None,
        stop: threading.Event | None,
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._memory = self._memory_for(engines.usual)
        self._limited = ""  # what is said of free memory where less of it may be taken
        if settings.memory is not None and self._memory.free_bytes != engines.memory(engines.usual).free_bytes:
            self._limited = f" (models may take {size_text(settings.memory)} together: --memory)"
        self._console = console
        self._nearby = nearby
        self._pooling = pooling if settings.model or settings.default_model else None  # nobody asked for what is chosen
        self._stop = stop
        self._catalogue = Catalogue.load()
        self._advisable = self._catalogue.choices(formats=engines.formats, unasked=True)
        self._store = store
        self._asked = AskedLoad(settings.context, settings.workers)

    def _memory_for(self, build: EngineBuild) -> ModelMemory:
        """Where `build` puts models, and what of it may be taken unasked: what is named is refused by the pool."""
        memory, most = self._engines.memory(build), self._settings.memory
        if self._settings.model or most is None or most >= (memory.free_bytes or 0):
            return memory
        return replace(memory, free_bytes=most)

    def named(self, name: str) -> ChosenModel:
        """Exactly what the user named."""
        models_dir = self._settings.own_models_dir
        try:
            ref = parse_model(name)
        except SetupError:
            if (here := self._on_disk(name, self._scan())) is not None:  # files may be called anything
                return here
            if (problem := self._scan().problem_with(name)) is not None:
                raise SetupError(problem) from None
            raise
        match ref:
            case EmbeddedRef(embedded):
                return self._embedded(embedded, "the embedded demonstration model: two million parameters, often wrong")
            case FileRef(path):
                here = None if path.exists() else self._on_disk(name, self._scan())
                return here or self._named_file(path, f"from {path}")
            case HubRef():
                local = self._scan()
                if (model := local.called(str(ref))) is not None:  # whoever brought it
                    return self._stored(model)
                ref = file_of(ref, self._engines.formats)
                report = _Report(self._console, ref.file or ref.repo)
                path = download(ref, models_dir, report, nearby=self._nearby, stop=self._stop)
                return self._named_file(path, f"as named, {ref.repo}")
            case CatalogueRef():
                local = self._scan()
                if (here := self._on_disk(name, local)) is None and (problem := local.problem_with(name)) is not None:
                    raise SetupError(problem)
                return here or self._catalogue_name(ref, local)

    def _on_disk(self, name: str, local: StoredModels) -> ChosenModel | None:
        """The model of this disk that is called `name`, which no engine has to replace by another."""
        model = local.named(name)
        return None if model is None else self._stored(model)

    def _stored(self, model: StoredModel) -> ChosenModel:
        return self._file(model.path, model.id, "as named, on this disk", model.facts)

    def best(self) -> ChosenModel:
        """The best on disk; else one to download, asking if somebody is there; else the embedded one."""
        local = self._scan()
        on_disk = self._best_on_disk(local)
        if on_disk is not None:
            return on_disk
        if not hub_reachable():
            near = self._best_nearby(local)
            if near is not None:
                return self._fetch(near, "the best that a peer has and that fits here (no network beyond it)", local)
            named = any(model.listed for model in local.models)
            why = "no network, and nothing on disk that is chosen unasked" if named else "no network, no model on disk"
            return self._embedded("demo", f"embedded demonstration model, often wrong ({why})")
        return self._best_to_download(local)

    def _scan(self) -> StoredModels:
        return self._store.look()

    def _capacity(self, local: StoredModels) -> Capacity:
        speed = weights_bytes_per_s(self._engines.snapshot, self._memory, self._settings.threads)
        return capacity_of(self._engines, self._memory, self._asked, local, speed)

    def _embedded(self, name: str, reason: str) -> ChosenModel:
        return self._file(embedded_model_path(name), name, reason)

    def _named_file(self, path: Path, reason: str) -> ChosenModel:
        if path.is_dir() and not is_model_folder(path):
            return self._file(path, path.name, reason, read_model(path).facts)  # which says what to give instead
        model = self._store.at(path)
        return self._file(path, model.id, reason, model.facts)

    def _file(self, path: Path, model_id: str, reason: str, facts: GgufFacts | None = None) -> ChosenModel:
        """A GGUF file, its header read (unless its `facts` are known) and its needs checked before any native code."""
        build = self._build_for(path, model_id)
        facts = facts or read_model(path).facts
        if (why := why_no_model(facts)) is not None:
            raise SetupError(why)
        if facts.embeds_only:
            reason = f"{reason}; an embedding model: it answers /v1/embeddings and no chats"
        free_bytes, estimate = self._memory_for(build).free_bytes, self._estimate(build, model_id)
        load = self._asked.largest(facts.shape, free_bytes, estimate)
        if load is None:
            capacity = Capacity(free_bytes or 0, self._asked.judged, self._engines.formats, estimate=estimate)
            return self._over_others(
                path, model_id, facts, explain_misfit(model_id, facts.shape, capacity, self._advisable), free_bytes or 0
            )
        why = self._context_reason(load.context_tokens, facts)
        small = None if self._settings.context else small_cache_tokens(facts.shape, load, free_bytes, estimate)
        if small is not None:
            why += f' (kv_cache = "{SMALL_CACHE}" in [models."{model_id}"] makes it {small})'
        read_bytes = facts.size_bytes * facts.active_params // max(1, facts.params)
        return ChosenModel(model_id, path, load.context_tokens, load.slots, facts.params, reason, why, read_bytes)

    def _over_others(self, path: Path, model_id: str, facts: GgufFacts, misfit: str, free_bytes: int) -> ChosenModel:
        """One that is too large for this machine. Raises SetupError, with the `misfit`, where it is not pooled."""
        pooling = self._pooling
        if pooling is None or pooling.build is None or path.is_dir():
            raise SetupError(misfit)
        if not pooling.rules.on:
            hint = pooling.hint(PooledFile(model_id, path, facts, self._asked), free_bytes)
            raise SetupError(f"{misfit}. {hint}" if hint else misfit)
        load, why = self._asked.judged.carried_by(facts.shape), "too large for this machine: over others' memory, too"
        read_bytes = facts.size_bytes * facts.active_params // max(1, facts.params)
        return ChosenModel(
            model_id, path, load.context_tokens, load.slots, facts.params, why, "all that fits", read_bytes
        )

    def _estimate(self, build: EngineBuild, model_id: str) -> Callable[[ModelShape, Load], MemoryNeed]:
        """What a model takes, with its cache as the user wants it."""
        cache_type = settings_for(self._settings.models, model_id)[1].kv_cache
        estimate = ENGINES[build.engine].estimate
        if cache_type is None:
            return estimate
        return lambda shape, load: estimate(shape, replace(load, cache_type=cache_type))

    def _build_for(self, path: Path, model_id: str) -> EngineBuild:
        """What computes it. Raises SetupError where nothing that is ready here can."""
        _, decided = settings_for(self._settings.models, model_id)
        model_format: Format = "mlx" if path.is_dir() else "gguf"
        try:
            return self._engines.best(model_format, decided.engine, is_shipped(path))
        except SetupError as error:
            raise SetupError(f"{model_id} ({path}) is {model_format.upper()}: {error}") from error

    def _context_reason(self, context_tokens: int, facts: GgufFacts) -> str:
        if self._settings.context is not None:
            return "as asked with --context"
        return "all that this model has" if context_tokens == facts.context_tokens else "all that fits in free memory"

    def _catalogue_name(self, ref: CatalogueRef, local: StoredModels) -> ChosenModel:
        """What the name leaves open (size, quantization) is chosen by what fits."""
        choices = matches(ref, self._catalogue, self._engines.formats, local.own_names)
        capacity = self._capacity(local)
        best = best_first(choices, capacity)[0]
        if not best.fits:
            closest = min(choices, key=lambda choice: capacity.need(choice).total_bytes)
            misfit = explain_misfit(closest.id, capacity.shape(closest), capacity, self._advisable)
            there = "" if self._pooling is None else self._pooling.whom_to_ask(closest.id)
            raise SetupError(f"{misfit}. {there}" if there else misfit)
        return self._fetch(best.choice, "as named" if ref.size and ref.quant else f"the best {ref} that fits", local)

    def _fetch(self, choice: CatalogueChoice, reason: str, local: StoredModels) -> ChosenModel:
        here = local.by_id().get(choice.id)
        report = _Report(self._console, choice.id)
        if here is None:
            path = download_choice(choice, self._settings.own_models_dir, report, self._nearby, self._stop)
        else:
            path = here.path
        return self._file(path, choice.id, reason)

    def _best_on_disk(self, local: StoredModels) -> ChosenModel | None:
        for problem in local.problems:
            self._console.say(f"  passed over: {problem}")
        unasked = self._catalogue.by_name_only
        listed = (model for model in local.models if model.listed and model.id not in unasked)
        able = (model for model in listed if model.format in self._engines.formats)
        usable = [(model, model.facts) for model in able if model.facts and not model.facts.embeds_only]
        if not usable:
            return None
        speed = weights_bytes_per_s(self._engines.snapshot, self._memory, self._settings.threads)

        def preference(pair: tuple[StoredModel, GgufFacts]) -> tuple[bool, float]:
            """The largest of those that are quick, else the quickest."""
            facts = pair[1]
            rate = expected_tokens_per_s(facts.size_bytes * facts.active_params / max(1, facts.params), speed)
            return is_quick(rate), facts.params if is_quick(rate) else rate

        for model, facts in sorted(usable, key=preference, reverse=True):
            try:
                return self._file(model.path, model.id, "the best on this disk that fits", facts)
            except SetupError as error:
                self._console.say(f"  passed over: {error}{self._limited}")
        return None

    def _best_nearby(self, local: StoredModels) -> CatalogueChoice | None:
        """The best that fits of those whose files peers have."""
        here = {} if self._nearby is None else self._nearby.sizes()
        choices = [choice for choice in self._advisable if choice.variant.sha256 in here]
        if not choices:
            return None
        best = best_first(choices, self._capacity(local))[0]
        return best.choice if best.fits else None

    def _best_to_download(self, local: StoredModels) -> ChosenModel:
        """What is taken where nobody is there to ask, or what the person takes or names instead."""
        capacity = self._capacity(local)
        usual = self._catalogue.choices(roles=["general"], formats=self._engines.formats, unasked=True)
        best = pick(usual, capacity)
        if self._settings.auto or not self._console.can_ask:
            return self._fetch(best.choice, best.reason, local)
        offered = offers(usual, capacity, OFFERED)
        options = [
            f"{fit.choice.id}  ({size_text(fit.need.weights_bytes)} to download{speed_words(fit)})" for fit in offered
        ]
        embedded = "demo  (the embedded demonstration model: nothing to download, often wrong)"
        question = "No model is on this disk yet. Which one should this node serve?"
        while True:
            taken = self._console.choose(question, [*options, embedded], self._stop)
            if taken == len(offered):
                return self._embedded("demo", "as chosen; often wrong")
            if isinstance(taken, int):
                return self._fetch(offered[taken].choice, "as chosen", local)
            try:
                return self.named(taken)
            except SetupError as error:  # it does not exist, or does not fit: another may
                self._console.say(str(error))


@dataclass(frozen=True, slots=True)
class _Report:
    """A download's progress, under the name of what is downloaded."""

    console: Console
    what: str

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        self.console.progress(self.what, done_bytes, total_bytes)
