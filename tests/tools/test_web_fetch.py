"""The tool `webfetch`: pages as text, and what it is never led to, neither by a page nor by a name server."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from swarm.errors import BadRequest
from swarm.tools.public_web import is_near, is_public
from swarm.tools.tool import MAX_OUTPUT_CHARS, ToolResult
from swarm.tools.web_fetch import MAX_PAGE_BYTES, MAX_REDIRECTS, WebFetch, charset_of
from tests.doubles.waiting import eventually

PAGE = b"<!doctype html><title>Bread</title><p>Flour &amp; <a href='/water'>water</a>.<script>no()</script>"
PAGE_TEXT = "Title: Bread\n\nFlour & water <{url}/water>."
OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"  # which of them stands for the internet

Answer = Callable[[web.Request], Any]


class Site:
    """A server whose answers are functions by path; it counts what it was asked."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.running = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.running += 1
        try:
            found = self.answers[request.path.strip("/") or "home"](request)
            return await found if asyncio.iscoroutine(found) else found
        finally:
            self.running -= 1


@asynccontextmanager
async def serving(site: Site, host: str = OUTSIDE, port: int = 0) -> AsyncIterator[Site]:
    app = web.Application()
    app.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    site.url = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield site
    finally:
        await runner.cleanup()


def only_outside(address: str) -> bool:
    return address == OUTSIDE


def fetcher(environment: Mapping[str, str] | None = None) -> WebFetch:
    return WebFetch(environment or {}, only_outside)


async def fetched(url: str, timeout_s: float | None = None, **more: Any) -> ToolResult:
    return await fetcher().fetch({"url": url, **more}, timeout_s)


def body(data: bytes | str, kind: str | None = "text/plain", status: int = 200, **headers: str) -> Answer:
    """Without a kind it is application/octet-stream, as of servers that do not know."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind is not None:
        named["Content-Type"] = kind
    raw = data.encode() if isinstance(data, str) else data

    def answer(request: web.Request) -> web.Response:
        assert "Cookie" not in request.headers
        assert "Authorization" not in request.headers
        return web.Response(body=raw, status=status, headers=named)

    return answer


def to(where: str) -> Answer:
    return lambda _: web.Response(status=302, headers={"Location": where, "Set-Cookie": "a=b"})


# What is read


async def test_a_page_is_its_text_and_what_it_is_is_said() -> None:
    async with serving(Site(home=body(PAGE, "text/html; charset=utf-8"))) as site:
        result = await fetched(site.url)
    text = PAGE_TEXT.format(url=site.url)
    assert result.output == f"[{site.url} · text/html · {len(text)} characters]\n{text}"
    assert (result.exit_code, result.truncated, result.timed_out) == (0, False, False)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (body('{"a": [1, 2]}', "application/json"), '{"a": [1, 2]}'),
        (body("a: 1", "application/vnd.x+yaml"), "a: 1"),
        (body("plain", None), "plain"),
        (body(PAGE.replace(b"/water", b""), None), "Title: Bread\n\nFlour & water."),
        (body("Привет".encode("cp1251"), "text/plain; charset=windows-1251"), "Привет"),
        (body("<meta charset='koi8-r'>Привет".encode("koi8-r"), "text/html"), "Привет"),
        (body("\ufeffПривет".encode("utf-16"), "text/plain"), "Привет"),
        (body("grün".encode("latin-1"), "text/plain"), "gr�n"),
        (body("x", "text/plain; charset=idna"), "x"),
        (body(gzip.compress(b"packed"), Content_Encoding="gzip"), "packed"),
        (body(zlib.compress(b"packed"), Content_Encoding="deflate"), "packed"),
        (body("a\x1b[31mb\x1b]0;title\x07c\u202ed"), "abcd"),
        (body("", "text/html"), ""),
    ],
)
async def test_texts_of_every_kind_are_read(answer: Answer, text: str) -> None:
    async with serving(Site(home=answer)) as site:
        result = await fetched(site.url)
    assert result.output.split("\n", 1)[1] == text
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (body(b"\x89PNG", "image/png"), "is image/png (4 bytes), and only text is read"),
        (body(b"%PDF", "application/pdf"), "is application/pdf (4 bytes), and only text is read"),
        (body(b"a\0b"), "says that it is text/plain, and is no text"),
        (body(b"xyz", Content_Encoding="gzip"), "is not gzip, as it says of itself"),
        (body(b"xyz", Content_Encoding="br"), "is packed by br, which was not asked for"),
    ],
)
async def test_what_is_no_text_is_said(answer: Answer, why: str) -> None:
    async with serving(Site(home=answer)) as site:
        result = await fetched(site.url)
    assert (result.output, result.exit_code) == (f"{site.url} {why}", 1)


async def test_an_error_s_own_words_are_shown() -> None:
    async with serving(Site(gone=body("<h1>Not here</h1>", "text/html", 404))) as site:
        result = await fetched(f"{site.url}/gone")
    assert result.exit_code == 1
    assert result.output.split("\n") == [
        f"[{site.url}/gone · text/html · 10 characters]",
        "[404 Not Found]",
        "# Not here",
    ]


async def test_a_long_text_is_read_on_with_its_offset() -> None:
    text = "".join(f"{number:05d} " for number in range(2000))
    web_fetch, parts, offset = fetcher(), list[str](), 0
    async with serving(Site(home=body(text))) as site:
        while True:
            result = await web_fetch.fetch({"url": site.url, "offset": offset})
            head, shown = result.output.split("\n", 1)
            assert len(head) + 1 + len(shown.partition("\n[…")[0]) <= MAX_OUTPUT_CHARS
            parts.append(shown.partition("\n[…")[0])
            if not result.truncated:
                break
            offset = int(shown.rpartition("go on with offset ")[2].split()[0])
            assert f"{len(text) - offset} more characters" in shown
        assert "".join(parts) == text
        assert site.asked == ["/"], "who reads on has the page that was begun"
        result = await web_fetch.fetch({"url": site.url, "offset": 99_999})
        assert result.output.endswith("[there is nothing from character 99999 on]")
        await web_fetch.fetch({"url": site.url})
        assert site.asked == ["/", "/"], "and who begins again a new one"


async def test_what_is_longer_than_it_may_be_is_read_to_there() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)

    bomb = gzip.compress(b"x" * 50_000_000)
    async with serving(Site(endless=endless, bomb=body(bomb, Content_Encoding="gzip"))) as site:
        for name in ("endless", "bomb"):
            result = await fetched(f"{site.url}/{name}")
            assert f"{MAX_PAGE_BYTES} characters of its first 1000 KB]" in result.output
            assert result.truncated
        await eventually(lambda: site.running == 0)


# How long it may take


async def test_who_does_not_answer_is_given_up() -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(Site(home=never)) as site:
        result = await fetched(site.url, 0.2)
        assert (result.timed_out, result.exit_code) == (True, 1)
        assert result.output == f"{site.url}: no answer within 0.2 s"
        await eventually(lambda: site.running == 0)


async def test_a_page_that_takes_for_ever_to_read_is_given_up_with_its_process() -> None:
    async with serving(Site(home=body("<a " * 100_000, "text/html"))) as site:
        result = await fetched(site.url, 1.0)
    assert result.timed_out


async def test_a_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async with serving(Site(home=body("<a " * 100_000, "text/html"))) as site:
        call = asyncio.create_task(fetched(site.url))
        await eventually(lambda: len(site.asked) == 1 and site.running == 0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_server_that_is_not_there_is_named_in_the_system_s_words() -> None:
    with socket.create_server((OUTSIDE, 0)) as listener:
        port = listener.getsockname()[1]
    result = await fetched(f"http://{OUTSIDE}:{port}/")
    assert result.output == f"http://{OUTSIDE}:{port}/ cannot be fetched: Connection refused"


# Where it is never led


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "is no http:// or https:// address"),
        ("ftp://example.org/", "is no http:// or https:// address"),
        ("gopher://127.0.0.1/", "is no http:// or https:// address"),
        ("example.org", "is no http:// or https:// address"),
        ("http://[::1", "is no http:// or https:// address"),
        ("http://me:secret@example.org/", "is not asked with a name and a password in its address"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is not in the internet"),
        ("http://[fd00:ec2::254]/", "fd00:ec2::254 is not in the internet"),
        ("http://[::ffff:127.0.0.1]/", "is not in the internet"),
        ("http://10.0.0.1:8080/", "10.0.0.1 is not in the internet"),
        ("http://localhost:1/", "localhost is not in the internet"),
        ("http://0x7f.1:1/", "0x7f.1 is not in the internet"),
    ],
)
async def test_nothing_near_and_nothing_but_the_web(url: str, why: str) -> None:
    result = await WebFetch({}, is_public).fetch({"url": url})
    assert why in result.output
    assert result.exit_code == 1


async def test_each_redirection_is_looked_at() -> None:
    secret = Site(secret=body("the key"))
    async with serving(Site()) as site, serving(secret, INSIDE):
        site.answers = {
            "inside": to(f"{secret.url}/secret"),
            "twice": to("/inside"),
            "file": to("file:///etc/passwd"),
            "user": to("http://me:secret@127.0.0.2/"),
            "metadata": to("http://169.254.169.254/latest/"),
        }
        for name, why in (
            ("inside", f"{INSIDE} is not in the internet"),
            ("twice", f"{INSIDE} is not in the internet"),
            ("file", "is no http:// or https:// address"),
            ("user", "is not asked with a name and a password"),
            ("metadata", "169.254.169.254 is not in the internet"),
        ):
            result = await fetched(f"{site.url}/{name}")
            assert why in result.output
            assert "the key" not in result.output
        assert secret.asked == []


async def test_a_few_redirections_are_followed() -> None:
    async with serving(Site(home=body("here"))) as site:
        for step in range(MAX_REDIRECTS + 1):
            site.answers[f"r{step}"] = to("/" if step == 0 else f"r{step - 1}")
        result = await fetched(f"{site.url}/r{MAX_REDIRECTS - 1}")
        assert result.output.endswith("]\nhere")
        assert result.output.startswith(f"[{site.url}/ ·"), "where it led is said"
        result = await fetched(f"{site.url}/r{MAX_REDIRECTS}")
        assert "it was passed on more than 5 times" in result.output


@pytest.fixture
async def name_server(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What every name is resolved to, one list after the other; the last one stays."""
    answers: list[list[str]] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return answers


async def test_a_name_server_that_changes_its_mind_leads_nowhere(name_server: list[list[str]]) -> None:
    """DNS rebinding: the second answer is this machine."""
    secret = Site(home=body("the key"))
    async with serving(Site(home=body("outside"))) as site:
        port = int(site.url.rpartition(":")[2])
        async with serving(secret, INSIDE, port):
            url = f"http://rebinding.example.org:{port}/"
            web_fetch = fetcher()
            name_server[:] = [[OUTSIDE], [INSIDE]]
            assert (await web_fetch.fetch({"url": url})).output.endswith("outside")
            result = await web_fetch.fetch({"url": url})
            assert "rebinding.example.org is not in the internet" in result.output
            name_server[:] = [[INSIDE, OUTSIDE]]
            assert (await web_fetch.fetch({"url": url})).output.endswith("outside"), "of two the public one"
            assert secret.asked == []


# Through a proxy


async def test_the_environment_s_proxy_is_asked_and_never_for_what_is_near(name_server: list[list[str]]) -> None:
    name_server[:] = [[OUTSIDE]]
    proxy = Site()
    async with serving(proxy, INSIDE):
        proxy.answers = {"page": body("by proxy")}
        web_fetch = fetcher({"http_proxy": proxy.url, "NO_PROXY": "direct.example.org"})
        assert (await web_fetch.fetch({"url": "http://far.example.org/page"})).output.endswith("by proxy")
        assert len(proxy.asked) == 1
        for near in ("localhost", "printer", "nas.local", "db.internal", "169.254.169.254", "[::1]", "10.0.0.7"):
            result = await web_fetch.fetch({"url": f"http://{near}/page"})
            assert "is not in the internet" in result.output, near
        name_server[:] = [[INSIDE]]
        assert "is not in the internet" in (await web_fetch.fetch({"url": "http://far.example.org/page"})).output
        assert len(proxy.asked) == 1
        name_server[:] = [[OUTSIDE]]
        result = await web_fetch.fetch({"url": "http://direct.example.org:1/page"})
        assert result.exit_code == 1
        assert len(proxy.asked) == 1, "what is excepted is asked directly"


async def test_a_redirection_of_a_proxied_page_is_looked_at_too(name_server: list[list[str]]) -> None:
    name_server[:] = [[OUTSIDE]]
    proxy = Site(page=to("http://169.254.169.254/latest"), name=to("http://metadata.internal/x"))
    async with serving(proxy, INSIDE):
        for path in ("page", "name"):
            result = await fetcher({"ALL_PROXY": proxy.url}).fetch({"url": f"http://far.example.org/{path}"})
            assert "is not in the internet" in result.output
        assert len(proxy.asked) == 2


async def test_another_kind_of_proxy_is_named() -> None:
    result = await fetcher({"ALL_PROXY": "socks5://127.0.0.1:1"}).fetch({"url": "http://example.org/"})
    assert "ALL_PROXY names a socks5 proxy, and the web is asked through HTTP proxies only" in result.output


# What it is asked


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({}, "arguments.url"),
        ({"url": 7}, "arguments.url"),
        ({"url": ""}, "arguments.url"),
        ({"url": "http://e/" + "x" * 3000}, "arguments.url"),
        ({"url": "http://e/", "offset": -1}, "arguments.offset"),
        ({"url": "http://e/", "offset": True}, "arguments.offset"),
        ({"url": "http://e/", "offset": "1"}, "arguments.offset"),
    ],
)
async def test_arguments_that_are_none_are_refused_with_their_place(arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await fetcher().fetch(arguments)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("localhost", True),
        ("a.localhost.", True),
        ("nas", True),
        ("x.home.arpa", True),
        ("example.org", False),
        ("local.example.org", False),
    ],
)
def test_names_that_are_near_by_themselves(name: str, near: bool) -> None:
    assert is_near(name) is near


def test_no_codec_is_taken_that_is_none_of_a_text() -> None:
    for name in ("idna", "punycode", "zip", "rot13", "unicode_escape", "utf-7", "iso-8859-99", "", None):
        assert charset_of(b"x", name, is_page=False) == "utf-8"
    assert charset_of(b"<meta charset=Shift_JIS>", None, is_page=True) == "Shift_JIS"
