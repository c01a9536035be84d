"""`swarm models fit`, `pull` and `rm`: which models fit this machine, bringing one to this disk, removing one.

`swarm models pull` copies from nodes first: those named with --peer, those a node here has stored, and those found by
mDNS. It only asks, and announces nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shlex
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from federation.addresses import choose_addresses
from federation.advertisement import NodeDescription
from federation.client import PeerClient
from federation.errors import FederationError, PeerError
from federation.file_exchange import FilePeer
from federation.hostport import DEFAULT_PORT, Address, parse_address
from federation.interfaces import default_route_addresses, read_interfaces
from federation.mdns import MdnsDiscovery
from federation.static_peers import load_peers
from federation.tls import node_id_of
from hardware.probe import probe_hardware
from swarm import program_version
from swarm.commands.members import ask_running
from swarm.commands.output import complain, say
from swarm.commands.running_models import NodePlace, holders_of, running_node
from swarm.commands.terminal import Terminal
from swarm.control_messages import PEERS_PATH, KnownNodes
from swarm.errors import SetupError, SwarmError
from swarm.node.console import Console
from swarm.node.engines import NodeEngines
from swarm.node.files import fetch_wanted, what_to_pull
from swarm.node.model_choice import fit_here, model_store
from swarm.node.pairing import own_membership
from swarm.node.settings import Settings
from swarm.registry.catalogue import CatalogueChoice
from swarm.registry.elsewhere import OtherNode
from swarm.registry.gguf_header import read_gguf, why_no_model
from swarm.registry.lan_download import LanFiles
from swarm.registry.model_memory import AskedLoad
from swarm.registry.pooled_fit import UNKNOWN_RTT_S, PoolMachine
from swarm.registry.removal import ArrivedOf, removal_of
from swarm.registry.table import fit_text, row_json

if TYPE_CHECKING:
    from swarm.commands.swarm_state import SwarmState
    from swarm.gateway.observing.node_states import NodeState

log = logging.getLogger(__name__)

HERE_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
BROWSE_S = 1.5  # what a node takes to be found
ANSWER_S = 2.0
MAX_ADDRESSES = 128  # asked who they are; a home has a handful of nodes, each with a few addresses


@contextmanager
def files_nearby(settings: Settings, console: Console) -> Generator[LanFiles]:
    """The files that nodes nearby have. Raises SetupError for a --peer that is no address.

    The peers are asked in a thread of its own, so that Ctrl-C ends a download in this one.
    """
    try:
        named = [parse_address(peer) for peer in settings.peer]
    except FederationError as error:
        raise SetupError(str(error)) from error
    ready: Future[LanFiles] = Future()
    stop: Future[None] = Future()

    async def visit() -> None:
        try:
            async with _visiting(settings, named, console) as nearby:
                ready.set_result(nearby)
                await asyncio.wrap_future(stop)
        except SetupError as error:
            ready.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(visit()), name="peers", daemon=True)
    thread.start()
    try:
        yield ready.result()
    finally:
        stop.set_result(None)
        thread.join()


@asynccontextmanager
async def _visiting(settings: Settings, named: Sequence[Address], console: Console) -> AsyncGenerator[LanFiles]:
    trust = await asyncio.to_thread(own_membership, settings.data_path, settings.name)
    # A member asks as itself. In an open swarm the node that runs here has that id, and takes nobody else under it.
    visitor_id = node_id_of(secrets.token_bytes(32)) if trust is None else trust.node_id
    async with PeerClient(visitor_id, trust=trust) as client:
        found: list[FilePeer] | None = None

        async def peers() -> Sequence[FilePeer]:
            nonlocal found
            if found is None:
                kept = await asyncio.to_thread(load_peers, settings.data_path)
                members = [place.address for entry in (trust.others if trust else ()) for place in entry.places]
                running = await asyncio.to_thread(_known_to_own_node, settings.data_path)
                near = await _found_nearby(client, visitor_id)
                found = await _who_answers(client, [*named, *running, *members, *kept, *near])
            return found

        # Only members answer a member: what they call a file is believed where the hub cannot be asked.
        loop, paired = asyncio.get_running_loop(), trust is not None
        yield LanFiles(client, peers, loop, say=console.say, believe_names=lambda: paired)


def _known_to_own_node(data_dir: Path) -> list[Address]:
    """Where the node that runs with this data directory finds others now, whatever their ports; none if none runs."""
    try:
        known = ask_running(data_dir, PEERS_PATH, KnownNodes)
        nodes = () if known is None else known.nodes
        return [parse_address(address) for node in nodes for address in node.addresses]
    except (SwarmError, FederationError) as error:
        log.info("the node that runs here was not asked for others: %s", error)
        return []


async def _found_nearby(client: PeerClient, visitor_id: str) -> list[Address]:
    """The node on this machine, the peers that it knows, and nodes that announce themselves by mDNS."""
    here = Address("127.0.0.1", DEFAULT_PORT)
    hints, announced = await asyncio.gather(_known_to(client, here), _announced(visitor_id))
    return [here, *hints, *announced]


async def _known_to(client: PeerClient, address: Address) -> list[Address]:
    try:
        return [hint.address for hint in await client.peers(address, ANSWER_S)]
    except PeerError:  # no node runs here
        return []


async def _announced(visitor_id: str) -> list[Address]:
    found: dict[Address, None] = {}
    try:
        chosen = await asyncio.to_thread(lambda: choose_addresses(read_interfaces(), None, default_route_addresses()))
    except (FederationError, OSError):  # no network that could be asked
        return []
    visitor = NodeDescription(id=visitor_id, name="visitor", version=program_version(), url="http://127.0.0.1:1")
    async with MdnsDiscovery(
        visitor,
        chosen.announce,
        DEFAULT_PORT,
        on_proposed=lambda address, _: found.setdefault(address),
        on_goodbye=lambda _: None,
        announce=False,
    ) as discovery:
        if discovery.problem is None:
            await asyncio.sleep(BROWSE_S)
    return list(found)


async def _who_answers(client: PeerClient, addresses: Iterable[Address]) -> list[FilePeer]:
    """Each node once, at the address that comes first."""
    asked = list(dict.fromkeys(addresses))[:MAX_ADDRESSES]
    answers = await asyncio.gather(*(_who_is(client, address) for address in asked))
    return list({peer.id: peer for peer in reversed(answers) if peer is not None}.values())[::-1]


async def _who_is(client: PeerClient, address: Address) -> FilePeer | None:
    try:
        node = await client.describe(address, ANSWER_S)
    except PeerError:
        return None
    return FilePeer(node.id, node.name, address)


def fit_models(settings: Settings, place: NodePlace, asked: AskedLoad, as_json: bool) -> int:
    """Print every model against this machine's free memory, best first, and where else what does not fit here does.

    The node that runs here is asked what the others of its swarm have; without one this machine is all there is.
    """
    engines = NodeEngines.look(settings, probe_hardware())
    rows, capacity = fit_here(engines, asked, model_store(settings).look(), other_nodes(settings, place))
    if as_json:
        say(json.dumps([row_json(row) for row in rows], indent=2))
        return 0
    say(fit_text(rows, capacity), end="")
    if (words := engines.gpu_line) is not None:
        say(words)
    return 0


def other_nodes(settings: Settings, place: NodePlace) -> list[OtherNode]:
    """What the nodes of the swarm have for models, as the node that is named or runs here knows; none without one.

    Raises SwarmError where the node that was named cannot be asked.
    """
    from swarm.commands.top import SETTLED_S, Follower

    try:
        node = running_node(settings, place)
        if node is None:
            return []
        with Follower(node) as follower:
            state = follower.settled(SETTLED_S).state
    except SwarmError as error:
        if place.url is not None:
            raise
        log.info("the node that runs here was not asked for others: %s", error)
        return []
    here = place.url is None or urlsplit(place.url).hostname in HERE_HOSTS
    return others_in(state, own_is_here=here)


def others_in(state: SwarmState, *, own_is_here: bool) -> list[OtherNode]:
    """What the living nodes of a swarm have, as one of them tells it; of that one too where it is another machine."""
    rtts = {} if state.view is None else {peer.id: peer.least_rtt_ms for peer in state.view.peers}
    return [
        _other_node(node, rtts.get(node.id))
        for node in state.nodes.values()
        if node.state == "alive" and not (own_is_here and node.source == "own")
    ]


def _other_node(node: NodeState, rtt_ms: float | None) -> OtherNode:
    """A peer's memory: of its pools the one in which most is free, as its node puts each model into one."""
    free = [pool.free_bytes for pool in node.memory if pool.free_bytes is not None]
    lends, lending = None, node.lending
    if lending is not None and not lending.draining and lending.problem is None:
        rtt_s = UNKNOWN_RTT_S if rtt_ms is None else rtt_ms / 1000
        lends = PoolMachine(node.name, node.id, lending.free_bytes, lending.bytes_per_s or None, rtt_s)
    return OtherNode(node.name, max(free, default=None), lends)


def pull_model(settings: Settings, name: str) -> int:
    """Bring `name`, a catalogue name or a file of the hub, from a peer or from where it is, and print its path.

    What is on this disk already is not brought again: its path is printed.
    """
    terminal = Terminal()
    wanted = what_to_pull(settings, name)
    if isinstance(wanted, Path):
        terminal.say(str(wanted))
        return 0
    called = wanted.id if isinstance(wanted, CatalogueChoice) else wanted.file or wanted.repo

    def progress(done_bytes: int, total_bytes: int | None) -> None:
        terminal.progress(called, done_bytes, total_bytes)

    with files_nearby(settings, terminal) as nearby:
        path = fetch_wanted(settings, wanted, progress, nearby)
    terminal.say(str(path))
    with suppress(SetupError):  # what cannot be read is said by whoever is to load it
        if path.is_file() and (why := why_no_model(read_gguf(path))) is not None:
            complain(f"swarm: {why}")
    return 0


def remove_model(settings: Settings, place: NodePlace, name: str, *, dry_run: bool) -> int:
    """Delete a downloaded model, and say who else has it. Only what this program downloaded: other programs' files are
    theirs. Raises SetupError for one that the node which runs here has loaded.
    """
    removal = removal_of(model_store(settings).look(), settings.own_models_dir, name)
    words, removed = removal.words, "would remove" if dry_run else "removed"
    if isinstance(removal, ArrivedOf):
        if not dry_run:
            removal.carry_out()
        say(f"{removed} {words}")
        return 0
    model_id = removal.model.id
    holders = holders_of(settings, place, model_id)
    if holders.here is not None and not dry_run:
        unload = shlex.join(["swarm", "models", "unload", model_id])
        raise SetupError(f"{model_id} is {holders.here} on the node that runs here: `{unload}` first")
    if not dry_run:
        removal.carry_out()
    say(f"{removed} {words}")
    if dry_run and holders.here is not None:
        say(f"  it is {holders.here} on the node that runs here: unload it first")
    for sentence in removal.stays():
        say(f"  {sentence}")
    if holders.others:
        say(f"  {', '.join(holders.others)} {'has' if len(holders.others) == 1 else 'have'} it, too")
    return 0
