"""What a fake provider answers with: a turn of a model, a refusal, or a stream that goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True)
class Called:
    """One call of a tool, its arguments as JSON text, and the id that the provider gives it: empty for none."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True)
class Turn:
    """A model's turn: what it thought, said and called, each text in the pieces in which it is streamed."""

    text: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    calls: tuple[Called, ...] = ()
    cut: bool = False  # it reached its limit of tokens
    sealed: bool = False  # what it thought is in a signature alone, as newer models have it
    input_tokens: int = 12
    output_tokens: int = 7
    swarm: Json | None = None  # a node's account of a vote

    @property
    def said(self) -> str:
        return "".join(self.text)

    @property
    def thought(self) -> str:
        return "".join(self.thinking)


class Trouble(StrEnum):
    """Why a provider refuses."""

    WRONG_KEY = "wrong key"
    UNKNOWN_MODEL = "unknown model"
    RATE_LIMIT = "rate limit"
    NO_CREDIT = "no credit"
    TOO_LONG = "too long"
    OVERLOADED = "overloaded"
    BROKEN = "broken"
    BAD_REQUEST = "bad request"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True)
class Refusal:
    """An error instead of an answer. `message` None: the words that this provider has for it."""

    trouble: Trouble
    retry_after_s: int | None = None
    message: str | None = None


@dataclass(frozen=True)
class GoesWrong:
    """A stream that begins as `turn` and then has an error in it, or with `refusal` None breaks off."""

    turn: Turn
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Hangs:
    """A stream that begins as `turn` and then says nothing until its reader leaves."""

    turn: Turn


@dataclass(frozen=True)
class Rubbish:
    """An answer with status 200 that follows no protocol."""

    body: bytes = b"<html>It works!</html>"
    content_type: str = "text/html"
    headers: dict[str, str] = field(default_factory=dict[str, str])


Reply = Turn | Refusal | GoesWrong | Hangs | Rubbish


@dataclass(frozen=True)
class Seen:
    """A request as the fake got it. Names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Asked:
    """What of a request decides the form of its answer."""

    model: str
    streamed: bool
    body: Json


class Wire(Protocol):
    """A protocol as a provider speaks it."""

    def key_of(self, headers: dict[str, str]) -> str | None:
        """The key that a request carries where this protocol has it."""
        ...

    def asked(self, method: str, path: str, query: dict[str, str], body: Json) -> Asked | None:
        """The request for an answer, None for another path."""
        ...

    def lists(self, path: str) -> bool:
        """Whether the path is that of the list of models."""
        ...

    def fault(self, body: Json) -> str | None:
        """What is wrong with a request, in the provider's words."""
        ...

    def whole(self, turn: Turn, asked: Asked) -> Json:
        """The answer that isn't streamed."""
        ...

    def stream(self, turn: Turn, asked: Asked) -> list[bytes]:
        """The events of a stream, as bytes."""
        ...

    def error(self, refusal: Refusal, asked: Asked | None, key: str | None) -> tuple[int, dict[str, str], Json]:
        """Status, headers and body of an error."""
        ...

    def error_in_stream(self, refusal: Refusal, asked: Asked) -> bytes:
        """The event of an error in a stream that had begun."""
        ...

    def listing(self, models: tuple[str, ...]) -> Json:
        """The list of models."""
        ...
