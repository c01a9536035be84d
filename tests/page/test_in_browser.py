"""The page in a real browser, by Playwright and the system's Chromium: `browser/page.test.mjs` on three real nodes.

`browser/large.test.mjs` is on a real node that has nineteen peers with two hundred models each.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.large_swarm import large_swarm
from tests.doubles.npm_packages import npm_packages
from tests.e2e.node_process import PROGRAM, NodeProcess, environment
from tests.e2e.waiting import eventually

HERE = Path(__file__).parent
NAMES = {"kitchen": "demo", "study": "demo:b", "attic": "demo:c"}
NAMED_KEYS = {"anna": "sk-of-anna", "ben": "sk-of-ben"}
KEY_FILE = f"{NAMED_KEYS['anna']} name=anna requests_a_minute=2\n{NAMED_KEYS['ben']} name=ben tokens_a_day=1000000\n"
BROWSER_S = 300.0  # 20 s alone
MEET_S = 30.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def need_chromium() -> None:
    """Skip where there is none."""
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("needs Chromium")
    assert CHROMIUM is not None, "CI installs Chromium"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """Three nodes that know each other, each with a link that opens its page as its owner; and one with keys, alone.

    They do not announce themselves: those of other tests that run now would be met on the loopback interface, and vote.
    """
    need_chromium()
    folder = tmp_path_factory.mktemp("nodes")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in NAMES]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        peers = [word for port in ports for word in ("--peer", f"127.0.0.1:{port}")]
        running = [
            stack.enter_context(
                NodeProcess(
                    name, folder / name,
                    arguments=("--host", "127.0.0.1", "--port", str(port), "--model", model, *peers),
                )
            )
            for (name, model), port in zip(NAMES.items(), ports, strict=True)
        ]  # fmt: skip
        keys = folder / "keys"
        keys.write_text(KEY_FILE)
        keys.chmod(0o600)
        pantry = stack.enter_context(NodeProcess("pantry", folder / "pantry", arguments=("--api-key-file", str(keys))))

        async def meet() -> None:
            for node in (*running, pantry):
                await node.ready()
            for node in running:
                await eventually(lambda node=node: knows_all(node), MEET_S, f"{node.name} knows the others")

        asyncio.run(meet())
        yield [
            {"name": node.name, "url": node.url, "pid": node.pid, "link": owner_link(node, folder / node.name)}
            for node in running
        ] + [{"name": pantry.name, "url": pantry.url, "keys": NAMED_KEYS}]


async def knows_all(node: NodeProcess) -> bool:
    """Whether a node sees the two others."""
    told = await asyncio.to_thread(command, node, "status", "--url", node.url, "--json")
    return [peer["state"] for peer in told["peers"]] == ["alive"] * (len(NAMES) - 1)


def owner_link(node: NodeProcess, folder: Path) -> str:
    """What `swarm page` prints."""
    return str(command(node, "page", "--data-dir", str(folder / "data"), "--json")["url"])


def command(node: NodeProcess, *words: str) -> Any:
    """The JSON that a command prints."""
    done = subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False, env=environment(Path.home())
    )
    assert done.stdout, f"{node.name}: {done.stderr}"
    return json.loads(done.stdout)


def browse(place: Path, tests: str, nodes: list[dict[str, Any]], keyed: dict[str, Any] | None = None) -> None:
    """Run a file of tests, given these nodes, and perhaps one with keys."""
    shutil.copytree(HERE / "browser", place / "browser")
    (place / "node_modules").symlink_to(npm_packages(HERE / "package.json"))
    given = {
        "SWARM_PAGE_NODES": json.dumps(nodes), "SWARM_PAGE_KEYED": json.dumps(keyed),
        "SWARM_CHROMIUM": str(CHROMIUM), "HOME": str(place),
    }  # fmt: skip
    ended = subprocess.run(
        ["node", "--test", "--test-reporter=spec", f"browser/{tests}"],
        cwd=place, env={**os.environ, **given}, capture_output=True, text=True, timeout=BROWSER_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-8000:]


def test_the_page_in_a_browser(nodes: list[dict[str, Any]], tmp_path: Path) -> None:
    browse(tmp_path, "page.test.mjs", nodes[:-1], nodes[-1])


async def test_a_large_swarm_in_a_browser(tmp_path: Path) -> None:
    need_chromium()
    async with large_swarm() as node:
        await asyncio.to_thread(browse, tmp_path, "large.test.mjs", [{"name": node.name, "url": node.url}])
