"""Real nodes whose engine hangs, or whose library will not let go: they stay quick, mend themselves, and stop in time.

The engine is hung by a real grammar, sent to llama.cpp's own listener past all checks (`tests/doubles/wedges.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest

from federation.tasks import cancel_and_wait
from tests.doubles.opened_node import GONE_VARIABLE, LEAST_VARIABLE
from tests.doubles.wedges import send_wedge
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually

PROGRAM: Final = (sys.executable, str(Path(__file__).resolve().parents[1] / "doubles" / "opened_node.py"))
MENDED_S = 30.0  # the promise: from a wedge to a model that answers
QUICKLY_S = 20.0  # far above what anything here takes on two busy cores
LEFT_S = 15.0  # a stop that waits for the library takes for ever
GONE_S = 3.0
WORKED_S = 0.5  # of computing; nothing that a node does by itself takes as much


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, least_s: float | None = 2.0) -> NodeProcess:
    if least_s is not None:
        monkeypatch.setenv(LEAST_VARIABLE, str(least_s))
    return NodeProcess("kitchen", folder, arguments=arguments, program=PROGRAM)


def engines(node: NodeProcess) -> list[dict[str, str]]:
    """What the node tells of each engine that it has loaded."""
    return [json.loads(line) for line in node.output.splitlines() if line.startswith("{")]


@dataclass
class Looks:
    """What a node said of itself, again and again."""

    live_s: list[float] = field(default_factory=list[float])
    ready: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


async def look(url: str, looks: Looks) -> None:
    """Ask a node whether it lives and is ready, until cancelled."""
    async with aiohttp.ClientSession() as session:
        while True:
            begun = time.perf_counter()
            async with session.get(f"{url}/livez") as response:
                assert response.status == 200
            looks.live_s.append(time.perf_counter() - begun)
            async with session.get(f"{url}/readyz") as response:
                looks.ready.append((response.status, (await response.json()).get("reason", "")))
            await asyncio.sleep(0.05)


_number = itertools.count()


async def ask(url: str) -> tuple[int, dict[str, Any], int]:
    """A chat's status, body, and Retry-After (0 where there is none). Each asks something else, no pill."""
    question = {"role": "user", "content": f"hello {next(_number)}"}
    body = {"model": "demo", "messages": [question], "max_tokens": 4, "swarm": {"votes": 1}}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as response:
        return response.status, await response.json(), int(response.headers.get("Retry-After", 0))


async def hung(node: NodeProcess) -> tuple[Looks, asyncio.Task[None], asyncio.Task[None], float]:
    """A node whose engine has just been hung: how it is looked at from now on, the tasks of both, and when it was."""
    await node.ready()
    (engine,) = engines(node)
    looks = Looks()
    looking = asyncio.create_task(look(node.url, looks))
    begun = time.monotonic()
    wedge = asyncio.create_task(send_wedge(engine["address"], engine["key"]))
    return looks, looking, wedge, begun


async def at_it(process: psutil.Process) -> None:
    """Return when a process has computed for a while: a wedge has arrived."""
    before = process.cpu_times().user

    async def works() -> bool:
        return process.cpu_times().user - before > WORKED_S

    await eventually(works, QUICKLY_S, "the engine is at it")


async def until_answered(node: NodeProcess, within_s: float) -> None:
    async def answered() -> bool:
        return (await ask(node.url))[0] == 200

    await eventually(answered, within_s, "the model answers again")


async def ended(*tasks: asyncio.Task[None]) -> None:
    for error in await cancel_and_wait(*tasks):
        raise error


@pytest.mark.parametrize("arguments", [(), ("--isolate",), ("--in-process",)], ids=["ours", "isolated", "in process"])
async def test_a_wedge_is_mended_while_the_node_stays_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    with opened(tmp_path, monkeypatch, *arguments) as node:
        looks, looking, wedge, _ = await hung(node)
        assert ("a hang of the library is this node's" in node.output) == ("--in-process" in arguments)
        assert ("node's process" in engines(node)[0]["where"]) == ("--isolate" not in arguments)

        async def not_ready() -> bool:
            return any(status == 503 for status, _ in looks.ready)

        await eventually(not_ready, QUICKLY_S, "the node says that it is not ready")
        await eventually(lambda: counted(node), QUICKLY_S, "the engine is loaded again", until=lambda n: n == 2)
        await until_answered(node, QUICKLY_S)
        before = len(looks.ready)

        async def ready_again() -> bool:
            return (200, "") in looks.ready[before:]

        await eventually(ready_again, QUICKLY_S, "the node says that it is ready")
        await ended(looking, wedge)
        reasons = [reason for status, reason in looks.ready if status == 503]
        assert any("has made no step" in reason for reason in reasons), reasons
        assert "engine host" in engines(node)[1]["where"], "what broke is loaded in a process of its own"
        assert all(status in (200, 503) for status, _ in looks.ready)
        node.send(signal.SIGTERM)
        assert await node.ended(LEFT_S) == 0, node.logs()
        await node.says("made no step")


async def counted(node: NodeProcess) -> int:
    return len(engines(node))


@pytest.mark.slow
async def test_a_wedge_is_mended_within_half_a_minute_with_the_limits_of_every_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, monkeypatch, "--isolate", least_s=None) as node:
        _, looking, wedge, begun = await hung(node)
        await eventually(lambda: counted(node), 2 * MENDED_S, "the engine is loaded again", until=lambda n: n == 2)
        await until_answered(node, MENDED_S)
        took_s = time.monotonic() - begun
        await ended(looking, wedge)
        print(f"wedge to answer: {took_s:.1f} s")  # noqa: T201
        assert took_s <= MENDED_S


async def test_requests_are_told_when_to_come_back_while_a_model_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H3: it was 404, "available: none"."""
    with opened(tmp_path, monkeypatch, "--isolate") as node:
        await node.ready()
        seen: list[tuple[int, dict[str, Any], int]] = []
        for deaths in range(1, 4):
            await eventually(lambda: counted(node), QUICKLY_S, "it is loaded", until=lambda n, d=deaths: n == d)
            (host,) = psutil.Process(node.pid).children()
            host.kill()

            async def refused() -> bool:
                seen.append(await ask(node.url))
                return seen[-1][0] == 503 and "is not running" in seen[-1][1]["error"]["message"]

            await eventually(refused, QUICKLY_S, "a request is refused")
        status, body, retry_after_s = seen[-1]
        assert status == 503
        assert 1 <= retry_after_s <= 4
        assert "its file is suspect" in body["error"]["message"]
        async with aiohttp.ClientSession() as session, session.get(f"{node.url}/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["swarm", "demo"]
        await until_answered(node, QUICKLY_S)
        assert {status for status, *_ in seen} <= {200, 502, 503}, seen


async def test_an_engine_that_hangs_ends_with_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with SIGKILL, a node ends nobody: its engine hosts notice that by themselves."""
    with opened(tmp_path, monkeypatch, "--isolate", least_s=None) as node:
        _, looking, wedge, _ = await hung(node)
        (host,) = psutil.Process(node.pid).children()

        await at_it(host)
        looking.cancel()
        node.kill()

        async def gone() -> bool:
            return not host.is_running() or host.status() == psutil.STATUS_ZOMBIE

        await eventually(gone, QUICKLY_S, "its host is gone")
        await wedge
        await asyncio.gather(looking, return_exceptions=True)


async def test_a_stop_does_not_wait_for_an_engine_that_hangs_in_the_nodes_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2: SIGTERM was ignored for 70 s, because the library's destructor waits and holds the GIL."""
    with opened(tmp_path, monkeypatch, "--in-process", least_s=None) as node:
        _, looking, wedge, _ = await hung(node)
        await at_it(psutil.Process(node.pid))
        looking.cancel()
        node.send(signal.SIGTERM)
        assert await node.ended(LEFT_S) == 0, node.logs()
        await wedge
        await asyncio.gather(looking, return_exceptions=True)


async def test_a_library_that_holds_the_gil_cannot_hold_up_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GONE_VARIABLE, str(GONE_S))
    with opened(tmp_path, monkeypatch, "--hold-gil", least_s=None) as node:
        await node.ready()
        node.send(signal.SIGTERM)
        assert await node.ended(LEFT_S) == 1
        assert "Timeout (0:00:03)!" in node.errors
        assert "never_closed" in node.errors, "it says where it hung"
