"""What the name of a model to be removed means, and its removal: of this program's own downloads, and nothing else.

`swarm models rm` and `DELETE /api/delete` have the same rules. Whether a node has the model loaded is theirs to ask.
Everything here blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from federation.printable_text import printable
from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue
from swarm.registry.download import PARTIAL_FOLDER, folder_name
from swarm.registry.gguf_header import read_gguf, stem_of
from swarm.registry.model_memory import size_text
from swarm.registry.names import CatalogueRef, EmbeddedRef, FileRef, HubRef, parse_model
from swarm.registry.stored import StoredModel, StoredModels, check_ours, damaged, remove
from swarm.registry.unfinished import arrived_bytes, drop_unfinished


class NotDownloaded(SetupError):
    """Nothing of that name lies in the models folder."""


@dataclass(frozen=True, slots=True)
class ArrivedOf:
    """What downloads that broke off have left of `name`: `places` says where each is from, and the file."""

    name: str
    places: tuple[tuple[str, str | None], ...]
    own_dir: Path

    @property
    def size_bytes(self) -> int:
        """What `carry_out` would free."""
        return sum(arrived_bytes(self.own_dir, *place) for place in self.places)

    @property
    def words(self) -> str:
        """What goes: after "removed"."""
        return f"what had arrived of {self.name} ({size_text(self.size_bytes)})"

    def carry_out(self) -> int:
        """Remove it; the bytes freed. Raises SetupError while it is being downloaded, and where the disk refuses."""
        return sum(drop_unfinished(self.own_dir, *place) for place in self.places)


@dataclass(frozen=True, slots=True)
class Removal:
    """A model of `own_dir` that is to go, with the `image_part` that nothing else needs."""

    model: StoredModel
    own_dir: Path
    image_part: Path | None

    @property
    def size_bytes(self) -> int:
        """Of the model, without its image part."""
        return self.model.size_bytes

    @property
    def words(self) -> str:
        """What goes: after "removed"."""
        part = self.image_part
        with_it = "" if part is None else f" and its image part {part.name} ({_size_of(part)})"
        return f"{self.model.id} ({size_text(self.size_bytes)}){with_it}"

    def carry_out(self) -> int:
        """Remove it; the bytes freed. Raises SetupError where the disk refuses."""
        return remove(self.model, self.own_dir, self.image_part)

    def stays(self) -> list[str]:
        """What there is of it all the same, a sentence each."""
        left_bytes = arrived_bytes(self.own_dir, self.model.path.parent.name.replace("--", "/", 1))
        unfinished = (
            f"{size_text(left_bytes)} of unfinished downloads from there stay in {self.own_dir / PARTIAL_FOLDER}"
        )
        copies = [f"a copy stays at {path}, which is not this program's to remove" for path in self.model.copies]
        return [*([unfinished] if left_bytes > 0 else []), *copies]


def removal_of(local: StoredModels, own_dir: Path, name: str, *, typed: bool = True) -> Removal | ArrivedOf:
    """What is to go by that name. Nothing is removed yet.

    `typed`: by a person, for whom any beginning of a name is enough that only one has, or a path. Raises NotDownloaded,
    and SetupError for what may be several, comes with this program or belongs to another one.
    """
    fitting = _meant(local, own_dir, name, typed)
    if len(fitting) > 1:
        raise SetupError(f"{name} may be {' or '.join(model.id for model in fitting)}: give one of them")
    if not fitting and (arrived := _arrived(own_dir, name)):
        return ArrivedOf(name, tuple(arrived), own_dir)
    if not fitting:
        ours = [model.id for model in local.models if model.path.is_relative_to(own_dir)]
        raise NotDownloaded(f"{name} is not downloaded; in {own_dir}: {', '.join(ours) or 'nothing'}")
    model = _own_copy(fitting[0], own_dir)
    check_ours(model, own_dir)
    return Removal(model, own_dir, _image_part(model, local, own_dir))


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


def _meant(local: StoredModels, own_dir: Path, name: str, typed: bool) -> list[StoredModel]:
    """The models of this disk that `name` may mean. Raises SetupError for what is never removed."""
    if (found := local.named(name) if typed else local.called(name)) is not None:
        return [found]
    match parse_model(name):
        case EmbeddedRef():
            raise SetupError(f"{name} comes with this program: it is not removed")
        case HubRef(repo, file):
            folder = own_dir / folder_name(repo)
            if file is not None:
                return [model for model in local.models if model.path == folder / file]
            return [model for model in local.models if folder in (model.path, *model.path.parents)]
        case CatalogueRef() as ref:
            parts = str(ref).split(":")
            return [m for m in local.models if m.in_catalogue and m.id.split(":")[: len(parts)] == parts]
        case FileRef() if not typed:
            return []
        case FileRef(path):
            folders = (path.parent, own_dir, *own_dir.glob("*/"))
            places = {(folder / path.name).resolve() for folder in folders}
            return [found for place in sorted(places) if (found := damaged(place, own_dir)) is not None]
