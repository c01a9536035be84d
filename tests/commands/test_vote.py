"""`swarm vote` in a process of its own: what it shows, what it sends, how it ends."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pyte
import pytest

from swarm.cli import main
from swarm.errors import EngineFailed
from swarm.gateway.http.access import AccessRules, digest
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.e2e.asking import federation_view
from tests.e2e.node_process import PROGRAM, NodeProcess
from tests.e2e.swarm_of_nodes import JOIN_S, Swarm
from tests.e2e.waiting import eventually

COMMAND_S = 30.0  # a vote takes a tenth of a second; processes start slowly beside other tests on two cores
SUM = "Calculate 12 + 7 - 3. End with Answer: N"
SURE = ("--temperature", "0", "--seed", "1")
ESCAPE = "\x1b"


def environment(**more: str) -> dict[str, str]:
    """This process's, without what changes how a terminal is written to."""
    odd = ("NO_COLOR", "COLUMNS", "LINES", "TERM", "SWARM_API_KEY")
    return {**{name: value for name, value in os.environ.items() if name not in odd}, "TERM": "xterm", **more}


def vote(url: str, *arguments: str, question: str = SUM, **more: Any) -> subprocess.CompletedProcess[str]:
    """The finished command, its output in pipes."""
    command = (*PROGRAM, "vote", "--url", url, *arguments, question)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_S, check=False, env=environment(), **more
    )


class Terminal:
    """What the command wrote to a terminal of 80 by 24 columns and rows, and what that shows in the end."""

    def __init__(self, url: str, *arguments: str, question: str = SUM, columns: int = 80, **more: str) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = (*PROGRAM, "vote", "--url", url, *arguments, question)
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment(**more)) as process:
            os.close(slave)
            with closing(os.fdopen(master, "rb", buffering=0)) as output:
                self.written = b"".join(pieces(output.fileno())).decode()
            self.exit_code = process.wait(COMMAND_S)
        screen = pyte.Screen(columns, 24)
        pyte.Stream(screen).feed(self.written)
        self.lines = [line.rstrip() for line in screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def pieces(master: int) -> Iterator[bytes]:
    """What comes out of a terminal until its last program has gone, which Linux tells by an error."""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            return
        if not piece:
            return
        yield piece


# Three real nodes with three different models


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one of three nodes that know each other."""
    folder = tmp_path_factory.mktemp("vote")
    with ExitStack() as stack:
        first = NodeProcess("kitchen", folder / "kitchen", arguments=("--host", "127.0.0.1", "--peer", "127.0.0.1:9"))
        stack.enter_context(first)
        asyncio.run(first.ready())
        joining = ("--host", "127.0.0.1", "--peer", first.url.removeprefix("http://"))
        others = [
            NodeProcess(name, folder / name, arguments=(*joining, "--model", model))
            for name, model in (("study", "demo:b"), ("attic", "demo:c"))
        ]
        swarm = Swarm(others)
        stack.enter_context(swarm)

        async def known() -> bool:
            view = await federation_view(first)
            return view is not None and len(view["models"]) == 3

        asyncio.run(eventually(known, JOIN_S, "the kitchen knows three models"))
        yield first.url


def test_in_a_pipe_each_event_is_a_line_and_the_answer_comes_last(kitchen: str) -> None:
    done = vote(kitchen, "--votes", "3", *SURE)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert ESCAPE not in done.stdout
    assert lines[0].startswith("   asked  2 of 3 voters: 1 demo"), "the least that can decide"
    arrivals = [line for line in lines if re.search(r"ms  \w+@\w+ \(demo\S*\): .*\[", line)]
    assert 2 <= len(arrivals) <= 3
    assert any(line.startswith(" verdict  A: ") for line in lines)
    assert any(line.startswith("    cost  ") for line in lines)
    assert re.match(r"── \w+@\w+ ─+$", next(line for line in lines if line.startswith("──")))
    assert lines[-1] == "Answer: 16"
    assert done.stderr == ""


def test_json_is_one_object_with_everybodys_answer(kitchen: str) -> None:
    done = vote(kitchen, "--votes", "3", "--strategy", "majority", "--json", *SURE)
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert told["answer"].endswith("Answer: 16")
    assert told["swarm"]["strategy"] == "majority"
    assert told["swarm"]["winner"] in {part["voter"] for part in told["swarm"]["candidates"]}
    assert any(part["answer"] == "16" for part in told["swarm"]["candidates"])
    assert done.returncode == 0


def test_jsonl_has_every_moment_and_then_the_end(kitchen: str) -> None:
    told = [json.loads(line) for line in vote(kitchen, "--votes", "3", "--jsonl", *SURE).stdout.splitlines()]
    assert len(told) >= 4, "the start, two arrivals or three, and the end"
    assert all(moment["ballot"]["final"] is False for moment in told[:-1])
    assert [len(moment["ballot"]["candidates"]) for moment in told[:-1]] == list(range(len(told) - 1))
    assert sum(seat["seats"] for seat in told[0]["ballot"]["out"]) >= 2
    assert set(told[-1]) == {"answer", "swarm"}


def test_the_question_may_come_from_standard_input(kitchen: str) -> None:
    done = vote(kitchen, "--json", "--strategy", "single", *SURE, question="-", input=f"{SUM}\n")
    assert json.loads(done.stdout)["answer"].endswith("Answer: 16")
    assert done.returncode == 0


def test_what_the_node_refuses_is_wrong_usage(kitchen: str) -> None:
    for arguments, words in (
        (("--votes", "99"), "swarm.votes"),
        (("--temperature", "9"), "temperature"),
        (("--model", "nope"), "available: demo, demo:b, demo:c"),
    ):
        done = vote(kitchen, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_on_a_terminal_the_ballot_is_drawn_in_place(kitchen: str, columns: int) -> None:
    shown = Terminal(kitchen, "--votes", "3", *SURE, columns=columns)
    assert shown.exit_code == 0, shown.text
    assert shown.written.count("3 voters") >= 3, "drawn at the start, on arrivals, and at the end"
    assert sum("3 voters" in line for line in shown.lines) == 1, shown.text
    assert sum(line.startswith(" stopped") for line in shown.lines) == 1
    assert "█" in shown.text
    assert "16" in shown.text
    assert "\x1b[32m" in shown.written
    assert "asking the swarm" not in shown.text
    assert [line for line in shown.lines if line][-1] == "Answer: 16"


def test_no_color_draws_in_place_without_colours(kitchen: str) -> None:
    shown = Terminal(kitchen, "--votes", "3", *SURE, NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*m", shown.written)
    assert sum("3 voters" in line for line in shown.lines) == 1


def test_a_dumb_terminal_gets_lines(kitchen: str) -> None:
    shown = Terminal(kitchen, "--votes", "3", *SURE, TERM="dumb")
    assert ESCAPE not in shown.written
    assert "asked  2 of 3 voters" in shown.written


def test_a_reader_that_leaves_early_is_no_failure_to_shout_about(kitchen: str) -> None:
    command = (*PROGRAM, "vote", "--url", kitchen, SUM)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(COMMAND_S) == 1


# One node whose voters do as a test says


@pytest.fixture
async def engine() -> ScriptedEngine:
    return ScriptedEngine(saying("yes"), slots=4)


@pytest.fixture
async def node(engine: ScriptedEngine) -> AsyncIterator[RunningNode]:
    async with RunningNode("kitchen", ready(engine)) as node:
        yield node


async def started(node: RunningNode, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *PROGRAM, "vote", "--url", node.url, *arguments, SUM,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(COMMAND_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_ctrl_c_frees_the_workers(node: RunningNode, engine: ScriptedEngine) -> None:
    engine.script = lambda _, voter: ["Answer: 1"] if voter == 0 else ["Answer: ", asyncio.Event()]
    process = await started(node, "--votes", "4")
    assert process.stdout is not None
    assert b"asked  3 of 4 voters" in await process.stdout.readline()
    assert b"[1, " in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = await ended(process)
    await engine.until(lambda engine: engine.running == 0)
    assert engine.cancelled >= 2
    assert (code, out) == (1, "")
    assert err == "swarm: cancelled; the node stops its voters\n"


async def test_a_degraded_verdict_ends_with_1(node: RunningNode, engine: ScriptedEngine) -> None:
    engine.script = lambda _, voter: ["Answer: 1"] if voter == 0 else ["<think>never closed"]
    code, out, _ = await ended(await started(node, "--votes", "4"))
    assert code == 1
    assert " verdict  no consensus, 1 of 4 voted" in out
    assert "abstains: unclosed reasoning" in out
    assert out.endswith("Answer: 1\n"), "the best there is, called what it is"


async def test_when_every_voter_fails_there_is_no_answer(node: RunningNode, engine: ScriptedEngine) -> None:
    engine.script = lambda _, __: [EngineFailed("out of memory")]
    code, out, err = await ended(await started(node, "--votes", "4", "--json"))
    assert (code, out) == (1, "")
    assert "out of memory" in err
    assert "Traceback" not in err


async def test_a_node_that_ends_in_mid_vote_is_said_to_have(node: RunningNode, engine: ScriptedEngine) -> None:
    engine.script = lambda _, voter: ["Answer: 1"] if voter == 0 else ["Answer: ", asyncio.Event()]
    process = await started(node, "--votes", "4")
    assert process.stdout is not None
    await process.stdout.readline()
    await node.stop()
    code, _, err = await ended(process)
    assert code == 1
    assert err.startswith("swarm: ")
    assert "Traceback" not in err


async def test_hostile_answers_reach_no_terminal(node: RunningNode, engine: ScriptedEngine) -> None:
    engine.script = lambda _, __: ["\x1b]0;owned\x07\x1b[2J safe\u202e\x08 \n\nline two"]
    code, out, _ = await ended(await started(node, "--votes", "2"))
    assert code == 0
    assert all(line.isprintable() for line in out.splitlines())
    assert out.endswith(" safe\ufffd\n\nline two\n")


async def test_a_key_is_sent_where_one_is_given() -> None:
    engine = ScriptedEngine(saying("Answer: 1"))
    options = NodeOptions(access=AccessRules(key_digests=(digest("secret"),)))
    async with RunningNode("kitchen", ready(engine), options=options) as node:
        code, _, err = await ended(await started(node))
        assert code == 1
        assert "here: --api-key KEY, or SWARM_API_KEY" in err
        code, out, err = await ended(await started(node, "--api-key", "secret", "--votes", "2"))
        assert (code, err) == (0, "")
        assert "secret" not in out


@pytest.mark.parametrize("question", ["", "   "])
def test_an_empty_question_is_wrong_usage(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", question]) == 2
    assert "the question is empty" in capsys.readouterr().err
