"""The votes that a node remembers: who may read what of them, for how long, and that none of it is on a disk."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.verdict import decide
from swarm.errors import DeadlineExceeded, EngineFailed, NoConsensus, RequestCancelled
from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.observing import vote_history
from swarm.gateway.observing.board import BOARD, EventBoard
from swarm.gateway.observing.vote_history import (
    MAX_ANSWER_CHARS,
    MAX_KEPT,
    MAX_PROMPT_CHARS,
    NOT_FOR_YOU,
    NOT_KEPT,
    VoteHistory,
    VoteRecord,
    recorded_prompt,
    vote_object,
    why_failed,
)
from swarm.generation import Candidate, GenerationRequest, JsonObject, Usage
from swarm.routing.ballot_box import BallotResult
from tests.doubles.clients import chat_body
from tests.doubles.scripted_engine import Step
from tests.doubles.stage import Stage, staged
from tests.doubles.waiting import eventually

CHAT = "/v1/chat/completions"
NUMBER = "Reply with only a number: 4 + 4"
ALL_FOUR = {"votes": 4, "min_votes": 4, "strategy": "majority"}
VOTES = "/swarm/v1/votes"
SECRET = "the heron stands in the reeds"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield await staged(stack)


async def listed(stage: Stage, query: str = "") -> list[dict[str, Any]]:
    answer = await stage.client.get(VOTES + query)
    assert answer.status == 200, answer.text
    return list(answer.json["data"])


def history_of(stage: Stage) -> VoteHistory:
    return stage.node.app[vote_history.VOTES]


BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat_body(NUMBER, swarm=ALL_FOUR),
    "/v1/completions": {"model": "swarm", "prompt": NUMBER, "max_tokens": 20, "swarm": ALL_FOUR},
    "/v1/responses": {"model": "swarm", "input": NUMBER, "swarm": ALL_FOUR},
    "/v1/messages": {
        "model": "swarm", "max_tokens": 20, "messages": [{"role": "user", "content": NUMBER}], "swarm": ALL_FOUR
    },
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_a_vote_is_kept_whatever_the_api(stage: Stage, path: str, stream: bool) -> None:
    stage.voters_say("Answer: 8", "Answer: 8", "Answer: 9", "Answer: 8")
    answer = await stage.client.post(path, {**BODIES[path], "stream": stream}, X_Request_Id="of-mine")
    assert answer.status == 200, answer.text
    (entry,) = await listed(stage)
    assert (entry["state"], entry["outcome"], entry["votes"], entry["asked"]) == ("done", "consensus", 4, 4)
    assert (entry["request_id"], entry["coordinator"], entry["stopped_by"]) == ("of-mine", "kitchen", "all_in")
    assert sorted(part["group"] for part in entry["candidates"]) == [0, 0, 0, 1]
    assert entry["agreement"] == 0.75
    assert not any("answer" in part for part in entry["candidates"])
    full = (await stage.client.get(f"{VOTES}/{entry['id']}")).json
    assert (full["answers"], full["why"], full["prompt"]) == (True, None, None)
    assert sorted(part["answer"] for part in full["candidates"]) == ["Answer: 8"] * 3 + ["Answer: 9"]


async def test_a_single_answer_is_no_vote_unless_one_was_asked_for(stage: Stage) -> None:
    stage.voters_say("Some prose.", "Some prose.", "Some prose.", "Some prose.")
    await stage.client.post(CHAT, chat_body("Tell a tale", swarm={"strategy": "single"}))
    await stage.client.post(CHAT, chat_body("Tell a tale", swarm=None))
    assert await listed(stage) == []


async def test_it_is_live_while_somebody_watches(stage: Stage) -> None:
    gates = [asyncio.Event() for _ in range(4)]
    said: list[list[Step]] = [[gate, f"Answer: {n}"] for gate, n in zip(gates, (8, 9, 8, 7), strict=True)]
    stage.voters_say(*said)
    board = stage.node.app[BOARD]

    def seen() -> dict[str, Any]:
        told: dict[str, dict[str, Any]] = json.loads(board.since(0, ["vote"]) or '{"vote": {}}')["vote"]
        return [*told.values(), dict[str, Any]()][0]

    with board.watching(["vote"]):
        asked = asyncio.create_task(stage.client.post(CHAT, chat_body(NUMBER, swarm=ALL_FOUR)))
        await eventually(lambda: seen().get("asked") == 4)
        assert (seen()["state"], seen()["out"]) == ("running", ["scripted@kitchen"] * 4)
        for voters, gate in enumerate(gates[:3], 1):
            gate.set()
            await eventually(lambda count=voters: len(seen()["candidates"]) == count)
        assert (seen()["state"], seen()["stopped_by"], seen()["outcome"]) == ("running", None, None)
        gates[3].set()
        answer = await asked
        assert "ballot" not in answer.text  # the client did not ask for progress
        assert (seen()["state"], seen()["out"]) == ("done", [])


async def test_a_client_that_leaves_fails_its_vote(stage: Stage) -> None:
    never = asyncio.Event()
    stage.voters_say([never, "Answer: 8"], [never, "8"], [never, "8"], [never, "8"])
    history = history_of(stage)
    async with asyncio.timeout(20):
        asked = asyncio.create_task(stage.client.post(CHAT, chat_body(NUMBER, swarm=ALL_FOUR)))
        await eventually(lambda: bool(history.entries()))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await eventually(lambda: history.entries()[0].state == "failed")
    assert history.entries()[0].stopped_by == "cut_off"


async def test_no_quorum_is_told_with_what_came_in(stage: Stage) -> None:
    stage.voters_say("Answer: 8", [EngineFailed("no")], [EngineFailed("no")], [EngineFailed("no")])
    body = chat_body(NUMBER, swarm={**ALL_FOUR, "on_no_quorum": "error"})
    assert (await stage.client.post(CHAT, body)).status == 503
    (entry,) = await listed(stage)
    assert (entry["state"], entry["stopped_by"], entry["outcome"]) == ("failed", "no_quorum", "degraded")
    assert len(entry["candidates"]) == 4


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (asyncio.CancelledError(), "cut_off"),
        (GeneratorExit(), "cut_off"),
        (RequestCancelled("x"), "cancelled"),
        (DeadlineExceeded("x"), "deadline"),
        (NoConsensus("x"), "no_quorum"),
        (EngineFailed("x"), "error"),
        (ValueError("x"), "error"),
    ],
)
def test_why_a_vote_failed(error: BaseException, word: str) -> None:
    assert why_failed(error) == word


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 3), ("?limit=2", 2), ("?outcome=consensus", 2), ("?outcome=plurality", 1), ("?kind=value", 0),
        ("?model=scripted", 1), ("?model=swarm", 2),
    ],
)  # fmt: skip
async def test_filters(stage: Stage, query: str, count: int) -> None:
    said = ["8"] * 4

    def script(_: GenerationRequest, voter: int) -> list[Step]:
        return [f"Answer: {said[voter % 4]}"]

    stage.engine.script = script
    await stage.client.post(CHAT, chat_body(NUMBER, swarm=ALL_FOUR))
    await stage.client.post(CHAT, {**chat_body(NUMBER, swarm=ALL_FOUR), "model": "scripted"})
    said[:] = ["1", "2", "3", "4"]
    await stage.client.post(CHAT, chat_body(NUMBER, swarm=ALL_FOUR))
    found = await listed(stage, query)
    assert len(found) == count
    assert [entry["began"] for entry in found] == sorted((entry["began"] for entry in found), reverse=True)


@pytest.mark.parametrize("query", ["?limit=0", "?limit=201", "?limit=x", "?limit=-1", "?limit=", "?kin=text"])
async def test_filters_that_are_none_are_refused(stage: Stage, query: str) -> None:
    assert (await stage.client.get(VOTES + query)).status == 400


async def test_a_vote_that_nobody_knows_is_a_404(stage: Stage) -> None:
    answer = await stage.client.get(VOTES + "/vote_0")
    assert (answer.status, "coordinated" in answer.text) == (404, True)


async def test_words_are_for_those_who_manage_the_node() -> None:
    async with AsyncExitStack() as stack:
        access = AccessRules(key_digests=(digest("k"),), admin_digests=(digest("a"),))
        stage = await staged(stack, access=access)
        stage.voters_say(*[f"Answer: {SECRET}"] * 4)
        elsewhere = {"X-Forwarded-For": "192.0.2.7"}
        await stage.client.post(CHAT, chat_body(NUMBER, swarm=ALL_FOUR), Authorization="Bearer k")
        entry = (await stage.client.get(VOTES, Authorization="Bearer k", **elsewhere)).json["data"][0]
        told = await stage.client.get(f"{VOTES}/{entry['id']}", Authorization="Bearer k", **elsewhere)
        assert (told.json["answers"], told.json["why"], SECRET in told.text) == (False, NOT_FOR_YOU, False)
        full = await stage.client.get(f"{VOTES}/{entry['id']}", Authorization="Bearer a", **elsewhere)
        assert (full.json["answers"], SECRET in full.text) == (True, True)
        assert (await stage.client.get(VOTES)).status == 401


@pytest.mark.parametrize("records", [False, True])
async def test_a_prompt_is_kept_only_by_a_node_that_records(records: bool) -> None:
    async with AsyncExitStack() as stack:
        stage = await staged(stack, records=records)
        stage.voters_say(*["Answer: 8"] * 4)
        await stage.client.post(CHAT, chat_body(f"{SECRET}. {NUMBER}", swarm=ALL_FOUR))
        (entry,) = await listed(stage)
        full = await stage.client.get(f"{VOTES}/{entry['id']}")
        prompt = [{"role": "user", "text": f"{SECRET}. {NUMBER}"}] if records else None
        assert full.json["prompt"] == prompt
        assert SECRET not in (await stage.client.get(VOTES)).text
        assert (await stage.client.get("/v1/federation/health")).json["records"] is records
        assert (await stage.client.get("/swarm/v1/page")).json["records"] is records


async def test_nothing_of_a_vote_is_on_a_disk() -> None:
    """Not even with --record: while a vote is held and read, no file is opened for writing."""
    async with AsyncExitStack() as stack:
        stage = await staged(stack, records=True)
        stage.voters_say(*["Answer: 8"] * 4)
        opened: list[tuple[Any, ...]] = []
        add_opening_watch(opened)
        await stage.client.post(CHAT, chat_body(f"{SECRET}. {NUMBER}", swarm=ALL_FOUR))
        (entry,) = await listed(stage)
        await stage.client.get(f"{VOTES}/{entry['id']}")
        os.close(os.open(os.devnull, os.O_WRONLY))  # which is seen
        WATCHED.clear()
        assert [name for name, *_ in opened] == [os.devnull]


WATCHED: list[list[tuple[Any, ...]]] = []


def add_opening_watch(opened: list[tuple[Any, ...]]) -> None:
    """Have files that are opened for writing from now on noted, until WATCHED is cleared: hooks cannot be removed."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and WATCHED and isinstance(given[2], int) and given[2] & writing:
            WATCHED[0].append(given)

    WATCHED.append(opened)
    sys.addaudithook(hook)


# What is kept, and how much


def asked(text: str = "4 + 4") -> GenerationRequest:
    return GenerationRequest(model="swarm", messages=({"role": "user", "content": text},))


def result_of(*answers: str) -> BallotResult:
    said = tuple(
        Candidate(voter=f"v{n}@kitchen", node="kitchen", model="m", text=text, usage=Usage(completion_tokens=2))
        for n, text in enumerate(answers)
    )
    question = Question.of(asked(), Strategy.MAJORITY)
    verdict = decide(question, said, asked=len(said), wanted=len(said), stopped_by="all_in")
    return BallotResult(verdict, None, candidates=said)


def held(history: VoteHistory, *answers: str) -> VoteRecord:
    record = history.begin(asked(), "majority", len(answers))
    record.counted(result_of(*answers))
    record.done()
    return record


def test_the_newest_are_kept_and_running_ones_before_them() -> None:
    history = VoteHistory("kitchen")
    running = history.begin(asked(), "majority", 2)
    made = [held(history, "8", "8").entry.id for _ in range(MAX_KEPT + 10)]
    kept = [entry.id for entry in history.entries()]
    assert kept == [*reversed(made[11:]), running.entry.id]


def test_an_answer_is_kept_up_to_its_bound_and_old_ones_go_first() -> None:
    history = VoteHistory("kitchen", most_words_bytes=3 * MAX_ANSWER_CHARS)
    first = held(history, "x" * 10 * MAX_ANSWER_CHARS)
    full = history.in_full(first.entry.id, with_words=True)
    assert full is not None
    answer = full.candidates[0].answer
    assert answer is not None
    assert (len(answer), answer[-1]) == (MAX_ANSWER_CHARS, "…")
    second = held(history, "y" * MAX_ANSWER_CHARS, "y" * MAX_ANSWER_CHARS)
    gone, there = (history.in_full(one.entry.id, with_words=True) for one in (first, second))
    assert gone is not None
    assert there is not None
    assert (gone.answers, gone.why, there.answers, there.why) == (False, NOT_KEPT, True, None)


@given(st.lists(st.lists(st.text(max_size=60), min_size=1, max_size=4), max_size=12), st.integers(50, 400))
def test_the_words_of_all_votes_stay_within_their_bound(votes: list[list[str]], bound: int) -> None:
    history = VoteHistory("kitchen", records=True, most_words_bytes=bound)
    for answers in votes:
        held(history, *answers)
        kept = [history._votes[entry.id].words for entry in history.entries()]  # pyright: ignore[reportPrivateUsage]
        total = sum(words.size_bytes for words in kept)
        assert total <= max(bound, kept[0].size_bytes)  # the newest has its words, whatever their length
        assert history._words_bytes == total  # pyright: ignore[reportPrivateUsage]


def test_the_board_has_it_only_while_somebody_watches() -> None:
    history, board = VoteHistory("kitchen"), EventBoard({"vote": MAX_KEPT})
    history.show(board)
    held(history, "8")
    assert board.since(0, ["vote"]) is None
    with board.watching(["vote"]):
        shown = board.since(0, ["vote"])
        assert shown is not None
        assert history.is_watched
        version = board.version
        held(history, "9")
        assert board.version > version
    assert not history.is_watched


def test_whoever_asks_for_the_list_has_votes_followed_for_a_while() -> None:
    at = [100.0]
    history = VoteHistory("kitchen", clock=lambda: at[0])
    assert not history.is_watched
    history.entries()
    assert history.is_watched
    at[0] += vote_history.READ_S
    assert not history.is_watched


def test_times_are_those_of_its_clocks() -> None:
    at = [5.0]
    history = VoteHistory("kitchen", clock=lambda: at[0], now=lambda: datetime(2026, 1, 31, 12, tzinfo=UTC))
    record = history.begin(asked(), "majority", 2)
    at[0] += 1.5
    record.counted(result_of("8", "8"))
    record.done(confirmed=True)
    shown = vote_object(record.entry)
    assert (shown["began"], shown["elapsed_ms"], shown["confirmed"]) == ("2026-01-31T12:00:00.000Z", 1500, True)
    record.failed(GeneratorExit())  # its generator is closed, now that it is over
    assert record.entry.state == "done"


IMAGE: JsonObject = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
PROMPTS: list[tuple[tuple[JsonObject, ...], list[tuple[str, str]] | None]] = [
    (({"role": "user", "content": "a"},), [("user", "a")]),
    (({"role": "system", "content": "s"}, {"role": "user", "content": "u"}), [("system", "s"), ("user", "u")]),
    (({"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]},), [("user", "see")]),
    (({"role": "user", "content": "x" * MAX_PROMPT_CHARS}, {"role": "user", "content": "last"}), None),
    (({"role": "assistant", "content": None},), [("assistant", "")]),
]


@pytest.mark.parametrize(("messages", "turns"), PROMPTS)
def test_what_is_kept_of_a_prompt(messages: tuple[JsonObject, ...], turns: list[tuple[str, str]] | None) -> None:
    kept = recorded_prompt(GenerationRequest(model="m", messages=messages))
    if turns is not None:
        assert [(turn.role, turn.text) for turn in kept] == turns
    assert sum(len(turn.text) for turn in kept) <= MAX_PROMPT_CHARS
    assert kept[-1].text in ("last", *(text for _, text in turns or ()))
