"""`/openapi.json`, `/docs`, a page that shows it and tries it out, and `/`, which says what this is and where to go.

All from this node alone (no CDN).
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

from aiohttp import web

from swarm import program_version
from swarm.gateway.http.bodies import compact, json_response
from swarm.gateway.page.endpoints import page as swarm_page

# What programs are told at `/`; people see a page.
START = {
    "name": "local-swarm",
    "about": "a Local Swarm node: OpenAI's and Anthropic's APIs, answered by the computers of a swarm",
    "api": "/v1",
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "models": "/v1/models",
    "health": "/readyz",
}
FILES = {"page.js": "text/javascript", "page.css": "text/css"}
_FOLDER = Path(__file__).parent / "page"
# The page runs its own script and style, asks its own node, and nobody may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@functools.cache
def document_text() -> str:
    """The document. A tenth of a second the first time, models and all: only who opens it waits for it."""
    from swarm.gateway.documentation.document import make_document
    from swarm.gateway.documentation.operations import OPERATIONS

    return compact(make_document(OPERATIONS, program_version()))


@functools.cache
def page_file(name: str) -> str:
    """One of the page's files; called with known names only."""
    return (_FOLDER / name).read_text(encoding="utf-8")


async def document(_: web.Request) -> web.Response:
    """`/openapi.json`."""
    return web.Response(text=await asyncio.to_thread(document_text), content_type="application/json")


async def page(_: web.Request) -> web.Response:
    """`/docs`."""
    return web.Response(text=await asyncio.to_thread(page_file, "page.html"), content_type="text/html", headers=HEADERS)


async def start(request: web.Request) -> web.Response:
    """`/`: the page of the swarm for browsers, JSON for everybody else."""
    is_page = "text/html" in request.headers.get("Accept", "")
    response = await swarm_page(request) if is_page else json_response(START)
    response.headers["Vary"] = "Accept, Accept-Encoding"
    return response


async def file(request: web.Request) -> web.Response:
    """A script or style of the page; 404 for any other name."""
    name = request.match_info["name"]
    if name not in FILES:
        raise web.HTTPNotFound
    return web.Response(text=await asyncio.to_thread(page_file, name), content_type=FILES[name], headers=HEADERS)


def routes() -> list[web.RouteDef]:
    """The document and the pages."""
    return [
        web.get("/", start),
        web.get("/openapi.json", document),
        web.get("/docs", page),
        web.get("/docs/{name}", file),
    ]
