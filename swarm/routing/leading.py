"""The leader of a ballot: the voter of whom a client sees something while the others vote, and what it has seen.

Plain state, fed by `ballot_box.py`. Who leads, and what of it may be shown, is decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from swarm.consensus.options import Kind, Strategy, StreamMode
from swarm.consensus.question import Question
from swarm.consensus.weights import log_odds
from swarm.errors import PeerFailed, SwarmError
from swarm.generation import Candidate, Delta, Finish, Frozen, Usage
from swarm.registry.weights_file import Measurements
from swarm.routing.replicas import Replica
from swarm.routing.seating import Batch

Strength = Callable[[Replica], float]

COUNTING = (Strategy.MAJORITY, Strategy.WEIGHTED)  # chosen where there are answers to count, not prose to read


@dataclass(frozen=True, slots=True)
class Begun:
    """A voter has begun to answer: the request is one that can be answered, and a stream may say that it is."""


class Lead:
    """Whose events are heard, what of them is shown, and whether the vote has to wait for the rest.

    `shown` is what the client has seen; `candidate` the leader's whole answer once it is in.
    """

    def __init__(self, batch: Batch | None, live: StreamMode = StreamMode.LEADER) -> None:
        self._batch = batch
        self._live = live
        self._missing = 0 if batch is None else len(batch.samplings)
        self._begun = False
        self._is_next = False
        self.shown = StreamMode.BUFFER
        self.candidate: Candidate | None = None

    def is_in(self, batch: Batch) -> bool:
        """Whether it is the first voter of `batch`."""
        return batch is self._batch

    @property
    def pending(self) -> bool:
        """The client has the beginning of an answer whose end is not here: the vote waits for it."""
        return self.shown == StreamMode.LEADER and self.candidate is None

    def hear(self, batch: Batch, event: Delta | Finish) -> Delta | Begun | None:
        """Take an event of `batch`'s first voter; what the client gets of it."""
        if batch is not self._batch:
            return None
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

    def _part_of(self, event: Delta) -> Delta | None:
        match self._live:
            case StreamMode.LEADER:
                return event
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
        """`batch` has failed. Raises `error` where the client has half an answer: an honest error, never a splice."""
        if batch is not self._batch or self.candidate is not None:
            return
        if self.pending:
            raise error
        self._batch = None

    def passes_to(self, batch: Batch | None) -> None:
        """`batch` was found for one that failed: it leads if the leader was in that one, and nothing was shown yet."""
        if self._batch is None and self.candidate is None and self.shown == StreamMode.BUFFER:
            self._batch, self._is_next = batch, False
            self._missing = 0 if batch is None else len(batch.samplings)

    def begins_no_more(self) -> None:
        """Everybody has been stopped: the first words of an answer that has no end are not shown."""
        if self.shown == StreamMode.BUFFER:
            self._live = StreamMode.BUFFER


def stream_mode(question: Question, mode: StreamMode | None) -> StreamMode:
    """What of the leader's answer may be shown, where `mode` is asked for (None: by what is asked).

    An answer that would be acted on (tools, JSON, a number that is asked for) is shown only when it is decided.
    """
    if question.strategy == Strategy.FIRST:
        return StreamMode.BUFFER
    if mode == StreamMode.BUFFER or mode == StreamMode.REASONING:
        return mode
    if question.tools or question.wants_json or question.wants_final_answer:
        return StreamMode.BUFFER
    return StreamMode.BUFFER if mode is None and question.strategy in COUNTING else StreamMode.LEADER


def measured_strength(measurements: Measurements, question: Question, models: Iterable[str]) -> Strength:
    """How good each of `models` was measured to be at what `question` asks for; all alike where one was not."""
    kind = _expected_kind(question)
    counts = {model: measurements.get(model, {}).get(kind) for model in models}
    odds = {model: log_odds(measured) for model, measured in counts.items() if measured is not None}
    return lambda replica: odds.get(replica.model, 0.0) if len(odds) == len(counts) else 0.0


def _expected_kind(question: Question) -> Kind:
    if question.tools:
        return "tool_calls"
    if question.wants_json:
        return "json"
    return "number" if question.wants_final_answer else "text"


def strongest_first(seats: Sequence[Replica], strength: Strength = lambda _: 0.0) -> tuple[Replica, ...]:
    """The strongest voter, who leads, before the others: by what was measured, and the model's size.

    Of equals the one who knows the conversation, then this node's.
    """

    def key(place: int) -> tuple[float, int, bool, bool]:
        replica = seats[place]
        return -strength(replica), -(replica.params or 0), not replica.warm, not replica.local

    first = min(range(len(seats)), key=key)
    return (seats[first], *seats[:first], *seats[first + 1 :])


class LeaderStep(Frozen):
    """One step of a leader's answer as a peer tells it, a line between its candidates; `ended` right before its own.

    Calls are not told: where tools are offered nothing but thoughts is shown.
    """

    text: str = ""
    reasoning: str = ""
    logprobs: JsonValue = None
    ended: bool = False

    @staticmethod
    def of(event: Delta | Finish) -> LeaderStep:
        if isinstance(event, Finish):
            return LeaderStep(ended=True)
        return LeaderStep(text=event.text, reasoning=event.reasoning, logprobs=event.logprobs)

    def event(self) -> Delta | Finish:
        """What was told. The usage comes with the candidate."""
        if self.ended:
            return Finish(0, "stop", Usage())
        return Delta(0, self.text, self.reasoning, logprobs=self.logprobs)


class LeaderLine(Frozen):
    """A line of `POST /federation/v1/candidates` that is no candidate."""

    leader: LeaderStep


LEADER_LINE = b'{"leader":'  # how such a line begins: no candidate has this field
