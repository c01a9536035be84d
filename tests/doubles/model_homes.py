"""A person's home in which other programs keep models: laid out as the Hugging Face cache, Ollama and LM Studio do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from swarm.registry.file_hashes import hash_file

VARIABLES = (
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HOME",
    "OLLAMA_MODELS",
    "LLAMA_CACHE",
)  # where else they may be
COMMIT = "9217f5db79a29953eb74d5343926648285ec7e67"


def into_hub_cache(home: Path, model: Path, repo: str, file: str) -> Path:
    """`model` as huggingface_hub keeps `file` of `repo`, which is OWNER/NAME: a link to a blob."""
    folder = home / ".cache" / "huggingface" / "hub" / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hash_file(model).sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, blob)
    link = folder / "snapshots" / COMMIT / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(Path("../../blobs") / blob.name)
    return link


def into_ollama(home: Path, model: Path, name: str) -> Path:
    """`model` as Ollama keeps what it pulled as `name`, which is MODEL:TAG. The blob."""
    root, digest = home / ".ollama" / "models", hash_file(model).sha256
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, blob)
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / name.replace(":", "/")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layer = {
        "mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": blob.stat().st_size,
    }  # fmt: skip
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    return blob


def into_lm_studio(home: Path, model: Path, repo: str, file: str) -> Path:
    """`model` as LM Studio keeps `file` of `repo`, which is PUBLISHER/NAME."""
    path = home / ".lmstudio" / "models" / repo / file
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, path)
    return path
