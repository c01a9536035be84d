"""`GET /v1/events`: what changes on this node and in its swarm, as server-sent events, for pages and programs.

    GET /v1/events?parts=view,node,vote

The first event is `snapshot`, with all that the parts hold, or, for a `Last-Event-ID` that this node can go on from,
`changes`. Then `changes` come, at most five a second, each `{part: {key: value, or null for what has gone}}`. An
event's id says what its reader has seen. Nothing is queued for anybody (`board.py`); who reads too slowly is cut, and
comes back.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from swarm.errors import BadRequest
from swarm.gateway.http.access import Caller, check_management
from swarm.gateway.http.access_middleware import ACCESS, caller_of
from swarm.gateway.observing.board import BOARD, EventBoard

OPEN_PARTS: Final = ("view", "node", "vote", "finding")  # for whoever may read the node's status
MANAGED_PARTS: Final = ("request", "usage", "log", "pull")  # for those who manage it
REST_S: Final = 0.2  # between two events to one reader
BEAT_S: Final = 10.0  # of silence, after which a comment shows that the node is there
STALLED_S: Final = 10.0  # one write may take so long


def wanted_parts(text: str | None) -> tuple[str, ...]:
    """The parts that a query names; without one those for everybody. Raises BadRequest for others."""
    if text is None:
        return OPEN_PARTS
    known = (*OPEN_PARTS, *MANAGED_PARTS)
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for part in parts:
        if part not in known:
            raise BadRequest(f"there is no part {part!r}: take some of {', '.join(known)}", param="parts")
    if not parts:
        raise BadRequest(f"no part is named: take some of {', '.join(known)}", param="parts")
    return parts


def seen_version(board: EventBoard, last_event_id: str | None) -> int:
    """The version that a reader has seen, 0 for who needs a snapshot."""
    instance, _, number = (last_event_id or "").partition("-")
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        return 0
    return int(number) if board.can_resume(instance, int(number)) else 0


async def events(request: web.Request) -> web.StreamResponse:
    """Until the reader leaves, or reads too slowly."""
    parts = wanted_parts(request.query.get("parts"))
    if not set(parts).isdisjoint(MANAGED_PARTS):
        check_management(request.app[ACCESS], manager(request))
    board = request.app[BOARD]
    seen = seen_version(board, request.headers.get("Last-Event-ID"))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    with board.watching(parts):
        await response.prepare(request)
        kind = "snapshot" if seen == 0 else "changes"
        while True:
            text, version = board.since(seen, parts), board.version
            if text is not None or kind == "snapshot":
                event = f"event: {kind}\nid: {board.instance}-{version}\ndata: {text or '{}'}\n\n"
            else:
                event = ": still here\n\n"
            try:
                await asyncio.wait_for(response.write(event.encode()), STALLED_S)
            except (TimeoutError, ConnectionError):
                request.protocol.force_close()
                return response
            kind, seen = "changes", version
            await asyncio.sleep(REST_S)
            try:
                await asyncio.wait_for(board.changed(seen), BEAT_S)
            except TimeoutError:
                continue


def manager(request: web.Request) -> Caller:
    """The caller, with where it comes from."""
    return caller_of(request, manages=True)


def routes() -> list[web.RouteDef]:
    """The stream."""
    return [web.get("/v1/events", events, allow_head=False)]
