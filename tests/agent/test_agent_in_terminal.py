"""`swarm agent` as people use it: in a real terminal, against a real node, with the tools of this machine."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from swarm.cli import main
from swarm.tools.plan import AUTO
from swarm.tools.sandboxed_process import NoSandbox, find_sandbox
from tests.agent.scripted_turns import calls, node_taking, run_it, seen, taking
from tests.doubles.running_node import NodeOptions
from tests.doubles.typist import CTRL_C, CTRL_D, Typist, at_a_terminal_of, of_a_terminal
from tests.doubles.waiting import eventually
from tests.e2e.node_process import PROGRAM, environment

needs_sandbox = pytest.mark.skipif(isinstance(find_sandbox(AUTO), NoSandbox), reason="no sandbox works here")


@asynccontextmanager
async def working(url: str, folder: Path, *words: str) -> AsyncGenerator[Typist]:
    """`swarm agent` in a terminal, in a project below `folder`, which is its home."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    variables = {**of_a_terminal(folder), "TERM": "xterm"}
    async with at_a_terminal_of([*PROGRAM, "agent", "--url", url, *words], variables, project, 160, 50) as me:
        yield me


def wrote(text: str, path: str = "a.txt") -> list[Any]:
    return calls(("write", {"path": path, "content": text}))


async def test_a_task_is_done_after_a_person_has_allowed_what_changes_something(tmp_path: Path) -> None:
    turns = [wrote("hello\n"), calls(("read", {"path": "a.txt"})), ["It says hello."]]
    async with node_taking(*turns) as (node, engine), working(node.url, tmp_path, "write", "hello") as me:
        shown = await me.sees("may write run?")
        assert " 1  write path=a.txt content=" in shown
        await me.sees("content: hello")
        await me.sees("> ")
        me.type(b"perhaps\n")
        await me.sees("may write run?")
        assert not (tmp_path / "project" / "a.txt").exists()
        me.type(b"y\n")
        shown = await me.sees("It says hello.")
        assert " 2  read path=a.txt" in shown
        assert "may read run?" not in shown, "what only reads runs unasked"
        assert await me.left() == 0
        assert (tmp_path / "project" / "a.txt").read_text() == "hello\n"
        assert seen(engine)[0] == ("user", "write hello")


async def test_no_with_a_reason_always_and_an_edit(tmp_path: Path) -> None:
    turns = [wrote("1"), wrote("2"), wrote("3"), wrote("4"), ["Done."]]
    async with node_taking(*turns) as (node, engine), working(node.url, tmp_path, "go") as me:
        await me.sees("may write run?")
        me.type(b"n not that one\n")
        await me.sees("may write run?")
        me.type(b"e\n")
        await me.sees("the arguments as JSON")
        me.type(json.dumps({"path": "b.txt", "content": "mine"}).encode() + b"\n")
        await me.sees("may write run?")
        me.type(b"a\n")
        shown = await me.sees("Done.")
        assert "may write run?" not in shown
        assert await me.left() == 0
        project = tmp_path / "project"
        assert ((project / "b.txt").read_text(), (project / "a.txt").read_text()) == ("mine", "4")
        told = [str(content) for role, content in seen(engine) if role == "tool"]
        assert "not that one" in told[0]


async def test_a_typed_line_steers_and_one_with_a_plus_follows(tmp_path: Path) -> None:
    gate = asyncio.Event()

    def wait_first(_: object, __: int) -> list[Any]:
        return [gate, *calls(("read", {"path": "none"}))]

    async with node_taking(wait_first, ["Steered."], ["Followed."]) as (node, engine):
        async with working(node.url, tmp_path, "go") as me:
            await eventually(lambda: engine.running == 1)
            me.type("use föö instead\n".encode())
            await me.sees("use föö instead\n")
            me.type(b"+and then this\n")
            await me.sees("+and then this\n")
            gate.set()
            await me.sees("+ use föö instead")
            await me.sees("Steered.")
            await me.sees("+ and then this")
            await me.sees("Followed.")
            assert await me.left() == 0
        said = [content for role, content in seen(engine) if role == "user"]
        assert said == ["go", "use föö instead", "and then this"]


async def test_ctrl_c_aborts_the_answer_and_a_second_one_ends(tmp_path: Path) -> None:
    async with node_taking([asyncio.Event()], ["never"]) as (node, engine):
        async with working(node.url, tmp_path, "go") as me:
            await eventually(lambda: engine.running == 1)
            me.type(CTRL_C)
            await me.sees("aborted")
            await eventually(lambda: engine.cancelled == 1)
            await me.sees("Ctrl-C once more ends")
            await me.sees("> ")
            engine.script = lambda _, __: ["Other."]
            me.type(b"do something else\n")
            await me.sees("Other.")
            await me.sees("> ")
            me.type(CTRL_C)
            assert await me.left() == 1
        assert [content for role, content in seen(engine)] == ["go", "do something else"]


@needs_sandbox
async def test_ctrl_c_ends_a_running_command_with_all_that_it_has_started(tmp_path: Path) -> None:
    mark = str(8_000_000 + os.getpid())  # seconds, and nobody else's
    command = f"setsid sleep {mark} & sleep {mark}"
    asleep = lambda: [each for each in psutil.process_iter(["cmdline"]) if mark in (each.info["cmdline"] or [])]  # noqa: E731
    async with (
        node_taking(calls(("bash", {"command": command})), ["Went on."]) as (node, engine),
        working(node.url, tmp_path, "--yes", "bash", "go") as me,
    ):
        await eventually(lambda: len(asleep()) == 2)
        me.type(CTRL_C)
        await me.sees("aborted while it ran")
        await me.sees("Ctrl-C once more ends")
        assert not asleep()
        me.type(b"go on\n")
        await me.sees("Went on.")
        me.type(CTRL_D)
        assert await me.left() == 0
        assert [role for role, _ in seen(engine)] == ["user", "assistant", "tool", "user"]


async def test_an_undecided_step_asks_and_can_be_taken_or_voted_on_again(tmp_path: Path) -> None:
    def differ_at_first(_: object, voter: int) -> list[Any]:
        return calls(("read", {"path": f"{voter if voter < 4 else 'same'}.txt"}))

    async with (
        node_taking(differ_at_first, ["Done."], options=NodeOptions()) as (node, _),
        working(node.url, tmp_path, "--votes", "4", "--ahead", "2", "go") as me,
    ):
        assert ' 1? read {"path": ' in await me.sees("not decided:")
        await me.sees("> ")
        me.type(b"what?\n")
        await me.sees("take it all the same?")
        me.type(b"r\n")
        shown = await me.sees("Done.")
        assert " 2  read path=same.txt · 2 of 2 agree" in shown
        assert await me.left() == 0


async def test_a_conversation_goes_on_until_its_end(tmp_path: Path) -> None:
    async with node_taking(["First."], ["Second."]) as (node, engine), working(node.url, tmp_path) as me:
        await me.sees("What is to be done?")
        await me.sees("> ")
        me.type(b"one\n")
        await me.sees("First.")
        await me.sees("> ")
        me.type(b"\n")
        await me.sees("> ")
        me.type(b"two\n")
        await me.sees("Second.")
        await me.sees("> ")
        me.type(CTRL_D)
        assert await me.left() == 0
        assert [content for _, content in seen(engine)] == ["one", "First.", "two"]


async def test_where_nobody_sits_a_task_is_read_from_standard_input(tmp_path: Path) -> None:
    async with node_taking(["Done."]) as (node, engine):
        ran = await asyncio.to_thread(run_it, node.url, tmp_path, "-", typed="what is it?\n")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Done.\n")
    assert seen(engine) == [("user", "what is it?")]


async def test_json_lines_tell_programs_everything_and_ask_nobody(tmp_path: Path) -> None:
    async with node_taking(wrote("x"), ["Then not."]) as (node, _):
        ran = await asyncio.to_thread(run_it, node.url, tmp_path, "--json", "write", "it")
    assert ran.returncode == 0
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [event["type"] for event in told] == [
        "start", "vote", "tool_call", "tool_result", "text", "vote", "end",
    ]  # fmt: skip
    assert (told[2]["arguments"], told[3]["executed"]) == ({"path": "a.txt", "content": "x"}, False)
    assert "nobody is there" in told[3]["result"]["output"]
    assert told[-1]["output"] == "Then not."
    assert not (tmp_path / "project" / "a.txt").exists()


async def test_ctrl_c_at_a_question_aborts(tmp_path: Path) -> None:
    async with node_taking(wrote("x"), ["Never."]) as (node, _), working(node.url, tmp_path, "go") as me:
        await me.sees("may write run?")
        await me.sees("> ")
        me.type(CTRL_C)
        await me.sees("aborted")
        await me.sees("Ctrl-C once more ends")
        await me.sees("> ")
        me.type(CTRL_C)
        assert await me.left() == 1
    assert not (tmp_path / "project" / "a.txt").exists()


async def test_what_models_and_tools_say_moves_no_cursor(tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07‮gnp"
    turns = [calls(("read", {"path": f"{evil}.txt"}), (f"no{evil}", {})), [f"Done{evil}."]]
    async with node_taking(*turns) as (node, _), working(node.url, tmp_path, "go") as me:
        await me.sees("Done")
        assert await me.left() == 0
        for part in ("\x1b[2J", "\x1b]0", "\x07", "‮"):
            assert part not in me.screen


async def test_json_lines_are_ended_by_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    async with node_taking([asyncio.Event()]) as (node, engine):
        with subprocess.Popen(  # noqa: ASYNC220 - starting one blocks for a moment only
            [*PROGRAM, "agent", "--url", node.url, "--json", "go"],
            cwd=tmp_path / "project", env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            await eventually(lambda: engine.running == 1)
            process.send_signal(signal.SIGINT)
            out, _ = await asyncio.to_thread(process.communicate)
        await eventually(lambda: engine.cancelled == 1)
    assert process.returncode == 1
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["start", "end"]
    assert json.loads(out.splitlines()[-1])["reason"] == "aborted"


async def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    gate = asyncio.Event()
    async with node_taking(["First line.\n", gate, "Second line.\n"]) as (node, _):
        line = shlex.join([*PROGRAM, "agent", "--url", node.url, "go"])
        with subprocess.Popen(  # noqa: ASYNC220
            ["/bin/sh", "-c", f"{line} | head -n 1"],
            cwd=tmp_path / "project", env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "First line.\n"
            gate.set()
            _, complaints = await asyncio.to_thread(process.communicate)
    assert complaints == ""


async def test_a_session_is_resumed_where_it_was(tmp_path: Path) -> None:
    async with node_taking(calls(("read", {"path": "x"})), ["One."], ["Two."]) as (node, engine):
        ran = await asyncio.to_thread(run_it, node.url, tmp_path, "--json", "the first", "--api-key", "sk-secret")
        name = json.loads(ran.stdout.splitlines()[0])["session"]
        listed = await asyncio.to_thread(run_it, node.url, tmp_path, "--list")
        assert (listed.returncode, name in listed.stdout, "the first" in listed.stdout) == (0, True, True)
        (tmp_path / "project" / "y").write_text("of the project\n")
        engine.script = taking(["never"], ["never"], calls(("read", {"path": "y"})), ["Two."])
        ran = await asyncio.to_thread(run_it, node.url, tmp_path, "--resume", name, "the second", inside="elsewhere")
        assert (ran.returncode, "Two." in ran.stdout) == (0, True)
        assert f"goes on in {tmp_path / 'project'}" in ran.stderr
        roles = ["user", "assistant", "tool", "assistant", "user", "assistant", "tool"]
        assert [role for role, _ in seen(engine)] == roles
        assert "of the project" in str(seen(engine)[-1])
    (kept,) = (tmp_path / ".local/share/local-swarm/agent").glob("*.jsonl")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "sk-secret" not in kept.read_text()
    assert len(kept.read_text().splitlines()) == 1 + 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--votes", "0", "go"], "--votes is 0"),
        (["--min-agreement", "50", "go"], "--min-agreement is 50"),
        (["--tools", "raed", "go"], "did you mean read?"),
        (["--root", "/nowhere/at/all", "go"], "cannot be used"),
        (["--tool-host", "http://127.0.0.1:9", "--tools", "read", "go"], "--tools is for tools here"),
        (["--yes", "raed", "go"], "'raed'"),
        (["-"], "nothing is asked"),
        (["  "], "nothing is asked"),
        ([], "say what is to be done"),
        (["--resume", "x", "go"], "there is no session 'x'"),
        (["--resume", "", "go"], "there is no session ''"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["agent", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_command_that_needs_the_extra_says_so(tmp_path: Path) -> None:
    """Where pydantic-ai is not installed: as if it were not there."""
    script = (
        "import sys; sys.modules['pydantic_ai'] = None; from swarm.cli import main; sys.exit(main(['agent', 'go']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "pip install 'local-swarm[agent]'" in ran.stderr, shlex.quote(ran.stderr)
