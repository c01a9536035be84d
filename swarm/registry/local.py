"""Which models are on this machine: in the models folder, and in the hub's own cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from federation.printable_text import printable
from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice, Format
from swarm.registry.file_hashes import hashes_path
from swarm.registry.gguf_header import PROJECTOR, GgufFacts, is_later_part, read_gguf, stem_of, why_no_model
from swarm.registry.model_memory import ModelShape
from swarm.registry.names import CatalogueRef, is_catalogued, parse_model

MAX_DEPTH = 6  # the hub's cache has models--OWNER--REPO/snapshots/COMMIT/FOLDER/FILE
MAX_VISITED = 20_000  # folder entries looked at in one place: a home folder given by mistake must not take minutes
MAX_MODELS = 1000


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on disk. `id` is its full catalogue name where it is one, else its file's; `facts` is None for MLX."""

    id: str
    path: Path
    format: Format
    size_bytes: int
    in_catalogue: bool
    facts: GgufFacts | None


@dataclass(frozen=True, slots=True)
class LocalModels:
    """What a scan found; `problems` are files that look like models and cannot be used, each with the reason."""

    models: tuple[LocalModel, ...]
    problems: tuple[str, ...]

    def by_id(self) -> Mapping[str, LocalModel]:
        return {model.id: model for model in self.models}

    @property
    def own_names(self) -> tuple[str, ...]:
        """The ids of those that the catalogue does not have."""
        return tuple(model.id for model in self.models if not model.in_catalogue)

    def named(self, name: str) -> LocalModel | None:
        """The model that `name` names: by its id, the name or path of its file; in any case where only one fits.

        Raises SetupError where several do.
        """
        here = self.by_id()
        if name in here:
            return here[name]
        wanted = name.strip().casefold()
        path = Path(name).expanduser().resolve() if "/" in name or "\\" in name else None
        fitting = [model for model in self.models if wanted in _spellings(model) or model.path.resolve() == path]
        if len(fitting) > 1:
            raise SetupError(f"{name!r} may be {' or '.join(model.id for model in fitting)}: give one of them")
        return fitting[0] if fitting else None

    def measured(self) -> Mapping[str, ModelShape]:
        """Real numbers for the fit, by catalogue id, of those whose file tells them."""
        return {model.id: model.facts.shape for model in self.models if model.in_catalogue and model.facts}


def _spellings(model: LocalModel) -> set[str]:
    names = [model.id, model.path.name]
    if model.format == "gguf" and model.in_catalogue:  # of others it is the id, or means another model
        names.append(stem_of(model.path))
    return {name.strip().casefold() for name in names}


def scan(
    models_dir: Path,
    catalogue: Catalogue,
    hub_cache: bool = True,
    most_visited: int = MAX_VISITED,
) -> LocalModels:
    """Every usable model in `models_dir` and the hub's cache; of two with one id the first. Blocks.

    A folder that does not exist has no models; a file that cannot be read is a problem and not an error. Of each place
    `most_visited` folder entries are looked at, or some more.
    """
    found: dict[str, LocalModel] = {}
    problems: list[str] = []
    seen: set[Path] = set()
    places = [models_dir, *([hub_cache_dir()] if hub_cache else [])]
    for path in (path for place in places for path in _candidates(place, most_visited)):
        real = path.resolve()
        if real in seen or len(found) >= MAX_MODELS:
            continue
        seen.add(real)
        try:
            model = _mlx_model(path, catalogue) if path.is_dir() else _gguf_model(path, catalogue)
        except SetupError as error:
            problems.append(str(error))
            continue
        if model is not None:
            found.setdefault(model.id, model)
    return LocalModels(tuple(found.values()), tuple(problems))


def remove(model: LocalModel, models_dir: Path) -> int:
    """Delete a model that we downloaded, and its folder if that is empty then; returns the bytes freed.

    Raises SetupError for a model outside `models_dir`: it belongs to someone else.
    """
    if not model.path.resolve().is_relative_to(models_dir.resolve()):
        raise SetupError(f"{model.id} is in {model.path.parent}, not in {models_dir}: remove it there yourself")
    try:
        if model.path.is_dir():
            shutil.rmtree(model.path)
        for part in model.facts.parts if model.facts else [model.path] if model.path.is_file() else []:
            part.unlink()
            hashes_path(part).unlink(missing_ok=True)
        if model.path.parent != models_dir and not any(model.path.parent.iterdir()):
            model.path.parent.rmdir()
    except OSError as error:
        raise SetupError(f"cannot remove {model.path}: {error.strerror or error}") from error
    return model.size_bytes


def damaged(path: Path, models_dir: Path) -> LocalModel | None:
    """A file of ours that no model can be read from, to be removed; None where there is none. Blocks."""
    inside = path.resolve().is_relative_to(models_dir.resolve())
    if not inside or path.suffix.lower() != ".gguf" or not path.is_file():
        return None
    return LocalModel(printable(path.name), path, "gguf", path.stat().st_size, False, None)


def hub_cache_dir() -> Path:
    """Where huggingface_hub keeps what other programs downloaded; its rules, without importing it."""
    if explicit := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _candidates(place: Path, most_visited: int) -> Iterator[Path]:
    """GGUF files (first parts only) and folders that look like an MLX model, below `place`, in a stable order."""
    visited = 0
    pending = [(place, 0)]
    walked: set[Path] = set()  # links to folders are followed, round in circles only once
    while pending:
        folder, depth = pending.pop()
        if (real := folder.resolve()) in walked:
            continue
        walked.add(real)
        try:
            entries = sorted(folder.iterdir())
        except OSError:  # absent, not ours to read, or no folder
            continue
        visited += len(entries)
        names = {entry.name for entry in entries}
        if "config.json" in names and any(name.endswith(".safetensors") for name in names):
            yield folder
        yield from (e for e in entries if e.name.endswith(".gguf") and not is_later_part(e) and e.is_file())
        if depth < MAX_DEPTH and visited < most_visited:
            pending.extend((e, depth + 1) for e in reversed(entries) if not e.name.startswith(".") and e.is_dir())


def _gguf_model(path: Path, catalogue: Catalogue) -> LocalModel | None:
    """The model in `path`; None for the image half of one. Raises SetupError where it cannot be used."""
    facts = read_gguf(path)
    if facts.architecture == PROJECTOR:
        return None
    if (why := why_no_model(facts)) is not None:
        raise SetupError(why)
    choice = _choice_of_file(path, catalogue)
    return LocalModel(
        id=choice.id if choice else _own_name(path, catalogue),
        path=path,
        format="gguf",
        size_bytes=facts.size_bytes,
        in_catalogue=choice is not None,
        facts=facts,
    )


def _own_name(path: Path, catalogue: Catalogue) -> str:
    """The file's name without `.gguf`; with it where the name alone would mean another model."""
    stem = stem_of(path)
    try:
        ref = parse_model(stem)
    except SetupError:
        return stem
    is_free = isinstance(ref, CatalogueRef) and not is_catalogued(ref, catalogue)
    return stem if is_free else printable(path.name)


def _mlx_model(folder: Path, catalogue: Catalogue) -> LocalModel | None:
    """The model in `folder`; None for weights of another kind (plain transformers) that the catalogue does not name."""
    repo = _repo_of(folder)
    choice = next((c for c in catalogue.choices(formats=["mlx"]) if c.variant.place.lower() == repo), None)
    if choice is None and not (repo or "").startswith("mlx-community/"):
        return None
    try:
        size_bytes = sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise SetupError(f"cannot read {folder}: {error.strerror or error}") from error
    return LocalModel(
        choice.id if choice else printable(folder.name), folder, "mlx", size_bytes, choice is not None, None
    )


def _choice_of_file(path: Path, catalogue: Catalogue) -> CatalogueChoice | None:
    """The catalogue's variant with this file name, of this repository where the folder tells which."""
    repo = _repo_of(path.parent)
    named = (c for c in catalogue.choices(formats=["gguf"]) if (c.variant.file or "").lower() == path.name.lower())
    return next((choice for choice in named if repo in (None, choice.variant.place.lower())), None)


def _repo_of(folder: Path) -> str | None:
    """`owner/repo`, in lower case, of a folder in our own layout (OWNER--REPO) or the hub cache's; else None."""
    for part in (folder.name, *folder.parts[-4:-1][::-1]):
        owner, separator, repo = part.removeprefix("models--").partition("--")
        if separator and owner and repo:
            return f"{owner}/{repo}".lower()
    return None
