"""An engine of whose model other machines compute parts: what it loses when one of them is gone.

The engine itself ends then: llama.cpp aborts as soon as it needs a part that does not answer. Whoever is asked sees an
engine that ended, over requests that did nothing wrong. So the parts are watched beside it, and what they say comes
first: requests in progress end with `LenderLost`, the process is ended at once, and the model is loaded anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

from federation.advertisement import Capabilities
from federation.tasks import cancel_and_wait, finished, report_crash
from swarm.engines.engine import Computation, Embeddings, Engine, LoadedModel, Ranking, Tokens
from swarm.errors import EngineDied, LenderLost, Unavailable
from swarm.generation import EventStream, GenerationRequest, JsonObject, Prompt

log = logging.getLogger(__name__)

JUDGED_S = 3.0  # for an engine that ended to be looked at: its last words take a moment

T = TypeVar("T")


class Endable(Engine, Protocol):
    """An engine that can be ended whatever it does."""

    async def end(self) -> None:
        """End its process. `failed` completes then."""
        ...

    async def slot_states(self) -> Sequence[JsonObject]:
        """See `TellsSlots`."""
        ...


class Parts(Protocol):
    """The parts of one loaded model that other machines compute."""

    @property
    def lost(self) -> asyncio.Future[LenderLost]:
        """Completes when one of them is gone, before the engine can notice; never on `aclose()`."""
        ...

    @property
    def unsure(self) -> str | None:
        """Why nobody is to be sent there any more, while what runs may end; None while all is well."""
        ...

    def judge(self, text: str) -> LenderLost | None:
        """Complete `lost` where it was a lender's fault that the engine ended, which said `text`; else None."""
        ...

    def idle(self, is_idle: Callable[[], bool]) -> None:
        """`is_idle` says whether nothing runs, for a lender that takes its memory back as soon as it may."""
        ...

    async def aclose(self) -> None:
        """Give the memory back. Idempotent."""
        ...


class PooledEngine:
    """`engine` with its `parts`, which end with it."""

    def __init__(self, engine: Endable, parts: Parts) -> None:
        self._engine = engine
        self._parts = parts
        self._running = 0
        self._closing: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watcher = asyncio.create_task(self._watch(), name=f"parts of {engine.model_id}")
        report_crash(self._watcher, log, f"{self._watcher.get_name()} are watched no more")
        parts.idle(lambda: not self._running)

    async def _watch(self) -> None:
        """Complete `failed` when a part is lost or the engine breaks, whichever is first."""
        await asyncio.wait({self._engine.failed, self._parts.lost}, return_when=asyncio.FIRST_COMPLETED)
        lost = self.lost or self._parts.judge(self._engine.failed.result())
        if lost is None:
            self.failed.set_result(self._engine.failed.result())
            return
        log.warning("%s: %s", self.model_id, lost)
        await self._engine.end()
        self.failed.set_result(str(lost))

    @property
    def lost(self) -> LenderLost | None:
        return self._parts.lost.result() if self._parts.lost.done() else None

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def model_id(self) -> str:
        return self._engine.model_id

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    @property
    def loaded(self) -> LoadedModel:
        return self._engine.loaded

    @property
    def stalled(self) -> str | None:
        return self._parts.unsure or self._engine.stalled

    @property
    def taken_bytes(self) -> int | None:
        """What it takes of this machine."""
        return self._engine.taken_bytes

    @property
    def computation(self) -> Computation:
        return self._engine.computation

    def check(self, request: GenerationRequest) -> None:
        self._engine.check(request)

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        return self._told(self._engine.candidates(request, n))

    async def _told(self, events: EventStream) -> EventStream:
        self._running += 1
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except (EngineDied, Unavailable) as error:
            raise await self._why(error) from error
        finally:
            self._running -= 1

    async def _why(self, error: EngineDied | Unavailable) -> EngineDied | Unavailable | LenderLost:
        """What became of a request: a new error for each, since each is told to somebody else."""
        if self.lost is None and isinstance(error, EngineDied):  # whose fault that is, its last words say
            await asyncio.wait({self.failed}, timeout=JUDGED_S)
        lost = self.lost
        return error if lost is None else LenderLost(lost.lender, str(lost), lost.retry_after_s)

    async def _asked(self, answer: Awaitable[T]) -> T:
        self._running += 1
        try:
            return await answer
        except (EngineDied, Unavailable) as error:
            raise await self._why(error) from error
        finally:
            self._running -= 1

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        return await self._asked(self._engine.embed(texts))

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        return await self._asked(self._engine.rerank(query, documents))

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        asked = self._engine.tokenize(text, add_special=add_special, parse_special=parse_special, pieces=pieces)
        return await self._asked(asked)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return await self._asked(self._engine.detokenize(tokens))

    async def prompt_text(self, request: GenerationRequest) -> str:
        return await self._asked(self._engine.prompt_text(request))

    async def count_tokens(self, request: GenerationRequest) -> int:
        return await self._asked(self._engine.count_tokens(request))

    async def slot_states(self) -> Sequence[JsonObject]:
        return await self._engine.slot_states()

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close of the pooled {self.model_id}")
        await finished(self._closing)

    async def _close(self) -> None:
        """The engine first: it would abort without its parts."""
        await cancel_and_wait(self._watcher)
        try:
            await self._engine.aclose()
        finally:
            await self._parts.aclose()
