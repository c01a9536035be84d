"""The contract of a tool host: which tools it has, and how one is executed.

Hosts are tools of this machine below a root, others' MCP servers, a node over HTTP, and several of them as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from pydantic import JsonValue

from swarm.generation import JsonObject

DEFAULT_TIMEOUT_S: Final = 30.0  # what an edit, a test or a search takes
LONG_TIMEOUT_S: Final = 300.0  # package managers and builds, where the caller asks for more than the default
MOST_TIMEOUT_S: Final = 600.0
MAX_OUTPUT_CHARS: Final = 3000  # of one call, head and tail: a model reads all of it again with every step
TIMED_OUT_CODE: Final = 124  # the exit code of a call whose time was up, as coreutils' `timeout` has it
MOST_AT_ONCE: Final = 4  # calls of one host; the others wait for a place


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as models are told of it; `parameters` is the JSON schema of its arguments, an object.

    `reads_only`: it changes nothing and sends nothing anywhere, so that it may run unasked. `alone`: no other call of
    the same turn runs beside it.
    """

    name: str
    description: str
    parameters: JsonObject
    reads_only: bool = False
    alone: bool = False

    def openai(self) -> JsonObject:
        """The tool in OpenAI's form."""
        function: JsonObject = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of one call: a tool that fails has an `exit_code` other than 0, and says why in `output`.

    `output` is text for a model and for people, without control characters but tab and newline, of at most
    `MAX_OUTPUT_CHARS` and a line that says what was cut (`truncated`). `ms` is the time that it took.
    """

    output: str
    exit_code: int = 0
    truncated: bool = False
    timed_out: bool = False
    ms: int = 0


class ToolFailure(Exception):
    """A call that cannot be done, in words for the model and for people: a host makes a result of it, never an error.

    `exit_code` is the result's, other than 0.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ToolHost(Protocol):
    """Executes tools. Used as `async with`: what runs when it is left is ended, with all that it started."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def tools(self) -> tuple[ToolDefinition, ...]:
        """The tools that there are now, in the order in which a model is told of them."""
        ...

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        """Run one call to its end. Cancelling it ends the call's whole process tree before the cancellation goes on.

        `timeout_s` None is the tool's own default; more than `MOST_TIMEOUT_S` is a BadRequest. Raises BadRequest with
        `param` "tool" for an unknown one (naming those that there are), and with the path of the value to blame
        (`arguments.path`, `arguments.edits[0].old`) for arguments that do not keep the schema; Unavailable where the
        host itself cannot be had. Everything else that goes wrong is a result with an exit code.
        """
        ...
