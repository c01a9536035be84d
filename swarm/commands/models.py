"""`swarm models`: list the models, say which fit, download one, remove one.

`swarm models pull` copies from nodes first: those named with --peer, those a node here has stored, and those found by
mDNS. It only asks, and announces nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

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
from hardware.memory_speed import weights_bytes_per_s
from hardware.probe import probe_hardware
from swarm import program_version
from swarm.commands.members import ask_running
from swarm.commands.output import complain, say
from swarm.commands.terminal import Terminal
from swarm.control_messages import PEERS_PATH, KnownNodes
from swarm.engines.registry import chosen_engine
from swarm.errors import SetupError, SwarmError
from swarm.node.console import Console
from swarm.node.model_choice import capacity_of, engine_memory, gpu_line, model_store
from swarm.node.pairing import own_membership
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.download import download, download_choice, folder_name
from swarm.registry.embedded import embedded_model_path
from swarm.registry.gguf_header import read_gguf, why_no_model
from swarm.registry.hub import file_of
from swarm.registry.lan_download import LanFiles
from swarm.registry.model_memory import AskedLoad, size_text
from swarm.registry.names import CatalogueRef, EmbeddedRef, FileRef, HubRef, parse_model, resolve
from swarm.registry.stored import StoredModel, StoredModels, damaged, remove
from swarm.registry.table import FitRow, ListRow, fit_rows, fit_text, list_rows, list_text, row_json

log = logging.getLogger(__name__)

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


def list_models(settings: Settings, as_json: bool) -> int:
    """Print every model of the catalogue and of this disk that an engine here can load."""
    catalogue = Catalogue.load()
    formats = chosen_engine("auto").formats
    local = _scan(settings)
    rows = list_rows(catalogue, local, formats)
    say(_json(rows) if as_json else list_text(rows), end="\n" if as_json else "")
    unread = [*local.problems, *(f"{m.path} is {m.format.upper()}" for m in local.models if m.format not in formats)]
    for line in unread:
        complain(f"swarm: not listed: {line}")
    return 0


def fit_models(settings: Settings, asked: AskedLoad, as_json: bool) -> int:
    """Print every model against this machine's free memory, best first."""
    catalogue = Catalogue.load()
    local = _scan(settings)
    engine = chosen_engine("auto")
    snapshot = probe_hardware()
    memory = engine_memory(engine, snapshot)
    capacity = capacity_of(engine, memory, asked, local, weights_bytes_per_s(snapshot, memory))
    rows = fit_rows(catalogue.choices(formats=engine.formats), capacity, local)
    say(_json(rows) if as_json else fit_text(rows, capacity), end="\n" if as_json else "")
    if not as_json and (words := gpu_line(engine, snapshot)) is not None:
        say(words)
    return 0


def pull_model(settings: Settings, name: str) -> int:
    """Bring `name`, a catalogue name or a file of the hub, from a peer or from where it is, and print its path.

    What is on this disk already is not brought again: its path is printed.
    """
    terminal = Terminal()
    wanted = _what_to_pull(settings, name)
    if isinstance(wanted, Path):
        terminal.say(str(wanted))
        return 0
    called = wanted.id if isinstance(wanted, CatalogueChoice) else wanted.file or wanted.repo

    def progress(done_bytes: int, total_bytes: int | None) -> None:
        terminal.progress(called, done_bytes, total_bytes)

    with files_nearby(settings, terminal) as nearby:
        if isinstance(wanted, CatalogueChoice):
            path = download_choice(wanted, settings.own_models_dir, progress, nearby)
        else:
            path = download(wanted, settings.own_models_dir, progress, nearby=nearby)
    terminal.say(str(path))
    with suppress(SetupError):  # what cannot be read is said by whoever is to load it
        if path.is_file() and (why := why_no_model(read_gguf(path))) is not None:
            complain(f"swarm: {why}")
    return 0


def _what_to_pull(settings: Settings, name: str) -> Path | CatalogueChoice | HubRef:
    """What is here already; else what `name` is in the catalogue, or where it is on the hub. Raises SetupError."""
    catalogue, formats = Catalogue.load(), chosen_engine("auto").formats
    local = _scan(settings)
    try:
        ref = parse_model(name)
    except SetupError:
        if (here := local.named(name)) is not None:
            return here.path
        raise
    match ref:
        case EmbeddedRef(embedded):
            return embedded_model_path(embedded)
        case HubRef():
            return file_of(ref, formats)
        case FileRef():
            if (here := local.named(name)) is None:
                raise SetupError(
                    f"{name!r} is not on this disk, and a path cannot be downloaded: give NAME:SIZE[:QUANT] or "
                    "hf:OWNER/REPO/FILE.gguf"
                )
            return here.path
        case CatalogueRef():
            if (here := local.named(name)) is not None:
                return here.path
            choice = resolve(ref, catalogue, formats, local.own_names)
            here = local.named(choice.id)
            return here.path if here else choice


def remove_model(settings: Settings, name: str) -> int:
    """Delete a downloaded model. Only what this program downloaded: the hub's own cache is other programs' too."""
    local = _scan(settings)
    fitting = _meant(local, settings, name)
    if len(fitting) > 1:
        raise SetupError(f"{name} may be {' or '.join(model.id for model in fitting)}: give one of them")
    if not fitting:
        ours = [model.id for model in local.models if model.path.is_relative_to(settings.own_models_dir)]
        raise SetupError(f"{name} is not downloaded; in {settings.own_models_dir}: {', '.join(ours) or 'nothing'}")
    freed_bytes = remove(fitting[0], settings.own_models_dir)
    say(f"removed {fitting[0].id} ({size_text(freed_bytes)})")
    return 0


def _meant(local: StoredModels, settings: Settings, name: str) -> list[StoredModel]:
    """The models of this disk that `name` may mean. Raises SetupError for what is never removed."""
    if (found := local.named(name)) is not None:
        return [found]
    match parse_model(name):
        case EmbeddedRef():
            raise SetupError(f"{name} comes with this program: it is not removed")
        case HubRef(repo, file):
            folder = settings.own_models_dir / folder_name(repo)
            if file is not None:
                return [model for model in local.models if model.path == folder / file]
            return [model for model in local.models if folder in (model.path, *model.path.parents)]
        case CatalogueRef() as ref:
            parts = str(ref).split(":")
            return [m for m in local.models if m.in_catalogue and m.id.split(":")[: len(parts)] == parts]
        case FileRef(path):
            folders = (path.parent, settings.own_models_dir, *settings.own_models_dir.glob("*/"))
            places = {(folder / path.name).resolve() for folder in folders}
            return [found for place in sorted(places) if (found := damaged(place, settings.own_models_dir)) is not None]


def _scan(settings: Settings) -> StoredModels:
    return model_store(settings).look()


def _json(rows: list[ListRow] | list[FitRow]) -> str:
    return json.dumps([row_json(row) for row in rows], indent=2)
