"""The control endpoint: how `swarm invite`, `join`, `peers`, `revoke`, `page`, `lend` reach the node of this machine.

A listener of its own, on loopback, at a port that changes with every start: no peer and no client of the API can reach
it. Other users of this machine can, and so can a web page, so every request must carry the secret that is kept in the
data directory, readable by its owner alone; and none may come from a browser.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from federation.small_files import write_atomically
from swarm.control_messages import (
    CONTROL_FILE,
    INVITE_PATH,
    JOIN_PATH,
    LEND_PATH,
    PAGE_PATH,
    PEERS_PATH,
    REVOKE_PATH,
    WITHDRAW_PATH,
    ControlFile,
    ControlMessage,
    InviteBody,
    Invited,
    JoinBody,
    Joined,
    KnownNodes,
    LendBody,
    Lending,
    PageBody,
    PageLink,
    Refused,
    RevokeBody,
    Revoked,
    WithdrawBody,
    Withdrawn,
)
from swarm.errors import BadRequest, SetupError, SwarmError
from swarm.gateway.http.bodies import BODIES, BodyBudget, read_body

LOOPBACK = "127.0.0.1"
SECRET_BYTES = 32
MAX_BODY_BYTES = 16 * 1024
SHUTDOWN_S = 1.0
BROWSER_HEADERS = ("Origin", "Sec-Fetch-Site", "Referer")

log = logging.getLogger(__name__)


class TrustCommands(Protocol):
    """Does what the commands ask. Raises SetupError for what can never work, other SwarmErrors for what failed."""

    async def invite(self, uses: int = 1, life_s: float | None = None) -> Invited: ...
    def withdraw(self, code: str) -> Withdrawn: ...
    async def join(self, code: str) -> Joined: ...
    def peers(self) -> KnownNodes: ...
    async def revoke(self, who: str) -> Revoked: ...
    def page(self, lan: bool = False) -> PageLink: ...


class LendingCommands(Protocol):
    """Does what `swarm lend` asks. Raises SetupError for what can never work."""

    def state(self) -> Lending: ...
    async def decide(self, on: bool, size_bytes: int | None) -> Lending: ...


class ControlServer:
    """Open from `__aenter__` to `__aexit__`, which removes the file that leads to it."""

    def __init__(self, commands: TrustCommands, data_dir: Path, lending: LendingCommands | None = None) -> None:
        self._commands = commands
        self._lending = lending
        self._file = data_dir / CONTROL_FILE
        self._secret = secrets.token_hex(SECRET_BYTES)
        self._authorization = f"Bearer {self._secret}".encode()
        budget = BodyBudget()
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard, budget.middleware])
        app[BODIES] = budget
        app.router.add_post(INVITE_PATH, self._invite)
        app.router.add_post(JOIN_PATH, self._join)
        app.router.add_get(PEERS_PATH, self._peers)
        app.router.add_post(REVOKE_PATH, self._revoke)
        app.router.add_post(WITHDRAW_PATH, self._withdraw)
        app.router.add_post(PAGE_PATH, self._page)
        if lending is not None:
            app.router.add_get(LEND_PATH, self._lent)
            app.router.add_post(LEND_PATH, self._lend)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S, auto_decompress=False
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, LOOPBACK, 0).start()
            await asyncio.to_thread(self._write, int(self._runner.addresses[0][1]))
        except OSError as error:
            log.warning("`swarm invite`, `join`, `peers`, `revoke` and `page` cannot reach this node: %s", error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._remove)
        await self._runner.cleanup()

    def _write(self, port: int) -> None:
        content = ControlFile(port=port, secret=self._secret, pid=os.getpid())
        write_atomically(self._file, content.model_dump_json().encode() + b"\n")  # mode 0600

    def _remove(self) -> None:
        """Only what this node wrote: another one may have been started on the same directory."""
        try:
            if self._secret in self._file.read_text():
                self._file.unlink()
        except OSError as error:
            log.debug("%s is not removed: %s", self._file, error.strerror)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if any(name in request.headers for name in BROWSER_HEADERS):
            return answer(Refused(message="only the commands of this machine may ask this, no web page"), 403)
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, self._authorization):
            return answer(Refused(message="this needs the secret in the node's data directory"), 401)
        try:
            return await handler(request)
        except (SetupError, BadRequest) as error:
            return answer(Refused(message=str(error), exit_code=2), 400)
        except SwarmError as error:
            return answer(Refused(message=str(error)), 409)

    async def _invite(self, request: web.Request) -> web.Response:
        body = await read_body(request, InviteBody)
        return answer(await self._commands.invite(body.uses, body.life_s))

    async def _withdraw(self, request: web.Request) -> web.Response:
        body = await read_body(request, WithdrawBody)
        return answer(self._commands.withdraw(body.code))

    async def _join(self, request: web.Request) -> web.Response:
        body = await read_body(request, JoinBody)
        return answer(await self._commands.join(body.code))

    async def _peers(self, _: web.Request) -> web.Response:
        return answer(self._commands.peers())

    async def _revoke(self, request: web.Request) -> web.Response:
        body = await read_body(request, RevokeBody)
        return answer(await self._commands.revoke(body.who))

    async def _page(self, request: web.Request) -> web.Response:
        body = await read_body(request, PageBody)
        return answer(self._commands.page(body.lan))

    async def _lent(self, _: web.Request) -> web.Response:
        assert self._lending is not None
        return answer(self._lending.state())

    async def _lend(self, request: web.Request) -> web.Response:
        assert self._lending is not None
        body = await read_body(request, LendBody)
        return answer(await self._lending.decide(body.on, body.size_bytes))


def answer(message: ControlMessage, status: int = 200) -> web.Response:
    """`message` as JSON."""
    return web.Response(text=message.model_dump_json(), status=status, content_type="application/json")
