"""Which model is the best that fits and answers quickly enough, and what to do where none does. Pure: numbers in,
decisions and reasons out.

Expected tokens a second = bytes of weights that this machine reads in a second / bytes that a token needs. For each
token all weights are read once, of a mixture of experts only those that are active; the context's cache comes on top
and is left out: the figure is that of a short conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from swarm.errors import SetupError
from swarm.registry.catalogue import GIGA, CatalogueChoice, Format
from swarm.registry.gguf_bytes import is_low
from swarm.registry.model_memory import (
    MIN_CONTEXT_TOKENS,
    SMALL_CACHE,
    Load,
    MemoryNeed,
    ModelShape,
    memory_needed,
    size_text,
)

LEAST_TOKENS_PER_S = 8.0  # about as fast as people read; a default is not slower where there is a choice
TOKEN_OVERHEAD_S = 0.004  # of a token beside its weights: sampling, the small steps of each layer
SMALLEST_OFFER_BYTES = 500_000_000  # quickly downloaded, and the least that still talks
SAME_SIZE = 1.1  # an offer may be this much larger than the step that it stands for


@dataclass(frozen=True, slots=True)
class Capacity:
    """What this machine offers a model, and what the model is to carry in it.

    `formats` are those its engines load, in order of preference. `measured` has real numbers, by catalogue id, of the
    files that are already here. `bytes_per_s` is how fast it reads weights (`hardware/memory_speed.py`), None where
    that was not asked: with slow memory a 70B model may fit, and answer a word a second. `estimate` is the engine's
    own: the memory that a model of some shape takes under a load.
    """

    free_bytes: int
    load: Load
    formats: tuple[Format, ...] = ("gguf",)
    bytes_per_s: float | None = None
    measured: Mapping[str, ModelShape] = field(default_factory=dict[str, ModelShape])
    estimate: Callable[[ModelShape, Load], MemoryNeed] = memory_needed

    def shape(self, choice: CatalogueChoice) -> ModelShape:
        return self.measured.get(choice.id) or choice.shape

    def need(self, choice: CatalogueChoice) -> MemoryNeed:
        shape = self.shape(choice)
        return self.estimate(shape, self.load.carried_by(shape))

    def fits_with_small_cache(self, shape: ModelShape) -> bool:
        """Whether a model of `shape` would fit if its keys and values took half as much."""
        load = self.load.carried_by(shape)
        return self.estimate(shape, replace(load, cache_type=SMALL_CACHE)).total_bytes <= self.free_bytes

    def tokens_per_s(self, choice: CatalogueChoice) -> float | None:
        """What is to be expected of one answer alone; None where the machine's speed is not known."""
        if self.bytes_per_s is None:
            return None
        shape, entry = self.shape(choice), choice.entry
        estimated = entry.params_b * GIGA * choice.bits_per_weight / 8  # without the margins of a size that must fit
        weights_bytes = shape.weights_bytes if shape.weights_exact else estimated
        active = (entry.active_params_b or entry.params_b) / entry.params_b
        return expected_tokens_per_s(weights_bytes * active, self.bytes_per_s)


def expected_tokens_per_s(read_bytes: float, bytes_per_s: float) -> float:
    """Tokens a second of a model that reads `read_bytes` of weights for each, of which `bytes_per_s` are read."""
    return 1 / (read_bytes / bytes_per_s + TOKEN_OVERHEAD_S)


def is_quick(tokens_per_s: float | None) -> bool:
    """Whether that is quick enough to be taken without being asked for; what is not known is."""
    return tokens_per_s is None or tokens_per_s >= LEAST_TOKENS_PER_S


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether one choice can be used, and what it needs; `why` says in words what is missing, "" where nothing is."""

    choice: CatalogueChoice
    need: MemoryNeed
    why: str
    tokens_per_s: float | None = None

    @property
    def fits(self) -> bool:
        return not self.why

    @property
    def is_quick(self) -> bool:
        return is_quick(self.tokens_per_s)


@dataclass(frozen=True, slots=True)
class Pick:
    """The choice, what it needs, and why it was taken, in words for a person."""

    choice: CatalogueChoice
    need: MemoryNeed
    reason: str


def judge(choice: CatalogueChoice, capacity: Capacity) -> Fit:
    """Whether `choice` can run in `capacity`, and why not."""
    need = capacity.need(choice)
    return Fit(choice, need, _misfit(capacity.shape(choice), need, capacity), capacity.tokens_per_s(choice))


def _misfit(shape: ModelShape, need: MemoryNeed, capacity: Capacity) -> str:
    context_tokens = capacity.load.carried_by(shape).context_tokens
    if shape.context_tokens is not None and context_tokens > shape.context_tokens:
        return f"its context is {shape.context_tokens} tokens and {context_tokens} were asked"
    if need.total_bytes > capacity.free_bytes:
        short = f"{size_text(need.total_bytes - capacity.free_bytes)} short"
        return f'{short}; fits with kv_cache = "{SMALL_CACHE}"' if capacity.fits_with_small_cache(shape) else short
    return ""


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


def best_first(choices: Sequence[CatalogueChoice], capacity: Capacity) -> list[Fit]:
    """Every choice judged: what fits and is quick, best first; what fits and is slow, the fastest first; the rest."""
    judged = [judge(choice, capacity) for choice in ranked(choices, capacity.formats)]
    quick = [fit for fit in judged if fit.fits and fit.is_quick]
    slow = [fit for fit in judged if fit.fits and not fit.is_quick]
    slow.sort(key=lambda fit: fit.tokens_per_s or 0.0, reverse=True)
    return [*quick, *slow, *(fit for fit in judged if not fit.fits)]


def offers(choices: Sequence[CatalogueChoice], capacity: Capacity, most: int) -> list[Fit]:
    """Of what fits, the best and up to `most` - 1 that are ever quicker to download, in even steps down to the least.

    What is slow is among them only where nothing is quick.
    """
    fitting = [fit for fit in best_first(choices, capacity) if fit.fits]
    able = [fit for fit in fitting if fit.is_quick] or fitting
    if not able:
        return []
    largest = able[0].need.weights_bytes
    step = max(1.0, largest / SMALLEST_OFFER_BYTES) ** (1 / max(1, most - 1))
    taken = [able[0]]
    for number in range(1, most):
        most_bytes = min(largest / step**number * SAME_SIZE, taken[-1].need.weights_bytes - 1)
        smaller = next((fit for fit in able if fit.need.weights_bytes <= most_bytes), None)
        if smaller is None:
            break
        taken.append(smaller)
    return taken


def pick(choices: Sequence[CatalogueChoice], capacity: Capacity) -> Pick:
    """The best of `choices` that fits and is quick, else the fastest that fits: of those of `Catalogue.choices()`, or
    those that a name `matches`.

    Raises SetupError if none fits, naming what is missing and what would fit.
    """
    able = [choice for choice in choices if choice.variant.format in capacity.formats]
    if not able:
        raise SetupError(f"there is no model to choose from as {' or '.join(capacity.formats)}")
    taken = best_first(able, capacity)[0]
    if taken.fits:
        order = ranked(able, capacity.formats)
        place = order.index(taken.choice)
        passed_over = judge(order[place - 1], capacity) if place else None
        return Pick(taken.choice, taken.need, _reason(taken, passed_over, capacity))
    easiest = min(able, key=lambda choice: capacity.need(choice).total_bytes)
    raise SetupError(
        f"no model fits; the smallest is {explain_misfit(easiest.id, capacity.shape(easiest), capacity, able)}"
    )


def _reason(taken: Fit, passed_over: Fit | None, capacity: Capacity) -> str:
    needs = f"needs {size_text(taken.need.total_bytes)} of {size_text(capacity.free_bytes)} free{speed_words(taken)}"
    if not taken.is_quick:
        return f"the fastest that fits: {needs}"
    if passed_over is None:
        return f"the best there is: {needs}"
    why = passed_over.why or f"too slow here{speed_words(passed_over)}"
    return f"the best that fits: {needs} (the next better, {passed_over.choice.id}: {why})"


def speed_words(fit: Fit) -> str:
    """`, about 12 tokens/s expected`; "" where the speed is not known."""
    return "" if fit.tokens_per_s is None else f", about {rate_text(fit.tokens_per_s)} tokens/s expected"


def rate_text(tokens_per_s: float) -> str:
    """Two digits are more than an expectation has."""
    return f"{tokens_per_s:.1f}" if tokens_per_s < 9.95 else f"{float(f'{tokens_per_s:.2g}'):.0f}"


def explain_misfit(name: str, shape: ModelShape, capacity: Capacity, alternatives: Sequence[CatalogueChoice]) -> str:
    """Why the model `name` does not fit, by how much, and what would: a smaller load, or one of `alternatives`.

    To be called where it does not; `name` and `shape` may be those of a file outside the catalogue.
    """
    load = capacity.load.carried_by(shape)
    need = capacity.estimate(shape, load)
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
    """At most four: the same model with a smaller cache, or less to carry, the best of its family, the best of all."""
    remedies: list[str] = []
    if capacity.fits_with_small_cache(shape):
        remedies.append(f'the same with kv_cache = "{SMALL_CACHE}" in [models."{name}"]')
    smaller = _smaller_load(shape, capacity)
    if smaller is not None:
        remedies.append(f"the same with --context {smaller.context_tokens} --workers {smaller.slots}")
    able = [choice for choice in alternatives if choice.id != name and choice.variant.format in capacity.formats]
    fitting = [fit.choice for fit in best_first(able, capacity) if fit.fits]
    family = [choice for choice in fitting if choice.entry.family == name.partition(":")[0]]
    best = dict.fromkeys((*family[:1], *fitting[:1]))
    return remedies + [f"{choice.id} ({size_text(capacity.need(choice).total_bytes)})" for choice in best]


def _smaller_load(shape: ModelShape, capacity: Capacity) -> Load | None:
    """The gentlest cut of the load that fits: the context halved as often as needed, with all slots, then with one."""
    load = capacity.load.carried_by(shape)
    for slots in dict.fromkeys((load.slots, 1)):
        context_tokens = load.context_tokens
        while context_tokens >= MIN_CONTEXT_TOKENS:
            cut = Load(context_tokens, slots, load.cache_type)
            if capacity.estimate(shape, cut).total_bytes <= capacity.free_bytes:
                return cut
            context_tokens //= 2
    return None
