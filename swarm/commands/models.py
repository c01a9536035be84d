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
from dataclasses import replace
from pathlib import Path

from federation.addresses import choose_addresses
from federation.advertisement import NodeDescription
from federation.client import PeerClient
from federation.errors import FederationError, PeerError
from federation.file_exchange import FilePeer
from federation.hostport import DEFAULT_PORT, Address, parse_address
from federation.interfaces import default_route_addresses, read_interfaces
from federation.mdns import MdnsDiscovery
from federation.printable_text import printable
from federation.static_peers import load_peers
from federation.tls import node_id_of
from hardware.probe import probe_hardware
from swarm import program_version
from swarm.commands.members import ask_running
from swarm.commands.output import complain, say
from swarm.commands.running_models import NodePlace, holders_of
from swarm.commands.terminal import Terminal
from swarm.control_messages import PEERS_PATH, KnownNodes
from swarm.errors import SetupError, SwarmError
from swarm.node.console import Console
from swarm.node.engines import NodeEngines
from swarm.node.files import fetch_wanted, what_to_pull
from swarm.node.model_choice import fit_here, model_store
from swarm.node.pairing import own_membership
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.download import PARTIAL_FOLDER, folder_name
from swarm.registry.gguf_header import read_gguf, stem_of, why_no_model
from swarm.registry.lan_download import LanFiles
from swarm.registry.model_memory import AskedLoad, size_text
from swarm.registry.names import CatalogueRef, EmbeddedRef, FileRef, HubRef, parse_model
from swarm.registry.stored import StoredModel, StoredModels, damaged, remove
from swarm.registry.table import fit_text, row_json
from swarm.registry.unfinished import arrived_bytes, drop_unfinished

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


def fit_models(settings: Settings, asked: AskedLoad, as_json: bool) -> int:
    """Print every model against this machine's free memory, best first."""
    engines = NodeEngines.look(settings, probe_hardware())
    rows, capacity = fit_here(engines, asked, model_store(settings).look())
    if as_json:
        say(json.dumps([row_json(row) for row in rows], indent=2))
        return 0
    say(fit_text(rows, capacity), end="")
    if (words := engines.gpu_line) is not None:
        say(words)
    return 0


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
    own_dir, local = settings.own_models_dir, model_store(settings).look()
    fitting = _meant(local, settings, name)
    if len(fitting) > 1:
        raise SetupError(f"{name} may be {' or '.join(model.id for model in fitting)}: give one of them")
    if not fitting and (arrived := _arrived(own_dir, name)):
        freed_bytes = sum((arrived_bytes if dry_run else drop_unfinished)(own_dir, *one) for one in arrived)
        say(f"{'would remove' if dry_run else 'removed'} what had arrived of {name} ({size_text(freed_bytes)})")
        return 0
    if not fitting:
        ours = [model.id for model in local.models if model.path.is_relative_to(own_dir)]
        raise SetupError(f"{name} is not downloaded; in {own_dir}: {', '.join(ours) or 'nothing'}")
    model = _own_copy(fitting[0], own_dir)
    holders = holders_of(settings, place, model.id)
    if holders.here is not None and not dry_run:
        unload = shlex.join(["swarm", "models", "unload", model.id])
        raise SetupError(f"{model.id} is {holders.here} on the node that runs here: `{unload}` first")
    image_part = _image_part(model, local, own_dir)
    with_it = "" if image_part is None else f" and its image part {image_part.name} ({_size_of(image_part)})"
    freed_bytes = model.size_bytes
    if not dry_run:
        if image_part is not None:
            image_part.unlink(missing_ok=True)
        freed_bytes = remove(model, own_dir)
    say(f"{'would remove' if dry_run else 'removed'} {model.id} ({size_text(freed_bytes)}){with_it}")
    if dry_run and holders.here is not None:
        say(f"  it is {holders.here} on the node that runs here: unload it first")
    if (left_bytes := arrived_bytes(own_dir, model.path.parent.name.replace("--", "/", 1))) > 0:
        say(f"  {size_text(left_bytes)} of unfinished downloads from there stay in {own_dir / PARTIAL_FOLDER}")
    for path in model.copies:
        say(f"  a copy stays at {path}, which is not this program's to remove")
    if holders.others:
        say(f"  {', '.join(holders.others)} {'has' if len(holders.others) == 1 else 'have'} it, too")
    return 0


def _arrived(own_dir: Path, name: str) -> list[tuple[str, str | None]]:
    """What a download of `name` that broke off has left: where it is from, and the file."""
    match parse_model(name):
        case HubRef(repo, file):
            wanted: list[tuple[str, str | None]] = [(repo, file)]
        case CatalogueRef() as ref:
            parts = str(ref).split(":")
            choices = [c for c in Catalogue.load().choices() if c.id.split(":")[: len(parts)] == parts]
            wanted = [(choice.variant.place, choice.variant.file) for choice in choices]
        case _:
            wanted = []
    return [one for one in wanted if arrived_bytes(own_dir, *one)]


def _own_copy(model: StoredModel, own_dir: Path) -> StoredModel:
    """The model as it lies in our folder, where it is used from another: this program's copy is the one to remove."""
    if _is_in(model.path, own_dir):
        return model
    here = next((path for path in model.copies if _is_in(path, own_dir)), None)
    if here is None or (copy := damaged(here, own_dir)) is None:
        return model
    shipped = {model.path} if model.source == "embedded" else set[Path]()
    rest = tuple(path for path in (model.path, *model.copies) if path != here and path not in shipped)
    return replace(copy, id=printable(stem_of(here)) if shipped else model.id, facts=read_gguf(here), copies=rest)


def _is_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _image_part(model: StoredModel, local: StoredModels, own_dir: Path) -> Path | None:
    """The projector that nothing needs without this model, if it was downloaded by this program."""
    path = model.projector
    if path is None or not _is_in(path, own_dir):
        return None
    return None if any(other.projector == path for other in local.models if other.id != model.id) else path


def _size_of(path: Path) -> str:
    try:
        return size_text(path.stat().st_size)
    except OSError as error:
        return str(error.strerror)


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
