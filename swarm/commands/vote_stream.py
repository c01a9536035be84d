"""A vote held by a node, as it comes: moments of the ballot, then its end with the winning answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

from federation.printable_text import clean_line
from swarm.commands.ballot_account import Account, read_account, with_answers
from swarm.commands.columns import cut
from swarm.commands.http import NodeDoor, post_stream
from swarm.errors import SwarmError
from swarm.generation import JsonObject

MAX_SHOWN_COLUMNS = 200  # of a lone answer in the account, as of those that nodes shorten


@dataclass(frozen=True, slots=True)
class Ballot:
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
class Moment:
    """How the vote stands. `raw` is the node's own account, with what this version does not know."""

    account: Account
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class End:
    """What came of the vote, and the winning answer, whole."""

    account: Account
    raw: JsonObject
    answer: str


def hold_vote(door: NodeDoor, ballot: Ballot) -> Generator[Moment | End]:
    """The moments, then exactly one end. Closing it cancels the vote. Raises SwarmError with the remedy."""
    words: list[str] = []
    final: JsonObject | None = None
    last: JsonObject | None = None
    with closing(post_stream(door, "/v1/chat/completions", ballot.body())) as events:
        for event in events:
            words += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
            swarm: JsonObject = event.get("swarm") or {}
            moment = swarm.get("ballot")
            if isinstance(moment, dict):
                last = moment
                yield Moment(read_account(moment), moment)
            elif swarm:
                final = swarm
    if final is None:
        raise SwarmError(
            f"{door.url} ended the answer before the vote: is it a node of Local Swarm, and still running?"
        )
    answer = winning_words(final) or "".join(words)
    raw = with_answers(final, last, cut(clean_line(answer), MAX_SHOWN_COLUMNS))
    yield End(read_account(raw), raw, answer)


def winning_words(final: JsonObject) -> str | None:
    """The winner's answer where it is not what was streamed: the vote overruled the leader."""
    message = final.get("winner_message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else None
