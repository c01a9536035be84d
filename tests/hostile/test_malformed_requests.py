"""What strangers and members post to the endpoints between nodes, damaged: never a 5xx, never a crash, never a loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation import wire
from federation.hostport import Address
from federation.tls import client_context
from swarm.gateway.peers.model_files import FileService
from tests.doubles.clients import connect
from tests.doubles.file_nodes import CountingTransfers, stocked
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.scripted_tools import ScriptedTools
from tests.doubles.valid_bodies import BODIES, CANDIDATES, CHAT, TEXT
from tests.hostile import malformed
from tests.hostile.malformed import REQUESTS, SHA256, messages

PATIENCE_S = 0.2  # with a node that waits for the rest of a body; what is answered comes in milliseconds
AT_ONCE = 8
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
BROKEN = re.compile(rb'"(server_error|api_error|internal_error|engine_failed)"')  # how a stream tells of a 5xx
ODD_NUMBERS = (
    "",
    "-1",
    "2",
    "99999999999999999999",
    "1e9",
    "NaN",
    "0x1",
    " 1",
    "1,1",
    "\u0661",
    "٣",
    "None",
    "1.0",
    "0" * 5000,
)
ODD_TEXTS = (
    "",
    "\x01",
    "é",
    "a" * 7000,
    "../../etc/passwd",
    "127.0.0.1:0",
    "[::1]:99999",
    "evil.example:80",
    "%00",
    "a:b:c",
)
ODD_RANGES = (
    "bytes=",
    "bytes=9-1",
    "bytes=-5",
    "bytes=0-0,5-6",
    "lines=1-2",
    "bytes=" + "9" * 50 + "-",
    "bytes=0-" + "9" * 15,
)
POSTED: dict[str, tuple[Any, ...]] = {
    wire.CANDIDATES_PATH: (CANDIDATES, {**CANDIDATES, "leader": True}),
    wire.GENERATE_PATH: (CHAT, TEXT),
    wire.GOODBYE_PATH: ({"id": "id-attic", "instance": "run-1"},),
    wire.ROSTER_PATH: (malformed.ROSTER,),
    wire.UTILITIES_PATH + "/embeddings": BODIES["/embeddings"],
    wire.UTILITIES_PATH + "/tokenize": BODIES["/tokenize"],
    wire.UTILITIES_PATH + "/props": ({"model": "m"},),
}
GOT = (
    wire.NODE_PATH,
    wire.PEERS_PATH,
    wire.LOADABLE_PATH,
    wire.MODELS_PATH,
    f"{wire.MODELS_PATH}/{SHA256}",
    f"{wire.MODELS_PATH}/x/pieces",
)


def odd_headers(source: random.Random, path: str) -> dict[str, str]:
    """Half of the requests have one or two headers that make no sense."""
    kinds = {
        wire.HOPS_HEADER: ODD_NUMBERS,
        wire.DEADLINE_HEADER: ODD_NUMBERS,
        wire.FROM_HEADER: ODD_TEXTS,
        wire.REQUEST_ID_HEADER: ODD_TEXTS,
        "Content-Type": ("application/json; charset=utf-99", "application/octet-stream", "", "a/b/c"),
        "Content-Encoding": ("gzip", "deflate", "br", "rot13"),
        "Range": ODD_RANGES,
        "Transfer-Encoding": ("identity", "gzip"),
        "Expect": ("100-continue", "the-unexpected"),
        "Upgrade": ("websocket", "h2c"),
        "Authorization": ODD_TEXTS,
    }
    chosen = source.sample(list(kinds), source.choice((0, 0, 1, 2)))
    return {name: source.choice(kinds[name]) for name in chosen}


def requests(seed: int) -> Iterator[bytes]:
    """Endlessly many, each as it goes over the wire."""
    source = random.Random(seed)
    bodies = {path: messages(seed + place, *honest) for place, (path, honest) in enumerate(POSTED.items())}
    for path in itertools.cycle([*POSTED, *POSTED, *GOT]):
        method = "POST" if path in POSTED else "GET"
        body = next(bodies[path]) if path in POSTED else b""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **odd_headers(source, path)}
        if source.randrange(60) == 0:
            headers["Content-Length"] = source.choice(("-1", "5, 6", "x", str(len(body) // 2), "9" * 25))
        if not source.randrange(4):
            path += "?" + source.choice(
                ("from=127.0.0.1", "from=%00", "from=" + "9" * 300, "from=a&from=b", "from=[::1]:1")
            )
        if not source.randrange(15):
            path = path.replace("v1", source.choice(("v1/..", "v1//", "v1/%2e%2e", "v1%00", "v1/" + "x" * 2000)))
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        yield "\r\n".join((*lines, "", "")).encode() + body


async def answer_to(address: Address, raw: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Everything that comes back; b"" where the connection is closed without a word."""
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
    try:
        writer.write(raw)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    except (ConnectionError, TimeoutError):  # it waits for the rest of a body that was promised
        return b""
    finally:
        writer.transport.abort()


def problem(raw: bytes, answer: bytes) -> str | None:
    status = STATUS.match(answer)
    if not answer or (status is not None and int(status[1]) < 500 and not BROKEN.search(answer)):
        return None
    if b"X-Swarm-Deadline-Ms" in raw and b'"deadline_exceeded"' in answer:  # some give a time of 2 ms, which is short
        return None
    return f"{raw[:400]!r} -> {answer[:400]!r}"


async def throw_all(address: Address, sent: list[bytes], tls: ssl.SSLContext | None = None) -> Counter[str]:
    """Send them all, some at once. What they got, by status; fails on a 5xx."""
    ways = asyncio.Semaphore(AT_ONCE)
    found: Counter[str] = Counter()

    async def throw(raw: bytes) -> str | None:
        async with ways:
            answer = await answer_to(address, raw, tls)
        status = STATUS.match(answer)
        found["closed" if status is None else status[1].decode()] += 1
        return problem(raw, answer)

    problems = [told for told in await asyncio.gather(*map(throw, sent)) if told]
    assert problems == [], "\n".join(problems[:5])
    return found


def node(folder: Path, name: str, trust: Any) -> RunningNode:
    engine = ScriptedEngine(saying("fine"), model_id="demo")
    files = FileService(stocked(folder / f"models of {name}", b"abcde"), CountingTransfers())
    return RunningNode(name, ready(engine), options=NodeOptions(trust=trust, files=files, tool_host=ScriptedTools()))


MEMBERS_SHARE = 300


async def test_thousands_of_requests_break_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sent = list(itertools.islice(requests(20261), REQUESTS - MEMBERS_SHARE))
    assert len(sent) + MEMBERS_SHARE == REQUESTS
    async with node(tmp_path, "kitchen", open_trust(tmp_path, "kitchen")) as kitchen, connect(kitchen.url) as client:
        found = await throw_all(kitchen.address, sent)
        assert (await client.chat()).json["choices"][0]["message"]["content"] == "fine"
        assert kitchen.trust.mode == "open", "no list of members is taken from a stranger"
        assert len(kitchen.membership.rejected()) < 100, "where callers say they are is bounded"
    assert found["400"] > REQUESTS // 4, found
    assert found["200"] > REQUESTS // 50, f"some survive the damage: {found}"
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_a_member_that_sends_rubbish_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Over TLS, with a pinned certificate: lists of members above all."""
    kitchen_trust, study_trust = paired_trusts(tmp_path, "kitchen", "study")
    honest = json.loads(kitchen_trust.roster.model_dump_json())
    tls = client_context(study_trust.identity.pem, [kitchen_trust.identity.certificate])
    rosters = messages(9, malformed.ROSTER, {**malformed.ROSTER, "swarm": honest["swarm"]})
    head = f"POST {wire.ROSTER_PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    sent = [
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for body in itertools.islice(rosters, MEMBERS_SHARE // 2)
    ]
    sent += itertools.islice(requests(20262), MEMBERS_SHARE - len(sent))
    async with node(tmp_path, "kitchen", kitchen_trust) as kitchen:
        found = await throw_all(kitchen.address, sent, tls)
        assert [entry.name for entry in kitchen_trust.others] == ["study"]
        assert kitchen_trust.mode == "paired"
    assert sum(found.values()) == MEMBERS_SHARE
    assert found["400"] > MEMBERS_SHARE // 4, found
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


def test_ten_thousand_in_all() -> None:
    assert malformed.PARSED + malformed.OVER_SOCKETS + malformed.THROUGH_A_NODE + malformed.REQUESTS == 10_000
