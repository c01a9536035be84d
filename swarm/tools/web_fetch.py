"""The tool `webfetch`: a page of the web as text, by GET, from public addresses only (`public_web.py`).

It does not run in the sandbox and needs no `--tools-network`, which is about what commands reach: whoever names it
wants the web read. What it is asked leaves this network, so it is no tool that only reads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp
from pydantic import JsonValue
from yarl import URL

from federation.printable_text import clean_line, clean_text
from federation.tasks import finished
from swarm import program_version
from swarm.environment import EnvironmentProxy, proxy_for
from swarm.errors import BadRequest
from swarm.tools import page_text
from swarm.tools.public_web import (
    READ_BYTES,
    REDIRECTS,
    is_numeric,
    is_public,
    public_session,
    refuse_near,
    session_by_proxy,
    web_address,
)
from swarm.tools.sandboxed_process import killed
from swarm.tools.tool import DEFAULT_TIMEOUT_S, MAX_OUTPUT_CHARS, ToolDefinition, ToolResult

MAX_PAGE_BYTES: Final = 1_000_000  # of a page, unpacked: what is longer is read to there
MAX_REDIRECTS: Final = 5
MAX_SHOWN_URL_CHARS: Final = 300
MAX_WEB_URL_CHARS: Final = 2048
MAX_READ_ON: Final = page_text.MOST_TEXT_CHARS
MOST_KEPT: Final = 4  # pages, for who goes on reading
FAILED: Final = 1

WEBFETCH: Final = ToolDefinition(
    "webfetch",
    "Read a web page as text.",
    {
        "type": "object",
        "properties": {
            "url": {"type": "string", "minLength": 1, "maxLength": MAX_WEB_URL_CHARS},
            "offset": {"type": "integer", "minimum": 0, "maximum": MAX_READ_ON, "description": "first character"},
        },
        "required": ["url"],
        "additionalProperties": False,
    },
)

_HEADERS: Final = {
    "Accept": "text/html, application/xhtml+xml, text/plain, application/json;q=0.9, text/*;q=0.8, */*;q=0.1",
    "Accept-Encoding": "identity",  # what is packed all the same is unpacked, as far as it may be long
    "User-Agent": f"local-swarm/{program_version()} webfetch",
}
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_UNKNOWN: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})  # of servers that do not know
_TEXTS: Final = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|x-yaml|javascript|toml|x-sh|ld-json|x-ndjson)"
)
_META_CHARSET: Final = re.compile(rb"""<meta[^>]{1,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)
_META_WITHIN_BYTES: Final = 4096  # browsers look at 1,024 and more
# Only those: Python knows codecs that take minutes for a name (idna), and some that are no encodings of texts.
_CHARSETS: Final = re.compile(
    r"(?:utf-?(?:8|16|16le|16be)|us-ascii|ascii|latin-?1|iso-?8859-?\d{1,2}|(?:windows|cp)-?125\d|koi8-?[ru]|big5(?:-?hkscs)?"
    r"|euc-?(?:jp|kr)|shift[_-]?jis|sjis|iso-2022-jp|gb(?:k|2312|18030)|tis-620|macintosh)"
)
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class _Unreadable(Exception):
    """Why there is no text, as the model is told it."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What an address answered with: `body` unpacked, `cut` where there was more of it."""

    url: str
    status: int
    reason: str
    content_type: str
    charset: str | None
    body: bytes
    cut: bool


class WebFetch:
    """Fetches pages. `environment` names proxies (None: this process's own); `is_allowed` says which addresses."""

    definition = WEBFETCH

    def __init__(
        self, environment: Mapping[str, str] | None = None, is_allowed: Callable[[str], bool] = is_public
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._is_allowed = is_allowed
        self._kept: dict[str, tuple[_Fetched, str]] = {}  # the last ones, by what was asked for

    async def fetch(self, arguments: Mapping[str, JsonValue], timeout_s: float | None = None) -> ToolResult:
        """The text at `url` from `offset` on, after a line that says what it is.

        Who goes on reading gets the page that was begun: one made anew could have other offsets.
        Raises BadRequest where the arguments keep no schema of these; whatever else goes wrong is a result.
        """
        url, offset = arguments.get("url"), arguments.get("offset", 0)
        if not isinstance(url, str) or not 0 < len(url) <= MAX_WEB_URL_CHARS:
            raise BadRequest("webfetch needs url, an http:// or https:// address", param="arguments.url")
        if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset <= MAX_READ_ON:
            raise BadRequest(f"offset is a number of characters, 0 to {MAX_READ_ON}", param="arguments.offset")
        limit_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                found, text = await self._page(url, offset, limit_s)
                result = _shown(found, text, offset)
        except TimeoutError:
            result = ToolResult(f"{clean_line(url)}: no answer within {limit_s:g} s", FAILED, timed_out=True)
        except (aiohttp.ClientError, OSError) as error:
            result = _failed(url, f"cannot be fetched: {_reason(error)}")
        except UnicodeError:
            result = _failed(url, "cannot be fetched: its address names no host that there can be")
        except (ValueError, _Unreadable) as error:
            result = _failed(url, str(error))
        return replace(result, ms=round((time.monotonic() - began) * 1000))

    async def _page(self, url: str, offset: int, limit_s: float) -> tuple[_Fetched, str]:
        if offset and url in self._kept:
            return self._kept[url]
        found = await self._followed(url, limit_s)
        text = await _text_of(found)
        self._kept.pop(url, None)
        self._kept[url] = (replace(found, body=b""), text)
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return self._kept[url]

    async def _followed(self, url: str, limit_s: float) -> _Fetched:
        """What is at `url`, or where that leads. Raises ValueError, and what aiohttp does."""
        base = ""
        for _ in range(MAX_REDIRECTS + 1):
            address = web_address(base, url, self._is_allowed)
            if address.raw_user is not None or address.raw_password is not None:
                raise ValueError("is not asked with a name and a password in its address")
            async with (
                await self._session(address, limit_s) as session,
                session.get(address, allow_redirects=False, proxy=self._proxy(address)) as response,
            ):
                if response.status in REDIRECTS and "Location" in response.headers:
                    base, url = str(address), response.headers["Location"]
                    continue
                return await _read(response, str(address))
        raise ValueError(f"cannot be fetched: it was passed on more than {MAX_REDIRECTS} times")

    async def _session(self, address: URL, limit_s: float) -> aiohttp.ClientSession:
        """For one address, which is near or not. Raises NotPublicError."""
        if self._proxy(address) is None:
            return public_session(self._is_allowed, _HEADERS, limit_s)
        host = address.raw_host or ""
        if not is_numeric(host):  # which was looked at with the address
            await refuse_near(host, self._is_allowed)
        return session_by_proxy(_HEADERS, limit_s)

    def _proxy(self, address: URL) -> str | None:
        host = address.raw_host or ""
        named = f"{host}:{address.port}"
        proxy: EnvironmentProxy | None = proxy_for(named, address.scheme == "https", self._environment)
        if proxy is not None and not proxy.url.startswith(("http://", "https://")):
            raise ValueError(
                f"cannot be fetched: {proxy.variable} names a {proxy.url.partition('://')[0]} proxy, and the web is "
                "asked through HTTP proxies only"
            )
        return None if proxy is None else proxy.url


async def _read(response: aiohttp.ClientResponse, url: str) -> _Fetched:
    """The body as far as it may be long, unpacked."""
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packed in ("gzip", "x-gzip"):
        unpacker = zlib.decompressobj(wbits=31)
    elif packed == "deflate":
        unpacker = zlib.decompressobj()
    elif packed in ("identity", ""):
        unpacker = None
    else:
        raise _Unreadable(f"is packed by {clean_line(packed)[:40]}, which was not asked for")
    body = bytearray()
    cut = False
    try:
        async for piece in response.content.iter_chunked(READ_BYTES):
            room = MAX_PAGE_BYTES + 1 - len(body)
            body += piece[:room] if unpacker is None else unpacker.decompress(piece, room)
            if len(body) > MAX_PAGE_BYTES:
                cut = True
                break
    except zlib.error as error:
        raise _Unreadable(f"is not {packed}, as it says of itself") from error
    return _Fetched(
        url,
        response.status,
        response.reason or "",
        response.content_type.lower() if "Content-Type" in response.headers else "",
        response.charset,
        bytes(body[:MAX_PAGE_BYTES]),
        cut,
    )


async def _text_of(found: _Fetched) -> str:
    """What it says, not cleaned yet: a million characters take seconds. Raises _Unreadable for what is no text."""
    kind = found.content_type
    if kind in _UNKNOWN and b"\0" not in found.body:
        kind = "text/html" if _is_page(found.body) else "text/plain"
    if not _TEXTS.fullmatch(kind) and kind not in _PAGES and kind != "image/svg+xml":
        raise _Unreadable(f"is {clean_line(kind or 'data')[:100]} ({len(found.body)} bytes), and only text is read")
    charset = charset_of(found.body, found.charset, kind in _PAGES)
    if "16" not in charset and b"\0" in found.body:
        raise _Unreadable(f"says that it is {clean_line(kind)[:100]}, and is no text")
    text = found.body.decode(charset, errors="replace")
    return await read_page(text, found.url) if kind in _PAGES else text


def _is_page(body: bytes) -> bool:
    return body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def charset_of(body: bytes, named: str | None, is_page: bool) -> str:
    """In which encoding a text is: by its first bytes, by what its server or the page itself says, else UTF-8."""
    for mark, charset in _BOMS:
        if body.startswith(mark):
            return charset
    inside = _META_CHARSET.search(body[:_META_WITHIN_BYTES]) if is_page else None
    for name in (named, inside and inside[1].decode("ascii")):
        if name and _CHARSETS.fullmatch(name.strip().lower()):
            try:
                "".encode(name)
            except LookupError:  # iso-8859-99
                continue
            return name
    return "utf-8"


async def read_page(page: str, address: str) -> str:
    """The text of a page, read in a process of its own: see `page_text.py`. Ends it when it is cancelled."""
    command = (sys.executable, "-I", "-S", str(Path(page_text.__file__)), address)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )
    try:
        text, _ = await process.communicate(page.encode("utf-8", errors="replace"))
    finally:
        if process.returncode is None:
            await finished(asyncio.create_task(killed(process), name="page reader"))
    if process.returncode != 0:
        raise _Unreadable("is a page that could not be read as text")
    return text.decode("utf-8", errors="replace")


def _shown(found: _Fetched, text: str, offset: int) -> ToolResult:
    """The part of `text` that there is room for, and how to go on."""
    is_cut = found.cut or len(text) >= page_text.MOST_TEXT_CHARS
    size = f"{len(text)} characters" + (f" of its first {MAX_PAGE_BYTES // 1000} KB" if found.cut else "")
    kind = clean_line(found.content_type or "no type")[:100]
    head = f"[{clean_line(found.url)[:MAX_SHOWN_URL_CHARS]} · {kind} · {size}]"
    wrong = not 200 <= found.status < 300
    if wrong:
        head += f"\n[{found.status} {clean_line(found.reason)[:100]}]"
    if offset and offset >= len(text):
        return ToolResult(f"{head}\n[there is nothing from character {offset} on]", FAILED)
    end = min(len(text), offset + MAX_OUTPUT_CHARS - len(head) - 1)
    shown, left = clean_text(text[offset:end]), len(text) - end
    if left:
        shown += f"\n[… {left} more characters; go on with offset {end} …]"
    return ToolResult(f"{head}\n{shown}", FAILED if wrong else 0, truncated=bool(left) or is_cut)


def _reason(error: Exception) -> str:
    """Why a connection failed, in the system's own words where it has some."""
    system = getattr(error, "os_error", error)
    if isinstance(system, OSError):
        if system.errno is not None and system.errno in errno.errorcode:
            return os.strerror(system.errno)
        if system.strerror:  # of a name server
            return system.strerror
    return str(system) or type(error).__name__


def _failed(url: str, why: str) -> ToolResult:
    return ToolResult(f"{clean_line(url)[:500]} {clean_line(why)[:500]}", FAILED)
