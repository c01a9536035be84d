"""`/` for browsers: the page of the swarm, and its files under `/page/`, all from this package (no CDN).

Each file is read once and kept compressed. Its style and scripts come from this origin only, and no script can make
elements of text: the page's content policy requires trusted types and allows none.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
STATIC: Final = Path(__file__).parent / "static"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it goes out."""

    body: bytes
    compressed: bytes
    content_type: str
    etag: str


@functools.cache
def page_files() -> dict[str, PageFile]:
    """Every file of the page by its path below `/page/`. Blocks on the disk, once."""
    return {
        path.relative_to(STATIC).as_posix(): _page_file(path)
        for path in sorted(STATIC.rglob("*"))
        if path.is_file() and path.suffix in TYPES
    }


def _page_file(path: Path) -> PageFile:
    body = path.read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    compressed = packer.compress(body) + packer.flush()
    return PageFile(body, compressed, TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:20])


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header wants gzip, by RFC 9110: named, or meant by `*`, and not less than as it is."""
    wanted: dict[str, float] = {}
    for part in accepted.split(","):
        coding, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                weight = float(value) if _QUALITY.fullmatch(value := value.strip()) else 0.0
        wanted[coding] = weight
    gzip = max((wanted[name] for name in ("gzip", "x-gzip") if name in wanted), default=wanted.get("*", 0.0))
    return gzip > 0 and gzip >= wanted.get("identity", 0.0)


def answer_with(request: web.Request, file: PageFile) -> web.Response:
    """The file, compressed where the browser can, or 304 where it has it."""
    gzip = takes_gzip(",".join(request.headers.getall("Accept-Encoding", ())))
    tags = (file.etag, f"{file.etag}-gzip")  # other bytes, another tag
    headers = {**HEADERS, "ETag": f'"{tags[gzip]}"', "Vary": "Accept-Encoding"}
    if any(tag.value in (*tags, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = file.content_type
    if gzip:
        return web.Response(body=file.compressed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=file.body, headers=headers)


async def page(request: web.Request) -> web.Response:
    """The page itself."""
    return answer_with(request, (await asyncio.to_thread(page_files))["index.html"])


async def file(request: web.Request) -> web.Response:
    """One of its files; 404 for any other name."""
    found = (await asyncio.to_thread(page_files)).get(request.match_info["path"])
    if found is None:
        raise web.HTTPNotFound
    return answer_with(request, found)


def routes() -> list[web.RouteDef]:
    """The page's files; `/` itself is in the room of the documentation, which answers programs there."""
    return [web.get("/page/{path:.+}", file)]
