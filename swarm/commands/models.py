"""`swarm models`: what there is, what fits, bring one, remove one."""

from __future__ import annotations

import json

from hardware.probe import probe_hardware
from swarm.commands.file_peers import files_nearby
from swarm.commands.output import say
from swarm.commands.terminal import Terminal
from swarm.errors import SetupError
from swarm.node.model_choice import engine_memory, make_room
from swarm.node.settings import Settings
from swarm.registry.catalogue import Catalogue
from swarm.registry.download import download
from swarm.registry.local import LocalModel, LocalModels, remove, scan
from swarm.registry.memory import Load, size_text
from swarm.registry.names import CatalogueRef, HubRef, parse_model, resolve
from swarm.registry.table import FitRow, ListRow, fit_rows, fit_text, list_rows, list_text, row_json


def list_models(settings: Settings, as_json: bool) -> int:
    """Print every model of the catalogue and of this disk."""
    catalogue = Catalogue.load()
    rows = list_rows(catalogue, _scan(settings, catalogue))
    say(_json(rows) if as_json else list_text(rows), end="\n" if as_json else "")
    return 0


def fit_models(settings: Settings, load: Load, as_json: bool) -> int:
    """Print every model against this machine's free memory, best first."""
    catalogue = Catalogue.load()
    local = _scan(settings, catalogue)
    room = make_room(engine_memory(probe_hardware()), load, local)
    rows = fit_rows(catalogue.choices(formats=["gguf"]), room, local)
    say(_json(rows) if as_json else fit_text(rows, room), end="\n" if as_json else "")
    return 0


def pull_model(settings: Settings, name: str) -> int:
    """Bring `name`, a catalogue name or hf:OWNER/REPO/FILE, from a peer or from the hub, and print where it is."""
    terminal = Terminal()
    ref, sha256 = _what_to_pull(name)

    def progress(done_bytes: int, total_bytes: int | None) -> None:
        terminal.progress(name, done_bytes, total_bytes)

    with files_nearby(settings, terminal) as nearby:
        path = download(ref, settings.models_dir, progress, sha256=sha256, nearby=nearby)
    terminal.say(str(path))
    return 0


def _what_to_pull(name: str) -> tuple[HubRef, str | None]:
    """Where `name` is on the hub, and its sha256 where the catalogue has it. Raises SetupError."""
    match parse_model(name):
        case HubRef() as ref:
            return ref, None
        case CatalogueRef() as ref:
            variant = resolve(ref, Catalogue.load()).variant
            return HubRef(variant.repo, variant.file), variant.sha256
        case _:
            raise SetupError(
                f"{name!r} is not something to download: give NAME:SIZE[:QUANT] or hf:OWNER/REPO/FILE.gguf"
            )


def remove_model(settings: Settings, name: str) -> int:
    """Delete a downloaded model. Only what this program downloaded: the hub's own cache is other programs' too."""
    catalogue = Catalogue.load()
    found = _downloaded(scan(settings.models_dir, catalogue, hub_cache=False), name, catalogue)
    freed_bytes = remove(found, settings.models_dir)
    say(f"removed {found.id} ({size_text(freed_bytes)})")
    return 0


def _downloaded(local: LocalModels, name: str, catalogue: Catalogue) -> LocalModel:
    here = local.by_id()
    wanted = name
    if name not in here and isinstance(ref := parse_model(name), CatalogueRef):
        wanted = resolve(ref, catalogue).id
    if wanted not in here:
        raise SetupError(f"{name} is not downloaded; on this disk: {', '.join(here) or 'nothing'}")
    return here[wanted]


def _scan(settings: Settings, catalogue: Catalogue) -> LocalModels:
    return scan(settings.models_dir, catalogue)


def _json(rows: list[ListRow] | list[FitRow]) -> str:
    return json.dumps([row_json(row) for row in rows], indent=2)
