"""Which promises a history breaks. Pure: it is tested with histories that it must flag."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from tests.faults.history import Account, End, Footprint, Mark, Ping, Question, View
from tests.faults.schedule import PROCESS_FAULTS, Fault

MARGIN_S: Final = 2.0  # beyond a request's deadline: until a node and a test on a busy machine have noticed
LIVEZ_S: Final = 0.75  # 0.25 is promised, and shown; other programs and tests use these cores too
LIVEZ_TIMES_CALM: Final = 4.0  # on a machine that is too busy for LIVEZ_S even while nothing is wrong
RSS_SLACK_BYTES: Final = 48 * 2**20  # arenas of the allocator and llama.cpp's prompt cache, which come and stay
DESCRIPTORS_SLACK: Final = 12  # connections kept open to peers, and the test's own
THREADS_SLACK: Final = 8  # pools of threads fill up as they are needed

COMPLETE_STREAMS: Final = ((Mark.CONTENT, Mark.FINISH, Mark.DONE), (Mark.FINISH, Mark.DONE))
BROKEN_STREAMS: Final = ((Mark.CONTENT, Mark.ERROR), (Mark.ERROR,))


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What really was wrong, and when: `healed_at` is when a started node was ready again."""

    fault: Fault
    victims: tuple[str, ...]
    began_at: float
    healed_at: float

    def overlaps(self, account: Account) -> bool:
        return self.began_at <= account.ended_at and account.started_at <= self.healed_at


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that was not kept."""

    promise: str
    how: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.how}"


def broken_promises(
    history: Iterable[Account], reference: Mapping[Question, str], disturbances: Sequence[Disturbance]
) -> list[Broken]:
    """Everything in `history` that the matrix does not allow; `reference` has the words of each answer."""
    accounts = tuple(history)
    broken = [Broken("each request is one request", how) for how in _numbered_twice(accounts)]
    for account in accounts:
        about = [disturbance for disturbance in disturbances if disturbance.overlaps(account)]
        own = {d.fault for d in about if account.node in d.victims and d.fault in PROCESS_FAULTS}
        broken += [
            *_told_once(account, own),
            *_in_time(account, own),
            *_the_right_words(account, reference),
            *_answered(account, own, bool(about)),
        ]
    return broken


def _numbered_twice(accounts: Sequence[Account]) -> list[str]:
    numbers = [account.number for account in accounts]
    return [f"two ends of request {number}" for number in sorted(set(numbers)) if numbers.count(number) > 1]


def _told_once(account: Account, own: AbstractSet[Fault]) -> Iterator[Broken]:
    """A stream that is complete says so once, at its end; one that is not never does.

    Only a process that is gone, or stands still, may say [DONE] and then not end the connection.
    """
    if account.stream:
        marks = account.marks
        if account.end is End.COMPLETE and marks not in COMPLETE_STREAMS:
            yield Broken("a request ends exactly once", f"{account}; it had {_words(marks)}")
        if account.end is End.ERROR and marks and marks not in BROKEN_STREAMS:
            yield Broken("an error ends a stream, and no [DONE]", f"{account}; it had {_words(marks)}")
        if account.end in (End.CUT, End.LATE) and Mark.DONE in marks and not own & {Fault.KILL, Fault.FREEZE}:
            yield Broken("a request ends exactly once", f"{account}; it had {_words(marks)}")
    if account.end is End.ERROR and not account.code:
        yield Broken("an error is explicit", f"{account}; it names no code")


def _in_time(account: Account, own: AbstractSet[Fault]) -> Iterator[Broken]:
    """A frozen node can tell nobody anything; every other request has an end by its deadline."""
    late = account.ended_at - account.started_at > account.deadline_s + MARGIN_S or account.end is End.LATE
    if late and Fault.FREEZE not in own:
        yield Broken("a request ends by its deadline", f"{account}; its deadline was {account.deadline_s:g} s")


def _the_right_words(account: Account, reference: Mapping[Question, str]) -> Iterator[Broken]:
    """A whole answer is the reference; a part of one is its beginning, whoever broke off."""
    wanted = reference[account.question]
    if account.end is End.COMPLETE and account.text != wanted:
        yield Broken("no token is lost or doubled", f"{account}; it said {account.text!r} instead of {wanted!r}")
    if account.end is not End.COMPLETE and not wanted.startswith(account.text):
        yield Broken("no splice after the first byte", f"{account}; {account.text!r} does not begin {wanted!r}")
    if len(account.ids) > 1:
        yield Broken("no splice after the first byte", f"{account}; its chunks are of {sorted(account.ids)}")


def _answered(account: Account, own: AbstractSet[Fault], disturbed: bool) -> Iterator[Broken]:
    """Who asks a node that is well gets an answer; only what a failing peer had begun may end with an error."""
    if account.end is End.COMPLETE or own & {Fault.KILL, Fault.FREEZE}:
        return
    if Fault.STOP in own and account.end is not End.CUT:  # it refuses what is new, and finishes what it has begun
        return
    lost_in_the_middle = account.end is End.ERROR and account.first_byte_at is not None and disturbed
    if not lost_in_the_middle:
        yield Broken("nodes that are well answer", str(account))


def _words(marks: Iterable[Mark]) -> str:
    return ", ".join(marks) or "nothing"


# Figures


def answered_share(history: Collection[Account]) -> float:
    """Of all requests, how many were complete."""
    return sum(account.end is End.COMPLETE for account in history) / len(history)


def agreed_at(views: Iterable[View], nodes: Collection[str], since: float) -> float | None:
    """When, from `since` on, all `nodes` would ask all `nodes`, and did so until the end; None if they never did."""
    latest: dict[str, frozenset[str] | None] = {}
    agreed: float | None = None
    for view in sorted(views, key=lambda view: view.at):
        latest[view.node] = view.names
        if view.at < since:
            continue
        if all(latest.get(node) == frozenset(nodes) for node in nodes):
            agreed = view.at if agreed is None else agreed
        else:
            agreed = None
    return agreed


def late_agreement(views: Iterable[View], nodes: Collection[str], since: float, within_s: float) -> list[Broken]:
    """Whether all views agree for good within that time."""
    agreed = agreed_at(views, nodes, since)
    if agreed is not None and agreed - since <= within_s:
        return []
    how = "never" if agreed is None else f"after {agreed - since:.1f} s, and {within_s:g} s are allowed"
    return [Broken("views agree after healing", how)]


def flaps(views: Iterable[View], node: str, peer: str) -> int:
    """How often `peer` left the view of `node` or came into it."""
    seen = [peer in view.names for view in views if view.node == node and view.names is not None]
    return sum(before != after for before, after in itertools.pairwise(seen))


def p99_s(pings: Iterable[Ping]) -> float:
    """The 99th percentile; a ping that failed took for ever."""
    times = sorted(math.inf if ping.took_s is None else ping.took_s for ping in pings)
    return times[max(0, math.ceil(0.99 * len(times)) - 1)]


def of_survivors(pings: Iterable[Ping], disturbances: Sequence[Disturbance]) -> list[Ping]:
    """The pings of nodes whose own process was left alone at the time, and which were not far away from the tests."""
    telling = [d for d in disturbances if d.fault in (*PROCESS_FAULTS, Fault.DELAY)]

    def alone(ping: Ping) -> bool:
        return not any(ping.node in d.victims and d.began_at - LIVEZ_S <= ping.at <= d.healed_at for d in telling)

    return [ping for ping in pings if alone(ping)]


def slow_pulse(pings: Sequence[Ping], calm: Sequence[Ping]) -> list[Broken]:
    """Survivors answer /livez in time, by the clock or, on a machine that never does, by what is usual there."""
    bound_s = max(LIVEZ_S, LIVEZ_TIMES_CALM * p99_s(calm))
    if p99_s(pings) <= bound_s:
        return []
    return [Broken("survivors' /livez", f"p99 {p99_s(pings) * 1e3:.0f} ms, and {bound_s * 1e3:.0f} ms are allowed")]


def outgrown(node: str, before: Footprint, after: Footprint) -> list[Broken]:
    """What a node holds more than before, beyond what may stay."""
    limits = (
        ("memory", after.rss_bytes - before.rss_bytes, RSS_SLACK_BYTES),
        ("descriptors", after.descriptors - before.descriptors, DESCRIPTORS_SLACK),
        ("threads", after.threads - before.threads, THREADS_SLACK),
    )
    return [
        Broken(f"{what} back to the baseline", f"{node} holds {more} more than before, and {slack} are allowed")
        for what, more, slack in limits
        if more > slack
    ]
