"""The question which model to serve, on a real terminal: answered, misread, left open, and interrupted."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from swarm.commands.terminal import Terminal
from swarm.errors import SetupError
from swarm.registry.file_hashes import WorkStopped
from tests.e2e.node_process import PROGRAM, environment

ENDED_S = 20.0  # it takes a tenth of a second alone
CTRL_D = b"\x04"
OPTIONS = ("small", "large")


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where a person types what this process reads as its standard input."""
    master, slave = pty.openpty()
    with closing(os.fdopen(master, "r+b", buffering=0)), os.fdopen(slave) as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        yield master


@pytest.mark.parametrize(
    ("typed", "taken", "complaint"),
    [
        (b"\n", 0, ""),
        (b"2\n", 1, ""),
        (b" 1 \n", 0, ""),
        (b"3\n2\n", 1, "'3' is not"),
        (b" qwen3:4b\n", "qwen3:4b", ""),
    ],
)
def test_a_number_or_a_name_is_taken_and_another_number_asked_again(
    typist: int, capsys: pytest.CaptureFixture[str], typed: bytes, taken: int | str, complaint: str
) -> None:
    os.write(typist, typed)
    assert Terminal().choose("Which?", OPTIONS) == taken
    assert complaint in capsys.readouterr().out


def test_the_end_of_the_input_is_no_choice(typist: int) -> None:
    os.write(typist, CTRL_D)
    with pytest.raises(SetupError, match=r"--model.*--auto"):
        Terminal().choose("Which?", OPTIONS)


@pytest.mark.usefixtures("typist")
def test_a_question_that_is_taken_back_ends() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(WorkStopped):
        Terminal().choose("Which?", OPTIONS, stop)


class _Reachable(BaseHTTPRequestHandler):
    """A hub of which only this much is asked: whether it is there."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Not among the output of the tests."""


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Reachable) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def read_until(master: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        assert select.select([master], [], [], ENDED_S)[0], seen
        seen += os.read(master, 4096)
    return seen


def test_the_first_ctrl_c_at_the_question_ends_the_program(hub: str, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    told = {**environment(tmp_path), "HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path / "hub")}
    command = (*PROGRAM, "--port", "0", "--data-dir", str(tmp_path / "data"))
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=told, start_new_session=True)
    os.close(slave)
    with closing(os.fdopen(master, "r+b", buffering=0)):
        try:
            read_until(master, b"number (Enter for 1")
            process.send_signal(signal.SIGINT)  # what the terminal makes of Ctrl-C
            assert process.wait(ENDED_S) == 0
        finally:
            process.kill()
            process.wait(ENDED_S)
