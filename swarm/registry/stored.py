"""The models that lie on a disk of this machine, whatever program put them there: one content, one model, one id.

`ModelStore.look` walks the places (`places.py`), reads what is new or changed (`model_index.py`), joins what has the
same content, gives each its id (`model_ids.py`), and says in a sentence each what cannot be used. Nothing is written,
moved or deleted outside the data directory.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from federation.printable_text import printable
from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice, Format
from swarm.registry.embedded import embedded_folder, embedded_model_path, file_stem
from swarm.registry.file_hashes import WorkStopped, hashes_path
from swarm.registry.found_files import SOURCES, FoundFile, ModelOrigin, file_at
from swarm.registry.gguf_header import GgufFacts, is_projector, read_gguf, why_no_model
from swarm.registry.mlx_folder import is_mlx_folder
from swarm.registry.model_ids import AmbiguousModel, NameClaim, NamesOfCatalogue, assign_ids, meant
from swarm.registry.model_index import MAX_KEPT, IndexEntry, ModelIndex
from swarm.registry.model_memory import ModelShape
from swarm.registry.names import EMBEDDED_NAMES
from swarm.registry.places import ModelPlaces

MAX_MODELS = 1000
MOST_BESIDE = 16  # image parts in one folder
LOOK_AGAIN_S = 30.0
READERS = 3  # threads: more would only move the heads of a slow disk
SAVE_EVERY_S = 2.0  # while a slow disk is read for the first time

ModelRole = Literal["writes", "embeds", "reranks"]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on disk. `id` is its full catalogue name where it is one, else made of its file's.

    `path` is its first part, or its folder; `size_bytes` is of all parts. `fingerprint` (64 hex) is of its header;
    `sha256` of its file, where that is known without hashing it, `modified_s` when that was last changed (Unix time).
    `facts` is None of a file that is damaged. `also` are other names that mean it; `projector` is its image part,
    `template` what Ollama keeps as its chat template (in Go's language).
    """

    id: str
    path: Path
    format: Format
    size_bytes: int
    source: ModelOrigin
    fingerprint: str
    sha256: str | None
    facts: GgufFacts | None
    in_catalogue: bool
    also: tuple[str, ...] = ()
    projector: Path | None = None
    template: Path | None = None
    copies: tuple[Path, ...] = ()
    modified_s: float | None = None

    @property
    def role(self) -> ModelRole:
        """What it is for: to write, to turn text into vectors, or to score texts against a question."""
        if self.facts is None or not self.facts.embeds_only:
            return "writes"
        return "reranks" if self.facts.reranks else "embeds"

    @property
    def listed(self) -> bool:
        """Whether clients are told of it while it is not loaded: not of the embedded ones, which every node has."""
        return self.source != "embedded"


@dataclass(frozen=True, slots=True)
class StoredModels:
    """What a look found; `problems` are what looks like a model and cannot be used, a sentence each.

    `reserved` are names of the catalogue: they are no beginnings of other names.
    """

    models: tuple[StoredModel, ...] = ()
    problems: tuple[str, ...] = ()
    reserved: frozenset[str] = field(default=frozenset(), repr=False)

    def by_id(self) -> Mapping[str, StoredModel]:
        return {model.id: model for model in self.models}

    @property
    def own_names(self) -> tuple[str, ...]:
        """The ids of those that the catalogue does not have, without the embedded ones."""
        return tuple(model.id for model in self.models if not model.in_catalogue and model.listed)

    def named(self, name: str) -> StoredModel | None:
        """The model that a person names: by id, another name, its path, or a beginning that only one has.

        Raises SetupError where several may be meant.
        """
        if (found := self._at_path(name)) is not None:
            return found
        if name.strip().lower() in self.reserved:
            return self.called(name)
        return self._meant(name, {model.id: model.also for model in self.models})

    def problem_with(self, name: str) -> str | None:
        """Why the file or the model that is called `name` cannot be used, where one of `problems` is about it."""
        wanted = name.strip().casefold()
        called = re.compile(rf"(?:[/\\]{re.escape(wanted)}(?:\.gguf)?|ollama's {re.escape(wanted)})(?=[\s:,;]|$)")
        subjects = (problem.partition(" (beside it")[0] for problem in self.problems)
        found = (whole for whole, said in zip(self.problems, subjects, strict=True) if called.search(said.casefold()))
        return next(found, None) if wanted else None

    def called(self, name: str) -> StoredModel | None:
        """The model that has exactly this id or other name, in any case. Raises SetupError where several have it."""
        wanted = name.strip().casefold()
        known = {model.id: model.also for model in self.models}
        return self._meant(
            name, {id_: also for id_, also in known.items() if wanted in {text.casefold() for text in (id_, *also)}}
        )

    def _meant(self, name: str, known: Mapping[str, Collection[str]]) -> StoredModel | None:
        try:
            id_ = meant(name, known, loose=True)
        except AmbiguousModel as error:
            raise SetupError(str(error)) from error
        return None if id_ is None else self.by_id()[id_]

    def _at_path(self, name: str) -> StoredModel | None:
        if "/" not in name and "\\" not in name:
            return None
        try:
            path = Path(name).expanduser().resolve()
        except (OSError, RuntimeError, ValueError):
            return None
        return next((model for model in self.models if model.path.resolve() == path), None)

    def measured(self) -> Mapping[str, ModelShape]:
        """Real numbers for the fit, by catalogue id, of those whose file tells them."""
        return {model.id: model.facts.shape for model in self.models if model.in_catalogue and model.facts}


class ModelStore:
    """The models of `places`. Every method blocks and may be called from any thread.

    `index` is the file in which is kept what was read, of `most_kept` files; None keeps it in memory alone. Of more
    than `most_models` the last found are left out.
    """

    def __init__(
        self,
        places: ModelPlaces,
        catalogue: Catalogue,
        index: Path | None = None,
        most_models: int = MAX_MODELS,
        most_kept: int = MAX_KEPT,
    ) -> None:
        self._places = places
        self._most_models = most_models
        self._names = NamesOfCatalogue(catalogue)
        self._index = ModelIndex(index, most_kept)
        self._lock = threading.Lock()
        self._named: dict[Path, None] = {}
        self._looked_at: float | None = None
        self._latest = StoredModels()

    @property
    def latest(self) -> StoredModels:
        """What the last look found; empty before the first. Reads no disk."""
        return self._latest

    def at(self, path: Path) -> StoredModel:
        """The model in the file that somebody named by its path, wherever it lies; looks find it from now on.

        It keeps its name, whatever else is called so. Reads that file alone. Raises SetupError where it is no model.
        """
        with self._lock:
            try:
                found = file_at(path)
            except OSError:
                read_gguf(path)  # which says what is wrong, and the remedy
                raise
            shipped = (file for file in _embedded() if isinstance(file, FoundFile))
            found = next((file for file in shipped if file.file_id == found.file_id), found)
            file = _ReadFile((found,), self._index.entry(found))
            known = next((model for model in self._latest.models if model.path.resolve() == path.resolve()), None)
            if known is not None:
                return known
            if file.entry.defect is not None:
                raise SetupError(file.entry.defect)
            if file.entry.facts is not None and (why := why_no_model(file.entry.facts)) is not None:
                raise SetupError(why)
            if found.is_named:
                self._named[path] = None
            self._index.save()
            content = _Content((file,), "")
            claim = content.claim(self._names)
            return content.model(claim.name, claim, self._names, {path.parent: self._projectors_at(path.parent)})

    def _projectors_at(self, folder: Path) -> list[_ReadFile]:
        """The image parts in a folder, by their names: what else is there is not read."""
        read: list[_ReadFile] = []
        for path in [path for path in sorted(folder.glob("*.gguf")) if "mmproj" in path.name.lower()][:MOST_BESIDE]:
            with suppress(OSError):  # it is gone
                found = file_at(path)
                entry = self._index.entry(found)
                if entry.facts is not None and is_projector(entry.facts):
                    read.append(_ReadFile((found,), entry))
        return read

    def look(self, max_age_s: float = LOOK_AGAIN_S, stop: threading.Event | None = None) -> StoredModels:
        """What is there, looked at again where the last look is older. One looks at a time, others wait for it.

        Raises WorkStopped soon after `stop` is set; what was read until then is kept.
        """
        with self._lock:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at >= max_age_s:
                try:
                    self._latest = self._look(stop)
                finally:
                    self._index.save()
                self._looked_at = now
            return self._latest

    def _look(self, stop: threading.Event | None) -> StoredModels:
        problems: dict[str, None] = {}
        files: dict[tuple[int, int], list[FoundFile]] = {}  # links to one file are one file
        for found in (*_embedded(), *self._named_files(), *self._places.files(stop)):
            if isinstance(found, str):
                problems[found] = None
            elif found.is_folder and not (self._names.is_mlx_repo(found.repo) or is_mlx_folder(found.path)):
                continue  # weights of another kind
            elif found.file_id in files or len(files) < self._most_models:
                files.setdefault(found.file_id, []).append(found)
            else:
                most = self._most_models
                problems[f"more than {most} model files are here: those after {most} are left out"] = None
        entries = self._entries([links[0] for links in files.values()], stop)
        read = [_ReadFile(tuple(links), entry) for links, entry in zip(files.values(), entries, strict=True)]
        return self._of(read, list(problems))

    def _entries(self, files: Sequence[FoundFile], stop: threading.Event | None) -> list[IndexEntry]:
        """What is known of each file; those that are new are read by a few threads: it is hashing, and waiting."""
        known = [self._index.known(file) for file in files]
        unread = [file for file, entry in zip(files, known, strict=True) if entry is None]
        if unread:
            with ThreadPoolExecutor(READERS, thread_name_prefix="models") as readers:
                reading = [readers.submit(self._index.entry, file) for file in unread]
                saved_at = time.monotonic()
                for _ in as_completed(reading):
                    if stop is not None and stop.is_set():
                        readers.shutdown(wait=False, cancel_futures=True)
                        raise WorkStopped
                    if time.monotonic() - saved_at > SAVE_EVERY_S:
                        self._index.save()
                        saved_at = time.monotonic()
        return [entry or self._index.entry(file) for file, entry in zip(files, known, strict=True)]

    def _named_files(self) -> Iterator[FoundFile]:
        for path in self._named:
            with suppress(OSError):  # it is gone
                yield file_at(path)

    def _of(self, read: Sequence[_ReadFile], problems: list[str]) -> StoredModels:
        usable: list[_ReadFile] = []
        projectors: dict[Path, list[_ReadFile]] = {}  # by folder
        for file in read:
            facts = file.entry.facts
            if file.entry.defect is not None:
                problems.append(file.entry.defect)
            elif facts is not None and is_projector(facts):
                projectors.setdefault(file.best.path.parent, []).append(file)
            elif facts is not None and (why := why_no_model(facts)) is not None:
                problems.append(why)
            else:
                usable.append(file)
        contents = self._joined(usable)
        claims = [content.claim(self._names) for content in contents]
        ids = assign_ids(claims)
        models = tuple(
            content.model(ids[claim], claim, self._names, projectors)
            for content, claim in zip(contents, claims, strict=True)
        )
        problems += _alone(projectors, models)
        return StoredModels(models, tuple(dict.fromkeys(problems)), self._names.taken)

    def _joined(self, files: Sequence[_ReadFile]) -> list[_Content]:
        """The files by their content, in the order in which they were found."""
        by_header: dict[str, list[_ReadFile]] = {}
        for file in files:
            by_header.setdefault(file.entry.fingerprint, []).append(file)
        contents: dict[tuple[str, str], list[_ReadFile]] = {}
        for fingerprint, alike in by_header.items():
            hashes = [file.sha256 or "" for file in alike]
            if len(alike) > 1 and not all(hashes):  # what only one of them has tells nothing
                hashes = [self._index.sampled(file.links[0]) for file in alike]
            for file, content in zip(alike, hashes, strict=True):
                contents.setdefault((fingerprint, content if len(alike) > 1 else ""), []).append(file)
        return [_Content(tuple(alike), content) for (_, content), alike in contents.items()]


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """One file, by all links to it, and what was read of it."""

    links: tuple[FoundFile, ...]
    entry: IndexEntry

    @property
    def best(self) -> FoundFile:
        return min(self.links, key=_rank)

    @property
    def sha256(self) -> str | None:
        """Of the file; None of a model in several."""
        if len(self.entry.state) > 1:
            return None
        return self.entry.sha256 or next((link.sha256 for link in self.links if link.sha256), None)


def _rank(found: FoundFile) -> int:
    return -1 if found.is_named else SOURCES.index(found.source)


@dataclass(frozen=True, slots=True)
class _Content:
    """One content, by all files that have it; `content` tells it from others with its header, "" where none are."""

    files: tuple[_ReadFile, ...]
    content: str

    @property
    def links(self) -> list[FoundFile]:
        """The best to use first."""
        return sorted((link for file in self.files for link in file.links), key=_rank)

    @property
    def sha256(self) -> str | None:
        return next((file.sha256 for file in self.files if file.sha256), None)

    def choice(self, names: NamesOfCatalogue) -> CatalogueChoice | None:
        for link in self.links:
            if link.is_folder:
                found = names.mlx_choice(link.repo)
            else:
                found = names.choice((link.path.name, *link.also), link.repo, self.sha256)
            if found is not None:
                return found
        return None

    def claim(self, names: NamesOfCatalogue) -> NameClaim:
        """What it wants to be called: as shipped, as in the catalogue, else as the first file of the best place."""
        fingerprint = self.files[0].entry.fingerprint
        links = self.links
        if links[0].source == "embedded":
            return NameClaim(links[0].name, 0, fingerprint, self.content)
        if (choice := self.choice(names)) is not None:
            return NameClaim(choice.id, _rank(links[0]), fingerprint, self.content)
        chosen = min(links, key=lambda link: (_rank(link), link.name.lower()))
        is_plain = chosen.source == "ollama" and ":" in chosen.name
        ending = ".mlx" if chosen.is_folder else ".gguf"
        name = chosen.name.lower() if is_plain else names.id_of_stem(chosen.name, ending)
        return NameClaim(name, _rank(links[0]), fingerprint, self.content)

    def model(
        self, id_: str, claim: NameClaim, names: NamesOfCatalogue, projectors: Mapping[Path, Sequence[_ReadFile]]
    ) -> StoredModel:
        """The model, called `id_`."""
        file = min(self.files, key=lambda file: _rank(file.best))
        best, choice, facts = file.best, self.choice(names), file.entry.facts
        also: dict[str, str] = {}  # by spelling
        for link in self.links:
            is_own = choice is not None or link.source == "embedded" or names.is_free(link.name)
            quant = [f"hf:{link.repo}:{facts.quant}"] if link.repo and facts and facts.quant else []
            for name in (*link.also, *quant, *([link.name] if is_own else [])):
                also.setdefault(name.casefold(), printable(name))  # peers and clients read them
        also.pop(id_.casefold(), None)
        if id_ != claim.name:
            also.pop(claim.name.casefold(), None)  # that is another one's
        return StoredModel(
            id=id_,
            path=best.path,
            format="mlx" if best.is_folder else "gguf",
            size_bytes=facts.size_bytes if facts and not best.is_folder else best.size_bytes,
            source=best.source,
            fingerprint=file.entry.fingerprint,
            sha256=self.sha256,
            facts=facts,
            in_catalogue=choice is not None and best.source != "embedded",
            also=tuple(also.values()),
            projector=next((link.projector for link in self.links if link.projector), None)
            or self._projector_beside(projectors),
            template=next((link.template for link in self.links if link.template), None),
            copies=tuple(other.best.path for other in self.files if other is not file),
            modified_s=best.mtime_ns / 1e9,
        )

    def _projector_beside(self, projectors: Mapping[Path, Sequence[_ReadFile]]) -> Path | None:
        for link in self.links:
            beside = [file.best for file in projectors.get(link.path.parent, ())]
            own = _words(link.name)
            fitting = [found for found in beside if link.repo is not None or (_words(found.name) or {""}) <= own]
            if fitting:
                return min(fitting, key=lambda found: _projector_rank(found, own)).path
        return None


# Of several image parts of one model: what differs by words of the name is another's; of formats the usual one first.
_PROJECTOR_FORMATS = ("f16", "bf16", "q8_0", "f32")
_NO_NAMES = frozenset({"mmproj", "model", "gguf", "f16", "bf16", "f32", "q8", "0"})


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower())) - _NO_NAMES - {""}


def _projector_rank(found: FoundFile, own: set[str]) -> tuple[int, int, str]:
    name = found.name.lower()
    formats = [number for number, text in enumerate(_PROJECTOR_FORMATS) if re.search(rf"(^|[^a-z]){text}$", name)]
    return len(_words(name) - own), min(formats, default=len(_PROJECTOR_FORMATS)), name


def _alone(projectors: Mapping[Path, Sequence[_ReadFile]], models: Iterable[StoredModel]) -> Iterator[str]:
    """The image parts whose model is not here."""
    taken = {model.projector.parent for model in models if model.projector is not None}
    for folder, files in projectors.items():
        for file in files if folder not in taken else ():
            if file.entry.facts is not None and (why := why_no_model(file.entry.facts)) is not None:
                yield why


def _embedded() -> Iterator[FoundFile | str]:
    for name in EMBEDDED_NAMES:
        path = embedded_folder() / f"{file_stem(name)}.gguf"
        try:
            status = path.stat()
        except OSError:
            try:
                embedded_model_path(name)  # which says what is missing, and what restores it
            except SetupError as error:
                yield str(error)
            continue
        yield FoundFile(
            path=path,
            source="embedded",
            name=name,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            file_id=(status.st_dev, status.st_ino),
            also=(path.name,),
        )


def check_ours(model: StoredModel, own_dir: Path) -> None:
    """Raises SetupError for a model that is not this program's to remove: it comes with it, or is not in `own_dir`."""
    if model.source == "embedded":
        raise SetupError(f"{model.id} comes with this program: it is not removed")
    if not model.path.resolve().is_relative_to(own_dir.resolve()):
        raise SetupError(f"{model.id} is in {model.path.parent}, not in {own_dir}: remove it there yourself")


def remove(model: StoredModel, own_dir: Path, image_part: Path | None = None) -> int:
    """Delete a model that we downloaded, then its image part, and its folder if that is empty; the bytes freed.

    Raises SetupError as `check_ours` does, and where the disk refuses.
    """
    check_ours(model, own_dir)
    freed = model.size_bytes
    try:
        parts = model.facts.parts if model.facts else (model.path,)
        if model.path.is_dir():
            parts = ()
            shutil.rmtree(model.path)
        for part in parts:
            part.unlink()
            hashes_path(part).unlink(missing_ok=True)
        if image_part is not None and image_part.exists():
            freed += image_part.stat().st_size
            image_part.unlink(missing_ok=True)
            hashes_path(image_part).unlink(missing_ok=True)
        if model.path.parent != own_dir and not any(model.path.parent.iterdir()):
            model.path.parent.rmdir()
    except OSError as error:
        raise SetupError(f"cannot remove {error.filename or model.path}: {error.strerror or error}") from error
    return freed


def damaged(path: Path, own_dir: Path) -> StoredModel | None:
    """A file of ours that no model can be read from, to be removed; None where there is none. Blocks."""
    inside = path.resolve().is_relative_to(own_dir.resolve())
    if not inside or path.suffix.lower() != ".gguf" or not path.is_file():
        return None
    size_bytes = path.stat().st_size
    return StoredModel(printable(path.name), path, "gguf", size_bytes, "own", "", None, None, in_catalogue=False)
