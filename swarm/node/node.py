"""The composition root: one running node, from its settings to its last goodbye."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from aiohttp import web

from federation.addresses import AnnouncedAddresses
from federation.advertisement import NodeDescription
from federation.client import PeerClient
from federation.hostport import parse_address
from federation.membership import Membership
from federation.pairing_server import PairingServer
from federation.wire import IDLE_S
from hardware.memory import probe_memory
from hardware.memory_speed import weights_bytes_per_s
from hardware.pools import PoolsNow
from hardware.probe import probe_hardware
from hardware.snapshot import HardwareSnapshot
from swarm import program_version
from swarm.engines.engine import EngineSpec
from swarm.engines.free_memory import give_back_large_blocks
from swarm.engines.llama_cpp.saved_prompts import stored_bytes
from swarm.engines.registry import load_engine
from swarm.errors import LenderLost, SetupError, SwarmError, Unavailable
from swarm.gateway.answers.model_names import GIVEN_NAMES_FILE
from swarm.gateway.answers.request_images import RequestImages
from swarm.gateway.answers.tool_instructions import InstructionLength, ToolInstructions
from swarm.gateway.app import make_app
from swarm.gateway.http.in_progress import Condition
from swarm.gateway.http.listener import SharedPort, shared_port
from swarm.gateway.http.page_access import PageAccess
from swarm.gateway.observing.changes import CHANGES
from swarm.gateway.observing.endpoints import VIEW
from swarm.gateway.observing.findings import Trouble, disk_trouble, gpu_trouble, memory_trouble
from swarm.gateway.observing.node_states import PoolNow
from swarm.gateway.observing.usage_file import USAGE_FILE
from swarm.logs import kept_lines
from swarm.node.banner import ModelNews, PeerNews, banner, isolation_words, others_words, prompts_words, tools_words
from swarm.node.console import Console
from swarm.node.discovery import Discovery
from swarm.node.engines import NodeEngines
from swarm.node.files import bring, keeping_hashed, make_files
from swarm.node.folder import hold_folder
from swarm.node.leaving import CUT_S, leave
from swarm.node.lending import NodeLending, lending_words
from swarm.node.live import showing
from swarm.node.model_choice import ChosenModel, choose_models, context_words, model_store
from swarm.node.models import NodeModels, compute_threads
from swarm.node.pooling import WITH_RPC, MemberLink, NodePooling, PoolRules, pooling_build
from swarm.node.settings import Settings
from swarm.node.setup import settle
from swarm.node.shelf import NodeShelf
from swarm.node.tools import opened_servers, opened_tools, server_words, tool_host_words
from swarm.node.trust import TrustService
from swarm.node.upstream import banner_lines, ready_line, take_secrets
from swarm.registry.file_hashes import stoppable
from swarm.registry.stored import ModelStore
from swarm.registry.weights_file import NO_WEIGHTS, WEIGHTS_FILE, Weights, read_weights
from swarm.routing.dispatcher import Dispatcher
from swarm.routing.loadables import OwnLoadables, Stock, look_at, peer_stocks
from swarm.routing.replicas import own_sizes, served_models
from swarm.routing.told_models import ToldKeeper, ToldModels
from swarm.routing.upstream import Upstream, Upstreams
from swarm.tools.joined_hosts import JoinedHosts
from swarm.tools.local_host import LocalToolHost
from swarm.tools.mcp_host import McpToolHost
from swarm.tools.tool import ToolHost
from swarm.workers.model_workers import ModelWorkers
from swarm.workers.pool import NoRoomFor, PoolPace, WorkerPool

FLUSH_S = 5.0  # for readers who have not taken the end of their answer yet

log = logging.getLogger(__name__)


def known_weights(data_path: Path) -> Weights:
    """How good models and nodes were found to be; empty, with a warning, for a damaged file. Blocks on the disk."""
    try:
        return read_weights(data_path / WEIGHTS_FILE)
    except SetupError as error:
        log.warning("all voters weigh alike: %s", error)
        return NO_WEIGHTS


def hardware_summary(snapshot: HardwareSnapshot) -> dict[str, str | int | None]:
    """What this node says of its machine to peers, as JSON: sizes in bytes, None for what is unknown."""
    gpu = snapshot.largest_gpu
    return {
        "cpu": snapshot.cpu.model,
        "cores": snapshot.cpu.usable_cores,
        "ram_bytes": snapshot.memory.total_bytes,
        "gpu": None if gpu is None else gpu.name,
        "vram_bytes": None if gpu is None else gpu.memory_total_bytes,
    }


class Node:
    """A node between `start` and the end of its `async with`."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self._console = console
        self.condition = Condition()
        self._stack = AsyncExitStack()
        self._snapshot = HardwareSnapshot()
        self._pools_now: PoolsNow | None = None
        self._gpu_used = True  # until that is known
        self._ports: tuple[SharedPort, ...] = ()
        self._pairing = PairingServer()
        self._page_access = PageAccess()
        self._trust: TrustService | None = None
        self.discovery: Discovery | None = None
        self.models: NodeModels | None = None
        self._default_model: str | None = None
        self._told_of_others = False
        self._told = ToldKeeper()
        self._upstream_lines: list[str] = []
        self._instructions: ToolInstructions | None = None
        self._tool_host: ToolHost | None = None
        self._lending: NodeLending | None = None
        self._pooling: NodePooling | None = None

    async def __aenter__(self) -> Node:
        give_back_large_blocks()
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the swarm, let running answers finish, stop the engines."""
        try:
            if self._ports:
                has_successor, say = self.setup.has_successor, self._console.say
                await leave(self.condition, self._ports, self._say_goodbye, self._others_serve, has_successor, say)
        finally:
            await self._stack.aclose()

    async def _say_goodbye(self) -> None:
        """To everybody who may ask this node something, while it goes on passing clients' requests to them."""
        if self.discovery is not None:
            await asyncio.gather(self.discovery.close(), self.membership.say_goodbye())

    def _peers(self) -> tuple[ToldModels, ...]:
        members = self.setup.trust.mode == "paired"
        return self._told.of(self.membership.alive(), own_sizes(self.pool.states()), members)

    def _peer_stocks(self) -> tuple[Stock, ...]:
        return peer_stocks(self.membership.alive(), self.setup.trust.mode == "paired")

    def _others_serve(self) -> bool:
        return bool(self.dispatcher.replicas())

    async def _start(self) -> None:
        settings = self.settings
        folder = await asyncio.to_thread(hold_folder, settings.data_path, settings.name)
        self._stack.callback(folder.close)  # last of all: until then what is written there is this node's
        self.setup, listeners = await asyncio.to_thread(settle, settings)
        for listener in (*listeners, *self.setup.also.listeners):
            self._stack.callback(listener.close)
        pace = PoolPace.for_peers(settings.peers.loads_a_minute)
        pool = WorkerPool(self.setup.identity.node_id, settings.queue, pace=pace)
        self.pool = await self._stack.enter_async_context(pool)
        self._loadables = OwnLoadables(look_at(self.pool))
        self.pool.subscribe(lambda _: self._loadables.changed())
        client = self._client = await self._stack.enter_async_context(
            PeerClient(
                self.setup.identity.node_id, self.setup.announced if settings.federated else None, self.setup.trust
            )
        )
        self.membership = Membership(
            self.describe(),
            client,
            static_peers=[parse_address(peer) for peer in settings.peer],
            data_dir=settings.data_path if settings.federated else None,
            is_open=lambda: self.setup.trust.mode == "open",
        )
        self.dispatcher = Dispatcher(
            pool=self.pool,
            peers=self._peers,
            client=client,
            report_traffic=self.membership.report_traffic,
            node_id=self.setup.identity.node_id,
            node=self.setup.identity.name,
            default_votes=settings.votes,
            default_strategy=settings.strategy,
            default_stream=settings.vote_stream,
            upstreams=await self._enter_upstreams(),
            weights=await asyncio.to_thread(known_weights, settings.data_path),
            leaving=lambda: self.condition.draining,
            rules=settings.routing,
            loadables=self._loadables,
            peer_stocks=self._peer_stocks,
            default_model=lambda: self._default_model,
        )
        if (path := settings.tool_instructions) is not None:
            self._instructions = await asyncio.to_thread(ToolInstructions, path, self._count_tokens, self._console.say)
        self._files = make_files(settings, self.pool, self.membership, client, self.describe, self._console.say)
        local, servers = await self._enter_tools()
        self._lending = await self._stack.enter_async_context(self._opened_lending())
        await self._stack.enter_async_context(self._listening(listeners, client))
        lines = banner(self.setup, settings.federated, self._upstream_lines, settings.answer_any_model, settings.record)
        for line in lines:
            self._console.say(line)
        if local is not None:
            self._console.say(f"  tool host  {tool_host_words(local, self.setup.access)}")
        if servers:
            self._console.say(f"  MCP tools  {server_words(servers, self.setup.access)}")
        self._trust = await self._stack.enter_async_context(self._trust_service(client))
        if settings.federated:
            await self._join()
        news = await self._stack.enter_async_context(ModelNews(self._console, self.pool.states))
        self.pool.subscribe(news.show)
        await self._load_models()
        if self._instructions is not None:
            length = await self._instructions.check()
            self._console.say(f"  tools      a conversation with tools is given {self._instructions.path}, {length}")
        news.aloud = True
        await self._stack.enter_async_context(showing(self._console, self._app[VIEW], self._app[CHANGES]))

    async def _enter_tools(self) -> tuple[LocalToolHost | None, tuple[McpToolHost, ...]]:
        """The tools of this machine and the MCP servers of others that clients may use here, if any."""
        plan, local = self.setup.tools, None
        if plan is not None and plan.names:
            local = await self._stack.enter_async_context(opened_tools(plan))
        found = None if local is None else local.sandbox
        servers = await self._stack.enter_async_context(
            opened_servers(self.settings, plan, found, lambda news: self._console.say(f"* {news}"))
        )
        self._tool_host = local
        if servers:
            self._tool_host = JoinedHosts([*([] if local is None else [local]), *servers])
        return local, servers

    @asynccontextmanager
    async def _opened_lending(self) -> AsyncGenerator[NodeLending]:
        """What lends this node's memory, once somebody says so: `--lend`, or `swarm lend on`."""
        trust = self.setup.trust

        def name_of(member: str) -> str:
            return next((peer.label for peer in self.membership.peers() if peer.id == member), member[:12])

        lending = NodeLending(self.settings, lambda: trust.mode == "paired", name_of, self._console.say)
        self.pool.held_beside = lambda: lending.holdings() if lending.has_lent else ()
        try:
            async with lending.stopping_with(self.condition):
                yield lending
        finally:
            self.pool.held_beside = tuple

    def _trust_service(self, client: PeerClient) -> TrustService:
        setup, settings = self.setup, self.settings
        return TrustService(
            setup.trust,
            self.membership,
            client,
            data_dir=settings.data_path,
            pairing=self._pairing,
            addresses=lambda: self.setup.all_announced,
            local=setup.local,
            page_access=self._page_access,
            lending=self._lending,
            federated=settings.federated,
            say=self._console.say,
            members_only=setup.access.members_only,
        )

    async def _enter_upstreams(self) -> Upstreams:
        plans, say = self.setup.upstreams, self._console.say
        if not plans:
            return Upstreams()
        upstreams: list[Upstream] = []
        for plan, secrets in zip(plans, take_secrets(plans, os.environ), strict=True):
            self._upstream_lines += banner_lines(plan, secrets.key is not None)
            plan = replace(plan, headers=secrets.headers)
            upstream = Upstream(plan, secrets.key, lambda news: say(f"* {news}"))
            upstreams.append(await self._stack.enter_async_context(upstream))
        return Upstreams(upstreams)

    @asynccontextmanager
    async def _listening(self, listeners: Sequence[socket.socket], client: PeerClient) -> AsyncGenerator[None]:
        trust = self.setup.trust
        nearby = None if self._files is None else self._files.nearby
        app = make_app(
            self.dispatcher,
            self.pool,
            self.membership,
            self.describe,
            self.condition,
            access=self.setup.access,
            trust=trust,
            files=self._files and self._files.service,
            answers_any=self.settings.answer_any_model,
            list_loadable=self._loadables.body,
            aliases=self.settings.all_aliases,
            look_again=self._look_again,
            sampling=self._sampling,
            unusable=lambda name: None if self.models is None else self.models.unusable(name),
            pull=None if self._files is None else self._pull,
            images=RequestImages(self.settings.fetch_images),
            instructions=self._instructions,
            client=client,
            read_memory=self._read_memory,
            records=self.settings.record,
            machine=self._machine_trouble,
            usage_file=self.settings.data_path / USAGE_FILE,
            given_names_file=self.settings.data_path / GIVEN_NAMES_FILE,
            lent=lambda: self._lending.lent() if self._lending is not None and self._lending.has_lent else (),
            unused_lenders=lambda: {} if self._pooling is None else self._pooling.unused(),
            lender=lambda: self._lending if self._lending is not None and self._lending.offer() else None,
            log_ring=kept_lines(),
            tool_host=self._tool_host,
            loads_models=not self.settings.no_model,
            page_access=self._page_access,
            trust_commands=lambda: self._trust,
            shelf=NodeShelf(self.settings, nearby, lambda: self.models, self._looked),
        )
        self._app = app
        runner = web.AppRunner(
            app, handler_cancellation=True, keepalive_timeout=IDLE_S, access_log=None, shutdown_timeout=CUT_S
        )
        also = self.setup.also.listeners
        async with shared_port(runner, listeners, trust, FLUSH_S, pairing=self._pairing, plain=also) as self._ports:
            yield

    async def _read_memory(self) -> Sequence[PoolNow]:
        """The pools of this machine's memory now; nothing before the machine was looked at."""
        if self._pools_now is None:
            if self._snapshot == HardwareSnapshot():
                return ()
            self._pools_now = PoolsNow(self._snapshot)
        return [PoolNow(*pool) for pool in await asyncio.to_thread(self._pools_now.read)]

    def _machine_trouble(self) -> Mapping[str, Trouble]:
        """What is wrong with this machine, as the doctor would say it: a few reads of the system, in about 0.1 ms."""
        gpu = gpu_trouble(self._snapshot, self._gpu_used)
        free = probe_memory(Path("/"))[0].free_bytes
        memory = None if free is None else memory_trouble(free)
        try:
            disk = disk_trouble(str(self.settings.data_path), shutil.disk_usage(self.settings.data_path).free)
        except OSError:
            disk = None
        return {key: one for key, one in (("gpu", gpu), ("memory", memory), ("disk", disk)) if one is not None}

    async def _count_tokens(self, text: str) -> InstructionLength | None:
        """By the model that has the most for it, of those that are loaded here."""
        counts: list[InstructionLength] = []
        for state in self.pool.states():
            workers = self.pool.get(state.model_id)
            if workers is None or not state.capabilities.generates:
                continue
            try:
                found = await workers.running.tokenize(text, add_special=False, parse_special=False)
            except SwarmError:  # it broke, or is on its way out
                continue
            counts.append(InstructionLength(len(found.ids), state.model_id))
        return max(counts, key=lambda count: count.tokens, default=None)

    async def _look_again(self) -> None:
        """Somebody names a model that is not known here."""
        if self.models is not None:
            await self.models.look_again()

    def _sampling(self, model_id: str, also: Collection[str]) -> Mapping[str, float | int]:
        """What the user decided for requests of this model that do not say."""
        return {} if self.models is None else self.models.decided(model_id, sorted(also)).sampling.given()

    async def _pull(self, name: str, sha256: str | None) -> str:
        """Copy a model to this node's own folder; its id here. Raises Unavailable where it is not to be had."""
        if self._files is None or self.models is None:
            raise Unavailable("this node loads no models of its own")
        try:
            path = await stoppable(partial(bring, self.settings, self._files.nearby, name, sha256))
            return (await asyncio.to_thread(self.models.take, path)).id
        except SetupError as error:
            raise Unavailable(str(error)) from error

    async def _join(self) -> None:
        setup = self.setup
        news = PeerNews(self._console.say, setup.identity.name, lambda: setup.trust.mode == "open")
        self.membership.subscribe(news.show)
        discovery = self.discovery = await self._stack.enter_async_context(
            Discovery(self.settings, self.membership, self.describe, self._moved, self.setup.port, self._console.say)
        )
        self.setup.trust.subscribe(lambda _: discovery.announce())
        if discovery.problem:
            self._console.say(f"  mDNS       off: {discovery.problem}")
        await self._stack.enter_async_context(keeping_hashed(self._files))
        await self._stack.enter_async_context(self.membership)

    def _moved(self, addresses: AnnouncedAddresses) -> None:
        """This machine got other addresses."""
        if addresses.announce != self.setup.addresses.announce:
            self._console.say(f"* this node is now at {', '.join(addresses.announce)} ({addresses.reason})")
        self.setup = replace(self.setup, addresses=addresses)

    async def _load_models(self) -> None:
        """Load what was named, else the best; from then on whatever lies on the disk is loaded when it is asked for."""
        settings = self.settings
        self._snapshot = await asyncio.to_thread(probe_hardware)
        if settings.lend is not None:
            assert self._lending is not None
            lent = await self._lending.decide(True, None if settings.lend == "half" else settings.lend, self._snapshot)
            self._console.say(f"  lends      {lending_words(lent)}")
        only = [upstream for upstream in self.dispatcher.upstreams if upstream.plan.mode == "only"]
        if only:
            offers = [await upstream.first_look() for upstream in only]
            self.condition.loading = False
            for offer in offers:
                self._console.say(ready_line(offer))
            return
        if settings.no_model:
            self.condition.loading = False
            self._console.say("ready: without a model of its own (--no-model); press Ctrl-C to stop")
            return
        store = await asyncio.to_thread(model_store, settings)
        nearby = self._files and self._files.nearby
        engines = await asyncio.to_thread(NodeEngines.look, settings, self._snapshot)
        self._gpu_used = engines.on_gpu
        pooling = self._pooling = await self._make_pooling(engines)
        choose = partial(choose_models, settings, engines, self._console, store, nearby, pooling)
        try:
            chosen = await stoppable(choose)
        except SetupError:
            if pooling is None or not await pooling.sees_lenders():
                raise
            chosen = await stoppable(choose)  # who lends may be told, or taken, by now
        if (words := isolation_words(settings.isolation)) is not None:
            self._console.say(f"  isolation  {words}")
        if chosen[0].path is None:
            spec = EngineSpec(chosen[0].model_id, None, chosen[0].context_tokens, chosen[0].slots, threads=1)
            self._show(chosen[0], await self.pool.serve(partial(load_engine, settings.engine, spec)))
        else:
            await self._load_stored(store, chosen, engines, pooling)
        self.condition.loading = False
        workers = sum(state.slots for state in self.pool.states() if state.phase == "ready")
        self._console.say(f"ready: {workers} workers; press Ctrl-C to stop")

    async def _make_pooling(self, engines: NodeEngines) -> NodePooling | None:
        """Who lends to this node; None where it has no peers. Raises SetupError where --pool cannot be."""
        settings = self.settings
        if not settings.federated:
            if settings.pool:
                raise SetupError("--pool is for models over several nodes: give --federation or --peer, too")
            return None
        build = pooling_build(engines.builds)
        if settings.pool and build is None:
            raise SetupError(f"--pool needs a llama-server {WITH_RPC}")
        named = settings.pool if isinstance(settings.pool, tuple) else ()
        speed = None
        if build is not None:
            memory = engines.memory(build)
            speed = await asyncio.to_thread(weights_bytes_per_s, self._snapshot, memory, settings.threads, native=True)
        rules = PoolRules(bool(settings.pool), named)
        return NodePooling(
            self.setup.identity.name, self.membership.alive, MemberLink(self._client), build, rules, speed,
            is_paired=lambda: self.setup.trust.mode == "paired",
        )  # fmt: skip

    def _lenders_changed(self) -> None:
        """What could not be loaded over them may be now."""
        for state in self.pool.states():
            self.pool.try_again(state.model_id)

    async def _load_stored(
        self, store: ModelStore, chosen: Sequence[ChosenModel], engines: NodeEngines, pooling: NodePooling | None
    ) -> None:
        models = self.models = await asyncio.to_thread(NodeModels, store, self.settings, engines)
        models.pooling, models.held = pooling, self.pool.held_bytes
        self.pool.load_from(models, models.memory, models)
        if pooling is not None:
            await self._stack.enter_async_context(pooling.watching(self._lenders_changed))
        for model in chosen:
            assert model.path is not None
            stored = await asyncio.to_thread(models.take, model.path)
            self._default_model = self._default_model or stored.id
            if self.settings.model:
                self.pool.pin(stored.id)
            try:
                await self._ensure(stored.id, pooling)
            except NoRoomFor as error:
                raise SetupError(f"{error} Or leave out one --model: it is loaded when asked for") from error
            except LenderLost as error:  # it is loaded when they come
                self._console.say(f"  model      {stored.id}: {error}")
                continue
            workers = self.pool.get(stored.id)
            assert workers is not None, "it was loaded in this turn of the loop"
            self._show(model, workers)
        settings = self.settings
        kept_bytes = await asyncio.to_thread(stored_bytes, settings.saved_prompts_dir)
        slowest = max(model.weights_bytes for model in chosen)
        words = prompts_words(settings.kv_disk, settings.saved_prompts_dir, kept_bytes, slowest)
        if words is not None:
            self._console.say(f"  prompts    {words}")
        if (name := self.settings.default_model) is not None:
            found = (await stoppable(lambda stop: store.look(stop=stop))).named(name)
            if found is None:
                raise SetupError(f"--default-model {name} is not on this disk: `swarm models pull {name}` brings it")
            self._default_model = found.id
        self._looked()
        await self._stack.enter_async_context(models.looking(self._looked))

    async def _ensure(self, model_id: str, pooling: NodePooling | None) -> None:
        """Have the model loaded. Raises as `WorkerPool.ensure`: what does not fit, once those that lend are known."""
        try:
            await self.pool.ensure(model_id)
        except NoRoomFor:
            if pooling is None or not await pooling.sees_lenders():
                raise
            await self.pool.ensure(model_id)

    def _looked(self) -> None:
        """The disk was looked at for models."""
        self._loadables.changed()
        if not self._told_of_others and (words := others_words(self.pool.loadables())) is not None:
            self._told_of_others = True
            self._console.say(words)

    def _show(self, chosen: ChosenModel, workers: ModelWorkers) -> None:
        """What the console says of a model that was loaded at the start."""
        say = self._console.say
        say(f"  model      {workers.engine.model_id}: {chosen.reason}")
        say(f"  engine     {workers.engine.computation}")
        names = ", ".join(worker.name for worker in workers.workers)
        context = workers.engine.loaded.context_tokens
        threads, _ = compute_threads(self.settings.threads, self._snapshot, chosen.weights_bytes)
        say(f"  workers    {names} · {context} tokens each · {threads} thread{'s' if threads > 1 else ''}")
        if (words := context_words(context, chosen.context_reason)) is not None:
            say(f"  context    {words}")
        if (words := tools_words(workers.engine.capabilities)) is not None:
            say(f"  tools      {words}")
        if workers.engine.capabilities.vision:
            say("  images     are seen, too")

    def describe(self) -> NodeDescription:
        """What this node says of itself at this moment."""
        models = served_models(self.pool.states())
        trust = self.setup.trust
        return NodeDescription(
            id=self.setup.identity.node_id,
            name=self.setup.identity.name,
            version=program_version(),
            url=self.setup.announced.url,
            models=models,
            slots_free=sum(model.slots_free for model in models),
            draining=self.condition.draining,
            hardware=dict(hardware_summary(self._snapshot)),
            instance=self.setup.instance,
            mode=trust.mode,
            roster=None if trust.roster is None else trust.roster.digest,
            loadable=self._loadables.digest,
            lends=self._lending.offer() if self._lending is not None and self._lending.has_lent else None,
        )
