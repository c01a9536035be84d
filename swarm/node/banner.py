"""What a node shows the person in front of it: who it is when it starts, which peers and models come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from federation import wire
from federation.advertisement import Capabilities
from federation.hostport import make_address
from federation.peer import AddressRejected, Change, Peer, PeerChanged, PeerJoined, PeerLeft, Source, Why
from federation.tasks import cancel_and_wait
from swarm import program_version
from swarm.engines.registry import Isolation
from swarm.gateway.http.access import PeersAccess
from swarm.node.console import Console
from swarm.node.setup import NodeSetup
from swarm.node.trust import trust_words
from swarm.quantities import left_words, load_words
from swarm.registry.model_memory import size_text
from swarm.workers.life import LifeEvent
from swarm.workers.loadable import Loadable
from swarm.workers.model_workers import ModelState

LOOK_S: Final = 0.5  # between two looks at how far loads are
LEAST_TOLD_S: Final = 1.0  # of a load; below it nobody has waited
SLOW_WEIGHTS_BYTES: Final = 2**30  # of a model that reads a long prompt in minutes, where no GPU does it
MAX_NAMED: Final = 4  # of the models that could be loaded
MAX_SHOWN: Final = 512  # lines said once: four for each peer; beyond it the oldest may be said again


def banner(
    setup: NodeSetup,
    federated: bool,
    upstream_lines: Iterable[str],
    answers_any: bool = False,
    records: bool = False,
) -> Iterator[str]:
    """The lines that a node begins with."""
    name, node_id = setup.identity.name, setup.identity.node_id
    yield f"Local Swarm {program_version()} · node {name} ({node_id[:8]})"
    everywhere = setup.addresses.is_everywhere and not setup.announced.is_loopback
    here = f"  (on this machine also http://127.0.0.1:{setup.port}/v1)" if everywhere else ""
    yield f"  API        http://{setup.announced}/v1{here}"
    if setup.also.ports:
        hosts = [setup.announced.host, *(["127.0.0.1"] if everywhere else [])]
        yield f"  also at    {', '.join(str(make_address(host, port)) for port in setup.also.ports for host in hosts)}"
    for problem in setup.also.problems:
        yield f"  also at    {problem}"
    if federated:
        yield f"  network    {setup.addresses.reason}"
        yield f"  trust      {trust_words(setup.trust)}"
    else:
        yield "  federation off: this node answers alone (start with --federation to join others)"
    yield f"  access     {access_words(setup)}"
    if answers_any:
        yield "  names      a model that no node serves is answered as `swarm` (--answer-any-model)"
    if records:
        yield (
            "  records    the prompts of the last votes, in memory, for those who manage this node (--record): "
            "tell those who use it"
        )
    yield from upstream_lines


def access_words(setup: NodeSetup) -> str:
    """What the banner says of who may use the API."""
    access = setup.access
    if not access.wants_key and setup.announced.is_loopback:
        words = "open to this machine"
    elif not access.wants_key:
        words = "open: any machine on this network may use the API (close it with --api-key-file)"
    else:
        words = f"with an API key{_without_key(access.peers(setup.trust.mode), access.open_federation)}"
    return f"{words}; an admin key manages this node from elsewhere" if access.admin_digests else words


def _without_key(peers: PeersAccess, open_federation: bool) -> str:
    """What the banner adds where the node has a key and peers need none."""
    match peers:
        case "none":
            return ""
        case "members":
            unused = " (--open-federation opens nothing while paired)" if open_federation else ""
            return f"; members need none{unused}"
        case "anyone":
            return (
                f"; OPEN TO NODES WITHOUT ONE (--open-federation): any machine that reaches this port may have "
                f"answers generated at {wire.PREFIX}"
            )
        case "nobody":
            return "; closed to nodes: this one has no members"


def isolation_words(isolation: Isolation) -> str | None:
    """What the banner says of engines that are in the node's process because somebody wants it."""
    if isolation != "never":
        return None
    return "none (--in-process): a crash or a hang of the library is this node's; leave the option out to be safe"


def prompts_words(most_bytes: int | None, folder: Path, stored_bytes: int, weights_bytes: int) -> str | None:
    """What the banner says of where read prompts are kept. None where it does not matter: small models read quickly."""
    if most_bytes is not None:
        return f"kept in {folder}, up to {size_text(most_bytes)}: they tell what was said; `swarm forget` removes them"
    if stored_bytes:
        return f"{size_text(stored_bytes)} kept earlier are not used (--kv-disk): `swarm forget` removes them"
    if weights_bytes < SLOW_WEIGHTS_BYTES:
        return None
    return "in memory only: long ones are read again after a restart (--kv-disk 8G keeps what was read on this disk)"


def tools_words(can: Capabilities) -> str | None:
    """What the banner says of a model whose chat template knows no tools."""
    if can.tools or not can.generates:
        return None
    return "in a general form: this model's chat template knows none, so it may answer in words where it should call"


def models_of(peer: Peer) -> str:
    """What the banner says a peer serves."""
    return ", ".join(model.id for model in peer.description.models) or "no model yet"


def others_words(models: Sequence[Loadable]) -> str | None:
    """What is said of the models that lie here and are not loaded; None where there are none to tell of."""
    names = sorted(model.model_id for model in models if model.listed)
    if not names:
        return None
    shown = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
    return f"* also on this disk, and loaded when asked for: {shown} (`swarm models list`)"


class PeerNews:
    """Says each change among the peers in a line, and each misunderstanding with one of them once.

    `own_name` is this node's; `is_open` tells whether it belongs to no paired swarm now.
    """

    def __init__(self, say: Callable[[str], None], own_name: str, is_open: Callable[[], bool]) -> None:
        self._say = say
        self._own_name = own_name
        self._is_open = is_open
        self._shown: dict[tuple[str, str], None] = {}  # what was said once, and of whom, the oldest first
        self._models: dict[str, str] = {}  # by the id of those that are here, as last said

    def show(self, change: Change) -> None:
        match change:
            case PeerJoined(peer, returned):
                self._models[peer.id] = models = models_of(peer)
                back = " is back" if returned else ""
                self._say(f"+ peer {peer.label}{back} at {peer.address} ({models})")
                self._note_namesake(peer)
            case PeerLeft(peer, reason):
                self._models.pop(peer.id, None)
                self._say(f"- peer {peer.label}: {reason}")
            case PeerChanged(peer):
                if self._models.get(peer.id) != models_of(peer):
                    self._models[peer.id] = models = models_of(peer)
                    self._say(f"* peer {peer.label} now serves {models}")
                self._note_namesake(peer)  # it may have been restarted with another name
            case AddressRejected(address, _, reason, Why.COPY, node_id):
                self._once("copy", node_id or str(address), f"! {address} {reason}")
            case AddressRejected(address, source, reason, Why.UNTRUSTED, node_id):
                if self._is_open():
                    remedy = "run `swarm invite` there, then `swarm join CODE` here"
                    self._once("paired", node_id or str(address), f"! {address} belongs to a paired swarm: {remedy}")
                elif source is Source.STATIC:  # others' nodes may well be near; this one somebody wants
                    self._once("stranger", node_id or str(address), f"! {reason}")
            case AddressRejected(address, dropped=True):
                self._say(f"! --peer {address} is this node's own address: it is dropped; give another node's")
            case AddressRejected():
                pass

    def _note_namesake(self, peer: Peer) -> None:
        if peer.name == self._own_name:
            where = f"{peer.address}, shown as {peer.label}"
            self._once("name", peer.id, f"! another node is called {peer.name} too ({where}): give one of them --name")

    def _once(self, what: str, who: str, line: str) -> None:
        if (what, who) not in self._shown:
            self._say(line)
            self._shown[what, who] = None
            if len(self._shown) > MAX_SHOWN:
                del self._shown[next(iter(self._shown))]


class ModelNews:
    """Says each change in the life of this node's models in a line, and shows how far loads are while there are some.

    `states` tells of all models of the node. Until it is `aloud` it says no lines: a node that starts tells of its
    first models itself. For the event loop's thread; what is shown ends with `__aexit__`.
    """

    def __init__(self, console: Console, states: Callable[[], Sequence[ModelState]], look_s: float = LOOK_S) -> None:
        self._console = console
        self._states = states
        self._look_s = look_s
        self.aloud = False
        self._began: dict[str, float] = {}  # monotonic seconds, of loads
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._follower is not None:
            await cancel_and_wait(self._follower)

    def show(self, event: LifeEvent) -> None:
        began = self._began.pop(event.model_id, None)
        words = life_words(event, None if began is None else event.at - began)
        if self.aloud and words is not None:
            self._console.say(words)
        if event.after == "loading":
            self._began[event.model_id] = event.at
            if self._follower is None or self._follower.done():
                self._follower = asyncio.create_task(self._follow(), name="progress of loads")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)  # of a quick load there is nothing to show
            if not self._began:
                return
            words = [
                load_words(state.model_id, state.load.share, state.load.left_s)
                for state in self._states()
                if state.phase == "loading" and state.load is not None
            ]
            if words:
                self._console.loading("; ".join(words))


def life_words(event: LifeEvent, took_s: float | None = None) -> str | None:
    """What the person in front of the node is told of a change; None for one that is no news. `took_s`: of a load."""
    name, reason = event.model_id, event.reason
    match event.before, event.after:
        case _, "loading":
            return f"* loading {name}: {reason}"
        case "loading", "ready":
            took = "" if took_s is None or took_s < LEAST_TOLD_S else f" after {left_words(took_s)}"
            return f"* {name} is ready{took}"
        case "loading", "unloading":
            return f"* the load of {name} is given up: {reason}"
        case "draining", "ready":
            return f"* {name} stays: {reason}"
        case _, "draining":
            return f"* {name} ends what it runs, and is unloaded then: {reason}"
        case "unloading", "available":
            return f"* {name} is unloaded: {reason}"
        case "failed", "available":
            return f"* {name} is not loaded again by itself: {reason}"
        case _, "failed":
            return f"! {name} failed: {reason}"
        case _:
            return None
