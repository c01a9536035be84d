"""`POST /api/pull`: Ollama's words for a model that is brought to this node's disk, for those who manage the node.

It is one of the pulls of `/swarm/v1/pulls`, by the names that `swarm models pull` takes, and is seen there and on the
page; it lies in this room because of that. Deleting and copying are refused, with what to do instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from aiohttp import web

from federation.printable_text import clean_line
from swarm.errors import BadRequest, SetupError, Unavailable, UnknownRequest
from swarm.gateway.answers.answer_form import PACING, Dialect, open_stream
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.http.bodies import json_response, read_body
from swarm.gateway.http.keys import DISPATCHER
from swarm.gateway.ollama.bodies import OllamaNamedBody
from swarm.gateway.ollama.endpoints import untagged
from swarm.gateway.ollama.form import NDJSON_HEADERS, failure, line
from swarm.gateway.page.pulls import PULLS, SHELF, PullEntry
from swarm.gateway.peers.management import takes_work
from swarm.generation import JsonObject
from swarm.registry.hub import Progress

LOOK_S: Final = 0.1  # between two looks at how far a pull is
OVER: Final = ("done", "failed", "cancelled")
PREPARING: Final[JsonObject] = {"status": "pulling manifest"}
SUCCESS: Final[JsonObject] = {"status": "success"}
NO_COPIES: Final = "models are not copied here: `[aliases]` in the node's configuration gives one another name"
NO_DELETING: Final = "models are not deleted by this API: `swarm models rm NAME` on the node's machine does it"

log = logging.getLogger(__name__)


class OllamaPullBody(OllamaNamedBody):
    """`POST /api/pull`. `insecure` has no meaning: files are checked by their hashes."""

    stream: bool | None = None


def pull_status(entry: PullEntry) -> JsonObject:
    """How far a pull is, as Ollama says it: bytes once it is known how many there are."""
    if entry.total_bytes is None:
        return PREPARING
    return {"status": f"pulling {entry.model}", "total": entry.total_bytes, "completed": entry.done_bytes}


async def pull(request: web.Request) -> web.StreamResponse:
    """A line whenever it got further, then {"status": "success"}; with `stream` false only that.

    A client that leaves ends its pull, as with Ollama, unless it was on its way before; what has arrived is kept.
    """
    app = request.app
    body = await read_body(request, OllamaPullBody)
    takes_work(app)
    name, shelf, pulls = untagged(request, body.wanted.strip()), app[SHELF], app[PULLS]
    if shelf is None:
        raise BadRequest("this node loads no models of its own, so it pulls none")
    try:
        shelf.check(name)
    except SetupError as error:
        raise BadRequest(str(error), param="model") from error

    async def work(progress: Progress) -> None:
        await shelf.pull(name, progress)
        await app[NAMES].look_again()

    before = {entry.id for entry in pulls.entries()}
    began = pulls.begin(name, app[DISPATCHER].node, work)
    log.warning("%s has %s pulled to this node by Ollama's API", request.remote, clean_line(name))
    try:
        if body.stream is False:
            async for entry in _course(request, began):
                check_done(entry)
            return json_response(SUCCESS)
        return await _told(request, began)
    finally:
        if began.id not in before:
            with suppress(UnknownRequest):  # over, and listed no more
                await pulls.cancel(began.id)


async def _told(request: web.Request, began: PullEntry) -> web.StreamResponse:
    pacing = request.app[PACING]
    dialect = Dialect(NDJSON_HEADERS, line(PREPARING), failure)
    async with open_stream(request, dialect, {}, pacing.client_beat_s, pacing.stalled_s) as out:
        last: JsonObject = {}
        async for entry in _course(request, began):
            if (status := pull_status(entry)) != last:
                last = status
                await out.write(line(status))
            check_done(entry)
        await out.end(line(SUCCESS))
    return out.response


async def _course(request: web.Request, began: PullEntry) -> AsyncGenerator[PullEntry]:
    """The pull now and every LOOK_S, up to and with its end."""
    while True:
        entry = now_at(request, began)
        yield entry
        if entry.state in OVER:
            return
        await asyncio.sleep(LOOK_S)


def now_at(request: web.Request, began: PullEntry) -> PullEntry:
    """The pull as it is at this moment. Raises Unavailable where it is over for so long that it is listed no more."""
    for entry in request.app[PULLS].entries():
        if entry.id == began.id:
            return entry
    raise Unavailable("the pull is over, and so are many after it: ask again, which tells at once where it is here")


def check_done(entry: PullEntry) -> None:
    """Raises Unavailable where a pull ended without the model."""
    if entry.state in OVER and entry.state != "done":
        raise Unavailable(entry.problem or "the pull was cancelled; the next one goes on from there")


async def no_copies(_: web.Request) -> web.Response:
    """Always a 400."""
    raise BadRequest(NO_COPIES)


async def no_deleting(_: web.Request) -> web.Response:
    """Always a 400."""
    raise BadRequest(NO_DELETING)


def routes() -> list[web.RouteDef]:
    """For those who manage this node."""
    return [
        web.post("/api/pull", pull),
        web.post("/api/copy", no_copies),
        web.delete("/api/delete", no_deleting),
    ]
