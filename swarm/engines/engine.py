"""The one seam to inference: what an engine promises, whatever library is behind it.

States: an engine is usable from the moment its loader returns it until `aclose()` begins or `failed` completes.

Rules that hold for every implementation, and that `tests/engines/test_contract.py` checks on each of them:
* No method blocks the event loop: native work runs in the library's own threads or in another process.
* Closing an event stream *is* cancellation: when `aclose()` of the iterator returns, the engine has been told to
  stop, and decoding ends within a token. (A long prefill ends within a slice; see `prefill.py`.)
* Errors come before the first event or instead of the next one, as the types of `swarm.errors`: `BadRequest` and
  `ContextExceeded` for input that can never work, `Unavailable` while closing, `EngineFailed` for everything else.
* An engine watches itself: one that makes no progress says so (`stalled`), and breaks (`failed`) if that goes on.
* Concurrency above `loaded.slots` is queued by the engine in order of arrival; the worker pool avoids it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from federation.advertisement import Capabilities
from swarm.generation import EventStream, GenerationRequest, Prompt


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


@dataclass(frozen=True)
class LoadedModel:
    """The model as the engine loaded it: what was granted, not what was asked, and what its file says.

    `context_tokens` is what one request may fill, 0 where that is not known. No token stands for more bytes of text
    than `longest_token_bytes`; None where nothing is known of the tokens.
    """

    slots: int
    context_tokens: int
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    longest_token_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input text, in order, and what the texts cost."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well each document answers the query, in order (higher is better), and what reading them cost."""

    scores: tuple[float, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens. `pieces`, where asked for: what each stands for, as bytes where it is no whole characters."""

    ids: tuple[int, ...]
    pieces: tuple[str | tuple[int, ...], ...] | None = None


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
    def capabilities(self) -> Capabilities:
        """What can be asked of this engine with this model."""
        ...

    @property
    def loaded(self) -> LoadedModel:
        """The model's sizes as granted, and what its file says of it."""
        ...

    @property
    def failed(self) -> asyncio.Future[str]:
        """Completes with the reason when the engine broke for good and must be loaded anew; never on `aclose()`.

        By then every request in progress has ended by an error, or is about to.
        """
        ...

    @property
    def stalled(self) -> str | None:
        """Why it is doubted that the engine still computes: nobody is sent there meanwhile. None while all is well."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Raises BadRequest for what this engine can answer with no model: see `EngineModule.check`."""
        ...

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        """`n` independent answers to one prompt, interleaved, with seeds `request.seed + choice`.

        They share one prefill where the library can. Of each choice 0..n-1 any number of `Delta`, then one `Finish`.
        Raises `BadRequest` if `n` exceeds `loaded.slots`.
        """
        ...

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        """Vectors of `texts`. Raises `BadRequest` where the model cannot embed."""
        ...

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """Scores of `documents`. Raises `BadRequest` where the model cannot rank."""
        ...

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        """The tokens of `text`; `add_special`: with those around every prompt; `parse_special`: `<|im_end|>` is one."""
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`. Raises `BadRequest` for numbers that are none."""
        ...

    async def prompt_text(self, request: GenerationRequest) -> str:
        """A chat as the text that the model sees, by its own template."""
        ...

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the prompt as the model sees it, chat template included."""
        ...

    async def aclose(self) -> None:
        """Stop all generation and free the model's memory. Idempotent."""
        ...
