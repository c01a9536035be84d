"""Peers that lend, as a node's membership has them; and a link to them with real RPC servers behind it, on loopback.

What a member's mutual TLS carries is carried by loopback here: everything above it is real.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from federation.advertisement import LendOffer, NodeDescription
from federation.errors import PeerBrokeOff, PeerRefused, PeerStatusError, PeerTimedOut
from federation.hostport import Address
from federation.lending import LendGrant, LendNews, LendRequest
from federation.peer import Peer, PeerState, Source
from federation.splice import SplicedEnd
from federation.tasks import cancel_and_wait
from swarm.registry.model_memory import MIB

RPC = "7.0.0"


class RpcServer:
    """A running `ggml-rpc-server` at `port` of loopback."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self.port = 0

    async def __aenter__(self) -> RpcServer:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = int(taken.getsockname()[1])
        words = ["-H", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(self._program, *words, stdout=quiet, stderr=quiet)
        async with asyncio.timeout(60.0):
            while not await asyncio.to_thread(self._listens):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


class Relay:
    """What is between a lease's streams and its RPC server, which a lender can spoil: see `LocalLender.spoils`."""

    def __init__(self, lender: LocalLender) -> None:
        self._lender = lender
        self._server: asyncio.Server | None = None
        self._to = 0
        self._ways: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []
        self._closed = False

    async def port(self, to_port: int) -> int:
        """Where connections to `to_port` are taken."""
        self._to = to_port
        if self._server is None:
            self._server = await asyncio.start_server(self._came, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:  # it was accepted before
            writer.transport.abort()
            return
        task = asyncio.create_task(self._lead(reader, writer))
        self._ends.append(writer)
        self._ways.add(task)
        task.add_done_callback(self._ways.discard)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ways, ends = list[asyncio.Task[None]](), [writer]
        try:
            far, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            ends.append(far_writer)
            for one, to, answers in ((reader, far_writer, False), (far, writer, True)):
                ways.append(asyncio.create_task(self._pass(one, to, answers)))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is gone
        finally:
            await cancel_and_wait(*ways)
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                if answers and self._lender.spoils == "silence":
                    continue
                writer.write(b"\xff" * len(piece) if answers and self._lender.spoils == "rubbish" else piece)
                await writer.drain()

    async def aclose(self) -> None:
        self._closed = True
        if self._server is not None:
            self._server.close()
        await cancel_and_wait(*self._ways)
        for end in self._ends:
            end.transport.abort()
        await asyncio.sleep(0)  # in which they end


class LocalLease:
    """A lease of a `LocalLender`: an RPC server of its own."""

    def __init__(self, lender: LocalLender, server: RpcServer, grant: LendGrant) -> None:
        self.lender = lender
        self.server = server
        self.grant = grant
        self._news: asyncio.Queue[LendNews | Exception] = asyncio.Queue()
        self.closed = False
        self.relay = Relay(lender)

    def say(self, news: LendNews | Exception) -> None:
        self._news.put_nowait(news)

    async def news(self) -> AsyncIterator[LendNews]:
        while True:
            said = await self._news.get()
            if isinstance(said, Exception):
                raise said
            yield said
            if said.ended is not None:
                return

    async def open_stream(self, end: SplicedEnd) -> None:
        try:
            to = self.server.port
            port = await self.relay.port(to) if self.lender.relays else to
            await asyncio.get_running_loop().create_connection(lambda: end, "127.0.0.1", port)
        except OSError as error:
            raise PeerBrokeOff(f"{self.lender.name}: {error}") from error

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self.lender.leases.remove(self)
            await self.relay.aclose()
            await self.server.__aexit__()


class LocalLender:
    """A peer called `name` that lends `mib`; `refuses` with that code, `silent`: it is there and answers nothing.

    It can lie: `grants` that share of what is asked, `ends_with` that code whatever it grants, or `spoils` answers of
    its RPC server ("rubbish", or "silence": none comes), for which it `relays` them from the beginning.
    """

    def __init__(self, name: str, program: Path, build: str, mib: int) -> None:
        self.name = name
        self.program = program
        self.build = build
        self.mib = mib
        self.refuses: str | None = None
        self.silent = False
        self.rtt_ms = 0.4
        self.relays = False
        self.spoils: str | None = None
        self.grants = 1.0
        self.ends_with: str | None = None
        self.draining = False
        self.leases: list[LocalLease] = []
        self.asked: list[LendRequest] = []
        self.answered_at = time.monotonic()

    @property
    def free_bytes(self) -> int:
        return self.mib * MIB - sum(lease.grant.bytes for lease in self.leases)

    def peer(self) -> Peer:
        address = Address(f"{self.name}.test", 17615)
        offer = LendOffer(
            bytes_free=self.free_bytes, bytes_total=self.mib * MIB, build=self.build, rpc=RPC, bytes_per_s=1e10,
            draining=self.draining,
        )  # fmt: skip
        description = NodeDescription(
            id=self.name.ljust(32, "0"), name=self.name, version="1", url=address.url, mode="paired", lends=offer
        )
        at = self.answered_at
        return Peer(
            description.id,
            self.name,
            PeerState.ALIVE,
            description,
            address,
            (address,),
            Source.STATIC,
            self.rtt_ms,
            at,
            at,
        )

    async def borrow(self, request: LendRequest) -> LocalLease:
        self.asked.append(request)
        if self.silent:
            raise PeerTimedOut(f"{self.name} says nothing")
        if self.refuses is not None:
            raise PeerStatusError(f"{self.name} answered 403: it lends nothing to anybody", 403)
        if request.bytes > self.free_bytes:
            raise PeerStatusError(f"{self.name} answered 403: {self.free_bytes} bytes are free", 403)
        server = await RpcServer(self.program).__aenter__()
        grant = LendGrant(
            lease=f"{len(self.asked):032x}", bytes=int(request.bytes * self.grants), build=self.build, rpc=RPC
        )
        lease = LocalLease(self, server, grant)
        self.leases.append(lease)
        if self.ends_with is not None:
            lease.say(LendNews(ended="it is over", code=self.ends_with))
        return lease


class LocalSwarm:
    """Lenders as a node's peers, and the link to them."""

    def __init__(self, *lenders: LocalLender) -> None:
        self.lenders = list(lenders)
        self.gone: set[str] = set()

    def peers(self) -> list[Peer]:
        return [lender.peer() for lender in self.lenders if lender.name not in self.gone]

    def at(self, url: str) -> LocalLender:
        for lender in self.lenders:
            if lender.name in url and lender.name not in self.gone:
                return lender
        raise PeerRefused(f"nobody is at {url}")

    async def borrow(self, url: str, request: LendRequest) -> LocalLease:
        return await self.at(url).borrow(request)

    async def measure(self, url: str, size_bytes: int) -> float:
        del size_bytes
        self.at(url)
        return 1e8
