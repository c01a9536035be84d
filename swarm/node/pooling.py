"""Models that are too large for this machine, over memory that other members lend: whom it asks, and what comes of it.

`NodePooling` knows the lenders and asks them; `PooledModel` is one model of this disk: how it could be loaded over them
now, and the load itself. Ready is what answers with all its parts. A load that cannot be is `LenderLost`, in words; it
is tried again as soon as what lenders offer has changed. Who may lend is decided in `lenders.py`, which layers go where
in `registry/pooled_fit.py`; what was borrowed is held in `borrowed.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from federation.errors import PeerError, PeerStatusError
from federation.hostport import Address
from federation.lending import LendRequest
from federation.peer import Peer
from federation.tasks import cancel_and_wait
from hardware.pools import PoolName
from swarm.engines.engine import Engine, EngineBuild, EngineSpec
from swarm.engines.pooled_engine import Endable, PooledEngine
from swarm.errors import EngineFailed, LenderLost, PooledMisfit, SetupError, SwarmError
from swarm.node.borrowed import BorrowedParts, Borrowing, HeldLease
from swarm.node.lenders import DRAINED_S, LIAR_S, Doubt, Lender, Lenders, lenders_among, offers_key, whom_it_waits_for
from swarm.registry.gguf_header import GgufFacts, read_layers
from swarm.registry.layer_sizes import LayerSizes, estimated_layers
from swarm.registry.model_memory import AskedLoad, Load
from swarm.registry.pooled_fit import PooledPlan, PoolMachine, pooled_load
from swarm.workers.loadable import NO_BYTES, LoadOption

LOOK_S = 0.5  # between two looks at what lenders offer
LEAST_REST_S = 1.0  # between two loads of a model, however often offers change
LOST_S = 600.0  # one that was lost is asked again when it answers anything; forgotten after that
MEASURE_BYTES = 4 << 20  # a gigabit link carries them in some 35 ms, and gets up to speed
MEASURED_FOR_S = 600.0
MOST_LEARNED = 64  # models whose layers are known; a few kB each
RETRY_AFTER_S = 10

log = logging.getLogger(__name__)

Ask = Callable[[Lender, int, int], LendRequest]


class LendingLink(Protocol):
    """How lenders are reached."""

    async def borrow(self, address: Address, request: LendRequest) -> HeldLease:
        """A lease. Raises PeerError, PeerStatusError where it is refused."""
        ...

    async def measure(self, address: Address, size_bytes: int) -> float:
        """Seconds that so many bytes take from there. Raises PeerError."""
        ...


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What the user said: whether models may be loaded over others' memory, and lenders that are taken in any case."""

    on: bool = False
    named: tuple[str, ...] = ()


class NodePooling:
    """The lenders of this node. `build` is the llama.cpp that models are pooled with, None where it has none.

    `host_bytes_per_s`: of weights read here, None where that is not known. Make it on the event loop.
    """

    def __init__(
        self,
        node: str,
        peers: Callable[[], Sequence[Peer]],
        link: LendingLink,
        build: EngineBuild | None,
        rules: PoolRules,
        host_bytes_per_s: float | None = None,
    ) -> None:
        self.node = node
        self.build = build
        self.rules = rules
        self._peers = peers
        self._link = link
        self._host_bytes_per_s = host_bytes_per_s
        self._doubts: dict[str, Doubt] = {}
        self._links: dict[str, tuple[float, float]] = {}  # bytes a second, and until when that is believed
        self._layers: dict[Path, LayerSizes] = {}
        self._changed = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []

    # Who lends

    def lenders(self) -> Lenders:
        """Those of now."""
        if self.build is None:
            return Lenders()
        return lenders_among(self._peers(), self.build.version, None, self._doubts, time.monotonic())

    def machines(self, host_free_bytes: int, lenders: Lenders) -> list[PoolMachine]:
        """What a plan is made of, this machine first."""
        now = time.monotonic()
        host = PoolMachine(self.node, None, host_free_bytes, self._host_bytes_per_s)
        others: list[PoolMachine] = []
        for lender in lenders.usable:
            speed, until = self._links.get(lender.node_id, (0.0, 0.0))
            others.append(lender.machine(speed if now < until else None, lender.name in self.rules.named))
        return [host, *others]

    def doubt(self, lender: Lender, why: str, for_s: float, answers: bool = False) -> None:
        """Do not ask it for so long, or, where it only seemed gone, until it `answers`."""
        now = time.monotonic()
        self._doubts = {node_id: doubt for node_id, doubt in self._doubts.items() if now < doubt.until}
        self._doubts[lender.node_id] = Doubt(why, now, now + for_s, answers)

    def lied(self, lender: Lender, why: str) -> None:
        log.warning("%s could not hold what it lent (%s): it is not asked for %.0f min", lender.name, why, LIAR_S / 60)
        self.doubt(lender, f"it could not hold what it had granted ({why})", LIAR_S)

    def gone(self, lender: Lender, why: str) -> None:
        self.doubt(lender, f"it was lost ({why})", LOST_S, answers=True)

    def drains(self, lender: Lender, why: str) -> None:
        self.doubt(lender, f"it takes its memory back ({why})", DRAINED_S)

    async def borrow(
        self, plan: PooledPlan, lenders: Lenders, load: Load, ask: Ask
    ) -> tuple[list[Borrowing], dict[str, str]]:
        """A lease of every lender of the plan; and of those that refused, by their ids, why: then nothing is held."""
        by_id = {lender.node_id: lender for lender in lenders.usable}
        wanted = [(by_id[share.node_id], share) for share in plan.shares if share.node_id is not None]
        asked = [
            self._link.borrow(lender.address, ask(lender, share.bytes, load.context_tokens)) for lender, share in wanted
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        held: list[Borrowing] = []
        refused: dict[str, str] = {}
        defect: BaseException | None = None
        for (lender, share), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, PeerError):
                refused[lender.node_id] = str(answer)
                if not isinstance(answer, PeerStatusError):
                    self.doubt(lender, f"it did not answer ({answer})", LOST_S, answers=True)
            elif isinstance(answer, BaseException):
                defect = answer
            else:
                held.append(Borrowing(lender, share, answer))
        if refused or defect is not None:
            for one in held:
                await one.lease.aclose()
            held = []
        if defect is not None:
            raise defect
        return held, refused

    # Layers

    def learn(self, path: Path) -> None:
        """Read how large the layers of a file are, once. Blocks; a file that tells nothing is left to the load."""
        if path in self._layers or self.build is None:
            return
        try:
            found = read_layers(path)
        except SetupError as error:
            log.info("%s", error)
            return
        if len(self._layers) >= MOST_LEARNED:
            del self._layers[next(iter(self._layers))]
        self._layers[path] = found

    def layers_of(self, path: Path, facts: GgufFacts) -> LayerSizes:
        """As read; else as such a model's are on average. Blocks on nothing."""
        known = self._layers.get(path)
        return known or estimated_layers(facts.shape, facts.active_params / max(1, facts.params))

    # Changes

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call it whenever what lenders offer has changed."""
        self._on_change.append(callback)

    async def rest(self, seconds: float) -> None:
        """Wait so long, or a second at least until what lenders offer has changed."""
        changed = self._changed
        await asyncio.sleep(min(seconds, LEAST_REST_S))
        try:
            async with asyncio.timeout(max(0.0, seconds - LEAST_REST_S)):
                await changed.wait()
        except TimeoutError:
            pass

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """While it runs, changes of what lenders offer are told, and the links to them are measured."""
        tasks = [
            asyncio.create_task(self._watch(), name="what lenders offer"),
            asyncio.create_task(self._measure(), name="links to lenders"),
        ]
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)

    async def _watch(self) -> None:
        before = None
        while True:
            now = time.monotonic()
            held = frozenset(
                peer.id
                for peer in self._peers()
                if (doubt := self._doubts.get(peer.id)) is not None and doubt.holds(now, peer.last_answer_at)
            )
            key = (offers_key(self._peers()), held)
            if before is not None and key != before:
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()
                for callback in self._on_change:
                    callback()
            before = key
            await asyncio.sleep(LOOK_S)

    async def _measure(self) -> None:
        while True:
            for lender in self.lenders().usable:
                if time.monotonic() < self._links.get(lender.node_id, (0.0, 0.0))[1]:
                    continue
                speed = 0.0
                try:
                    took_s = await self._link.measure(lender.address, MEASURE_BYTES)
                    speed = MEASURE_BYTES / max(took_s - lender.rtt_s, 1e-6)
                except PeerError as error:
                    log.info("the link to %s is not measured: %s", lender.name, error)
                until = time.monotonic() + MEASURED_FOR_S
                if speed:
                    self._links[lender.node_id] = (speed, until)
            await asyncio.sleep(LEAST_REST_S)


@dataclass(frozen=True, slots=True)
class PooledFile:
    """A model of this disk, and what is asked of its load."""

    model_id: str
    path: Path
    facts: GgufFacts
    asked: AskedLoad


class PooledModel:
    """One model of this disk, over this machine and lenders. `room` says how much of `pool` it may take here, now.

    `spec` makes the order for the engine of a load, and `load` has it carried out; `ask` makes what a lender is asked,
    for so many bytes and a context of so many tokens.
    """

    def __init__(
        self,
        pooling: NodePooling,
        file: PooledFile,
        pool: PoolName,
        room: Callable[[], Awaitable[int]],
        spec: Callable[[LoadOption], EngineSpec],
        load: Callable[[EngineSpec], Awaitable[Engine]],
        ask: Ask,
    ) -> None:
        self._pooling = pooling
        self._file = file
        self.pool: PoolName = pool
        self._room = room
        self._spec = spec
        self._load = load
        self._ask = ask
        self._nodes: tuple[str, ...] = ()  # over which it was loaded last

    @property
    def rules(self) -> PoolRules:
        return self._pooling.rules

    async def rest(self, seconds: float) -> None:
        """See `NodePooling.rest`."""
        await self._pooling.rest(seconds)

    def options(self, host_free_bytes: int) -> tuple[LoadOption, ...]:
        """How it is loaded over the lenders of now, with so much free here: one way, which waits where none is."""
        lenders = self._pooling.lenders()
        try:
            load, plan = self._planned(host_free_bytes, lenders)
        except PooledMisfit:
            least = self._file.asked.judged.carried_by(self._file.facts.shape)
            return (LoadOption(least.context_tokens, least.slots, NO_BYTES, waits=True),)
        need, nodes = {self.pool: plan.shares[0].bytes}, plan.nodes if len(plan.nodes) > 1 else ()
        return (LoadOption(load.context_tokens, load.slots, need, nodes),)

    def hint(self, host_free_bytes: int) -> str:
        """Over whom it would fit, as a sentence; empty where it would not."""
        lenders = self._pooling.lenders()
        try:
            _, plan = self._planned(host_free_bytes, lenders)
        except PooledMisfit:
            return ""
        return f"It would fit over {plan.over}: start this node with --pool to have it loaded there."

    def _planned(self, host_free_bytes: int, lenders: Lenders) -> tuple[Load, PooledPlan]:
        """Raises PooledMisfit, with the names of those that lend and are of no use."""
        layers = self._pooling.layers_of(self._file.path, self._file.facts)
        try:
            return pooled_load(layers, self._file.asked, self._pooling.machines(host_free_bytes, lenders))
        except PooledMisfit as error:
            raise PooledMisfit(f"{error}{lenders.refusals}") from error

    async def load(self, option: LoadOption) -> Engine:
        """The engine over whoever lends now. Raises LenderLost where they do not hold it, and EngineFailed."""
        await asyncio.to_thread(self._pooling.learn, self._file.path)
        refused: dict[str, str] = {}
        while True:
            lenders = self._pooling.lenders().without(refused)
            try:
                load, plan = self._planned(await self._room(), lenders)
            except PooledMisfit as error:
                whom = whom_it_waits_for(self._nodes[1:], lenders)
                raise LenderLost(whom, f"waiting for {whom}: {error}", RETRY_AFTER_S) from error
            borrowings, now_refused = await self._pooling.borrow(plan, lenders, load, self._ask)
            if now_refused:
                refused |= now_refused
                continue
            for words in plan.warnings:
                log.warning("%s: %s", self._file.model_id, words)
            self._nodes = plan.nodes
            log.info("%s: over %s", self._file.model_id, plan.over)
            way = LoadOption(load.context_tokens, load.slots, option.need, plan.nodes)
            return await self._loaded(way, plan, BorrowedParts(borrowings, self._pooling))

    async def _loaded(self, way: LoadOption, plan: PooledPlan, parts: BorrowedParts) -> Engine:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(parts.aclose)
            spec = replace(self._spec(way), parts=await parts.start(), node=self._pooling.node)
            if spec.build is not None and spec.build.devices:  # its own layers go to its own GPU
                spec = replace(spec, gpu_layers=sum(share.layers for share in plan.shares))
            engine = await self._unless_lost(self._load(spec), parts)
            stack.pop_all()
        return PooledEngine(cast("Endable", engine), parts)

    async def _unless_lost(self, load: Awaitable[Engine], parts: BorrowedParts) -> Engine:
        """What `load` brings; LenderLost as soon as a part is lost meanwhile, however long llama.cpp waits for it."""
        loading = asyncio.ensure_future(load)
        try:
            await asyncio.wait({loading, parts.lost}, return_when=asyncio.FIRST_COMPLETED)
            if not parts.lost.done():
                return await loading
        except EngineFailed as error:
            if not parts.lost.done():
                self._blame(parts, error)
                raise
        finally:
            if not loading.done():
                await cancel_and_wait(loading)
            elif parts.lost.done() and not loading.cancelled() and loading.exception() is None:
                await loading.result().aclose()
        raise parts.lost.result()

    def _blame(self, parts: BorrowedParts, error: SwarmError) -> None:
        """Raises LenderLost for a lender that did not hold what it granted, where the engine names its address."""
        lender = parts.lender_at(str(error))
        if lender is not None:
            parts.blame(lender, str(error))
            raise LenderLost(lender.name, f"waiting for {lender.name}: it could not hold its part: {error}") from error
