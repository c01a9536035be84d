"""Programs of Node that tests run: clients of a played node, with a Node that is new enough for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.commands.client_settings import ClientEntry
from tests.doubles.npm_packages import npm_packages
from tests.doubles.played_node import (
    BUSY_TASK,
    ENDLESS,
    ENDLESS_TASK,
    KEY,
    MODEL,
    OBJECT_TASK,
    TEXT_TASK,
    THOUGHT_TASK,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
)

NODE = (22, 0)  # what most packages want in 2026; Debian 12 has 18
RUNTIME = Path(__file__).resolve().parents[1] / "clients" / "node_runtime"
REQUESTS = RUNTIME / "requests.mjs"
SAYS_S = 120.0  # a few seconds on an idle machine
ENDS_S = 20.0
TASKS = {
    "text": TEXT_TASK,
    "thought": THOUGHT_TASK,
    "tool": TOOL_TASK,
    "object": OBJECT_TASK,
    "endless": ENDLESS_TASK,
    "busy": BUSY_TASK,
}


def node_program(at_least: tuple[int, int] = NODE) -> str:
    """A Node of that version or a newer one: this machine's, else npm's. Skips where there is neither."""
    if (own := shutil.which("node")) is not None:
        told = subprocess.run([own, "--version"], capture_output=True, text=True, check=True).stdout
        version = re.match(r"v(\d+)\.(\d+)\.", told)
        if version is not None and (int(version[1]), int(version[2])) >= at_least:
            return own
    found = sorted(npm_packages(RUNTIME / "package.json").glob("node-*/bin/node"))
    if not found:
        pytest.skip(f"needs Node {at_least[0]}.{at_least[1]}, which npm does not have for this kind of machine")
    return str(found[0])


def quiet_environment(home: Path, **variables: str) -> dict[str, str]:
    """Nothing of this machine's: what a program finds, it finds in `home`."""
    home.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), **variables}


@contextmanager
def node_scenario(client: ClientEntry, manifest: Path, script: Path, node: PlayedNode, place: Path) -> Iterator[Any]:
    """What `script` tells of `client`, in one line of JSON; it lives until the block ends.

    It runs in `place`, an empty folder, with its neighbours, the packages of `manifest`, and is told where `node` is.
    """
    (place / "node_modules").symlink_to(npm_packages(manifest))
    for file in (*script.parent.glob("*.mjs"), *RUNTIME.glob("*.mjs")):
        shutil.copy(file, place)
    told = {"url": node.url, "key": KEY, "model": MODEL, "unknown": UNKNOWN_MODEL, "endless": ENDLESS, "tasks": TASKS}
    settings = {model: client.lines(node.url, KEY, model, None) for model in (MODEL, UNKNOWN_MODEL)}
    command = [node_program(), script.name, json.dumps({**told, "settings": settings})]
    complaints = place / "stderr.txt"
    with complaints.open("w") as errors:
        program = subprocess.Popen(
            command,
            cwd=place,
            env=quiet_environment(place / "home"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    killer = threading.Timer(SAYS_S, program.kill)
    killer.start()
    try:
        assert program.stdin is not None
        assert program.stdout is not None
        line = program.stdout.readline()
        killer.cancel()
        assert line.startswith("{"), f"{script.name} said {line!r}: {complaints.read_text()[-3000:]}"
        yield json.loads(line)
        program.stdin.close()
        assert program.wait(ENDS_S) == 0, complaints.read_text()[-3000:]
    finally:
        killer.cancel()
        program.kill()  # nothing, where it has ended
        with program:  # closes its pipes, and waits
            pass
