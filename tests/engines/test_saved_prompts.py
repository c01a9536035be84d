"""Prompts on the disk: they come back after a restart, their files are believed only if whole, and bounded."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from swarm.commands.forget import forget_prompts
from swarm.engines.engine import EngineBuild, EngineSpec
from swarm.engines.llama_cpp import saved_prompts
from swarm.engines.llama_cpp.llama_server import load as load_llama_server
from swarm.engines.llama_cpp.saved_prompts import NoDiskRoom, SavedPrompts, forget, key_of, stored_bytes
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import SetupError
from swarm.generation import Delta, GenerationRequest, Usage
from tests.doubles.inside_llama import prompt_tokens_evaluated
from tests.doubles.made_engines import made_engine
from tests.doubles.waiting import eventually

CONTEXT_TOKENS, WORDS, TURNS = 2048, 900, 4
ROOM = 2**30


def prompt(length: int, first: int = 0) -> array[int]:
    return array("i", [first, *range(1, length)])


def save(saved: SavedPrompts, tokens: array[int], content: bytes = b"state", answered: int = 0) -> str:
    """As llama.cpp does it."""
    name = saved.begin(len(tokens))
    (saved.folder / name).write_bytes(content)
    assert saved.commit(name, tokens, answered, time.time() + 1) is not None
    return name


@pytest.fixture
def saved(tmp_path: Path) -> SavedPrompts:
    return SavedPrompts.open(tmp_path / "kv", ROOM, "key")


def again(saved: SavedPrompts, most_bytes: int = ROOM) -> SavedPrompts:
    """After a restart."""
    return SavedPrompts.open(saved.folder, most_bytes, saved.key)


def test_what_is_saved_is_there_after_a_restart_and_nobody_else_s(saved: SavedPrompts) -> None:
    name = save(saved, prompt(600), answered=7)
    (entry,) = again(saved).entries
    assert (entry.name, entry.tokens, entry.answered) == (name, prompt(600), 7)
    assert saved.is_whole(entry)
    assert stat.S_IMODE(saved.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.folder.iterdir()} == {0o600}
    assert SavedPrompts.open(saved.folder, ROOM, "other").entries == (), "of another model, version or context"


def test_what_goes_on_takes_the_place_of_its_beginning(saved: SavedPrompts) -> None:
    save(saved, prompt(600))
    other = save(saved, prompt(600, first=9))
    longer = save(saved, prompt(900))
    assert {entry.name for entry in again(saved).entries} == {other, longer}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def only_state(folder: Path) -> Path:
    (state,) = folder.glob("*.kv")
    return state


def no_words(path: Path) -> None:
    path.with_suffix(".json").write_text('{"sha256": 1}')


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, changed, no_words, gone])
def test_a_file_that_is_not_what_was_written_is_never_believed(
    saved: SavedPrompts, damage: Callable[[Path], None]
) -> None:
    path = saved.folder / save(saved, prompt(600))
    (entry,) = saved.entries
    damage(path)
    if damage is not no_words:
        assert not saved.is_whole(entry)
    assert not [entry for entry in again(saved).entries if saved.is_whole(entry)]
    assert not list(saved.folder.glob("key-*"))


def test_a_link_is_nobody_s_prompt(saved: SavedPrompts, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (saved.folder / "key-0.kv").symlink_to(precious)
    assert again(saved).entries == ()
    forget(saved.folder)
    assert precious.read_text() == "mine"


def test_the_folder_is_bounded_and_what_was_not_used_for_longest_goes_first(saved: SavedPrompts) -> None:
    saved.most_bytes = 2500
    names = [save(saved, prompt(600, first), b"x" * 1000) for first in (1, 2)]
    for age, name in enumerate(names):
        os.utime((saved.folder / name).with_suffix(".json"), (1000 + age, 1000 + age))
    (oldest,) = [entry for entry in saved.entries if entry.name == names[0]]
    assert saved.is_whole(oldest), "and is used by that"
    third = save(saved, prompt(600, first=3), b"x" * 1000)
    assert {entry.name for entry in saved.entries} == {names[0], third}
    assert stored_bytes(saved.folder) == 2000
    assert len(again(saved, most_bytes=1500).entries) == 1, "a smaller --kv-disk counts from the start"


def test_what_is_larger_than_all_the_room_is_told_with_the_remedy(saved: SavedPrompts) -> None:
    saved.most_bytes = 100
    with pytest.raises(NoDiskRoom, match=r"--kv-disk .* holds"):
        save(saved, prompt(600), b"x" * 1000)
    with pytest.raises(NoDiskRoom, match=r"about .* is more than --kv-disk .*give it more"):
        saved.begin(600)
    assert not list(saved.folder.glob("key-*"))


def test_what_turns_out_larger_than_all_the_room_drives_nothing_out(saved: SavedPrompts) -> None:
    saved.most_bytes = 2500
    names = {save(saved, prompt(600, first), b"x" * 1000) for first in (1, 2)}
    saved.token_bytes = 0  # not known: it may be anything
    with pytest.raises(NoDiskRoom, match="give it more"):
        save(saved, prompt(600, first=3), b"x" * 3000)
    assert {entry.name for entry in again(saved, most_bytes=2500).entries} == names


def test_a_full_disk_keeps_its_last_gigabyte(saved: SavedPrompts) -> None:
    assert saved.least_free_bytes == 2**30
    saved.least_free_bytes = 2**62
    with pytest.raises(NoDiskRoom, match=r"the disk of .* has .* free"):
        saved.begin(600)


def test_what_nobody_finished_goes_when_it_is_old(saved: SavedPrompts) -> None:
    name = saved.begin(600)
    assert again(saved).entries == ()
    assert (saved.folder / name).exists(), "it may be about to be written"
    os.utime(saved.folder / name, (1000, 1000))
    again(saved)
    assert not (saved.folder / name).exists()


def test_forget_removes_all_and_what_was_read_before_is_not_written_any_more(
    saved: SavedPrompts, capsys: pytest.CaptureFixture[str]
) -> None:
    read_at = time.time() - 60
    save(saved, prompt(600))
    assert forget_prompts(saved.folder, as_json=False) == 0
    assert "removed 1 prompt (" in capsys.readouterr().out
    assert stored_bytes(saved.folder) == 0
    assert saved.is_forgotten(read_at)
    name = saved.begin(600)
    (saved.folder / name).write_bytes(b"state")
    assert saved.commit(name, prompt(600), 0, read_at) is None
    assert stored_bytes(saved.folder) == 0
    assert forget_prompts(saved.folder, as_json=True) == 0
    assert '"prompts": 0' in capsys.readouterr().out
    assert forget_prompts(saved.folder / "none", as_json=False) == 0


def test_what_is_forgotten_while_it_is_written_is_no_fault(saved: SavedPrompts) -> None:
    name = saved.begin(600)
    (saved.folder / name).write_bytes(b"state")
    read_at = time.time() - 60
    forget(saved.folder)
    assert saved.commit(name, prompt(600), 0, read_at) is None
    with pytest.raises(FileNotFoundError):
        saved.commit(name, prompt(600), 0, time.time() + 60)


def test_forget_removes_what_a_crash_left_half_written(saved: SavedPrompts) -> None:
    left = saved.folder / ".key-0.json.abcdefgh.swarm-tmp"
    left.write_text('{"tokens": "said"}')
    forget(saved.folder)
    assert not left.exists()


def test_a_node_that_removes_some_meanwhile_does_not_stop_forget(
    saved: SavedPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = (save(saved, prompt(600, number)) for number in (1, 2))
    listed = saved_prompts._names

    def then_gone(*asked: object) -> list[str]:
        names = listed(*asked)  # type: ignore[arg-type]  # handed on
        saved.remove(first)
        return sorted(names, key=lambda name: name[:-3] != first[:-3])

    monkeypatch.setattr(saved_prompts, "_names", then_gone)
    assert forget(saved.folder)[0] == 1
    assert stored_bytes(saved.folder) == 0


def test_forget_says_where_it_could_not(saved: SavedPrompts, monkeypatch: pytest.MonkeyPatch) -> None:
    save(saved, prompt(600))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SetupError, match="not all removed: Permission denied"):
        forget_prompts(saved.folder, as_json=False)


def test_a_key_is_of_the_file_and_of_all_that_its_cache_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    keys = [key_of(path, "f", "xllamacpp", "1", 4096), key_of(path, "f", "xllamacpp", "2", 4096)]
    path.write_bytes(b"other weights")
    keys.append(key_of(path, "f", "xllamacpp", "1", 4096))
    assert len(set(keys)) == 3


# With the engine


class Talk:
    """A conversation with the model: `SYSTEM` words that it shares with others, and turns."""

    def __init__(self, name: str) -> None:
        self.messages = [{"role": "system", "content": "word " * WORDS}]
        self.name = name
        self.known = 0  # tokens that a perfect cache holds
        self.prompt = self.new = 0

    async def turn(self, engine: LlamaServerEngine, n: int = 1) -> Usage:
        self.messages.append({"role": "user", "content": f"{self.name} " * 70})
        request = GenerationRequest.model_validate(
            {"model": "demo", "messages": self.messages, "max_tokens": 8, "temperature": 0.0}
        )
        text, usage = "", Usage()
        async with aclosing(engine.candidates(request, n)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    text += event.text if event.choice == 0 else ""
                elif event.choice == 0:
                    usage = event.usage
        self.messages.append({"role": "assistant", "content": text})
        self.prompt += usage.prompt_tokens
        self.new += usage.prompt_tokens - self.known
        self.known = usage.prompt_tokens + usage.completion_tokens
        return usage


@asynccontextmanager
async def loaded(
    model: Path, saves: Path | None, slots: int = 1, build: EngineBuild | None = None
) -> AsyncGenerator[LlamaServerEngine]:
    spec = EngineSpec("demo", model, CONTEXT_TOKENS, slots, threads=1, saves=saves, saves_bytes=ROOM, build=build)
    engine = await (load_xllamacpp(spec) if build is None else load_llama_server(spec))
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.mark.parametrize("slots", [1, 2, 4])
async def test_of_two_conversations_in_turn_a_tenth_is_read_again_at_most(demo_model: Path, slots: int) -> None:
    """In memory alone. One system prompt for both of them, so that each would do for the other's."""
    talks = [Talk("Ann"), Talk("Bob")]
    async with loaded(demo_model, None, slots) as engine:
        before = await prompt_tokens_evaluated(engine.http)
        for _ in range(TURNS):
            for talk in talks:
                await talk.turn(engine)
        evaluated = await prompt_tokens_evaluated(engine.http) - before
    assert evaluated - sum(talk.new for talk in talks) <= 0.1 * sum(talk.prompt for talk in talks)


@pytest.mark.parametrize(("slots", "name"), [(1, "xllamacpp"), (2, "xllamacpp"), (2, "llama-server")])
async def test_nor_is_it_after_a_restart_where_prompts_are_saved(
    demo_model: Path, tmp_path: Path, slots: int, name: str
) -> None:
    talks, evaluated = [Talk("Ann"), Talk("Bob")], 0
    build = None if name == "xllamacpp" else made_engine(name)
    for _ in range(2):
        async with loaded(demo_model, tmp_path / "kv", slots, build) as engine:
            before = await prompt_tokens_evaluated(engine.http)
            for _ in range(TURNS // 2):
                for talk in talks:
                    await talk.turn(engine)
            evaluated += await prompt_tokens_evaluated(engine.http) - before
    assert evaluated - sum(talk.new for talk in talks) <= 0.1 * sum(talk.prompt for talk in talks)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "kv").iterdir()} == {0o600}


async def test_a_vote_drives_no_conversation_out(demo_model: Path) -> None:
    ann, vote = Talk("Ann"), Talk("vote")
    vote.messages[0]["content"] = "Others: " + "word " * WORDS
    async with loaded(demo_model, None, slots=4) as engine:
        await ann.turn(engine)
        await vote.turn(engine, n=3)
        assert (await ann.turn(engine)).cached_tokens > WORDS
        assert (await vote.turn(engine, n=3)).cached_tokens > WORDS


async def test_what_is_idle_is_saved_without_being_asked(demo_model: Path, tmp_path: Path) -> None:
    async with loaded(demo_model, tmp_path) as engine:
        engine.http.prefill.idle_s = 0.01
        await Talk("Ann").turn(engine)
        saved = engine.http.prefill.saved
        assert saved is not None
        await eventually(lambda: len(saved.entries) == 1)


@pytest.mark.parametrize("spoil", ["changed", "foreign", "gone"])
async def test_a_spoilt_file_is_read_again_and_told(
    demo_model: Path, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    ann = Talk("Ann")
    async with loaded(demo_model, tmp_path) as engine:
        await ann.turn(engine)
    state = only_state(tmp_path)
    if spoil == "changed":
        changed(state)
    elif spoil == "gone":
        state.unlink()
    else:  # whole, by its hash, and yet none of llama.cpp's
        saved = SavedPrompts.open(tmp_path, ROOM, state.name.partition("-")[0])
        save(saved, saved.entries[0].tokens, b"no state of llama.cpp's at all")
    async with loaded(demo_model, tmp_path) as engine:
        usage = await ann.turn(engine)
    assert usage.cached_tokens < 100
    assert usage.completion_tokens == 8
    if spoil != "gone":  # which is seen when the folder is read, and is then none
        assert "read again" in caplog.text


async def test_where_nothing_can_be_written_serving_goes_on(
    demo_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ann, bob = Talk("Ann"), Talk("Bob")
    async with loaded(demo_model, tmp_path) as engine:
        assert engine.http.prefill.saved is not None
        engine.http.prefill.saved.most_bytes = 1
        await ann.turn(engine)
        bob.messages[0]["content"] = "Others: " + "word " * WORDS
        await bob.turn(engine)
        assert (await ann.turn(engine)).completion_tokens == 8
    assert "prompts are not saved for 10 minutes, and are read again where they gave way" in caplog.text
    assert "--kv-disk" in caplog.text


async def test_a_folder_that_cannot_be_made_is_told_and_the_model_is_loaded(
    demo_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kv").write_text("a file")
    async with loaded(demo_model, tmp_path / "kv") as engine:
        assert (await Talk("Ann").turn(engine)).completion_tokens == 8
    assert "prompts are not saved in" in caplog.text


async def test_what_was_forgotten_is_not_saved_when_the_engine_ends(demo_model: Path, tmp_path: Path) -> None:
    async with loaded(demo_model, tmp_path) as engine:
        await Talk("Ann").turn(engine)
        await asyncio.to_thread(forget, tmp_path)
    assert stored_bytes(tmp_path) == 0
