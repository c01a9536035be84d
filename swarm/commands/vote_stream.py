"""A vote held by a node, as it comes: moments of the ballot, then its end with the winning answer.

A node's account of a vote as the commands read it: the `swarm` object, of the end or of a moment before it.

Another version of the program may send more fields, or fewer: what is unknown has a default that claims nothing. All
texts come from models and peers, and are made lines that a terminal only shows.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from federation.printable_text import clean_line
from swarm.commands.node_client import NodeApi, post_stream
from swarm.commands.output import cut
from swarm.errors import SwarmError
from swarm.generation import Frozen, JsonObject

MAX_COUNT = 10**9  # of voters, groups, weights: anything above it is none
MAX_PARTS = 256  # voters and places in one account; a ballot has at most 128
MAX_LINE_CHARS = 400  # of a text before it is cleaned: nodes send half of that, no terminal shows more

Line = Annotated[str, AfterValidator(lambda text: clean_line(text[:MAX_LINE_CHARS]))]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class VoterPart(Frozen):
    """One voter's part. `answer` is short, and known only where the vote was watched."""

    voter: Line
    model: Line = ""
    group: Count | None = None
    weight: Annotated[float, Field(ge=0, le=MAX_COUNT)] = 0.0
    tokens: int = 0
    ms: int = 0
    abstained: Line | None = None
    answer: Line = ""


class SeatsStillOut(Frozen):
    """Voters of one model on one node that have not answered."""

    node: Line
    model: Line = ""
    seats: Count = 1


class VoteAccount(Frozen):
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
    judge: Line | None = None
    candidates: Annotated[tuple[VoterPart, ...], Field(max_length=MAX_PARTS)] = ()
    out: Annotated[tuple[SeatsStillOut, ...], Field(max_length=MAX_PARTS)] = ()
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


def read_account(raw: JsonValue) -> VoteAccount:
    """The account in a node's JSON. Raises SwarmError where it is none."""
    try:
        return VoteAccount.model_validate(raw)
    except ValidationError as error:
        raise SwarmError(f"the node's account of the vote is unreadable: {error.errors()[0]['msg']}") from error


def with_answers(final: JsonObject, last: JsonObject | None, answer: str) -> JsonObject:
    """The final account with each voter's short answer and who was still out, which only the moments before it tell.

    Without such a moment there was no vote: the winner's answer is the one.
    """
    told: dict[str, JsonValue] = {str(final.get("winner")): answer}
    if last is not None:
        told = {str(candidate.get("voter")): candidate.get("answer", "") for candidate in _objects(last)}
    shown: list[JsonValue] = [
        {**candidate, "answer": told[voter]} if (voter := str(candidate.get("voter"))) in told else candidate
        for candidate in _objects(final)
    ]
    return {**final, "candidates": shown, "out": [] if last is None else last.get("out", [])}


def _objects(account: JsonObject) -> list[JsonObject]:
    candidates = account.get("candidates")
    return [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []


MAX_SHOWN_COLUMNS = 200  # of a lone answer in the account, as of those that nodes shorten


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """What to ask, and how to vote on it; None leaves it to the node."""

    question: str
    model: str = "swarm"
    system: str | None = None
    votes: int | None = None
    strategy: str | None = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def body(self) -> JsonObject:
        """The request. The answer is not streamed beside the vote: it is shown when it has won."""
        system: list[JsonObject] = [] if self.system is None else [{"role": "system", "content": self.system}]
        shown = None if self.strategy == "single" else "buffer"  # a lone answer streams in one way only
        swarm: JsonObject = {"votes": self.votes, "strategy": self.strategy, "progress": True, "stream": shown}
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
class VoteMoment:
    """How the vote stands. `raw` is the node's own account, with what this version does not know."""

    account: VoteAccount
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class VoteEnd:
    """What came of the vote, and the winning answer, whole."""

    account: VoteAccount
    raw: JsonObject
    answer: str


def hold_vote(api: NodeApi, ballot: VoteRequest) -> Generator[VoteMoment | VoteEnd]:
    """The moments, then exactly one end. Closing it cancels the vote. Raises SwarmError with the remedy."""
    words: list[str] = []
    final: JsonObject | None = None
    last: JsonObject | None = None
    with closing(post_stream(api, "/v1/chat/completions", ballot.body())) as events:
        for event in events:
            words += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
            swarm: JsonObject = event.get("swarm") or {}
            moment = swarm.get("ballot")
            if isinstance(moment, dict):
                last = moment
                yield VoteMoment(read_account(moment), moment)
            elif swarm:
                final = swarm
    if final is None:
        raise SwarmError(f"{api.url} ended the answer before the vote: is it a node of Local Swarm, and still running?")
    answer = winning_words(final) or "".join(words)
    raw = with_answers(final, last, cut(clean_line(answer), MAX_SHOWN_COLUMNS))
    yield VoteEnd(read_account(raw), raw, answer)


def winning_words(final: JsonObject) -> str | None:
    """The winner's answer where it is not what was streamed: the vote overruled the leader."""
    message = final.get("winner_message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else None
