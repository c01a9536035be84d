"""The tools of this machine: files below a root, and commands in a sandbox."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from federation.tasks import cancel_and_wait, finished
from swarm.errors import BadRequest
from swarm.tools.bounded_output import cut_in_the_middle
from swarm.tools.definitions import DEFINITIONS, MAX_COMMAND_CHARS, check_arguments
from swarm.tools.file_tools import FILE_TOOLS, FileTool
from swarm.tools.plan import CHANGING_TOOLS, ToolPlan
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.sandbox import CommandLimits, Sandbox
from swarm.tools.sandboxed_process import DEFAULT_LIMITS, NoSandbox, find_sandbox, opened_confinement, run_command
from swarm.tools.search import Searchers, ended_search, find_ripgrep, glob
from swarm.tools.tool import (
    DEFAULT_TIMEOUT_S,
    MOST_AT_ONCE,
    MOST_TIMEOUT_S,
    ToolDefinition,
    ToolFailure,
    ToolResult,
)

if TYPE_CHECKING:
    from swarm.tools.web_fetch import WebFetch

log = logging.getLogger(__name__)


class LocalToolHost:
    """A `ToolHost` of the tools that a plan names.

    `MOST_AT_ONCE` calls run at a time, and one of those that change something: what is edited at once is lost.
    """

    def __init__(
        self,
        plan: ToolPlan,
        *,
        web: WebFetch | None = None,
        sandbox: Sandbox | None = None,
        limits: CommandLimits = DEFAULT_LIMITS,
        files: RootedFiles | None = None,
    ) -> None:
        """`sandbox` is one that was found before; None: it is looked for when the host is entered.

        `web` is what `webfetch` fetches with, where it is named, and `files` how files are opened; None: their own.
        """
        self.plan = plan
        if web is None and "webfetch" in plan.names:
            from swarm.tools.web_fetch import WebFetch  # brings an HTTP client

            web = WebFetch()
        self._web = web
        self._definitions = DEFINITIONS if web is None else {**DEFINITIONS, web.definition.name: web.definition}
        self._files = RootedFiles(plan.root) if files is None else files
        self._limits = limits
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._editing = asyncio.Lock()
        self._searchers = Searchers(self._files, find_ripgrep())
        self._running: set[asyncio.Task[ToolResult]] = set()
        self._sandbox: Sandbox | NoSandbox | None = sandbox

    async def __aenter__(self) -> Self:
        if "bash" in self.plan.names and self._sandbox is None:
            choice, bare = self.plan.sandbox, self.plan.unsandboxed
            self._sandbox = await asyncio.to_thread(find_sandbox, choice, unsandboxed=bare)
            if isinstance(self._sandbox, NoSandbox):
                log.warning("there is no bash among the tools: %s", self._sandbox)
        return self

    @property
    def sandbox(self) -> Sandbox | NoSandbox | None:
        """What commands run in, or why they do not; None where none was asked for, or the host is not entered yet."""
        return self._sandbox

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await cancel_and_wait(*self._running)
        await self._searchers.close()

    def tools(self) -> tuple[ToolDefinition, ...]:
        """The tools that there are now, in the order in which a model is told of them."""
        return tuple(self._definitions[name] for name in self.plan.names if self._is_there(name))

    def _is_there(self, name: str) -> bool:
        return isinstance(self._sandbox, Sandbox) if name == "bash" else name in self._definitions

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        """Run one call to its end, as `ToolHost` says."""
        definition = next((one for one in self.tools() if one.name == tool), None)
        if definition is None:
            known = ", ".join(one.name for one in self.tools()) or "none"
            raise BadRequest(f"there is no tool {tool[:100]!r} here: there are {known}", param="tool")
        check_arguments(definition, arguments)
        call = asyncio.ensure_future(self._timed(tool, arguments, _limit_s(timeout_s, arguments)))
        self._running.add(call)
        call.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(call)
        finally:
            await cancel_and_wait(call)

    async def _timed(self, tool: str, arguments: Mapping[str, Any], limit_s: float) -> ToolResult:
        async with self._places:
            began = time.monotonic()
            try:
                result = await self._run(tool, arguments, limit_s)
            except ToolFailure as failure:
                output, cut = cut_in_the_middle(str(failure))
                result = ToolResult(output, failure.exit_code, cut)
            return replace(result, ms=round((time.monotonic() - began) * 1000))

    async def _run(self, tool: str, arguments: Mapping[str, Any], limit_s: float) -> ToolResult:
        if tool == "bash":
            return await self._bash(arguments["command"], limit_s)
        if tool == "webfetch" and self._web is not None:
            return await self._web.fetch(arguments, limit_s)
        if tool == "grep":
            return await self._searchers.grep(arguments, limit_s)
        if tool == "glob":
            return await self._glob(arguments, limit_s)
        if tool in CHANGING_TOOLS:
            async with self._editing:  # what two edit at once, one of them loses
                return await self._in_thread(FILE_TOOLS[tool], arguments)
        return await self._in_thread(FILE_TOOLS[tool], arguments)

    async def _in_thread(self, tool: FileTool, arguments: Mapping[str, Any]) -> ToolResult:
        """A thread cannot be ended: whoever cancels waits for the file to be written, or not."""
        working = asyncio.ensure_future(asyncio.to_thread(tool, self._files, arguments))
        await finished(asyncio.ensure_future(_over(working)))
        return working.result()

    async def _glob(self, arguments: Mapping[str, Any], limit_s: float) -> ToolResult:
        """Some patterns take milliseconds for each of many names."""
        left = threading.Event()
        ends_at = time.monotonic() + limit_s

        def is_over() -> bool:
            return left.is_set() or time.monotonic() > ends_at

        working = asyncio.ensure_future(asyncio.to_thread(glob, self._files, arguments, is_over))
        try:
            return await asyncio.shield(working)
        except TimeoutError:
            return ended_search(limit_s)
        finally:
            left.set()
            await finished(asyncio.ensure_future(_over(working)))

    async def _bash(self, command: str, limit_s: float) -> ToolResult:
        sandbox = self._sandbox
        if not isinstance(sandbox, Sandbox):
            raise ToolFailure(f"no command can run: {sandbox}")
        try:
            command.encode()
        except UnicodeEncodeError as error:
            raise ToolFailure(f"the command holds half a character at {error.start}: write it again") from error
        if len(command) > MAX_COMMAND_CHARS:
            raise ToolFailure(f"the command has more than {MAX_COMMAND_CHARS} characters: write a script and run it")
        if "\0" in command:
            raise ToolFailure("a command cannot hold a zero character")
        plan = self.plan
        opening = opened_confinement(
            self._files,
            writable=plan.writable,
            network=plan.network,
            limits=self._limits,
            by_name=not sandbox.takes_descriptors,
        )
        with ExitStack() as held:
            entering = asyncio.ensure_future(asyncio.to_thread(held.enter_context, opening))  # it looks at many names
            await finished(asyncio.ensure_future(_over(entering)))
            return await run_command(sandbox, entering.result(), (sandbox.bash, "-c", command), limit_s)


async def _over(work: asyncio.Future[Any]) -> None:
    await asyncio.wait({work})


def _limit_s(timeout_s: float | None, arguments: Mapping[str, JsonValue]) -> float:
    """How long the call may take: what the caller says, else what the model says, else the default."""
    asked = arguments.get("timeout_s") if timeout_s is None else timeout_s
    limit_s = float(asked) if isinstance(asked, int | float) else DEFAULT_TIMEOUT_S
    if not 0 < limit_s <= MOST_TIMEOUT_S:  # JSON of Python has a NaN, which keeps every bound of a schema
        raise BadRequest(
            f"timeout_s is {limit_s}, and a call takes more than 0 and at most {MOST_TIMEOUT_S:.0f} s",
            param="arguments.timeout_s" if timeout_s is None else "timeout_s",
        )
    return limit_s
