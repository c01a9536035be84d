"""Who joins: one line each way over TLS, at the node's own port, while an invitation is live and at no other time.

A joiner shows no certificate, since nobody has pinned one of it yet. So the port asks for one without insisting while
an invitation is live (`Trust.joining_context`), and hands over whoever shows none. It never reaches HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from pydantic import ValidationError

from federation.hostport import network_of
from federation.invitation import MAX_REQUEST_BYTES, JoinReply, JoinRequest, PairingTiming
from federation.tasks import cancel_and_wait
from federation.wire import first_problem

MAX_JOINING: Final = 64  # at once; each takes milliseconds
MAX_JOINING_OF_NETWORK: Final = 16  # so that whoever floods keeps out itself

Redeem = Callable[[JoinRequest, str], Awaitable[JoinReply]]
"""Answers the request of a joiner at the IP address given."""

log = logging.getLogger(__name__)


class PairingServer:
    """Takes joiners between `open` and `close`, which may both be called in any state."""

    def __init__(self, *, exchange_s: float = PairingTiming().exchange_s, most_joining: int = MAX_JOINING) -> None:
        self._exchange_s = exchange_s
        self._most_joining = most_joining
        self._redeem: Redeem | None = None
        self._joining: dict[asyncio.Task[None], str] = {}  # with the network that each is from

    @property
    def is_open(self) -> bool:
        return self._redeem is not None

    def open(self, redeem: Redeem) -> None:
        """Let `redeem` answer joiners from now on."""
        self._redeem = redeem

    async def close(self, *, at_once: bool = False) -> None:
        """Take nobody new; what is being answered gets its time, unless `at_once`."""
        self._redeem = None
        if at_once:
            await cancel_and_wait(*self._joining)
        elif self._joining:
            await asyncio.wait(tuple(self._joining))
        await asyncio.sleep(0)  # transports close their sockets on the loop's next turn

    def take(self, transport: asyncio.Transport, host: str) -> asyncio.BaseProtocol:
        """Own an encrypted connection whose other end showed no certificate, and close it; what gets its bytes."""
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        network = network_of(host)
        there = Counter(self._joining.values())
        is_full = there.total() >= self._most_joining or there[network] >= MAX_JOINING_OF_NETWORK
        if self._redeem is None or is_full:
            transport.abort()
            return protocol
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        task = asyncio.create_task(self._exchange(self._redeem, reader, writer, host), name="joiner")
        self._joining[task] = network
        task.add_done_callback(partial(self._ended, transport))
        return protocol

    def _ended(self, transport: asyncio.Transport, task: asyncio.Task[None]) -> None:
        del self._joining[task]
        transport.abort()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a joiner could not be answered", exc_info=error)

    async def _exchange(
        self, redeem: Redeem, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> None:
        try:
            async with asyncio.timeout(self._exchange_s):
                reply = await _reply(redeem, reader, host)
                writer.write(reply.model_dump_json().encode() + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except OSError as error:  # it left, or took too long
            log.debug("an exchange with a joiner came to nothing: %s", error)
        finally:
            writer.transport.abort()


async def _reply(redeem: Redeem, reader: asyncio.StreamReader, host: str) -> JoinReply:
    try:
        request = JoinRequest.model_validate_json(await reader.readuntil(b"\n"))
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        return JoinReply(refusal=f"a request is one line of at most {MAX_REQUEST_BYTES} bytes")
    except ValidationError as error:
        return JoinReply(refusal=f"not a request to join: {first_problem(error)}")
    return await redeem(request, host)
