"""Functions of a Python program as tools: their schemas from their signatures, and a host that calls them."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from federation.printable_text import clean_text
from swarm.errors import BadRequest, SetupError
from swarm.generation import JsonObject
from swarm.tools.tool import DEFAULT_TIMEOUT_S, MAX_OUTPUT_CHARS, MOST_TIMEOUT_S, ToolDefinition, ToolResult

FAILED: Final = 1


class Tool:
    """A function that the model may call.

    The name, the description and the schema of its arguments come from the function: its name, its docstring, its
    parameters with their types. It may be `async`; one that is not runs in a thread, which an abort cannot end. What
    it returns is told to the model: a text as it is, anything else as JSON. What it raises is a failed call.

    `reads_only`: it changes nothing, so that it runs unasked. `alone`: no other call of a step runs beside it.
    Raises SetupError for a function whose parameters have no JSON schema.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        reads_only: bool = False,
        alone: bool = False,
    ) -> None:
        self._function = function
        name = name or getattr(function, "__name__", "")
        try:
            self._adapter = TypeAdapter[Any](cast("Any", function))
            parameters = cast("JsonObject", self._adapter.json_schema())
        except Exception as error:  # pydantic has many, and all mean the same
            raise SetupError(f"the function {name or function!r} cannot be a tool: {error}") from error
        if parameters.get("type") != "object" or not name:
            raise SetupError(f"the function {name or function!r} cannot be a tool: its parameters need names")
        text = description if description is not None else inspect.getdoc(function) or ""
        self.definition = ToolDefinition(name, text, parameters, reads_only=reads_only, alone=alone)

    async def call(self, arguments: Mapping[str, JsonValue]) -> Any:
        """What the function returns. Raises ValidationError for arguments that are not of its types."""
        from pydantic_core import ArgsKwargs

        if inspect.iscoroutinefunction(self._function):
            return await self._adapter.validate_python(ArgsKwargs((), dict(arguments)))
        return await asyncio.to_thread(self._adapter.validate_python, ArgsKwargs((), dict(arguments)))


class FunctionHost:
    """A tool host whose tools are functions of this program."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.definition.name: tool for tool in tools}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def tools(self) -> tuple[ToolDefinition, ...]:
        return tuple(tool.definition for tool in self._tools.values())

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        if tool not in self._tools:
            raise BadRequest(f"there is no tool {tool!r}; there are: {', '.join(self._tools)}", "tool")
        timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        if timeout_s > MOST_TIMEOUT_S:
            raise BadRequest(f"timeout_s is {timeout_s:g}, and at most {MOST_TIMEOUT_S:g}", "timeout_s")
        began = time.monotonic()
        timed_out, code = False, 0
        try:
            async with asyncio.timeout(timeout_s):
                said = _text(await self._tools[tool].call(arguments))
        except TimeoutError:
            said, timed_out, code = "", True, FAILED
        except ValidationError as error:
            said, code = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()), FAILED
        except Exception as error:  # noqa: BLE001 - a tool that fails is a result, whatever it fails with
            said, code = f"{type(error).__name__}: {error}", FAILED
        text, cut = _bounded(clean_text(said))
        return ToolResult(text, code, cut, timed_out, round((time.monotonic() - began) * 1000))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json"), ensure_ascii=False)


def _bounded(text: str) -> tuple[str, bool]:
    """The text with its middle left out where it is too long, and whether it was."""
    if len(text) <= MAX_OUTPUT_CHARS:
        return text, False
    half = MAX_OUTPUT_CHARS // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}", True
