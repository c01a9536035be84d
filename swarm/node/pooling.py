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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from federation.client import PeerClient
from federation.errors import PeerError, PeerStatusError
from federation.lending import LendGrant, LendNews, LendRequest, same_llama_cpp
from federation.lending_client import HeldLease, lease_of, measured_bytes_per_s, open_byte_stream
from federation.peer import Peer
from federation.splice import SplicedEnd
from federation.tasks import cancel_and_wait, finished, report_crash
from hardware.pools import PoolName
from swarm.engines.engine import Engine, EngineBuild, EngineSpec
from swarm.engines.pooled_engine import Endable, PooledEngine
from swarm.engines.registry import LLAMA_SERVER
from swarm.errors import EngineFailed, LenderLost, PooledMisfit, SetupError
from swarm.node.borrowed import BorrowedParts, Borrowing, HeldMemory
from swarm.node.lenders import (
    DRAINED_S,
    LIAR_S,
    Doubt,
    Lenders,
    LendingPeer,
    holding,
    lenders_among,
    offers_key,
    whom_it_waits_for,
)
from swarm.registry.gguf_header import GgufFacts, read_layers
from swarm.registry.layer_sizes import LayerSizes, estimated_layers
from swarm.registry.model_memory import AskedLoad, Load, size_text
from swarm.registry.pooled_fit import PooledPlan, PoolMachine, pooled_load
from swarm.workers.loadable import NO_BYTES, LoadOption

LOOK_S = 0.5  # between two looks at what lenders offer
SEEN_S = 3.0  # after its start a node knows the peers that are there
LEAST_REST_S = 1.0  # between two loads of a model, however often offers change
LOST_S = 600.0  # one that was lost is asked again when it answers anything; forgotten after that
MOST_REST_S = 15.0
MOST_LOST = 3  # models over one lender within LIAR_S, each before it was of use
MEASURE_BYTES = 4 << 20  # a gigabit link carries them in some 35 ms, and gets up to speed
MEASURED_FOR_S, MEASURED_AGAIN_S = 600.0, 60.0  # the second where it could not be
MOST_LEARNED = 64  # models whose layers are known; a few kB each
RETRY_AFTER_S = 10
RPC_PROGRAM = "ggml-rpc-server"
OPEN_SWARM = "this swarm is open, and memory is borrowed of members only: pair both (`swarm invite`, `swarm join CODE`)"
WITH_RPC = "that reaches others' memory (ggml-rpc-server beside it): `swarm engines install native` makes one"

log = logging.getLogger(__name__)

AskLender = Callable[[LendingPeer, int, int], LendRequest]


class LendingLink(Protocol):
    """How lenders are reached, at the URL of each."""

    async def borrow(self, url: str, request: LendRequest) -> HeldMemory:
        """A lease. Raises PeerError, PeerStatusError where it is refused."""
        ...

    async def measure(self, url: str, size_bytes: int) -> float:
        """How many bytes a second come from there. Raises PeerError."""
        ...


class MemberLink:
    """Lenders reached as other peers are, by `client`."""

    def __init__(self, client: PeerClient) -> None:
        self._client = client

    async def borrow(self, url: str, request: LendRequest) -> HeldMemory:
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(lease_of(self._client, url, request))
            return _MemberMemory(self._client, lease, stack.pop_all())

    async def measure(self, url: str, size_bytes: int) -> float:
        return await measured_bytes_per_s(self._client, url, size_bytes)


class _MemberMemory:
    """A lease of a member."""

    def __init__(self, client: PeerClient, lease: HeldLease, stack: AsyncExitStack) -> None:
        self._client = client
        self._lease = lease
        self._stack = stack

    @property
    def grant(self) -> LendGrant:
        return self._lease.grant

    def news(self) -> AsyncIterator[LendNews]:
        return self._lease.news()

    async def open_stream(self, end: SplicedEnd) -> None:
        await open_byte_stream(self._client, self._lease.url, self.grant.lease, end)

    async def aclose(self) -> None:
        await self._stack.aclose()


def pooling_build(builds: Iterable[EngineBuild]) -> EngineBuild | None:
    """The llama.cpp that reaches others' memory: the first with an RPC server beside it, whose half it is. Blocks."""
    able = (build for build in builds if build.engine == LLAMA_SERVER and build.program is not None)
    return next((build for build in able if rpc_program(build) is not None), None)


def rpc_program(build: EngineBuild) -> Path | None:
    """The RPC server beside the program of `build`. Blocks for a moment."""
    path = None if build.program is None else build.program.resolve().with_name(RPC_PROGRAM)
    return path if path is not None and path.is_file() else None


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What the user said: whether models may be loaded over others' memory, and lenders that are taken in any case."""

    on: bool = False
    named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PooledFile:
    """A model of this disk, and what is asked of its load."""

    model_id: str
    path: Path
    facts: GgufFacts
    asked: AskedLoad


class NodePooling:
    """The lenders of this node. `build` is the llama.cpp that models are pooled with, None where it has none.

    `host_bytes_per_s`: of weights read here, None where that is not known. While this node is not `is_paired` nobody
    is asked: in an open swarm anybody can say that he lends. Make it on the event loop.
    """

    def __init__(
        self,
        node: str,
        peers: Callable[[], Sequence[Peer]],
        link: LendingLink,
        build: EngineBuild | None,
        rules: PoolRules,
        host_bytes_per_s: float | None = None,
        is_paired: Callable[[], bool] = lambda: False,
    ) -> None:
        self.node = node
        self.build = build
        self.rules = rules
        self._peers = peers
        self._link = link
        self._host_bytes_per_s = host_bytes_per_s
        self._is_paired = is_paired
        self._doubts: dict[str, Doubt] = {}
        self._lost: dict[str, tuple[float, ...]] = {}  # by nodes' ids, at which instants
        self._links: dict[str, tuple[float | None, float]] = {}  # bytes a second, and until when that is believed
        self._layers: dict[Path, LayerSizes] = {}
        self._changed = asyncio.Event()

    # Who lends

    def lenders(self) -> Lenders:
        """Those of now."""
        if self.build is None:
            return Lenders()
        found = lenders_among(self._peers(), self.build.version, None, self._doubts, time.monotonic())
        return found if self._is_paired() else found.without({one.node_id: OPEN_SWARM for one in found.usable})

    def unused(self) -> dict[str, str]:
        """By their names the lenders that are of no use to this node, and why; none where it does not pool."""
        return dict(self.lenders().refused) if self.rules.on else {}

    def machines(self, host_free_bytes: int, lenders: Lenders) -> list[PoolMachine]:
        """What a plan is made of, this machine first."""
        now = time.monotonic()
        host = PoolMachine(self.node, None, host_free_bytes, self._host_bytes_per_s)
        others: list[PoolMachine] = []
        for lender in lenders.usable:
            speed, until = self._links.get(lender.node_id, (0.0, 0.0))
            others.append(lender.machine(speed if now < until else None, lender.name in self.rules.named))
        return [host, *others]

    def doubt(self, lender: LendingPeer, why: str, for_s: float, answers: bool = False) -> None:
        """Do not ask it for so long, or, where it only seemed gone, until it `answers`; what is graver stays."""
        now = time.monotonic()
        self._doubts = {node_id: doubt for node_id, doubt in self._doubts.items() if now < doubt.until}
        before = self._doubts.get(lender.node_id)
        if before is None or before.answers or before.until <= now + for_s:
            self._doubts[lender.node_id] = Doubt(why, now, now + for_s, answers)

    def lied(self, lender: LendingPeer, why: str) -> None:
        log.warning("%s could not hold what it lent (%s): it is not asked for %.0f min", lender.name, why, LIAR_S / 60)
        self.doubt(lender, f"it could not hold what it had granted ({why})", LIAR_S)

    def gone(self, lender: LendingPeer, why: str) -> None:
        self.doubt(lender, f"it was lost ({why})", LOST_S, answers=True)

    def ended_early(self, lender: LendingPeer, why: str) -> None:
        """A model was lost over it at once: nothing by itself, and too often it is not asked for as long as a liar."""
        now = time.monotonic()
        recent = [at for at in self._lost.get(lender.node_id, ()) if now - at < LIAR_S]
        self._lost = {node_id: at for node_id, at in self._lost.items() if now - at[-1] < LIAR_S}
        self._lost[lender.node_id] = (*recent, now)[-MOST_LOST:]
        if len(self._lost[lender.node_id]) == MOST_LOST:
            log.warning(
                "%s was lost at once, %d times: it is not asked for %.0f min", lender.name, MOST_LOST, LIAR_S / 60
            )
            self.doubt(
                lender,
                f"models were lost over it at once, {MOST_LOST} times within {LIAR_S / 60:.0f} min ({why})",
                LIAR_S,
            )

    def drains(self, lender: LendingPeer, why: str) -> None:
        self.doubt(lender, f"it takes its memory back ({why})", DRAINED_S)

    async def borrow(
        self, plan: PooledPlan, lenders: Lenders, load: Load, ask: AskLender
    ) -> tuple[list[Borrowing], dict[str, str]]:
        """A lease of every lender of the plan; and of those that refused, by their ids, why: then nothing is held."""
        by_id = {lender.node_id: lender for lender in lenders.usable}
        wanted = [(by_id[share.node_id], share) for share in plan.shares[1:] if share.node_id is not None]
        asked = [
            asyncio.ensure_future(self._link.borrow(lender.address.url, ask(lender, share.bytes, load.context_tokens)))
            for lender, share in wanted
        ]
        try:
            answers = await asyncio.gather(*asked, return_exceptions=True)
        except BaseException:  # whoever wanted it left: also what was granted by then is given back
            await finished(asyncio.ensure_future(_given_back(asked)))
            raise
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
                if (wrong := self._wrong(answer.grant, share.bytes)) is not None:
                    refused[lender.node_id] = wrong
                    self.lied(lender, wrong)
        if refused or defect is not None:
            held = []
            await finished(asyncio.ensure_future(_given_back(asked)))
        if defect is not None:
            raise defect
        return held, refused

    def _wrong(self, grant: LendGrant, asked_bytes: int) -> str | None:
        """What a lender grants that it was not asked for, or None."""
        if grant.bytes < asked_bytes:
            return f"it granted {size_text(grant.bytes)} where {size_text(asked_bytes)} were asked for"
        if self.build is not None and not same_llama_cpp(self.build.version, grant.rpc, grant.build, grant.rpc):
            return f"it granted memory of llama.cpp {grant.build}, and this node's is {self.build.version}"
        return None

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

    # Plans

    def planned(self, file: PooledFile, host_free_bytes: int, lenders: Lenders) -> tuple[Load, PooledPlan]:
        """What the model carries over these lenders, and how it lies.

        Raises PooledMisfit, with the names of those that lend and are of no use.
        """
        layers = self.layers_of(file.path, file.facts)
        try:
            return pooled_load(layers, file.asked, self.machines(host_free_bytes, lenders))
        except PooledMisfit as error:
            raise PooledMisfit(f"{error}{lenders.refusals}") from error

    def hint(self, file: PooledFile, host_free_bytes: int) -> str:
        """Which other node has the model and room for it, else over whom it would fit, as a sentence; else nothing."""
        if words := self.whom_to_ask(file.model_id):
            return words
        try:
            _, plan = self.planned(file, host_free_bytes, self.lenders())
        except PooledMisfit:
            return ""
        return f"It would fit over {plan.over}: start this node with --pool to have it loaded there."

    def whom_to_ask(self, model_id: str) -> str:
        """Which other nodes run the model or have it, with room for it, as a sentence; empty where none does."""
        holders = holding(self._peers(), model_id)
        if not holders:
            return ""
        return f"It fits on {' and '.join(one.label for one in holders)}: ask there ({holders[0].url})."

    # Changes

    async def sees_lenders(self, within_s: float = SEEN_S) -> bool:
        """Whether lenders come that were not there, or were known, within so long: a node that starts knows nobody."""
        until = time.monotonic() + within_s
        while not self.lenders().usable and time.monotonic() < until:  # noqa: ASYNC110 - at a start that fails only
            await asyncio.sleep(LOOK_S)
        return bool(self.lenders().usable)

    async def rest(self, seconds: float) -> None:
        """Wait so long, but never long: a second at least until what lenders offer has changed, and not much beyond.

        To find that there are no lenders costs nothing, and a load that they broke was not broken by its file.
        """
        changed, seconds = self._changed, min(seconds, MOST_REST_S)
        await asyncio.sleep(min(seconds, LEAST_REST_S))
        try:
            async with asyncio.timeout(max(0.0, seconds - LEAST_REST_S)):
                await changed.wait()
        except TimeoutError:
            pass

    @asynccontextmanager
    async def watching(self, on_change: Callable[[], None]) -> AsyncGenerator[None]:
        """While it runs, `on_change` is called when what lenders offer has changed.

        Links to them are measured where models may be loaded over them.
        """
        tasks = [asyncio.create_task(self._watch(on_change), name="what lenders offer")]
        if self.rules.on:
            tasks.append(asyncio.create_task(self._measure(), name="links to lenders"))
        for task in tasks:
            report_crash(task, log, f"{task.get_name()} are looked at no more")
        try:
            yield
        finally:
            await cancel_and_wait(*tasks)

    async def _watch(self, on_change: Callable[[], None]) -> None:
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
                on_change()
            before = key
            await asyncio.sleep(LOOK_S)

    async def _measure(self) -> None:
        while True:
            for lender in self.lenders().usable:
                if time.monotonic() < self._links.get(lender.node_id, (0.0, 0.0))[1]:
                    continue
                speed = None
                try:
                    speed = await self._link.measure(lender.address.url, MEASURE_BYTES)
                except PeerError as error:
                    log.info("the link to %s is not measured: %s", lender.name, error)
                again_s = MEASURED_AGAIN_S if speed is None else MEASURED_FOR_S
                self._links[lender.node_id] = (speed, time.monotonic() + again_s)
            await asyncio.sleep(LEAST_REST_S)


async def _given_back(asked: Sequence[asyncio.Future[HeldMemory]]) -> None:
    """End what is asked for, and whatever leases came of it."""
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for one in asked:
        if not one.cancelled() and one.exception() is None:
            await one.result().aclose()


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
        ask: AskLender,
    ) -> None:
        self._pooling = pooling
        self._file = file
        self.pool: PoolName = pool
        self._room = room
        self._spec = spec
        self._load = load
        self._ask = ask
        self._nodes: tuple[str, ...] = ()  # over which it was loaded last
        self._over_others = False

    @property
    def rules(self) -> PoolRules:
        return self._pooling.rules

    async def rest(self, seconds: float) -> None:
        """See `NodePooling.rest`; all of it where the model was loaded here alone, and broke by itself."""
        await (self._pooling.rest(seconds) if self._over_others else asyncio.sleep(seconds))

    def options(self, host_free_bytes: int) -> tuple[LoadOption, ...]:
        """How it is loaded over the lenders of now, with so much free here: one way, which waits where none is."""
        lenders = self._pooling.lenders()
        try:
            load, plan = self._pooling.planned(self._file, host_free_bytes, lenders)
        except PooledMisfit:
            least = self._file.asked.judged.carried_by(self._file.facts.shape)
            return (LoadOption(least.context_tokens, least.slots, NO_BYTES, waits=True),)
        need, nodes = {self.pool: plan.shares[0].bytes}, plan.nodes if len(plan.nodes) > 1 else ()
        return (LoadOption(load.context_tokens, load.slots, need, nodes),)

    def hint(self, host_free_bytes: int) -> str:
        """See `NodePooling.hint`."""
        return self._pooling.hint(self._file, host_free_bytes)

    async def load(self, option: LoadOption) -> Engine:
        """The engine over whoever lends now. Raises LenderLost where they do not hold it, and EngineFailed."""
        self._over_others = True
        await asyncio.to_thread(self._pooling.learn, self._file.path)
        refused: dict[str, str] = {}
        while True:
            lenders = self._pooling.lenders().without(refused)
            try:
                load, plan = self._pooling.planned(self._file, await self._room(), lenders)
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
            if parts.lost.done():
                pass
            elif (lost := parts.judge(str(error))) is not None:
                raise lost from error
            else:
                raise
        finally:
            if not loading.done():
                await cancel_and_wait(loading)
            elif parts.lost.done() and not loading.cancelled() and loading.exception() is None:
                await loading.result().aclose()
        raise parts.lost.result()
