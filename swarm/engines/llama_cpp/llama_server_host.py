"""Run as a module, the engine host of a `llama-server` program: see `server_host.py`.

The program is a child of the host, and ends with it: the host kills it when the node is gone, which its standard input
tells; on Linux the system does, should the host itself be killed; and the node ends the group of both. The program's
key is in its environment, which `ps` shows to nobody else, and its log comes through a pipe, of which the last lines
say why it ended. Everything here blocks.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO

from hardware.command import Failed, RunTool, TimedOut, ToolOutcome, ToolOutput, explain, run_tool
from swarm.engines.engine import Device, EngineSpec
from swarm.engines.llama_cpp.llama_program import (
    AFTER_SEVERAL_ANSWERS,
    KEY_VARIABLE,
    LAST_LINES,
    OLDEST,
    UPDATE,
    LlamaProgram,
    command,
    is_other_program,
    listening_port,
    placed,
    said_by_program,
    why_it_ended,
)
from swarm.engines.llama_cpp.server_host import Batching, Serving, files_words, passed_on, serve, tell
from swarm.errors import EngineFailed

ASKED_S = 20.0  # for one question: the first use of a GPU's driver takes seconds
PORT_TAKEN = re.compile(r"couldn't bind|could not bind|address already in use|invalid port", re.IGNORECASE)
LOOK_S, MOST_LOOK_S = (
    0.02,
    0.25,
)  # between two looks at whether the model is loaded; a small one takes a tenth of a second
ANSWER_S = 600.0  # of one question: a large model may be read from a slow disk as its first token is computed
EXIT_S = 5.0  # until a program has ended that gave no answer: its connections are closed a little before
PORTS_TRIED = 5  # of a program that cannot take any free one itself: another program may be quicker
PLACED_LINES = 2000  # of a log from its beginning, in which it tells where the weights go
PR_SET_PDEATHSIG = 1
GRAMMAR = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a+$"}}, "required": ["a"]}
PARTS = (  # of its HTTP that we need, each with what it is asked, and what its answer has
    ("/props", None, "total_slots"),
    ("/metrics", None, "n_decode_total"),
    ("/apply-template", {"messages": [{"role": "user", "content": "a"}]}, "prompt"),
    ("/tokenize", {"content": "a", "with_pieces": True}, "piece"),
)


def asked_program(
    path: Path, devices: tuple[Device, ...] | None = None, run: RunTool = run_tool, limit_s: float = ASKED_S
) -> LlamaProgram:
    """What the program says of itself; `devices` where they are known already. Blocks, for at most 3 times `limit_s`.

    Raises EngineFailed, with the remedy, for one that is no llama.cpp server, too old, hangs, or cannot run here.
    """
    version = _said(path, "--version", run, limit_s)
    help_text = _said(path, "--help", run, limit_s)
    lists = devices is None and "--list-devices" in help_text
    listed = _said(path, "--list-devices", run, limit_s) if lists else ""
    program = said_by_program(path, version, help_text, listed)
    return program if devices is None else replace(program, devices=devices)


def _said(path: Path, option: str, run: RunTool, limit_s: float) -> str:
    """All that it prints, on either stream."""
    match run((str(path), option), limit_s):
        case ToolOutput(stdout, stderr):
            return f"{stdout}\n{stderr}"
        case Failed(_, int() as code, stdout, stderr):
            if is_other_program(text := f"{stdout}\n{stderr}"):
                return text
            raise why_it_ended(text.splitlines(), code, path, None)
        case TimedOut():
            raise EngineFailed(
                f"{path} did not answer {option} within {limit_s:.0f} s: it is no llama.cpp server, or the driver of "
                "this machine's GPU hangs: name another with --llama-server, or take it off the PATH"
            )
        case other:
            raise EngineFailed(f"{path} cannot be run: {explain(other)}: name another with --llama-server")


def run_beside(argv: Sequence[str], timeout_s: float) -> ToolOutcome:
    """As `run_tool`, for a host: what it asks ends with it, however it ends."""
    try:
        ran = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, preexec_fn=ends_with_its_parent(),
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return TimedOut(argv[0], timeout_s)
    except OSError as error:
        return Failed(argv[0], None, "", f"cannot be started: {error}")
    stdout, stderr = ran.stdout.decode("utf-8", "replace"), ran.stderr.decode("utf-8", "replace")
    return Failed(argv[0], ran.returncode, stdout, stderr) if ran.returncode else ToolOutput(stdout, stderr)


AskProgram = Callable[
    ..., tuple[int, str]
]  # of a path, and a body to be posted: the status, 0 without an answer, and text


class Program:
    """A running llama-server. `lines` are the last of its log, `first_lines` those until it served."""

    def __init__(self, arguments: list[str], program: str, key: str, files: tuple[int, ...] = ()) -> None:
        self.path = program
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self.first_lines: list[str] = []
        self.port: int | None = None
        self.process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(key),
            pass_fds=files,
            preexec_fn=ends_with_its_parent(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True, name="log")
        self._reader.start()

    def _read(self, log: IO[bytes]) -> None:
        for raw in log:
            line = raw.decode("utf-8", "replace").rstrip()
            self.lines.append(line)
            if len(self.first_lines) < PLACED_LINES:
                self.first_lines.append(line)
            if (port := listening_port(line)) is not None:
                self.port = port

    def ended(self) -> int:
        """Waits for its end, and returns its exit code once the last of its log is read."""
        code = self.process.wait()
        self._reader.join(1.0)  # a child of its own might hold the pipe
        return code

    def has_ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def environment(key: str) -> dict[str, str]:
    """Of the program: what this host was given, but for options that would be another server's."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}, KEY_VARIABLE: key}


def ends_with_its_parent() -> Callable[[], None] | None:
    """What a child does before it becomes another program, so that the system ends it with the thread that started it.

    None where the system does no such thing.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask


class ProgramHttp:
    """A server's HTTP, asked with its key: the status, and the body as text. `unanswered`: some question was."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.unanswered = False

    def __call__(self, path: str, body: object = None) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request(
                "GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers
            )
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except (OSError, HTTPException):
            self.unanswered = True
            return 0, ""
        finally:
            connection.close()


def started(program: LlamaProgram, spec: EngineSpec, batching: Batching, embeds: bool) -> tuple[Program, ProgramHttp]:
    """The program with its model loaded. Raises EngineFailed with the reason and a remedy.

    It takes a free port by itself and tells it; one that cannot is given one, which another program may take before it.
    """
    assert spec.build is not None
    assert spec.build.program is not None
    path, port, left = spec.build.program, 0, PORTS_TRIED
    while True:
        key = secrets.token_hex(16)
        try:
            running = Program(command(program, spec, batching, port, embeds), str(path), key, passed_on(spec))
        except OSError as error:
            raise EngineFailed(f"{path} cannot be started: {error}: install it anew") from error
        asked = until_ready(running, port, key)
        if asked is not None:
            return running, asked
        running.kill()
        running.ended()
        if not left or not (running.port == 0 or any(map(PORT_TAKEN.search, running.lines))):
            raise why_it_ended(list(running.lines), running.ended(), path, files_words(spec))
        port, left = free_port(), left - 1


def until_ready(running: Program, port: int, key: str) -> ProgramHttp | None:
    """Waits until its model is loaded. None for one that ended before, or that listens nowhere: on port 0, it says."""
    look_s = LOOK_S
    while running.process.poll() is None and running.port != 0:
        number = port or running.port
        if number is not None:
            asked = ProgramHttp(number, key)
            if asked("/health")[0] == HTTPStatus.OK:  # until then it is loading
                return asked
        time.sleep(look_s)
        look_s = min(look_s * 1.2, MOST_LOOK_S)
    return None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def refuse_too_old(asked: AskProgram, program: LlamaProgram) -> None:
    """Raises EngineFailed for a server that lacks a part of the HTTP that we speak."""
    for path, body, part in PARTS:
        status, text = asked(path, body)
        # A model without a chat template is refused in its own words, which is an answer.
        if status == HTTPStatus.NOT_FOUND or (status == HTTPStatus.OK and part not in text):
            raise EngineFailed(
                f"this llama-server ({program.version}) is too old: its {path} does not answer as needed; {OLDEST} is "
                f"about the oldest that can be used: {UPDATE}"
            )


def answers_while_embedding(asked: AskProgram) -> bool:
    """Some builds that were told to embed refuse to write."""
    status, text = asked("/completion", {"prompt": "a", "n_predict": 0, "cache_prompt": False})
    return status == HTTPStatus.OK or "not support completions" not in text


def start(spec: EngineSpec, batching: Batching) -> Serving:
    """See `serve`."""
    assert spec.build is not None
    assert spec.build.program is not None
    program = asked_program(spec.build.program, spec.build.devices, run_beside)
    embeds = True
    running, asked = started(program, spec, batching, embeds)
    _running.append(running)
    refuse_too_old(asked, program)
    if batching.pooling is None and not answers_while_embedding(asked):
        _end()
        embeds = False
        running, asked = started(program, spec, batching, embeds)
        _running.append(running)
    grammar, several = True, True
    if batching.pooling is None:
        tried = {"prompt": "a", "n_predict": 0, "cache_prompt": False, "json_schema": GRAMMAR}
        grammar = asked("/completion", tried)[0] == HTTPStatus.OK
        several = program.has(AFTER_SEVERAL_ANSWERS) is not None or makes_several(asked, spec)
    if asked.unanswered and running.has_ended_within(EXIT_S):  # a GPU's memory may run out as it computes first
        raise why_it_ended(list(running.lines), running.ended(), running.path, files_words(spec))
    where = placed(running.first_lines, program.devices, spec.gpu_layers)
    elsewhere = {part.address: part.node for part in spec.parts}
    devices = tuple(elsewhere.get(words, words) for words in where.devices)
    own = set(where.devices) - elsewhere.keys()
    return Serving(
        f"http://127.0.0.1:{asked.port}", asked.key, spec.build.version, bool(own), devices,
        where.gpu_layers, where.layers, running.process.pid, embeds, several, grammar,
    )  # fmt: skip


def makes_several(asked: AskProgram, spec: EngineSpec) -> bool:
    """Whether one request can have two answers."""
    if spec.slots < 2:
        return False
    status, text = asked("/v1/completions", {"prompt": "a", "max_tokens": 1, "n": 2})
    return status == HTTPStatus.OK and '"index":1' in text.replace(" ", "")


def tell_when_it_ends() -> None:
    """Once it serves: a server that ends by itself ends this host, which says why."""

    def wait(running: Program) -> None:
        code = running.ended()
        if running not in _running:  # it was to end
            return
        tell({"ended": str(why_it_ended(list(running.lines), code, Path(running.path), None))})
        os._exit(1)

    threading.Thread(target=wait, args=(_running[-1],), daemon=True, name="end").start()


def _end() -> None:
    while _running:
        _running.pop().kill()


_running: list[Program] = []


if __name__ == "__main__":
    serve(start, tell_when_it_ends, _end)
