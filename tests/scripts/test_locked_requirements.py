"""requirements/*.txt: exact versions with hashes of all that pyproject.toml asks for, and nothing of where from."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("build", "run", "test")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = PROJECT["project"]["dependencies"]
DEV = PROJECT["project"]["optional-dependencies"]["dev"]
BUILD = PROJECT["build-system"]["requires"]
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(name: str) -> list[str]:
    """The requirements of a lock file, each with its hashes on one line."""
    joined = LOCKS[name].read_text().replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def locked(name: str) -> dict[str, list[Requirement]]:
    """What is locked, by package; several where systems or versions of Python differ."""
    found: dict[str, list[Requirement]] = {}
    for entry in entries(name):
        requirement = Requirement(entry.partition(" --hash")[0])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_one_version_and_the_hashes_of_its_files(name: str) -> None:
    assert entries(name)
    for entry in entries(name):
        requirement, *hashes = re.split(r"\s+(?=--hash)", entry)
        assert hashes, requirement
        assert all(HASH.fullmatch(one) for one in hashes), requirement
        assert len(set(hashes)) == len(hashes), requirement
        (only,) = Requirement(requirement).specifier
        assert only.operator == "==", requirement
        assert "*" not in only.version, requirement


@pytest.mark.parametrize("name", LOCKS)
def test_nothing_says_where_the_files_come_from(name: str) -> None:
    text = LOCKS[name].read_text()
    for sign in ("://", "index-url", "find-links", "trusted-host", " @ ", "file:"):
        assert sign not in text


@pytest.mark.parametrize(("name", "wanted"), [("run", CORE), ("test", [*CORE, *DEV, *BUILD]), ("build", BUILD)])
def test_what_the_project_asks_for_is_locked_within_its_range(name: str, wanted: list[str]) -> None:
    """`./scripts/lock` mends it."""
    there = locked(name)
    for text in wanted:
        requirement = Requirement(text)
        pins = there.get(canonicalize_name(requirement.name), [])
        assert pins, f"{text} is not in {LOCKS[name]}: run ./scripts/lock"
        for pin in pins:
            (only,) = pin.specifier
            assert requirement.specifier.contains(Version(only.version), prereleases=True), f"{pin} is not {text}"


@pytest.mark.parametrize("name", ["run", "build"])
def test_what_is_tested_is_what_runs(name: str) -> None:
    tested = {package: {str(pin.specifier) for pin in pins} for package, pins in locked("test").items()}
    for package, pins in locked(name).items():
        assert {str(pin.specifier) for pin in pins} <= tested[package], package


def test_an_editable_install_needs_nothing_that_is_not_locked() -> None:
    assert "editables" in locked("build")
    assert "editables" in locked("test")


def test_the_image_takes_only_what_is_locked() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [step for step in re.split(r"&&|\n", text) if re.search(r"pip (install|wheel)", step)]
    assert len(steps) == 4
    for step in steps:
        assert "--no-deps" in step, step
        assert "--require-hashes" in step or "--no-build-isolation" in step or "--no-index" in step, step


FAKE_PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [ "$1 $2" = "-m pip" ]; then shift 3; echo "$@" >> "$PIP_LOG"; fi
exit 0
"""


@pytest.mark.parametrize(
    ("name", "environment", "installs"),
    [
        (
            "run",
            {},
            [
                "--require-hashes --no-deps -r ROOT/requirements/build.txt",
                "--require-hashes --no-deps -r ROOT/requirements/run.txt",
                "--no-deps --no-build-isolation --editable ROOT",
            ],
        ),
        (
            "test",
            {},
            [
                "--require-hashes --no-deps -r ROOT/requirements/test.txt",
                "--no-deps --no-build-isolation --editable ROOT",
            ],
        ),
        (
            "test",
            {"SWARM_TEST_EXTRAS": "[dev,recipe]"},
            [
                "--require-hashes --no-deps -r ROOT/requirements/test.txt",
                "--no-build-isolation --editable ROOT[dev,recipe]",
            ],
        ),
        ("run", {"SWARM_UNLOCKED": "1"}, ["--editable ROOT"]),
    ],
)
def test_the_scripts_take_only_what_is_locked(
    tmp_path: Path, name: str, environment: dict[str, str], installs: list[str]
) -> None:
    python, log = tmp_path / "python3", tmp_path / "pip.log"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    clean = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "SWARM_VENV": str(tmp_path / "venv"), "PIP_LOG": str(log)}
    for _ in range(2):  # the second time everything is there
        script = ["sh", str(ROOT / "scripts" / name), "--help"]
        subprocess.run(script, env={**clean, **environment}, check=True, capture_output=True, timeout=60)
    done = log.read_text().replace(str(ROOT), "ROOT").splitlines()
    assert [line.replace("--quiet --disable-pip-version-check ", "") for line in done] == installs


def test_an_environment_is_made_anew_when_what_is_locked_changes(tmp_path: Path) -> None:
    root, log, python = tmp_path / "root", tmp_path / "pip.log", tmp_path / "python3"
    for folder in ("scripts", "requirements"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "pyproject.toml", root)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    clean = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "PIP_LOG": str(log)}
    counts: list[int] = []
    for changed in (None, "requirements/run.txt", None, "pyproject.toml"):
        if changed is not None:
            with (root / changed).open("a") as file:
                file.write("# changed\n")
        subprocess.run(["sh", str(root / "scripts" / "run")], env=clean, check=True, capture_output=True, timeout=60)
        counts.append(len(log.read_text().splitlines()))
    assert counts == [3, 6, 6, 9]


GOOD = '{"name": "a", "version": "1", "vulns": []}'
BAD = '{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}'
SKIPPED = '{"name": "b", "skip_reason": "not found"}'


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (f'{{"dependencies": [{GOOD}, {SKIPPED}]}}', 0, "run.txt: nothing known of 1 of 2 packages"),
        (f'{{"dependencies": [{GOOD}, {BAD}]}}', 1, "run.txt: a 1 CVE-1"),
        (f'{{"dependencies": [{SKIPPED}, {SKIPPED}]}}', 0, "NOT AUDITED: run.txt"),
        ("no network", 0, "NOT AUDITED: run.txt"),
        ("", 0, "NOT AUDITED: run.txt"),
    ],
)
def test_the_audit_tells_no_answer_from_a_good_one(tmp_path: Path, answer: str, code: int, said: str) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{answer}'\nexit 1\n")
    tool.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "PYTHON": sys.executable}
    script = ["sh", str(ROOT / "scripts" / "audit")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, said in done.stdout) == (code, True), done
