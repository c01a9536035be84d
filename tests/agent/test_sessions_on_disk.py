"""Sessions on disk: what is kept, who may read it, and what becomes of files that were cut off or are others'."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.agent import Agent
from swarm.agent.sessions_on_disk import SessionFiles, list_lines, read_session
from swarm.agent.turns import read, said, written
from swarm.errors import SetupError
from tests.agent.scripted_turns import RecordingHost, calls, node_taking, seen
from tests.agent.test_session import LOOK

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_session_is_kept_by_lines_that_only_its_owner_reads(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path / "agent")
    kept = files.begin("swarm", "what \x1b[31m is it?", Path("/proj"), NOW)
    kept.keep(written(said(["half a character: \ud800", "ünïcode"])))
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert kept.path.parent.stat().st_mode & 0o777 == 0o700
    again, stored = files.resume(kept.head.id)
    assert (again.path, stored.head.root, stored.torn) == (kept.path, "/proj", False)
    assert len(read(stored.messages)) == 1
    (line,) = list_lines(list(files.heads()))
    assert line.startswith("20260102-")
    assert "\x1b" not in line


def test_the_beginning_of_an_id_names_a_session_where_it_is_one_alone(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path)
    names = [files.begin("swarm", "x", None, NOW).head.id for _ in range(2)]
    tail = names[0].partition("-")[2]
    assert files.resume(tail[:6])[1].head.id == names[0]
    with pytest.raises(SetupError, match="several sessions begin with '2026'"):
        files.resume("2026")
    for word in ("", "none", "../x"):
        with pytest.raises(SetupError, match="there is no session"):
            files.resume(word)
    with pytest.raises(SetupError, match="there are: none"):
        SessionFiles(tmp_path / "not there").resume("x")


def test_a_line_that_was_cut_off_is_left_out_and_ended(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path)
    kept = files.begin("swarm", "x", None, NOW)
    kept.keep(written(said(["one"])))
    with kept.path.open("ab") as file:
        file.write(b'{"type":"message","message":{"par')
    again, stored = files.resume(kept.head.id)
    assert (stored.torn, len(stored.messages)) == (True, 1)
    again.keep(written(said(["two"])))
    assert len(files.resume(kept.head.id)[1].messages) == 2


@pytest.mark.parametrize("text", ["", "no json\n", "[1]\n", '{"type": "session", "id": 3}\n', "[" * 100_000])
def test_what_holds_no_session_is_named_and_not_listed(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(SetupError, match="holds no session"):
        read_session(tmp_path / "x.jsonl")
    assert list(SessionFiles(tmp_path).heads()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be kept in"):
        SessionFiles(tmp_path / "file").begin("swarm", "x", None, NOW)


def test_a_link_in_a_session_s_place_is_not_written_through(tmp_path: Path) -> None:
    kept = SessionFiles(tmp_path).begin("swarm", "x", None, NOW)
    kept.path.unlink()
    (tmp_path / "elsewhere").write_text("mine")
    kept.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        kept.keep(written(said(["one"])))
    assert (tmp_path / "elsewhere").read_text() == "mine"


async def test_an_agent_that_ended_in_a_call_goes_on_with_a_result_that_says_so(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path)
    kept = files.begin("swarm", "go", None, NOW)
    async with node_taking(calls(("look", {"n": 1})), ["One."]) as (node, engine):
        host = RecordingHost(LOOK)
        made = Agent(url=node.url, hosts=[host])
        async with made.session(keep=lambda message: kept.keep(written(message))) as session:
            await session.run("go")
        lines = kept.path.read_text().splitlines(keepends=True)
        assert [json.loads(line)["type"] for line in lines] == ["session", *["message"] * 4]
        kept.path.write_text("".join(lines[:3]))  # it ended while the call ran
        again, stored = files.resume(kept.head.id)
        async with made.session(messages=read(stored.messages), keep=lambda one: again.keep(written(one))) as session:
            ended = await session.run("go on")
        told = seen(engine)
    assert [role for role, _ in told] == ["user", "assistant", "tool", "user"]
    assert "may have been executed" in str(told[2][1])
    assert ended.output == "One."
    assert len(files.resume(kept.head.id)[1].messages) == 5
