"""What memory a model takes depends on: its weights, and what one more token of context adds to the cache.

Comes from a GGUF header where a file is at hand, else from the catalogue, else is estimated from the parameter count.
"""

from __future__ import annotations

from dataclasses import dataclass


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
