"""How much memory a model takes while it runs. Pure arithmetic.

    memory needed = weights + KV cache + compute buffer + reserve

* Weights: the file's size; llama.cpp maps or loads all of it.
* KV cache (llama.cpp, src/llama-kv-cache.cpp, the constructor): per layer one key tensor of
  `kv_heads * key_length` and one value tensor of `kv_heads * value_length` elements per cell, and
  `context * slots` cells. Layers with a sliding window (src/llama-kv-cache-iswa.cpp) keep
  `window * slots + ubatch` cells. Recurrent layers (src/llama-memory-recurrent.cpp) keep a fixed state per slot.
* Compute buffer (llama.cpp, src/llama-context.cpp, `graph_reserve`): the widest step of one micro-batch, which is
  its float32 logits, `ubatch * vocabulary`, and several activations as wide as the embedding.
* Reserve: what does not scale with the model.

Quantizations: how many bits a weight really takes, and how ggml's tensor types are laid out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swarm.errors import SetupError
from swarm.registry.cache_shape import LayerGroup, ModelShape

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

_BLOCK_ELEMENTS = 32  # ggml stores quantized caches in blocks of this many elements
_BLOCK_BYTES: dict[CacheType, int] = {
    "f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18,
}  # fmt: skip

MIB = 1 << 20
GIB = 1 << 30

UBATCH_TOKENS = 512  # llama.cpp's default micro-batch
CELL_PADDING = 256  # llama.cpp rounds the cells of a cache up to this
FLOAT32_BYTES = 4
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


@dataclass(frozen=True, slots=True)
class Load:
    """What a model is asked to carry: `slots` requests at once, of `context_tokens` each, prompt and answer."""

    context_tokens: int
    slots: int = 1
    cache_type: CacheType = "f16"

    def __post_init__(self) -> None:
        if self.context_tokens < 1 or self.slots < 1:
            raise SetupError(f"{self.slots} slots of {self.context_tokens} tokens of context: give 1 or more of each")


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
    cells = _padded(load.context_tokens * load.slots)
    if shape.cache is None:
        growth = max(1.0, shape.params_b / ESTIMATED_KV_KNEE_B) ** ESTIMATED_KV_GROWTH
        per_token_f16 = round(ESTIMATED_KV_BYTES_PER_TOKEN_F16 * growth)
        return cells * per_token_f16 * _BLOCK_BYTES[load.cache_type] // _BLOCK_BYTES["f16"]
    cached = sum(_group_bytes(group, cells, load) for group in shape.cache.groups)
    return cached + shape.cache.state_bytes_per_slot * load.slots


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
