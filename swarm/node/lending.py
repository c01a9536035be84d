"""This node's memory, lent to members of its swarm: what can be lent here, each lease's RPC server, and its end.

What is counted is in `workers/lent_memory.py`. A lease lives as long as its guest holds its connection
(`gateway/peers/lending.py`), its server does what it should (`engines/llama_cpp/rpc_server.py`), and its owner lets it:
`swarm lend off` tells each guest, and ends what is left `DRAIN_S` later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.advertisement import LendOffer
from federation.lending import (
    DRAINED,
    LEASE_CHARS,
    MEMORY_ENDED,
    NOT_LENDING,
    LendGrant,
    LendNews,
    LendRequest,
)
from federation.tasks import cancel_and_wait
from hardware.memory_speed import weights_bytes_per_s
from hardware.pools import FreeMemory, PoolName, pool_of, pool_totals
from hardware.probe import probe_hardware
from hardware.snapshot import HardwareSnapshot, memory_for_models
from swarm.control_messages import Lending, LentTo
from swarm.engines.build_choice import computes_on_gpu, memory_of
from swarm.engines.engine import EngineBuild
from swarm.engines.llama_cpp.rpc_cache import cache_for, pruned
from swarm.engines.llama_cpp.rpc_confinement import RpcEnd, RpcPlan, RpcProgram
from swarm.engines.llama_cpp.rpc_server import PROGRAM, RpcServer, rpc_program
from swarm.engines.registry import ENGINES, LLAMA_SERVER
from swarm.errors import EngineFailed, Forbidden, SetupError
from swarm.gateway.http.in_progress import Condition
from swarm.gateway.observing.view import LentEntry
from swarm.node.engines import builds_of, places_of
from swarm.node.settings import Settings
from swarm.registry.model_memory import MIB, size_text
from swarm.tools.plan import SandboxChoice
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox, find_sandbox
from swarm.workers.ledger import Holding, reserve_of
from swarm.workers.lent_memory import LendingRefused, LentMemory, LentPart, too_many_streams

DRAIN_S: Final = 30.0  # that guests get to end what they answer, and to plan anew: as much as answers get of a node
LEAVE_S: Final = 25.0  # ... when the node leaves, before whatever is left of requests is cut (`node/leaving.py`)
TRIAL_BYTES: Final = 64 * MIB
SHARE_LENT: Final = 2  # half of the machine's memory, where no size is given
CACHE_WAIT_S: Final = 1.0
LOOK_S: Final = 1.0  # between two looks at what the machine has free
TOLD_BYTES: Final = 64 * MIB  # steps in which peers are told what is free: a description that changes is sent anew
CACHE_FOLDER: Final = "lent-weights"  # in the data directory

Prune = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LendingParts:
    """What this node lends with: a sandbox that works, the RPC server of its llama.cpp, and which memory that takes."""

    sandbox: Sandbox
    program: RpcProgram
    pool: PoolName
    total_bytes: int
    threads: int
    cache: Path


def lending_parts(
    settings: Settings, snapshot: HardwareSnapshot, builds: Sequence[EngineBuild] | None = None
) -> LendingParts:
    """What there is here to lend with. Blocks: tries the sandbox. Raises SetupError with the remedy."""
    if not sys.platform.startswith("linux"):
        raise SetupError("memory is lent on Linux only, where bwrap keeps others' programs in: leave out --lend")
    sandbox = find_sandbox(SandboxChoice("bwrap"), contained=True)  # processes are counted here: no limit has to
    if isinstance(sandbox, NoSandbox):
        raise SetupError(f"memory is lent from inside a sandbox only, and {sandbox}")
    if builds is None:
        builds = builds_of(ENGINES[LLAMA_SERVER], places_of(settings, snapshot))
    for build in builds:
        if build.program is None:
            continue
        program = rpc_program(build.program, build.version, computes_on_gpu(build))
        if program is not None:
            pool = pool_of(memory_of(build, snapshot), snapshot)
            total_bytes = pool_totals(snapshot).get(pool, 0)
            threads = settings.threads or snapshot.cpu.usable_cores or 1
            return LendingParts(
                sandbox, program, pool, total_bytes, threads, settings.data_path.resolve() / CACHE_FOLDER
            )
    have = ", ".join(str(build.program) for build in builds if build.program is not None)
    none = f"none lies beside {have}" if have else "there is no llama.cpp here that has one"
    raise SetupError(f"memory is lent by llama.cpp's {PROGRAM}, and {none}: run `swarm engines install native`")


def wanted_bytes(asked_bytes: int | None, parts: LendingParts) -> int:
    """How much is lent, where `asked_bytes` were asked for; None: a share of the machine's. Raises SetupError."""
    most = parts.total_bytes - reserve_of(parts.total_bytes)
    if asked_bytes is None:
        return max(0, min(most, parts.total_bytes // SHARE_LENT))
    if asked_bytes > most:
        raise SetupError(
            f"{size_text(asked_bytes)} are more than can be lent: this machine has {size_text(parts.total_bytes)} and "
            f"keeps {size_text(parts.total_bytes - most)} for itself; lend {size_text(max(most, 0))} or less"
        )
    return asked_bytes


class NodeLending:
    """What this node lends. Nothing while it is not `is_paired`; `name_of` gives a member's name by its id, and `say`
    prints a line for whoever started the node.
    """

    def __init__(
        self,
        settings: Settings,
        is_paired: Callable[[], bool],
        name_of: Callable[[str], str],
        say: Callable[[str], None],
        drain_s: float = DRAIN_S,
    ) -> None:
        self.has_lent = False  # ... since this node began: until then nothing here is to be asked
        self._settings = settings
        self._is_paired = is_paired
        self._name_of = name_of
        self._say = say
        self._drain_s = drain_s
        self._free: FreeMemory | None = None
        self._free_bytes: int | None = None  # when it was read last, at that instant
        self._read_at = -math.inf
        self._bytes_per_s: float | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._parts: LendingParts | None = None
        self._memory: LentMemory | None = None
        self._leases: dict[str, _Lease] = {}
        self._caches: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # of each guest, one server at a time
        self._draining: asyncio.Task[None] | None = None

    # What the owner decides

    async def decide(
        self, on: bool, size_bytes: int | None = None, snapshot: HardwareSnapshot | None = None
    ) -> Lending:
        """What `swarm lend` does: lend `size_bytes` (None: a usual share), or have back what is lent.

        `snapshot` shows this machine; None: it is looked at. Raises SetupError with the remedy for what cannot be.
        """
        if not on:
            await self.off()
            return self.state()
        self._check_paired()
        seen = snapshot or await asyncio.to_thread(probe_hardware)
        parts = await asyncio.to_thread(lending_parts, self._settings, seen)
        limit_bytes = wanted_bytes(size_bytes, parts)
        self._free = FreeMemory(seen)
        memory = memory_for_models(seen, parts.program.on_gpu)
        self._bytes_per_s = await asyncio.to_thread(weights_bytes_per_s, seen, memory, parts.threads, native=True)
        await self.on(parts, limit_bytes)
        return self.state()

    def _check_paired(self) -> None:
        if not self._is_paired():
            raise SetupError(
                "memory is lent to members of a paired swarm only, and this node is in none: start it without --lend, "
                "pair it (`swarm invite` here, `swarm join CODE` on another machine), then `swarm lend on`"
            )

    async def on(self, parts: LendingParts, limit_bytes: int) -> None:
        """Lend `limit_bytes` from now on, once a server has run here. Raises SetupError where none does."""
        self._check_paired()
        try:
            trial = await RpcServer.start(parts.sandbox, RpcPlan(parts.program, TRIAL_BYTES, 1))
        except EngineFailed as error:
            raise SetupError(f"memory cannot be lent here: {error}") from error
        await trial.aclose()
        await cancel_and_wait(self._draining)
        self._draining = None
        if not self._leases:
            await asyncio.to_thread(pruned, parts.cache, limit_bytes)
        self._parts = parts
        self.has_lent = True
        if self._memory is None or not self._leases:
            self._memory = LentMemory(limit_bytes, parts.program.build, trial.rpc)
        else:
            self._memory.limit_bytes, self._memory.draining = limit_bytes, None

    async def off(self, why: str = "its owner wants the memory back", within_s: float | None = None) -> None:
        """Lend nothing more, and have back what is lent: guests get `within_s` to end what they do."""
        left_s = self._drain_s if within_s is None else within_s
        if self._memory is None or self._memory.draining is not None:
            return
        self._memory.draining = why
        for lease in self._leases.values():
            lease.tell(LendNews(draining=why, left_s=left_s))
        self._draining = asyncio.create_task(self._drained(tuple(self._leases.values()), why, left_s))

    async def _drained(self, leases: Sequence[_Lease], why: str, left_s: float) -> None:
        ends = [asyncio.ensure_future(lease.gone.wait()) for lease in leases]
        try:
            if ends:
                await asyncio.wait(ends, timeout=left_s)
        finally:
            for end in ends:
                end.cancel()
        for lease in leases:
            lease.end(RpcEnd(DRAINED, why))

    @asynccontextmanager
    async def stopping_with(self, condition: Condition) -> AsyncGenerator[None]:
        """Have everything back when the node begins to leave; when the block ends, at once."""

        def leaving() -> None:
            if condition.draining and not self._stopping:
                left_s = min(self._drain_s, LEAVE_S)
                self._stopping.add(asyncio.create_task(self.off("the lender is shutting down", left_s)))

        unsubscribe = condition.subscribe(leaving)
        try:
            yield
        finally:
            unsubscribe()
            await cancel_and_wait(*self._stopping)
            await self.aclose()

    async def aclose(self) -> None:
        """End every lease at once."""
        await cancel_and_wait(self._draining)
        for lease in tuple(self._leases.values()):
            lease.end(RpcEnd(DRAINED, "the lender has stopped"))
            await lease.aclose()

    def state(self) -> Lending:
        """As `swarm lend` shows it."""
        memory = self._looked()
        if memory is None:
            return Lending(on=False)
        now = time.monotonic()
        return Lending(
            on=memory.draining is None,
            bytes_total=memory.limit_bytes,
            bytes_free=memory.free_bytes(self._room_bytes()),
            build=memory.build,
            rpc=memory.rpc,
            draining=memory.draining,
            lent=tuple(
                LentTo(
                    node=part.name,
                    model=part.model,
                    bytes=part.bytes,
                    held_bytes=part.held_bytes,
                    since_s=now - part.since,
                )
                for part in memory.parts
            ),
        )

    # What others are told

    def offer(self) -> LendOffer | None:
        """For this node's description; None where nothing is lent."""
        memory, parts = self._looked(), self._parts
        if memory is None or parts is None or not self._is_paired() or (memory.draining and not memory.parts):
            return None
        free_bytes = memory.free_bytes(self._room_bytes())
        return LendOffer(
            bytes_free=free_bytes - free_bytes % TOLD_BYTES,
            bytes_total=memory.limit_bytes,
            build=memory.build,
            rpc=memory.rpc,
            bytes_per_s=self._bytes_per_s,
            threads=parts.threads,
            draining=memory.draining is not None,
        )

    def lent(self) -> tuple[LentEntry, ...]:
        """For this node's view."""
        memory = self._looked()
        pool = "ram" if self._parts is None else self._parts.pool
        found = () if memory is None else memory.parts
        return tuple(LentEntry(node=part.name, model=part.model, bytes=part.bytes, pool=pool) for part in found)

    def holdings(self) -> list[Holding]:
        """For the ledger of models."""
        memory, parts = self._looked(), self._parts
        return [] if memory is None or parts is None else memory.holdings(parts.pool)

    def _looked(self) -> LentMemory | None:
        """The ledger, with what servers hold now."""
        if self._memory is not None:
            for lease in self._leases.values():
                self._memory.holds(lease.part.lease, lease.held_bytes)
        return self._memory

    def _room_bytes(self) -> int | None:
        """What this machine has free beside its reserve: of RAM only, which is read in less than a millisecond."""
        assert self._parts is not None
        pool, now = self._parts.pool, time.monotonic()
        if self._free is not None and not pool.startswith("vram") and now - self._read_at >= LOOK_S:
            self._read_at, self._free_bytes = now, self._free.read([pool]).get(pool)
        return None if self._free_bytes is None else self._free_bytes - reserve_of(self._parts.total_bytes)

    async def _prune(self) -> None:
        """Keep no more tensors than is lent, where nobody uses any."""
        if self._memory is not None and self._parts is not None and not any(map(_is_held, self._caches.values())):
            await asyncio.to_thread(pruned, self._parts.cache, self._memory.limit_bytes)

    # What guests ask for

    @contextmanager
    def lend(self, guest: str, request: LendRequest) -> Generator[_Lease]:
        """See `Lender`."""
        memory, parts = self._looked(), self._parts
        if memory is None or parts is None:
            raise Forbidden("this node lends no memory: start it with --lend", NOT_LENDING)
        now = time.monotonic()
        _allowed(memory.refusal(guest, request, self._room_bytes(), now))
        part = memory.take(secrets.token_hex(LEASE_CHARS // 2), guest, self._name_of(guest), request, now)
        lease = self._leases[part.lease] = _Lease(part, parts, memory, self._caches[guest], self._prune)
        log.info("%s (%s)", part.words, size_text(part.bytes))
        try:
            yield lease
        finally:
            del self._leases[part.lease]
            lease.gone.set()
            end = lease.ended
            memory.give_back(part.lease, time.monotonic(), end is not None and end.code == MEMORY_ENDED)
            if end is not None and end.code != DRAINED:
                self._say(f"* {part.words} ended: {end.words}")

    @asynccontextmanager
    async def connected(self, guest: str, lease: str) -> AsyncGenerator[socket.socket]:
        """See `Lender`."""
        memory = self._memory
        if memory is None:
            raise Forbidden("this node lends no memory: start it with --lend", NOT_LENDING)
        _allowed(memory.check(guest, lease))
        async with self._leases[lease].connected() as connection:
            yield connection


def lending_words(lending: Lending) -> str:
    """What is lent, for whoever started the node."""
    total, free = size_text(lending.bytes_total), size_text(lending.bytes_free)
    least = "" if lending.bytes_free >= lending.bytes_total else f", {free} of it free now"
    return f"{total} of memory to members of this swarm{least} (llama.cpp {lending.build}; `swarm lend off` ends it)"


def _is_held(lock: asyncio.Lock) -> bool:
    return lock.locked()


def _allowed(refused: LendingRefused | None) -> None:
    """Raises Forbidden where it is refused."""
    if refused is not None:
        raise Forbidden(refused.words, refused.code)


class _Lease:
    """One lease and its server, from the grant to the end."""

    def __init__(
        self, part: LentPart, parts: LendingParts, memory: LentMemory, cache: asyncio.Lock, prune: Prune
    ) -> None:
        self.part = part
        self.ended: RpcEnd | None = None
        self.gone = asyncio.Event()
        self._parts = parts
        self._memory = memory
        self._cache = cache
        self._prune = prune
        self._server: RpcServer | None = None
        self._streams = 0  # that there are, or are being made
        self._news: asyncio.Queue[LendNews] = asyncio.Queue()

    @property
    def grant(self) -> LendGrant:
        return LendGrant(lease=self.part.lease, bytes=self.part.bytes, build=self._memory.build, rpc=self._memory.rpc)

    @property
    def held_bytes(self) -> int:
        return 0 if self._server is None else self._server.held_bytes

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[_Lease]:
        """See `ReservedLease`."""
        parts = self._parts
        async with self._kept_tensors() as cache:
            plan = RpcPlan(parts.program, self.part.bytes, parts.threads, cache)
            async with self._serving(plan):
                yield self

    @asynccontextmanager
    async def _kept_tensors(self) -> AsyncGenerator[Path | None]:
        """The folder with what this guest's servers have kept; None where another one of its leases has it."""
        try:  # that of a lease which has just ended is given back within a moment
            async with asyncio.timeout(CACHE_WAIT_S):
                await self._cache.acquire()
        except TimeoutError:
            yield None
            return
        try:
            yield await asyncio.to_thread(cache_for, self._parts.cache, self.part.guest, self.part.bytes)
        finally:
            self._cache.release()
            await self._prune()

    @asynccontextmanager
    async def _serving(self, plan: RpcPlan) -> AsyncGenerator[None]:
        parts = self._parts
        self._server = await RpcServer.start(parts.sandbox, plan)
        watching = asyncio.create_task(self._watch(self._server))
        try:
            yield
        finally:
            await cancel_and_wait(watching)
            await self._server.aclose()

    async def _watch(self, server: RpcServer) -> None:
        """It is over when its server is, unless that is this node's doing."""
        self.end(await asyncio.shield(server.over))

    async def news(self) -> AsyncGenerator[LendNews]:
        """See `RunningLease`."""
        while True:
            news = await self._news.get()
            yield news
            if news.ended is not None:
                return

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[socket.socket]:
        """A connection to its server, counted while the block runs. Raises EngineFailed, Forbidden for one too many."""
        if self._server is None:
            raise EngineFailed("its RPC server does not run yet")
        _allowed(too_many_streams(self._streams))
        self._streams += 1
        try:
            yield await self._server.connect()
        finally:
            self._streams -= 1

    def tell(self, news: LendNews) -> None:
        self._news.put_nowait(news)

    def end(self, why: RpcEnd) -> None:
        """It is over; what is not told by now is not told any more."""
        if self.ended is None:
            self.ended = why
            self.tell(LendNews(ended=why.words, code=why.code))

    async def aclose(self) -> None:
        if self._server is not None:
            await self._server.aclose()
