"""What may be said of a vote, by name: parsed once, where it comes in, and an enum from there on.

A request's `swarm` object, a configuration file and the command line all speak of these. Their values are the words of
the wire, and a member is equal to its word. The command line imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

MAX_VOTES = 32  # gains flatten at 10-20 votes; more is a typing error or an attack
MAX_AHEAD = 16  # votes that one answer can be ahead by, with every other vote for another


class Strategy(StrEnum):
    """How the answer is chosen among those of the voters: see `strategies.py`, and `judge.py` or `cascade.py`."""

    AUTO = "auto"
    MAJORITY = "majority"
    WEIGHTED = "weighted"
    CONFIDENT = "confident"
    MEDOID = "medoid"
    JUDGE = "judge"
    CASCADE = "cascade"
    FIRST = "first"
    SINGLE = "single"

    @property
    def compares(self) -> bool:
        """Whether answers are compared at all: `first` takes the first one that comes, `single` asks for one."""
        return self not in (Strategy.FIRST, Strategy.SINGLE)

    @property
    def counts(self) -> bool:
        """Whether equal answers are counted, where they can be: not where the most central one is wanted."""
        return self.compares and self is not Strategy.MEDOID


class StreamMode(StrEnum):
    """What a stream shows while the vote runs: the strongest voter's answer, its words, nothing, or its thoughts.

    WORDS are an answer without its calls of tools, which a client would act on; thoughts are among them.
    """

    LEADER = "leader"
    WORDS = "words"
    BUFFER = "buffer"
    REASONING = "reasoning"


class StopRule(StrEnum):
    """When a vote ends early: where no outstanding voter can change it, or already where that is unlikely."""

    LEAD = "lead"
    POSTERIOR = "posterior"


@dataclass(frozen=True, slots=True)
class Ahead:
    """A vote ends when one answer is `by` votes ahead of every other, and asks for no more than that may take.

    The rule of a race, the first to be ahead by k (arXiv 2511.09030): where the share p of voters is right and they err
    independently, on one wrong answer, it is right with 1 / (1 + ((1-p)/p)^k).
    """

    by: int


Stop = StopRule | Ahead


class NoQuorum(StrEnum):
    """What a client gets where too few voted: the best answer there is, marked degraded, or a 503."""

    BEST_EFFORT = "best_effort"
    ERROR = "error"


class OnLoading(StrEnum):
    """What a request does whose model is not loaded: wait until it is, or be told when to come back."""

    WAIT = "wait"
    REJECT = "reject"


STRATEGIES: tuple[str, ...] = tuple(strategy.value for strategy in Strategy)
STREAM_MODES: tuple[str, ...] = tuple(mode.value for mode in StreamMode)

# What an answer turns out to be: as the `swarm` object reports it and as the weights file counts it.
Kind = Literal["tool_calls", "json", "code", "number", "choice", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)
