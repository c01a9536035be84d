"""The composition root: one running node, from its settings to its last goodbye."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from federation.addresses import AnnouncedAddresses
from federation.advertisement import NodeDescription
from federation.client import PeerClient
from federation.errors import FederationError
from federation.hostport import Address, make_address, parse_address
from federation.identity import NodeIdentity, load_identity
from federation.membership import Membership
from federation.peer import AddressRejected, Change, Peer, PeerChanged, PeerJoined, PeerLeft, Why
from federation.static_source import read_list
from federation.trust import Trust
from hardware.probe import probe_hardware
from hardware.snapshot import HardwareSnapshot
from swarm.console import Console
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.load import load_engine
from swarm.errors import SetupError
from swarm.gateway.access import AccessRules
from swarm.gateway.app import make_app
from swarm.gateway.condition import Condition
from swarm.gateway.listener import shared_port
from swarm.model_choice import choose_model
from swarm.node_access import read_access
from swarm.node_discovery import Discovery, chosen_addresses
from swarm.node_files import keeping_hashed, make_files
from swarm.node_listeners import open_listeners
from swarm.node_trust import TrustSteward, trust_words
from swarm.node_upstream import banner_lines, read_upstream, ready_line, take_key
from swarm.node_weights import known_weights
from swarm.routing.dispatcher import Dispatcher
from swarm.routing.serving import peer_replicas, served_models
from swarm.routing.upstream import Upstream, UpstreamPlan
from swarm.settings import Settings
from swarm.version import program_version
from swarm.workers.pool import WorkerPool

log = logging.getLogger(__name__)

DRAIN_S = 30.0  # what running answers get after the first stop signal
KEEPALIVE_S = 15.0  # aiohttp's default, an hour, keeps thousands of idle connections


@dataclass(frozen=True, slots=True)
class Place:
    """Who and where this node is."""

    identity: NodeIdentity
    instance: str
    addresses: AnnouncedAddresses
    port: int
    access: AccessRules
    trust: Trust
    upstream: UpstreamPlan | None = None

    @property
    def announced(self) -> Address:
        return make_address(self.addresses.announce[0], self.port)

    @property
    def all_announced(self) -> tuple[Address, ...]:
        return tuple(make_address(host, self.port) for host in self.addresses.announce)


def hardware_summary(snapshot: HardwareSnapshot) -> dict[str, str | int | None]:
    """What peers are told of this machine."""
    gpu = snapshot.largest_gpu
    return {
        "cpu": snapshot.cpu.model,
        "cores": snapshot.cpu.usable_cores,
        "ram_bytes": snapshot.memory.total_bytes,
        "gpu": None if gpu is None else gpu.name,
        "vram_bytes": None if gpu is None else gpu.memory_total_bytes,
    }


def compute_threads(settings: Settings, snapshot: HardwareSnapshot) -> int:
    """The engine's threads: all usable cores but one, which the event loop needs (llama.cpp's threads spin)."""
    return settings.threads or max(1, (snapshot.cpu.usable_cores or 2) - 1)


def access_words(place: Place) -> str:
    """What the banner says of who may use the API."""
    if place.access.wants_key:
        return "with an API key; peers need none" if place.access.federated else "with an API key"
    if place.announced.is_loopback:
        return "open to this machine"
    return "open: any machine on this network may use the API (close it with --api-key)"


def models_of(peer: Peer) -> str:
    """What the banner says a peer serves."""
    return ", ".join(model.id for model in peer.description.models) or "no model yet"


class Node:
    """A node between `start` and the end of its `async with`."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self._console = console
        self.condition = Condition()
        self._stack = AsyncExitStack()
        self._snapshot = HardwareSnapshot()
        self._upstream_lines: list[str] = []
        self._announced_models: dict[str, str] = {}  # by peer id, as last said; bounded by the peer table

    async def __aenter__(self) -> Node:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the swarm, let running answers finish, stop the engines."""
        self.condition.draining = True
        await self._stack.aclose()

    async def _start(self) -> None:
        settings = self.settings
        self.place, listeners = await asyncio.to_thread(settle, settings)
        for listener in listeners:
            self._stack.callback(listener.close)
        self.pool = await self._stack.enter_async_context(WorkerPool(self.place.identity.node_id, settings.queue))
        client = await self._stack.enter_async_context(
            PeerClient(
                self.place.identity.node_id, self.place.announced if settings.federated else None, self.place.trust
            )
        )
        self.membership = Membership(
            self.describe(),
            client,
            static_peers=[parse_address(peer) for peer in settings.peer],
            data_dir=settings.data_path if settings.federated else None,
        )
        self.dispatcher = Dispatcher(
            pool=self.pool,
            peers=lambda: peer_replicas(self.membership.alive()),
            client=client,
            report_traffic=self.membership.report_traffic,
            node_id=self.place.identity.node_id,
            node=self.place.identity.name,
            default_votes=settings.votes,
            default_strategy=settings.strategy,
            default_stream=settings.vote_stream,
            upstream=await self._enter_upstream(),
            measurements=await asyncio.to_thread(known_weights, settings.data_path),
            rules=settings.routing,
        )
        self._files = make_files(settings, self.pool, self.membership, client, self.describe, self._console.say)
        await self._stack.enter_async_context(self._listening(listeners))
        self._greet()
        await self._stack.enter_async_context(self._steward(client))
        if settings.federated:
            await self._join()
        await self._load_model()

    def _steward(self, client: PeerClient) -> TrustSteward:
        place, settings = self.place, self.settings
        return TrustSteward(
            place.trust,
            self.membership,
            client,
            data_dir=settings.data_path,
            bind_hosts=place.addresses.bind_hosts,
            addresses=lambda: self.place.all_announced,
            federated=settings.federated,
            say=self._console.say,
        )

    async def _enter_upstream(self) -> Upstream | None:
        if self.place.upstream is None:
            return None
        key, say = take_key(os.environ), self._console.say
        self._upstream_lines = banner_lines(self.place.upstream, key is not None)
        return await self._stack.enter_async_context(Upstream(self.place.upstream, key, lambda news: say(f"* {news}")))

    def _greet(self) -> None:
        place = self.place
        name, node_id = place.identity.name, place.identity.node_id
        self._console.say(f"Local Swarm {program_version()} · node {name} ({node_id[:8]})")
        everywhere = place.addresses.is_everywhere and not place.announced.is_loopback
        here = f"  (on this machine also http://127.0.0.1:{place.port}/v1)" if everywhere else ""
        self._console.say(f"  API        http://{place.announced}/v1{here}")
        if self.settings.federated:
            self._console.say(f"  network    {place.addresses.reason}")
            self._console.say(f"  trust      {trust_words(place.trust)}")
        else:
            self._console.say("  federation off: this node answers alone (start with --federation to join others)")
        self._console.say(f"  access     {access_words(place)}")
        for line in self._upstream_lines:
            self._console.say(line)

    @asynccontextmanager
    async def _listening(self, listeners: Sequence[socket.socket]) -> AsyncGenerator[None]:
        trust = self.place.trust
        app = make_app(
            self.dispatcher,
            self.pool,
            self.membership,
            self.describe,
            self.condition,
            access=self.place.access,
            trust=trust,
            files=self._files and self._files.service,
        )
        runner = web.AppRunner(
            app, handler_cancellation=True, keepalive_timeout=KEEPALIVE_S, access_log=None, shutdown_timeout=DRAIN_S
        )
        try:
            async with shared_port(runner, listeners, trust):
                yield
        finally:
            await runner.cleanup()

    async def _join(self) -> None:
        self.membership.subscribe(self._announce_change)
        self.discovery = discovery = await self._stack.enter_async_context(
            Discovery(self.settings, self.membership, self.describe, self._moved, self.place.port)
        )
        self.place.trust.subscribe(lambda _: discovery.announce())
        if discovery.problem:
            self._console.say(f"  mDNS       off: {discovery.problem}")
        await self._stack.enter_async_context(keeping_hashed(self._files))
        # Entered last, so that leaving begins with it: peers hear the goodbye before anything else winds down.
        await self._stack.enter_async_context(self.membership)

    def _moved(self, addresses: AnnouncedAddresses) -> None:
        """This machine got other addresses."""
        if addresses.announce != self.place.addresses.announce:
            self._console.say(f"* this node is now at {', '.join(addresses.announce)} ({addresses.reason})")
        self.place = replace(self.place, addresses=addresses)

    def _announce_change(self, change: Change) -> None:
        match change:
            case PeerJoined(peer, returned):
                self._announced_models[peer.id] = models = models_of(peer)
                back = " is back" if returned else ""
                self._console.say(f"+ peer {peer.label}{back} at {peer.address} ({models})")
            case PeerLeft(peer, reason):
                self._console.say(f"- peer {peer.label}: {reason}")
            case PeerChanged(peer) if self._announced_models.get(peer.id) != models_of(peer):
                self._announced_models[peer.id] = models = models_of(peer)
                self._console.say(f"* peer {peer.label} now serves {models}")
            case AddressRejected(address, _, reason, Why.COPY):
                self._console.say(f"! {address} {reason}")
            case _:
                pass

    async def _load_model(self) -> None:
        settings = self.settings
        self._snapshot = await asyncio.to_thread(probe_hardware)
        upstream = self.dispatcher.upstream
        if upstream is not None and upstream.plan.mode == "only":
            offer = await upstream.first_look()
            self.condition.loading = False
            self._console.say(ready_line(offer))
            return
        nearby = self._files and self._files.nearby
        chosen = await asyncio.to_thread(choose_model, settings, self._snapshot, self._console, nearby)
        threads = compute_threads(settings, self._snapshot)
        spec = EngineSpec(chosen.model_id, chosen.path, chosen.context_tokens, settings.workers, threads)
        self._console.say(f"  model      {chosen.model_id}: {chosen.reason}")

        async def load() -> Engine:
            return await load_engine(settings.engine, spec, settings.isolation)

        workers = await self.pool.serve(load, chosen.params)
        self.condition.loading = False
        names = ", ".join(worker.name for worker in workers.workers)
        context = workers.engine.capabilities.context_tokens
        self._console.say(
            f"  workers    {names} · {context} tokens each · {threads} thread{'s' if threads > 1 else ''}"
        )
        self._console.say(f"ready: {len(workers.workers)} workers; press Ctrl-C to stop")

    def describe(self) -> NodeDescription:
        """What this node says of itself at this moment."""
        models = served_models(self.pool.states())
        trust = self.place.trust
        return NodeDescription(
            id=self.place.identity.node_id,
            name=self.place.identity.name,
            version=program_version(),
            url=self.place.announced.url,
            models=models,
            slots_free=sum(model.slots_free for model in models),
            draining=self.condition.draining,
            hardware=dict(hardware_summary(self._snapshot)),
            instance=self.place.instance,
            mode=trust.mode,
            roster=None if trust.roster is None else trust.roster.digest,
        )


def settle(settings: Settings) -> tuple[Place, tuple[socket.socket, ...]]:
    """Identity, addresses and the listening socket. Blocks. Raises SetupError for what cannot be had."""
    try:
        identity = load_identity(settings.data_path, settings.name)
        trust = Trust.load(identity, settings.data_path)
        addresses = chosen_addresses(settings)
        for peer in settings.peer:
            parse_address(peer)
        if settings.peer_file is not None:
            read_list(settings.peer_file)
    except FederationError as error:
        raise SetupError(str(error)) from error
    access = read_access(settings, identity.name)
    upstream = read_upstream(settings)
    listeners = open_listeners(addresses.bind_hosts, settings.port)
    port = int(listeners[0].getsockname()[1])
    return Place(identity, secrets.token_hex(8), addresses, port, access, trust, upstream), listeners


async def run_node(settings: Settings, console: Console) -> None:
    """Run a node until SIGINT or SIGTERM; a second signal ends it at once. Raises SetupError if it cannot start."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    def watch_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)

    watch_signals()
    starting = asyncio.create_task(_started(settings, console), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        stopping.cancel()
        return
    node = await starting
    watch_signals()  # llama.cpp's server may have installed its own while it loaded; ours must be the last
    try:
        await stopping
        console.say(f"stopping: running answers get {DRAIN_S:.0f} s; press Ctrl-C again to end now")
    finally:
        await node.__aexit__()


async def _started(settings: Settings, console: Console) -> Node:
    node = Node(settings, console)
    await node.__aenter__()
    return node
