"""What a session tells while it works, to whoever listens: frozen, in the order in which it happens.

A run is `start`, then for each step thinking, text, the step's vote, its calls and their results, and one `end`. What
is typed meanwhile is told as `steered` where it joins the conversation, results that no longer fit as `shortened`, and
what fails as `error`, before the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from pydantic import JsonValue

from swarm.agent.call_checks import AskedCall
from swarm.generation import JsonObject
from swarm.tools.tool import ToolResult

EndReason = Literal["done", "cut", "max_turns", "undecided", "aborted", "failed"]
When = Literal["asap", "when_idle"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins: `prompt` is what was asked, `tools` are those that the model is told of."""

    type: ClassVar = "start"

    session: str
    model: str
    tools: tuple[str, ...]
    prompt: str


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The next piece of the model's words; what was not voted on comes while it is made."""

    type: ClassVar = "text"

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class ThoughtPiece:
    """The next piece of the model's thoughts."""

    type: ClassVar = "thinking"

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class StepVoted:
    """How the step was decided: `account` is the node's `swarm` object (docs/swarm-object.md), `ms` what it took.

    `decided` False: nobody came far enough ahead, or too few answered, and a tool would run. `calls` are those that the
    step makes, as the model wrote them.
    """

    type: ClassVar = "vote"

    step: int
    account: JsonObject
    decided: bool
    ms: int
    calls: tuple[AskedCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolAsked:
    """The model calls a tool. `arguments` are as they will be executed, None where the text holds none that fit."""

    type: ClassVar = "tool_call"

    step: int
    call_id: str
    tool: str
    arguments: Mapping[str, JsonValue] | None
    text: str


@dataclass(frozen=True, slots=True)
class ToolDone:
    """What came of a call. `executed` False: it never ran, and `result` says to the model why."""

    type: ClassVar = "tool_result"

    step: int
    call_id: str
    tool: str
    result: ToolResult
    executed: bool = True


@dataclass(frozen=True, slots=True)
class Steered:
    """Words that were given while the session worked have joined the conversation."""

    type: ClassVar = "steered"

    text: str
    when: When


@dataclass(frozen=True, slots=True)
class ResultsCut:
    """The conversation did not fit the model's context: so many of its oldest results go on by their beginnings."""

    type: ClassVar = "shortened"

    step: int
    results: int


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The run cannot go on; the session stays usable. `kind` is the error's name in `swarm/errors.py`."""

    type: ClassVar = "error"

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over. `output` is the model's last words, `steps` the answers that it took.

    `waited_ms`: of `ms`, how long the model and the tools took, and people to answer; the rest is the agent's own.
    """

    type: ClassVar = "end"

    reason: EndReason
    output: str
    steps: int
    ms: int = 0
    waited_ms: int = 0


AgentEvent = (
    RunStarted
    | TextPiece
    | ThoughtPiece
    | StepVoted
    | ToolAsked
    | ToolDone
    | Steered
    | ResultsCut
    | RunFailed
    | RunEnded
)


def as_json(event: AgentEvent) -> JsonObject:
    """The event as a JSON object: its `type`, then its fields."""
    return {"type": event.type, **asdict(event)}
