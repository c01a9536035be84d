"""`swarm agent`: work that is done by tools, each step decided by a vote, watched and steered in the terminal.

Lines that are typed while it works steer it; `+line` waits until it would be done. Ctrl-C aborts, once more ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from swarm.agent.agent import Agent, ModelChoice, require_pydantic_ai
from swarm.agent.approval import ApprovalAnswer, Approved, NotApproved, UndecidedAnswer, unknown_grants
from swarm.agent.events import EndReason, RunEnded, StepVoted, When
from swarm.agent.session import DEFAULT_TURNS, Session, refuse_all, stop_undecided
from swarm.agent.sessions_on_disk import SessionFile, SessionFiles, StoredSession, list_lines
from swarm.commands.agent_lines import UNDECIDED_QUESTION, approval_question, read_approval, read_edited, read_undecided
from swarm.commands.agent_screen import AgentScreen, JsonLines
from swarm.commands.node_client import NodeApi
from swarm.commands.output import complain, interrupted, is_terminal, read_standard_input, say, say_line
from swarm.engines.upstream.address import reach_of
from swarm.errors import SetupError, SwarmError
from swarm.providers import ThinkingLevel, key_for, provider_named
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import TOOL_NAMES, parse_tools, plan_tools
from swarm.tools.sandboxed_process import NoSandbox
from swarm.tools.tool import ToolDefinition, ToolHost

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage

OK, FAILED, UNDECIDED = 0, 1, 3  # exit codes; 2 is wrong usage
CODES: Final[Mapping[EndReason, int]] = {"done": OK, "undecided": UNDECIDED}
STDIN: Final = "-"
MOST_PROMPT_CHARS: Final = 1 << 20
MOST_LINE_BYTES: Final = 64 * 1024
PROMPT: Final = "> "
FOLLOWS: Final = "+"  # before a line that waits until the agent would be done
AGAIN_LINE: Final = "    say how to go on; Ctrl-C once more ends"
FIRST_LINE: Final = "What is to be done? Ctrl-D ends."


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The command line. `host` is the URL of a node that runs tools, None: those in `tools` run here, below `root`.

    `provider` None: the model is a node's; else `provider_key` is the key for it, where the command line has one.
    """

    model: str = "swarm"
    host: str | None = None
    host_key: str | None = field(default=None, repr=False)
    root: Path | None = None
    tools: str = "read"
    votes: int | None = None
    ahead: int | None = None
    min_agreement: float | None = None
    max_turns: int = DEFAULT_TURNS
    grants: Sequence[str] = ()
    system: str | None = None
    json: bool = False
    resume: str | None = None
    think: ThinkingLevel | None = None
    provider: str | None = None
    base_url: str | None = None
    provider_key: str | None = field(default=None, repr=False)


def list_sessions(folder: Path, as_json: bool) -> int:
    """Print the sessions that can be resumed, the newest first."""
    heads = list(SessionFiles(folder).heads())
    if as_json:
        from dataclasses import asdict

        say(json.dumps([asdict(head) for head in heads]))
        return OK
    for line in list_lines(heads):
        say_line(line)
    if not heads:
        complain('swarm: no session yet: swarm agent "what is to be done"')
    return OK


def agent(api: NodeApi, words: Sequence[str], options: AgentOptions, folder: Path) -> int:
    """Do what `words` ask and end, or without any hold a conversation. `folder` has the sessions.

    The exit code: 0 done, 1 failed or aborted, 3 a step was not decided.
    """
    prompt = read_standard_input(MOST_PROMPT_CHARS) if list(words) == [STDIN] else " ".join(words)
    if words and not prompt.strip():
        raise SetupError('nothing is asked: swarm agent "what is to be done", or `-` to read it from standard input')
    if not words and not is_terminal(sys.stdin):
        raise SetupError('say what is to be done: swarm agent "…", or `-` to read it from standard input')
    files = SessionFiles(folder)
    resumed = None if options.resume is None else files.resume(options.resume)
    root = options.root or (Path.cwd() if resumed is None else _root_of(resumed[1]))
    host = make_host(options, root)
    require_pydantic_ai()
    choice = provider_model(options)
    return asyncio.run(_AgentCommand(api, options, files, root, resumed).whole(prompt.strip(), host, choice))


def _root_of(stored: StoredSession) -> Path:
    """The folder in which a session has worked: what it knows of files is of that one."""
    root = Path.cwd() if stored.head.root is None else Path(stored.head.root)
    if root != Path.cwd():
        complain(f"swarm: goes on in {root} (--root DIR is another folder)")
    return root


class _AgentCommand:
    """One run of the command: the session, the terminal, and what is typed."""

    def __init__(
        self,
        api: NodeApi,
        options: AgentOptions,
        files: SessionFiles,
        root: Path,
        resumed: tuple[SessionFile, StoredSession] | None,
    ) -> None:
        self._api, self._options, self._root = api, options, root
        self._files = files
        self._typed = TypedLines() if is_terminal(sys.stdin) and not options.json else None
        self._screen = JsonLines() if options.json else AgentScreen()
        self._session: Session | None = None
        self._kept, self._stored = resumed or (None, None)
        self._main: asyncio.Task[int] | None = None

    async def whole(self, prompt: str, host: ToolHost, choice: ModelChoice | None) -> int:
        """The exit code, when all is done."""
        options = self._options
        made = Agent(
            choice or options.model,
            thinking=None if choice else options.think,
            url=self._api.url,
            api_key=self._api.api_key,
            hosts=[host],
            instructions=options.system,
            votes=options.votes,
            ahead=options.ahead,
            min_agreement=options.min_agreement,
            grants=options.grants,
            max_turns=options.max_turns,
            tell=lambda line: complain(f"swarm: {line}"),
            approve=refuse_all if self._typed is None else self._approve,
            decide=stop_undecided if self._typed is None else self._decide,
        )
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        try:
            name = None if self._kept is None else self._kept.head.id
            async with made.session(name, self._resumed(), self._keep) as session:
                self._session = session
                session.subscribe(self._screen.tell)
                self._look_at_tools(host)
                return await self._talk(session, prompt)
        except asyncio.CancelledError:
            return FAILED
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if self._typed is not None:
                self._typed.close()

    @property
    def _model_name(self) -> str:
        options = self._options
        return options.model if options.provider is None else f"{options.provider}/{options.model}"

    def _resumed(self) -> list[ModelMessage]:
        if self._stored is None:
            return []
        from swarm.agent.turns import read

        try:
            return read(self._stored.messages)
        except ValueError as error:
            raise SetupError(f"the session {self._stored.path} cannot be read: {error}") from error

    def _look_at_tools(self, host: ToolHost) -> None:
        """Say which of the tools that were asked for there are not, and why; refuse a slip in `--yes`."""
        names = [tool.name for tool in host.tools()]
        if unknown := unknown_grants(self._options.grants, [*names, *TOOL_NAMES]):
            raise SetupError(f"--yes names {unknown[0]!r}, and there is no such tool: there are {', '.join(names)}")
        if isinstance(host, LocalToolHost) and isinstance(host.sandbox, NoSandbox):
            complain(f"swarm: without bash: {host.sandbox}")

    async def _talk(self, session: Session, prompt: str) -> int:
        conversation = not prompt
        if conversation:
            say(FIRST_LINE)
        code = OK
        while True:
            if not prompt:
                if (line := await self._next_line()) is None:
                    return code
                prompt = line.strip().removeprefix(FOLLOWS).strip()
                continue
            if self._kept is None:
                self._kept = self._files.begin(self._model_name, prompt, self._root)
                session.name = self._kept.head.id
            code, reason = await self._run_once(session, prompt)
            if self._typed is None or (not conversation and reason != "aborted"):
                return code
            if reason == "aborted" and not conversation:
                say_line(AGAIN_LINE)
                conversation = True
            prompt = ""

    async def _run_once(self, session: Session, prompt: str) -> tuple[int, EndReason]:
        if self._typed is not None:
            self._typed.takes = self._steer
            self._typed.listen()
        try:
            ended: RunEnded = await session.run(prompt)
        except SwarmError as error:
            complain(f"swarm: {error}")
            return FAILED, "failed"
        finally:
            if self._typed is not None:
                self._typed.takes = None
        return CODES.get(ended.reason, FAILED), ended.reason

    async def _next_line(self) -> str | None:
        assert self._typed is not None
        say(PROMPT, end="")
        return await self._typed.line()

    def _steer(self, line: str) -> None:
        if self._session is None or not line.strip():
            return
        when: When = "when_idle" if line.startswith(FOLLOWS) else "asap"
        self._session.enqueue(line.strip().removeprefix(FOLLOWS).strip(), when)

    def _interrupted(self) -> None:
        interrupted()
        if self._session is not None and self._session.state != "idle":
            self._session.abort()
        elif self._main is not None:
            self._main.cancel()

    def _keep(self, message: ModelMessage) -> None:
        from swarm.agent.turns import written

        if self._kept is None:
            return
        try:
            self._kept.keep(written(message))
        except OSError as error:
            complain(f"swarm: this session is no longer kept ({error.strerror or error})")
            self._kept = None

    async def _approve(self, tool: ToolDefinition, arguments: Mapping[str, JsonValue]) -> ApprovalAnswer:
        while True:
            line = await self._answer(approval_question(tool.name, arguments))
            if line is None:
                return NotApproved("nobody is there any more")
            if line.strip().lower() in ("e", "edit"):
                edited = await self._answer(f"    the arguments as JSON, now: {json.dumps(arguments)}")
                if edited is not None and (found := read_edited(edited)) is not None:
                    return Approved(arguments=found)
                say_line("    that is no JSON object")
            elif (answer := read_approval(line)) is not None:
                return answer

    async def _decide(self, _: StepVoted) -> UndecidedAnswer:
        while True:
            line = await self._answer(UNDECIDED_QUESTION)
            if line is None:
                return "stop"
            if (answer := read_undecided(line)) is not None:
                return answer

    async def _answer(self, question: str) -> str | None:
        """What is typed next; meanwhile nothing steers."""
        assert self._typed is not None
        takes, self._typed.takes = self._typed.takes, None
        try:
            say(question)
            say(f"    {PROMPT}", end="")
            return await self._typed.line()
        finally:
            self._typed.takes = takes


class TypedLines:
    """What is typed at the terminal, by lines: each for `takes` while there is one, else for who waits for it."""

    def __init__(self) -> None:
        self.takes: Callable[[str], None] | None = None
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._part = b""
        self._input = sys.stdin.fileno()
        self._open = False

    async def line(self) -> str | None:
        """The next line; None at the end, which is Ctrl-D."""
        self.listen()
        return await self._lines.get()

    def listen(self) -> None:
        """Read from now on."""
        if not self._open:
            self._open = True
            asyncio.get_running_loop().add_reader(self._input, self._read)

    def close(self) -> None:
        """Read no more."""
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._input)

    def _read(self) -> None:
        piece = b""
        with suppress(OSError):
            piece = os.read(self._input, MOST_LINE_BYTES)
        if not piece:  # Ctrl-D; a terminal goes on giving lines after it
            self._take(None)
            return
        *whole, self._part = (self._part + piece).split(b"\n")
        for line in whole:
            self._take(line.decode(errors="replace"))

    def _take(self, line: str | None) -> None:
        if self.takes is not None and line is not None:
            self.takes(line)
        else:
            self._lines.put_nowait(line)  # an end that is typed early ends what is asked next


def provider_model(options: AgentOptions) -> ModelChoice | None:
    """The cloud's model that was asked for, None where it is a node's. Raises SetupError."""
    if options.provider is None:
        return None
    from swarm.agent.catalogue import ProviderCatalogue
    from swarm.agent.models import provider_choice
    from swarm.node.settings import default_data_dir

    row = provider_named(options.provider)
    catalogue = ProviderCatalogue(default_data_dir() / "providers")

    def told(line: str) -> None:
        complain(f"swarm: {line}")

    key = key_for(row, options.provider_key, None, os.environ, options.base_url)
    if key is not None or not row.needs_key:  # else it is refused below, before anybody is asked
        asyncio.run(catalogue.learn(row, key, options.base_url))
    limits = catalogue.limits(row, options.model, options.base_url)
    made = provider_choice(
        row,
        options.model,
        key=options.provider_key,
        base_url=options.base_url,
        thinking=options.think,
        max_output_tokens=limits.output_tokens,
        known=lambda: catalogue.names(row, options.base_url),
        tell=told,
    )
    leaves = ", and LEAVES THIS NETWORK" if made.host is None or reach_of(made.host) == "internet" else ""
    holds = "" if limits.context_tokens is None else f"; its context holds {limits.context_tokens:,} tokens"
    told(f"{made.name} answers: what is asked, and what tools read, goes there{leaves}{holds}")
    return made


def make_host(options: AgentOptions, root: Path) -> ToolHost:
    """The tool host that was asked for. Blocks: looks at folders. Raises SetupError for a root that cannot be one."""
    if options.host is not None:
        from swarm.agent.remote_tools import RemoteToolHost

        return RemoteToolHost(options.host, options.host_key)
    from swarm.node.settings import default_data_dir

    return LocalToolHost(plan_tools(parse_tools(options.tools), root, home=Path.home(), data_dir=default_data_dir()))
