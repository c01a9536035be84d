"""The one seam to inference: what an engine promises, whatever library is behind it.

States: an engine is usable from the moment its loader returns it until `aclose()` begins or `failed` completes.

Rules that hold for every implementation, and that `tests/engines/test_contract.py` checks on each of them:
* No method blocks the event loop: native work runs in the library's own threads or in another process.
* Closing an event stream *is* cancellation: when `aclose()` of the iterator returns, the engine has been told to
  stop, and decoding ends within a token. (A long prefill ends within a slice; see `prefill.py`.)
* Errors come before the first event or instead of the next one, as the types of `swarm.errors`: `BadRequest` and
  `ContextExceeded` for input that can never work, `Unavailable` while closing, `EngineFailed` for everything else.
* Concurrency above `capabilities.slots` is queued by the engine in order of arrival; the worker pool avoids it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swarm.generation import EventStream, GenerationRequest


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to load, and how much of the machine it may use.

    `context_tokens` is what one request may fill, prompt and answer together; `slots` how many requests run at once.
    `threads` are compute threads; `gpu_layers` None lets the library decide by free memory.
    """

    model_id: str
    path: Path | None
    context_tokens: int
    slots: int
    threads: int
    gpu_layers: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine with this model can do. `context_tokens` is what was granted, not what was asked."""

    slots: int
    context_tokens: int
    tools: bool
    grammar: bool
    logprobs: bool
    embeddings: bool
    reasoning: bool


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input text, in order, and what the texts cost."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


class Engine(Protocol):
    """An adapter over an inference library that has one model loaded."""

    @property
    def name(self) -> str:
        """The library, in the words of `--engine`."""
        ...

    @property
    def model_id(self) -> str:
        """The id under which clients ask for this model."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def failed(self) -> asyncio.Future[str]:
        """Completes with the reason when the engine broke for good and must be loaded anew; never on `aclose()`."""
        ...

    def generate(self, request: GenerationRequest) -> EventStream:
        """One answer, as events with `choice` 0: any number of `Delta`, then exactly one `Finish`."""
        ...

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        """`n` independent answers to one prompt, interleaved, with seeds `request.seed + choice`.

        They share one prefill where the library can. Exactly one `Finish` per choice 0..n-1.
        Raises `BadRequest` if `n` exceeds `capabilities.slots`.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of `texts`. Raises `BadRequest` where the model cannot embed."""
        ...

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the prompt as the model sees it, chat template included."""
        ...

    async def aclose(self) -> None:
        """Stop all generation and free the model's memory. Idempotent."""
        ...
