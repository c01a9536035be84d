"""A second server that speaks OpenAI's shapes its own way: what it lists, answers and refuses is written by a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SHUTDOWN_S = 0.01  # handlers that hang are cut off at once
CUT = object()  # a piece: break the connection off here

Piece = bytes | dict[str, Any] | asyncio.Event | object


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class UpstreamServer:
    """Serves from `async with` on. `pieces` are the stream of every answer: chunks, bytes, events to wait for, CUT.

    `listing` is the JSON of its list of models under `prefix`; None is a 404. With a `status` other than 200 an answer
    is `refusal` (JSON, or bytes as they are). `whole` is answered in place of a stream.
    """

    pieces: Sequence[Piece] = ()
    listing: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": "big", "object": "model"}]})
    prefix: str = "/v1"
    status: int = 200
    refusal: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    whole: dict[str, Any] | None = None
    asked: list[Asked] = field(default_factory=list[Asked])
    listed: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    running: int = 0
    left: int = 0
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> UpstreamServer:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._list)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        if self.listing is None or request.path != f"{self.prefix}/models":
            return web.Response(status=404, text="<html>not here</html>", content_type="text/html")
        self.listed.append(request.headers.copy())
        if isinstance(self.listing, bytes):
            return web.Response(body=self.listing)
        return web.json_response(self.listing)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(Asked(request.path, request.headers.copy(), await request.json()))
        if self.status != 200:
            if isinstance(self.refusal, bytes):
                return web.Response(status=self.status, body=self.refusal, headers=self.headers)
            return web.json_response(self.refusal, status=self.status, headers=self.headers)
        if self.whole is not None:
            return web.json_response(self.whole)
        async with self._counted():
            return await self._stream(request)

    @asynccontextmanager
    async def _counted(self) -> Any:
        self.running += 1
        try:
            yield
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in self.pieces:
            if piece is CUT:
                assert request.transport is not None
                request.transport.abort()
                break
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, bytes):
                await response.write(piece)
            else:
                await response.write(b"data: " + json.dumps(piece).encode() + b"\n\n")
        return response


def text(*words: str, **fields: Any) -> dict[str, Any]:
    """A chunk of chat with some text; `fields` go beside its choices."""
    return {"choices": [{"index": 0, "delta": {"content": "".join(words)}, "finish_reason": None}], **fields}


def ending(reason: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **fields}


def usage(prompt: int = 11, completion: int = 3, cached: int = 5) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [], "usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}}


DONE = b"data: [DONE]\n\n"
