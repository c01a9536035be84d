"""One ballot in progress: ask the voters, tally on every arrival, stop when the result stands, cancel the rest.

The effects beside `swarm.consensus` and `ballot_box.py`: all judgement is there, all tasks and clocks are here. Where
answers are disputed, one more voter may be asked which is the best (`consensus/judge.py` has the question).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from federation.tasks import cancel_and_wait
from swarm.consensus.judge import judge_request
from swarm.consensus.strategies import Group
from swarm.consensus.swarm_object import BallotStanding
from swarm.consensus.verdict import StoppedBy
from swarm.consensus.waves import GRACE_SHARE, patience_s, worth_retrying
from swarm.errors import EngineDied, EngineFailed, SwarmError
from swarm.generation import Candidate, Delta, Finish, GenerationRequest
from swarm.routing.ballot_box import BallotBox, BallotCall, BallotResult, Begun, Failure, Report, RunVoters
from swarm.routing.poison_pills import RequestContent
from swarm.routing.policy import Batch, ReplicaKey, key_of
from swarm.routing.replica_client import Meter, ReplicaClient
from swarm.routing.replicas import Replica

log = logging.getLogger(__name__)

MIN_GRACE_S = 0.1  # what the voters beyond the quorum get at least: jitter of a network and of a busy machine
MIN_PATIENCE_S = 0.05  # what a late first wave gets at least before the rest of the voters are asked beside it
CASCADE_PATIENCE_S = 0.5  # ... where asking the rest is what is to be saved
MAX_UNREAD = 1024  # reports not yet read (a slow client); beyond it the voters wait, and the engine behind them


class Arrivals:
    """The batches' tasks and the one queue they report to."""

    def __init__(self, run: RunVoters, most_unread: int) -> None:
        self._run = run
        self._queue: asyncio.Queue[Report | Failure] = asyncio.Queue(most_unread)
        self._tasks: set[asyncio.Task[None]] = set()
        self._meters: list[tuple[ReplicaKey, Meter]] = []
        self.stopped = False  # whether nothing but what is in the queue will come

    def start(self, batch: Batch, leads: bool = False) -> None:
        """Run `batch`; with `leads`, its first voter's events are reported too."""
        meter = Meter(len(batch.samplings))
        self._meters.append((key_of(batch.replica), meter))
        task = asyncio.create_task(self._follow(batch, leads, meter), name=f"voters at {batch.replica.node}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def warm(self) -> frozenset[ReplicaKey]:
        """Where a voter that is ready has left the prompt in its slot."""
        return frozenset(place for place, meter in self._meters if meter.left_its_prompt)

    @property
    def in_sight(self) -> bool:
        """Everybody whose answer is missing is seen to generate."""
        return not any(meter.knows_nothing for _, meter in self._meters)

    async def _follow(self, batch: Batch, leads: bool, meter: Meter) -> None:
        async def report(event: Delta | Finish) -> None:
            await self._queue.put(Report(batch, event))

        try:
            async with aclosing(self._run(batch, report if leads else None, meter)) as answers:
                async for candidate in answers:
                    meter.answered()
                    await self._queue.put(Report(batch, candidate))
        except SwarmError as error:
            await self._queue.put(Failure(batch, meter.missing, error))
        except Exception as error:
            log.exception("a voter at %s broke", batch.replica.node)
            await self._queue.put(Failure(batch, meter.missing, EngineFailed(f"internal error: {error!r}")))

    async def next(self, until: float, last: bool = True) -> Report | Failure | None:
        """The next report; None after the monotonic instant `until`, when what came in by then has been read.

        Where it is the `last` such instant, nobody is waited for beyond it.
        """
        left_s = until - time.monotonic()
        if left_s <= 0 and last:
            await self.cancel()  # nothing more comes in, so the queue runs dry
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(max(left_s, 0)):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def cancel(self) -> None:
        """Stop every voter that still runs, and wait until each has ended."""
        self.stopped = True
        tasks = list(self._tasks)
        await cancel_and_wait(*tasks)

    def wasted_tokens(self) -> int | None:
        """What is known to have been generated for nothing: parts of answers, and answers that came too late.

        None where only peers have cut answers short: they send whole ones only.
        """
        late = 0
        while not self._queue.empty():
            report = self._queue.get_nowait()
            if isinstance(report, Report) and isinstance(report.item, Candidate):
                late += report.item.usage.completion_tokens
        known = late + sum(meter.unfinished_tokens for _, meter in self._meters)
        return None if not known and any(meter.knows_nothing for _, meter in self._meters) else known


class Patience:
    """Until when a ballot waits: `with_first_wave` before the rest is asked all the same, and `at_all`."""

    def __init__(self, deadline: float, min_grace_s: float) -> None:
        self._min_grace_s = min_grace_s
        self.at_all = self._deadline = deadline
        self._started = self._asked = time.monotonic()
        self.with_first_wave = (self._started + deadline) / 2  # by then others are asked, even with nothing in
        self._pace_s = 0.0  # what the answers of an earlier wave took

    @property
    def allows_a_retry(self) -> bool:
        return worth_retrying(self._started, time.monotonic(), self._deadline)

    def asked_more(self, box: BallotBox) -> None:
        """Another wave has begun; where more may follow, it has as much time as the first had, of what is left."""
        self._asked = time.monotonic()
        if box.held:
            self.with_first_wave = (self._asked + self._deadline) / 2
        self._limit(box)

    def arrived(self, box: BallotBox, in_sight: bool) -> None:
        """An answer has come in, and with it an idea of how long the others take, who may be `in_sight`."""
        if not box.held:
            self._limit(box)
            return
        now = time.monotonic()
        self._pace_s = now - self._asked
        late_s = max(MIN_PATIENCE_S, patience_s(self._pace_s, len(box.candidates), box.asked, in_sight))
        if box.is_cascade:  # lengths vary, and a call of the strongest costs more than a wait
            late_s = max(CASCADE_PATIENCE_S, patience_s(self._pace_s, len(box.candidates), box.asked, in_sight=True))
        self.with_first_wave = min(self.with_first_wave, now + late_s)

    def _limit(self, box: BallotBox) -> None:
        """Once enough have answered, the others get half as long again as it took, or as an earlier wave took."""
        if box.may_be_cut:
            now = time.monotonic()
            until = self._asked + (1 + GRACE_SHARE) * max(self._pace_s, now - self._asked)
            self.at_all = min(self.at_all, max(until, now + self._min_grace_s))


async def hold_ballot(
    call: BallotCall, *, min_grace_s: float = MIN_GRACE_S, most_unread: int = MAX_UNREAD
) -> AsyncGenerator[Delta | Begun | BallotStanding | BallotResult, None]:
    """Yield what is shown of the leader and news of the ballot as they come, then one outcome. Closing it stops all."""
    box, patience, arrivals = BallotBox(call), Patience(call.deadline, min_grace_s), Arrivals(call.run, most_unread)
    stopped_by: StoppedBy | None = None
    at_once = False
    try:
        for batch in call.batches:
            arrivals.start(batch, leads=box.lead.is_in(batch))
        while stopped_by is None:
            for batch in box.due(arrivals.warm, at_once):
                arrivals.start(batch)
                patience.asked_more(box)
            at_once = False
            if (news := box.news()) is not None:
                yield news
            if box.is_over:
                stopped_by = box.stop_reason()
                continue
            until = call.deadline if box.lead.pending else patience.at_all
            early = bool(box.held) and patience.with_first_wave < until
            report = await arrivals.next(patience.with_first_wave if early else until, last=not early)
            if arrivals.stopped:
                box.lead.begins_no_more()
            if report is None:
                at_once = True
                stopped_by = None if early else "deadline"
            elif isinstance(report, Failure):
                other = box.lose(report, in_time=patience.allows_a_retry)
                if other is not None:
                    arrivals.start(other, leads=box.lead.is_in(other))
                stopped_by = box.stop_reason()
            else:
                shown = box.take(report, time.monotonic())
                if shown is not None:
                    yield shown
                elif isinstance(report.item, Candidate):
                    stopped_by = box.stop_reason()
                    patience.arrived(box, arrivals.in_sight)
    finally:
        await arrivals.cancel()
    if (news := box.news()) is not None:
        yield news  # the last: nobody generates on while a slow reader takes it
    judge = await call.ask_judge(box.disputed) if call.ask_judge is not None and box.disputed else None
    yield box.outcome(stopped_by, arrivals.wasted_tokens(), judge)


def best_judge(replicas: Sequence[Replica]) -> Replica:
    """The strongest model, here before elsewhere, no upstream or failing peer while there are others; the names."""
    return min(replicas, key=lambda r: (r.upstream, r.troubled, -(r.params or 0), not r.local, r.node_id, r.model))


async def judgement(
    client: ReplicaClient, judge: Replica, request: GenerationRequest, groups: Sequence[Group], deadline: float
) -> Candidate:
    """What `judge` says of the answers in `groups`; a failure is a candidate with its error, and the vote stands."""
    question = judge_request(request, groups)
    failed = Candidate(voter=f"judge@{judge.node}", node=judge.node, model=judge.model)
    said = failed.model_copy(update={"error": "no answer came"})
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            async with aclosing(client.candidates(judge, question, 1, deadline)) as answers:
                async for candidate in answers:  # to its end: who is left early has not been seen to answer
                    said = candidate
        return said
    except TimeoutError:
        error = "the request's deadline passed"
    except SwarmError as failure:
        error = str(failure)
        if isinstance(failure, EngineDied):  # who asks again would have a judge asked again
            client.pills.died(RequestContent.of(request), judge.node, failure.refused_for_s)
    log.warning("the judge at %s failed, the vote stands: %s", judge.node, error)
    return failed.model_copy(update={"error": error})
