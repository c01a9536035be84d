"""Coding agents as their users run them: a folder to work in, an empty home, and the settings of clients.toml."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from swarm.commands.client_settings import ClientEntry, client_entries
from tests.doubles.node_programs import node_program
from tests.doubles.npm_packages import npm_packages
from tests.doubles.played_node import CONTEXT_TOKENS, KEY
from tests.doubles.python_packages import python_of
from tests.doubles.shut_off import ShutOff
from tests.doubles.typist import Typist, at_a_terminal_of

ROOT: Final = Path(__file__).parents[2]
CLIENTS: Final = ROOT / "tests" / "clients"
AGENT_S: Final = 120.0  # a few seconds on an idle machine
KEPT: Final = ("PATH", "LANG")  # of the environment of these tests


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program said, both streams together, and its exit code."""

    said: str
    code: int

    @property
    def words(self) -> str:
        """What it said, as if its lines had no ends."""
        return " ".join(self.said.split())


@dataclass(frozen=True, slots=True, eq=False)
class CodingAgent:
    """One agent. Its first words are `first`, the last ones `ask` and the task, which it does, and ends.

    `settings_file` is where its settings of clients.toml go, below its home; None: they are its environment. `files`
    are others there, made for a model. `quiet` are variables and `quiet_words` words that keep it from asking its
    makers things, `may_work` words by which it uses its tools unasked, `with_model` those that name a provider or a
    model where its settings do not, which `swarm launch` does by itself.
    """

    id: str  # in clients.toml
    program: Callable[[], Path]
    first: Sequence[str] = ()
    ask: Sequence[str] = ()
    settings_file: str | None = None
    files: Mapping[str, Callable[[str], str]] = field(default_factory=dict[str, Callable[[str], str]])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    quiet: Mapping[str, str] = field(default_factory=dict[str, str])
    quiet_words: Sequence[str] = ()
    may_work: Sequence[str] = ()
    with_model: Callable[[str], Sequence[str]] = lambda _: ()
    needs_node: tuple[int, int] | None = None  # that version or a newer one, first on its PATH
    screen: Screen | None = None
    still_asks: frozenset[str] = frozenset()  # other computers that it asks, however it is told not to
    says_of_unknown: str = "model '{}' is not served here; available: played, swarm"  # the node's words, or its own

    @property
    def entry(self) -> ClientEntry:
        return next(entry for entry in client_entries() if entry.id == self.id)


@dataclass(frozen=True, slots=True)
class Screen:
    """An agent as somebody has it at a terminal: it listens when `ready` stands there, and Escape stops an answer.

    `known` writes down what it would ask a newcomer.
    """

    ready: str
    known: Callable[[Desk], None]


@dataclass(frozen=True, slots=True)
class Desk:
    """An agent at work for a node at `url`: `folder` is its own, as is `home`. `place` shuts it off from all else."""

    agent: CodingAgent
    url: str
    folder: Path
    home: Path
    place: ShutOff | None

    def settings(self, model: str) -> dict[str, str]:
        """Write down what clients.toml says for `model`; the variables that it says, too."""
        for name, text in self.agent.files.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(text(model))
        lines = self.agent.entry.lines(self.url, KEY, model, CONTEXT_TOKENS)
        if self.agent.settings_file is None:
            return dict(line.split("=", 1) for line in lines)
        file = self.home / self.agent.settings_file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
        return {}

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in KEPT}
        if (needed := self.agent.needs_node) is not None:
            kept["PATH"] = f"{Path(node_program(needed)).parent}{os.pathsep}{kept['PATH']}"
        return {**kept, "HOME": str(self.home), **self.agent.environment, **self.agent.quiet, **variables}

    def command(self, task: str, model: str, *more: str) -> list[str]:
        """The program with its words for `task`."""
        return [*self.before, str(self.agent.program()), *self.words(task, *self.agent.with_model(model), *more)]

    def words(self, task: str, *more: str) -> list[str]:
        agent = self.agent
        return [*agent.first, *agent.quiet_words, *more, *agent.ask, task]

    @property
    def before(self) -> Sequence[str]:
        return () if self.place is None else self.place.command

    @contextmanager
    def started(self, task: str, *more: str, model: str) -> Generator[subprocess.Popen[str]]:
        """The agent at `task`, with its settings; killed at the end, with all that it started."""
        with self.running(self.command(task, model, *more), self.environment(**self.settings(model))) as process:
            yield process

    @contextmanager
    def running(self, command: Sequence[str], environment: Mapping[str, str]) -> Generator[subprocess.Popen[str]]:
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            too_late = threading.Timer(AGENT_S, os.killpg, (process.pid, signal.SIGKILL))
            too_late.start()
            try:
                yield process
            finally:
                too_late.cancel()
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    @asynccontextmanager
    async def at_a_terminal(self, screen: Screen, model: str) -> AsyncGenerator[Typist]:
        """The agent in a terminal; killed at the end, with all that it started."""
        environment = {**self.environment(**self.settings(model)), "TERM": "xterm-256color"}
        screen.known(self)
        words = [*self.agent.with_model(model), *self.agent.quiet_words]
        command = [*self.before, str(self.agent.program()), *words]
        async with at_a_terminal_of(command, environment, self.folder, columns=100, rows=40) as typist:
            try:
                yield typist
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(typist.process.pid, signal.SIGKILL)

    def asked(self, task: str, *more: str, model: str) -> Ended:
        """What it says to `task`, and how it ended."""
        with self.started(task, *more, model=model) as process:
            said, _ = process.communicate()
        return Ended(said, process.returncode)

    def launched(self, task: str, *more: str, model: str = "swarm") -> Ended:
        """The same by `swarm launch`, which knows all that it needs: it has no settings."""
        name = self.agent.entry.name
        launch = [sys.executable, str(ROOT / "main.py"), "launch", "--url", self.url, "--model", model, name]
        environment = self.environment(SWARM_API_KEY=KEY)
        environment["PATH"] = f"{self._named(name).parent}{os.pathsep}{environment['PATH']}"
        with self.running([*self.before, *launch, "--", *self.words(task, *more)], environment) as process:
            said, _ = process.communicate()
        return Ended(said, process.returncode)

    def _named(self, name: str) -> Path:
        """A link to the program by the name that its installer gives it, which packages for one system alone lack."""
        link = self.home / "bin" / name
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(self.agent.program())
        return link


def native(manifest: Path, pattern: str) -> Path:
    """A program of this system among the packages: `pattern` below node_modules."""
    found = [path for path in sorted(npm_packages(manifest).glob(pattern)) if not {"baseline", "musl"} & _words(path)]
    if not found:
        pytest.skip(f"npm has no such program for {sys.platform}: {pattern}")
    return found[0]


def _words(path: Path) -> set[str]:
    return {word for part in path.parts for word in part.split("-")}


def tokenizer_files() -> Path:
    """A folder of encodings as tiktoken keeps them, without which it would fetch them: litellm brings some."""
    found = python_of(CLIENTS / "aider" / "requirements.txt").parents[1].glob("lib/*/site-packages/litellm")
    return next(found) / "litellm_core_utils" / "tokenizers"


def npm_program(group: str, name: str) -> Callable[[], Path]:
    return lambda: npm_packages(CLIENTS / group / "package.json") / ".bin" / name


def _aider_knows(model: str) -> str:
    """What keeps aider from looking for the model among litellm's prices."""
    facts = {"max_input_tokens": CONTEXT_TOKENS, "litellm_provider": "openai", "mode": "chat"}
    return json.dumps({f"openai/{model}": facts})


def _known_to_claude(desk: Desk) -> None:
    known = {"hasCompletedOnboarding": True, "projects": {str(desk.folder): {"hasTrustDialogAccepted": True}}}
    (desk.home / ".claude.json").write_text(json.dumps(known))


def _known_to_codex(desk: Desk) -> None:
    with (desk.home / ".codex" / "config.toml").open("a") as file:
        file.write(f'[projects."{desk.folder}"]\ntrust_level = "trusted"\n')


QWEN_QUIET: Final = '{"privacy": {"usageStatisticsEnabled": false}, "general": {"enableAutoUpdate": false}}'

CLAUDE_CODE = CodingAgent(
    "claude-code",
    program=lambda: native(CLIENTS / "claude_code" / "package.json", "@anthropic-ai/claude-code-*/claude"),
    ask=("-p",),
    may_work=("--allowedTools", "Read,Write,Edit"),
    with_model=lambda model: ("--model", model),
    screen=Screen("❯", _known_to_claude),
    says_of_unknown="There's an issue with the selected model ({}). It may not exist",
)
CODEX = CodingAgent(
    "codex",
    program=npm_program("codex", "codex"),
    first=("exec", "--skip-git-repo-check"),
    settings_file=".codex/config.toml",
    environment={"SWARM_API_KEY": KEY},
    quiet_words=("-c", "analytics.enabled=false", "--disable", "plugins"),
    may_work=("--dangerously-bypass-approvals-and-sandbox",),
    screen=Screen("Ask Codex to do anything", _known_to_codex),
)
OPENCODE = CodingAgent(
    "opencode",
    program=lambda: native(CLIENTS / "opencode" / "package.json", "opencode-*/bin/opencode"),
    first=("run",),
    settings_file=".config/opencode/opencode.json",
    quiet={"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "npm_config_offline": "true"},
)
CONTINUE = CodingAgent(
    "continue",
    program=npm_program("continue_cli", "cn"),
    ask=("-p",),
    settings_file=".continue/config.yaml",
    may_work=("--auto",),
    needs_node=(20, 0),
    still_asks=frozenset({"api.continue.dev"}),
)
AIDER = CodingAgent(
    "aider",
    program=lambda: python_of(CLIENTS / "aider" / "requirements.txt").with_name("aider"),
    first=("--no-git", "--no-show-model-warnings", "--yes-always"),
    ask=("--message",),
    quiet={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    quiet_words=("--no-check-update", "--analytics-disable"),
    files={".aider.model.metadata.json": _aider_knows},
)
QWEN_CODE = CodingAgent(
    "qwen-code",
    program=npm_program("qwen_code", "qwen"),
    with_model=lambda _: ("--auth-type", "openai"),
    files={".qwen/settings.json": lambda _: QWEN_QUIET},
    may_work=("--approval-mode", "auto-edit"),
    needs_node=(22, 0),
)
PI = CodingAgent(
    "pi",
    program=npm_program("pi", "pi"),
    ask=("-p",),
    settings_file=".pi/agent/models.json",
    with_model=lambda model: ("--provider", "swarm", "--model", model),
    needs_node=(20, 6),
)
AGENTS: Final = (CLAUDE_CODE, CODEX, OPENCODE, CONTINUE, AIDER, QWEN_CODE, PI)
