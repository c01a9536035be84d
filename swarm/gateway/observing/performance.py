"""How quickly this node's requests were answered in the last hour, by minutes: for each node that answered, and model.

Only what clients of this node asked counts: what it answers for a peer is counted by that peer. Every voter of a vote
is a request to its node. A minute's times to the first token are kept until the minute is over, then only their median.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from swarm.generation import GAVE_WAY, Candidate
from swarm.routing.replicas import Replica

MINUTE_S: Final = 60
MAX_MINUTES: Final = 60
MAX_SERIES: Final = 200  # pairs of node and model; what comes beyond them is told together
MAX_TIMES: Final = 512  # to first tokens, of one series in one minute; the first ones stand for the rest
OTHERS: Final = "others"  # for the node and the model of what is told together
SAMPLE_S: Final = 5.0  # between two looks at the queue

SeriesKey = tuple[str, str]
"""The name of a node, and that of a model."""


@dataclass(frozen=True, slots=True)
class PerformanceSeries:
    """One model on one node; a number for each of the minutes.

    `first_token_ms` are medians, null where no answer's beginning was seen. `tokens_per_s` are tokens by the time that
    their answers took, reading the prompt included; null where nothing was answered.
    """

    node: str
    model: str
    requests: tuple[int, ...]
    errors: tuple[int, ...]
    first_token_ms: tuple[float | None, ...]
    tokens_per_s: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PerformanceView:
    """The last hour. `minutes`: Unix seconds at which each began, the oldest first, the one that runs included.

    `waiting`: the longest queue that was seen in each.
    """

    minutes: tuple[int, ...]
    waiting: tuple[int, ...]
    series: tuple[PerformanceSeries, ...]


@dataclass(slots=True)
class PlaceMinute:
    """What one place did in one minute."""

    requests: int = 0
    errors: int = 0
    tokens: int = 0
    took_s: float = 0.0
    times_ms: list[float] = field(default_factory=list[float])
    median_ms: float | None = None

    @property
    def first_token_ms(self) -> float | None:
        return round(statistics.median(self.times_ms), 1) if self.times_ms else self.median_ms

    @property
    def tokens_per_s(self) -> float | None:
        return round(self.tokens / self.took_s, 2) if self.tokens and self.took_s > 0 else None

    def close(self) -> None:
        """The minute is over."""
        self.median_ms, self.times_ms = self.first_token_ms, []


@dataclass(slots=True)
class MinuteOfAll:
    """One minute, `number` minutes after 1970."""

    number: int
    waiting: int = 0
    places: dict[SeriesKey, PlaceMinute] = field(default_factory=dict[SeriesKey, PlaceMinute])


class Performance:
    """The last hour of this node's requests; an `AnswerListener`.

    `now` is Unix seconds: a clock that is set back changes nothing that is kept.
    """

    def __init__(self, now: Callable[[], float] = time.time, most_series: int = MAX_SERIES) -> None:
        self._now = now
        self._most_series = most_series
        self._minutes: list[MinuteOfAll] = []
        self._known: dict[SeriesKey, int] = {}  # those told of by name, with their last minutes

    def answered(self, replica: Replica, first_s: float, took_s: float, tokens: int) -> None:
        """A single answer is complete."""
        self._answer(replica.node, replica.model, tokens, took_s)
        self.began(replica.node, replica.model, first_s)

    def failed(self, replica: Replica) -> None:
        """A single answer was not to be had there."""
        self._failure(replica.node, replica.model)

    def began(self, node: str, model: str, first_token_s: float) -> None:
        """An answer showed its first token, so long after it was asked for."""
        minute = self._minute_of(node, model)
        if len(minute.times_ms) < MAX_TIMES:
            minute.times_ms.append(first_token_s * 1000)

    def _answer(self, node: str, model: str, tokens: int, took_s: float) -> None:
        minute = self._minute_of(node, model)
        minute.requests += 1
        if took_s > 0:
            minute.tokens += tokens
            minute.took_s += took_s

    def _failure(self, node: str, model: str) -> None:
        minute = self._minute_of(node, model)
        minute.requests += 1
        minute.errors += 1

    def voted(self, candidates: Iterable[Candidate]) -> None:
        """A vote is over: each of its voters was asked. Who gave way had no part in it."""
        for candidate in candidates:
            if candidate.error == GAVE_WAY:
                continue
            if candidate.error is not None:
                self._failure(candidate.node, candidate.model)
            else:
                tokens, took_s = candidate.usage.completion_tokens, candidate.elapsed_ms / 1000
                self._answer(candidate.node, candidate.model, tokens, took_s)

    def queued(self, waiting: int) -> None:
        """So many requests wait at this moment."""
        minute = self._minute()
        minute.waiting = max(minute.waiting, waiting)

    def _minute(self) -> MinuteOfAll:
        number = int(self._now() // MINUTE_S)
        if not self._minutes or number > self._minutes[-1].number:
            if self._minutes:
                for place in self._minutes[-1].places.values():
                    place.close()
            self._minutes.append(MinuteOfAll(number))
            while self._minutes[0].number <= number - MAX_MINUTES:
                self._minutes.pop(0)
            oldest = number - MAX_MINUTES
            self._known = {place: last for place, last in self._known.items() if last > oldest}
        return self._minutes[-1]

    def _minute_of(self, node: str, model: str) -> PlaceMinute:
        minute, place = self._minute(), (node, model)
        if place not in self._known and len(self._known) >= self._most_series:
            place = (OTHERS, OTHERS)
        else:
            self._known[place] = minute.number
        found = minute.places.get(place)
        if found is None:
            found = minute.places[place] = PlaceMinute()
        return found

    def look(self) -> PerformanceView:
        """The last hour until now, minutes in which nothing was asked included."""
        newest = self._minute().number
        numbers = range(max(self._minutes[0].number, newest - MAX_MINUTES + 1), newest + 1)
        by_number = {minute.number: minute for minute in self._minutes}
        nothing = PlaceMinute()
        minutes = [by_number.get(number) or MinuteOfAll(number) for number in numbers]
        places = dict.fromkeys(place for minute in minutes for place in minute.places)
        series: list[PerformanceSeries] = []
        for place in sorted(places, key=lambda one: (one == (OTHERS, OTHERS), one)):
            of_place = [minute.places.get(place, nothing) for minute in minutes]
            series.append(
                PerformanceSeries(
                    node=place[0],
                    model=place[1],
                    requests=tuple(one.requests for one in of_place),
                    errors=tuple(one.errors for one in of_place),
                    first_token_ms=tuple(one.first_token_ms for one in of_place),
                    tokens_per_s=tuple(one.tokens_per_s for one in of_place),
                )
            )
        return PerformanceView(
            minutes=tuple(number * MINUTE_S for number in numbers),
            waiting=tuple(minute.waiting for minute in minutes),
            series=tuple(series),
        )


def sampling_the_queue(
    performance: Performance, waiting: Callable[[], int], every_s: float = SAMPLE_S
) -> Callable[[web.Application], AsyncGenerator[None]]:
    """For an application's `cleanup_ctx`: looks at how many requests are `waiting` while it runs."""

    async def look() -> None:
        while True:
            performance.queued(waiting())
            await asyncio.sleep(every_s)

    async def running(_: web.Application) -> AsyncGenerator[None]:
        task = asyncio.create_task(look(), name="looks at the queue")
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return running


PERFORMANCE = web.AppKey("performance", Performance)
