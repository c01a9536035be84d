"""The page's files as they go out: types, tags, compression, and that nothing else of the disk does."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.page.endpoints import HEADERS, STATIC, page_files, takes_gzip
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@pytest.fixture
async def node() -> AsyncGenerator[RunningNode]:
    """One that wants a key, which the page's files do not need."""
    options = NodeOptions(access=AccessRules(key_digests=(digest("sk"),), origins=frozenset({"http://app.example"})))
    async with RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options) as node:
        yield node


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    connector, skipped = aiohttp.TCPConnector(force_close=True), ("Accept", "Accept-Encoding")
    async with aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        skip_auto_headers=skipped,
    ) as session:
        yield session


async def test_every_file_goes_out_with_its_type_a_tag_and_the_page_s_policy(
    node: RunningNode, session: aiohttp.ClientSession
) -> None:
    types = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert {"index.html", "js/main.js", "css/page.css"} <= set(page_files())
    for name, file in page_files().items():
        async with session.get(f"{node.url}/page/{name}") as reply:
            body = await reply.read()
        assert (reply.status, body) == (200, (STATIC / name).read_bytes()), name
        assert {header: reply.headers[header] for header in HEADERS} == HEADERS
        assert reply.headers["Content-Security-Policy"] == CSP
        kind = types.get(name.rpartition(".")[2])
        assert kind is None or reply.headers["Content-Type"].startswith(kind), name
        assert "Content-Encoding" not in reply.headers
        for tag in (reply.headers["ETag"], "*", f'"x", W/{reply.headers["ETag"]}', f'"{file.etag}-gzip"'):
            async with session.get(f"{node.url}/page/{name}", headers={"If-None-Match": tag}) as again:
                assert (again.status, await again.read()) == (304, b""), tag
                assert again.headers["ETag"] == reply.headers["ETag"]
        async with session.get(f"{node.url}/page/{name}", headers={"If-None-Match": '"other"'}) as other:
            assert other.status == 200


async def test_a_browser_gets_the_page_at_the_root_and_a_program_json(
    node: RunningNode, session: aiohttp.ClientSession
) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Encoding": "gzip, deflate, br"}
    async with session.get(f"{node.url}/", headers=browser) as reply:
        body = await reply.read()
    assert (reply.status, gzip.decompress(body)) == (200, (STATIC / "index.html").read_bytes())
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.headers["Content-Security-Policy"] == CSP
    assert set(reply.headers["Vary"].split(", ")) == {"Accept", "Accept-Encoding", "Origin"}
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        async with session.get(f"{node.url}/", headers=accept) as reply:
            assert (await reply.json())["name"] == "local-swarm"
            assert "Accept" in reply.headers["Vary"]


async def test_head_says_what_get_would(node: RunningNode, session: aiohttp.ClientSession) -> None:
    for headers in ({}, {"Accept-Encoding": "gzip"}):
        async with session.get(f"{node.url}/page/js/main.js", headers=headers) as got:
            length = len(await got.read())
        async with session.head(f"{node.url}/page/js/main.js", headers=headers) as head:
            assert (head.status, await head.read()) == (200, b"")
            assert int(head.headers["Content-Length"]) == length
            assert head.headers["ETag"] == got.headers["ETag"]
    async with session.head(f"{node.url}/page/js/none.js") as none:
        assert none.status == 404
    async with session.post(f"{node.url}/page/js/main.js") as posted:
        assert posted.status in (401, 405)


@pytest.mark.parametrize(
    "path",
    [
        "../endpoints.py", "js/../../endpoints.py", "%2e%2e/endpoints.py", "js/%2e%2e/%2e%2e/endpoints.py",
        "..%2fendpoints.py", "%2e%2e%2fendpoints.py", "..%5cendpoints.py", "/etc/passwd", "%2fetc%2fpasswd",
        "js/main.js%00", "js/main.js%00.txt", "js/", "js", "INDEX.HTML", "js/index.html",
        "js/types.d.ts", "%252e%252e/endpoints.py", "index.html%20",
    ],
)  # fmt: skip
async def test_no_path_leads_to_another_file(node: RunningNode, path: str) -> None:
    """As it stands, over a bare socket: clients would tidy it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.address.port)
    writer.write(f"GET /page/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    told = await reader.read()
    writer.close()
    status = int(told.split(b" ", 2)[1])
    assert status in (400, 401, 404), told[:100]
    assert b"PageFile" not in told
    assert b"root:" not in told


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("", False), ("gzip", True), ("GZIP", True), ("x-gzip", True), ("gzip, deflate, br, zstd", True), ("br", False),
        ("gzip;q=0", False), ("gzip;q=0.0", False), ("gzip; q=0.001", True), ("gzip;q=1.000", True), ("*", True),
        ("*;q=0", False), ("gzip;q=0, *", False), ("*;q=0, gzip", True), ("identity", False), ("br;q=1, *;q=0.1", True),
        ("identity;q=1, gzip;q=0.5", False), ("identity;q=0.5, gzip", True), ("gzip;q=2", False), ("gzip;q=x", False),
        ("gzip;q=", False), ("notgzip", False), ("gzip;level=9", True), (",,gzip,", True),
    ],
)  # fmt: skip
def test_gzip_goes_to_those_who_want_it(accepted: str, taken: bool) -> None:
    assert takes_gzip(accepted) is taken
