"""What HTTP itself can say: encodings, characters, headers, paths. Each is read, or refused in words of its API."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.http.bodies import MAX_BODY_BYTES, MAX_MEMBERS
from swarm.gateway.http.listener import MAX_HEADER_BYTES, MAX_HEADERS, plain_path
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
BODY = json.dumps(chat_body("é", swarm={"strategy": "single"}), ensure_ascii=False)
RAW = BODY.encode()
PATIENCE_S = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[RunningNode]:
    engine = ScriptedEngine(lambda request, _: [str(message["content"]) for message in request.messages or ()])
    async with RunningNode("kitchen", ready(engine), options=NodeOptions()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(node: RunningNode) -> AsyncIterator[Client]:
    async with connect(node.url) as connected:
        yield connected


async def exchange(node: RunningNode, request: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the answer to these bytes."""
    reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    writer.close()
    return int(status.split()[1]), headers, json.loads(body)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request, by hand."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def named(value: object) -> str:
    """What a test is called by, where its bytes are long."""
    return repr(value)[:60]


def zipped(data: bytes) -> bytes:
    """The same bytes at any time: they are parts of tests' names, on which several processes must agree."""
    return gzip.compress(data, mtime=0)


def deflated(raw: bytes, bits: int) -> bytes:
    made = zlib.compressobj(wbits=bits)
    return made.compress(raw) + made.flush()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Encoding: gzip"], zipped(RAW)),
        (["Content-Encoding: x-gzip"], zipped(RAW)),
        (["Content-Encoding: GZIP"], zipped(RAW[:9]) + zipped(RAW[9:])),
        (["Content-Encoding: deflate"], deflated(RAW, 15)),
        (["Content-Encoding: deflate"], deflated(RAW, -15)),
        (["Content-Encoding: identity"], RAW),
        (["Content-Encoding:"], RAW),
        ([], b"\xef\xbb\xbf" + RAW),
        ([], BODY.encode("utf-16")),
        ([], BODY.encode("utf-16-le")),
        ([], BODY.encode("utf-16-be")),
        ([], BODY.encode("utf-32")),
        (["Content-Type: application/json; charset=utf-16"], BODY.encode("utf-16")),
        (["Content-Type: application/json; charset=utf8"], RAW),
        (['Content-Type: application/json; charset="ISO-8859-1"'], BODY.encode("latin-1")),
        (["Content-Type: application/json;charset=windows-1252"], BODY.encode("cp1252")),
        (["Expect: 100-Continue"], RAW),
        ([f"Cookie: {'x' * 20_000}"], RAW),
    ],
    ids=named,
)
async def test_every_way_to_send_a_body_is_read(node: RunningNode, headers: list[str], body: bytes) -> None:
    request = post(CHAT, body, *headers)
    if headers == ["Expect: 100-Continue"]:
        reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
        writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        return
    status, _, answer = await exchange(node, request)
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == "é"


BOMB = zipped(b" " * (MAX_BODY_BYTES + 1))


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/chat/completions", "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        (["Content-Encoding: br"], b"x", 415, "'br': send the body plain, or as gzip or deflate"),
        (["Content-Encoding: zstd"], b"x", 415, "'zstd'"),
        (["Content-Encoding: rot13"], b"x", 415, "'rot13'"),
        (["Content-Encoding: gzip, gzip"], zipped(zipped(RAW)), 415, "'gzip, gzip'"),
        (["Content-Encoding: gzip"], RAW, 400, "not gzip, as its Content-Encoding says"),
        (["Content-Encoding: gzip"], zipped(RAW)[:-9], 400, "gzip that ends too early"),
        (["Content-Encoding: deflate"], deflated(RAW, 15)[:-3], 400, "deflate that ends too early"),
        (["Content-Encoding: gzip"], zipped(b"") * (MAX_MEMBERS + 1), 400, "members"),
        (["Content-Encoding: gzip"], BOMB, 413, "larger than"),
        (["Content-Type: application/json; charset=klingon"], RAW, 415, "'klingon'"),
        (["Content-Type: application/json; charset=cp9999"], RAW, 415, "'cp9999'"),
        ([], BODY.encode("utf-16")[:-1], 400, "not in utf-16"),
        ([], b"\xff\xfe{\x00", 400, "not JSON"),
        (["Expect: a miracle"], RAW, 417, "'a miracle'"),
    ],
    ids=named,
)
async def test_what_cannot_be_read_is_refused_in_the_shape_of_its_api(
    node: RunningNode, path: str, headers: list[str], body: bytes, status: int, message: str
) -> None:
    told, answered, answer = await exchange(node, post(path, body, *headers))
    assert (told, message in answer["error"]["message"]) == (status, True), answer
    assert answered["content-type"].startswith("application/json")
    assert ("type" in answer) == (path == MESSAGES), "Anthropic's shape for Anthropic's path, OpenAI's for the others"
    if status == 415 and "Content-Encoding" in headers[0]:
        assert answered["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (f"GET /v1/models HTTP/1.1\r\nCookie: {'x' * (MAX_HEADER_BYTES + 9)}\r\n\r\n".encode(), 431, "fewer cookies"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADERS + 9) + b"\r\n", 431, "headers"),
        (f"GET /{'x' * 9000} HTTP/1.1\r\n\r\n".encode(), 414, "address"),
        (b"FETCH! /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "method"),
        (b"FOO /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "FOO /v1/models"),
        (b"hello\r\n\r\n", 400, "HTTP"),
        (b"POST / HTTP/1.1\r\nContent-Length: five\r\n\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400, "Content-Length"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            400,
            "HTTP",
        ),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400, "header"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_is_no_request_is_told_so_in_json(
    node: RunningNode, request_bytes: bytes, status: int, message: str
) -> None:
    told, headers, answer = await exchange(node, request_bytes)
    assert told == status, answer
    assert headers["content-type"].startswith("application/json")
    assert answer["type"] == "error"
    assert set(answer["error"]) == {"message", "type", "code", "param"}
    assert message.lower() in answer["error"]["message"].lower()


@pytest.mark.parametrize(
    ("target", "plain"),
    [
        ("//v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models///demo/?a=b//c/", "/v1/models/demo?a=b//c/"),
        ("/", "/"),
        ("//", "/"),
        ("/?a=/", "/?a=/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/a%2F%2Fb", "/v1/models/a%2F%2Fb"),
        ("*", "*"),
        ("http://host//v1/", "http://host//v1/"),
    ],
)
async def test_slashes_that_say_nothing(target: str, plain: str) -> None:
    assert plain_path(target) == plain


@pytest.mark.parametrize("path", ["//v1/models", "/v1/models/", "/v1//models", "///models//"])
async def test_a_path_is_found_however_many_slashes_it_has(client: Client, path: str) -> None:
    reply = await client.get(path)
    assert (reply.status, reply.json["object"]) == (200, "list")
    assert (await client.post(path.replace("models", "chat/completions"), chat_body("x"))).status == 200


async def test_no_slash_leads_around_the_rules() -> None:
    """Who may ask is decided of the path as it is answered."""
    access = AccessRules(key_digests=(digest("secret"),), federated=True)
    engine = ScriptedEngine(lambda _, __: ["yes"])
    async with RunningNode("kitchen", ready(engine), options=NodeOptions(access=access)) as guarded:
        for path in ("//v1/models", "//metrics//", "/v1/models/", "/swarm//v1/requests", "/livez//../v1/models"):
            status, _, _ = await exchange(guarded, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert status == 401, path
        node = b"GET //federation//v1/node HTTP/1.1\r\nHost: localhost\r\n\r\n"
        status, _, answer = await exchange(guarded, node)
        assert (status, answer["error"]["code"]) == (403, "members_only")
        assert (await exchange(guarded, b"GET //livez/ HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 200
