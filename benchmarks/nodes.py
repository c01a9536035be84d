"""Start nodes to measure, and stop them: the one the comparison needs, and those a user would start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from load import Endpoint, RunError
from report import ROOT, progress

START_TIMEOUT_S = 180.0  # loading 0.5 GB on a slow disk; a node that takes longer is broken
STOP_TIMEOUT_S = 15.0
MAX_SAID_CHARS = 3000  # of a failed node's log: its last traceback


@dataclass(frozen=True, slots=True)
class NodeUnderTest:
    """A running node: the way in through its gateway, and the way past it to the same engine."""

    gateway: Endpoint
    engine: Endpoint
    model: str
    process: psutil.Process
    child: subprocess.Popen[str]

    def find_engine_at(self, url: str) -> None:
        """Have the node talk to its engine through `url` from now on."""
        _tell(self.child, url)
        if json.loads(_line(self.child))["engine"] != url:
            raise RunError(f"the node did not take {url} for its engine")


@dataclass(frozen=True, slots=True)
class Passage:
    """When a request reached the engine, and when its first content left it."""

    asked: float
    answered: float


@dataclass(frozen=True, slots=True)
class Relay:
    """A running relay between a node and its engine."""

    child: subprocess.Popen[str]

    def passages(self, seeds: Collection[int]) -> dict[int, Passage]:
        """What was noted of the requests with these seeds, all of which have begun to answer."""
        found: dict[int, Passage] = {}
        while len(found) < len(seeds):
            line = json.loads(_line(self.child))
            if line["seed"] in seeds:
                found[line["seed"]] = Passage(line["asked"], line["answered"])
        return found


@dataclass(frozen=True, slots=True)
class CommandLineNode:
    """A node started as a user starts it. `ready_s` is the time from the command to its `ready` line."""

    url: str
    started: float
    ready_s: float
    process: psutil.Process


def random_model(layers: int) -> Path:
    """The random model with so many layers, made once and kept in the user's cache."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.random_model", "--cached", "--layers", str(layers)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return Path(done.stdout.strip())


def _spawn(arguments: Sequence[str], errors: IO[str] | None, **variables: str) -> subprocess.Popen[str]:
    """A child that runs this checkout's code, whatever is installed."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        env={**os.environ, **variables},
    )  # fmt: skip


def said(errors: IO[str]) -> str:
    """The end of what a child wrote to standard error."""
    errors.seek(0)
    return errors.read()[-MAX_SAID_CHARS:]


def _first_line(child: subprocess.Popen[str], beginning: str) -> list[str]:
    """The child's lines up to the one that begins so. Raises RunError if that never comes."""
    assert child.stdout is not None
    alarm = threading.Timer(START_TIMEOUT_S, child.kill)
    alarm.start()
    lines: list[str] = []
    try:
        for line in child.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return lines
    finally:
        alarm.cancel()
    raise RunError(f"the node did not start: {' / '.join(lines)}")


def _tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def _line(child: subprocess.Popen[str]) -> str:
    """The child's next line. Raises RunError if it has ended."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RunError(f"a process of the benchmark ended: {child.args}")
    return line


def _end(child: subprocess.Popen[str]) -> None:
    """Wait for a child that has been told to stop; kill it where it does not."""
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def node_under_test(
    model: Path,
    workers: int,
    context_tokens: int,
    threads: int | None,
    profile: Path | None = None,
    isolation: str = "auto",
) -> Generator[NodeUnderTest]:
    """A node that serves `model` on loopback alone, with its engine's own listener in view."""
    progress(f"loading {model.name}, {workers} workers")
    with tempfile.TemporaryDirectory() as data_dir, tempfile.TemporaryFile("w+") as errors:
        fields: dict[str, Any] = {
            "model": str(model),
            "workers": workers,
            "context": context_tokens,
            "threads": threads,
            "isolation": isolation,
        }
        fields |= {"host": "127.0.0.1", "port": 0, "data_dir": data_dir}
        variables = {} if profile is None else {"SWARM_BENCH_PROFILE": str(profile.resolve())}
        child = _spawn(["-m", "benchmarks.node_under_test", json.dumps(fields)], errors, **variables)
        try:
            ready = json.loads(_first_line(child, "{")[-1])
            yield NodeUnderTest(
                gateway=Endpoint.at(ready["gateway_url"]),
                engine=Endpoint.at(ready["engine_url"], ready["engine_key"]),
                model=ready["model"],
                process=psutil.Process(ready["pid"]),
                child=child,
            )
        except RunError as error:
            error.add_note(said(errors))
            raise
        finally:
            assert child.stdin is not None
            child.stdin.close()
            _end(child)


@contextmanager
def relayed(node: NodeUnderTest) -> Generator[Relay]:
    """The node's way to its engine leads through a relay within the block."""
    engine = f"http://{node.engine.host}:{node.engine.port}"
    child = _spawn(["benchmarks/relay.py", engine], None)
    try:
        node.find_engine_at(_line(child).strip())
        yield Relay(child)
        node.find_engine_at(engine)
    finally:
        assert child.stdin is not None
        child.stdin.close()
        _end(child)


@contextmanager
def command_line_node(*options: str, program: Sequence[str] = ("-m", "swarm.cli")) -> Generator[CommandLineNode]:
    """`swarm OPTIONS` on a free port with an empty data folder, until SIGTERM; or another `program`."""
    with tempfile.TemporaryDirectory() as data_dir, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        child = _spawn([*program, "--port", "0", "--data-dir", data_dir, *options], errors)
        try:
            lines = _first_line(child, "ready")
            ready_s = time.perf_counter() - started
            api = next(word for line in lines for word in line.split() if word.startswith("http"))
            yield CommandLineNode(api.removesuffix("/v1"), started, ready_s, psutil.Process(child.pid))
        except RunError as error:
            error.add_note(said(errors))
            raise
        finally:
            child.terminate()
            _end(child)


@contextmanager
def token_peer(data_dir: Path) -> Generator[tuple[str, psutil.Process]]:
    """A node whose tokens cost next to nothing (`token_peer.py`): where it listens, and its process."""
    with tempfile.TemporaryFile("w+") as errors:
        fields = {"engine": "echo", "host": "127.0.0.1", "port": 0, "name": "peer", "federation": True}
        fields |= {"data_dir": str(data_dir), "workers": 4}
        child = _spawn(["-m", "benchmarks.token_peer", json.dumps(fields)], errors)
        try:
            port = json.loads(_first_line(child, "{")[-1])["port"]
            yield f"127.0.0.1:{port}", psutil.Process(child.pid)
        except RunError as error:
            error.add_note(said(errors))
            raise
        finally:
            assert child.stdin is not None
            child.stdin.close()
            _end(child)
