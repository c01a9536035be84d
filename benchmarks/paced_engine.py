"""An engine that says what was said to it, at the speed of a real one: for figures about many nodes on one machine.

It keeps the contract of `swarm/engines/engine.py` as the echo engine does, which it is but for the time: gateway,
routing, wire and votes are real, and a node's speed does not depend on how many share the machine. When each token is
due is for `paced_time.py` to say. It is handed out as soon after that as the machine allows; the next one is due by the
same clock all the same, so that being late does not add up, and how late it was is counted (`Lateness`).
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager

from benchmarks.paced_time import Pace, PacedJob, PacedMachine, PacedToken
from swarm import program_version
from swarm.engines.echo import MESSAGE_OVERHEAD_TOKENS, EchoEngine, message_text, tokens_of
from swarm.engines.engine import Computation, EngineSpec
from swarm.engines.registry import Isolation
from swarm.errors import ContextExceeded, Unavailable
from swarm.generation import Delta, EventStream, Finish, GenerationRequest, Usage

LATE_MS = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 1024)  # bounds of what is counted together


class Lateness:
    """How much later than due tokens were handed out: `counts` by LATE_MS, the last one for what is above all."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LATE_MS) + 1)

    def note(self, late_s: float, tokens: int = 1) -> None:
        self.counts[bisect_left(LATE_MS, late_s * 1000)] += tokens


def share_within(counts: Sequence[int], share: float) -> float | None:
    """The bound in ms that this share of all tokens stayed within; infinite above the last, None where there are none.

    `counts` are as of `Lateness`, of any number of engines added up.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    seen = 0
    for bound, count in zip((*LATE_MS, float("inf")), counts, strict=True):
        seen += count
        if seen >= wanted:
            return bound
    return float("inf")


class PacedEngine(EchoEngine):
    """See the module. Not for another event loop than the one that it was made on."""

    def __init__(self, spec: EngineSpec, pace: Pace) -> None:
        super().__init__(spec)
        self.lateness = Lateness()
        self.machine = PacedMachine(pace, spec.slots)
        self._loop = asyncio.get_running_loop()
        self._told: dict[PacedJob, asyncio.Queue[PacedToken | None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def computation(self) -> Computation:
        return Computation("paced", program_version())

    async def _stream(self, request: GenerationRequest, n: int) -> EventStream:
        if self._closed:
            raise Unavailable("the engine is closed")
        prompt = self._prompt_tokens(request)
        room = self.spec.context_tokens - len(prompt)
        if room <= 0:
            raise ContextExceeded(len(prompt), self.spec.context_tokens, param=request.prompt_field)
        answer, reason, stop = self._answer(request, room)
        async with self._job(prompt, answer, n) as (job, told):
            last = False
            while not last:
                token = await told.get()
                if token is None:
                    raise Unavailable("the engine is closed")
                last = token.last
                for choice in range(n) if token.number is not None else ():
                    self.tokens_generated += 1
                    yield Delta(choice, answer[token.number or 0])
            for choice in range(n):
                usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(answer), cached_tokens=job.cached or 0)
                yield Finish(choice, reason, usage, stop)

    @asynccontextmanager
    async def _job(
        self, prompt: Sequence[Hashable], answer: Sequence[Hashable], n: int
    ) -> AsyncIterator[tuple[PacedJob, asyncio.Queue[PacedToken | None]]]:
        """A request to the machine, which ends with the block; the queue has None where the engine is closed."""
        job = self.machine.begin(self._loop.time(), prompt or ("",), answer, n)
        told = self._told[job] = asyncio.Queue()
        self._wake()
        try:
            yield job, told
        finally:
            del self._told[job]
            self.machine.cancel(self._loop.time(), job)
            self._wake()

    def _wake(self) -> None:
        """Hand out what is due, and come again when the next step ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for token in self.machine.advance(self._loop.time()):
            self.lateness.note(self._loop.time() - token.due, token.job.answers)
            if token.job in self._told:
                self._told[token.job].put_nowait(token)
        if self.machine.next_due is not None and not self._closed:
            self._timer = self._loop.call_at(self.machine.next_due, self._wake)

    def _prompt_tokens(self, request: GenerationRequest) -> list[Hashable]:
        """The prompt as words, by which it is known again in a slot: as many as `count_tokens` says."""
        if request.messages is None:
            return list(tokens_of(request.prompt) if isinstance(request.prompt, str) else request.prompt or ())
        tools = json.dumps([tool.model_dump() for tool in request.tools]) if request.tools else ""
        words: list[Hashable] = list(tokens_of(tools))
        for message in request.messages:
            words += [str(message.get("role"))] * MESSAGE_OVERHEAD_TOKENS
            words += tokens_of(message_text(message))
        return words

    async def aclose(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for told in self._told.values():
            told.put_nowait(None)


Loader = Callable[[EngineSpec, Isolation], Awaitable[EchoEngine]]


def loader(pace: Pace, made: Callable[[PacedEngine], None] = lambda _: None) -> Loader:
    """What loads a paced engine in place of `swarm.engines.echo.load`; `made` is told of each."""

    async def load(spec: EngineSpec, isolation: Isolation = "auto") -> EchoEngine:
        engine = PacedEngine(spec, pace)
        made(engine)
        return engine

    return load
