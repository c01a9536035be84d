"""The version before this one, taken from the history, to run beside it with the same interpreter and packages."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Final

from tests.e2e.node_process import ROOT

VERSION: Final = "0.1.0"
COMMIT: Final = "758cc0c557feb9a8d2938daa201a8151bba254d1"  # the last one of it
GIT_TIMEOUT_S: Final = 60.0


def program_of_version_before(folder: Path) -> tuple[str, ...]:
    """Its program, unpacked into `folder`. Raises LookupError with the reason where the history is not there."""
    try:
        done = subprocess.run(
            ("git", "-C", str(ROOT), "archive", COMMIT), capture_output=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise LookupError(f"git cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise LookupError(f"{VERSION} is not in the history here (git archive {COMMIT[:12]}): {' '.join(words[-1:])}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    installed = folder / f"local_swarm-{VERSION}.dist-info"  # found before that of the version that is installed here
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: local-swarm\nVersion: {VERSION}\n")
    return (sys.executable, str(folder / "main.py"))
