"""The models that Ollama keeps: manifests, by the model's name, that name their files by digest.

manifests/registry.ollama.ai/library/llama3.2/3b    {"layers": [{"mediaType": ..., "digest": "sha256:..."}, ...]}
blobs/sha256-...                                    the weights, a projector, a template (in Go's language)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from swarm.registry.found_files import MAX_DEPTH, FoundFile, Walked, json_object, unreadable

OLLAMA_HOST, OLLAMA_NAMESPACE = "registry.ollama.ai", "library"
OLLAMA_LAYER = "application/vnd.ollama.image."
HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


def is_ollama(folder: Path) -> bool:
    """Whether a folder is laid out as Ollama does."""
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


@dataclass(slots=True)
class _Manifest:
    """What a manifest names: its file of weights, and what goes with it."""

    name: str
    manifest: Path
    weights: list[str]  # digests
    projector: str | None = None
    template: str | None = None
    adapts: bool = False


def ollama_files(root: Path, walked: Walked, most_visited: int) -> Iterator[FoundFile | str]:
    """The models that manifests name, each file of weights once, with all of its names."""
    by_weights: dict[str, list[_Manifest]] = {}
    blobs = root / "blobs"
    for path in _manifests(root / "manifests", walked, most_visited):
        if isinstance(path, str):
            yield path
            continue
        read = _read_manifest(root, path)
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
            name=_short_name(first.name),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            file_id=(status.st_dev, status.st_ino),
            also=tuple(dict.fromkeys(name for model in models for name in _names(model.name))),
            sha256=digest,
            projector=projector if projector and projector.is_file() else None,
            template=_blob(blobs, first.template) if first.template else None,
        )


def _manifests(folder: Path, walked: Walked, most_visited: int) -> Iterator[Path | str]:
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
            if (problem := unreadable(inside, error, is_place=depth == 0)) is not None:
                yield problem
            continue
        yield from tags if depth >= 2 else ()
        if depth < MAX_DEPTH and visited < most_visited:
            pending.extend(reversed(inner))


def _read_manifest(root: Path, path: Path) -> _Manifest | str | None:
    """The model of a manifest; in a sentence why there is none; None for what keeps its weights elsewhere (a cloud)."""
    host, *between, model, tag = path.relative_to(root / "manifests").parts
    parts = [*between, model] if host == OLLAMA_HOST else [host, *between, model]
    name = f"{'/'.join(part for part in parts if part != OLLAMA_NAMESPACE or len(parts) > 2)}:{tag}"
    layers = cast("list[Any]", found) if isinstance(found := json_object(path).get("layers"), list) else None
    if layers is None:
        return f"Ollama's {name}: {path} is no manifest that can be read: `ollama pull {name}` brings it again"
    known = _Manifest(name, path, [])
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


def _missing_blob(models: Sequence[_Manifest], path: Path, error: OSError) -> str:
    names = ", ".join(model.name for model in models)
    if isinstance(error, FileNotFoundError):
        return (
            f"Ollama's {names} ({models[0].manifest}) points to {path}, which does not exist: "
            f"`ollama pull {models[0].name}` brings it again, `ollama rm` forgets it"
        )
    return f"Ollama's {names}: cannot read {path}: {error.strerror or error}; let this user read it"


def _names(name: str) -> Iterator[str]:
    yield name
    model, _, tag = name.rpartition(":")
    if tag == "latest":
        yield model
    host, _, rest = model.partition("/")
    if host in HUB_HOSTS and rest.count("/") == 1:
        yield f"hf:{rest}:{tag}" if tag != "latest" else f"hf:{rest}"
        yield f"hf:{rest}"


def _short_name(name: str) -> str:
    """A name without what says where it came from: `llama3.2:3b`, and for a file of the hub the file's."""
    model, _, tag = name.rpartition(":")
    host, _, rest = model.partition("/")
    short = rest.rpartition("/")[2] if rest else host
    if host in HUB_HOSTS:
        plain = re.sub(r"[-_.]gguf$", "", short, flags=re.IGNORECASE)
        return plain if tag == "latest" else f"{plain}-{tag}"
    return f"{short}:{tag}"
