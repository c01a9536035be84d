"""`swarm chat` on a real terminal, with a node: what is shown, what is kept, what Ctrl-C, Ctrl-D and a dead node do."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from swarm.commands import chat as chat_command
from swarm.commands.chat import ChatOptions
from swarm.commands.chat_talk import PlainWords, Talk
from swarm.commands.conversation import Conversation
from swarm.commands.node_client import NodeApi, NodeUnreachable
from swarm.consensus.options import Strategy
from swarm.errors import SwarmError
from tests.commands.test_asking_a_node import answering
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import Script, ScriptedEngine, saying
from tests.doubles.typist import CTRL_C, CTRL_D, ENDED_S, UP, Reader, reading_a_terminal
from tests.doubles.waiting import eventually
from tests.e2e.node_process import PROGRAM, NodeProcess, environment

PROSE, OTHER = "The sky is blue because of scattering.", "Bananas sing loudly at night."


def chatting(url: str, folder: Path, *more: str) -> AbstractAsyncContextManager[Reader]:
    return reading_a_terminal(folder, "chat", "--url", url, *more)


@asynccontextmanager
async def node(
    script: Script, options: NodeOptions | None = None
) -> AsyncGenerator[tuple[RunningNode, ScriptedEngine]]:
    engine = ScriptedEngine(script, slots=3)
    async with RunningNode(
        "kitchen", ready(engine), options=options or NodeOptions(strategy=Strategy.SINGLE)
    ) as kitchen:
        yield kitchen, engine


def conversation_of(engine: ScriptedEngine) -> list[tuple[str, object]]:
    """The messages of the last request."""
    return [(message["role"], message["content"]) for message in engine.requests[-1].messages or ()]


async def test_a_conversation_has_a_memory_a_history_and_an_end(tmp_path: Path) -> None:
    async with node(saying("Hello!", "Once more.")) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.says("hi there")
        await me.sees("Hello!")
        await me.sees("ms\n")
        await me.sees("> ")
        me.type(b"\r   \r" + UP + b"\r")
        await me.sees("Once more.")
        assert len(engine.requests) == 2, "an empty line asks nothing"
        assert conversation_of(engine) == [("user", "hi there"), ("assistant", "Hello!"), ("user", "hi there")]
        await me.sees("> ")
        me.type(CTRL_D)
        assert await me.left() == 0


async def test_the_winner_of_a_vote_is_shown_and_kept(tmp_path: Path) -> None:
    voting = NodeOptions(votes=3, strategy=Strategy.MEDOID)
    async with node(saying(OTHER, PROSE), voting) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.says("why is the sky blue?")
        await me.sees(OTHER)
        assert "the vote preferred the answer of" in await me.sees(PROSE)
        await me.sees("ms")
        await me.says("go on")
        await me.sees(PROSE)
        assert ("assistant", PROSE) in conversation_of(engine)
        assert ("assistant", OTHER) not in conversation_of(engine)


async def test_ctrl_c_stops_the_answer_then_the_conversation(tmp_path: Path) -> None:
    gate = asyncio.Event()

    def script(_: object, voter: int) -> list[str | asyncio.Event]:
        return ["To be or", gate, " not to be."] if voter == 0 else ["Yes."]

    async with node(script) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.says("recite")
        await me.sees("To be or")
        me.type(CTRL_C)
        assert "\n  stopped\n" in await me.sees("stopped\n")
        await eventually(lambda: engine.running == 0)
        assert engine.cancelled == 1, "the node has stopped, too"
        await me.says("go on")
        await me.sees("Yes.")
        assert conversation_of(engine) == [("user", "recite"), ("assistant", "To be or"), ("user", "go on")]
        await me.sees("> ")
        me.type(CTRL_C)
        await me.sees("Ctrl-C once more")
        await me.sees("> ")
        me.type(CTRL_C)
        assert await me.left() == 0


async def test_ctrl_c_before_the_first_word_takes_the_question_back(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with (
        node(lambda _, voter: [gate, "late"] if voter == 0 else ["Yes."]) as (kitchen, engine),
        chatting(kitchen.url, tmp_path) as me,
    ):
        await me.says("hello?")
        await eventually(lambda: engine.running == 1)
        me.type(CTRL_C)
        await me.says("hello!")
        await me.sees("Yes.")
        assert conversation_of(engine) == [("user", "hello!")]


async def test_what_fails_is_said_and_the_conversation_goes_on(tmp_path: Path) -> None:
    def script(_: object, voter: int) -> list[str | Exception]:
        return [SwarmError("out of \x1b[31mluck")] if voter == 0 else ["Here I am."]

    async with node(script) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.says("are you there?")
        await me.sees("swarm: ")
        await me.says("and now?")
        await me.sees("Here I am.")
        assert conversation_of(engine) == [("user", "and now?")]
        await kitchen.stop()
        await me.says("still?")
        await me.sees("swarm: no node answers at")
        await me.sees("> ")
        me.type(CTRL_D)
        assert await me.left() == 0


async def test_an_answer_that_is_cut_off_is_said(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with (
        node(lambda _, __: ["To be or", gate]) as (kitchen, _),
        chatting(kitchen.url, tmp_path) as me,
    ):
        await me.says("recite")
        await me.sees("To be or")
        await kitchen.stop()
        await me.sees("swarm: ")
        assert "\n> " in await me.sees("> ")
        me.type(CTRL_D)
        assert await me.left() == 0


async def test_a_node_that_is_killed_before_it_answers_is_said(tmp_path: Path) -> None:
    with NodeProcess("kitchen", tmp_path / "node") as real:
        await real.ready()
        async with chatting(real.url, tmp_path) as me:
            await me.says("hello")
            await me.sees("ms\n")
            real.send(signal.SIGSTOP)
            await me.says("are you there?")
            real.kill()
            await me.sees("swarm: ")
            await me.says("hello?")
            await me.sees("no node answers")
            await me.sees("> ")
            me.type(CTRL_D)
            assert await me.left() == 0


WINNER = '{"strategy": "medoid", "winner": "Zeus@kitchen", "confirmed": false, "winner_message": {"content": "blue"}}'
DELTA = b'data: {"choices": [{"delta": {"content": "red"}}]}\n\n'


def conversation(url: str) -> Talk:
    return Talk(NodeApi(url), Conversation(), lambda: PlainWords(live=True))


def test_the_winner_is_what_the_conversation_goes_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    end = f'data: {{"choices": [], "swarm": {WINNER}}}\n\ndata: [DONE]\n\n'.encode()
    with answering(200, DELTA + end) as (url, _):
        talk = conversation(url)
        assert talk.ask("what colour?")["content"] == "blue"
    assert [message["content"] for message in talk.conversation.messages()] == ["what colour?", "blue"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["red", "  [the vote preferred the answer of Zeus@kitchen:]", "blue"]


@pytest.mark.parametrize("body", [DELTA, DELTA + b"data: {}\n\n", DELTA + b": still working\n\n"])
def test_an_answer_without_its_end_is_cut_off(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, body) as (url, _):
        talk = conversation(url)
        with pytest.raises(NodeUnreachable, match="broke off before the answer was complete"):
            talk.ask("what colour?")
    assert capsys.readouterr().out == "red\n"
    assert [message["content"] for message in talk.conversation.messages()] == ["what colour?", "red"]


@pytest.mark.parametrize(
    "event",
    [
        '{"choices": null}',
        '{"choices": [1, {"delta": 2}, {"delta": {"content": 3}}]}',
        '{"swarm": "no"}',
        '{"swarm": {"winner_message": {"content": 1}}}',
        '{"swarm": {"strategy": "single"}}',
        '{"choices": {}, "swarm": {"agreement": "all"}}',
    ],
)
def test_a_node_of_another_version_is_understood_as_far_as_it_goes(event: str) -> None:
    with answering(200, DELTA + f"data: {event}\n\ndata: [DONE]\n\n".encode()) as (url, _):
        assert conversation(url).ask("what colour?")["content"] == "red"


@contextmanager
def piped(url: str, folder: Path, *words: str) -> Generator[subprocess.Popen[str]]:
    command = [*PROGRAM, "chat", "--url", url, *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(folder)
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # does nothing to one that has ended; else the test would wait for it


async def test_in_a_pipe_each_line_is_a_question_and_only_winners_come_out(tmp_path: Path) -> None:
    voting = NodeOptions(votes=3, strategy=Strategy.MEDOID)
    async with node(saying(OTHER, PROSE), voting) as (kitchen, engine):
        with piped(kitchen.url, tmp_path) as process:
            out, _ = await asyncio.to_thread(process.communicate, "why?\n\nand why?\n", ENDED_S)
        assert process.returncode == 0
    assert out == f"{PROSE}\n{PROSE}\n"
    assert ("assistant", PROSE) in conversation_of(engine)


def test_a_question_from_a_pipe_is_answered_by_words_alone_on_a_terminal_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["/what colour?"])
    monkeypatch.setattr(chat_command, "is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setattr("builtins.input", lambda *_: next(lines, None) or raised(EOFError()))
    end = b'data: {"choices": [], "swarm": {"strategy": "single", "winner": "Zeus@kitchen"}}\n\ndata: [DONE]\n\n'
    with answering(200, DELTA + end) as (url, asked):
        assert chat_command.chat(NodeApi(url), "", ChatOptions()) == 0
    assert capsys.readouterr().out == "red\n"
    assert asked


def raised(error: Exception) -> str:
    raise error


async def test_a_lone_question_that_is_stopped_ends_with_1(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with node(lambda _, __: ["To be", gate]) as (kitchen, engine):
        with piped(kitchen.url, tmp_path, "recite") as process:
            await eventually(lambda: engine.running > 0)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, ENDED_S) == 1
            await eventually(lambda: engine.running == 0)


def test_what_is_typed_and_is_no_text_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter([UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), EOFError()])

    def typed(*_: object) -> str:
        raise next(lines)

    monkeypatch.setattr("builtins.input", typed)
    assert chat_command.chat(NodeApi("http://127.0.0.1:9"), "", ChatOptions()) == 0
    assert "cannot be read as text" in capsys.readouterr().err
