"""How much memory a model takes while it runs, and what that depends on: its shape. Pure arithmetic.

    memory needed = weights + KV cache + compute buffer + reserve

* Weights: the file's size; llama.cpp maps or loads all of it.
* KV cache (llama.cpp, src/llama-kv-cache.cpp, the constructor): per layer one key tensor of
  `kv_heads * key_length` and one value tensor of `kv_heads * value_length` elements per cell, and
  `context * slots` cells. Layers with a sliding window (src/llama-kv-cache-iswa.cpp) keep
  `window * slots + ubatch` cells. Recurrent layers (src/llama-memory-recurrent.cpp) keep a fixed state per slot.
* Compute buffer (llama.cpp, src/llama-context.cpp, `graph_reserve`): the widest step of one micro-batch, which is
  its float32 logits, `ubatch * vocabulary`, and several activations as wide as the embedding.
* Reserve: what does not scale with the model.

A shape comes from a GGUF header where a file is at hand (`cache_shape`, as llama.cpp's src/llama-model.cpp reads it),
else from the catalogue, else it is estimated from the parameter count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from swarm.errors import SetupError
from swarm.registry.gguf_bytes import MAX_KEPT_ITEMS, Value

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

_BLOCK_ELEMENTS = 32  # ggml stores quantized caches in blocks of this many elements
_BLOCK_BYTES: dict[CacheType, int] = {
    "f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18,
}  # fmt: skip

# Half of what f16 takes. Nobody gets it unasked: quantized values need flash attention, which not every device has for
# every model, and reading a long context takes longer with them.
SMALL_CACHE: CacheType = "q8_0"

MIB = 1 << 20
GIB = 1 << 30

UBATCH_TOKENS = 512  # llama.cpp's default micro-batch
FLOAT32_BYTES = 4
CELL_PADDING = 256  # llama.cpp rounds the cells of a cache up to this

UNKNOWN_VOCAB = 262_144  # the largest in common use: an estimate must not be too small
UNKNOWN_EMBEDDING = 4096  # of an 8B model; activations are small beside the logits
ACTIVATION_ROWS = 16  # embedding widths alive at once per token: attention, a feed-forward of 4x, residuals
RESERVE_BYTES = 512 * MIB  # the process, 256 MiB of cached prompts, and allocator slack

# Where nobody said what the cache looks like: an upper bound over the catalogue's models with grouped-query attention,
# 148 kB per token (f16) up to 4B parameters and the 0.28th power beyond. Multi-head models of 2023 need more, and
# their entries say so.
ESTIMATED_KV_BYTES_PER_TOKEN_F16 = 148_000
ESTIMATED_KV_KNEE_B = 4.0
ESTIMATED_KV_GROWTH = 0.28

CACHE_KEYS = frozenset({
    "block_count", "embedding_length", "full_attention_interval",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.key_length_swa", "attention.value_length_swa", "attention.shared_kv_layers",
    "attention.sliding_window", "attention.sliding_window_pattern",
    "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count",
})  # fmt: skip

MAX_LAYERS = MAX_KEPT_ITEMS
MAX_COUNT = 1 << 40  # no length or count of a model comes near; keeps arithmetic on hostile values small

# Every n-th layer attends to everything, the others through a sliding window: llama.cpp knows these by architecture
# where the file does not say. A model with a window that is not listed is taken to attend fully: an upper bound.
_FULL_LAYER_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4}
# Every n-th layer attends, the others are recurrent.
_ATTENTION_EVERY = {"qwen3next": 4}


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """`layers` layers that cache alike: `kv_heads` keys and values of the given lengths for every token.

    `window_tokens` is set for layers with sliding-window attention, which keep only that many of a request's tokens.
    """

    layers: int
    kv_heads: int
    key_length: int
    value_length: int
    window_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CacheShape:
    """All layers that cache something. Recurrent layers keep `state_bytes_per_slot`, however long the context."""

    groups: tuple[LayerGroup, ...]
    state_bytes_per_slot: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model as the memory formula sees it; `cache` and `vocab_size` are None where nobody said.

    `weights_exact` tells a measured file size from an estimate. `context_tokens` is what the model was trained for.
    """

    weights_bytes: int
    weights_exact: bool
    params_b: float
    context_tokens: int | None
    cache: CacheShape | None
    vocab_size: int | None
    embedding_length: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a model is asked to carry: `slots` requests at once, of `context_tokens` each, prompt and answer.

    `at_most`: nobody asked for so many tokens, and a model that was trained on fewer carries those.
    """

    context_tokens: int
    slots: int = 1
    cache_type: CacheType = "f16"
    at_most: bool = False

    def __post_init__(self) -> None:
        if self.context_tokens < 1 or self.slots < 1:
            raise SetupError(f"{self.slots} slots of {self.context_tokens} tokens of context: give 1 or more of each")

    def carried_by(self, shape: ModelShape) -> Load:
        """What a model of `shape` carries of it."""
        if not self.at_most or shape.context_tokens is None:
            return self
        return replace(self, context_tokens=min(self.context_tokens, shape.context_tokens))


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a model takes while it runs, by part. `estimated` where its size or cache is not measured."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    reserve_bytes: int
    estimated: bool

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.reserve_bytes


MIN_CONTEXT_TOKENS = 1024  # less than a short chat needs: not offered as a remedy
# What clients of today say before anybody has asked anything: Open WebUI 7,000 tokens, Codex 10,900, Qwen Code 12,800.
MOST_CONTEXT_TOKENS = 32_768
CONTEXT_STEPS = (
    MOST_CONTEXT_TOKENS, 24_576, 16_384, 12_288, 8192, 6144, 4096, 3072, 2048, 1536, MIN_CONTEXT_TOKENS,
)  # fmt: skip
JUDGED_CONTEXT_TOKENS = 16_384  # a model that is chosen for somebody has room for one such conversation
UNKNOWN_LOAD_TOKENS = 8192  # of each of two workers, where nobody knows how much memory is free
MOST_WORKERS = 4  # more write no more in all on a small machine, and each is slower
CONTEXT_SHARE = 0.9  # of the free memory, for one conversation and a second one beside it
WORKERS_SHARE = 0.5  # ... for more of them, which only votes and company need
SHARES_TRIED = (1.0, 0.7, 0.5, 0.35, 0.25)  # of a machine's memory, for a model that has others beside it


@dataclass(frozen=True, slots=True)
class AskedLoad:
    """What the user said of the load: tokens of context, and workers; None where that is left to the node."""

    context_tokens: int | None = None
    slots: int | None = None

    def __post_init__(self) -> None:
        Load(1 if self.context_tokens is None else self.context_tokens, 1 if self.slots is None else self.slots)

    @property
    def judged(self) -> Load:
        """The load that a model is held against before it is chosen for somebody."""
        return Load(self.context_tokens or JUDGED_CONTEXT_TOKENS, self.slots or 1, at_most=not self.context_tokens)

    def largest(
        self, shape: ModelShape, free_bytes: int | None, estimate: Callable[[ModelShape, Load], MemoryNeed]
    ) -> Load | None:
        """The largest load that fits: first the context, up to MOST_CONTEXT_TOKENS and the model's own, then workers.

        A second worker comes where there is room for it, so that nobody waits for somebody else's answer; more only
        where they leave half of the memory free. None where nothing fits, and where the model has no such context.
        """
        trained_tokens = shape.context_tokens or MOST_CONTEXT_TOKENS
        if shape.context_tokens is not None and (self.context_tokens or 0) > shape.context_tokens:
            return None
        most = min(MOST_CONTEXT_TOKENS, trained_tokens)
        if free_bytes is None:
            return Load(self.context_tokens or min(UNKNOWN_LOAD_TOKENS, most), self.slots or 2)

        def fits(load: Load, share: float) -> bool:
            return estimate(shape, load).total_bytes <= share * free_bytes

        least = self.slots or 1
        steps = [most, *(step for step in CONTEXT_STEPS if step < most)]
        contexts = steps if self.context_tokens is None else [self.context_tokens]
        loads = [Load(context_tokens, least) for context_tokens in contexts]
        chosen = next((load for share in (CONTEXT_SHARE, 1.0) for load in loads if fits(load, share)), None)
        if chosen is None or self.slots is not None:
            return chosen
        more = [replace(chosen, slots=slots) for slots in range(MOST_WORKERS, 1, -1)]
        shares = {load: CONTEXT_SHARE if load.slots == 2 else WORKERS_SHARE for load in more}
        return next((load for load in more if fits(load, shares[load])), chosen)

    def ways(
        self,
        shape: ModelShape,
        free_bytes: int | None,
        most_bytes: int | None,
        estimate: Callable[[ModelShape, Load], MemoryNeed],
    ) -> tuple[Load, ...]:
        """The loads to try for a model that is loaded beside others, the best first and the smallest last.

        `free_bytes` are free now, `most_bytes` would be if this model were alone. What is free now is enough where it
        holds one conversation as long as a model is chosen for: others are not unloaded for a longer one.
        """
        now = self.largest(shape, free_bytes, estimate)
        least_tokens = self.context_tokens or min(MIN_CONTEXT_TOKENS * 2, shape.context_tokens or MIN_CONTEXT_TOKENS)
        found = [Load(least_tokens, self.slots or 1)]
        enough = min(self.context_tokens or JUDGED_CONTEXT_TOKENS, shape.context_tokens or JUDGED_CONTEXT_TOKENS)
        if now is not None:
            found.append(now)
        if free_bytes is not None and (now is None or now.context_tokens < enough):
            most = free_bytes if most_bytes is None else max(most_bytes, free_bytes)
            tried = (self.largest(shape, int(most * share), estimate) for share in SHARES_TRIED)
            found += [load for load in tried if load is not None]
        if self.slots is None:
            found += [replace(load, slots=1) for load in found]
        sizes = {load: estimate(shape, load).total_bytes for load in found}
        return tuple(sorted(sizes, key=lambda load: (sizes[load], load.context_tokens, load.slots), reverse=True))


def small_cache_tokens(
    shape: ModelShape, load: Load, free_bytes: int | None, estimate: Callable[[ModelShape, Load], MemoryNeed]
) -> int | None:
    """The context that a cache of half the size buys a model with such a `load`; None where none is needed.

    One is needed below the tokens that a model which is chosen for somebody has room for.
    """
    needed = min(JUDGED_CONTEXT_TOKENS, shape.context_tokens or JUDGED_CONTEXT_TOKENS)
    if free_bytes is None or load.cache_type == SMALL_CACHE or load.context_tokens >= needed:
        return None

    def small(shape: ModelShape, load: Load) -> MemoryNeed:
        return estimate(shape, replace(load, cache_type=SMALL_CACHE))

    found = AskedLoad(slots=load.slots).largest(shape, free_bytes, small)
    return found.context_tokens if found is not None and found.context_tokens > load.context_tokens else None


def memory_needed(shape: ModelShape, load: Load) -> MemoryNeed:
    """Memory that `shape` takes under `load`; the formula and its sources are at the top of this file."""
    vocab = shape.vocab_size or UNKNOWN_VOCAB
    embedding = shape.embedding_length or UNKNOWN_EMBEDDING
    return MemoryNeed(
        weights_bytes=shape.weights_bytes,
        kv_bytes=_kv_bytes(shape, load),
        compute_bytes=UBATCH_TOKENS * FLOAT32_BYTES * (vocab + ACTIVATION_ROWS * embedding),
        reserve_bytes=RESERVE_BYTES,
        estimated=not shape.weights_exact or shape.cache is None,
    )


def _kv_bytes(shape: ModelShape, load: Load) -> int:
    cells = padded_cells(load)
    if shape.cache is None:
        growth = max(1.0, shape.params_b / ESTIMATED_KV_KNEE_B) ** ESTIMATED_KV_GROWTH
        per_token_f16 = round(ESTIMATED_KV_BYTES_PER_TOKEN_F16 * growth)
        return cells * per_token_f16 * _BLOCK_BYTES[load.cache_type] // _BLOCK_BYTES["f16"]
    cached = sum(_group_bytes(group, cells, load) for group in shape.cache.groups)
    return cached + shape.cache.state_bytes_per_slot * load.slots


def padded_cells(load: Load) -> int:
    """The cells of a cache for `load`."""
    return _padded(load.context_tokens * load.slots)


def _group_bytes(group: LayerGroup, cells: int, load: Load) -> int:
    if group.window_tokens is not None:
        cells = min(cells, _padded(group.window_tokens * load.slots + UBATCH_TOKENS))
    elements = group.layers * group.kv_heads * (group.key_length + group.value_length) * cells
    return elements * _BLOCK_BYTES[load.cache_type] // _BLOCK_ELEMENTS


def _padded(cells: int) -> int:
    return -(-cells // CELL_PADDING) * CELL_PADDING


def size_text(size_bytes: int) -> str:
    """A size as people read it: `4.9 GiB`, below one gibibyte in MiB."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{-(-size_bytes // MIB)} MiB"


@dataclass(frozen=True, slots=True)
class ArchKeys:
    """The values of one architecture, by their key without its prefix, each checked when asked for."""

    architecture: str
    values: dict[str, Value]

    def get(self, key: str) -> Value | None:
        return self.values.get(f"{self.architecture}.{key}")

    def count(self, key: str) -> int | None:
        """A non-negative number of something, or None where there is none that makes sense."""
        value = self.get(key)
        return value if isinstance(value, int) and _is_count(value) else None

    def per_layer(self, key: str, layers: int) -> tuple[int, ...] | None:
        """One count per layer, from an array or from one number for all."""
        value = self.get(key)
        if isinstance(value, tuple):
            counts = tuple(int(item) for item in value if isinstance(item, int) and _is_count(item))
            return counts if len(counts) == layers else None
        count = self.count(key)
        return None if count is None else (count,) * layers


def _is_count(value: int) -> bool:
    return 0 <= value <= MAX_COUNT


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """What one layer keeps: keys and values of each token (`attention`), or a state of a fixed size for each slot."""

    attention: LayerGroup | None = None
    state_bytes_per_slot: int = 0

    def size_bytes(self, load: Load) -> int:
        attention = 0 if self.attention is None else _group_bytes(self.attention, padded_cells(load), load)
        return attention + self.state_bytes_per_slot * load.slots


def cache_shape(keys: ArchKeys) -> CacheShape | None:
    """What each layer caches, alike layers together; None where the metadata do not say enough."""
    caches = layer_caches(keys)
    if caches is None:
        return None
    alike = Counter(cache.attention for cache in caches if cache.attention is not None)
    return CacheShape(
        tuple(replace(group, layers=count) for group, count in alike.items()),
        sum(cache.state_bytes_per_slot for cache in caches),
    )


def layer_caches(keys: ArchKeys) -> tuple[CachedLayer, ...] | None:
    """What each layer caches, in order; None where the metadata do not say enough."""
    layers = keys.count("block_count")
    if not layers or layers > MAX_LAYERS:
        return None
    heads = keys.per_layer("attention.head_count", layers)
    kv_heads = keys.per_layer("attention.head_count_kv", layers) or heads
    most_heads = max(heads or (0,))
    embedding = keys.count("embedding_length")
    derived = embedding // most_heads if embedding and most_heads else None
    key_length = keys.count("attention.key_length") or derived
    value_length = keys.count("attention.value_length") or derived
    if kv_heads is None or not key_length or not value_length:
        return None
    window_tokens = keys.count("attention.sliding_window")
    narrow = (
        keys.count("attention.key_length_swa") or key_length,
        keys.count("attention.value_length_swa") or value_length,
    )
    attends, state_bytes = _attends(keys, layers), _state_bytes(keys)
    shared = keys.count("attention.shared_kv_layers") or 0  # the last ones reuse the cache of earlier layers
    caches: list[CachedLayer] = []
    for layer, slides in enumerate(_slides(keys, layers)):
        if not attends[layer] or not kv_heads[layer]:
            caches.append(CachedLayer(state_bytes_per_slot=state_bytes))
        elif layer < layers - shared:
            lengths = narrow if slides else (key_length, value_length)
            caches.append(CachedLayer(LayerGroup(1, kv_heads[layer], *lengths, window_tokens if slides else None)))
        else:
            caches.append(CachedLayer())
    return tuple(caches)


def _attends(keys: ArchKeys, layers: int) -> list[bool]:
    """For each layer, whether it is one of attention and not recurrent."""
    every = keys.count("full_attention_interval") or _ATTENTION_EVERY.get(keys.architecture, 1)
    return [(layer + 1) % every == 0 for layer in range(layers)]


def _slides(keys: ArchKeys, layers: int) -> list[bool]:
    """For each layer, whether it attends through the sliding window only."""
    pattern = keys.get("attention.sliding_window_pattern")
    if not keys.count("attention.sliding_window"):
        return [False] * layers
    if isinstance(pattern, tuple) and len(pattern) == layers:
        return [bool(slides) for slides in pattern]
    every = keys.count("attention.sliding_window_pattern") or _FULL_LAYER_EVERY.get(keys.architecture, 1)
    return [(layer + 1) % every != 0 for layer in range(layers)]


def _state_bytes(keys: ArchKeys) -> int:
    """State of one recurrent layer for one request (llama.cpp, src/llama-hparams.cpp: n_embd_r and n_embd_s)."""
    inner, state = keys.count("ssm.inner_size"), keys.count("ssm.state_size")
    if not inner or not state:
        return 0
    kernel, groups = keys.count("ssm.conv_kernel") or 1, keys.count("ssm.group_count") or 0
    convolution = (kernel - 1) * (inner + 2 * groups * state) if kernel else 0
    return (convolution + inner * state) * FLOAT32_BYTES
