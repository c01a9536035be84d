"""Where models lie here, by the rules of each program that keeps some, and what their files are called there.

    own           DATA_DIR/models: OWNER--REPO/FILE.gguf as downloads make it, and whatever else was put there
    hugging face  HF_HUB_CACHE, HF_HOME/hub: models--OWNER--REPO/snapshots/COMMIT/FILE, links to blobs/SHA256
    ollama        OLLAMA_MODELS, ~/.ollama/models, those of its system service: manifests that name blobs by digest
    lm studio     the folder that its settings name, else its home's: PUBLISHER/REPO/FILE.gguf
    llama.cpp     LLAMA_CACHE, else the cache folder's llama.cpp: OWNER_REPO_FILE.gguf, with manifests
    folder        what was named with --models-dir: any of these layouts
    package       Python packages that carry a GGUF file

Nothing here reads a model or writes. `stored.py` has what is made of it.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from swarm.registry.found_files import (
    MAX_VISITED,
    FoundFile,
    ModelPlace,
    Walked,
    json_object,
    small_text,
    unreadable,
    walk,
)
from swarm.registry.gguf_header import stem_of
from swarm.registry.model_ids import repo_of
from swarm.registry.ollama_files import is_ollama, ollama_files
from swarm.registry.package_files import package_files

SYSTEM_OLLAMA = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models", "/var/lib/ollama/models")


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where to look, the best places first; with `packages` in the Python packages of this process too."""

    places: tuple[ModelPlace, ...]
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
        places = [ModelPlace("own", own_dir), *known.hub(), *known.lm_studio(), *known.llama_cpp(), *known.ollama()]
        places += [ModelPlace("folder", folder.expanduser()) for folder in extra]
        return ModelPlaces(tuple(dict.fromkeys(places)))

    def files(self, stop: threading.Event | None = None, most_visited: int = MAX_VISITED) -> Iterator[FoundFile | str]:
        """What lies there, and in a sentence each what can be no model. Blocks. WorkStopped soon after `stop` is set.

        Of each place `most_visited` folder entries are looked at, or some more.
        """
        walked = Walked(stop)
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

    def hub(self) -> Iterator[ModelPlace]:
        """huggingface_hub's rules, without importing it; llama.cpp downloads to the same place since 2026."""
        explicit = self.folder("HF_HUB_CACHE") or self.folder("HUGGINGFACE_HUB_CACHE")
        home = self.folder("HF_HOME") or (self.folder("XDG_CACHE_HOME") or self.home / ".cache") / "huggingface"
        yield ModelPlace("hugging face", explicit or home / "hub")

    def lm_studio(self) -> Iterator[ModelPlace]:
        pointed: list[Path] = []
        with suppress(OSError, UnicodeDecodeError):
            pointed = [Path(small_text(self.home / ".lmstudio-home-pointer").strip().partition("\n")[0].strip())]
        homes = [folder for folder in pointed if folder.parts and folder.is_absolute()]
        homes += [self.home / ".lmstudio", self.home / ".cache" / "lm-studio"]
        settings = [folder / "settings.json" for folder in homes]
        if self.platform == "darwin":
            settings.append(self.home / "Library" / "Application Support" / "LM Studio" / "settings.json")
        if self.platform == "win32" and (roaming := self.folder("APPDATA")):
            settings.append(roaming / "LM Studio" / "settings.json")
        for path in settings:
            named = json_object(path).get("downloadsFolder")
            if isinstance(named, str) and named.strip():
                yield ModelPlace("lm studio", Path(named.strip()).expanduser())
        for folder in homes:
            yield ModelPlace("lm studio", folder / "models")
            yield ModelPlace("lm studio", folder / ".internal" / "bundled-models")

    def llama_cpp(self) -> Iterator[ModelPlace]:
        if (explicit := self.folder("LLAMA_CACHE")) is not None:
            yield ModelPlace("llama.cpp", explicit)
        elif self.platform == "darwin":
            yield ModelPlace("llama.cpp", self.home / "Library" / "Caches" / "llama.cpp")
        elif self.platform == "win32":
            yield ModelPlace(
                "llama.cpp", (self.folder("LOCALAPPDATA") or self.home / "AppData" / "Local") / "llama.cpp"
            )
        else:
            yield ModelPlace("llama.cpp", (self.folder("XDG_CACHE_HOME") or self.home / ".cache") / "llama.cpp")

    def ollama(self) -> Iterator[ModelPlace]:
        if (explicit := self.folder("OLLAMA_MODELS")) is not None:
            yield ModelPlace("ollama", explicit)
        yield ModelPlace("ollama", self.home / ".ollama" / "models")
        if self.platform not in ("win32", "darwin"):
            yield from (ModelPlace("ollama", Path(folder)) for folder in SYSTEM_OLLAMA)


def _files(place: ModelPlace, walked: Walked, most_visited: int) -> Iterator[FoundFile | str]:
    try:
        yield from _files_in(place, walked, most_visited)
    except OSError as error:  # of a folder in which nothing can be asked for
        if (problem := unreadable(os.fspath(place.folder), error, is_place=True)) is not None:
            yield problem


def _files_in(place: ModelPlace, walked: Walked, most_visited: int) -> Iterator[FoundFile | str]:
    """Raises OSError."""
    folder = place.folder
    if place.source == "ollama" or (place.source == "folder" and is_ollama(folder)):
        yield from ollama_files(folder, walked, most_visited)
        return
    if place.source == "folder" and not folder.is_dir():
        why = "is no folder" if folder.exists() else "does not exist"
        yield f"--models-dir {folder} {why}: give the folder that the models are in"
        return
    hub_repos = _llama_cpp_repos(folder) if place.source == "llama.cpp" else {}
    for found in walk(place, walked, most_visited):
        yield found if isinstance(found, str) else _named(found, place, hub_repos)


def _named(found: FoundFile, place: ModelPlace, hub_repos: Mapping[str, str]) -> FoundFile:
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
