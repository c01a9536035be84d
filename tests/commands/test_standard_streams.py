"""Standard streams that are closed, full or not read: a command ends quietly, a node goes on serving."""

from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyte
import pytest

from swarm.commands import output
from swarm.commands.terminal import Terminal
from swarm.logs import LineHandler
from tests.doubles.typist import CTRL_C, ScreenText, at_a_terminal
from tests.e2e.node_process import PROGRAM, environment

ENDS_S = 60.0  # far above what any of these takes on a busy machine

FULL = Path("/dev/full")
COMMANDS = [("models", "list"), ("--help",), ("bench", "votes", "--help"), ("--version",), ("doctor", "--hardware")]


def run(*words: str, **streams: object) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *words]
    return subprocess.run(command, text=True, check=False, timeout=ENDS_S, **streams)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_left_is_no_reason_for_words(words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        ended = run(*words, stdout=nobody, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_disk_is_said(words: tuple[str, ...]) -> None:
    with FULL.open("wb") as full:
        ended = run(*words, stdout=full, stderr=subprocess.PIPE)
        assert ended.returncode == 1
        assert ended.stderr == "swarm: the output cannot be written: No space left on device\n"
        assert run("--no-such-option", stderr=full).returncode == 2


def close_all() -> None:
    for descriptor in range(3):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("words", "code"), [(("models", "list"), 0), (("--help",), 0), (("--nonsense",), 2), (("vote", "-"), 2)], ids=str
)
def test_a_command_without_any_stream_has_its_own_code(words: tuple[str, ...], code: int) -> None:
    assert run(*words, preexec_fn=close_all).returncode == code


def test_a_question_that_is_no_text_is_named() -> None:
    for locale in ("C.UTF-8", "C"):
        with Path(sys.executable).open("rb") as program:
            ended = run("vote", "-", stdin=program, stderr=subprocess.PIPE, env=os.environ | {"LC_ALL": locale})
        assert ended.returncode == 2
        assert "standard input cannot be read as text" in ended.stderr


@contextmanager
def node(folder: Path, stderr: int) -> Iterator[tuple[subprocess.Popen[bytes], io.BufferedReader, str]]:
    """A node whose output is a small pipe, which is read as far as its address."""
    options = (
        "--model",
        "demo",
        "--threads",
        "1",
        "--port",
        "0",
        "--log-level",
        "debug",
        "--data-dir",
        folder / "data",
    )
    command = [*PROGRAM, *map(str, options), "--peer", "127.0.0.1:9", "--host", "127.0.0.1"]
    read, write = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(read, "rb") as lines:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=write, stderr=stderr, env=environment(folder)
        )
        os.close(write)
        try:
            while not (found := re.match(rb"^\s*API\s+(http://[^/\s]+)/v1\b", line := lines.readline())):
                assert line, "the node ended"
            yield process, lines, found[1].decode()
        finally:
            process.kill()
            process.wait()


def serves(url: str) -> None:
    for _ in range(200):  # each leaves lines in the log, far more in all than the pipe holds
        with closing(urllib.request.urlopen(f"{url}/v1/federation/health", timeout=ENDS_S)) as answer:
            assert answer.status == 200


def test_a_node_goes_on_when_its_reader_left_and_its_log_is_full(tmp_path: Path) -> None:
    with FULL.open("wb") as full, node(tmp_path, full.fileno()) as (process, lines, url):
        lines.close()
        serves(url)
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDS_S) == 0


def test_a_node_goes_on_when_nobody_reads_what_it_writes(tmp_path: Path) -> None:
    """A terminal where somebody pressed Ctrl-S, a pipe whose reader sleeps: nothing waits for them."""
    with node(tmp_path, subprocess.STDOUT) as (process, _, url):
        serves(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_S) == 0


def test_what_a_node_says_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    terminal = Terminal()
    terminal.say("+ peer kitchen")
    terminal.progress("tiny", 1, 1)
    with pytest.raises(output.OutputLost):
        output.say("what a command shows")
    monkeypatch.setattr(sys, "stderr", Gone())
    output.complain("a problem")


def one_screen(monkeypatch: pytest.MonkeyPatch) -> ScreenText:
    """One terminal that shows both streams."""
    found = ScreenText()
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setattr(sys, "stderr", found)
    return found


@pytest.mark.parametrize(
    "write",
    [
        lambda: output.say("next"),
        lambda: output.complain("next"),
        lambda: LineHandler(output.complain).handle(__import__("logging").makeLogRecord({"msg": "next"})),
        lambda: Terminal().say("next"),
    ],
    ids=["say", "complain", "log", "console"],
)
def test_no_line_is_glued_to_progress(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]) -> None:
    screen = one_screen(monkeypatch)
    Terminal().progress("tiny", 50, 100)
    assert not screen.getvalue().endswith("\n")
    write()
    *_, progress, after, rest = screen.getvalue().split("\n")
    assert "50%" in progress
    assert (after, rest) == ("next", "")


@pytest.mark.parametrize("write", [lambda: output.say("next"), lambda: output.complain("next")], ids=["out", "err"])
def test_how_far_a_load_is_goes_when_it_is_over(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]) -> None:
    screen = one_screen(monkeypatch)
    shown = pyte.Screen(80, 3)
    Terminal().loading("loading demo 99 %, 1 s left", 0.99)
    write()
    pyte.Stream(shown).feed(screen.getvalue().replace("\n", "\r\n"))
    assert [line.rstrip() for line in shown.display] == ["next", "", ""]


def test_progress_that_ends_a_command_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = one_screen(monkeypatch)
    Terminal().progress("tiny", 50, 100)
    output.flush()
    assert screen.getvalue().endswith("\n")


def test_progress_fits_the_terminal_or_it_could_not_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = one_screen(monkeypatch)
    monkeypatch.setenv("COLUMNS", "30")
    Terminal().progress("a-model-with-a-long-name.gguf", 50, 100)
    assert len(screen.getvalue().removeprefix("\r\x1b[K")) < 30


def test_a_log_in_a_file_leaves_progress_in_the_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = one_screen(monkeypatch)
    screen = one_screen(monkeypatch)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    Terminal().progress("tiny", 50, 100)
    output.complain("an entry")
    assert "\n" not in screen.getvalue()


def test_lines_of_many_threads_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = one_screen(monkeypatch)

    def talk(letter: str) -> None:
        for _ in range(200):
            output.say(letter * 50)
            output.show_progress(screen, letter * 10)

    threads = [threading.Thread(target=talk, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line.rpartition("\x1b[K")[2] for line in screen.getvalue().replace("\r", "\n").split("\n")]
    assert sum(len(line) == 50 for line in lines) == 800
    assert all(len(set(line)) <= 1 for line in lines)


async def test_nothing_is_glued_to_the_c_of_ctrl_c(tmp_path: Path) -> None:
    options = (
        "--plain",
        "--model",
        "demo",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path / "data"),
        "--log-level",
        "debug",
    )
    async with at_a_terminal(tmp_path, *options) as me:
        await me.sees("\nready: ")
        me.type(CTRL_C)
        assert await me.left() == 0
        await me.sees("^C\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with at_a_terminal(tmp_path, "vote", "--url", url, "hello") as me:
            await me.sees("asking the swarm")
            me.type(CTRL_C)
            assert await me.left() == 1
            assert "\nswarm: cancelled" in await me.sees("swarm: cancelled")
