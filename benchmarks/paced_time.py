"""How long an engine takes that computes nothing: the steps of llama.cpp as a machine that is advanced by the clock.

A server of llama.cpp goes from step to step. In each it writes one token of every answer that runs, and reads on in the
prompts that wait, each by a slice, up to a batch of tokens together; who comes meanwhile has part in the next step. A
prompt's last slice gives the answer's first token. So there are a few figures that say how fast such an engine is
(`Pace`; `pace_of.py` measures them), and everything else follows. Pure: instants come from outside, in seconds.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

SLICE_TOKENS = 512
WHOLE_TOKENS = 512
LEAST_SLICE_TOKENS = 64
MOST_SIMPLE = 64  # answers at once of an engine that `Pace.simple` describes
BATCH_TOKENS = 2048  # of prompts in one step, as the node sets llama.cpp up


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an engine is.

    `step_s` is what one token of each of 1, 2, 3, ... answers takes, with nothing in their contexts: not always more
    for more, since some numbers suit a processor better. Beyond the last each answer takes its share of that. Each
    token in a context makes a step longer by `context_s`. `read_s` has rising pairs of a prompt's tokens and the
    seconds to read it, alone, from its beginning; between them it is straight, and beyond the last as between the last
    two. An answer that goes on while a prompt is read makes that step longer by `beside_s`.

    A prompt that has at most `whole_tokens` to be read is read in one step; of a longer one each slice is a request of
    its own (`llama_cpp/prefill.py`), so that the answers that run have a step to themselves between two of them. Slices
    are to take equally long, however many long prompts are read at once: each has its share of `slice_tokens`, but no
    less than LEAST_SLICE_TOKENS.
    """

    step_s: tuple[float, ...]
    read_s: tuple[tuple[int, float], ...]
    context_s: float = 0.0
    beside_s: float = 0.0
    slice_tokens: int = SLICE_TOKENS
    whole_tokens: int = WHOLE_TOKENS
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        if not self.step_s or min(self.step_s) <= 0:
            raise ValueError(f"steps of 1, 2, ... answers take {self.step_s} s: give times above 0")
        if (
            not self.read_s
            or self.read_s[0][0] < 1
            or any(not (a < b and s < t) for (a, s), (b, t) in pairwise(((0, 0.0), *self.read_s)))
        ):
            raise ValueError(f"prompts are read as {self.read_s}: give pairs of tokens and seconds, both rising")
        if (
            min(self.context_s, self.beside_s) < 0
            or not 1 <= self.slice_tokens <= self.batch_tokens
            or self.whole_tokens < 0
        ):
            raise ValueError("no time is below 0, and a slice is 1 token to a whole batch")

    @classmethod
    def simple(cls, prefill_tps: float, decode_tps: float, batch_efficiency: float = 1.0) -> Self:
        """An engine that reads and writes so many tokens a second.

        `batch_efficiency` 1: any number of answers is written as fast as one; 0: they share the speed of one.
        """
        steps = tuple((1 + more * (1 - batch_efficiency)) / decode_tps for more in range(MOST_SIMPLE))
        return cls(steps, ((1, 1 / prefill_tps),))

    @classmethod
    def read(cls, file: Path) -> Self:
        """As `write` has written it."""
        said: dict[str, Any] = json.loads(file.read_text())
        names = {name: said[name] for name in cls.__slots__}
        names["step_s"] = tuple(names["step_s"])
        names["read_s"] = tuple((tokens, seconds) for tokens, seconds in names["read_s"])
        return cls(**names)

    def write(self, file: Path) -> None:
        file.write_text(json.dumps({name: getattr(self, name) for name in self.__slots__}, indent=1) + "\n")

    def times(self, factor: float) -> Self:
        """An engine that takes so many times as long."""
        return type(self)(
            tuple(factor * seconds for seconds in self.step_s),
            tuple((tokens, factor * seconds) for tokens, seconds in self.read_s),
            factor * self.context_s,
            factor * self.beside_s,
            self.slice_tokens,
            self.whole_tokens,
            self.batch_tokens,
        )

    def writing_s(self, answers: int) -> float:
        """One step of so many answers and of no prompt, contexts aside."""
        known = len(self.step_s)
        if answers <= known:
            return self.step_s[answers - 1] if answers else 0.0
        return self.step_s[-1] * answers / known

    def reading_s(self, tokens: int) -> float:
        """A prompt of so many tokens, from its beginning."""
        points = ((0, 0.0), *self.read_s)
        for (a, s), (b, t) in pairwise(points):
            if tokens <= b:
                return s + (tokens - a) * (t - s) / (b - a)
        (a, s), (b, t) = points[-2:]
        return t + (tokens - b) * (t - s) / (b - a)

    def whole_step_s(self, contexts: Sequence[int], slices: Sequence[tuple[int, int]]) -> float:
        """A step that writes a token to each of `contexts`, and reads `slices` of prompts: from a token up to another.

        A slice is at least what one more answer would be: its tokens go through the same weights.
        """
        step_s = self.writing_s(len(contexts) + len(slices))
        if slices:
            read_s = sum(self.reading_s(end) - self.reading_s(begin) for begin, end in slices)
            step_s = max(step_s, read_s + self.beside_s * len(contexts))
        return step_s + self.context_s * sum(contexts)


@dataclass(slots=True, eq=False)
class PacedJob:
    """A prompt and its answers: `answers` of them at once, each of `length` tokens, whose words are the same.

    `cached` tokens of the prompt were in the slot that it got; None while it waits for one. `position` is how far the
    prompt is read.
    """

    prompt: tuple[Hashable, ...]
    answer: tuple[Hashable, ...]
    answers: int
    cached: int | None = None
    position: int = 0
    written: int = 0
    sliced: bool = False  # it is read slice by slice
    rests: bool = False  # between two of them
    slots: list[_PacedSlot] = field(default_factory=list["_PacedSlot"])

    @property
    def reading(self) -> bool:
        return self.position < len(self.prompt)


@dataclass(frozen=True, slots=True)
class PacedToken:
    """At the instant `due` the token `number` (0, 1, ...) of each of a job's answers was written.

    `last`: it is complete; with no token where `number` is None, as an answer of none is.
    """

    due: float
    job: PacedJob
    number: int | None
    last: bool


@dataclass(slots=True, eq=False)
class _PacedSlot:
    kept: tuple[Hashable, ...] = ()
    used: int = 0  # in order of use
    taken: bool = False


@dataclass(slots=True)
class PacedCounts:
    """What a machine has done: seconds in steps, and tokens; `answer_s` counts each answer that ran in them."""

    busy_s: float = 0.0
    answer_s: float = 0.0
    read: int = 0
    cached: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    ends: float
    took_s: float
    writing: tuple[PacedJob, ...]
    reading: tuple[tuple[PacedJob, int], ...]  # and how far each comes


class PacedMachine:
    """An engine of so many slots. Instants never fall from one call to the next."""

    def __init__(self, pace: Pace, slots: int) -> None:
        self.pace = pace
        self.counts = PacedCounts()
        self._slots = [_PacedSlot() for _ in range(slots)]
        self._uses = 0
        self._waiting: deque[PacedJob] = deque()
        self._running: list[PacedJob] = []  # in order of arrival
        self._step: _Step | None = None
        self._told: list[PacedToken] = []

    @property
    def next_due(self) -> float | None:
        """When the step ends that is under way; None: nothing is to be done."""
        return None if self._step is None else self._step.ends

    def begin(self, now: float, prompt: Sequence[Hashable], answer: Sequence[Hashable], answers: int = 1) -> PacedJob:
        """A request comes: it has part in the step after the one under way, or waits for slots behind those before."""
        if not 1 <= answers <= len(self._slots):
            raise ValueError(f"{answers} answers at once of an engine with {len(self._slots)} slots")
        if not prompt:
            raise ValueError("a prompt has a token at least")
        self._run(now)
        job = PacedJob(tuple(prompt), tuple(answer), answers)
        self._waiting.append(job)
        self._admit()
        if self._step is None:
            self._next_step(now)
        return job

    def cancel(self, now: float, job: PacedJob) -> None:
        """Nobody wants it any more: its slots are free, and the step under way goes on. Idempotent."""
        self._run(now)
        if job in self._waiting:
            self._waiting.remove(job)
        elif job in self._running:
            self._release(job)
        self._told = [token for token in self._told if token.job is not job]
        self._admit()

    def advance(self, now: float) -> list[PacedToken]:
        """What was due until `now` and was not told yet, in order."""
        self._run(now)
        told, self._told = self._told, []
        return told

    def _run(self, now: float) -> None:
        while self._step is not None and self._step.ends <= now:
            step, self._step = self._step, None
            self._end(step)
            self._next_step(step.ends)

    def _end(self, step: _Step) -> None:
        self.counts.busy_s += step.took_s
        running = set(self._running)  # the others were cancelled meanwhile
        for job in step.writing:
            if job in running:
                self.counts.answer_s += step.took_s * job.answers
                self._write(job, step.ends)
        for job, position in step.reading:
            if job in running:
                self.counts.answer_s += step.took_s
                self.counts.read += position - job.position
                job.position = position
                job.rests = job.sliced
                if not job.reading:
                    self._write(job, step.ends)
        self._admit()

    def _write(self, job: PacedJob, due: float) -> None:
        number = job.written if job.answer else None
        if number is not None:
            job.written += 1
            self.counts.written += job.answers
        last = job.written >= len(job.answer)
        self._told.append(PacedToken(due, job, number, last))
        if last:
            self._release(job)

    def _next_step(self, at: float) -> None:
        writing = tuple(job for job in self._running if not job.reading)
        reading: list[tuple[PacedJob, int]] = []
        slices: list[tuple[int, int]] = []
        room = self.pace.batch_tokens
        sharing = max(1, sum(job.reading and job.sliced for job in self._running))
        part = max(self.pace.slice_tokens // sharing, min(LEAST_SLICE_TOKENS, self.pace.slice_tokens))
        for job in self._running:
            if job.reading and job.rests and writing:
                job.rests = False
            elif job.reading and room > 0:
                most = part if job.sliced else self.pace.batch_tokens
                end = min(job.position + min(most, room), len(job.prompt))
                room -= end - job.position
                reading.append((job, end))
                slices.append((job.position, end))
        if not writing and not reading:
            return
        contexts = [job.position + job.written for job in writing for _ in range(job.answers)]
        took_s = self.pace.whole_step_s(contexts, slices)
        self._step = _Step(at + took_s, took_s, writing, tuple(reading))

    def _admit(self) -> None:
        """Those that wait get slots in order of arrival, the first of each where most of its prompt is kept."""
        while self._waiting:
            free = [slot for slot in self._slots if not slot.taken]
            job = self._waiting[0]
            if len(free) < job.answers:
                return
            self._waiting.popleft()
            free.sort(key=lambda slot: (-_common(slot.kept, job.prompt), slot.used))
            job.slots = [free[0], *sorted(free[1:], key=lambda slot: slot.used)][: job.answers]
            job.cached = min(_common(free[0].kept, job.prompt), len(job.prompt) - 1)  # the last gives the first token
            job.position = job.cached
            job.sliced = len(job.prompt) - job.cached > self.pace.whole_tokens
            self.counts.cached += job.cached
            for slot in job.slots:
                slot.taken = True
            self._running.append(job)

    def _release(self, job: PacedJob) -> None:
        self._running.remove(job)
        kept = (*job.prompt[: job.position], *job.answer[: job.written])
        for slot in job.slots:
            self._uses += 1
            slot.kept, slot.used, slot.taken = kept, self._uses, False


def _common(kept: Sequence[Hashable], prompt: Sequence[Hashable]) -> int:
    """How many tokens both begin with."""
    same = 0
    for a, b in zip(kept, prompt, strict=False):
        if a != b:
            break
        same += 1
    return same
