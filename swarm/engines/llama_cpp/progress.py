"""Whether an engine makes progress: a pure machine over what its main loop says of itself.

llama.cpp computes in one loop. `/metrics` is answered by that loop, between two steps, and counts them; `/health` is
answered by another thread, whatever the loop does. So the loop is asked all the time, one question after the other:

* while a question is unanswered, one step has lasted for as long: idle, it would have been answered at once;
* while the answers name work in progress and the same number of steps, nothing is computed;
* a request of ours that is silent although the loop goes on hangs in front of it: in a template, a grammar, a parser.

The time is the watcher's own: what it slept itself, with the machine or stopped, is nobody's silence.

`EngineProgress` is that machine; `until_wedged` asks a loop for its steps, all the time, and reports what it makes of
the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
)
from dataclasses import dataclass
from typing import Literal

from federation.tasks import cancel_and_wait
from swarm.errors import SwarmError

LOOK_S = 1.0  # between two looks at a question that is not answered

State = Literal["alive", "stalled", "wedged"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long nothing may happen. The defaults are what `docs/deploy.md` tells."""

    least_s: float = 20.0  # however fast the steps are: a machine may swap, or be busy with something else
    steps: float = 10.0  # times the slowest step seen, where that is more
    expected: float = 3.0  # times the largest step that is to be expected, where that is more: it may not be seen yet
    doubt_least_s: float = 5.0  # from here on nobody is sent there
    doubt_share: float = 0.25  # of the limit, where that is more
    call_limits: float = 3.0  # times the limit that a request may be silent while the loop goes on
    ask_every_s: float = 1.0  # between an answer and the next question: half a millisecond of each second
    look_s: float = 1.0  # between two looks at a question that is not answered


@dataclass(frozen=True, slots=True)
class EnginePace:
    """How fast an engine is, measured when it was loaded.

    `token_s` is what one token of a prompt takes, `step_s` the largest step that is to be expected: a whole batch.
    """

    token_s: float
    step_s: float


@dataclass(slots=True, eq=False)
class SilentCall:
    """A request that waits for a byte: how many tokens its prompt can have at most, and for how long it has waited.

    One that has `begun` to be answered may be silent while anything is computed: parts of a call are held back.
    """

    most_tokens: int
    begun: bool = False
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """What is to be thought of an engine; `words` continue its name, and are empty while it is alive."""

    state: State
    words: str = ""


ALIVE = EngineHealth("alive")
UNMEASURED = EnginePace(0.01, 2.0)  # which leaves the limit at its least
MOST_LEARNED = 2.0  # times the step expected: else whoever makes steps slow on purpose stretches the limit
PROMPT_SHARE = (
    10.0  # times the time of a prompt alone: others are computed with it, and long ones are slower at the end
)


class EngineProgress:
    """One engine's. Tell it what happens, then ask `judge`."""

    def __init__(self, pace: EnginePace = UNMEASURED, limits: Limits | None = None) -> None:
        self._pace = pace
        self.limits = limits or Limits()
        self._slowest_s = 0.0
        self._unanswered_s = 0.0
        self._stepless_s = 0.0  # work in progress, and no step
        self._steps: int | None = None
        self._busy = 0

    @property
    def limit_s(self) -> float:
        """How long nothing may happen before the engine is wedged."""
        limits = self.limits
        return max(limits.least_s, limits.steps * self._slowest_s, limits.expected * self._pace.step_s)

    @property
    def doubt_s(self) -> float:
        return max(self.limits.doubt_least_s, self.limits.doubt_share * self.limit_s)

    def passed(self, seconds: float, asking: bool) -> None:
        """So much time went by in which the watcher ran; `asking`: with a question that was not answered yet."""
        self._unanswered_s += seconds if asking else 0.0
        self._stepless_s += seconds

    def answered(self, steps: int, busy: int) -> None:
        """The loop has answered: it has made `steps` so far, and `busy` requests run or wait inside it."""
        self._slowest_s = max(self._slowest_s, min(self._unanswered_s, MOST_LEARNED * self._pace.step_s))
        self._unanswered_s = 0.0
        if not busy or steps != self._steps:
            self._stepless_s = 0.0
        self._steps, self._busy = steps, busy

    def age(self, calls: Iterable[SilentCall], seconds: float) -> None:
        """So much time went by in which these requests were silent."""
        for call in calls:
            if not (call.begun and self._busy):
                call.silent_s += seconds

    def judge(self, calls: Iterable[SilentCall] = ()) -> EngineHealth:
        """What is to be thought of the engine now, with those of our requests that are silent."""
        silent_s = max(self._unanswered_s, self._stepless_s)
        if silent_s >= self.limit_s:
            return EngineHealth("wedged", f"made no step for {silent_s:.0f} s (its limit is {self.limit_s:.0f} s)")
        for call in calls:
            if call.silent_s >= self._call_limit_s(call):
                return EngineHealth("wedged", f"has kept a request without an answer for {call.silent_s:.0f} s")
        if silent_s >= self.doubt_s:
            return EngineHealth("stalled", f"has made no step for {silent_s:.0f} s")
        return ALIVE

    def _call_limit_s(self, call: SilentCall) -> float:
        return self.limits.call_limits * self.limit_s + PROMPT_SHARE * self._pace.token_s * call.most_tokens


async def until_wedged(
    ask: Callable[[], Awaitable[LoopCounts]],
    silent: Callable[[], Collection[SilentCall]],
    progress: EngineProgress,
    tell: Callable[[EngineHealth], None],
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Return, with words for it, once the engine is wedged; `tell` hears every verdict until then.

    A look that comes late is this process's own doing (stopped, asleep, blocked): it counts as one or two, no more.
    """
    question: asyncio.Task[LoopCounts | None] | None = None
    last, limits = clock(), progress.limits

    def passed(asking: bool) -> None:
        nonlocal last
        now = clock()
        lived_s, last = min(now - last, 2 * limits.look_s), now
        progress.passed(lived_s, asking)
        progress.age(silent(), lived_s)

    try:
        while True:
            question = question or asyncio.create_task(_answer(ask), name="steps of an engine")
            await asyncio.wait({question}, timeout=limits.look_s)
            passed(asking=True)
            counts = question.result() if question.done() else None
            if counts is not None:
                progress.answered(counts.steps, counts.busy)
            verdict = progress.judge(silent())
            if verdict.state == "wedged":
                return verdict.words
            tell(verdict)
            if question.done():
                question = None
                await asyncio.sleep(limits.ask_every_s)
                passed(asking=counts is None)
    finally:
        await cancel_and_wait(question)


async def _answer(ask: Callable[[], Awaitable[LoopCounts]]) -> LoopCounts | None:
    """None for an answer that is none: the listener refuses, or its process is gone."""
    try:
        return await ask()
    except (SwarmError, KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class LoopCounts:
    """What llama.cpp's main loop says of itself: its steps since the model was loaded, and the requests inside it."""

    steps: int
    busy: int
