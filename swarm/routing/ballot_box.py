"""What has come in of one ballot so far, and what follows from it. Plain state: `ballot.py` feeds it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from swarm.consensus.ballots import SamplingChange
from swarm.consensus.question import Question
from swarm.consensus.tally import lead_is_unbeatable, tally
from swarm.consensus.verdict import StoppedBy, Verdict, decide
from swarm.errors import BadRequest, DeadlineExceeded, EngineFailed, SwarmError, Unavailable, UpstreamRefused
from swarm.generation import Candidate, Delta, Finish
from swarm.routing.leading import Begun, Lead, Live
from swarm.routing.replicas import Replica

log = logging.getLogger(__name__)

OnEvent = Callable[[Delta | Finish], Awaitable[None]]
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
    """How the ballot ended. `shown` of the leader is what the client has seen; `leader` its answer, if it came in."""

    verdict: Verdict
    leader: Candidate | None
    shown: Live = "nothing"


@dataclass(frozen=True, slots=True)
class BallotCall:
    """What is asked of whom. `deadline` is a `time.monotonic()` instant; `replace` finds a batch for a lost one.

    With fewer than `min_votes` valid ballots the vote waits for more, and if none come its verdict is degraded.
    With `stream_leader` the first batch's first voter is heard from its first word on; `live` of it is shown.
    """

    question: Question
    wanted: int
    batches: tuple[Batch, ...]
    deadline: float
    run: RunVoters
    replace: Callable[[Failure], Batch | None]
    stream_leader: bool = False
    min_votes: int = 1
    live: Live = "answer"

    @property
    def asked(self) -> int:
        return sum(len(batch.samplings) for batch in self.batches)


class BallotBox:
    """Candidates, failures and who is still out."""

    def __init__(self, call: BallotCall) -> None:
        self.call = call
        self.candidates: list[Candidate] = []
        self.failures: list[SwarmError] = []
        self.outstanding = call.asked
        self.lead = Lead(call.batches[0] if call.stream_leader else None, call.live)
        self._replaced = False
        self._voters: set[str] = set()
        self._lost: list[Candidate] = []

    @property
    def _heard(self) -> list[Candidate]:
        """Everybody whose part in the vote is known: candidates in order of arrival, then the lost."""
        return [*self.candidates, *self._lost]

    @property
    def may_be_cut(self) -> bool:
        """Half of those asked (and `min_votes`) have answered: the rest gets a grace, not the whole deadline."""
        enough = max(-(-self.call.asked // 2), min(self.call.min_votes, self.call.asked))
        return len(self.candidates) >= enough and not self.lead.pending

    def take(self, report: Report) -> Delta | Begun | None:
        """Count a report; returns what the client gets of it, if it is one of the leader's."""
        item = report.item
        if isinstance(item, Delta | Finish):
            return self.lead.hear(report.batch, item)
        item = self._under_its_own_name(item)
        self.outstanding -= 1
        self.candidates.append(item)
        self.lead.arrived(report.batch, item)
        return None

    def _under_its_own_name(self, candidate: Candidate) -> Candidate:
        """A slot that was free again answers a second seat of the same ballot: another answer, so another voter."""
        name, at, node = candidate.voter.partition("@")
        voter, turn = candidate.voter, 1
        while voter in self._voters:
            turn += 1
            voter = f"{name}#{turn}{at}{node}"
        self._voters.add(voter)
        return candidate if turn == 1 else candidate.model_copy(update={"voter": voter})

    def lose(self, failure: Failure) -> Batch | None:
        """Count a failure; returns the batch to run instead. One replacement a ballot."""
        self.outstanding -= failure.missing
        self.failures.append(failure.error)
        log.log(logging.INFO if isinstance(failure.error, BadRequest) else logging.WARNING, "lost: %s", failure.error)
        self.lead.lost(failure.batch, failure.error)
        other = None if self._replaced else self.call.replace(failure)
        replaced = 0
        if other is not None:
            self.lead.passes_to(other)
            self._replaced = True
            replaced = len(other.samplings)
            self.outstanding += replaced
        for _ in range(failure.missing - replaced):
            self._lost.append(self._empty_seat(failure))
        return other

    def _empty_seat(self, failure: Failure) -> Candidate:
        """A voter that was asked and never answered: the verdict counts and names it."""
        replica = failure.batch.replica
        seat = Candidate(voter=f"lost@{replica.node}", node=replica.node, model=replica.model, error=str(failure.error))
        return self._under_its_own_name(seat)

    def stop_reason(self) -> StoppedBy | None:
        """Why the ballot may end now: the race is won, or nobody outstanding can change the result."""
        if self.lead.pending:
            return None
        if not self.outstanding:
            return "all_in"
        counted = tally(self.call.question, self._heard)
        if self.call.question.strategy == "first" and counted.groups:
            return "first"
        if counted.votes < self.call.min_votes:
            return None
        return "unbeatable_lead" if lead_is_unbeatable(counted, float(self.outstanding)) else None

    def outcome(self, stopped_by: StoppedBy) -> Outcome:
        """The result. Raises where no voter gave a candidate, and where the streamed leader was cut off."""
        if stopped_by == "deadline" and self.lead.pending:
            raise DeadlineExceeded("the answer was not complete by the request's deadline")
        if not self.candidates:
            raise no_candidate(self.failures, self.call.asked, late=stopped_by == "deadline")
        call = self.call
        verdict = decide(call.question, self._heard, asked=call.asked, wanted=call.wanted, stopped_by=stopped_by)
        if verdict.votes < call.min_votes and verdict.quorum and call.question.strategy != "first":
            verdict = replace(verdict, quorum=False, degraded=True, agreement=None)
        return Outcome(verdict, self.lead.candidate, self.lead.shown)


def no_candidate(failures: Sequence[SwarmError], asked: int, late: bool) -> SwarmError:
    """What to tell a client when nobody answered: time ran out, or its own mistake, or why each voter failed."""
    reasons = "; ".join(dict.fromkeys(str(error) for error in failures))
    if late:
        also = f" ({reasons})" if reasons else ""
        return DeadlineExceeded(f"none of the {asked} voters answered by the request's deadline{also}")
    for error in failures:
        if isinstance(error, BadRequest):
            return error
    if failures and all(isinstance(error, UpstreamRefused) for error in failures):
        return failures[0]  # its status and its words are the best that there is to say
    busy = [error.retry_after_s for error in failures if isinstance(error, Unavailable)]
    if len(busy) == len(failures):
        return Unavailable(reasons, retry_after_s=min(busy, default=1))
    return EngineFailed(f"every voter failed: {reasons}")
