"""Which source files of the house a chat vote, a peer's way in and a model's way to its first token pass.

Real nodes are run, one of them watched by `walk_tracer.py`. No module is named here: any commit can be measured.

* chat: a streamed vote by majority over two peers, on the node that was asked, from the accepted socket to the answer's
  last byte. The node itself serves another model, so that it does not vote.
* mdns: from a service announcement to an answered probe and what that leads to (the peer is asked whom it knows); then
  the functions that hand on what stands for this peer when the node is asked who serves which model.
* model: what a start with `--model demo` runs that a start without a model does not; then, for a chat, the functions of
  `swarm/workers/` and `swarm/engines/` up to the first token.

A file is passed where one of its functions is at most NEAR calls from a coroutine of the walk: coroutines are the way,
a reader follows what they call and what that calls, and takes the helpers of helpers at their word. Those count as
`touched` only. Not counted are what the node does besides, what runs while modules are imported, and constructors that
dataclasses generate. This is a property of functions, so that merging two files never makes a walk longer.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zeroconf import ServiceInfo, Zeroconf

TRACER = Path(__file__).with_name("walk_tracer.py")
WAIT_S = 60.0  # a start takes two or three seconds while it is watched
LOOK_S = 0.05
NOWHERE = "127.0.0.1:9"  # where nobody answers
TOKENS = ("swarm/workers/", "swarm/engines/")

NEAR = 2  # calls from a coroutine, or from what began a thread, to the furthest function that is counted

T = TypeVar("T")
Function = tuple[str, ...]  # its file, its name, its kind


@dataclass(frozen=True, slots=True)
class Walk:
    """What one walk passes.

    `files` are those that are passed, `touched` all in which a function ran. `hand_offs` are pairs of the `files` of
    which one calls the other, or starts its task. `generators` are the asynchronous ones that were inside each other
    at most, by the function that their task begins with: an item passes through them.
    """

    files: tuple[str, ...]
    touched: tuple[str, ...]
    hand_offs: tuple[tuple[str, str], ...]
    generators: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node of the checkout in a process of its own."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def said(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def port(self) -> int:
        found = re.search(r"API\s+http://127\.0\.0\.1:(\d+)/", self.said)
        assert found is not None, self.said
        return int(found[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> None:
        """Return once it says so; RuntimeError where it ends instead."""
        until(self._is_ready, "a node is ready")

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"a node ended:\n{self.said}{(self.folder / 'err').read_text()}")
        return "\nready: " in self.said

    def serving(self, model: str) -> int:
        """How many nodes it would ask for `model`."""
        self.ready()
        told = json.loads(self.ask("GET", "/v1/models"))["data"]
        return next((len(entry["nodes"]) for entry in told if entry["id"] == model), 0)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, follow: str | None = None) -> bytes:
        """The answer to a request on a connection of its own, which the tracer follows as `follow`."""
        with socket.socket() as connection:
            connection.bind(("127.0.0.1", 0))
            if follow is not None:
                (self.folder / "follow").write_text(f"{connection.getsockname()[1]} {follow}")
            connection.settimeout(WAIT_S)
            connection.connect(("127.0.0.1", self.port))
            client = http.client.HTTPConnection("127.0.0.1")
            client.sock = connection
            content = None if body is None else json.dumps(body)
            client.request(method, path, content, {"Content-Type": "application/json", "Connection": "close"})
            answer = client.getresponse()
            told = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {told.decode()}")
        return told

    def trail(self) -> dict[str, Any]:
        """What it passed since the last time, or since its start."""
        known = set(self.folder.glob("trail-*.json"))
        self.process.send_signal(signal.SIGUSR2)
        (new,) = until(lambda: set(self.folder.glob("trail-*.json")) - known, "the trail is written")
        return json.loads(new.read_text())


def until(look: Callable[[], T], what: str) -> T:
    """What `look` gives as soon as that is true."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(LOOK_S)
    raise TimeoutError(f"not within {WAIT_S:.0f} s: {what}")


@contextmanager
def node(root: Path, *arguments: str, watched: bool = False) -> Generator[RunningNode]:
    """A node of the checkout at `root` on a free port of this machine, from its start to its end."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as files:
        folder = Path(name)
        out, err = (files.enter_context((folder / each).open("wb")) for each in ("out", "err"))
        program = [str(TRACER), name, str(root)] if watched else [str(root / "main.py")]
        options = ("--host", "127.0.0.1", "--port", "0", "--threads", "1", "--data-dir", str(folder / "data"))
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("SWARM_", "PYTHON"))}
        process = subprocess.Popen(
            [sys.executable, *program, *options, *arguments],
            cwd=folder,
            env=variables | {"HOME": name},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        try:
            yield RunningNode(process, folder)
        finally:
            process.kill()
            process.wait()


def near(trail: dict[str, Any]) -> set[Function]:
    """The functions at most NEAR calls from a coroutine of the walk."""
    calls: dict[Function, set[Function]] = {}
    for caller, called in trail["calls"]:
        calls.setdefault(tuple(called), set())
        if caller is not None:
            calls.setdefault(tuple(caller), set()).add(tuple(called))
    begun = {tuple(called) for caller, called in trail["calls"] if caller is None}
    reached = {each for each in calls if each[2] or each in begun} | {tuple(each) for each in trail["held"]}
    for _ in range(NEAR):
        reached |= {called for each in reached for called in calls.get(each, ())}
    return reached


def walk_of(trail: dict[str, Any], is_counted: Callable[[Function], bool] = lambda _: True) -> Walk:
    """What was passed, of the functions that count."""
    functions = {tuple(called) for _, called in trail["calls"]} | {tuple(each) for each in trail["held"]}
    counted = {each for each in functions if is_counted(each)}
    files = {file for file, _, _ in counted & near(trail)}
    calls = {(caller[0], called[0]) for caller, called in trail["calls"] if caller and is_counted(tuple(called))}
    hand_offs = {(one, other) for one, other in calls | {*map(tuple, trail["starts"])} if {one, other} <= files}
    return Walk(
        tuple(sorted(files)),
        tuple(sorted({file for file, _, _ in counted})),
        tuple(sorted((one, other) for one, other in hand_offs if one != other)),
        trail["generators"],
    )


def question(model: str, **swarm: object) -> dict[str, Any]:
    """A streamed chat."""
    words = [{"role": "user", "content": "Calculate 12 + 7 - 3"}]
    return {"model": model, "messages": words, "max_tokens": 8, "stream": True, "swarm": swarm}


def chat(root: Path) -> Walk:
    """A vote over two peers."""
    with node(root, "--model", "demo") as one, node(root, "--model", "demo") as other:
        one.ready()
        other.ready()
        peers = ("--peer", one.url.removeprefix("http://"), "--peer", other.url.removeprefix("http://"))
        with node(root, "--engine", "echo", "--model", "elsewhere", *peers, watched=True) as asked:
            asked.ready()
            until(lambda: asked.serving("demo") == 2, "two nodes serve demo")
            asked.trail()
            told = asked.ask("POST", "/v1/chat/completions", question("demo", strategy="majority", votes=3), "walk")
            assert told.rstrip().endswith(b"[DONE]"), told
            return walk_of(asked.trail()["walk"])


def mdns(root: Path) -> Walk:
    """A service announcement that becomes a peer, which knows another."""
    echo = ("--engine", "echo", "--model")
    with node(root, *echo, "beyond", "--peer", NOWHERE) as beyond, ExitStack() as stack:
        beyond.ready()
        there = stack.enter_context(node(root, *echo, "there", "--peer", beyond.url.removeprefix("http://")))
        hearing = stack.enter_context(node(root, *echo, "here", "--federation", watched=True))
        until(lambda: there.serving("beyond"), "the two others know each other")
        hearing.ready()
        (hearing.folder / "peer").write_text(there.url)
        hearing.trail()
        stack.enter_context(announcement(json.loads(there.ask("GET", "/federation/v1/node")), there.port))

        def found() -> bool:
            told = json.loads(hearing.ask("GET", "/v1/models", follow="looking"))["data"]
            return {"there", "beyond"} <= {entry["id"] for entry in told}

        until(found, "the node that was heard of is asked, and so is whom it knows")
        return walk_of(hearing.trail()["walk"])


@contextmanager
def announcement(there: dict[str, Any], port: int) -> Generator[None]:
    """That a node is on this machine is announced on its loopback interface, as the node itself would."""
    service = "_local-swarm._tcp.local."
    properties = {"id": there["id"], "v": "1", "n": there["name"], "p": "open"}
    name = f"walk {there['id'][:12]}.{service}"
    info = ServiceInfo(service, name, port, addresses=[bytes((127, 0, 0, 1))], properties=properties)
    with Zeroconf(interfaces=["127.0.0.1"]) as network:
        network.register_service(info, cooperating_responders=True)
        yield


def model(root: Path) -> Walk:
    """A model's name that becomes tokens."""
    with node(root, "--upstream", f"http://{NOWHERE}", "--upstream-mode", "only", watched=True) as without:
        without.ready()
        common = {tuple(called) for _, called in without.trail()["everything"]["calls"]}
    with node(root, "--model", "demo", watched=True) as loading:
        loading.ready()
        start = loading.trail()["everything"]
        loading.ask("POST", "/v1/chat/completions", question("demo", strategy="single") | {"max_tokens": 1}, "walk")
        tokens = walk_of(loading.trail()["walk"], lambda function: function[0].startswith(TOKENS))
    loaded = walk_of(start, lambda function: function not in common)
    return Walk(
        tuple(sorted({*loaded.files, *tokens.files})),
        tuple(sorted({*loaded.touched, *tokens.touched})),
        tuple(sorted({*loaded.hand_offs, *tokens.hand_offs})),
        tokens.generators,
    )


WALKS: dict[str, Callable[[Path], Walk]] = {"chat": chat, "mdns": mdns, "model": model}
