"""Where the extra `agent` is not installed a node is as it was: it asks for nothing of it, and the command says how.

Judged in processes in which what that extra alone brings cannot be imported, as in a base install.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.base_install import only_with
from tests.doubles.clients import connect
from tests.e2e.node_process import NodeProcess

ROOT = Path(__file__).resolve().parents[2]
BASE_INSTALL = str(ROOT / "tests" / "doubles" / "base_install.py")
LIBRARY = """\
from pathlib import Path
import sys
sys.path.insert(0, {root!r})
from tests.doubles.base_install import Absent, only_with
sys.meta_path.insert(0, Absent(only_with("agent"), Path({noted!r})))
import swarm, swarm.providers, swarm.node.node, swarm.commands.agent
from swarm.agent import Agent, Tool

def double(number: int) -> int:
    "Twice the number."
    return 2 * number

Agent(tools=[Tool(double, reads_only=True)], votes=5, ahead=3)
"""


def test_the_extra_brings_what_it_is_said_to() -> None:
    """And nothing of it is in the base: with an empty set none of these tests could fail."""
    assert {"pydantic_ai", "openai", "anthropic", "google", "genai_prices"} <= only_with("agent")
    assert not {"aiohttp", "pydantic", "swarm"} & only_with("agent")


async def test_a_node_asks_for_nothing_of_it(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    program = (sys.executable, BASE_INSTALL, str(noted))
    (root := tmp_path / "root").mkdir()
    options = ("--engine", "echo", "--tools", "read,glob", "--tools-root", str(root))
    with NodeProcess("kitchen", tmp_path / "node", program=program, arguments=options) as node:
        await node.ready()
        async with connect(node.url) as client:
            answer = await client.chat("hello", swarm={"votes": 3})
            assert answer.json["choices"][0]["message"]["content"] == "hello"
            tools = await client.get("/v1/tools")
            assert [each["function"]["name"] for each in tools.json["data"]] == ["read", "glob"]
    assert not noted.exists(), noted.read_text()


def test_the_library_can_be_imported_and_an_agent_made(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    program = LIBRARY.format(root=str(ROOT), noted=str(noted))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert not noted.exists(), noted.read_text()


@pytest.mark.parametrize("words", [["agent", "do it"], ["agent", "--json", "do it"]], ids=" ".join)
def test_the_command_says_what_to_install(tmp_path: Path, words: list[str]) -> None:
    noted, home, project = (tmp_path / name for name in ("noted", "home", "project"))
    home.mkdir()
    project.mkdir()
    ended = subprocess.run(
        [sys.executable, BASE_INSTALL, str(noted), *words],
        cwd=project, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(home)},
    )  # fmt: skip
    assert ended.returncode == 2
    assert "pip install 'local-swarm[agent]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert noted.read_text().split()
