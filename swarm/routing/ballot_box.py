"""What has come in of one ballot so far, and what follows from it: plain state, which `ballot.py` feeds.

`BallotBox` knows candidates, failures, who is still out and who has not been asked yet. Its `Leader` is the voter of
whom a client sees something while the others vote. What a client gets where a vote has no answer is decided at the end.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol

from swarm.consensus.cascade import Cascade, Step, next_step
from swarm.consensus.judge import disputed
from swarm.consensus.options import MAX_VOTES, Ahead, Stop, StopRule, Strategy, StreamMode
from swarm.consensus.question import Question
from swarm.consensus.strategies import ZERO, Group, Place
from swarm.consensus.swarm_object import BallotStanding, OutstandingSeats, short_answers
from swarm.consensus.tally import Tally, is_settled, is_unanimous, lead_over_others, posterior_stops, tally, wanted_more
from swarm.consensus.verdict import StoppedBy, Verdict, decide
from swarm.consensus.waves import may_decide_alone, prefill_costs_more
from swarm.consensus.weights import EQUAL, VoterSource, VoterWeights
from swarm.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineDied,
    EngineFailed,
    NoConsensus,
    PeerFailed,
    SwarmError,
    Unavailable,
    UpstreamRefused,
)
from swarm.generation import GAVE_WAY, Candidate, Delta, Finish
from swarm.routing.peer_answers import OnEvent
from swarm.routing.policy import Batch, OwnVoters, ReplicaKey, Reseat, key_of, seated_as_planned, source_at
from swarm.routing.replica_client import Meter
from swarm.routing.resumption import AnswersDiffer, Replay, Resumption, ShownAnswer, goes_on_after, not_resumed

log = logging.getLogger(__name__)

AskJudge = Callable[[Sequence[Group]], Awaitable[Candidate]]
RunVoters = Callable[[Batch, OnEvent | None, Meter], AsyncGenerator[Candidate, None]]
LAST_PLACE = 2 * MAX_VOTES  # of a favourite: more batches than one a seat, each replaced, there are not
STOPS_THAT_SAVE = frozenset(
    {"unbeatable_lead", "posterior", "ahead", "out_of_reach", "agreed", "strongest", "first"}
)  # whoever has not answered is not needed


@dataclass(frozen=True, slots=True)
class Failure:
    """A batch that broke off; `missing` of its voters did not answer.

    With `resumes` its first one leads, and the client has a part of its answer: that voter alone is to say it again.
    """

    batch: Batch
    missing: int
    error: SwarmError
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Something that a batch sent."""

    batch: Batch
    item: Delta | Finish | Candidate


@dataclass(frozen=True, slots=True)
class Begun:
    """A voter has begun to answer: the request is one that can be answered, and a stream may say that it is."""


@dataclass(frozen=True, slots=True)
class BallotResult:
    """How the ballot ended. `shown` of the leader is what the client has seen; `leader` its answer, if it came in.

    `candidates` are everybody whose part is known, those that failed included; `resumed` says how the leader's answer
    went on elsewhere, where it did.
    """

    verdict: Verdict
    leader: Candidate | None
    shown: StreamMode = StreamMode.BUFFER
    candidates: tuple[Candidate, ...] = ()
    resumed: Resumption | None = None


class BallotObserver(Protocol):
    """Who follows a ballot beside the client that asked for it."""

    @property
    def is_watched(self) -> bool:
        """Whether it wants to know how the ballot stands: that is worked out only then."""
        ...

    def stands(self, standing: BallotStanding) -> None:
        """How it stands now."""
        ...

    def counted(self, result: BallotResult) -> None:
        """It has ended, whatever the client makes of the result."""
        ...


def nobody_watches() -> bool:
    """The ballot is nobody's business but the client's."""
    return False


@dataclass(frozen=True, slots=True)
class BallotCall:
    """What is asked of whom. `deadline` is a `time.monotonic()` instant.

    `batches` are asked at once; those held back for `later` when these cannot decide alone, and wherever `reseat` puts
    them then. With fewer than `min_votes` valid ballots the vote waits for more, and if none come its verdict is
    degraded; so is one on tool calls with less than `min_agreement`. `ask_judge` is asked about disputed answers.
    `replace` finds a batch for a lost one, given how many seats each party has or will have.
    With `stream_leader` the first batch's first voter's events are taken from its first word on; `live` of it is shown.
    With `progress`, and while it `is_watched`, there is news of the ballot.
    `strongest` are the models of the strongest seats: the vote is not over for them because others were quicker.
    `repeatable`: asked again it is to have the same outcome, so that little is left to who is how fast.
    In a `cascade` with a strong model that one alone is held back for `later`.
    `enough` votes end it where they are unanimous, and the rest is only asked where they are not; None: no number does.
    Where the leader's node is lost its answer goes on elsewhere, if it `resumes`.
    `favourite` is the model whose greedy answer goes before others where answers are otherwise alike: the strongest's.
    """

    question: Question
    wanted: int
    batches: tuple[Batch, ...]
    deadline: float
    run: RunVoters
    replace: Callable[[Failure, Mapping[str, int]], Batch | None]
    stream_leader: bool = False
    min_votes: int = 1
    live: StreamMode = StreamMode.LEADER
    later: tuple[Batch, ...] = ()
    reseat: Reseat = seated_as_planned
    weights: VoterWeights = EQUAL
    stop: Stop = StopRule.LEAD
    min_agreement: float | None = None
    ask_judge: AskJudge | None = None
    progress: bool = False
    is_watched: Callable[[], bool] = nobody_watches
    strongest: frozenset[str] = frozenset()
    repeatable: bool = False
    cascade: Cascade | None = None
    favourite: str | None = None
    enough: int | None = None
    resumes: bool = False

    @property
    def ahead(self) -> int | None:
        """By how many votes an answer has to lead for the vote to end; None where another rule ends it."""
        return self.stop.by if isinstance(self.stop, Ahead) else None


class BallotBox:
    """Candidates, failures, who is still out, and who has not been asked yet."""

    def __init__(self, call: BallotCall) -> None:
        self.call = call
        self.candidates: list[Candidate] = []
        self.failures: list[SwarmError] = []
        self.held = call.later
        self.asked = 0
        self.lead = Leader(call.batches[0] if call.stream_leader else None, call.live, call.resumes)
        self._out: Counter[ReplicaKey] = Counter()
        self._last_news: tuple[int, ...] | None = None
        self._replaced: set[bool] = set()  # whether who gives way, and who does not
        self._deadly = False
        self._gave_way = 0
        self._doubtful = False
        self._looked_at: tuple[int, int] | None = None
        self._nodes: dict[str, str] = {}
        self._sources: dict[ReplicaKey, VoterSource] = {}  # whose answers come from a place, by the model's name here
        self._seated: Counter[str] = Counter()
        self._peers: dict[str, str] = {}  # the party of each peer that was asked, by the node name of its candidates
        self._strangers: dict[str, str] = {}  # the same of those whom nobody invited
        self._voters: set[str] = set()
        self._lost: list[Candidate] = []
        self._counted: tuple[int, Tally] | None = None
        self._batches: list[Batch] = []
        self._own: set[ReplicaKey] = set()
        self._places: dict[str, Place] = {}
        self._answered: dict[int, list[float | None]] = {}  # the temperatures of those in, by the id of their batch
        for batch in call.batches:
            self._ask(batch)

    @property
    def outstanding(self) -> int:
        """Voters asked that have not answered."""
        return self._out.total()

    @property
    def is_over(self) -> bool:
        """Nobody is out, nobody will be asked, and no leader is waited for."""
        return not (self.outstanding or self.held or self.lead.pending)

    @property
    def _known(self) -> list[Candidate]:
        """Everybody whose part in the vote is known: candidates in order of arrival, then the lost."""
        return [*self.candidates, *self._lost]

    @property
    def counted(self) -> Tally:
        """The tally of everybody known, made once for each arrival."""
        known = self._known
        if self._counted is None or self._counted[0] != len(known):
            self._counted = len(known), tally(self.call.question, known, self.call.weights, self._places)
        return self._counted[1]

    @property
    def may_be_cut(self) -> bool:
        """Half of those asked (and `min_votes`) have answered: the rest gets a grace, not the whole deadline.

        Who gave way is not among them: it says nothing of how long an answer takes. Not while one of the strongest is
        waited for and none has answered. A repeatable vote waits for this node's own voters, whose lengths are all that
        makes them slow; only a peer may be frozen.
        """
        if self.held or self.lead.pending or self._strongest_is_out:
            return False
        if self.call.repeatable and any(self._out[place] for place in self._own):
            return False
        asked, answered = self.asked - self._gave_way, len(self.candidates) - self._gave_way
        return answered >= max(-(-asked // 2), min(self.call.min_votes, asked))

    @property
    def _strongest_is_out(self) -> bool:
        """One of the strongest has been asked and has not answered, and no other of them has."""
        strongest = self.call.strongest
        out = any(count and self._sources[place].model in strongest for place, count in self._out.items())
        return out and not any(candidate.model in strongest for candidate in self.candidates)

    def _ask(self, batch: Batch) -> None:
        self.asked += len(batch.samplings)
        self._seat(batch)

    def _seat(self, batch: Batch) -> None:
        replica = batch.replica
        self._batches.append(batch)
        if replica.local and not replica.upstream:
            self._own.add(key_of(replica))
        self._nodes[replica.node_id] = replica.node
        self._sources[key_of(replica)] = source_at(replica)
        self._seated[replica.party] += len(batch.samplings)
        if not replica.local:
            self._peers[replica.node] = replica.party
            if not replica.member:
                self._strangers[replica.node] = replica.party
        self._out[key_of(batch.replica)] += len(batch.samplings)

    def due(self, warm: frozenset[ReplicaKey], at_once: bool) -> tuple[Batch, ...]:
        """The batches to be asked now: those held back, once the first wave cannot decide alone.

        Where a voter of this ballot holds the prompt in its slot, another waits for it (it is then `warm`) if reading
        the prompt again would take longer; `at_once` ends all waiting.
        """
        state = (len(self.candidates), self.outstanding)
        if not self.held or (state == self._looked_at and not at_once):
            return ()
        self._looked_at = state
        if self._strong is not None:
            return self._due_in_the_cascade(warm, at_once)
        if self.call.ahead is not None:
            return self._due_in_the_race(self.call.ahead, warm, 0 if at_once else self.outstanding)
        if self.call.enough is not None and not at_once and self._is_unanimous:
            return self._due_of_the_first(self.call.enough, warm)
        if not (at_once or self._doubtful or not self.outstanding) and self._may_decide_alone():
            return ()
        self._doubtful = True
        seated = self._seated_anew(warm)
        now = tuple(batch for batch in seated if at_once or self._can_begin(batch, warm))
        self.held = tuple(batch for batch in seated if batch not in now)
        for batch in now:
            self._ask(batch)
        return now

    def _due_in_the_race(self, ahead: int, warm: frozenset[ReplicaKey], hoped_for: int) -> tuple[Batch, ...]:
        """The least of those held back that can bring an answer `ahead`, beside the votes `hoped_for`."""
        more = wanted_more(self.counted, ahead, hoped_for)
        if not more:
            return ()
        seated = self._seated_anew(warm)
        now, self.held = seated[:more], seated[more:]
        for batch in now:
            self._ask(batch)
        return now

    def _seated_anew(self, warm: frozenset[ReplicaKey]) -> tuple[Batch, ...]:
        """Those held back, each where it is best asked as things are now."""
        return self.call.reseat(self.held, OwnVoters(+self._out, warm, self._seated, frozenset(self._nodes)))

    @property
    def is_cascade(self) -> bool:
        """One model is asked only where the others do not agree."""
        return self._strong is not None

    @property
    def _strong(self) -> str | None:
        """The model that answers where the others do not agree."""
        return None if self.call.cascade is None else self.call.cascade.strong

    def _due_in_the_cascade(self, warm: frozenset[ReplicaKey], at_once: bool) -> tuple[Batch, ...]:
        """The strongest, once the others cannot agree any more, or have had their time."""
        if not at_once and self.outstanding and self._step_of_the_cascade() != "strongest":
            return ()
        now, self.held = self._seated_anew(warm), ()
        for batch in now:
            self._ask(batch)
        return now

    def _step_of_the_cascade(self) -> Step:
        assert self.call.cascade is not None
        threshold = self.call.cascade.threshold(self.counted.kind)
        return next_step(self.counted, self._sources_out(), threshold, self._strangers)

    def _end_of_the_cascade(self, strong: str) -> StoppedBy | None:
        """Whether the small ones agree, or the strongest, which has been asked, has answered."""
        if self.held:
            agreed = self.counted.votes >= self.call.min_votes and self._step_of_the_cascade() == "agreed"
            return "agreed" if agreed and self._is_in_these_words else None
        own = [candidate for candidate in self.candidates if candidate.model == strong]
        if own and tally(self.call.question, own).winner is not None:
            return "strongest"
        return None if self.outstanding else "all_in"

    @property
    def _is_unanimous(self) -> bool:
        """Nobody has contradicted, abstained or failed so far; maybe nobody has answered."""
        return not self._known or is_unanimous(self.counted)

    def _due_of_the_first(self, enough: int, warm: frozenset[ReplicaKey]) -> tuple[Batch, ...]:
        """As many of those held back as `enough` votes need."""
        more = enough - len(self.candidates) - self.outstanding
        if more <= 0:
            return ()
        seated = self._seated_anew(warm)
        now: list[Batch] = []
        for batch in seated:
            if sum(len(one.samplings) for one in now) < more and self._can_begin(batch, warm):
                now.append(batch)
        self.held = tuple(batch for batch in seated if batch not in now)
        for batch in now:
            self._ask(batch)
        return tuple(now)

    def _can_begin(self, batch: Batch, warm: frozenset[ReplicaKey]) -> bool:
        place = key_of(batch.replica)
        usages = [candidate.usage for candidate in self.candidates]
        if place in warm or not self._out[place]:
            return True
        if batch.gives_way:  # whoever comes meanwhile is not to wait for a second reading, which nobody asked for
            return False
        if not usages:
            return True
        longest = max(usage.completion_tokens for usage in usages)
        return not prefill_costs_more(max(usage.prompt_tokens for usage in usages), longest)

    def _may_decide_alone(self) -> bool:
        return may_decide_alone(
            self.counted,
            self._sources_out(),
            self._sources_held(),
            self.call.weights,
            posterior_too=self.call.stop == StopRule.POSTERIOR,
        )

    def _sources_out(self) -> list[VoterSource]:
        return [self._sources[place] for place, count in self._out.items() for _ in range(count)]

    def _sources_held(self) -> list[VoterSource]:
        return [source for batch in self.held for source in batch.sources]

    def take(self, report: Report, now_s: float = 0.0) -> Delta | Begun | None:
        """Count a report of this instant; returns what the client gets of it, if it is one of the leader's."""
        item = report.item
        if isinstance(item, Delta | Finish):
            return self.lead.take(report.batch, item, now_s)
        item = self._under_its_own_name(item.model_copy(update={"node_id": report.batch.replica.node_id}))
        self._out[key_of(report.batch.replica)] -= 1
        self._note_place(report.batch, item)
        self._answered.setdefault(id(report.batch), []).append(item.temperature)
        self.candidates.append(item)
        if item.error == GAVE_WAY:  # somebody waits where it voted: the vote goes on with what it has
            self._gave_way += 1
            self.held = () if self._strong is None else self.held
        self.lead.arrived(report.batch, item)
        return None

    def _note_place(self, batch: Batch, item: Candidate) -> None:
        """Which of answers that are otherwise alike goes first: the strongest model's greedy one.

        In a repeatable vote the seats and the words decide about the others as well, and not their names.
        """
        number = next(index for index, one in enumerate(self._batches) if one is batch)
        others = 0 if self.call.favourite is None else LAST_PLACE
        if item.model == self.call.favourite and item.temperature == 0:
            self._places[item.voter] = number, words_of(item)
        elif self.call.repeatable:
            self._places[item.voter] = others + number, words_of(item)
        else:
            self._places[item.voter] = others, ""

    def _under_its_own_name(self, candidate: Candidate) -> Candidate:
        """A slot that was free again answers a second seat of the same ballot: another answer, so another voter."""
        name, at, node = candidate.voter.partition("@")
        voter, turn = candidate.voter, 1
        while voter in self._voters:
            turn += 1
            voter = f"{name}#{turn}{at}{node}"
        self._voters.add(voter)
        return candidate if turn == 1 else candidate.model_copy(update={"voter": voter})

    def lose(self, failure: Failure, in_time: bool = True) -> Batch | None:
        """Count a failure; returns the batch to run instead: one a ballot, and where it comes `in_time`.

        Where votes give way, the one that does not is replaced in any case: it may be the only one that is not stopped.
        Where an engine ended over the request nobody else is asked, in this place or in another: those who have it may
        finish, and what they say decides.
        """
        if isinstance(failure.error, EngineDied):
            self._deadly, self.held = True, ()
        self._out[key_of(failure.batch.replica)] -= failure.missing
        self.failures.append(failure.error)
        log.log(logging.INFO if isinstance(failure.error, BadRequest) else logging.WARNING, "lost: %s", failure.error)
        self.lead.lost(failure.batch, failure.error)
        no_more = failure.batch.gives_way in self._replaced or self._deadly or not in_time
        unanswered = replace(failure, resumes=True) if self.lead.to_go_on else self._unanswered(failure)
        other = None if no_more else self.call.replace(unanswered, self._planned())
        replaced = 0
        if other is None and self.lead.to_go_on is not None:
            raise self.lead.to_go_on
        if other is not None:
            self.lead.passes_to(other)
            self._replaced.add(failure.batch.gives_way)
            replaced = len(other.samplings)
            self._seat(other)
        for _ in range(failure.missing - replaced):
            self._lost.append(self._empty_seat(failure))
        return other

    def _unanswered(self, failure: Failure) -> Failure:
        """The failure of those voters of its batch alone that have not answered."""
        batch, left = failure.batch, list(failure.batch.samplings)
        for temperature in self._answered.get(id(batch), ()):
            if left:
                left.remove(next((each for each in left if each.temperature == temperature), left[-1]))
        return replace(failure, batch=replace(batch, samplings=tuple(left)))

    def _planned(self) -> Mapping[str, int]:
        """The seats of each party, those held back included."""
        planned = Counter(self._seated)
        for batch in self.held:
            planned[batch.replica.party] += len(batch.samplings)
        return planned

    def _empty_seat(self, failure: Failure) -> Candidate:
        """A voter that was asked and never answered: the verdict counts and names it."""
        replica = failure.batch.replica
        seat = Candidate(
            voter=f"lost@{replica.node}",
            node=replica.node,
            node_id=replica.node_id,
            model=replica.model,
            error=str(failure.error),
        )
        return self._under_its_own_name(seat)

    def stop_reason(self) -> StoppedBy | None:
        """Why the ballot may end now: the race is won, or nobody outstanding can change the result."""
        if self.lead.pending:
            return None
        if self._strong is not None:
            return self._end_of_the_cascade(self._strong)
        if not self.outstanding and not self.held:
            return "all_in"
        counted = self.counted
        if self.call.question.strategy == Strategy.FIRST:
            return "first" if counted.groups else None
        if counted.votes < self.call.min_votes:
            return None
        if self.call.ahead is not None:
            return self._end_of_the_race(counted, self.call.ahead)
        if self.call.enough is not None and counted.votes >= self.call.enough and self._is_unanimous:
            return "agreed"
        if is_settled(counted, [*self._sources_out(), *self._sources_held()]):
            return "unbeatable_lead" if self._is_in_these_words else None
        return "posterior" if self.call.stop == StopRule.POSTERIOR and posterior_stops(counted) else None

    def _end_of_the_race(self, counted: Tally, ahead: int) -> StoppedBy | None:
        """Whether an answer is `ahead`, or none can be any more with all that are left."""
        lead = lead_over_others(counted)
        if lead >= ahead:
            return "ahead"
        left = self.outstanding + len(self._sources_held())
        return "out_of_reach" if max(lead, ZERO) + left < ahead else None

    @property
    def _is_in_these_words(self) -> bool:
        """Whoever is out would say the same as the winner at most, and not in the words that are given.

        Only a repeatable vote has to know that: the words of its first seat are given before any others.
        """
        if not (self.call.repeatable and self.outstanding) or self.counted.winner is None:
            return True
        first = self._batches[0]
        alone = len(first.samplings) == 1 or self.call.favourite is not None
        return alone and self._places[self.counted.winner.voter][0] == 0

    def news(self) -> BallotStanding | None:
        """How the ballot stands, where that is wanted and has changed since it was last asked for."""
        state = (len(self._known), self.asked, len(self.failures))
        if state == self._last_news or not (self.call.progress or self.call.is_watched()):
            return None
        self._last_news = state
        out = tuple(
            OutstandingSeats(self._nodes[place[0]], self._sources[place].model, seats)
            for place, seats in (+self._out).items()
        )
        return BallotStanding(self._verdict("all_in", final=False), short_answers(self.call.question, self._known), out)

    @property
    def disputed(self) -> tuple[Group, ...]:
        """The groups to be shown to a judge: where one is wanted, and no answer has over half the weight.

        None where an engine ended over the question: the judge would be asked it, too.
        """
        groups = () if self._deadly else self.counted.groups
        return groups if self.call.question.strategy == Strategy.JUDGE and disputed(groups) else ()

    def outcome(
        self, stopped_by: StoppedBy, wasted_tokens: int | None = None, judge: Candidate | None = None
    ) -> BallotResult:
        """The result, `judge` being the reply of whoever was shown the answers.

        Raises where no voter gave a candidate, and where the streamed leader was cut off.
        """
        if stopped_by == "deadline" and self.lead.pending:
            raise DeadlineExceeded("the answer was not complete by the request's deadline")
        if len(self.candidates) == self._gave_way:
            raise no_candidate(self.failures, self.asked, stopped_by == "deadline", bool(self._gave_way))
        verdict = self._verdict(stopped_by, wasted_tokens, judge)
        return BallotResult(verdict, self.lead.candidate, self.lead.shown, tuple(self._known), self.lead.resumed)

    def _verdict(
        self,
        stopped_by: StoppedBy,
        wasted_tokens: int | None = None,
        judge: Candidate | None = None,
        final: bool = True,
    ) -> Verdict:
        call = self.call
        unneeded = self.outstanding + len(self._sources_held())
        return decide(
            call.question,
            self._known,
            asked=self.asked,
            wanted=call.wanted,
            stopped_by=stopped_by,
            weights=call.weights,
            outstanding=self._sources_out(),
            min_votes=call.min_votes,
            min_agreement=call.min_agreement,
            ahead=call.ahead,
            judge=judge,
            saved=unneeded if stopped_by in STOPS_THAT_SAVE else 0,
            wasted_tokens=wasted_tokens,
            peers=self._peers,
            places=self._places,
            cascade=call.cascade,
            escalated=any(batch.replica.model == self._strong for batch in self._batches),
            final=final,
        )


def words_of(candidate: Candidate) -> str:
    """What stands for the words of an answer: the same for the same ones, whoever said them."""
    calls = [(call.name, call.arguments) for call in candidate.tool_calls]
    return blake2b(repr((candidate.text, calls)).encode(errors="surrogatepass"), digest_size=16).hexdigest()


class Leader:
    """Whose events are taken, what of them is shown, and whether the vote has to wait for the rest.

    `shown` is what the client has seen; `candidate` the leader's whole answer once it is in. One that `resumes` is said
    again where its node is lost, and held against what was taken of it (`resumption.py`); `resumed` says how that was,
    and `to_go_on` is the loss as long as nobody was found for it.
    """

    def __init__(self, batch: Batch | None, live: StreamMode = StreamMode.LEADER, resumes: bool = False) -> None:
        self._resumes = resumes
        self._taken = ShownAnswer()
        self._replay: Replay | None = None
        self._loss: tuple[str, SwarmError] | None = None  # at which node, and how
        self.to_go_on: SwarmError | None = None
        self.resumed: Resumption | None = None
        self._batch = batch
        self._live = live
        self._missing = 0 if batch is None else len(batch.samplings)
        self._begun = False
        self._is_next = False
        self._is_lost = False
        self.shown = StreamMode.BUFFER
        self.candidate: Candidate | None = None

    def is_in(self, batch: Batch) -> bool:
        """Whether it is the first voter of `batch`."""
        return batch is self._batch

    @property
    def pending(self) -> bool:
        """The client has the beginning of an answer whose end is not here: the vote waits for it."""
        return self.shown in (StreamMode.LEADER, StreamMode.WORDS) and self.candidate is None

    def take(self, batch: Batch, event: Delta | Finish, now_s: float = 0.0) -> Delta | Begun | None:
        """Take an event of `batch`'s first voter; what the client gets of it. Raises the loss where it is another's."""
        if batch is not self._batch:
            return None
        if isinstance(event, Delta) and self._live == StreamMode.WORDS:
            event = replace(event, tool_calls=())
        new = self._new_in(event, batch.replica.node, now_s)
        if new is None:
            return None
        event = new
        if isinstance(event, Finish):
            self._is_next = True
            return None
        if self._is_next or self.candidate is not None:  # a peer may say more than it has announced
            return None
        part = self._part_of(event)
        if part is not None:
            self.shown = self._live
        begins, self._begun = not self._begun, True
        return part or (Begun() if begins else None)

    def _new_in(self, event: Delta | Finish, node: str, now_s: float) -> Delta | Finish | None:
        """What of `event` was not taken before the leader was lost."""
        if self._replay is not None and self._loss is not None:
            lost, error = self._loss
            try:
                new = self._replay.new_in(event)
            except AnswersDiffer as differs:
                raise not_resumed(error, [f"{node} {differs.why}"]) from error
            if new is None:
                return None
            self._replay = None
            self.resumed = Resumption(lost, node, self._taken.chars, now_s - self._taken.last_s)
            event = new
        if self._resumes and isinstance(event, Delta):
            self._taken.add(event, now_s)
        return event

    def _part_of(self, event: Delta) -> Delta | None:
        match self._live:
            case StreamMode.LEADER:
                return event
            case StreamMode.WORDS:
                return event if event.text or event.reasoning else None
            case StreamMode.REASONING:
                return Delta(event.choice, reasoning=event.reasoning) if event.reasoning else None
            case StreamMode.BUFFER:
                return None

    def arrived(self, batch: Batch, candidate: Candidate) -> None:
        """A candidate of `batch` has come in; it is the leader's right after the leader's `Finish`.

        Raises PeerFailed where it was the last, and none of them was the leader's: what was shown has no end.
        """
        if batch is not self._batch:
            return
        self._missing -= 1
        if self._is_next:
            self.candidate = candidate
            self._is_next = False
        elif self.pending and not self._missing:
            raise PeerFailed(batch.replica.node, "did not end the answer that it was leading with")

    def lost(self, batch: Batch, error: SwarmError) -> None:
        """`batch` has failed. Raises `error` where the client has half an answer that cannot go on: never a splice."""
        if batch is not self._batch or self.candidate is not None:
            return
        if self.pending:
            if not self._resumes or not goes_on_after(error) or self._replay is not None:
                raise error
            self.to_go_on, self._loss = error, (batch.replica.node, error)
        self._batch, self._is_lost = None, True

    def passes_to(self, batch: Batch) -> None:
        """`batch` was found for one that failed: it leads where the leader is lost, and nothing was shown yet.

        Not one that gives way: it may be stopped in mid-answer, and what was shown would have no end. Where something
        was, the leader is one that says it again.
        """
        if self.to_go_on is not None:
            self.to_go_on, self._replay = None, self._taken.replay()
            self._batch, self._is_next, self._is_lost = batch, False, False
            self._missing = len(batch.samplings)
        elif self._is_lost and not batch.gives_way and self.shown == StreamMode.BUFFER:
            self._batch, self._is_next, self._is_lost = batch, False, False
            self._missing = len(batch.samplings)

    def begins_no_more(self) -> None:
        """Everybody has been stopped: the first words of an answer that has no end are not shown."""
        if self.shown == StreamMode.BUFFER:
            self._live = StreamMode.BUFFER


def no_candidate(failures: Sequence[SwarmError], asked: int, late: bool, gave_way: bool = False) -> SwarmError:
    """The error for a client when nobody answered: an engine ended over it, time ran out, its own mistake, or why.

    `gave_way`: there are voters who were stopped for others, and who may have time for it soon.
    """
    for error in failures:
        if isinstance(error, EngineDied):
            return error
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
    if gave_way:
        return Unavailable(f"{reasons or 'no voter answered'}; the others gave way to other requests: try again")
    if len(busy) == len(failures):
        return Unavailable(reasons, retry_after_s=min(busy, default=1))
    return EngineFailed(f"every voter failed: {reasons}")


def no_consensus(shortfall: str | None) -> NoConsensus:
    """A degraded verdict as the error that `swarm.on_no_quorum: error` asks for."""
    return NoConsensus(
        f"no consensus: {shortfall or 'too few voters answered'} (swarm.on_no_quorum is error: ask again, or set it to "
        "best_effort for the best answer there is)"
    )
