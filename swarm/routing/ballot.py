"""One ballot in progress: ask the voters, tally on every arrival, stop when the result stands, cancel the rest.

The effects beside `swarm.consensus` and `ballot_box.py`: all judgement is there, all tasks and clocks are here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from swarm.consensus.ballots import SamplingChange
from swarm.consensus.verdict import StoppedBy
from swarm.errors import EngineFailed, SwarmError
from swarm.generation import Candidate, Delta, Finish
from swarm.routing.ballot_box import BallotBox, BallotCall, Batch, Failure, Outcome, Report, RunVoters
from swarm.routing.leading import Begun
from swarm.routing.policy import Assignment

log = logging.getLogger(__name__)

MIN_GRACE_S = 1.0  # what the voters beyond the quorum get at least
GRACE_SHARE = 0.5  # ... and as a share of the time taken so far
MAX_UNREAD = 1024  # reports not yet read (a slow client); beyond it the voters wait, and the engine behind them


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
        self.stopped = False  # whether nothing but what is in the queue will come

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
        """The next report; None after the monotonic instant `until`, when what came in by then has been read."""
        left_s = until - time.monotonic()
        if left_s <= 0:
            await self.cancel()  # nothing more comes in, so the queue runs dry
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(max(left_s, 0)):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def cancel(self) -> None:
        """Stop every voter that still runs, and wait until each has been told."""
        self.stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hold_ballot(call: BallotCall) -> AsyncGenerator[Delta | Begun | Outcome, None]:
    """Yield what is shown of the leader as it comes, then exactly one outcome. Closing it stops all voters."""
    started = time.monotonic()
    box = BallotBox(call)
    arrivals = Arrivals(call.run)
    try:
        for batch in call.batches:
            arrivals.start(batch, leads=box.lead.is_in(batch))
        limit = call.deadline
        stopped_by: StoppedBy | None = None
        while stopped_by is None:
            report = await arrivals.next(call.deadline if box.lead.pending else limit)
            if arrivals.stopped:
                box.lead.begins_no_more()
            if report is None:
                stopped_by = "deadline"
            elif isinstance(report, Failure):
                other = box.lose(report)
                if other is not None:
                    arrivals.start(other, leads=box.lead.is_in(other))
                stopped_by = box.stop_reason()
            else:
                shown = box.take(report)
                if shown is not None:
                    yield shown
                elif isinstance(report.item, Candidate):
                    stopped_by = box.stop_reason()
                    if box.may_be_cut:
                        now = time.monotonic()
                        limit = min(limit, now + max(MIN_GRACE_S, GRACE_SHARE * (now - started)))
    finally:
        await arrivals.cancel()
    yield box.outcome(stopped_by)
