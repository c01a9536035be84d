"""The state of each node of the swarm, as its page shows it: this node's own, and what peers tell of theirs.

Peers are asked for it (`GET /federation/v1/state`) only while somebody watches the board's part `node`, so a swarm that
nobody looks at costs nothing. What one tells is bounded in size, time and numbers, checked in shape, and shown as its
own words: nothing is decided by it. Of a peer that does not tell (an earlier version, one that has gone, one that tells
what cannot be shown) there is what is known anyway. What only wavers is told as it was: an idle swarm has no events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

from aiohttp import web
from pydantic import Field, ValidationError

from federation import wire
from federation.errors import FederationError, PeerProtocolError, PeerTimedOut
from federation.printable_text import clean_line
from federation.tasks import cancel_and_wait
from swarm.gateway.observing.board import EventBoard
from swarm.gateway.observing.view import FederationView, LendingEntry, OwnModel, ViewSources, json_object, lending_entry

if TYPE_CHECKING:
    from federation.client import PeerClient
    from federation.peer import Peer
    from swarm.workers.model_workers import ModelState

LOOK_S: Final = 1.0  # between two looks at this node and questions to each peer; what it tells is shown when it comes
FRESH_S: Final = 5.0  # what was told within it has the age 0; then ages grow by steps, or each second were a change
STEADY_SHARE: Final = 0.25  # of a round-trip time that wavers is no news, nor is a millisecond
STEADY_MS: Final = 1.0
STEADY_POOL_SHARE: Final = 0.01  # of a pool's memory that is taken or given back is no news, nor is this
STEADY_BYTES: Final = 64 * 2**20
ANSWER_S: Final = 3.0  # a peer that takes longer is shown as it was
MAX_STATE_BYTES: Final = 256 * 1024  # 200 models are 90 KB
MAX_MODELS: Final = 500
MAX_PEERS: Final = 256
MAX_POOLS: Final = 32
MAX_NAME_CHARS: Final = 200
MAX_NUMBER: Final = 2**53  # beyond it a page's numbers are not exact; a longer one could not even be written

log = logging.getLogger(__name__)

Text = Annotated[str, Field(max_length=1000)]
WholeNumber = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]


class NodeHardware(wire.WireModel):
    """The machine, as it describes itself; None for what is unknown."""

    cpu: Text | None = None
    cores: WholeNumber | None = None
    ram_bytes: WholeNumber | None = None
    gpu: Text | None = None
    vram_bytes: WholeNumber | None = None


class PoolMemory(wire.WireModel):
    """One pool of memory (see `hardware/pools.py`): what models have in it for weights, and beside these.

    `lent_bytes` of it hold parts of other members' models.
    """

    pool: Annotated[str, Field(max_length=40)]
    total_bytes: WholeNumber | None = None
    free_bytes: WholeNumber | None = None
    weights_bytes: WholeNumber = 0
    kv_bytes: WholeNumber = 0
    lent_bytes: WholeNumber = 0


class SeenPeer(wire.WireModel):
    """A peer as that node sees it."""

    id: Annotated[str, Field(max_length=MAX_NAME_CHARS)]
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)]
    state: Annotated[str, Field(max_length=20)]
    rtt_ms: NotNegative | None = None


class NodeReport(wire.WireModel):
    """What a node tells of itself at `/federation/v1/state`."""

    status: Annotated[str, Field(max_length=1000)]
    hardware: NodeHardware
    memory: Annotated[tuple[PoolMemory, ...], Field(max_length=MAX_POOLS)] = ()
    models: Annotated[tuple[OwnModel, ...], Field(max_length=MAX_MODELS)] = ()
    loadable: WholeNumber = 0
    tokens_per_s: NotNegative = 0.0
    running: WholeNumber = 0
    waiting: WholeNumber = 0
    peers: Annotated[tuple[SeenPeer, ...], Field(max_length=MAX_PEERS)] = ()
    lending: LendingEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node on the board. `source`: own, peer (as it told `age_s` ago), or unknown: it tells nothing.

    `state` is how this node sees it, `since` when (UTC) and `why` it became so, where that is known.
    """

    id: str
    name: str
    url: str
    version: str
    mode: str
    status: str
    source: Literal["own", "peer", "unknown"]
    age_s: float
    state: str
    since: str | None
    why: str | None
    hardware: NodeHardware
    memory: tuple[PoolMemory, ...]
    models: tuple[OwnModel, ...]
    loadable: int
    tokens_per_s: float
    running: int
    waiting: int
    peers: tuple[SeenPeer, ...]
    lending: LendingEntry | None = None

    @classmethod
    def of(
        cls, report: NodeReport, *, node_id: str, name: str, url: str, version: str, mode: str,
        source: Literal["own", "peer", "unknown"], age_s: float = 0.0, state: str = "alive", since: str | None = None,
        why: str | None = None,
    ) -> NodeState:  # fmt: skip
        """What a node tells of itself, and what this one knows of it."""
        return cls(
            id=node_id, name=name, url=url, version=version, mode=mode, status=report.status, source=source,
            age_s=age_s, state=state, since=since, why=why, hardware=report.hardware, memory=report.memory,
            models=report.models, loadable=report.loadable, tokens_per_s=report.tokens_per_s, running=report.running,
            waiting=report.waiting, peers=report.peers, lending=report.lending,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PoolNow:
    """A pool of this machine's memory now; None for what is unknown."""

    pool: str
    total_bytes: int | None
    free_bytes: int | None


ReadMemory = Callable[[], Awaitable[Sequence[PoolNow]]]


async def no_memory_known() -> Sequence[PoolNow]:
    """A node that does not look at its memory."""
    return ()


# Pure: from what is known to what is told


def memory_of(
    pools: Iterable[PoolNow], models: Iterable[ModelState], lending: LendingEntry | None = None
) -> tuple[PoolMemory, ...]:
    """Each pool with what the models have in it, and what is lent of it.

    A model's weights are as large as its file; the rest is its cache. What it has on other machines is none of this
    one's.
    """
    weights: dict[str, float] = {}
    rest: dict[str, float] = {}
    for model in models:
        taken_bytes = sum(model.taken.values())
        share = 0.0 if not taken_bytes else min(1.0, _weights_here_bytes(model) / taken_bytes)
        for pool, size_bytes in model.taken.items():
            weights[pool] = weights.get(pool, 0) + size_bytes * share
            rest[pool] = rest.get(pool, 0) + size_bytes * (1 - share)
    return tuple(
        PoolMemory(
            pool=now.pool,
            total_bytes=now.total_bytes,
            free_bytes=now.free_bytes,
            weights_bytes=round(weights.get(now.pool, 0)),
            kv_bytes=round(rest.get(now.pool, 0)),
            lent_bytes=sum(lent.bytes for lent in (lending.lent if lending else ()) if lent.pool == now.pool),
        )
        for now in pools
    )


def _weights_here_bytes(model: ModelState) -> float:
    """About as large as the file; of one that lies on other machines, too, by how many of its layers are here."""
    size_bytes, computation = model.size_bytes or 0, model.computation
    if not model.nodes or computation is None or computation.gpu_layers is None or not computation.layers:
        return size_bytes
    return size_bytes * max(0, computation.layers - computation.gpu_layers) / computation.layers


def hardware_of(described: Mapping[str, object]) -> NodeHardware:
    """The machine as a node describes it; nothing of it where that is no description."""
    try:
        return NodeHardware.model_validate(dict(described))
    except ValidationError:
        return NodeHardware()


def report_of(
    view: FederationView,
    models: Sequence[ModelState],
    hardware: NodeHardware,
    pools: Iterable[PoolNow],
    loadable: int,
) -> NodeReport:
    """What this node tells of itself. Models that are ready come first where there are more than are told."""
    told = sorted(view.own_models, key=lambda model: model.state != "ready")[:MAX_MODELS]
    return NodeReport(
        status=view.status[:1000],
        hardware=hardware,
        memory=memory_of(pools, models, view.lending)[:MAX_POOLS],
        models=tuple(told),
        loadable=loadable,
        tokens_per_s=round(sum(model.tokens_now_per_s for model in models), 1),
        running=sum(model.slots - model.slots_free for model in view.own_models if model.state == "ready"),
        waiting=sum(model.waiting for model in view.own_models),
        peers=tuple(
            SeenPeer(id=peer.id, name=peer.name[:MAX_NAME_CHARS], state=peer.state, rtt_ms=peer.rtt_ms)
            for peer in view.peers[:MAX_PEERS]
        ),
        lending=view.lending,
    )


def steadied(report: NodeReport, before: NodeReport | None) -> NodeReport:
    """With the round-trip times and the free memory of `before` where they have only wavered since."""
    if before is None:
        return report
    rtts = {peer.id: peer.rtt_ms for peer in before.peers}
    free = {pool.pool: pool.free_bytes for pool in before.memory}

    def still_ms(peer: SeenPeer) -> float | None:
        was, now = rtts.get(peer.id), peer.rtt_ms
        if was is None or now is None:
            return now
        return was if abs(now - was) <= max(STEADY_MS, STEADY_SHARE * was) else now

    def still_bytes(pool: PoolMemory) -> int | None:
        was, now = free.get(pool.pool), pool.free_bytes
        if was is None or now is None:
            return now
        return was if abs(now - was) <= max(STEADY_BYTES, STEADY_POOL_SHARE * (pool.total_bytes or 0)) else now

    return report.model_copy(
        update={
            "peers": tuple(peer.model_copy(update={"rtt_ms": still_ms(peer)}) for peer in report.peers),
            "memory": tuple(pool.model_copy(update={"free_bytes": still_bytes(pool)}) for pool in report.memory),
            "lending": None if report.lending is None else report.lending.steadied(before.lending),
        }
    )


def parse_report(raw: bytes) -> NodeReport:
    """What a peer told, each text of it one clean line. Raises PeerProtocolError where that cannot be shown."""
    try:
        told = NodeReport.model_validate_json(raw)
        return NodeReport.model_validate(_cleaned(told.model_dump()))
    except ValidationError as error:
        raise PeerProtocolError(f"what it tells of its state cannot be read: {wire.first_problem(error)}") from None


def _cleaned(value: object) -> object:
    """JSON with every text in it as one line of what is simply shown; keys are those of the form."""
    match value:
        case str():
            return value if value.isascii() and value.isprintable() else clean_line(value)
        case list() | tuple():
            return [_cleaned(one) for one in cast("Sequence[object]", value)]
        case dict():
            return {key: _cleaned(one) for key, one in cast("dict[str, object]", value).items()}
        case int() | float() if not abs(value) <= MAX_NUMBER:
            raise PeerProtocolError("what it tells of its state cannot be read: a number in it is beyond all measure")
        case _:
            return value


def shown_age_s(age_s: float) -> float:
    """How old something is in steps of FRESH_S, so that an age by itself changes the board rarely."""
    return age_s // FRESH_S * FRESH_S


def own_state(view: FederationView, report: NodeReport) -> NodeState:
    """This node on the board."""
    node = view.node
    return NodeState.of(
        report, node_id=node.id, name=node.name, url=node.url, version=node.version, mode=node.mode, source="own",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What a peer told: its bytes, what they say, and when they came (monotonic)."""

    raw: bytes
    report: NodeReport
    at: float


def peer_state(peer: Peer, view: FederationView, told: Told | None, now: float) -> NodeState:
    """A peer on the board: as it `told`; without that, or once it is dead, as it is known."""
    state = peer.state.value
    last = next((change for change in reversed(view.changes) if (change.id, change.state) == (peer.id, state)), None)
    described = peer.description
    if told is not None and state != "dead":
        report, age_s = told.report, shown_age_s(now - told.at)
    else:
        models = tuple(
            OwnModel(
                id=clean_line(model.id), engine=clean_line(model.engine or ""), slots=model.slots,
                slots_free=model.slots_free, waiting=0, problem=None, nodes=tuple(map(clean_line, model.nodes)),
            )
            for model in described.models
        )  # fmt: skip
        report = NodeReport(
            status="ok",
            hardware=hardware_of(described.hardware),
            models=models[:MAX_MODELS],
            lending=lending_entry(described.lends),
        )
        age_s = shown_age_s(peer.silent_s(now))
    return NodeState.of(
        report, node_id=peer.id, name=clean_line(peer.label), url=peer.url, version=clean_line(described.version),
        mode=view.node.mode, source="peer" if told is not None and state != "dead" else "unknown", age_s=age_s,
        state=state, since=None if last is None else last.at, why=None if last is None else clean_line(last.reason),
    )  # fmt: skip


def absent_states(view: FederationView) -> list[NodeState]:
    """The members that this node has not seen."""
    nothing = NodeReport(status="ok", hardware=NodeHardware())
    return [
        NodeState.of(
            nothing, node_id=member.id, name=clean_line(member.name), url="", version="", mode="paired",
            source="unknown", state="absent", why="not seen since this node started, or for over ten minutes",
        )
        for member in view.trust.absent
    ]  # fmt: skip


# Effects


@dataclass(slots=True)
class NodeStates:
    """Keeps the board's part `node` while somebody watches it. Close it before the client that it asks with."""

    board: EventBoard
    sources: ViewSources
    client: PeerClient | None
    read_memory: ReadMemory = no_memory_known
    look_s: float = LOOK_S
    answer_s: float = ANSWER_S
    clock: Callable[[], float] = time.monotonic
    _told: dict[str, Told] = field(default_factory=dict[str, Told])
    _named: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])  # peers, and what the log says of them
    _own: NodeReport | None = None  # as it was told last
    _view: FederationView | None = None  # of the last look
    _asking: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, "asyncio.Task[None]"])
    _looking: asyncio.Task[None] | None = None

    def show(self) -> None:
        """From now on the board has the part."""
        self.board.on_watch("node", self._watched)

    async def report(self) -> dict[str, object]:
        """What this node tells of itself, as JSON."""
        return (await self._own_report(self.sources.look().federation)).model_dump(mode="json")

    async def aclose(self) -> None:
        """Ask nobody any more."""
        tasks = [*self._asking.values(), *filter(None, [self._looking])]
        self._asking, self._looking = {}, None
        await asyncio.gather(*map(cancel_and_wait, tasks))

    def _watched(self, begins: bool) -> None:
        if begins and self._looking is None:
            self._told = {}  # what was told to who looked before is old: nobody kept it up to date since
            self.board.only("node", {})
            self._looking = asyncio.create_task(self._look_again_and_again(), name="looks at the nodes of the swarm")
        elif not begins and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _own_report(self, view: FederationView) -> NodeReport:
        pool = self.sources.pool
        hardware = hardware_of(self.sources.describe().hardware)
        report = report_of(view, pool.states(), hardware, await self.read_memory(), len(pool.loadables()))
        self._own = steadied(report, self._own)
        return self._own

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("the states of the nodes cannot be shown; they are looked at again")
            await asyncio.sleep(self.look_s)

    async def _look(self) -> None:
        view, now = self.sources.look().federation, self.clock()
        self._view = view
        peers = self.sources.membership.peers()
        states = [own_state(view, await self._own_report(view))]
        states += [peer_state(peer, view, self._told.get(peer.id), now) for peer in peers]
        states += absent_states(view)
        self.board.only("node", {state.id: json_object(state) for state in states})
        known = {peer.id for peer in peers}
        self._told = {node_id: told for node_id, told in self._told.items() if node_id in known}
        self._named = {(node_id, kind) for node_id, kind in self._named if node_id in known}
        for peer in peers:
            if peer.id not in self._asking and peer.state.value != "dead" and self.client is not None:
                self._asking[peer.id] = asyncio.create_task(self._ask(peer), name=f"asks {peer.label} for its state")

    def _show(self, peer: Peer) -> None:
        """Put what a peer has just told, if somebody looks still and it is known still."""
        view, known = self._view, any(one.id == peer.id for one in self.sources.membership.peers())
        if view is not None and known and self.board.watched("node"):
            self.board.put("node", peer.id, json_object(peer_state(peer, view, self._told.get(peer.id), self.clock())))

    async def _ask(self, peer: Peer) -> None:
        assert self.client is not None
        try:
            raw = await self.client.get_json(peer.address, wire.STATE_PATH, self.answer_s, limit_bytes=MAX_STATE_BYTES)
            before = self._told.get(peer.id)
            same = before is not None and before.raw == raw  # as it is of whoever is idle
            report = before.report if before is not None and same else parse_report(raw)
            self._told[peer.id] = Told(raw, report, self.clock())
            self._show(peer)
        except PeerProtocolError as error:
            self._told.pop(peer.id, None)
            self._name(peer, error)
        except PeerTimedOut as error:
            self._name(peer, error)
        except FederationError as error:
            log.debug("%s does not tell its state: %s", peer.label, error)  # an earlier version, or it goes
        finally:
            self._asking.pop(peer.id, None)

    def _name(self, peer: Peer, error: PeerProtocolError | PeerTimedOut) -> None:
        """Say once of a peer that it does not tell what was agreed."""
        level = logging.DEBUG if (peer.id, error.kind) in self._named else logging.WARNING
        self._named.add((peer.id, error.kind))
        log.log(level, "%s shows no state on the page (%s); what this node sees of it is shown", peer.label, error)


NODE_STATES = web.AppKey("node_states", NodeStates)
