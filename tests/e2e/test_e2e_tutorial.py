"""What `docs/start.md` says, typed word for word on three machines, by somebody with an empty home."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.network import Machine, Network
from tests.e2e.node_process import ROOT, environment
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.netns

PAGE: Final = ROOT / "docs" / "start.md"
BLOCK: Final = re.compile(r"^```sh (?P<machine>\w+)\n(?P<command>.*?)^```$", re.MULTILINE | re.DOTALL)
STEP: Final = re.compile(r"^## (?P<number>\d+)\. ", re.MULTILINE)
RUN: Final = "./scripts/run"  # makes an environment, which these tests run in already
CODE: Final = re.compile(r"swarm1\w+")
READY_S: Final = 30.0
JOIN_S: Final = 20.0
COMMAND_S: Final = 60.0  # the doctor waits for answers of the network


@dataclass(frozen=True)
class Typed:
    """One block of the page: what is typed where, and in which step."""

    step: int
    machine: str
    command: str


@dataclass
class Person:
    """Who follows the page: a home on each machine, and a terminal in which a node runs."""

    machines: dict[str, Machine]
    folder: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])
    code: str = "CODE"

    def command(self, machine: str, text: str) -> tuple[str, ...]:
        said = text.replace(RUN, f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'main.py'))}")
        return self.machines[machine].command("sh", "-c", said.replace("CODE", self.code))

    def home(self, machine: str) -> Path:
        home = self.folder / machine
        home.mkdir(exist_ok=True)
        return home

    def start(self, stack: ExitStack, machine: str, text: str) -> None:
        """In a terminal of its own, until `stack` ends."""
        out = stack.enter_context((self.home(machine) / "out.txt").open("wb"))
        process = subprocess.Popen(
            self.command(machine, f"exec {text}"),
            cwd=ROOT,
            env=environment(self.home(machine)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        self.nodes[machine] = process

    async def ready(self, machine: str) -> None:
        async def says_ready() -> bool:
            said = (self.home(machine) / "out.txt").read_text()
            assert self.nodes[machine].poll() is None, said
            return "\nready" in said

        await eventually(says_ready, READY_S, f"{machine} is ready")

    async def type(self, machine: str, text: str) -> str:
        """What it prints; fails where it ends with anything but 0."""
        done = await asyncio.to_thread(
            subprocess.run,
            self.command(machine, text),
            cwd=ROOT,
            env=environment(self.home(machine)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"{machine}$ {text}\n{done.stdout}"
        return done.stdout

    async def sees(self, machine: str, others: set[str]) -> None:
        async def status() -> str:
            return await self.type(machine, f"{RUN} status")

        await eventually(status, JOIN_S, f"{machine} sees {others}", until=lambda said: all(o in said for o in others))


def typed_blocks(page: str) -> list[Typed]:
    starts = [(found.start(), int(found["number"])) for found in STEP.finditer(page)]
    return [
        Typed(max(number for at, number in starts if at < block.start()), block["machine"], block["command"].strip())
        for block in BLOCK.finditer(page)
    ]


@pytest.fixture
def person(network: Network, tmp_path: Path) -> Person:
    return Person({machine.name: machine for machine in network.machines}, tmp_path)


async def test_three_machines_in_ten_minutes(person: Person) -> None:
    blocks = typed_blocks(PAGE.read_text(encoding="utf-8"))
    said: dict[int, list[str]] = {}
    with ExitStack() as stack:
        for block in blocks:
            if block.step == 6:  # "Stop the study's node with Ctrl-C"
                person.nodes["study"].send_signal(signal.SIGINT)
                await asyncio.to_thread(person.nodes["study"].wait, COMMAND_S)
            if "--federation" in block.command:
                person.start(stack, block.machine, block.command)
                await person.ready(block.machine)
                continue
            if block.step == 2:
                await person.sees(block.machine, set(person.machines))
            printed = await person.type(block.machine, block.command)
            said.setdefault(block.step, []).append(printed)
            if found := CODE.search(printed):
                person.code = found[0]
        assert sorted(said) == [2, 3, 4, 5, 6]
        assert all(name in said[2][0] for name in person.machines), said[2][0]
        assert all(printed.strip() for printed in said[3] + said[6])
        vote, curl = said[4]
        assert re.search(r"\b716\b", vote), vote
        assert '"swarm":' in curl
        assert '"kind":"number"' in curl.replace(" ", "")
        *_, members = said[5]
        assert {"study", "attic"} <= set(re.findall(r"\w+", members)), members
