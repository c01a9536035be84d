"""The seam between strategies and kinds: a strategy is two rules, one for structured answers and one for prose.

Tool calls and final answers need no rule of their own: equal or not, they are counted under every strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from swarm.consensus.comparable import Comparable
from swarm.consensus.groups import Choice, Vote
from swarm.consensus.likenesses import Likenesses
from swarm.consensus.text_answer import TextAnswer

C = TypeVar("C", bound=Comparable)


class StructuredRule(Protocol):
    """Chooses among JSON answers or among code answers; `votes` is not empty."""

    def __call__(self, votes: Sequence[Vote[C]], likenesses: Likenesses, /) -> Choice: ...


@dataclass(frozen=True, slots=True)
class VotingStrategy:
    """How one strategy chooses. Both rules are pure and give the same choice for every order of the votes."""

    structured: StructuredRule
    prose: Callable[[Sequence[Vote[TextAnswer]], Likenesses], Choice]
