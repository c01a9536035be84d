"""What is counted of a swarm of paced nodes: answers in a window of time, by whom, and how late tokens were. Pure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from benchmarks.paced_engine import share_within

GOLDEN, SILVER = 0.6180339887498949, 0.41421356237309515  # steps that fill an interval most evenly
SPAN_S = 4.0  # an outage is looked at in


@dataclass(frozen=True, slots=True)
class Told:
    """What engines have done: of their tokens how late they were (as `Lateness` counts), and their machines' counts."""

    late: tuple[int, ...] = ()
    busy_s: float = 0.0
    answer_s: float = 0.0
    read: int = 0
    cached: int = 0
    written: int = 0

    def since(self, before: Told) -> Told:
        return self._with(before, -1)

    def plus(self, other: Told) -> Told:
        return self._with(other, 1)

    def _with(self, other: Told, sign: int) -> Told:
        longer = max(len(self.late), len(other.late))
        own, others = (told.late or (0,) * longer for told in (self, other))
        late = tuple(a + sign * b for a, b in zip(own, others, strict=True))
        names = [each.name for each in fields(self) if each.name != "late"]
        return Told(late, **{name: getattr(self, name) + sign * getattr(other, name) for name in names})


def late_ms(told: Iterable[Told], share: float = 0.99) -> float:
    """What this share of all tokens was late by at most, in ms; 0 where there were none."""
    everything = Told()
    for each in told:
        everything = everything.plus(each)
    return share_within(everything.late, share) or 0.0


class Lengths:
    """Lengths of prompts and answers between two bounds each, spread evenly however few are taken.

    By chance alone, twenty questions are a tenth more or less work than twenty others.
    """

    def __init__(self, prompts: tuple[int, int], answers: tuple[int, int]) -> None:
        self._prompts, self._answers, self._taken = prompts, answers, 0

    def take(self) -> tuple[int, int]:
        self._taken += 1
        shares = ((0.5 + self._taken * GOLDEN) % 1, (0.5 + self._taken * SILVER) % 1)
        prompt, answer = (
            round(low + share * (high - low))
            for (low, high), share in zip((self._prompts, self._answers), shares, strict=True)
        )
        return prompt, answer


@dataclass(slots=True)
class Window:
    """What came back within `window_s` from the instant `begin` on: an answer across an end by its share inside.

    Equally long answers come several at a time, so that whole ones would count a window's ends more than its speed.
    The window is over when each client has an answer that ended after it: the load stays full until then.
    """

    begin: float
    window_s: float
    clients: int
    answers: float = 0.0
    took_s: list[float] = field(default_factory=list[float])
    nodes: Counter[str] = field(default_factory=Counter[str])
    ends: list[float] = field(default_factory=list[float])
    failures: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    past: set[int] = field(default_factory=set[int])
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def end(self) -> float:
        return self.begin + self.window_s

    @property
    def per_s(self) -> float:
        return self.answers / self.window_s

    def note(self, client: int, sent: float, last: float, node: str) -> None:
        """A whole answer from `node`, from the request to its last byte."""
        inside_s = max(0.0, min(last, self.end) - max(sent, self.begin))
        self.answers += inside_s / (last - sent)
        if self.begin <= last <= self.end:
            self.took_s.append(last - sent)
            self.ends.append(last)
            self.nodes[node] += 1
        self.passed(client, last)

    def failed(self, client: int, now: float, why: str) -> None:
        self.failures.append((now, why))
        self.passed(client, now)

    def passed(self, client: int, at: float) -> None:
        if at >= self.end:
            self.past.add(client)
        if len(self.past) == self.clients:
            self.over.set()


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest of them that this share of all stays within."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def around(ends: Sequence[float], begin: float, killed: float, end: float) -> tuple[float, float, float]:
    """Answers/s before an instant, in the worst SPAN_S after it, and how long until three quarters are there again."""
    before = sum(begin <= at < killed for at in ends) / (killed - begin)

    def rate(since: float) -> float:
        return sum(since <= at < since + SPAN_S for at in ends) / SPAN_S

    starts = [killed + step / 4 for step in range(int(4 * (end - killed - SPAN_S)))]
    dip = min(map(rate, starts))
    low = starts[[rate(start) for start in starts].index(dip)]
    back = next((start for start in starts if start >= low and rate(start) >= 0.9 * 0.75 * before), end)
    return before, dip, max(0.0, back - killed) if dip < 0.9 * 0.75 * before else 0.0
