"""Which programs wait for a node whose engine says nothing for six minutes, and what tells them that it lives.

    python -m benchmarks.long_prefill                     # about ten minutes, most of them of waiting
    python -m benchmarks.long_prefill --silent-s 30 --only claude openai

A long prompt on a small machine is minutes without a word. Each program is given a node of its own, with a scripted
engine that is silent for so long before each answer, and asks it once, all of them at the same time, with their own
defaults. A relay between the two notes what the node sends meanwhile: the heartbeats. Some programs ask for more than
the answer (a title), so prompts are counted, and how many of them came again.

The programs come from npm (`long_prefill_programs/package.json`, 0.7 GB into the user's cache folder, once) and from
this environment; `--aider` names a program of its own. Proxies that lead nowhere keep them from anybody but the node.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from report import Environment, parser, progress, read_environment

from federation.tasks import cancel_and_wait
from swarm.consensus.options import Strategy
from swarm.generation import EventStream, GenerationRequest, texts_of
from tests.doubles.npm_packages import npm_packages
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step

HERE = Path(__file__).resolve().parent / "long_prefill_programs"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
SILENT_S = 360.0  # 23,000 tokens at 64 a second
GRACE_S = 120.0  # for a program to start, and to end once it has its answer
TURNS = 3  # of the silence: whoever gives up and asks again is waited for that often
CONTEXT_TOKENS = 262_144
NOWHERE = "http://127.0.0.1:9"  # nobody listens there
READ_BYTES = 2**16
# What a node says while nothing is known, by the name in the table; counted in what passes the relay.
HEARTBEATS = {
    "comments": re.compile(rb"^: .*$", re.MULTILINE),
    "pings": re.compile(rb"^event: ping$", re.MULTILINE),
    "empty deltas": re.compile(rb'"type":"text_delta","text":""'),
    "response.in_progress": re.compile(rb"^event: response\.in_progress$", re.MULTILINE),
    "empty lines of JSON": re.compile(rb'"content":""},"done":false'),
    "times white space": re.compile(rb"^ +\r?$", re.MULTILINE),
}


@dataclass(slots=True)
class Ask:
    """One request at the engine: when it came and ended, on `time.monotonic`, and whether it was answered."""

    said: str
    tools: int
    began: float
    ended: float | None = None
    answered: bool = False


class SilentEngine(ScriptedEngine):
    """Says nothing for `silent_s`, and then its answer."""

    def __init__(self, silent_s: float) -> None:
        super().__init__(self._script, slots=16)
        self.has["context_tokens"] = CONTEXT_TOKENS
        self.asks: list[Ask] = []
        self._silent_s = silent_s

    def _script(self, request: GenerationRequest, _: int) -> Sequence[Step]:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(self._silent_s, over.set)
        return [over, ANSWER]

    async def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        ask = Ask("\n".join(texts_of(request)), len(request.tools), time.monotonic())
        self.asks.append(ask)
        try:
            async for event in super().candidates(request, n):
                yield event
            ask.answered = True
        finally:
            ask.ended = time.monotonic()


@dataclass(slots=True)
class Relay:
    """Between a program and its node: `said` is all that the node has sent."""

    said: bytearray = field(default_factory=bytearray)
    url: str = ""

    @asynccontextmanager
    async def running(self, port: int) -> AsyncGenerator[Relay]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            ways = [
                asyncio.create_task(_copy(reader, back, None)),
                asyncio.create_task(_copy(there, writer, self.said)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_and_wait(*ways)
                back.close()
                writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    @property
    def heartbeats(self) -> str:
        found = Counter({name: len(pattern.findall(self.said)) for name, pattern in HEARTBEATS.items()})
        return ", ".join(f"{count} {name}" for name, count in found.items() if count) or "none"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            if kept is not None:
                kept += data
            writer.write(data)
            await writer.drain()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program is started: its node, a folder of its own, the folder of npm's packages."""

    url: str
    folder: Path
    packages: Path
    aider: str


@dataclass(frozen=True, slots=True)
class Started:
    """How a program is started."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    how: str  # the API, and whether it streams
    start: Callable[[Place], Started]


def _native(place: Place, pattern: str) -> str:
    found = [path for path in sorted(place.packages.glob(pattern)) if not re.search("baseline|musl", str(path))]
    if not found:
        raise SystemExit(f"npm has no such program for {sys.platform}: {pattern}")
    return str(found[0])


def _claude(place: Place) -> Started:
    return Started(
        [_native(place, "@anthropic-ai/claude-code-*/claude"), "-p", QUESTION],
        {
            "ANTHROPIC_BASE_URL": place.url,
            "ANTHROPIC_AUTH_TOKEN": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    )


def _codex(place: Place) -> Started:
    provider = f'{{name="swarm",base_url="{place.url}/v1",wire_api="responses"}}'
    settings = (
        'model="swarm"',
        'model_provider="swarm"',
        f"model_providers.swarm={provider}",
        "analytics.enabled=false",
    )
    words = [word for setting in settings for word in ("-c", setting)]
    program = str(place.packages / ".bin" / "codex")
    return Started([program, "exec", "--skip-git-repo-check", *words, QUESTION])


def _opencode(place: Place) -> Started:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "swarm",
        "options": {"baseURL": f"{place.url}/v1", "apiKey": "none"},
        "models": {"swarm": {"name": "swarm", "limit": {"context": CONTEXT_TOKENS, "output": 4096}}},
    }
    config = {"model": "swarm/swarm", "small_model": "swarm/swarm", "autoupdate": False, "share": "disabled"}
    told = {"OPENCODE_CONFIG_CONTENT": json.dumps({**config, "provider": {"swarm": provider}})}
    return Started([_native(place, "opencode-*/bin/opencode"), "run", QUESTION], told)


def _continue(place: Place) -> Started:
    lines = ["name: Local Swarm", "version: 1.0.0", "schema: v1", "models:", "  - name: swarm", "    provider: openai"]
    lines += ["    model: swarm", f"    apiBase: {place.url}/v1", "    apiKey: none", "    roles: [chat]"]
    config = place.folder / "continue.yaml"
    config.write_text("\n".join(lines) + "\n")
    quiet = {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_ENABLE_TELEMETRY": "0"}
    return Started([str(place.packages / ".bin" / "cn"), "--config", str(config), "-p", QUESTION], quiet)


def _aider(place: Place) -> Started:
    told = {"OPENAI_API_BASE": f"{place.url}/v1", "OPENAI_API_KEY": "none"}
    words = ["--model", "openai/swarm", "--no-show-model-warnings", "--no-git", "--yes-always", "--no-check-update"]
    words += ["--no-analytics", "--no-pretty", "--no-show-release-notes", "--map-tokens", "0", "--message", QUESTION]
    return Started([place.aider, *words], told)


def _python(sdk: str, how: str) -> Callable[[Place], Started]:
    return lambda place: Started([sys.executable, str(HERE / "ask.py"), sdk, how, place.url])


def _node(sdk: str, how: str) -> Callable[[Place], Started]:
    node = shutil.which("node") or "node"
    return lambda place: Started([node, str(HERE / "ask.mjs"), sdk, how, place.url, str(place.packages.parent)])


def _both(name: str, api: str, start: Callable[[str, str], Callable[[Place], Started]], sdk: str) -> list[Program]:
    return [
        Program(name, f"{api}, {how}", start(sdk, word)) for word, how in (("stream", "streamed"), ("whole", "whole"))
    ]


PROGRAMS = [
    Program("Claude Code 2.1.332", "Messages, streamed", _claude),
    Program("Codex 0.171.0", "Responses, streamed", _codex),
    Program("opencode 1.18.33", "Chat, streamed", _opencode),
    Program("Continue's cn 1.5.47", "Chat, streamed", _continue),
    Program("aider 0.86.2", "Chat, streamed", _aider),
    *_both("openai, Python", "Chat", _python, "openai"),
    *_both("openai, Python", "Responses", _python, "openai-responses"),
    *_both("anthropic, Python", "Messages", _python, "anthropic"),
    *_both("ollama, Python", "Ollama's chat", _python, "ollama"),
    *_both("openai, npm", "Chat", _node, "openai"),
    *_both("openai, npm", "Responses", _node, "openai-responses"),
    *_both("@anthropic-ai/sdk, npm", "Messages", _node, "anthropic"),
    *_both("ollama, npm", "Ollama's chat", _node, "ollama"),
    *_both("AI SDK 6", "Chat", _node, "ai-sdk"),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one program."""

    program: Program
    answered: bool
    prompts: int
    repeated: int
    given_up_s: tuple[float, ...]  # of each request that nobody waited for any more, after how long
    heartbeats: str
    took_s: float
    said: str

    @property
    def words(self) -> str:
        left = ", ".join(f"{seconds:.0f} s" for seconds in self.given_up_s)
        if self.answered and not self.given_up_s:
            return "answered"
        return f"gave up after {left}" + (", then answered" if self.answered else "") if left else "no answer"


async def _ended(process: asyncio.subprocess.Process, within_s: float) -> str:
    """What it says until it ends, which it does within that time one way or another; with all that it started."""
    told = b""
    try:
        async with asyncio.timeout(within_s):
            told, _ = await process.communicate()
    except TimeoutError:
        told = b"(had to be ended)"
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            await process.wait()
    return told.decode(errors="replace")


async def examine(program: Program, silent_s: float, packages: Path, aider: str) -> Outcome:
    """Start it against a node of its own, and see what it does."""
    async with AsyncExitStack() as stack:
        engine, relay = SilentEngine(silent_s), Relay()
        node = await stack.enter_async_context(
            RunningNode("kitchen", ready(engine), options=NodeOptions(strategy=Strategy.SINGLE))
        )
        await stack.enter_async_context(relay.running(node.address.port))
        made = tempfile.TemporaryDirectory(prefix="long-prefill-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        home = folder / "home"
        home.mkdir()
        started = program.start(Place(relay.url, folder, packages, aider))
        nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), NOWHERE)
        own = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *started.command,
            cwd=folder,
            env={**kept, **nowhere, **own, "HOME": str(home), **started.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        said = await _ended(process, TURNS * silent_s + GRACE_S)
        took_s = time.monotonic() - began
        heartbeats = relay.heartbeats
    left = tuple(ask.ended - ask.began for ask in engine.asks if not ask.answered and ask.ended is not None)
    prompts = len({(ask.said, ask.tools) for ask in engine.asks})
    outcome = Outcome(
        program, ANSWER in said, prompts, len(engine.asks) - prompts, left, heartbeats, took_s, said.strip()
    )
    progress(f"{program.name} ({program.how}): {outcome.words}, {took_s:.0f} s, {heartbeats}")
    for ask in engine.asks:
        progress(f"    {ask.began - began:.0f} s: {len(ask.said)} characters, {ask.tools} tools")
    if not outcome.answered or left:
        progress("    " + outcome.said[-600:].replace("\n", "\n    "))
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    rows = ["| program | API | | prompts | repeated | heartbeats |", "|---|---|---|--:|--:|---|"]
    rows += [
        f"| {one.program.name} | {one.program.how} | {one.words} | {one.prompts} | {one.repeated} | {one.heartbeats} |"
        for one in outcomes
    ]
    return "\n".join(rows)


def as_json(environment: Environment, outcomes: Sequence[Outcome]) -> str:
    rows = [
        {
            "program": one.program.name,
            "how": one.program.how,
            "answered": one.answered,
            "prompts": one.prompts,
            "repeated": one.repeated,
            "given_up_s": one.given_up_s,
            "heartbeats": one.heartbeats,
            "took_s": one.took_s,
        }
        for one in outcomes
    ]
    told = {"command": environment.command, "commit": environment.commit}
    return json.dumps({"environment": told, "rows": rows}, indent=1)


async def measure(programs: Sequence[Program], silent_s: float, packages: Path, aider: str) -> list[Outcome]:
    return list(await asyncio.gather(*(examine(program, silent_s, packages, aider) for program in programs)))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--silent-s", type=float, default=SILENT_S, help="of the engine before each answer")
    made.add_argument("--only", nargs="+", metavar="WORD", help="programs whose name or API has one of these words")
    made.add_argument("--aider", default=shutil.which("aider") or "", metavar="PROGRAM", help="its own environment's")
    args: argparse.Namespace = made.parse_args()
    environment = read_environment()
    programs = [
        program
        for program in PROGRAMS
        if (args.aider or not program.name.startswith("aider"))
        and (not args.only or any(word.lower() in f"{program.name} {program.how}".lower() for word in args.only))
    ]
    silent_s = 15.0 if args.quick else args.silent_s
    outcomes = asyncio.run(measure(programs, silent_s, npm_packages(HERE / "package.json"), args.aider))
    print("\n" + "  \n".join(environment.lines()) + "\n\n" + table(outcomes))
    if args.json is not None:
        args.json.write_text(as_json(environment, outcomes) + "\n")


if __name__ == "__main__":
    main()
