"""Where the embedded models are: the small ones that serve with no network and no model on disk.

In a checkout they lie in `models/demo/`; in an installed package the same files lie inside `swarm`. Beside them are
their checksums, so that a damaged file is named before any native code reads it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import SetupError
from swarm.registry.names import EMBEDDED_NAMES

CHECKSUMS_FILE = "SHA256SUMS"  # in the form that `sha256sum --check` reads


@dataclass(frozen=True, slots=True)
class Installation:
    """Where this program lies: a checkout's root, and the folder that an installed package has instead."""

    root: Path
    packaged: Path


HERE = Installation(Path(__file__).resolve().parents[2], Path(__file__).resolve().parents[1] / "embedded_models")


def file_stem(name: str) -> str:
    """How the files of the model `name` are called: `demo:b` is in `demo-b.gguf`."""
    return name.replace(":", "-")


def embedded_folder(here: Installation = HERE) -> Path:
    """The folder of the embedded models: the installed package's, else the checkout's."""
    return here.packaged if here.packaged.is_dir() else here.root / "models" / "demo"


def embedded_model_path(name: str = EMBEDDED_NAMES[0], here: Installation = HERE) -> Path:
    """The file of the embedded model `name`, whole. Raises SetupError with the command that restores it."""
    path = embedded_folder(here) / f"{file_stem(name)}.gguf"
    problem = _problem_with(path)
    if problem is not None:
        remedy = f"restore it with `{_restoring(path, here)}`, or serve another with --model"
        raise SetupError(f"the embedded model {name!r} {problem}: {remedy}")
    return path


def is_shipped(path: Path) -> bool:
    """Whether `path`, wherever it lies, is byte for byte a model that comes with this program. Reads small files."""
    known = checksums(embedded_folder())
    shipped = {(embedded_folder() / name).stat().st_size for name in known if (embedded_folder() / name).is_file()}
    if not path.is_file() or path.stat().st_size not in shipped:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() in known.values()


def _problem_with(path: Path) -> str | None:
    """What keeps `path` from being used; None if it is the file that was shipped."""
    if not path.is_file():
        return f"is missing ({path} does not exist)"
    expected = checksums(path.parent).get(path.name)
    if expected is None:
        return f"cannot be checked ({path.parent / CHECKSUMS_FILE} does not list it)"
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        return f"is damaged ({path} is not the file that was shipped)"
    return None


def checksums(folder: Path) -> dict[str, str]:
    """File name -> sha256 in hex."""
    try:
        lines = (folder / CHECKSUMS_FILE).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _restoring(path: Path, here: Installation) -> str:
    """The command that brings the shipped files back."""
    if path.parent == here.packaged:
        return "python -m pip install --force-reinstall --no-deps WHEEL, with the wheel that this came in"
    return f"git -C {here.root} checkout -- models/demo"
