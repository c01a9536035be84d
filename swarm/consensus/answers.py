"""What an answer offers a vote: to be counted, to be compared with others, or why it has no say."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from swarm.generation import Candidate

MAX_DETAIL_CHARS = 200  # an engine's error can be a page; a reason is a line


class AbstainReason(StrEnum):
    """Each names what keeps a candidate out of the count."""

    FAILED = "failed"
    FILTERED = "stopped by a content filter"
    CUT = "cut by length"
    UNCLOSED_REASONING = "unclosed reasoning"
    EMPTY = "empty"
    TOO_LARGE = "too large to compare"
    NOT_JSON = "not JSON"
    BREAKS_SCHEMA = "breaks the schema"
    UNKNOWN_TOOL = "unknown tool"
    MALFORMED_ARGUMENTS = "malformed arguments"
    NO_CODE = "no code that parses"
    NO_FINAL_ANSWER = "no final answer"
    DUPLICATE = "voter already counted"
    NO_WEIGHT = "no weight"
    OUTRUN = "outrun"
    GAVE_WAY = "gave way"


@dataclass(frozen=True, slots=True)
class Abstention:
    """`candidate` does not vote, for `reason`; `detail` is what in particular was wrong, if there is more to say."""

    candidate: Candidate
    reason: AbstainReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail[:MAX_DETAIL_CHARS]}" if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class Flaw:
    """What a reader of answers found wrong, before it is known whose answer it was."""

    reason: AbstainReason
    detail: str = ""


class Keyed(Protocol):
    """An answer that equals another where their keys are equal."""

    @property
    def key(self) -> Hashable: ...


class Comparable(Keyed, Protocol):
    """An answer that can also be partly like another: 0..1, the same either way round."""

    def likeness(self, other: Self, /) -> float: ...
