"""Runs a scenario of a client in the interpreter that the client is installed in, where nothing of this tree is.

    python -P scenario_program.py SCENARIO.py '{"url": ..., "key": ...}'

`CELLS` of SCENARIO.py has functions by name, plain or async, which are given a `PlayedByTest` and give what JSON can
say. The program's output are lines of JSON for scenario_process.py: questions about the node, and last of all what each
function gave, or {"raised": TRACEBACK}; "strangers" has the hosts that libraries tried to reach. They reach none but
this machine. What they print goes to its stderr. Modules beside SCENARIO.py can be imported by it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import ipaddress
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast


@dataclass(frozen=True)
class PlayedByTest:
    """The node of the test that runs this, with what may be asked of its model: see played_node.py."""

    channel: IO[str]
    url: str  # without /v1
    key: str
    model: str
    unknown_model: str
    text_task: str
    tool_task: str
    object_task: str
    endless_task: str
    busy_task: str
    settings: dict[str, list[str]]  # of each client, as clients.toml has them

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def written(self, client: str, line: int, model: str | None = None) -> str:
        """That line of what users are told to write into `client`, for this node and `model` (else the one it has)."""
        return self.settings[client][line].format(url=self.url, key=self.key, model=model or self.model)

    def until_busy(self) -> None:
        """Return when an answer is being made. It blocks: an event loop that is to go on needs a thread for it."""
        self._ask({"wait": "busy"})

    def until_idle(self) -> None:
        """Return when every slot is free; the test fails if that is never so."""
        self._ask({"wait": "idle"})

    async def leaves(self, running: asyncio.Future[Any]) -> str:
        """Cancel it in the middle of its answer; when every slot is free again, the name of what it ended with."""
        await asyncio.to_thread(self.until_busy)
        running.cancel()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        await asyncio.to_thread(self.until_idle)
        return type(ended).__name__

    def answered(self, status: int) -> int:
        """How many requests the node has answered with `status`."""
        return self._ask({"answered": status})

    def last_asked(self) -> dict[str, Any]:
        """Whether the newest answer had to fit a `schema`, and the names of the `tools` that it could call."""
        return self._ask({"asked": "last"})

    def _ask(self, question: dict[str, Any]) -> Any:
        print(json.dumps(question), file=self.channel, flush=True)
        return json.loads(sys.stdin.readline())


strangers: list[str] = []


def stay_here(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: no name is looked up and nothing connected to but on this machine; what was tried is kept."""
    if event == "socket.getaddrinfo":
        host: Any = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host, *_ = cast("tuple[Any, ...]", arguments[1])
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    try:
        here = ipaddress.ip_address(name).is_loopback
    except ValueError:
        here = name == "localhost"
    if not here:
        strangers.append(name)
        raise ConnectionRefusedError(f"a test has no business with {name}")


def run(cell: Any, node: PlayedByTest) -> Any:
    try:
        if inspect.iscoroutinefunction(cell):
            return asyncio.run(cell(node))
        return cell(node)
    except Exception:  # noqa: BLE001  the test that asks for this cell fails with it
        return {"raised": traceback.format_exc()}


def main(file: str, told: str) -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.addaudithook(stay_here)
    sys.path.append(str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("scenario", file)
    assert spec is not None
    assert spec.loader is not None
    scenario = importlib.util.module_from_spec(spec)
    sys.modules["scenario"] = scenario  # libraries look up the annotations of its classes there
    spec.loader.exec_module(scenario)
    node = PlayedByTest(channel, **json.loads(told))
    cells = {name: run(cell, node) for name, cell in scenario.CELLS.items()}
    cells["strangers"] = sorted(set(strangers))
    print(json.dumps({"cells": cells}), file=channel, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
