"""Which model is the best that fits, and what to do where one does not. Pure: numbers in, decisions and reasons out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.errors import SetupError
from swarm.registry.catalogue import CatalogueChoice, Format
from swarm.registry.gguf_bytes import is_low
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape, memory_needed, size_text

MIN_CONTEXT_TOKENS = 1024  # less than a short chat needs: not offered as a remedy


@dataclass(frozen=True, slots=True)
class Capacity:
    """What this machine offers a model, and what the model is to carry in it.

    `formats` are those its engines load, in order of preference. `measured` has real numbers, by catalogue id, of the
    files that are already here. `max_active_params_b` passes over models that read more weights than this for each
    token: with slow memory a 70B model may fit, and answer a word a second. `estimate` is the engine's own: the memory
    that a model of some shape takes under a load.
    """

    free_bytes: int
    load: Load
    formats: tuple[Format, ...] = ("gguf",)
    max_active_params_b: float | None = None
    measured: Mapping[str, ModelShape] = field(default_factory=dict[str, ModelShape])
    estimate: Callable[[ModelShape, Load], MemoryNeed] = memory_needed

    def shape(self, choice: CatalogueChoice) -> ModelShape:
        return self.measured.get(choice.id) or choice.shape

    def need(self, choice: CatalogueChoice) -> MemoryNeed:
        return self.estimate(self.shape(choice), self.load)


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether one choice can be used, and what it needs; `why` says in words what is missing, "" where nothing is."""

    choice: CatalogueChoice
    need: MemoryNeed
    why: str

    @property
    def fits(self) -> bool:
        return not self.why


@dataclass(frozen=True, slots=True)
class Pick:
    """The choice, what it needs, and why it was taken, in words for a person."""

    choice: CatalogueChoice
    need: MemoryNeed
    reason: str


def judge(choice: CatalogueChoice, capacity: Capacity) -> Fit:
    """Whether `choice` can run in `capacity`, and why not."""
    need = capacity.need(choice)
    return Fit(choice, need, _misfit(capacity.shape(choice), need, capacity) or _too_slow(choice, capacity))


def _misfit(shape: ModelShape, need: MemoryNeed, capacity: Capacity) -> str:
    if shape.context_tokens is not None and capacity.load.context_tokens > shape.context_tokens:
        return f"its context is {shape.context_tokens} tokens and {capacity.load.context_tokens} were asked"
    if need.total_bytes > capacity.free_bytes:
        return f"{size_text(need.total_bytes - capacity.free_bytes)} short"
    return ""


def _too_slow(choice: CatalogueChoice, capacity: Capacity) -> str:
    active_b = choice.entry.active_params_b or choice.entry.params_b
    if capacity.max_active_params_b is None or active_b <= capacity.max_active_params_b:
        return ""
    return f"too slow here: reads {active_b:g}B weights per token, over the limit of {capacity.max_active_params_b:g}B"


def ranked(choices: Sequence[CatalogueChoice], formats: Sequence[Format]) -> list[CatalogueChoice]:
    """`choices`, best first: four bits or more, then effective size, then preferred format, then more bits.

    A larger model at four bits beats a smaller one at eight (Dettmers and Zettlemoyer, "The case for 4-bit precision",
    2023); below four bits that turns around, so such a variant loses to every model that has them. Equals keep the
    catalogue's order.
    """

    def quality(choice: CatalogueChoice) -> tuple[bool, float, int, float]:
        variant = choice.variant
        rank = -formats.index(variant.format) if variant.format in formats else -len(formats)
        return not is_low(variant.quant), choice.entry.effective_params_b, rank, choice.bits_per_weight

    return sorted(choices, key=quality, reverse=True)


def pick(choices: Sequence[CatalogueChoice], capacity: Capacity) -> Pick:
    """The best of `choices` that fits: those of `Catalogue.choices()`, or those that a name `matches`.

    Raises SetupError if none does, naming what is missing and what would fit.
    """
    able = [choice for choice in choices if choice.variant.format in capacity.formats]
    if not able:
        raise SetupError(f"there is no model to choose from as {' or '.join(capacity.formats)}")
    passed_over: Fit | None = None
    for choice in ranked(able, capacity.formats):
        verdict = judge(choice, capacity)
        if verdict.fits:
            return Pick(choice, verdict.need, _reason(verdict, passed_over, capacity))
        passed_over = verdict
    easiest = min(able, key=lambda choice: capacity.need(choice).total_bytes)
    raise SetupError(
        f"no model fits; the smallest is {explain_misfit(easiest.id, capacity.shape(easiest), capacity, able)}"
    )


def _reason(taken: Fit, passed_over: Fit | None, capacity: Capacity) -> str:
    needs = f"needs {size_text(taken.need.total_bytes)} of {size_text(capacity.free_bytes)} free"
    if passed_over is None:
        return f"the best there is: {needs}"
    return f"the best that fits: {needs} (the next better, {passed_over.choice.id}: {passed_over.why})"


def explain_misfit(name: str, shape: ModelShape, capacity: Capacity, alternatives: Sequence[CatalogueChoice]) -> str:
    """Why the model `name` does not fit, by how much, and what would: a smaller load, or one of `alternatives`.

    To be called where it does not; `name` and `shape` may be those of a file outside the catalogue.
    """
    need, load = capacity.estimate(shape, capacity.load), capacity.load
    if shape.context_tokens is not None and load.context_tokens > shape.context_tokens:
        return (
            f"{name} has a context of {shape.context_tokens} tokens and {load.context_tokens} were asked: "
            f"give --context {shape.context_tokens} or less"
        )
    parts = (
        f"weights {size_text(need.weights_bytes)}, "
        f"KV cache {size_text(need.kv_bytes)} for {load.slots} x {load.context_tokens} tokens, "
        f"compute {size_text(need.compute_bytes)}, reserve {size_text(need.reserve_bytes)}"
    )
    remedies = _remedies(name, shape, capacity, alternatives)
    return (
        f"{name} needs {'about ' if need.estimated else ''}{size_text(need.total_bytes)} ({parts}) and "
        f"{size_text(capacity.free_bytes)} is free: {size_text(need.total_bytes - capacity.free_bytes)} short. "
        + (f"What would fit: {'; or '.join(remedies)}" if remedies else "Nothing would fit: free some memory")
    )


def _remedies(name: str, shape: ModelShape, capacity: Capacity, alternatives: Sequence[CatalogueChoice]) -> list[str]:
    """At most three: the same model with less to carry, the best of its family, the best of all."""
    smaller = _smaller_load(shape, capacity)
    remedies = (
        [] if smaller is None else [f"the same with --context {smaller.context_tokens} --workers {smaller.slots}"]
    )
    able = [choice for choice in alternatives if choice.id != name and choice.variant.format in capacity.formats]
    fitting = [choice for choice in ranked(able, capacity.formats) if judge(choice, capacity).fits]
    family = [choice for choice in fitting if choice.entry.family == name.partition(":")[0]]
    best = dict.fromkeys((*family[:1], *fitting[:1]))
    return remedies + [f"{choice.id} ({size_text(capacity.need(choice).total_bytes)})" for choice in best]


def _smaller_load(shape: ModelShape, capacity: Capacity) -> Load | None:
    """The gentlest cut of the load that fits: the context halved as often as needed, with all slots, then with one."""
    for slots in dict.fromkeys((capacity.load.slots, 1)):
        context_tokens = capacity.load.context_tokens
        while context_tokens >= MIN_CONTEXT_TOKENS:
            cut = Load(context_tokens, slots, capacity.load.cache_type)
            if capacity.estimate(shape, cut).total_bytes <= capacity.free_bytes:
                return cut
            context_tokens //= 2
    return None
