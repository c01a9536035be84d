"""A server on loopback that answers in one protocol with what it was told to, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from tests.agent.fake_providers.replies import (
    Asked,
    GoesWrong,
    Hangs,
    Json,
    Refusal,
    Reply,
    Rubbish,
    Seen,
    Trouble,
    Turn,
    Wire,
)

KEY = "sk-fake-0123456789abcdef"


class FakeProvider:
    """What was asked of one, and what it will answer: `replies` in their order, the last one for ever."""

    def __init__(self, wire: Wire, replies: Iterable[Reply], key: str | None, models: tuple[str, ...]) -> None:
        self.wire = wire
        self.replies = deque(replies)
        self.key = key
        self.models = models
        self.seen: list[Seen] = []
        self.base = ""
        self.reached = asyncio.Event()  # somebody was answered by a stream that hangs
        self.left = asyncio.Event()  # and left it

    def tell(self, *replies: Reply) -> None:
        """From now on it answers with these."""
        self.replies = deque(replies)

    @property
    def bodies(self) -> list[Json]:
        """The requests for answers, oldest first."""
        return [seen.body for seen in self.seen if seen.method == "POST"]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body: Json = {}
        if request.can_read_body:
            body = json.loads(await request.read())
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.raw_path, headers, body))
        asked = self.wire.asked(request.method, request.path, dict(request.query), body)
        key = self.wire.key_of(headers)
        if self.key is not None and key != self.key:
            return self._refused(Refusal(Trouble.WRONG_KEY), asked, key)
        if request.method == "GET" and self.wire.lists(request.path):
            return web.json_response(self.wire.listing(self.models))
        if asked is None:
            return web.Response(status=404, text="404 page not found")
        if asked.model not in self.models:
            return self._refused(Refusal(Trouble.UNKNOWN_MODEL), asked, key)
        if (fault := self.wire.fault(body)) is not None:
            return self._refused(Refusal(Trouble.BAD_REQUEST, message=fault), asked, key)
        reply = self.replies.popleft() if len(self.replies) > 1 else self.replies[0]
        return await self._answer(request, asked, reply, key)

    def _refused(self, refusal: Refusal, asked: Asked | None, key: str | None) -> web.Response:
        status, headers, body = self.wire.error(refusal, asked, key)
        return web.json_response(body, status=status, headers=headers)

    async def _answer(self, request: web.Request, asked: Asked, reply: Reply, key: str | None) -> web.StreamResponse:
        match reply:
            case Refusal():
                return self._refused(reply, asked, key)
            case Rubbish(body, content_type, headers):
                return web.Response(body=body, content_type=content_type, headers=headers)
            case Turn() if not asked.streamed:
                return web.json_response(self.wire.whole(reply, asked))
            case Turn():
                return await self._stream(request, self.wire.stream(reply, asked))
            case GoesWrong(turn, refusal) if asked.streamed:
                begun = begun_of(self.wire.stream(turn, asked))
                if refusal is not None:
                    return await self._stream(request, [*begun, self.wire.error_in_stream(refusal, asked)])
                response = await self._stream(request, begun, ends=False)
                if request.transport is not None:
                    request.transport.abort()
                return response
            case GoesWrong(_, refusal):
                return self._refused(refusal or Refusal(Trouble.BROKEN), asked, key)
            case Hangs(turn):
                self.reached.set()
                begun = begun_of(self.wire.stream(turn, asked)) if asked.streamed else []
                response = await self._stream(request, begun, ends=False)
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left.set()
                return response

    async def _stream(self, request: web.Request, events: list[bytes], ends: bool = True) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in events:
            await response.write(event)
        if ends:
            await response.write_eof()
        return response


def begun_of(events: list[bytes]) -> list[bytes]:
    """A stream up to its middle: with content, without its end."""
    return events[: max(1, len(events) // 2)]


@asynccontextmanager
async def fake_provider(
    wire: Wire,
    *replies: Reply,
    key: str | None = KEY,
    models: tuple[str, ...] = ("model-a", "model-b"),
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[FakeProvider]:
    """A running one: `base` is its address without a path."""
    fake = FakeProvider(wire, replies or (Turn(text=("Hello.",)),), key, models)
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{path:.*}", fake.handle)
    # A handler ends when its client leaves, as the servers of clouds notice it.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        fake.base = f"{'http' if tls is None else 'https'}://{host}:{port}"
        yield fake
    finally:
        await runner.cleanup()
