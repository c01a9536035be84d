"""The wheel: what a stranger gets from `pip install`, with the embedded models inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from swarm import VERSION

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as an installer lays them out."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_only_our_own_names_are_at_the_top(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"swarm", "federation", "hardware", "main.py"}


def test_every_embedded_model_is_found_inside(unpacked: Path) -> None:
    program = (
        "from swarm.registry.embedded import embedded_model_path\n"
        "from swarm.registry.names import EMBEDDED_NAMES\n"
        "print(*(embedded_model_path(name) for name in EMBEDDED_NAMES), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(unpacked)},
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert all(Path(line).is_relative_to(unpacked) for line in done.stdout.split())


def test_the_folder_for_mlx_and_the_card_are_inside(unpacked: Path) -> None:
    models = unpacked / "swarm" / "embedded_models"
    for name in ("hf/config.json", "hf/model.safetensors", "hf/tokenizer.json", "MODEL_CARD.md"):
        assert (models / name).is_file(), name


def test_the_files_of_the_service_are_inside(unpacked: Path) -> None:
    for name in ("swarm.service", "swarm.socket", "local-swarm.plist"):
        assert (unpacked / "swarm" / "deploy" / name).is_file(), name


def test_every_file_of_the_page_is_inside_and_nothing_else(unpacked: Path) -> None:
    page = Path("swarm/gateway/page/static")
    listed = subprocess.run(["git", "ls-files", page], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kept = {path.relative_to(unpacked).as_posix() for path in (unpacked / page).rglob("*") if path.is_file()}
    assert kept == set(listed.split()) != set()


def test_the_questions_of_the_measurements_are_inside(unpacked: Path) -> None:
    for name in ("arithmetic.jsonl", "tools.jsonl"):
        assert (unpacked / "swarm" / "evaluation" / "question_sets" / name).is_file(), name


def test_a_wheel_in_another_projects_checkout_does_not_take_its_commit(unpacked: Path) -> None:
    project = unpacked.parent
    (project / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "swarm.cli", "--version"],
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"local-swarm {VERSION}\n"


def test_the_wheel_has_the_program_s_version(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    assert f"\nVersion: {VERSION}\n" in metadata.read_text("utf-8")
