"""`swarm chat` at its prompt, on a terminal: several lines, the history, commands, files, and the worst answers."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.commands import chat_prompt
from swarm.commands.chat_actions import do
from swarm.commands.chat_commands import TypedCommand
from swarm.commands.chat_files import read_image, read_text, save_text
from swarm.commands.chat_models import KnownModels
from swarm.commands.chat_talk import Talk
from swarm.commands.conversation import Conversation, NoConversation
from swarm.commands.node_client import NodeApi
from swarm.consensus.options import Strategy
from swarm.errors import ContextExceeded, SwarmError
from tests.commands.test_chat import chatting, conversation_of, node
from tests.doubles.images import png
from tests.doubles.running_node import NodeOptions
from tests.doubles.scripted_engine import saying
from tests.doubles.typist import CTRL_C, CTRL_D, CTRL_R, NEW_LINE, Reader, at_a_terminal
from tests.e2e.node_process import ROOT, NodeProcess
from tests.hostile.test_terminal_text import STREAMED, WORST

HISTORY = ".local/state/local-swarm/chat-history"


async def leaves(me: Reader) -> None:
    await me.sees("> ")
    me.type(CTRL_D)
    assert await me.left() == 0


async def test_a_conversation_with_a_real_node(tmp_path: Path) -> None:
    """Asked, voted on, saved, left, and gone on with."""
    file = tmp_path / "talk.json"
    with NodeProcess("kitchen", tmp_path / "node") as real:
        await real.ready()
        async with chatting(real.url, tmp_path) as me:
            await me.says("/votes 3")
            await me.sees("votes on 3 answers")
            await me.says("What is 2+2?")
            await me.sees(" agree · ")
            await me.sees("/vote shows all of it\n")
            await me.says("/vote")
            assert "voters · auto" in await me.sees("cost")
            await me.says("/modle demo")
            await me.sees("did you mean /model?")
            await me.says("/model dem")
            await me.sees("swarm: ")
            await me.says("/model demo")
            await me.sees("demo answers from now on, its context holds")
            await me.says("/save ~/talk.json")
            await me.sees("2 messages in")
            await me.says("/save ~/talk.json")
            await me.sees("is there already")
            await me.shows(lambda lines: any("demo · votes 3 · " in line and "% of" in line for line in lines))
            await leaves(me)
        async with chatting(real.url, tmp_path) as me:
            await me.says("/load ~/talk.json")
            await me.sees("What is 2+2?: 2 messages, model demo, votes 3")
            await me.sees("> ")
            me.type(CTRL_R + b"2+2")
            await me.sees("What is 2+2?")
            me.type(b"\r\r")  # take it, send it
            await me.sees(" agree · ")
            await me.says("/save! ~/talk.json")
            await me.sees("4 messages in")
            await leaves(me)
    saved = json.loads(file.read_text("utf-8"))
    assert [message["content"] for message in saved["messages"]][::2] == ["What is 2+2?", "What is 2+2?"]
    assert len(saved["messages"][1]["ballot"]["candidates"]) > 1


async def test_several_lines_are_one_message_typed_or_pasted(tmp_path: Path) -> None:
    async with node(saying("Hello!", "Once more.", "And again.")) as (kitchen, engine):
        async with chatting(kitchen.url, tmp_path) as me:
            await me.sees("> ")
            me.type(b"one" + NEW_LINE + b"two\r")
            await me.sees("Hello!")
            assert conversation_of(engine)[-1] == ("user", "one\ntwo")
            await me.sees("> ")
            me.type(b"\x1b[200~three\r\nfour\x1b[201~\r")
            await me.sees("Once more.")
            assert conversation_of(engine)[-1] == ("user", "three\nfour")
            await leaves(me)
        async with chatting(kitchen.url, tmp_path) as me:
            await me.sees("> ")
            me.type(CTRL_R + b"two")
            await me.sees("two")
            me.type(b"\r\r")
            await me.sees("And again.")
            assert conversation_of(engine)[-1] == ("user", "one\ntwo")
            await leaves(me)


async def test_a_paste_that_is_no_question_is_left_out_and_said(tmp_path: Path) -> None:
    async with node(saying("Hello!")) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.sees("> ")
        me.type(b"short ")
        await asyncio.to_thread(me.type, b"\x1b[200~" + b"x" * 1_000_001 + b"\x1b[201~")
        await me.shows(lambda lines: "that is 1,000,001 characters" in lines[-1])
        me.type(b"question\r")
        await me.sees("Hello!")
        assert conversation_of(engine) == [("user", "short question")]
        await leaves(me)


async def test_what_is_typed_is_kept_for_its_user_alone_and_no_answer_is(tmp_path: Path) -> None:
    async with node(saying("Secret words.")) as (kitchen, _):
        async with chatting(kitchen.url, tmp_path, "--no-history") as me:
            await me.says("not to be kept")
            await me.sees("Secret words.")
            await leaves(me)
        file = tmp_path / HISTORY
        assert not file.exists()
        async with chatting(kitchen.url, tmp_path) as me:
            await me.says("to be kept")
            await me.sees("Secret words.")
            await leaves(me)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = file.read_text("utf-8")
    assert "+to be kept\n" in kept
    assert "Secret" not in kept
    assert "not to be kept" not in kept


async def test_ctrl_c_clears_the_line_and_typing_during_an_answer_waits(tmp_path: Path) -> None:
    gate = asyncio.Event()

    def script(_: object, voter: int) -> list[str | asyncio.Event]:
        return ["To be", gate, " or not."] if voter == 0 else ["Yes."]

    async with node(script) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.sees("> ")
        me.type(b"zz")
        await me.sees("zz")
        me.type(CTRL_C)
        await me.shows(lambda lines: not any("zz" in line for line in lines))
        me.type(b"recite\r")
        await me.sees("To be")
        me.type(b"next\r")
        gate.set()
        await me.sees(" or not.")
        await me.sees("Yes.")
        assert conversation_of(engine)[-2:] == [("assistant", "To be or not."), ("user", "next")]
        assert me.screen.count("next") == 1, "not written into the answer"
        await leaves(me)


async def test_a_question_that_got_no_answer_is_asked_again(tmp_path: Path) -> None:
    async with node(saying("Here I am.", "Another.")) as (kitchen, engine):
        async with chatting("http://127.0.0.1:9", tmp_path) as me:
            await me.says("/retry")
            await me.sees("there is no question yet")
            await me.says("/image none")
            await me.sees("no picture is attached")
            await leaves(me)
        async with chatting(kitchen.url, tmp_path) as me:
            await me.says("where?")
            await me.sees("Here I am.")
            await me.says("/retry")
            await me.sees("asking again: where?")
            await me.sees("Another.")
            assert conversation_of(engine) == [("user", "where?")]
            await leaves(me)


async def test_a_blind_model_is_shown_no_picture_and_broken_ones_are_said(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(2, 2))
    async with node(saying("A cat.")) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        await me.says("/image ~/cat.png what is it?")
        await me.sees("swarm: no model here sees pictures: load one that does")
        await leaves(me)
    assert engine.requests == []


async def test_a_seeing_model_is_shown_pictures_and_they_are_saved(tmp_path: Path) -> None:
    (tmp_path / "my cat.png").write_bytes(png(2, 2))
    async with node(saying("A cat.", "Two.")) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        engine.can["vision"] = True
        await me.says("/image ~/my cat.png what is it?")
        await me.sees("A cat.")
        await me.says("/image '~/my cat.png'")
        await me.sees("goes with your next question")
        await me.shows(lambda lines: any("1 attached" in line for line in lines))
        await me.says("and now?")
        await me.sees("Two.")
        await me.says("/save ~/talk.json")
        await me.sees("4 messages")
        await leaves(me)
    contents = [message["content"] for message in engine.requests[-1].messages or ()]
    assert [part["type"] for part in contents[0]] == [part["type"] for part in contents[2]] == ["text", "image_url"]
    saved = json.loads((tmp_path / "talk.json").read_text("utf-8"))["messages"]
    assert saved[0]["content"] == "what is it?"
    assert saved[0]["images"] == [contents[0][1]["image_url"]["url"]] == saved[2]["images"]


async def test_what_no_longer_fits_is_left_out_by_retry(tmp_path: Path) -> None:
    async with node(saying("x" * 400)) as (kitchen, engine), chatting(kitchen.url, tmp_path) as me:
        for question in ("first", "second"):
            await me.says(question)
            await me.sees("@kitchen · ")
        known, engine.script = engine.script, lambda *_: [ContextExceeded(2000, 1000, param="messages")]
        await me.says("third")
        told = await me.sees("leaves them out")
        assert "swarm: the prompt has 2000 tokens and the context holds 1000" in told
        engine.script = known
        await me.says("/retry")
        await me.sees("asking again: third")
        await me.sees("@kitchen · ")
        assert [content for role, content in conversation_of(engine) if role == "user"] == ["third"]
        await me.says("/retry")
        await me.sees("@kitchen · ")
        assert [content for role, content in conversation_of(engine) if role == "user"] == ["third"], "still"
        await leaves(me)


async def test_whatever_a_model_says_in_a_conversation_is_text(tmp_path: Path) -> None:
    async with node(lambda _, __: list(STREAMED)) as (kitchen, _), chatting(kitchen.url, tmp_path) as me:
        await me.says("say it")
        await me.sees("the end")
        assert me.picture.title == ""
        assert "\x1b]" not in me.written
        assert "\x1b[8m" not in me.written
        await leaves(me)


@pytest.mark.parametrize(("more", "term"), [(("--plain",), "xterm"), ((), "dumb")], ids=["plain", "dumb"])
async def test_words_only(more: tuple[str, ...], term: str, tmp_path: Path) -> None:
    voting = NodeOptions(votes=3, strategy=Strategy.MEDOID)
    async with (
        node(saying("**So** it is."), voting) as (kitchen, _),
        at_a_terminal(tmp_path, "chat", "--url", kitchen.url, *more, term=term) as me,
    ):
        await me.says("why?")
        await me.sees("**So** it is.\n")
        await me.sees(" agree, likeness 1.00 · ")
        await me.says("/vote")
        await me.sees("verdict")
        await me.says("/help")
        await me.sees("/save FILE")
        await me.sees("> ")
        me.type(CTRL_D)
        assert await me.left() == 0
        assert "\x1b[1m" not in me.screen
        assert "\x1b[3" not in me.screen


def test_names_that_mean_something_to_a_terminal_complete_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"data": [{"id": WORST}, {"id": "good"}, {"id": 7}, 3, {"id": "two words"}]}
    monkeypatch.setattr("swarm.commands.chat_models.get_json", lambda *_: listed)
    assert KnownModels(NodeApi("http://x")).names() == ["good", "two words"]


def test_a_node_that_says_nothing_of_its_models_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise SwarmError("no")

    monkeypatch.setattr("swarm.commands.chat_models.get_json", fails)
    models = KnownModels(NodeApi("http://x"))
    assert models.names() == []
    assert models.context_tokens("swarm") is None


# Files


def test_nothing_is_overwritten_that_was_not_named(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    save_text(file, "one", may_replace=False)
    with pytest.raises(SwarmError, match=r"is there already: `/save! .*talk.json` replaces it"):
        save_text(file, "two", may_replace=False)
    assert file.read_text() == "one"
    save_text(file, "two", may_replace=True)
    assert file.read_text() == "two"
    with pytest.raises(SwarmError, match="cannot be written"):
        save_text(tmp_path / "no" / "talk.json", "x", may_replace=False)
    with pytest.raises(SwarmError, match="cannot be written"):
        save_text(tmp_path, "x", may_replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_a_file_that_is_no_conversation_keeps_the_one_there_is(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"messages": [{"role": "tool", "content": "x"}]}')
    talk = Talk(NodeApi("http://x"), Conversation(model="demo").asking("hi"), lambda: pytest.fail("nothing is asked"))
    before = talk.conversation
    for name, told in ((foreign, "has the role 'tool'"), (tmp_path / "none", "cannot be read"), (tmp_path, "cannot")):
        with pytest.raises(SwarmError, match=told):
            do(talk, TypedCommand("load", str(name)))
        assert talk.conversation is before
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NoConversation, match="no text"):
        read_text(binary)


def test_pictures_are_read_as_a_node_would(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(png(3, 2))
    url, about = read_image(file)
    assert url.startswith("data:image/png;base64,")
    assert about == "png, 3 x 2 pixels"
    file.write_bytes(b"hello")
    with pytest.raises(SwarmError, match="is neither PNG, JPEG"):
        read_image(file)
    file.write_bytes(png(3, 2) + bytes(12 << 20))
    with pytest.raises(SwarmError, match=r"has 12\.0 MiB"):
        read_image(file)
    with pytest.raises(SwarmError, match="cannot be read"):
        read_image(tmp_path)


# The history


def test_a_history_that_cannot_be_kept_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("")
    chat_prompt.open_history(tmp_path / "file" / "history", said.append).store_string("x")
    assert len(said) == 1
    assert "what you type is not kept" in said[0]
    kept = chat_prompt.open_history(tmp_path / "history", said.append)
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()
    kept.store_string("x")
    kept.store_string("y")
    assert len(said) == 2


def test_a_history_stays_small(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "history"
    kept = chat_prompt.open_history(file, said.append, 2000)
    kept.store_string("x" * (chat_prompt.MOST_KEPT_CHARS + 1))
    for number in range(100):
        kept.store_string(f"question {number}\nsecond line")
    again = chat_prompt.open_history(file, said.append, 2000)
    assert file.stat().st_size <= 1000
    strings = list(again.load_history_strings())
    assert strings[0] == "question 99\nsecond line"
    assert all(each.endswith("\nsecond line") and each.startswith("question ") for each in strings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert said == []


def test_only_a_conversation_loads_what_draws_and_asks() -> None:
    code = (
        "import sys; sys.argv = ['swarm', *sys.argv[1:]]\n"
        "from swarm.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'rich', 'prompt_toolkit', 'pydantic', 'markdown_it'} & sys.modules.keys()))"
    )
    for words in (["--help"], ["chat", "--help"], ["chat", "--url", "http://127.0.0.1:9", "hello"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ
        )
        assert done.stdout.rsplit("\n", 2)[-2] == "[]", words
