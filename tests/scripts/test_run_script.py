"""scripts/run and scripts/test on machines where something is missing: the remedy is named, nothing half-made stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_script(name: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, making its environment in `tmp_path`, in a world with only the basic tools."""
    clean = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SWARM_VENV": str(tmp_path / "venv"), **environment}
    command = ["sh", str(ROOT / "scripts" / name), "--help"]
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)


def fake_python(folder: Path, body: str) -> str:
    """An executable that passes for Python as far as `body` goes."""
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["run", "test"])
def test_no_venv_module_is_named_with_its_package(tmp_path: Path, name: str) -> None:
    python = fake_python(tmp_path, 'if [ "$1" = -m ] && [ "$2" = venv ]; then exit 1; fi\nexit 0')
    done = run_script(name, tmp_path, PYTHON=python)
    assert done.returncode == 2
    assert "no venv module" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_new_enough_python_is_said(tmp_path: Path) -> None:
    fake_python(tmp_path, "exit 1")
    for name in ("python", "python3.11", "python3.12", "python3.13", "python3.14"):
        shutil.copy(tmp_path / "python3", tmp_path / name)
    done = run_script("run", tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin", PYTHON="")
    assert done.returncode == 2
    assert "no Python 3.11 or newer found" in done.stderr


def test_no_network_and_nothing_cached_is_said_and_the_next_run_tries_again(tmp_path: Path) -> None:
    offline = {
        "PIP_INDEX_URL": "http://127.0.0.1:9",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    for _ in range(2):
        done = run_script("run", tmp_path, PYTHON=sys.executable, **offline)
        assert done.returncode == 2
        assert "Without a network nothing can be fetched" in done.stderr
        assert "Making the environment" in done.stdout


@pytest.mark.parametrize(
    ("words", "offers"),
    [((), 1), (("--federation", "--auto"), 1), (("--help",), 0), (("--model", "x", "--version"), 0), (("status",), 0)],
)
def test_only_the_first_start_of_a_node_offers_an_engine_for_a_gpu(
    tmp_path: Path, words: tuple[str, ...], offers: int
) -> None:
    """And one that fails does not keep the node away."""
    python, log = tmp_path / "python3", tmp_path / "log"
    python.write_text(
        f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
case "$*" in *offer_at_first_start*) echo offer >> {log}; exit 1 ;; "-m swarm.cli"*) echo node >> {log} ;; esac
"""
    )
    python.chmod(0o755)
    clean = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "SWARM_VENV": str(tmp_path / "venv")}
    for _ in range(2):
        subprocess.run(
            ["sh", str(ROOT / "scripts" / "run"), *words], env=clean, check=True, capture_output=True, timeout=60
        )
    assert log.read_text().split() == [*["offer"] * offers, "node", "node"]


def test_the_engines_of_the_tests_are_made_each_and_one_that_fails_keeps_no_other_away(tmp_path: Path) -> None:
    python, log = tmp_path / "python3", tmp_path / "log"
    python.write_text(
        f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [ "$1 $2" = "-m swarm.cli" ]; then shift 2; echo "$*" >> {log}; [ "$3" != native ]; exit; fi
"""
    )
    python.chmod(0o755)
    clean = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "SWARM_VENV": str(tmp_path / "venv")}
    codes: list[int] = []
    for words in (["/made"], ["/made", "mlx"], []):
        script = ["sh", str(ROOT / "scripts" / "engines"), *words]
        codes.append(subprocess.run(script, env=clean, capture_output=True, timeout=60, check=False).returncode)
    assert codes == [1, 0, 2]
    assert log.read_text().splitlines() == [
        f"engines install {name} --yes --engines-dir /made" for name in ("native", "llama-cpp", "mlx", "mlx")
    ]
