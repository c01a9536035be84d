"""A peer that describes itself well and answers badly: a socket whose candidates and streams a test writes itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

from aiohttp import web

from federation import wire
from federation.advertisement import Capabilities, Goodbye, NodeDescription, PeerHints, ServedModel
from federation.hostport import Address

SHUTDOWN_S = 0.01  # handlers that hang are cut off at once

CUT: Final = "cut"  # the connection breaks off, as that of a process that ends
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Piece = bytes | asyncio.Event | Literal["cut"]  # sent as it is, or waited for


class FakePeer:
    """Serves from `async with` on. `pieces` are the body of every answer to candidates, generate and tokens.

    `state` answers whoever asks for its state; without that it is a node of a version that does not tell it.
    """

    def __init__(
        self,
        name: str,
        *pieces: Piece,
        model: str = "m",
        slots: int = 2,
        params: int = 9_000_000,
        tokens_per_s: float | None = None,
        host: str = "127.0.0.1",
        state: Handler | None = None,
        fingerprint: str | None = None,
        engine: str | None = None,
    ) -> None:
        self._state = state
        self.pieces: Sequence[Piece] = pieces
        self.status = 200
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.address = Address(host, 0)
        self._description = NodeDescription(
            id=f"id-{name}",
            name=name,
            version="0.1.0",
            url="http://127.0.0.1:1",
            models=(
                ServedModel(
                    id=model,
                    slots=slots,
                    slots_free=slots,
                    params=params,
                    tokens_per_s=tokens_per_s,
                    fingerprint=fingerprint,
                    engine=engine,
                    capabilities=Capabilities(embeddings=True),
                ),
            ),
            slots_free=slots,
            instance=f"run-of-{name}",
        )

    async def __aenter__(self) -> FakePeer:
        app = web.Application()
        app.router.add_get(wire.NODE_PATH, _json(self._description.model_dump_json()))
        app.router.add_get(wire.PEERS_PATH, _json(PeerHints().model_dump_json()))
        app.router.add_post(wire.GOODBYE_PATH, _json(Goodbye(id="x").model_dump_json()))
        app.router.add_post(wire.CANDIDATES_PATH, self._answer)
        app.router.add_post(wire.GENERATE_PATH, self._answer)
        app.router.add_post(wire.UTILITIES_PATH + "/{name}", self._answer)
        if self._state is not None:
            app.router.add_get(wire.STATE_PATH, self._state)
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address.host, 0).start()
        self.address = Address(self.address.host, int(self._runner.addresses[0][1]))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(request.path)
        self.headers.append(request.headers.copy())
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        for piece in self.pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            elif piece == CUT:
                assert request.transport is not None
                request.transport.abort()
                return response
            else:
                await piece.wait()
        await response.write_eof()
        return response


def _json(body: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    return answer
