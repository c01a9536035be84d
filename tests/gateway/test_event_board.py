"""The board of events: whoever reads it, from whatever it has seen, ends with what the board holds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import BadRequest
from swarm.gateway.observing.board import MAX_REMOVED, EventBoard
from swarm.gateway.observing.events import seen_version, wanted_parts

PARTS = ("node", "vote")
KEYS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(PARTS), KEYS, st.integers(0, 3)),
    st.tuples(st.just("drop"), st.sampled_from(PARTS), KEYS, st.just(0)),
    st.tuples(st.just("only"), st.sampled_from(PARTS), KEYS, st.integers(0, 3)),
    st.tuples(st.just("read"), st.just(""), st.just(""), st.just(0)),
)


class Reader:
    """A page: keeps what it was told."""

    def __init__(self, board: EventBoard) -> None:
        self._board = board
        self.seen = 0
        self.knows: dict[str, dict[str, Any]] = {part: {} for part in PARTS}

    def read(self) -> None:
        text, self.seen = self._board.since(self.seen, PARTS), self._board.version
        for part, entries in json.loads(text or "{}").items():
            for key, value in entries.items():
                if value is None:
                    self.knows[part].pop(key, None)
                else:
                    self.knows[part][key] = value


@given(st.lists(STEPS, max_size=60))
def test_a_reader_ends_with_what_the_board_holds_however_often_it_reads(steps: list[tuple[str, str, str, int]]) -> None:
    board = EventBoard({"vote": 3})
    held: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    often, once = Reader(board), Reader(board)
    for what, part, key, value in steps:
        if what == "read":
            often.read()
            continue
        if what == "put":
            if held[part].get(key) != {"n": value}:
                held[part].pop(key, None)
            held[part][key] = {"n": value}
            board.put(part, key, {"n": value})
        elif what == "drop":
            held[part].pop(key, None)
            board.drop(part, key)
        else:
            held[part] = {key: {"n": value}}
            board.only(part, {key: {"n": value}})
        if part == "vote" and len(held[part]) > 3:
            held[part].pop(next(iter(held[part])))
    often.read()
    once.read()
    assert often.knows == held
    assert once.knows == held
    assert board.since(often.seen, PARTS) is None


def test_the_same_value_again_is_no_change() -> None:
    board = EventBoard()
    board.put("node", "a", {"x": 1})
    before = board.version
    board.put("node", "a", {"x": 1})
    board.drop("node", "unknown")
    assert board.version == before


def test_readers_of_one_version_share_one_text() -> None:
    board = EventBoard()
    board.put("node", "a", {"x": 1})
    assert board.since(0, ["node"]) is board.since(0, ["node"])
    board.put("node", "a", {"x": 2})
    assert board.since(0, ["node"]) == '{"node":{"a":{"x":2}}}'


def test_what_was_removed_is_told_until_it_is_too_much() -> None:
    board = EventBoard()
    board.put("log", "first", 1)
    seen = board.version
    board.drop("log", "first")
    assert board.since(seen, ["log"]) == '{"log":{"first":null}}'
    for number in range(MAX_REMOVED + 5):
        board.put("log", str(number), number)
        board.drop("log", str(number))
    assert not board.can_resume(board.instance, seen)
    assert board.can_resume(board.instance, board.version)


@pytest.mark.parametrize(
    "header", [None, "", "-", "x-1", "{0}", "{0}-", "{0}-x", "{0}-999", "{0}--1", "other-1", "{0}-1" + "0" * 20]
)
def test_an_id_of_another_start_or_of_nothing_gets_a_snapshot(header: str | None) -> None:
    board = EventBoard()
    board.put("node", "a", 1)
    assert seen_version(board, None if header is None else header.format(board.instance)) == 0


def test_an_id_that_was_given_goes_on_from_there() -> None:
    board = EventBoard()
    board.put("node", "a", 1)
    board.put("node", "b", 1)
    assert seen_version(board, f"{board.instance}-1") == 1


def test_dear_parts_are_made_while_somebody_watches() -> None:
    board = EventBoard()
    told: list[bool] = []
    board.on_watch("node", told.append)
    with board.watching(["node", "view"]):
        with board.watching(["node"]):
            assert board.watched("node")
        assert board.watched("node")
    assert not board.watched("node")
    assert told == [True, False]


def test_a_part_that_cannot_be_made_is_said_once_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    board = EventBoard()
    told: list[bool] = []

    def fails(_: bool) -> None:
        raise RuntimeError("no sensor")

    board.on_watch("node", fails)
    board.on_watch("node", told.append)
    for _ in range(3):
        with board.watching(["node"]):
            assert board.watched("node")
    assert told == [True, False] * 3
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the part 'node' of the page cannot be begun; it shows what is there")
    ]
    assert "no sensor" in caplog.text


async def test_who_waits_is_woken_by_a_change() -> None:
    board = EventBoard()
    waiting = asyncio.create_task(board.changed(board.version))
    await asyncio.sleep(0)
    assert not waiting.done()
    board.put("node", "a", 1)
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize(
    ("text", "problem"), [("", "no part is named"), ("nodes", "there is no part 'nodes'"), (",", "no part")]
)
def test_unknown_parts_are_refused(text: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        wanted_parts(text)


def test_parts_are_taken_once() -> None:
    assert wanted_parts("node, view,node") == ("node", "view")
    assert "log" not in wanted_parts(None)
