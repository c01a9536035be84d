"""Memory that is borrowed for one loaded model: its leases, and a port on loopback for each of its lenders.

llama.cpp reaches other machines by an address and a port, in the clear. So it is given a port of this node on loopback,
which takes connections of this node's own children and nobody else's; what comes there goes to the lender through the
members' mutual TLS. A lease ends with its connection, and the port with the lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Protocol, cast

import psutil

from federation.errors import PeerError
from federation.lending import MEMORY_ENDED, LendGrant, LendNews
from federation.splice import SplicedEnd, spliced
from federation.tasks import cancel_and_wait, report_crash
from swarm.engines.engine import EnginePart
from swarm.errors import LenderLost
from swarm.node.lenders import LendingPeer
from swarm.registry.pooled_fit import PooledShare

LOOPBACK = "127.0.0.1"
MOST_STREAMS = 32  # of one lender at once: llama.cpp has one, and a few one after another while it loads
WHY_S = 1.0  # for a lender to say why, once its stream has ended
DRAIN_MARGIN_S = 5.0  # before a lender takes its memory, what runs is ended here, and told why
EARLY_S = 5.0  # a model that was ready for less was of no use to anybody
DRAIN_S = 30.0  # where it does not say how long it waits
# What ends an engine to which a lender says what no RPC server does: RPC_STATUS_ASSERT of ggml-rpc.cpp.
RUBBISH_WORDS = "Remote RPC server crashed or returned malformed response"
LOOK_S = 0.05  # between two looks at whether nothing runs any more

log = logging.getLogger(__name__)


class HeldMemory(Protocol):
    """Memory that a lender has granted, for as long as this is open."""

    @property
    def grant(self) -> LendGrant:
        """What was granted."""
        ...

    def news(self) -> AsyncIterator[LendNews]:
        """What the lender says of it. Raises PeerError when it is gone: its connection broke off, or is silent."""
        ...

    async def open_stream(self, end: SplicedEnd) -> None:
        """Give `end` a connection to the RPC server there. Raises PeerError."""
        ...

    async def aclose(self) -> None:
        """Give the memory back. Idempotent."""
        ...


class Faults(Protocol):
    """Who keeps in mind what lenders did. `why` is in words."""

    def lied(self, lender: LendingPeer, why: str) -> None:
        """It could not hold what it had granted."""
        ...

    def gone(self, lender: LendingPeer, why: str) -> None:
        """It is silent, or its connection broke off."""
        ...

    def drains(self, lender: LendingPeer, why: str) -> None:
        """It takes its memory back."""
        ...

    def ended_early(self, lender: LendingPeer, why: str) -> None:
        """A model was lost over it before it was of any use."""
        ...


class IsOwn(Protocol):
    """Whether a connection to a port of this node comes from a process of its own."""

    def __call__(self, host: str, port: int, own_port: int) -> bool:
        """Whether the one that comes from `host`, `port` to `own_port` does. Blocks."""
        ...


def comes_from_own_child(host: str, port: int, own_port: int) -> bool:
    """Whether a child of this process, or a child of a child, has that connection. Blocks for some milliseconds."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if _has(child.net_connections("tcp4"), host, port, own_port):
                return True
    return False


def _has(connections: Iterable[object], host: str, port: int, own_port: int) -> bool:
    ends = ((getattr(one, "laddr", None), getattr(one, "raddr", None)) for one in connections)
    return any(local == (host, port) and remote == (LOOPBACK, own_port) for local, remote in ends)


@dataclass(frozen=True, slots=True)
class Borrowing:
    """What one lender has granted, and what of the model it is to hold."""

    lender: LendingPeer
    share: PooledShare
    lease: HeldMemory


class BorrowedParts:
    """The parts of one model. Use `start`, which opens the ports; `aclose` gives all back."""

    def __init__(
        self,
        borrowings: Sequence[Borrowing],
        faults: Faults,
        is_own: IsOwn = comes_from_own_child,
    ) -> None:
        self._borrowings = tuple(borrowings)
        self._faults = faults
        self._is_own = is_own
        self._is_idle: Callable[[], bool] = lambda: True
        self._unsure: str | None = None
        self._ready_at: float | None = None
        self._stack = AsyncExitStack()
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._ports: list[_LenderPort] = []
        self._closed = False
        self.lost: asyncio.Future[LenderLost] = asyncio.get_running_loop().create_future()

    async def start(self) -> tuple[EnginePart, ...]:
        """The parts for the engine, each with the address on loopback that leads to its lender. Raises OSError."""
        for one in self._borrowings:
            self._stack.push_async_callback(one.lease.aclose)
        for one in self._borrowings:
            port = _LenderPort(one, self._is_own, lambda why, one=one: self._lose(one, why))
            self._stack.push_async_callback(port.aclose)
            await port.open()
            self._ports.append(port)
            watcher = asyncio.create_task(self._watch(one), name=f"lease of {one.lender.name}")
            report_crash(watcher, log, f"{watcher.get_name()} is watched no more")
            self._watchers[one.lender.node_id] = watcher
        return tuple(
            EnginePart(one.lender.name, f"{LOOPBACK}:{port.number}", one.share.layers)
            for one, port in zip(self._borrowings, self._ports, strict=True)
        )

    @property
    def unsure(self) -> str | None:
        return self._unsure

    def idle(self, is_idle: Callable[[], bool]) -> None:
        self._is_idle = is_idle
        self._ready_at = time.monotonic()

    def judge(self, text: str) -> LenderLost | None:
        """The lender at fault where the engine ended with `text`; None where that is no lender's.

        llama.cpp names the port of one that did not hold what it had granted, and no port where an answer was rubbish:
        then it was the only one, or nobody knows which.
        """
        lenders = [one.lender for one in self._borrowings]
        named = [one for one, port in zip(lenders, self._ports, strict=False) if f"{LOOPBACK}:{port.number}" in text]
        suspects = named or (lenders if RUBBISH_WORDS in text else [])
        if not suspects:
            return None
        if len(suspects) == 1:
            self._faults.lied(suspects[0], text)
        else:
            for lender in suspects:
                self._faults.ended_early(lender, text)
        names = " or ".join(lender.name for lender in suspects)
        lost = LenderLost(names, f"waiting for {names}: what came from there was no answer: {text}")
        if not self.lost.done():
            self.lost.set_result(lost)
        return lost

    async def _watch(self, one: Borrowing) -> None:
        """Follow what the lender says, to the end of the lease; while it drains, too, for it may still be lost."""
        drains: list[asyncio.Task[None]] = []
        try:
            async for news in one.lease.news():
                if news.ended is not None:
                    if news.code == MEMORY_ENDED:
                        self._faults.lied(one.lender, news.ended)
                    self._lose(one, news.ended)
                    return
                if news.draining is not None and not drains and not self.lost.done():
                    left_s = DRAIN_S if news.left_s is None else news.left_s
                    drains.append(asyncio.create_task(self._drain(one, news.draining, left_s)))
        except PeerError as error:
            self._faults.gone(one.lender, f"{error}")
            self._lose(one, f"{error}")
        else:
            self._lose(one, "it ended the lease")
        finally:
            await cancel_and_wait(*drains)

    async def _drain(self, one: Borrowing, why: str, left_s: float) -> None:
        """What runs may end, within the time that there is; then the model is planned anew."""
        self._faults.drains(one.lender, why)
        self._unsure = f"{one.lender.name} takes its memory back: {why}"
        until = time.monotonic() + max(0.0, left_s - DRAIN_MARGIN_S)
        while not self._is_idle() and time.monotonic() < until and not self.lost.done():  # noqa: ASYNC110 - rare
            await asyncio.sleep(LOOK_S)
        self._lose(one, f"it takes its memory back: {why}")

    def _lose(self, one: Borrowing, why: str) -> None:
        if not self.lost.done() and not self._closed:
            name = one.lender.name
            if self._unsure is None and (self._ready_at is None or time.monotonic() - self._ready_at < EARLY_S):
                self._faults.ended_early(one.lender, why)
            self.lost.set_result(LenderLost(name, f"waiting for {name}, which has a part of the model: {why}"))

    async def aclose(self) -> None:
        if self._closed:
            return
        lost = self.lost.done()
        self._closed = True
        if lost:  # its stream may have ended before it said why, which decides whether it is asked again
            await asyncio.wait(self._watchers.values(), timeout=WHY_S, return_when=asyncio.FIRST_COMPLETED)
        await cancel_and_wait(*self._watchers.values())
        await self._stack.aclose()


class _LenderPort:
    """A port on loopback that leads to one lender. `on_lost` hears why its stream ended there, before the engine."""

    def __init__(self, borrowing: Borrowing, is_own: IsOwn, on_lost: Callable[[str], None]) -> None:
        self._borrowing = borrowing
        self._is_own = is_own
        self._on_lost = on_lost
        self._server: asyncio.Server | None = None
        self._joining: set[asyncio.Task[None]] = set()
        self._streams: set[SplicedEnd] = set()
        self.number = 0

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Knock(self._came), LOOPBACK, 0)
        self.number = int(self._server.sockets[0].getsockname()[1])

    def _came(self, knock: asyncio.Transport) -> None:
        if len(self._streams) >= MOST_STREAMS or len(self._joining) >= MOST_STREAMS:
            knock.abort()
            return
        task = asyncio.create_task(self._join(knock), name=f"stream to {self._borrowing.lender.name}")
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        report_crash(task, log, f"{task.get_name()} was not made")

    async def _join(self, knock: asyncio.Transport) -> None:
        lender, ended_here = self._borrowing.lender, False

        def here() -> None:
            nonlocal ended_here
            ended_here = True
            self._streams.discard(near)

        def there() -> None:
            if not ended_here:  # llama.cpp closes what it no longer needs; a lender never does
                self._on_lost("its connection ended")

        near, far = spliced(here, there)
        try:
            host, port = cast("tuple[str, int]", knock.get_extra_info("peername") or ("", 0))
            if not await asyncio.to_thread(self._is_own, host, port, self.number):
                log.warning("a program that is not this node's asked for the part on %s: it is not let in", lender.name)
                knock.abort()
                return
            near.take(knock)
            self._streams.add(near)
            await self._borrowing.lease.open_stream(far)
        except PeerError as error:
            self._on_lost(f"{error}")
            knock.abort()
        except BaseException:
            knock.abort()
            raise

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        await cancel_and_wait(*self._joining)
        for stream in list(self._streams):
            stream.abort()


class _Knock(asyncio.Protocol):
    """A connection before it is known whose it is: nothing of it is read."""

    def __init__(self, came: Callable[[asyncio.Transport], None]) -> None:
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast("asyncio.Transport", transport)
        made.pause_reading()
        self._came(made)
