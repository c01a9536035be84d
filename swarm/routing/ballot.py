"""One ballot in progress: ask the voters, tally on every arrival, stop when the result stands, cancel the rest.

The effects beside `swarm.consensus`: all judgement is there, all tasks and clocks are here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from swarm.consensus.ballots import SamplingChange
from swarm.consensus.question import Question
from swarm.consensus.tally import lead_is_unbeatable, tally
from swarm.consensus.verdict import StoppedBy, Verdict, decide
from swarm.errors import BadRequest, DeadlineExceeded, EngineFailed, SwarmError
from swarm.generation import Candidate, Delta, Finish
from swarm.routing.policy import Assignment
from swarm.routing.replicas import Replica
from swarm.routing.voters import OnEvent

log = logging.getLogger(__name__)

MIN_GRACE_S = 1.0  # what the voters beyond the quorum get at least
GRACE_SHARE = 0.5  # ... and as a share of the time taken so far
MAX_UNREAD = 1024  # reports not yet read (a slow client); beyond it the voters wait, and the engine behind them

RunVoters = Callable[[Replica, Sequence[SamplingChange], OnEvent | None], AsyncGenerator[Candidate, None]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Voters of one replica that run together: same temperature, one prefill."""

    replica: Replica
    samplings: tuple[SamplingChange, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A batch that broke off; `missing` of its voters did not answer."""

    batch: Batch
    missing: int
    error: SwarmError


@dataclass(frozen=True, slots=True)
class Report:
    """Something that a batch sent."""

    batch: Batch
    item: Delta | Finish | Candidate


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the ballot ended. `leader` is the answer that was streamed live, if one was."""

    verdict: Verdict
    leader: Candidate | None


@dataclass(frozen=True, slots=True)
class BallotCall:
    """What is asked of whom. `deadline` is a `time.monotonic()` instant; `replace` finds a batch for a lost one."""

    question: Question
    wanted: int
    batches: tuple[Batch, ...]
    deadline: float
    run: RunVoters
    replace: Callable[[Failure], Batch | None]
    stream_leader: bool = False

    @property
    def asked(self) -> int:
        return sum(len(batch.samplings) for batch in self.batches)


def batches_of(assignments: Sequence[Assignment], samplings: Sequence[SamplingChange]) -> tuple[Batch, ...]:
    """Deal the samplings out; where a replica gets several temperatures it runs one batch for each."""
    dealt = iter(samplings)
    batches: list[Batch] = []
    for assignment in assignments:
        mine = itertools.islice(dealt, assignment.count)
        for _, same in itertools.groupby(mine, key=lambda sampling: sampling.temperature):
            batches.append(Batch(assignment.replica, tuple(same)))
    return tuple(batches)


class Arrivals:
    """The batches' tasks and the one queue they report to."""

    def __init__(self, run: RunVoters) -> None:
        self._run = run
        self._queue: asyncio.Queue[Report | Failure] = asyncio.Queue(MAX_UNREAD)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, batch: Batch, leads: bool = False) -> None:
        """Run `batch`; with `leads`, its first voter's events are reported too."""
        task = asyncio.create_task(self._follow(batch, leads), name=f"voters at {batch.replica.node}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, batch: Batch, leads: bool) -> None:
        missing = len(batch.samplings)

        async def hear(event: Delta | Finish) -> None:
            await self._queue.put(Report(batch, event))

        try:
            async with aclosing(self._run(batch.replica, batch.samplings, hear if leads else None)) as answers:
                async for candidate in answers:
                    missing -= 1
                    await self._queue.put(Report(batch, candidate))
        except SwarmError as error:
            await self._queue.put(Failure(batch, missing, error))
        except Exception as error:
            log.exception("a voter at %s broke", batch.replica.node)
            await self._queue.put(Failure(batch, missing, EngineFailed(f"internal error: {error!r}")))

    async def next(self, until: float) -> Report | Failure | None:
        """The next report; None when the monotonic instant `until` has come."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def cancel(self) -> None:
        """Stop every voter that still runs, and wait until each has been told."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class BallotBox:
    """What has come in so far. Plain state; `hold_ballot` feeds it."""

    def __init__(self, call: BallotCall) -> None:
        self.call = call
        self.candidates: list[Candidate] = []
        self.outstanding = call.asked
        self.refusals: list[BadRequest] = []
        self.leader: Candidate | None = None
        self.leader_events = 0
        self._leader_is_next = False
        self._leads = call.batches[0] if call.stream_leader else None
        self._replaced = False

    @property
    def quorum(self) -> int:
        """The least number of candidates that may decide before the deadline: half of those asked."""
        return -(-self.call.asked // 2)

    @property
    def leader_pending(self) -> bool:
        return self._leads is not None and self.leader is None

    def take(self, report: Report) -> Delta | None:
        """Count a report; returns the event to stream on, if it is one of the leader's."""
        item = report.item
        if isinstance(item, Delta):
            self.leader_events += 1
            return item
        if isinstance(item, Finish):
            self._leader_is_next = True
            return None
        self.outstanding -= 1
        self.candidates.append(item)
        if self._leader_is_next and report.batch is self._leads:
            self.leader = item
            self._leader_is_next = False
        return None

    def lose(self, failure: Failure) -> Batch | None:
        """Count a failure; returns the batch to run instead. One replacement a ballot."""
        self.outstanding -= failure.missing
        log.warning("voter lost: %s", failure.error)
        if isinstance(failure.error, BadRequest):
            self.refusals.append(failure.error)
        if failure.batch is self._leads and self.leader is None:
            if self.leader_events:
                raise failure.error  # the client has half an answer: an honest error, never a splice
            self._leads = None
        other = None if self._replaced else self.call.replace(failure)
        if other is not None:
            self._replaced = True
            self.outstanding += len(other.samplings)
        return other

    def stop_reason(self) -> StoppedBy | None:
        """Why the ballot may end now: the race is won, or nobody outstanding can change the result."""
        if self.leader_pending:
            return None
        if not self.outstanding:
            return "all_in"
        counted = tally(self.call.question, self.candidates)
        if self.call.question.strategy == "first" and counted.groups:
            return "first"
        return "unbeatable_lead" if lead_is_unbeatable(counted, float(self.outstanding)) else None

    def outcome(self, stopped_by: StoppedBy) -> Outcome:
        """The result. Raises the voters' own refusal if there is no candidate for that reason."""
        if not self.candidates and self.refusals:
            raise self.refusals[0]
        if stopped_by == "deadline" and (self.leader_events and self.leader is None):
            raise DeadlineExceeded("the answer was not complete by the request's deadline")
        call = self.call
        verdict = decide(call.question, self.candidates, asked=call.asked, wanted=call.wanted, stopped_by=stopped_by)
        return Outcome(verdict, self.leader)


async def hold_ballot(call: BallotCall) -> AsyncGenerator[Delta | Outcome, None]:
    """Yield the leader's deltas as they come (if asked to), then exactly one outcome. Closing it stops all voters."""
    started = time.monotonic()
    box = BallotBox(call)
    arrivals = Arrivals(call.run)
    try:
        for batch in call.batches:
            arrivals.start(batch, leads=call.stream_leader and batch is call.batches[0])
        limit = call.deadline
        stopped_by: StoppedBy | None = None
        while stopped_by is None:
            report = await arrivals.next(limit)
            if report is None:
                stopped_by = "deadline"
            elif isinstance(report, Failure):
                other = box.lose(report)
                if other is not None:
                    arrivals.start(other)
                stopped_by = box.stop_reason()
            else:
                delta = box.take(report)
                if delta is not None:
                    yield delta
                elif isinstance(report.item, Candidate):
                    stopped_by = box.stop_reason()
                    if len(box.candidates) >= box.quorum and not box.leader_pending:
                        now = time.monotonic()
                        limit = min(limit, now + max(MIN_GRACE_S, GRACE_SHARE * (now - started)))
    finally:
        await arrivals.cancel()
    yield box.outcome(stopped_by)
