"""What keys use: counted for what their clients got, held against their limits, told, and kept over a restart."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from federation import wire
from swarm.errors import LimitReached
from swarm.gateway.http.access import AccessRules, KeyHolder, KeyLimits, digest
from swarm.gateway.observing.board import BOARD
from swarm.gateway.observing.endpoints import VIEW
from swarm.gateway.observing.usage import (
    DAY_S,
    MAX_DAYS,
    NO_KEY,
    USAGE,
    DayUsage,
    UsageBook,
    UsageEntry,
    UsedNow,
    decide,
)
from swarm.gateway.observing.usage_file import keeping_usage, read_usage, write_usage
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import PROMPT_TOKENS, ScriptedEngine, Step, saying
from tests.doubles.waiting import eventually
from tests.gateway.test_page_types import PAGE

CHAT, USAGE_PATH = "/v1/chat/completions", "/swarm/v1/usage"
NOON = 20_000 * DAY_S + DAY_S / 2
SINGLE: dict[str, Any] = {"strategy": "single"}


@dataclass
class Clock:
    """Seconds, as a test sets them; the same for both clocks."""

    at: float = NOON

    def __call__(self) -> float:
        return self.at


def book_of(clock: Clock, *holders: KeyHolder) -> UsageBook:
    return UsageBook(holders, clock, clock)


def anna(requests: int | None = None, tokens: int | None = None) -> KeyHolder:
    return KeyHolder("anna", KeyLimits(requests, tokens))


def used_today(book: UsageBook, name: str) -> DayUsage:
    return next(entry for entry in book.entries() if entry.key == name).days[0]


# The decision


@pytest.mark.parametrize(
    ("recent", "tokens", "limits", "expected"),
    [
        ([], 0, KeyLimits(), None),
        ([99.0] * 5, 10**9, KeyLimits(), None),
        ([99.0], 0, KeyLimits(2), None),
        ([50.0, 99.0], 0, KeyLimits(2), ("requests", 10)),
        ([40.0, 99.0], 0, KeyLimits(2), None),  # sixty seconds ago is not in the last sixty
        ([40.1, 99.0], 0, KeyLimits(2), ("requests", 1)),
        ([50.0, 60.0, 99.0], 0, KeyLimits(2), ("requests", 20)),
        ([], 9, KeyLimits(None, 10), None),
        ([], 10, KeyLimits(None, 10), ("tokens", 500)),
        ([99.0], 10, KeyLimits(1, 10), ("tokens", 500)),
    ],
)
def test_the_decision(recent: list[float], tokens: int, limits: KeyLimits, expected: tuple[str, int] | None) -> None:
    found = decide(100.0, UsedNow(deque(recent), tokens, 499.5), limits)
    assert (None if found is None else (found.what, found.again_in_s)) == expected


@given(st.integers(1, 5), st.lists(st.floats(0, 50), max_size=60))
def test_no_sixty_seconds_have_one_request_too_many_and_none_is_refused_too_early(
    most: int, waits: list[float]
) -> None:
    clock = Clock()
    book = book_of(clock, anna(most))
    taken: list[float] = []
    for wait in waits:
        clock.at += wait
        in_window = sum(moment > clock.at - 60 for moment in taken)
        try:
            book.account(anna(most)).begin()
        except LimitReached as error:
            assert in_window == most
            clock.at += error.again_in_s
            book.account(anna(most)).begin()  # when it said, it is so
        else:
            assert in_window < most
        taken.append(clock.at)


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, DAY_S), st.integers(-5, 30), st.integers(-5, 30)), max_size=40),
)
def test_counts_never_go_below_none_and_the_days_limit_is_exact(
    most: int, answers: list[tuple[float, int, int]]
) -> None:
    clock = Clock()
    book = book_of(clock, anna(None, most))
    for wait, prompt, completion in answers:
        clock.at += wait
        account = book.account(anna())
        before = used_today(book, "anna").tokens if book.entries()[0].days else 0
        today = f"{clock.at // DAY_S}"
        before = before if book.entries()[0].days and _number(used_today(book, "anna")) == today else 0
        try:
            account.begin()
        except LimitReached:
            assert before >= most
            continue
        assert before < most
        account.spend(prompt, completion)
        assert used_today(book, "anna").tokens == before + max(0, prompt) + max(0, completion)
    for entry in book.entries():
        assert len(entry.days) <= MAX_DAYS
        for day in entry.days:
            assert min(day.requests, day.refused, day.prompt_tokens, day.completion_tokens) >= 0


def _number(day: DayUsage) -> str:
    return f"{datetime.fromisoformat(day.day).replace(tzinfo=UTC).timestamp() // DAY_S}"


def test_a_day_is_one_of_utc_and_a_month_of_them_is_kept() -> None:
    clock = Clock()
    book = book_of(clock, anna(None, 10))
    account = book.account(anna())
    account.begin()
    account.spend(4, 6)
    with pytest.raises(LimitReached, match=r"'anna' may use 10 tokens a day .* 0:00 UTC, in 12 h 0 min") as caught:
        account.begin()
    clock.at += caught.value.again_in_s - 1
    with pytest.raises(LimitReached, match="in 0 h 0 min"):
        account.begin()
    clock.at += 1
    account.begin()
    assert [(day.requests, day.refused, day.tokens) for day in book.entries()[0].days] == [(1, 0, 0), (1, 2, 10)]
    for _ in range(50):
        clock.at += DAY_S
        account.begin()
    days = book.entries()[0].days
    assert len(days) == MAX_DAYS
    assert days[0].day > days[-1].day
    clock.at -= 300 * DAY_S  # set back
    account.begin()
    assert len(book.entries()[0].days) <= MAX_DAYS


def test_a_refused_request_does_not_count_against_its_limit() -> None:
    clock = Clock()
    book = book_of(clock, anna(1))
    book.account(anna()).begin()
    for _ in range(59):
        clock.at += 1
        with pytest.raises(LimitReached):
            book.account(anna()).begin()
        assert book.entries()[0].last_minute == 1
    clock.at += 1
    assert book.entries()[0].last_minute == 0
    assert book_of(clock, anna()).entries()[0].last_minute is None, "it is not limited"
    book.account(anna()).begin()
    assert used_today(book, "anna") == DayUsage(used_today(book, "anna").day, requests=2, refused=59)


# A node


def keyed(*, federated: bool = True, **limits: KeyLimits) -> AccessRules:
    """A key `sk-NAME` for each, and an admin's."""
    return AccessRules(
        key_digests=tuple(digest(f"sk-{name}") for name in limits),
        key_holders=tuple(KeyHolder(name, of) for name, of in limits.items()),
        admin_digests=(digest("sk-root"),),
        federated=federated,
        open_federation=federated,
    )


@asynccontextmanager
async def kitchen(
    access: AccessRules | None = None, *steps: Step, **options: Any
) -> AsyncIterator[tuple[RunningNode, ScriptedEngine, Client]]:
    engine = ScriptedEngine((lambda _, __: list(steps)) if steps else saying("one two"))
    given = NodeOptions(access=access or AccessRules(), **options)
    async with RunningNode("kitchen", ready(engine), options=given) as node, connect(node.url) as client:
        yield node, engine, client


async def told(client: Client, name: str, key: str = "sk-root") -> tuple[int, int, int, int]:
    """Requests, refused, prompt and completion tokens of today."""
    reply = await client.get(USAGE_PATH, x_api_key=key)
    assert reply.status == 200
    found = next(entry for entry in reply.json["data"] if entry["key"] == name)
    if not found["days"]:
        return 0, 0, 0, 0
    day = found["days"][0]
    return day["requests"], day["refused"], day["prompt_tokens"], day["completion_tokens"]


LIMITED = [
    (CHAT, chat_body(), "openai"),
    ("/chat/completions", chat_body(), "openai"),
    ("/v1/completions", {"model": "swarm", "prompt": "a"}, "openai"),
    ("/v1/responses", {"model": "swarm", "input": "a"}, "openai"),
    ("/v1/messages", {**chat_body(), "max_tokens": 5}, "anthropic"),
    ("/messages", {**chat_body(), "max_tokens": 5}, "anthropic"),
    ("/v1/messages/count_tokens", chat_body(), "anthropic"),
    ("/v1/embeddings", {"model": "swarm", "input": "a"}, "openai"),
    ("/tokenize", {"content": "a"}, "openai"),
    ("/completion", {"prompt": "a"}, "openai"),
    ("/v1/rerank", {"query": "a", "documents": ["b"]}, "openai"),
]


async def test_every_path_is_held_to_the_limit_in_the_shape_of_its_api() -> None:
    access = keyed(anna=KeyLimits(requests_a_minute=1), ben=KeyLimits())
    async with kitchen(access) as (_, engine, client):
        first = await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-anna")
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert re.fullmatch(r"\d+s", first.headers["x-ratelimit-reset-requests"])
        asked = len(engine.requests)
        for path, body, shape in LIMITED:
            for stream in (False, True):
                reply = await client.post(path, {**body, "stream": stream}, Authorization="Bearer sk-anna")
                assert reply.status == 429, path
                assert 1 <= int(reply.headers["Retry-After"]) <= 60
                error = reply.json["error"]
                assert (
                    "the key 'anna' may ask 1 requests a minute of this node, and has: ask again in" in error["message"]
                )
                if shape == "anthropic":
                    assert (reply.json["type"], error["type"]) == ("error", "rate_limit_error")
                else:
                    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert len(engine.requests) == asked, "no work was done for them"
        for method in (client.get("/v1/models", x_api_key="sk-anna"), client.get("/health")):
            assert (await method).status == 200, "what is no work is not counted"
        assert (await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-ben")).status == 200
        assert (await told(client, "anna"))[:2] == (1, 2 * len(LIMITED))
        assert (await told(client, "ben"))[:2] == (1, 0)


async def test_both_keys_in_one_request_are_no_way_round_and_methods_without_work_do_not_count() -> None:
    access = keyed(anna=KeyLimits(requests_a_minute=1))
    async with kitchen(access) as (node, _, client):
        async with aiohttp.ClientSession() as session:
            for method in ("OPTIONS", "HEAD", "PUT"):
                async with session.request(method, node.url + CHAT, headers={"x-api-key": "sk-anna"}) as response:
                    assert response.status in (204, 405)
        assert (await told(client, "anna")) == (0, 0, 0, 0)
        both = {"Authorization": "Bearer sk-unknown", "x_api_key": "sk-anna"}
        assert (await client.post(CHAT, chat_body(swarm=SINGLE), **both)).status == 200
        assert (await client.post(CHAT, chat_body(swarm=SINGLE), **both)).status == 429
        assert (await client.post(CHAT, chat_body(), x_api_key="sk-anna", X_Swarm_From="somebody")).status == 429


async def test_a_request_that_begins_under_the_days_limit_is_answered_whole_and_the_next_is_not() -> None:
    access = keyed(anna=KeyLimits(tokens_a_day=1))
    async with kitchen(access) as (_, _engine, client):
        assert (await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-anna")).status == 200
        reply = await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-anna")
        assert reply.status == 429
        assert (reply.error["type"], reply.error["code"]) == ("tokens", "rate_limit_exceeded")
        assert "may use 1 tokens a day of this node, and has: the day is over at 0:00 UTC" in reply.error["message"]
        assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
        if int(reply.headers["Retry-After"]) > 60:
            assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"swarm": SINGLE}, 1),
        ({"swarm": SINGLE, "n": 3}, 3),
        ({"swarm": {"strategy": "majority", "votes": 3}}, 1),
    ],
    ids=["single", "choices", "vote"],
)
async def test_what_counts_is_what_the_client_got(stream: bool, fields: dict[str, Any], choices: int) -> None:
    async with kitchen(keyed(anna=KeyLimits())) as (_, _engine, client):
        asked = {**fields, "stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
        reply = await client.post(CHAT, chat_body(**asked), x_api_key="sk-anna")
        usage = next(c["usage"] for c in reply.chunks if c.get("usage")) if stream else reply.json["usage"]
        assert usage["prompt_tokens"] == PROMPT_TOKENS
        assert usage["completion_tokens"] % choices == 0
        assert await told(client, "anna") == (1, 0, PROMPT_TOKENS, usage["completion_tokens"])


@pytest.mark.parametrize("end", ["client leaves", "cancelled"])
@pytest.mark.parametrize("swarm", [SINGLE, {"strategy": "majority", "votes": 2}], ids=["single", "vote"])
async def test_an_answer_that_is_cut_counts_as_far_as_it_came(end: str, swarm: dict[str, Any]) -> None:
    words = ["one ", "two ", "three "]
    async with kitchen(keyed(anna=KeyLimits()), *words, asyncio.Event()) as (node, engine, client):
        headers = {"x-api-key": "sk-anna", "X-Request-Id": "mine"}
        body = chat_body("12345678", stream=True, swarm={**swarm, "stream": "leader"} if swarm is not SINGLE else swarm)
        async with (
            aiohttp.ClientSession() as session,
            session.post(node.url + CHAT, json=body, headers=headers) as response,
        ):
            seen = b""
            while b"three" not in seen:
                seen += await response.content.readany()
            assert [entry.tokens for entry in node.app[VIEW].requests().data] == [len(words)]
            if end == "cancelled":
                assert (await client.post("/swarm/v1/requests/mine/cancel", x_api_key="sk-root")).status == 200
                await response.read()
        await eventually(lambda: engine.running == 0 and len(node.condition.in_progress) == 0)
        assert await told(client, "anna") == (1, 0, 2, 3)


async def test_a_request_that_fails_counts_as_one_and_for_no_tokens() -> None:
    async with kitchen(keyed(anna=KeyLimits())) as (_, _engine, client):
        assert (await client.post(CHAT, {"model": "none"}, x_api_key="sk-anna")).status == 400
        assert (await client.post(CHAT, {**chat_body(), "model": "none"}, x_api_key="sk-anna")).status == 404
        assert (await client.post(CHAT, chat_body(), x_api_key="sk-wrong")).status == 401
        assert await told(client, "anna") == (2, 0, 0, 0)


async def test_embeddings_count_what_they_read() -> None:
    async with kitchen(keyed(anna=KeyLimits())) as (_, _engine, client):
        reply = await client.post("/v1/embeddings", {"model": "swarm", "input": ["a", "b"]}, x_api_key="sk-anna")
        assert await told(client, "anna") == (1, 0, reply.json["usage"]["prompt_tokens"], 0)


async def test_without_a_federation_the_paths_of_nodes_are_no_way_round() -> None:
    async with kitchen(keyed(federated=False, anna=KeyLimits(1)), federated=False) as (_, _engine, client):
        headers = {"x_api_key": "sk-anna", wire.FROM_HEADER: "x"}
        assert (await client.post(wire.GENERATE_PATH, {}, **headers)).status != 429
        assert (await client.post(wire.GENERATE_PATH, {}, **headers)).status == 429


async def test_what_a_peer_asks_is_counted_where_its_client_asked() -> None:
    async with kitchen() as (study, _, _client):
        options = NodeOptions(peers=[study.address], access=keyed(anna=KeyLimits()))
        async with RunningNode("attic", options=options) as attic, connect(attic.url) as client:
            assert (await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-anna")).status == 200
            assert (await told(client, "anna"))[0] == 1
        assert study.app[USAGE].entries() == ()


async def test_without_keys_all_count_as_one_and_nothing_is_limited() -> None:
    async with kitchen() as (_, _engine, client):
        reply = await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="whatever")
        assert reply.status == 200
        assert not [name for name in reply.headers if name.lower().startswith("x-ratelimit")]
        assert (await told(client, NO_KEY))[0] == 1


async def test_metrics_have_a_label_for_each_key_and_none_for_what_clients_make_up() -> None:
    async with kitchen(keyed(anna=KeyLimits(1), ben=KeyLimits())) as (_, _engine, client):
        for key in ("sk-anna", "sk-anna", "sk-made-up"):
            await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key=key)
        text = (await client.get("/metrics", x_api_key="sk-root")).text
        assert 'swarm_key_requests_total{key="anna"} 1.0' in text
        assert 'swarm_key_refused_total{key="anna"} 1.0' in text
        assert f'swarm_key_prompt_tokens_total{{key="anna"}} {PROMPT_TOKENS}.0' in text
        assert set(re.findall(r'swarm_key_requests_total{key="(.*?)"}', text)) == {"anna", "ben", "admin key 1"}
        assert "sk-" not in text


async def test_requests_say_whose_they_are_which_model_and_whether_they_wait() -> None:
    access = keyed(anna=KeyLimits(), ben=KeyLimits())
    async with kitchen(access, "word ", asyncio.Event()) as (_, _engine, client):
        engine_slots = 4
        asked = [
            asyncio.create_task(
                client.post(CHAT, chat_body(swarm=SINGLE), x_api_key=f"sk-{name}", X_Request_Id=f"{name}{number}")
            )
            for number in range(engine_slots + 1)
            for name in (("anna",) if number < engine_slots else ("ben",))
        ]
        listed: list[Any] = []

        async def waiting() -> bool:
            listed[:] = (await client.get("/swarm/v1/requests", x_api_key="sk-root")).json["data"]
            return [entry["state"] for entry in listed].count("waiting") == 1 and len(listed) == engine_slots + 1

        async with asyncio.timeout(10):
            while not await waiting():
                pass  # each look is an answer of the node
        assert set(listed[0]) == set(PAGE.interfaces["RequestEntry"])
        assert {entry["key"] for entry in listed} == {"anna", "ben"}
        assert {entry["model"] for entry in listed} == {"swarm"}
        for entry in listed:
            await client.post(f"/swarm/v1/requests/{entry['id']}/cancel", x_api_key="sk-root")
        assert {(await task).status for task in asked} == {409}


async def test_the_board_has_them_while_somebody_watches() -> None:
    async with kitchen(keyed(anna=KeyLimits())) as (node, _engine, client):
        board = node.app[BOARD]
        assert board.since(0, ["usage", "request", "log"]) is None
        with board.watching(["usage", "request"]):
            told_first = json.loads(board.since(0, ["usage"]) or "{}")
            assert set(told_first["usage"]) == {"anna", "admin key 1"}
            assert (
                await client.get("/v1/events?parts=usage", x_api_key="sk-anna", X_Forwarded_For="1.2.3.4")
            ).status == 403


# The file


@asynccontextmanager
async def kept(book: UsageBook, path: Path, every_s: float = 60.0) -> AsyncIterator[None]:
    running = keeping_usage(book, path, every_s)(web.Application())
    await anext(running)
    yield
    with pytest.raises(StopAsyncIteration):
        await anext(running)


async def test_a_limit_of_a_day_outlives_a_restart(tmp_path: Path) -> None:
    path, access = tmp_path / "usage.json", keyed(anna=KeyLimits(tokens_a_day=1))
    async with kitchen(access, usage_file=path) as (_, _engine, client):
        assert (await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-anna")).status == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name != "posix"
    assert "sk-" not in path.read_text()
    assert digest("sk-anna").hex() not in path.read_text()
    async with kitchen(access, usage_file=path) as (_, _engine, client):
        assert (await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key="sk-anna")).status == 429
        assert (await told(client, "anna"))[:2] == (1, 1)


async def test_nothing_is_written_without_keys_or_without_use(tmp_path: Path) -> None:
    async with kitchen(usage_file=tmp_path / "usage.json") as (_, _engine, client):
        await client.chat()
    async with kitchen(keyed(anna=KeyLimits()), usage_file=tmp_path / "usage.json"):
        pass
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_it_is_written_now_and_then_and_goes_on(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "usage.json"
    book = book_of(clock, anna())
    async with kept(book, path, every_s=0.001):
        book.account(anna()).spend(3, 4)
        await eventually(path.exists)
        book.account(None).begin()
    other = book_of(clock, KeyHolder("ben"))
    async with kept(other, path):
        assert other.entries()[0] == UsageEntry(key="ben", limits=KeyLimits(), days=())
        assert used_today(other, NO_KEY).requests == 1
    again = book_of(clock, anna())
    async with kept(again, path):
        assert used_today(again, "anna").tokens == 7


async def test_what_is_counted_while_it_is_written_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path, days: Any) -> None:
        begun.set()
        assert go_on.wait(10)
        write_usage(path, days)

    monkeypatch.setattr("swarm.gateway.observing.usage_file.write_usage", slow)
    book = book_of(Clock(), anna())
    async with kept(book, tmp_path / "usage.json", every_s=0.001):
        book.account(anna()).begin()
        await eventually(begun.is_set)
        book.account(anna()).begin()
        go_on.set()
    assert [day.requests for day in read_usage(tmp_path / "usage.json")["anna"]] == [2]


GOOD = {"day": "2026-01-31", "requests": 1, "refused": 0, "prompt_tokens": 1, "completion_tokens": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"\xff\x00", b'{"version": 2, "keys": {}}', b"[" * 100_000,
        json.dumps({"version": 1, "keys": {"anna": [{**GOOD, "requests": -1}]}}).encode(),
        json.dumps({"version": 1, "keys": {"anna": [{**GOOD, "requests": "1"}]}}).encode(),
        json.dumps({"version": 1, "keys": {"anna": [{**GOOD, "day": "today"}]}}).encode(),
        json.dumps({"version": 1, "keys": {"anna": [{**GOOD, "key": "sk-a"}]}}).encode(),
        json.dumps({"version": 1, "keys": {"anna": [GOOD] * 99}}).encode(),
    ],
)  # fmt: skip
def test_a_damaged_file_is_said_and_begun_anew(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.json"
    path.write_bytes(content)
    assert read_usage(path) == {}
    assert "what keys used is counted anew, their limits of today included" in caplog.text


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    days = {"anna": [DayUsage("2026-01-30", 1, 2, 3, 4), DayUsage("2026-01-31", 5, 6, 7, 8)]}
    write_usage(tmp_path / "usage.json", days)
    assert read_usage(tmp_path / "usage.json") == days


async def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    book = book_of(Clock(), anna())
    async with kept(book, tmp_path / "file" / "usage.json", every_s=0.001):
        book.account(anna()).begin()
        await eventually(lambda: "cannot be kept" in caplog.text)
        book.account(anna()).begin()
    assert caplog.text.count("cannot be kept") == 1
