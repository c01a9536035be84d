"""What models, peers, nodes and files say is only shown: whatever it is, a terminal does nothing else with it.

One test finds prints around the one place that writes; the others run every command that shows others' words under a
pseudo-terminal against somebody who says the worst, and look at each byte that reaches it.
"""

from __future__ import annotations

import ast
import asyncio
import fcntl
import io
import json
import logging
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from federation import wire
from federation.advertisement import NodeDescription, PeerHint, PeerHints, ServedModel
from swarm.commands import output
from swarm.commands.screen import LiveView, console, words
from swarm.logs import LogFormatter
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.typist import ScreenText
from tests.e2e.node_process import PROGRAM

ROOT = Path(__file__).parents[2]
COMMAND_S = 60.0  # each takes under a second; processes start slowly beside other tests on two cores

# Nobody may reach the terminal with these: title, clipboard, link, colours, conceal, screen, cursor, 8-bit forms,
# device control, overwriting, bidirectional overrides, invisible characters, forged lines, half a surrogate.
WORST = (
    "A\x1b]0;owned\x07B\x1b]52;c;cm0gLXJm\x07C\x1b]8;;http://evil\x1b\\D\x1b[8mE\x1b[2J\x1b[HF\x9b31mG\x9d0;x\x9cH"
    "\x1bP+q544e\x1b\\I\rJ\x08K\u202eL\u2066M\u200bN\x1bcO\x1b(0P\x00Q\x7fR\x85S\u2028T\nforged: line\x1b"
)
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|2?K|1A)|\r(?=\x1b\[(?:2?K|1A))")
FULL_SCREEN = re.compile(r"\x1b\[\?1049h\x1b\[H|\x1b\[\?25[hl]|\x1b\[\?1049l")
STREAMED = [*WORST, "\x1b", "]0;ti", "tle\x07", "\r", "\n", "\x9d", "8;;", "x\n", "[red]x[/red] :smile: ", "the end"]


def stray(written: str, *, draws: bool) -> list[str]:
    """What a terminal may act on, beyond lines and, where the command `draws`, its own few sequences."""
    text = written.replace("\r\n", "\n")  # the terminal's own way to write a new line
    text = OWN.sub("", text).removeprefix("\r") if draws else text
    return [repr(char) for char in text if not (char.isprintable() or char in "\n\t")]


class Terminal:
    """What a command wrote to a terminal of 80 by 24 until it ended, or `until` something was there."""

    def __init__(self, *arguments: str | Path, until: str | None = None, typed: bytes = b"", **more: str) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        odd = ("NO_COLOR", "COLUMNS", "LINES", "SWARM_API_KEY")
        kept = {name: value for name, value in os.environ.items() if name not in odd}
        environment = {**kept, "TERM": "xterm", "PYTHONUTF8": "1", **more}
        command = [*PROGRAM, *map(str, arguments)]
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
            os.close(slave)
            watchdog = threading.Timer(COMMAND_S, process.kill)
            watchdog.start()
            try:
                with closing(os.fdopen(master, "r+b", buffering=0)) as screen:
                    screen.write(typed)
                    self.written = ""
                    for piece in pieces(screen.fileno()):
                        self.written += piece.decode("utf-8", "surrogateescape")
                        if until is not None and until in self.written and process.poll() is None:
                            process.send_signal(signal.SIGINT)
                            until = None
                self.exit_code = process.wait(COMMAND_S)
            finally:
                watchdog.cancel()


def pieces(master: int) -> Iterator[bytes]:
    """What comes out of a terminal until its last program has gone, which Linux tells by an error."""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            return
        if not piece:
            return
        yield piece


# The one place that writes

# Who else may touch the standard streams, and why.
ALLOWED = {
    "swarm/commands/output.py": "the place",
    **dict.fromkeys(
        (
            "swarm/engines/llama_cpp/server_host.py",
            "swarm/engines/llama_cpp/xllamacpp_host.py",
            "swarm/engines/llama_cpp_python/library.py",
            "swarm/engines/mlx/library.py",
            "swarm/engines/hosted/host.py",
            "swarm/tools/search_worker.py",
            "swarm/tools/page_text.py",
        ),
        "JSON for the parent process, through a pipe, and a log that is a file",
    ),
    "swarm/tools/page_text.py": "a page's text for the parent process, through a pipe, which cleans it",
}
MENTIONS = {  # of a stream: whether it is a terminal, to hand it to `output`
    "main.py": {"sys.stderr.write("},  # a constant, for a Python that can import nothing of ours
    "swarm/commands/terminal.py": {"is_terminal(sys.stdout)", "show_share(sys.stdout"},
    "swarm/commands/bench.py": {"is_terminal(sys.stderr)", "show_share(sys.stderr"},
    "swarm/commands/parser.py": {"file is sys.stderr"},
    "swarm/commands/chat.py": {"is_terminal(sys.stdout)", "may_redraw(sys.stdout", "MarkdownScreen(sys.stdout)"},
    "swarm/commands/chat_talk.py": {"terminal_size(sys.stdout)"},
    "swarm/commands/members.py": {'write(sys.stdout, f"\\n{qr_text('},  # squares, of a code of this node's own
    "swarm/commands/live_part.py": {"LivePart(sys.stdout)", "may_redraw(sys.stdout"},
    "swarm/commands/top.py": {"may_redraw(sys.stdout", "console(sys.stdout)", "terminal_size(sys.stdout)"},
    "swarm/commands/running_models.py": {"may_redraw(sys.stdout", "console(sys.stdout"},
    "swarm/commands/agent_screen.py": {
        "is_terminal(sys.stdout)",
        "may_redraw(sys.stdout",
        "show_progress(sys.stdout",
        "write(sys.stdout, json.dumps(",
    },
    "swarm/commands/vote.py": {"Screen(sys.stdout", "may_redraw(sys.stdout"},
}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
WRITERS = {"StreamHandler", "print_exc", "print_exception", "print_stack", "print_tb", "pprint", "print_help"}


def writes_around(source: str, mentions: set[str]) -> list[str]:
    """The places in a module's source that write to a terminal themselves."""
    found: list[str] = []
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call | ast.Attribute | ast.ImportFrom):
            continue
        words, line = f"line {node.lineno}", lines[node.lineno - 1]
        match node:
            case ast.Call(func=ast.Name("print")):
                found.append(words)
            case ast.Call(func=ast.Name("input"), args=[*prompts]) if not all(
                isinstance(prompt, ast.Constant) for prompt in prompts
            ):
                found.append(words)
            case ast.Call(func=ast.Attribute(ast.Name("os"), "write"), args=[ast.Constant(1 | 2), *_]):
                found.append(words)
            case ast.Attribute(ast.Name("sys"), name) if name in STREAMS:
                if not any(mention in line for mention in mentions):
                    found.append(words)
            case ast.Call(func=ast.Attribute(_, name) | ast.Name(name)) if name in WRITERS:
                if "LogFormatter" not in source:  # the one handler, with the one formatter
                    found.append(words)
            case ast.ImportFrom("sys", names) if any(alias.name in STREAMS for alias in names):
                found.append(words)
            case _:
                pass
    return found


def test_nothing_prints_around_the_one_place_that_cleans() -> None:
    found: dict[str, list[str]] = {}
    ours = [path for part in ("swarm", "federation", "hardware") for path in (ROOT / part).rglob("*.py")]
    for path in [ROOT / "main.py", *ours]:
        name = path.relative_to(ROOT).as_posix()
        if name not in ALLOWED and (around := writes_around(path.read_text("utf-8"), MENTIONS.get(name, set()))):
            found[name] = around
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "print(peer.name)",
        "import sys\nsys.stdout.write(x)",
        "import sys\nprint_to = sys.stderr",
        "from sys import stdout",
        "import os\nos.write(1, x)",
        "input(f'{name}> ')",
        "import traceback\ntraceback.print_exc()",
        "import logging\nlogging.StreamHandler()",
    ],
)
def test_that_test_finds_them(source: str) -> None:
    assert writes_around(source, set())


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_whatever_passes_that_place_is_clean(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, write_through=True))
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    output.say(WORST)
    output.say_line(WORST)
    output.complain(WORST)
    stream = output.Stream()
    for piece in STREAMED:
        stream.show(piece)
    assert not stray(raw.getvalue().decode(encoding), draws=False)
    output.draw(sys.stdout, f"\r\x1b[K{WORST}\x1b[1;31mred\x1b[0m\x1b[1A\x1b[2K")
    assert not stray(raw.getvalue().decode(encoding), draws=True)
    sys.stdout.detach()  # type: ignore[attr-defined]


# What names look like that mean something to rich
MARKUP = "[red]x[/red] [link=http://evil]y[/link] :smile: [/] [@click=quit]z \\[b]"


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", "80"), ("LINES", "24"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


def worst_renderables() -> list[RenderableType]:
    table = Table("name", "said", box=None)
    table.add_row(words(WORST), words(MARKUP))
    table.add_row(WORST, MARKUP)  # forgotten `words`: nothing gets through either
    return [
        words(WORST, "warn"),
        WORST,
        MARKUP,
        Text(WORST),
        table,
        Markdown(f"# {WORST}\n\n[a]({WORST}) {MARKUP}\n\n```\n{WORST}\n```", hyperlinks=True),
        Panel(Text(WORST), title=Text(WORST)),
        Group(WORST, Padding(WORST, 1)),
    ]


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize("full_screen", [False, True])
def test_what_rich_draws_of_the_words_of_others_is_only_shown(full_screen: bool) -> None:
    out = ScreenText()
    shown = console(out)
    for renderable in worst_renderables():
        with LiveView(shown, full_screen=full_screen) as view:
            view.update(renderable, refresh=True)
            view.update(Group(renderable, renderable), refresh=True)
        shown.print(renderable)
    shown.set_window_title(WORST)
    shown.bell()
    written = out.getvalue()
    if full_screen:
        assert len(FULL_SCREEN.findall(written)) == 4 * len(worst_renderables())
        written = FULL_SCREEN.sub("", written).replace("\x1b[H", "")
    assert not stray(written, draws=True)
    assert "\x1b[8m" not in written
    assert MARKUP in written
    assert "evil" in written, "only as text"
    assert "owned" not in written


@pytest.mark.usefixtures("sized")
def test_the_words_of_others_stay_one_line_as_they_are() -> None:
    out = ScreenText()
    console(out).print(words(MARKUP), words("a\nforged: b\x1b[31m"), soft_wrap=True)
    assert out.getvalue() == f"{MARKUP} a forged: b\n"


def test_a_control_sequence_is_not_completed_by_what_is_drawn_around_it() -> None:
    """Half a sequence at the end of somebody's words would take the next ones into itself."""
    out = ScreenText()
    shown = console(out)
    shown.print(Text.assemble("a\x1b[", ("31mb\x1b]0;", "win"), "title\x07c"))
    assert not stray(out.getvalue(), draws=True)
    assert "title" in out.getvalue()


# Somebody who says the worst


def hostile_view() -> dict[str, Any]:
    """/v1/federation/health with others' words wherever it has words."""
    peer = {
        "id": WORST, "name": WORST, "url": WORST, "state": WORST, "models": [WORST], "rtt_ms": 1.0, "last_seen_s": 1.0,
        "slots_free": 1, "source": WORST,
    }  # fmt: skip
    change = {"id": WORST, "peer": WORST, "state": "dead", "reason": WORST, "at": "2026-01-01T00:00:00Z", "times": 2}
    upstream = {
        "host": WORST,
        "mode": WORST,
        "reach": WORST,
        "model": WORST,
        "models": 1,
        "requests": 1,
        "problem": WORST,
    }
    return {
        "status": WORST,
        "node": {"id": WORST, "name": WORST, "url": WORST, "version": WORST, "mode": WORST},
        "trust": {"mode": "paired", "problem": WORST, "absent": [{"id": WORST, "name": WORST}]},
        "upstream": upstream,
        "upstreams": [upstream, upstream],
        "models": {WORST: [WORST]},
        "peers": [peer, {**peer, "state": "dead"}],
        "changes": [change],
        "rejected": [{"address": WORST, "source": "static", "why": WORST, "reason": WORST}],
        "names": [{"name": WORST, "addresses": [], "problem": WORST}],
        "sources": [{"source": WORST, "problem": WORST}],
    }  # fmt: skip


def hostile_models() -> dict[str, Any]:
    """/v1/models, and what every other question of the measurements is answered with."""
    return {"data": [{"id": WORST}], "error": {"message": WORST}, "choices": [{"message": {"content": WORST}}]}


def events(*contents: str) -> bytes:
    """A streamed chat in so many pieces, with the account of a vote."""
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": content}}]} for content in contents]
    account = {"strategy": "single", "winner": WORST, "elapsed_ms": 1}
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "swarm": account})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


Answers = Callable[[str], tuple[int, bytes]]


@contextmanager
def saying(answers: Answers) -> Generator[str]:
    """A server whose answers depend on the path."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, body = answers(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


REFUSAL = json.dumps({"error": {"message": WORST, "type": "invalid_request_error", "code": WORST}}).encode()


@pytest.mark.parametrize(
    ("answers", "command", "shown"),
    [
        (lambda _: (200, json.dumps(hostile_view()).encode()), ("status",), "no peer at A"),
        (lambda _: (404, REFUSAL), ("status",), "swarm: A"),
        (lambda _: (500, REFUSAL), ("chat", "--", "hello"), "swarm: A"),
        (lambda _: (200, events(WORST)), ("chat", "hello"), "ABCDEFGHI"),
        (lambda _: (200, events(*STREAMED)), ("chat", "hello"), "the end"),
        (lambda _: (200, b"data: " + REFUSAL + b"\n\n"), ("chat", "hello"), "swarm: A"),
        (lambda _: (400, REFUSAL), ("vote", "hello"), "swarm: A"),
        (lambda _: (200, b"data: " + REFUSAL + b"\n\n"), ("vote", "hello"), "swarm: A"),
        (lambda _: (200, WORST.encode("utf-8", "replace")), ("status",), "swarm: "),
        (
            lambda _: (200, json.dumps(hostile_models()).encode()),
            ("bench", "votes", "--limit", "2"),
            "no plain text (A",
        ),
        (lambda _: (400, REFUSAL), ("bench", "votes"), "swarm: "),
    ],
    ids=[
        "status",
        "status refused",
        "chat refused",
        "chat",
        "chat in pieces",
        "chat fails",
        "vote refused",
        "vote fails",
        "rubbish",
        "bench",
        "bench refused",
    ],
)
def test_what_a_hostile_node_says_is_only_shown(answers: Answers, command: tuple[str, ...], shown: str) -> None:
    with saying(answers) as url:
        name, *question = command
        words = [name, "--url", url, *question] if name != "bench" else [*command, "--url", url]
        terminal = Terminal(*words)
    assert shown in terminal.written
    assert not stray(terminal.written, draws=name in ("vote", "bench", "chat"))
    assert "\x1b[8m" not in terminal.written
    assert "\nforged: line" not in terminal.written.replace("\r\n", "\n") or name == "chat", "only an answer has lines"


def test_what_the_doctor_meets_is_only_shown(tmp_path: Path) -> None:
    """A node on its own port, and a peer, that say the worst of themselves."""

    def answers(path: str) -> tuple[int, bytes]:
        if path == "/v1/federation/health":
            return 200, json.dumps(hostile_view()).encode()
        return 200, json.dumps({"id": WORST, "name": WORST, "version": WORST, "protocol": WORST, "url": WORST}).encode()

    with saying(answers) as url, saying(lambda _: (500, REFUSAL)) as other:
        port, peer = url.rpartition(":")[2], other.removeprefix("http://")
        terminal = Terminal("doctor", "--port", port, "--peer", peer, "--data-dir", tmp_path)
    assert "peer 127.0.0.1" in terminal.written
    assert not stray(terminal.written, draws=False)
    assert "\nforged: line" not in terminal.written.replace("\r\n", "\n")


async def test_what_a_hostile_model_says_is_only_shown() -> None:
    engine = ScriptedEngine(lambda _, __: STREAMED, model_id="m")
    async with RunningNode("kitchen", ready(engine)) as kitchen:
        url = kitchen.address.url
        for command in (("chat", "hello"), ("vote", "--votes", "3", "hello"), ("status",)):
            name, *rest = command
            terminal = await asyncio.to_thread(Terminal, name, "--url", url, *rest)
            assert terminal.exit_code in (0, 1)
            assert not stray(terminal.written, draws=name in ("vote", "chat")), name
            assert "\x1b[8m" not in terminal.written
            if name != "status":
                assert "the end" in terminal.written
                assert "[red]x[/red]" in terminal.written, "what means something to rich is text, too"


def test_what_a_hostile_peer_says_is_only_shown(tmp_path: Path) -> None:
    """A real node meets a peer whose every word is the worst, and something else; its console and log show it."""
    model = ServedModel(id=WORST, slots=1, slots_free=1)
    peer = NodeDescription(id="evil", name=f"x{WORST}"[:60], version=WORST[:60], url="http://x", models=(model,))
    raw = json.loads(peer.model_dump_json())
    raw |= {"name": f"x{WORST}"[:60], "version": WORST[:60], "models": [{**raw["models"][0], "id": WORST}]}
    hint = json.loads(PeerHints(peers=(PeerHint(id="a", name="b", host="10.255.255.1", port=1),)).model_dump_json())
    hint["peers"][0]["name"] = WORST[:60]

    def answers(path: str) -> tuple[int, bytes]:
        if path == wire.NODE_PATH:
            return 200, json.dumps(raw).encode()
        return (200, json.dumps(hint).encode()) if path == wire.PEERS_PATH else (500, REFUSAL)

    with saying(answers) as url, saying(lambda _: (200, REFUSAL)) as no_node:
        terminal = Terminal(
            *("--model", "demo", "--host", "127.0.0.1", "--port", "0", "--name", "kitchen", "--data-dir", tmp_path),
            *("--log-level", "debug", "--peer", url.removeprefix("http://"), "--peer", no_node.removeprefix("http://")),
            until="+ peer x",
        )
    assert "+ peer x" in terminal.written
    assert not stray(terminal.written, draws=False)
    assert "\nforged" not in terminal.written.replace("\r\n", "\n")


def test_what_files_are_called_is_only_shown(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    bad = WORST.replace("\x00", "").replace("/", "")[:80]
    shutil.copy(ROOT / "models/demo/demo.gguf", models / f"{bad}.gguf")
    (models / f"rubbish{bad}.gguf").write_bytes(b"GGUF" + bytes(100))
    for command in (("models", "list"), ("models", "rm", bad), ("models", "pull", bad), ("--model", bad)):
        terminal = Terminal(*command, "--data-dir", tmp_path)
        assert not stray(terminal.written, draws=False), command
    peers = tmp_path / "control.json"
    peers.write_text('{"port": 1, "secret": "x", "pid": 1}')
    assert not stray(Terminal("peers", "--data-dir", tmp_path).written, draws=False)


def test_a_traceback_is_only_shown() -> None:
    code = f"from swarm.commands.output import clean_tracebacks\nclean_tracebacks()\nraise ValueError({WORST!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "ValueError: ABC" in done.stderr
    assert not stray(done.stderr, draws=False)


def test_a_log_line_is_one_line_and_a_traceback_is_no_entry() -> None:
    formatter = LogFormatter("%(asctime)s %(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.INFO, "f", 1, "peer %s left", (WORST,), None)
    assert "\n" not in formatter.format(record)
    assert not stray(formatter.format(record), draws=False)
    try:
        raise ValueError(f"{WORST}\n2026-01-01 00:00:00,000 INFO all is well")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    first, *rest = formatter.format(record).split("\n")
    assert first.endswith("ERROR failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert not stray("\n".join(rest), draws=False)
