"""The embedded models: found, whole, and where they are not, named with the command that restores them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.registry.embedded import CHECKSUMS_FILE, Installation, embedded_folder, embedded_model_path
from swarm.registry.names import EMBEDDED_NAMES

TOGETHER_BYTES = 8 * 10**6
ONE_BYTES = 4 * 10**6


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The models of a checkout whose `demo` is whole."""
    folder = tmp_path / "models" / "demo"
    folder.mkdir(parents=True)
    (folder / "demo.gguf").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (folder / CHECKSUMS_FILE).write_text(f"{digest}  demo.gguf\n", encoding="ascii")
    return folder


@pytest.fixture
def here(checkout: Path, tmp_path: Path) -> Installation:
    return Installation(tmp_path, tmp_path / "embedded_models")


def test_every_shipped_model_is_whole_and_small() -> None:
    sizes = [embedded_model_path(name).stat().st_size for name in EMBEDDED_NAMES]
    assert max(sizes) <= ONE_BYTES
    assert sum(sizes) <= TOGETHER_BYTES


def test_the_siblings_differ() -> None:
    assert len({embedded_model_path(name).read_bytes() for name in EMBEDDED_NAMES}) == len(EMBEDDED_NAMES)


def test_a_whole_file_is_found(checkout: Path, here: Installation) -> None:
    assert embedded_model_path(here=here) == checkout / "demo.gguf"


def test_a_damaged_file_is_named_with_its_remedy(checkout: Path, here: Installation) -> None:
    (checkout / "demo.gguf").write_bytes(b"weight")
    with pytest.raises(SetupError, match=r"'demo' is damaged .*demo\.gguf.*`git -C .* checkout -- models/demo`"):
        embedded_model_path(here=here)


def test_a_missing_file_is_named_with_its_remedy(checkout: Path, here: Installation) -> None:
    with pytest.raises(SetupError, match=r"'demo:b' is missing .*demo-b\.gguf does not exist.*git -C"):
        embedded_model_path("demo:b", here)


@pytest.mark.parametrize("checksums", [b"", b"\xff\xfe", b"0000\n"])
def test_a_file_that_cannot_be_checked_is_not_used(checkout: Path, here: Installation, checksums: bytes) -> None:
    (checkout / CHECKSUMS_FILE).write_bytes(checksums)
    with pytest.raises(SetupError, match=f"cannot be checked .*{CHECKSUMS_FILE}"):
        embedded_model_path(here=here)


def test_an_installed_package_has_its_own(checkout: Path, here: Installation) -> None:
    packaged = checkout.rename(here.packaged)
    assert embedded_model_path(here=here) == packaged / "demo.gguf"
    assert embedded_folder(here) == packaged
    (packaged / "demo.gguf").unlink()
    with pytest.raises(SetupError, match="pip install --force-reinstall --no-deps WHEEL"):
        embedded_model_path(here=here)
