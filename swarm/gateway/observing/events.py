"""`GET /v1/events`: what changes on this node and in its swarm, as server-sent events, for pages and programs.

    GET /v1/events?parts=view,node,vote

The first event is `snapshot`, with all that the parts hold, or, for a `Last-Event-ID` that this node can go on from,
`changes`. Then `changes` come, at most five a second, each `{part: {key: value, or null for what has gone}}`. An
event's id says what its reader has seen. Nothing is queued for anybody (`board.py`); who reads too slowly is cut, and
comes back. A node takes so many readers in all, and of one address or key; when it stops, it ends their streams.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from swarm.errors import BadRequest, Unavailable
from swarm.gateway.http.access import AccessRules, Caller, check_management, digest
from swarm.gateway.http.access_middleware import ACCESS, caller_of
from swarm.gateway.observing.board import BOARD, EventBoard

OPEN_PARTS: Final = ("view", "node", "vote", "finding")  # for whoever may read the node's status
MANAGED_PARTS: Final = ("request", "usage", "log", "pull")  # for those who manage it
REST_S: Final = 0.2  # between two events to one reader
BEAT_S: Final = 10.0  # of silence, after which a comment shows that the node is there
STALLED_S: Final = 10.0  # one write may take so long
MAX_READERS: Final = 512
MAX_READERS_OF_ONE: Final = 128  # behind a proxy a whole house has one address
FULL_RETRY_AFTER_S: Final = 10


class Readers:
    """Who reads events now: bounded in number, and ended when the node stops. For the event loop's thread only."""

    def __init__(self, most: int = MAX_READERS, most_of_one: int = MAX_READERS_OF_ONE) -> None:
        self.stalled_s = STALLED_S
        self.most, self.most_of_one = most, most_of_one
        self._of: Counter[str] = Counter()
        self._writing: set[asyncio.Transport] = set()
        self._number = 0
        self.ending = False

    def __len__(self) -> int:
        return self._number

    @contextmanager
    def one(self, names: Sequence[str]) -> Generator[None]:
        """One more while the block runs, from these addresses and keys. Raises Unavailable where it is too many."""
        if self.ending:
            raise Unavailable("this node is shutting down: read the events of another node", FULL_RETRY_AFTER_S)
        if self._number >= self.most:
            raise Unavailable(
                f"{self._number} programs and pages read this node's events, which is all it takes: "
                "close some, or read them at another node",
                FULL_RETRY_AFTER_S,
            )
        if any(self._of[name] >= self.most_of_one for name in names):
            raise Unavailable(
                f"{self.most_of_one} programs and pages with your address or key read this node's events, "
                "which is all it takes of one: close some, or read them at another node",
                FULL_RETRY_AFTER_S,
            )
        self._number += 1
        self._of.update(names)
        try:
            yield
        finally:
            self._number -= 1
            self._of -= Counter(names)

    @contextmanager
    def writing(self, transport: asyncio.Transport | None) -> Generator[None]:
        """Something is written to a reader while the block runs; cut short when the node stops."""
        if transport is not None:
            self._writing.add(transport)
        try:
            yield
        finally:
            if transport is not None:
                self._writing.discard(transport)

    def end(self, board: EventBoard) -> None:
        """End all streams: those that wait by their end, those that do not read by their connections."""
        self.ending = True
        board.wake()
        for transport in tuple(self._writing):
            transport.abort()


READERS = web.AppKey("event_readers", Readers)


def reader_names(request: web.Request, rules: AccessRules) -> list[str]:
    """By what a reader is counted: its address and, where the node has keys (so that nobody makes them up), its key."""
    keys = caller_of(request).keys if rules.wants_key else ()
    return [f"address {request.remote}", *{f"key {digest(key).hex()}" for key in keys}]


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
    readers = request.app[READERS]
    with readers.one(reader_names(request, request.app[ACCESS])), board.watching(parts):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        kind = "snapshot" if seen == 0 else "changes"
        while not readers.ending:
            text, version = board.since(seen, parts), board.version
            if text is not None or kind == "snapshot":
                event = f"event: {kind}\nid: {board.instance}-{version}\ndata: {text or '{}'}\n\n"
            else:
                event = ": still here\n\n"
            transport = request.transport
            try:
                with readers.writing(transport):
                    async with asyncio.timeout(readers.stalled_s):
                        await response.write(event.encode())
            except (TimeoutError, ConnectionError):
                if transport is not None:
                    transport.abort()  # closing would keep what was not read until it is
                return response
            kind, seen = "changes", version
            await asyncio.sleep(REST_S)
            if readers.ending:
                break
            try:
                async with asyncio.timeout(BEAT_S):
                    await board.changed(seen)
            except TimeoutError:
                continue
        return response


def manager(request: web.Request) -> Caller:
    """The caller, with where it comes from."""
    return caller_of(request, manages=True)


def routes() -> list[web.RouteDef]:
    """The stream."""
    return [web.get("/v1/events", events, allow_head=False)]
