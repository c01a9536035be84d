"""A vote that a node holds, as the commands read it: updates while it runs, then the result with the winning answer.

Both are the node's `swarm` object (docs/swarm-object.md). A node of another version may send more fields or fewer:
those that are missing get a default that claims nothing. All texts come from models and peers; here they become single
lines without control characters.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from federation.printable_text import clean_line, cut
from swarm.commands.node_client import NodeApi, post_stream
from swarm.errors import SwarmError
from swarm.generation import Frozen, JsonObject

DEFAULT_VOTES = 5  # what a node asks by itself where votes are wanted
MAX_COUNT = 10**9  # of voters, groups, weights: anything above it is none
MAX_PARTS = 256  # voters in one vote; a node asks at most 128
MAX_LINE_CHARS = 400  # of a text before it is cleaned: nodes send half of that, no terminal shows more
MAX_SHOWN_COLUMNS = 200  # of a lone answer in the list of voters, as of those that nodes shorten

Line = Annotated[str, AfterValidator(lambda text: clean_line(text[:MAX_LINE_CHARS]))]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class VoterPart(Frozen):
    """One voter's part. Voters whose answers agree share a `group` number, None: it cast no vote.

    `answer` is a short form of what it said, known only from updates.
    """

    voter: Line
    model: Line = ""
    group: Count | None = None
    weight: Annotated[float, Field(ge=0, le=MAX_COUNT)] = 0.0
    tokens: int = 0
    ms: int = 0
    abstained: Line | None = None
    answer: Line = ""


class PendingSeats(Frozen):
    """Voters of one model on one node that have not answered."""

    node: Line
    model: Line = ""
    seats: Count = 1


class LeftOutModel(Frozen):
    """A model with no part in the vote, and why."""

    model: Line
    nodes: Annotated[tuple[Line, ...], Field(max_length=MAX_PARTS)] = ()
    why: Line = ""


class CascadePart(Frozen):
    """What became of a cascade, as far as it is shown."""

    strong: Line | None = None
    asked: bool = False
    agreement: float | None = None
    threshold: float | None = None
    measured: bool = False
    why_not: Line | None = None


class VoteState(Frozen):
    """How a vote stands or ended. `saved`: planned voters that were never asked, or cancelled."""

    strategy: Line
    kind: Line = ""
    votes: int = 0
    asked: int = 0
    wanted: int = 0
    agreement: float | None = None
    similarity: float | None = None
    stopped_by: Line | None = None
    quorum: bool = False
    degraded: bool = False
    winner: Line | None = None
    coordinator: Line = ""
    elapsed_ms: int = 0
    total_completion_tokens: int = 0
    saved: int | None = None
    wasted_tokens: int | None = None
    weights: Line | None = None
    shortfall: Line | None = None
    outcome: Line | None = None
    why: Line | None = None
    left_out: Annotated[tuple[LeftOutModel, ...], Field(max_length=MAX_PARTS)] = ()
    judge: Line | None = None
    cascade: CascadePart | None = None
    candidates: Annotated[tuple[VoterPart, ...], Field(max_length=MAX_PARTS)] = ()
    out: Annotated[tuple[PendingSeats, ...], Field(max_length=MAX_PARTS)] = ()
    final: bool = True

    @property
    def seats_out(self) -> int:
        return sum(seats.seats for seats in self.out)

    @property
    def groups(self) -> list[list[VoterPart]]:
        """The voters of each answer, the winner's first."""
        found: dict[int, list[VoterPart]] = {}
        for part in self.candidates:
            if part.group is not None:
                found.setdefault(part.group, []).append(part)
        return [found[group] for group in sorted(found)]


def read_state(raw: JsonValue) -> VoteState:
    """What a node's `swarm` object says. Raises SwarmError where it is unreadable."""
    try:
        return VoteState.model_validate(raw)
    except ValidationError as error:
        raise SwarmError(f"what the node says of the vote is unreadable: {error.errors()[0]['msg']}") from error


def with_answers(final: JsonObject, last: JsonObject | None, answer: str) -> JsonObject:
    """The result with each voter's short answer and who had not answered, which only the updates before it say.

    Without any update there was no vote: the one answer is the winner's.
    """
    answers: dict[str, JsonValue] = {str(final.get("winner")): answer}
    if last is not None:
        answers = {str(candidate.get("voter")): candidate.get("answer", "") for candidate in _objects(last)}
    shown: list[JsonValue] = [
        {**candidate, "answer": answers[voter]} if (voter := str(candidate.get("voter"))) in answers else candidate
        for candidate in _objects(final)
    ]
    return {**final, "candidates": shown, "out": [] if last is None else last.get("out", [])}


def _objects(account: JsonObject) -> list[JsonObject]:
    candidates = account.get("candidates")
    return [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """What to ask, and how to vote on it; None leaves it to the node, but that it is to hold a vote."""

    question: str
    model: str = "swarm"
    system: str | None = None
    votes: int | None = None
    strategy: str | None = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def body(self) -> JsonObject:
        """The body of a chat completion request. The answer is not streamed during the vote, but sent at its end."""
        system: list[JsonObject] = [] if self.system is None else [{"role": "system", "content": self.system}]
        shown = None if self.strategy == "single" else "buffer"  # a lone answer streams in one way only
        votes = DEFAULT_VOTES if self.votes is None and self.strategy in (None, "auto") else self.votes
        swarm: JsonObject = {"votes": votes, "strategy": self.strategy, "progress": True, "stream": shown}
        body: JsonObject = {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": self.question}],
            "stream": True,
            "swarm": {name: value for name, value in swarm.items() if value is not None},
            "seed": self.seed,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        return {name: value for name, value in body.items() if value is not None}


@dataclass(frozen=True, slots=True)
class VoteUpdate:
    """How the vote stands. `raw` is the node's own object, with fields that this version does not know."""

    state: VoteState
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class VoteResult:
    """How the vote ended, and the winning answer, whole."""

    state: VoteState
    raw: JsonObject
    answer: str


def hold_vote(api: NodeApi, request: VoteRequest) -> Generator[VoteUpdate | VoteResult]:
    """The updates, then exactly one result. Closing it cancels the vote. Raises SwarmError with the remedy."""
    words: list[str] = []
    final: JsonObject | None = None
    last: JsonObject | None = None
    with closing(post_stream(api, "/v1/chat/completions", request.body())) as events:
        for event in events:
            words += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
            swarm: JsonObject = event.get("swarm") or {}
            ballot = swarm.get("ballot")
            if isinstance(ballot, dict):
                last = ballot
                yield VoteUpdate(read_state(ballot), ballot)
            elif swarm:
                final = swarm
    if final is None:
        raise SwarmError(
            f"{api.url} ended its answer without the vote's result: is it a node of Local Swarm, and still running?"
        )
    answer = winning_words(final) or "".join(words)
    raw = with_answers(final, last, cut(clean_line(answer), MAX_SHOWN_COLUMNS))
    yield VoteResult(read_state(raw), raw, answer)


def winning_words(final: JsonObject) -> str | None:
    """The winner's answer where it is not the one that was streamed: the vote chose another than the leader's."""
    message = final.get("winner_message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else None
