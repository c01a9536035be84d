"""What memory a model takes depends on: its weights, and what one more token of context adds to the cache.

Comes from a GGUF header where a file is at hand, else from the catalogue, else is estimated from the parameter count.

What a GGUF model caches for each token, from its metadata, as llama.cpp's src/llama-model.cpp reads it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from swarm.registry.gguf_bytes import MAX_KEPT_ITEMS, Value


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


KEYS = frozenset({
    "block_count", "embedding_length", "full_attention_interval",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.key_length_swa", "attention.value_length_swa", "attention.shared_kv_layers",
    "attention.sliding_window", "attention.sliding_window_pattern",
    "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count",
})  # fmt: skip

MAX_LAYERS = MAX_KEPT_ITEMS
MAX_COUNT = 1 << 40  # no length or count of a model comes near; keeps arithmetic on hostile values small
FLOAT32_BYTES = 4

# Every n-th layer attends to everything, the others through a sliding window: llama.cpp knows these by architecture
# where the file does not say. A model with a window that is not listed is taken to attend fully: an upper bound.
_FULL_LAYER_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4}
# Every n-th layer attends, the others are recurrent.
_ATTENTION_EVERY = {"qwen3next": 4}


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


def cache_shape(keys: ArchKeys) -> CacheShape | None:
    """What each layer caches, alike layers together; None where the metadata do not say enough."""
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
    attends = _attends(keys, layers)
    shared = keys.count("attention.shared_kv_layers") or 0  # the last ones reuse the cache of earlier layers
    groups: Counter[tuple[int, int, int, int | None]] = Counter()
    for layer, slides in enumerate(_slides(keys, layers)):
        if attends[layer] and kv_heads[layer] and layer < layers - shared:
            lengths = narrow if slides else (key_length, value_length)
            groups[(kv_heads[layer], *lengths, window_tokens if slides else None)] += 1
    recurrent = sum(1 for layer in range(layers) if not attends[layer] or not kv_heads[layer])
    return CacheShape(
        tuple(LayerGroup(count, *group) for group, count in groups.items()), recurrent * _state_bytes(keys)
    )


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
