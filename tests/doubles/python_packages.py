"""Packages from PyPI that tests run in an environment of their own: installed once, outside of the tree, as pinned."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from platformdirs import user_cache_path

INSTALL_S = 900.0  # hundreds of packages, some of 100 MB


def python_of(requirements: Path) -> Path:
    """The interpreter of an environment with what `requirements` names: a requirements.txt made by scripts/lock.

    The folder that the file lies in names the environment. Skips the test where pip cannot install, unless this is CI.
    """
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = user_cache_path("local-swarm-tests") / f"python-{requirements.parent.name}-{digest}"
    python, made = folder / "bin" / "python", folder / "made"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            command = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps"]
            done = _run([*command, "-r", str(requirements)])
            if done.returncode and "CI" not in os.environ:
                pytest.skip(f"pip could not install {requirements.parent.name}: {done.stderr.strip()[-300:]}")
            assert done.returncode == 0, done.stderr
            made.touch()
    return python


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
