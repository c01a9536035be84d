"""How each step of an agent is put to the vote, and whether one was decided. Pure.

A step is what the model does next: calls of tools, or words that end the run. What a node tells of the vote is its
`swarm` object (docs/swarm-object.md); a node of another version may tell less, and then nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from swarm.generation import JsonObject

UNDECIDED: Final = frozenset({"undecided", "degraded"})  # outcomes on which nobody should act unasked


@dataclass(frozen=True, slots=True)
class StepVotes:
    """How each step is decided: None leaves it to the node. `ahead`: the vote ends with a lead of so many votes.

    `min_agreement`: the share of the votes below which calls are not decided, 0 to 1.
    """

    votes: int | None = None
    ahead: int | None = None
    min_agreement: float | None = None

    def body(self) -> JsonObject:
        """The request's `swarm` object; empty where the node decides everything."""
        body: JsonObject = {}
        if self.votes is not None:
            body["votes"] = self.votes
        if self.ahead is not None:
            body["stop"] = {"ahead": self.ahead}
        if self.min_agreement is not None:
            body["min_agreement"] = self.min_agreement
        return body


def is_decided(account: Mapping[str, JsonValue], *, acts: bool) -> bool:
    """Whether the step may be taken as it is. `acts`: a tool would run; words alone do no harm, and stand."""
    return not acts or account.get("outcome") not in UNDECIDED


def why_undecided(account: Mapping[str, JsonValue]) -> str:
    """Why nobody should act on the step unasked, in words."""
    shortfall = account.get("shortfall")
    if isinstance(shortfall, str) and shortfall:
        return shortfall
    votes = account.get("votes")
    counted = f"of {votes} votes " if isinstance(votes, int) else ""
    return f"{counted}no step came far enough ahead of the others"
