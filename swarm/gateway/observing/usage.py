"""What each key uses of this node: counted by UTC day, held against the key's limits, told to those who manage it.

`decide` says whether a request may begin. Requests a minute are those of the last sixty seconds; tokens a day are those
of answers given since midnight UTC, so a request that begins under that limit is answered whole. What counts is what a
client got: of a vote its winner, of several choices each, of an answer cut short what was made of it. A request is
counted when it comes, whatever becomes of it. Each node counts for itself: what it asks of peers, they do not count.

The names here are those of keys, never the keys, and there are only as many as there are keys. In memory only, unless
`usage_file.py` keeps it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Final, Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from swarm.errors import LimitReached
from swarm.gateway.http.access import KeyHolder, KeyLimits
from swarm.gateway.http.access_middleware import COUNTED, KEY_HOLDER
from swarm.gateway.observing.view import json_object

NO_KEY: Final = "no key"  # who carries none; no name in a key file has a space
MAX_DAYS: Final = 31
MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0

LimitName = Literal["requests", "tokens"]


@dataclass(slots=True)
class DayUsage:
    """One key on one day (`day`: as 2026-01-31). `requests` were let through, `refused` were not."""

    day: str
    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Read and made, which the limit is about."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """One key: its limits, and its days with the newest first.

    `last_minute`: how many of its requests began in the last sixty seconds, where that is limited.
    """

    key: str
    limits: KeyLimits
    last_minute: int | None = None
    days: tuple[DayUsage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageListing:
    """All keys, in the order in which they were given, and last what came without one."""

    object: Literal["list"]
    data: tuple[UsageEntry, ...]


# Whether a request may begin


@dataclass(frozen=True, slots=True)
class UsedNow:
    """What a key has used at one moment.

    `recent` are the moments of its requests in the last minute, in monotonic seconds, the oldest first.
    `day_left_s`: seconds until the day of `tokens_today` is over.
    """

    recent: deque[float]
    tokens_today: int
    day_left_s: float


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The limit that keeps a request from beginning, and the seconds until it does no longer: 1 at least."""

    what: LimitName
    again_in_s: int


def decide(now: float, used: UsedNow, limits: KeyLimits) -> Exceeded | None:
    """Whether a request at `now` (monotonic seconds) is one too many. Of two limits, the one that is over later."""
    exceeded: list[Exceeded] = []
    most = limits.requests_a_minute
    if most is not None:
        over = sum(1 for _ in takewhile(lambda moment: moment <= now - MINUTE_S, used.recent))
        if len(used.recent) - over >= most:
            exceeded.append(Exceeded("requests", _whole_s(used.recent[-most] + MINUTE_S - now)))
    if limits.tokens_a_day is not None and used.tokens_today >= limits.tokens_a_day:
        exceeded.append(Exceeded("tokens", _whole_s(used.day_left_s)))
    return max(exceeded, key=lambda one: one.again_in_s, default=None)


def _whole_s(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def exceeded_words(name: str, limits: KeyLimits, exceeded: Exceeded) -> str:
    """Which limit, its value, and when it is over."""
    if exceeded.what == "requests":
        return (
            f"the key {name!r} may ask {limits.requests_a_minute} requests a minute of this node, and has: "
            f"ask again in {exceeded.again_in_s} s"
        )
    return (
        f"the key {name!r} may use {limits.tokens_a_day} tokens a day of this node, and has: the day is over at "
        f"0:00 UTC, in {exceeded.again_in_s // 3600} h {exceeded.again_in_s % 3600 // 60} min"
    )


# Counting


@dataclass(slots=True)
class KeyCounts:
    """What one key has used: its days, the oldest first, and its last minute. `total` is since this node started."""

    holder: KeyHolder
    days: dict[str, DayUsage] = field(default_factory=dict[str, DayUsage])
    recent: deque[float] = field(default_factory=deque[float])
    total: DayUsage = field(default_factory=lambda: DayUsage(""))


class UsageBook:
    """What the keys of a node have used. `now` is Unix seconds, `clock` monotonic ones. For the event loop's thread."""

    def __init__(
        self,
        holders: Iterable[KeyHolder] = (),
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._clock = now, clock
        self._counts = {holder.name: KeyCounts(holder) for holder in (*holders, KeyHolder(NO_KEY))}
        self.changes = 0  # grows with each change, for whoever keeps it on a disk

    def account(self, holder: KeyHolder | None) -> Account:
        """That of one request with this holder's key; None: without one."""
        return Account(self, self._counts[NO_KEY if holder is None else holder.name])

    def begin(self, counts: KeyCounts) -> None:
        """Count one more request. Raises LimitReached, counted as refused, where it is one too many."""
        moment, limits = self._clock(), counts.holder.limits
        self.changes += 1
        day = self._today(counts)
        exceeded = decide(moment, self._used(counts), limits)
        if exceeded is not None:
            day.refused += 1
            counts.total.refused += 1
            words = exceeded_words(counts.holder.name, limits, exceeded)
            raise LimitReached(words, exceeded.what, exceeded.again_in_s)
        day.requests += 1
        counts.total.requests += 1
        if limits.requests_a_minute is not None:
            counts.recent.append(moment)

    def spend(self, counts: KeyCounts, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens of an answer that was given, on the day on which it ends; never less than none."""
        self.changes += 1
        for usage in (self._today(counts), counts.total):
            usage.prompt_tokens += max(0, prompt_tokens)
            usage.completion_tokens += max(0, completion_tokens)

    def limit_headers(self, counts: KeyCounts) -> dict[str, str]:
        """What is left, as OpenAI's clients read it; empty for a key without limits."""
        limits, used, moment = counts.holder.limits, self._used(counts), self._clock()
        headers: dict[str, str] = {}
        if (most := limits.requests_a_minute) is not None:
            reset_s = used.recent[0] + MINUTE_S - moment if used.recent else 0.0
            headers |= _limit_headers("requests", most, most - len(used.recent), reset_s)
        if (most := limits.tokens_a_day) is not None:
            headers |= _limit_headers("tokens", most, most - used.tokens_today, used.day_left_s)
        return headers

    def _used(self, counts: KeyCounts) -> UsedNow:
        oldest = self._clock() - MINUTE_S
        while counts.recent and counts.recent[0] <= oldest:
            counts.recent.popleft()
        return UsedNow(counts.recent, self._today(counts).tokens, DAY_S - self._now() % DAY_S)

    def _today(self, counts: KeyCounts) -> DayUsage:
        day = datetime.fromtimestamp(self._now(), UTC).date()
        name = day.isoformat()
        found = counts.days.get(name)
        if found is None:
            found = counts.days[name] = DayUsage(name)
            oldest = (day - timedelta(days=MAX_DAYS - 1)).isoformat()
            for old in [each for each in counts.days if each < oldest]:
                del counts.days[old]
            while len(counts.days) > MAX_DAYS:  # days to come: the clock was set back
                del counts.days[max(counts.days)]
        return found

    # Reading

    def entries(self) -> tuple[UsageEntry, ...]:
        """Every key that was given, used or not, and what came without one, if anything did."""
        oldest = self._clock() - MINUTE_S
        return tuple(
            UsageEntry(
                key=name,
                limits=counts.holder.limits,
                last_minute=None
                if counts.holder.limits.requests_a_minute is None
                else sum(moment > oldest for moment in counts.recent),
                days=tuple(copy_of(counts.days[day]) for day in sorted(counts.days, reverse=True)),
            )
            for name, counts in self._counts.items()
            if name != NO_KEY or counts.days
        )

    def by_name(self) -> dict[str, object]:
        """The entries as JSON objects, by their keys' names."""
        return {entry.key: json_object(entry) for entry in self.entries()}

    def totals(self) -> Mapping[str, DayUsage]:
        """What each key used since this node started."""
        return {name: counts.total for name, counts in self._counts.items() if name != NO_KEY or counts.days}

    def known_days(self) -> dict[str, list[DayUsage]]:
        """All days of all keys, to be kept."""
        return {name: [copy_of(day) for day in counts.days.values()] for name, counts in self._counts.items()}

    def take_days(self, kept: Mapping[str, Iterable[DayUsage]]) -> list[str]:
        """Go on from what an earlier start kept; the names that no key has now, whose days are left out."""
        today = datetime.fromtimestamp(self._now(), UTC).date()
        oldest, newest = (today - timedelta(days=MAX_DAYS - 1)).isoformat(), today.isoformat()
        for name, days in kept.items():
            if name in self._counts:
                known = self._counts[name].days
                known.update({day.day: day for day in days if oldest <= day.day <= newest and day.day not in known})
        return [name for name in kept if name not in self._counts]


def copy_of(usage: DayUsage) -> DayUsage:
    """As it is now."""
    return DayUsage(usage.day, usage.requests, usage.refused, usage.prompt_tokens, usage.completion_tokens)


def _limit_headers(what: LimitName, most: int, left: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(most),
        f"x-ratelimit-remaining-{what}": str(max(0, left)),
        f"x-ratelimit-reset-{what}": f"{max(0, math.ceil(reset_s))}s",
    }


class Account:
    """What one request adds to the counts of its key."""

    def __init__(self, book: UsageBook, counts: KeyCounts) -> None:
        self._book = book
        self._counts = counts

    def begin(self) -> None:
        """The request has come. Raises LimitReached for one too many."""
        self._book.begin(self._counts)

    def spend(self, prompt_tokens: int, completion_tokens: int = 0) -> None:
        """An answer was given, or what there is of it."""
        self._book.spend(self._counts, prompt_tokens, completion_tokens)

    def limit_headers(self) -> dict[str, str]:
        """What is left of its key's limits."""
        return self._book.limit_headers(self._counts)


ACCOUNT = web.RequestKey("account", Account)
USAGE = web.AppKey("usage", UsageBook)


def spend(request: web.Request, prompt_tokens: int, completion_tokens: int = 0) -> None:
    """Count tokens that were read and made for `request`, where it is a client's."""
    account = request.get(ACCOUNT)
    if account is not None:
        account.spend(prompt_tokens, completion_tokens)


class UsageKeeper:
    """Counts requests for work; `middleware` goes inside the access rules, `tell_limits` onto the answers' signal."""

    def __init__(self, book: UsageBook) -> None:
        self._book = book

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.get(COUNTED, False):
            account = request[ACCOUNT] = self._book.account(request.get(KEY_HOLDER))
            account.begin()
        return await handler(request)

    async def tell_limits(self, request: web.Request, response: web.StreamResponse) -> None:
        """For every answer, streams and refusals too, just before its headers go out."""
        account = request.get(ACCOUNT)
        if account is not None:
            response.headers.update(account.limit_headers())


class UsageCounters(Collector):
    """What each key used since the start, for Prometheus; as many labels as there are keys."""

    def __init__(self, book: UsageBook) -> None:
        self._book = book

    def collect(self) -> Iterator[Metric]:
        totals = self._book.totals()
        counted: dict[str, tuple[str, Callable[[DayUsage], int]]] = {
            "swarm_key_requests": ("Requests for work, by the key's name", lambda used: used.requests),
            "swarm_key_refused": ("Requests beyond a key's limits", lambda used: used.refused),
            "swarm_key_prompt_tokens": ("Prompt tokens of answers given", lambda used: used.prompt_tokens),
            "swarm_key_completion_tokens": ("Tokens of answers given", lambda used: used.completion_tokens),
        }
        for name, (text, number_of) in counted.items():
            family = CounterMetricFamily(name, text, labels=["key"])
            for key, used in totals.items():
                family.add_metric([key], number_of(used))
            yield family
