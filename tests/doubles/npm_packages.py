"""Packages from npm that tests run: installed once into a folder outside the tree, as a package.json pins them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from platformdirs import user_cache_path

INSTALL_S = 900.0  # hundreds of packages, some of 100 MB


def npm_packages(manifest: Path) -> Path:
    """The `node_modules` of what `manifest`, a package.json, pins; kept for the next run.

    Skips the test where node or npm are missing, or there is no network, unless this is CI.
    """
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    folder = user_cache_path("local-swarm-tests") / f"npm-{manifest.parent.name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as started:
            made = Path(started) / "made"
            made.mkdir()
            shutil.copy(manifest, made)
            command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode and "CI" not in os.environ:  # no network, no access to npm's registry, an old Node
                pytest.skip(f"npm could not install {manifest.parent.name}: {done.stderr.strip()[-300:]}")
            assert done.returncode == 0, done.stderr
            try:
                made.rename(folder)
            except OSError:  # another test process was quicker
                assert folder.exists()
    return folder / "node_modules"
