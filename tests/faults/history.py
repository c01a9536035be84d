"""What clients lived through: for each request what was asked, every piece of the answer, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True)
class Question:
    """Something that the embedded model answers with the same words each time, at temperature 0."""

    text: str
    max_tokens: int
    votable: bool = True  # whether voters that sample also give these words


CAPITAL: Final = Question("What is the capital of France?", 40)
SUM: Final = Question("Calculate 12 + 7 - 3", 40)
STORY: Final = Question("Tell me a story about a fox.", 80, votable=False)
QUESTIONS: Final = (CAPITAL, SUM, STORY)


class End(StrEnum):
    """How a request ended for its client."""

    COMPLETE = "complete"
    ERROR = "an explicit error"
    NO_ANSWER = "no connection, or one that was cut before the first byte"
    CUT = "cut in the middle"
    LATE = "not within its time"


class Mark(StrEnum):
    """What the pieces of a stream are; several of one kind in a row count once."""

    CONTENT = "content"
    FINISH = "finish"
    DONE = "done"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Account:
    """One request from beginning to end. Instants are monotonic seconds."""

    number: int
    node: str
    question: Question
    stream: bool
    strategy: str
    deadline_s: float
    started_at: float
    ended_at: float
    end: End
    first_byte_at: float | None = None  # of the answer's words, not of a heartbeat
    pieces: tuple[tuple[float, str], ...] = ()
    marks: tuple[Mark, ...] = ()
    ids: frozenset[str] = frozenset()  # of the answer, as its chunks name it: one answer has one
    code: str | None = None  # an explicit error's
    winner: str | None = None  # the node whose words these are
    voters: frozenset[str] = frozenset()  # the nodes whose votes were counted

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    def __str__(self) -> str:
        form = "stream" if self.stream else "whole answer"
        code = f" ({self.code})" if self.code else ""
        took = f"{self.ended_at - self.started_at:.2f} s"
        return f"request {self.number} to {self.node}, {self.strategy} {form}: {self.end}{code} after {took}"


@dataclass(frozen=True, slots=True)
class Ping:
    """One GET of /livez: how long it took, None if it failed."""

    node: str
    at: float
    took_s: float | None


@dataclass(frozen=True, slots=True)
class View:
    """The nodes that `node` would ask, at that moment; None where it did not answer."""

    node: str
    at: float
    names: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds."""

    rss_bytes: int
    descriptors: int
    threads: int
