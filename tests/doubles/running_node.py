"""A node without a command line: workers, dispatcher, membership and gateway on a real loopback port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web

from federation.advertisement import LendOffer, NodeDescription
from federation.client import PeerClient
from federation.hostport import Address
from federation.invitation import PairingTiming
from federation.membership import Membership
from federation.pairing_server import PairingServer
from federation.trust import Trust
from swarm.consensus.options import Strategy, StreamMode
from swarm.engines.engine import Engine
from swarm.gateway.answers.answer_form import Pacing
from swarm.gateway.answers.model_names import LookAgain, SamplingOf, as_engines_have_it, look_at_nothing
from swarm.gateway.answers.request_images import RequestImages
from swarm.gateway.answers.tool_instructions import ToolInstructions
from swarm.gateway.app import make_app
from swarm.gateway.http.access import AccessRules
from swarm.gateway.http.bodies import BODY_TIMEOUT_S
from swarm.gateway.http.in_progress import MAX_IN_FLIGHT, Condition
from swarm.gateway.http.listener import PortLimits, SharedPort, shared_port
from swarm.gateway.http.page_access import PageAccess
from swarm.gateway.observing.view import LentEntry
from swarm.gateway.page.pulls import ModelShelf
from swarm.gateway.peers.lending import Lender
from swarm.gateway.peers.management import Pull
from swarm.gateway.peers.model_files import FileService
from swarm.logs import LogRing
from swarm.node.leaving import LeavingPace, leave
from swarm.node.listeners import LISTEN_BACKLOG
from swarm.node.trust import TrustService
from swarm.registry.weights_file import Measured, MeasuredCascade, Measurements, NodeMeasurements, Weights
from swarm.routing.dispatcher import Dispatcher
from swarm.routing.loadables import OwnLoadables, look_at, peer_stocks
from swarm.routing.replicas import own_sizes, served_models
from swarm.routing.router import DEFAULT_LIMITS, FailureLimits
from swarm.routing.rules import RoutingRules
from swarm.routing.told_models import ToldKeeper, ToldModels
from swarm.routing.upstream import Upstream, Upstreams
from swarm.routing.utilities import MOST_UTILITY_BYTES, UtilityRoom
from swarm.tools.tool import ToolHost
from swarm.workers.loadable import MemoryRules, ModelSource
from swarm.workers.model_workers import DEFAULT_QUEUE
from swarm.workers.pool import PoolPace, WorkerPool
from tests.doubles.timing import FAST

WAIT_S = 10.0  # far above what any condition here takes; only a defect reaches it
LOOK_S = 0.05  # between two looks at whose list of members differs
SHUTDOWN_S = 0.01  # what is still being answered when a test ends is cut off

Loader = Callable[[], Awaitable[Engine]]


def ready(engine: Engine) -> Loader:
    """A loader that gives `engine`, which is there already."""

    async def load() -> Engine:
        return engine

    return load


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What tests vary. `client` makes the node's peer client from its id; `sizes` are what it knows of other models.

    For these tests a model called "large" is as if in the catalogue.
    """

    votes: int | None = None
    strategy: Strategy = Strategy.AUTO
    vote_stream: StreamMode | None = None
    peers: Sequence[Address] = ()
    params: int | None = 2_000_000
    sizes: Mapping[str, int] = field(default_factory=lambda: {"large": 9_000_000})
    queue: int = DEFAULT_QUEUE
    pacing: Pacing = field(default_factory=Pacing)
    client: Callable[[str], PeerClient] = PeerClient
    access: AccessRules = field(default_factory=AccessRules)
    upstreams: Sequence[Upstream] = ()
    files: FileService | None = None
    measurements: Measurements = field(default_factory=dict[str, Mapping[str, Measured]])
    nodes_measured: NodeMeasurements = field(default_factory=dict[str, Measurements])
    cascades: Mapping[str, MeasuredCascade] = field(default_factory=dict[str, MeasuredCascade])
    trust: Trust | None = None
    federated: bool = True
    host: str = "127.0.0.1"  # to listen on
    pairing: PairingTiming | None = None
    port: PortLimits | None = None
    answers_any: bool = False
    body_timeout_s: float = BODY_TIMEOUT_S
    most_in_flight: int = MAX_IN_FLIGHT
    rules: RoutingRules = field(default_factory=RoutingRules)
    failure_limits: FailureLimits = DEFAULT_LIMITS
    most_utility_bytes: int = MOST_UTILITY_BYTES
    source: ModelSource | None = None  # the models that it could load, by the rules of `memory`
    memory: MemoryRules | None = None
    pool_pace: PoolPace | None = None
    loadables: OwnLoadables | None = None  # what it tells in place of what its pool could load
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    look_again: LookAgain = look_at_nothing
    sampling: SamplingOf = as_engines_have_it
    pull: Pull | None = None
    shelf: ModelShelf | None = None
    images: RequestImages | None = None
    instructions: ToolInstructions | None = None
    records: bool = False
    usage_file: Path | None = None
    log_ring: LogRing | None = None
    tool_host: ToolHost | None = None
    contents: Mapping[str, str] = field(default_factory=dict[str, str])  # its models' fingerprints, by their ids
    lends: LendOffer | None = None
    lent: Callable[[], Sequence[LentEntry]] = tuple[LentEntry, ...]
    lender: Lender | None = None
    unused_lenders: Mapping[str, str] = field(default_factory=dict[str, str])
    listener: socket.socket | None = None  # on which it listens; None: on a port of its own at `host`
    watch: Callable[[web.Request, web.StreamResponse], None] | None = None  # told of each answer as it begins


class RunningNode:
    """Use as `async with`; `stop` ends it at once, and its port with it."""

    def __init__(self, name: str, *loaders: Loader, options: NodeOptions | None = None) -> None:
        self.name = name
        self._loaders = loaders
        self._options = options or NodeOptions()
        self.trust = self._options.trust
        self._told = ToldKeeper()
        self.said: list[str] = []  # what its console shows of trust
        self.id = f"id-{name}" if self.trust is None else self.trust.node_id
        self._stack = AsyncExitStack()
        self.page_access = PageAccess()
        self._pairing = PairingServer(exchange_s=(self._options.pairing or PairingTiming()).exchange_s)
        self.condition = Condition()
        self.address = Address("127.0.0.1", 0)

    @property
    def url(self) -> str:
        return self.address.url

    async def __aenter__(self) -> RunningNode:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def post_paths(self) -> list[str]:
        """The path of every POST endpoint of the running application."""
        return [
            route.resource.canonical for route in self.app.router.routes() if route.method == "POST" and route.resource
        ]

    async def stop(self) -> None:
        await self._stack.aclose()

    async def leave(self, pace: LeavingPace | None = None) -> None:
        """As a stop signal makes a node leave; `stop` it afterwards."""
        others_serve = lambda: bool(self.dispatcher.replicas())  # noqa: E731
        goodbye = self.membership.say_goodbye
        await leave(
            self.condition,
            self._ports,
            goodbye,
            others_serve,
            has_successor=False,
            say=self.said.append,
            pace=pace,
        )

    async def _start(self, stack: AsyncExitStack) -> None:
        options = self._options
        self.pool = await stack.enter_async_context(
            WorkerPool(self.id, options.queue, options.source, options.memory, pace=options.pool_pace)
        )
        for load in self._loaders:
            await self.pool.serve(load, options.params)
        self.loadables = options.loadables or OwnLoadables(look_at(self.pool))
        self.pool.subscribe(lambda _: self.loadables.changed())
        if options.contents:
            self._know_contents(options.contents)
        self.client = client = await stack.enter_async_context(
            options.client(self.id) if self.trust is None else PeerClient(self.id, trust=self.trust)
        )
        for upstream in options.upstreams:
            await stack.enter_async_context(upstream)
        self.membership = Membership(
            self.describe(),
            client,
            static_peers=options.peers,
            timing=FAST,
            is_open=lambda: self.trust is None or self.trust.mode == "open",
        )
        self.dispatcher = Dispatcher(
            pool=self.pool,
            peers=self._peers,
            client=client,
            report_traffic=lambda peer, ok: self.membership.report_traffic(peer, ok),
            node_id=self.id,
            node=self.name,
            default_votes=options.votes,
            default_strategy=options.strategy,
            weights=Weights(options.measurements, options.nodes_measured, options.cascades),
            upstreams=Upstreams(options.upstreams),
            default_stream=options.vote_stream,
            leaving=lambda: self.condition.draining,
            rules=options.rules,
            failure_limits=options.failure_limits,
            utilities=UtilityRoom(options.most_utility_bytes),
            loadables=self.loadables,
            peer_stocks=lambda: peer_stocks(self.membership.alive(), members=self.trust is not None),
        )
        self.condition.loading = False
        await self._listen(stack)
        if self.trust is not None:
            self.trust_service = await stack.enter_async_context(self._make_trust_service(self.trust))
        if options.peers or self.trust is not None:
            await stack.enter_async_context(self.membership)
            await self.until(lambda: len(self.membership.alive()) == len(options.peers))

    def _know_contents(self, contents: Mapping[str, str]) -> None:
        states = self.pool.states
        self.pool.states = lambda: tuple(  # type: ignore[method-assign]
            replace(state, fingerprint=contents.get(state.model_id)) for state in states()
        )

    def _peers(self) -> tuple[ToldModels, ...]:
        known = {**self._options.sizes, **own_sizes(self.pool.states())}
        return self._told.of(self.membership.alive(), known, members=self.trust is not None)

    def _make_trust_service(self, trust: Trust) -> TrustService:
        return TrustService(
            trust,
            self.membership,
            self.client,
            data_dir=trust.identity.pem.parent,
            pairing=self._pairing,
            addresses=lambda: (self.address,),
            federated=self._options.federated,
            page_access=self.page_access,
            say=self.said.append,
            members_only=self._options.access.members_only,
            look_s=LOOK_S,
            timing=self._options.pairing,
        )

    async def _listen(self, stack: AsyncExitStack) -> None:
        self.app = make_app(
            self.dispatcher,
            self.pool,
            self.membership,
            self.describe,
            self.condition,
            self._options.pacing,
            self._options.access,
            trust=self.trust,
            files=self._options.files,
            body_timeout_s=self._options.body_timeout_s,
            most_in_flight=self._options.most_in_flight,
            answers_any=self._options.answers_any,
            list_loadable=self.loadables.body,
            aliases=self._options.aliases,
            look_again=self._look_again,
            sampling=self._options.sampling,
            pull=self._options.pull,
            images=self._options.images,
            instructions=self._options.instructions,
            records=self._options.records,
            usage_file=self._options.usage_file,
            log_ring=self._options.log_ring,
            tool_host=self._options.tool_host,
            page_access=self.page_access,
            shelf=self._options.shelf,
            trust_commands=lambda: getattr(self, "trust_service", None),
            client=self.client,
            lent=self._options.lent,
            lender=lambda: self._options.lender,
            unused_lenders=lambda: self._options.unused_lenders,
        )
        if (watch := self._options.watch) is not None:
            self.app.on_response_prepare.append(_telling(watch))
        runner = web.AppRunner(self.app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
        listener = self._options.listener or socket.create_server((self._options.host, 0), backlog=LISTEN_BACKLOG)
        self.address = Address("127.0.0.1", int(listener.getsockname()[1]))
        if self.trust is not None:
            self._ports = await stack.enter_async_context(
                shared_port(runner, (listener,), self.trust, limits=self._options.port, pairing=self._pairing)
            )
            return
        await runner.setup()
        assert runner.server is not None
        port = SharedPort(runner.server, listener, lambda: None, limits=self._options.port)
        stack.push_async_callback(port.cut)
        stack.push_async_callback(runner.cleanup)
        self._ports = (await stack.enter_async_context(port),)

    async def _look_again(self) -> None:
        await self._options.look_again()
        self.loadables.changed()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds, looking again after each change among the peers."""
        changed = asyncio.Event()
        unsubscribe = self.membership.subscribe(lambda _: changed.set())
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    changed.clear()
                    await changed.wait()
        finally:
            unsubscribe()

    def describe(self) -> NodeDescription:
        models = served_models(self.pool.states())
        return NodeDescription(
            id=self.id,
            name=self.name,
            version="0.1.0",
            url=self.address.url,
            models=models,
            slots_free=sum(model.slots_free for model in models),
            draining=self.condition.draining,
            instance=f"run-of-{self.name.encode().hex() if not self.name.isascii() else self.name}",
            mode="open" if self.trust is None else self.trust.mode,
            roster=None if self.trust is None or self.trust.roster is None else self.trust.roster.digest,
            loadable=self.loadables.digest,
            lends=self._options.lends,
        )


def _telling(
    watch: Callable[[web.Request, web.StreamResponse], None],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        watch(request, response)

    return tell


@asynccontextmanager
async def run_nodes(*nodes: RunningNode) -> AsyncIterator[None]:
    """All of them, started in order."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node)
        yield
