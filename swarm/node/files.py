"""Model files in a running node: those it gives to peers, and those it copies from them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from federation.advertisement import NodeDescription
from federation.client import PeerClient
from federation.file_exchange import FilePeer
from federation.membership import Membership
from federation.small_files import remove_temporaries
from federation.tasks import cancel_and_wait
from swarm.errors import SetupError
from swarm.gateway.peers.model_files import FileService, Transfers
from swarm.node.engines import formats_here
from swarm.node.model_choice import model_store
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.download import PARTIAL_FOLDER, download, download_choice, no_progress
from swarm.registry.embedded import embedded_model_path
from swarm.registry.file_hashes import WorkStopped
from swarm.registry.hub import Progress, file_of
from swarm.registry.lan_download import LanFiles
from swarm.registry.names import CatalogueRef, EmbeddedRef, FileRef, HubRef, parse_model, resolve
from swarm.registry.shared_files import SharedFiles
from swarm.workers.pool import WorkerPool

log = logging.getLogger(__name__)

SETTLE_S = 2.0  # for peers to be found by mDNS and answer a probe: 1.5 s, and some
TEMPORARY_LIFE_S = 3600.0  # of a file of hashes while it is written: far more than any disk takes
MAX_FOLDERS = 1000  # of models, looked at for such files
NEXT_LOOK_S = 30.0  # for files that somebody put into the models folder; what this node downloads is hashed by then


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """`service` for the gateway, `nearby` for the choice of a model."""

    service: FileService
    nearby: LanFiles


def make_files(
    settings: Settings,
    pool: WorkerPool,
    membership: Membership,
    client: PeerClient,
    describe: Callable[[], NodeDescription],
    say: Callable[[str], None],
) -> NodeFiles | None:
    """None for a node in no federation. For the event loop's thread."""
    if not settings.federated:
        return None
    loop = asyncio.get_running_loop()
    began_at = loop.time()

    def is_busy() -> bool:
        return any(state.slots_free < state.slots for state in pool.states())

    async def peers() -> Sequence[FilePeer]:
        await asyncio.sleep(max(0.0, began_at + SETTLE_S - loop.time()))
        return [FilePeer(peer.id, peer.label, peer.address) for peer in membership.alive()]

    def is_paired() -> bool:
        return describe().mode == "paired"

    def failed(node_id: str) -> None:
        membership.report_traffic(node_id, ok=False)

    nearby = LanFiles(client, peers, loop, say=say, believe_names=is_paired, failed=failed)
    return NodeFiles(FileService(SharedFiles(settings.own_models_dir), Transfers(is_busy)), nearby)


def bring(settings: Settings, nearby: LanFiles, name: str, sha256: str | None, stop: threading.Event) -> Path:
    """A model copied to this node's own folder: the file with that `sha256` from peers, else what `name` names.

    Blocks. Raises SetupError for what is nowhere to be had, and WorkStopped soon after `stop` is set.
    """
    found = None if sha256 is None else nearby.name_of(sha256)
    formats, folder = formats_here(settings), settings.own_models_dir
    try:
        ref = parse_model(name if found is None else f"hf:{found}")
        match ref:
            case HubRef():
                return download(file_of(ref, formats), folder, sha256=sha256, nearby=nearby, stop=stop)
            case CatalogueRef():
                choice = resolve(ref, Catalogue.load(), formats)
                return download_choice(choice, folder, nearby=nearby, stop=stop)
            case EmbeddedRef() | FileRef():
                raise SetupError("it comes with the program, or is a path of another machine")
    except SetupError as error:
        if found is not None:
            raise
        raise SetupError(f"no node here shares the file of {name}, and it cannot be had otherwise: {error}") from error


def what_to_pull(settings: Settings, name: str) -> Path | CatalogueChoice | HubRef:
    """What is here already; else what `name` is in the catalogue, or where it is on the hub. Raises SetupError."""
    catalogue, formats = Catalogue.load(), formats_here(settings)
    local = model_store(settings).look()
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
            here = local.called(str(ref))  # whoever brought it
            return here.path if here else file_of(ref, formats)
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


def fetch_wanted(
    settings: Settings,
    wanted: CatalogueChoice | HubRef,
    progress: Progress = no_progress,
    nearby: LanFiles | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Bring it into this node's own folder, from `nearby` first. Blocks. Raises as `download` does."""
    folder = settings.own_models_dir
    if isinstance(wanted, CatalogueChoice):
        return download_choice(wanted, folder, progress, nearby, stop)
    return download(wanted, folder, progress, nearby=nearby, stop=stop)


def pull_here(
    settings: Settings, nearby: LanFiles | None, name: str, progress: Progress, stop: threading.Event
) -> Path:
    """What `swarm models pull NAME` does: the model's path, wherever it was before. Blocks; raises as that does."""
    wanted = what_to_pull(settings, name)
    return wanted if isinstance(wanted, Path) else fetch_wanted(settings, wanted, progress, nearby, stop)


@asynccontextmanager
async def keeping_hashed(node_files: NodeFiles | None) -> AsyncGenerator[None]:
    """While it runs, what lies in the models folder is hashed, one file at a time, and so becomes known to peers."""
    if node_files is None:
        yield
        return
    files, stop = node_files.service.files, threading.Event()
    await asyncio.to_thread(remove_old_temporaries, files.folder)
    task = asyncio.create_task(_hash_all(files, stop), name="hashing models")
    try:
        yield
    finally:
        stop.set()
        await cancel_and_wait(task)


def remove_old_temporaries(models_dir: Path) -> None:
    """What killed processes left beside model files; not the partial files, which downloads go on with. Blocks.

    Other processes may download into the folder now, so that what is young is spared.
    """
    if models_dir.is_dir():
        for folder in islice(chain((models_dir,), models_dir.glob("*/"), models_dir.glob("*/*/")), MAX_FOLDERS):
            if PARTIAL_FOLDER not in folder.parts:
                remove_temporaries(folder, TEMPORARY_LIFE_S)


async def _hash_all(files: SharedFiles, stop: threading.Event) -> None:
    while True:
        try:
            while await asyncio.to_thread(files.hash_one, stop):
                pass
        except WorkStopped:
            return
        except Exception:  # a node without this goes on; its peers get their files elsewhere
            log.exception("the models folder cannot be hashed")
        await asyncio.sleep(NEXT_LOOK_S)
