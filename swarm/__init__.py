"""Local Swarm: nodes that serve language models, find each other, vote on answers and speak one OpenAI-compatible API.

Here at the top stands only what every room shares: requests and answers (`generation`), errors, log lines, what local
commands say to a running node (`control_messages`). Each folder's `__init__` says what belongs there.
"""

from __future__ import annotations

from pathlib import Path

VERSION = "0.2.0"  # the package's, too: pyproject.toml reads it here
ROOT = Path(__file__).resolve().parents[1]  # of a checkout; of a wheel it is the folder of all packages
GIT_S = 5.0  # it takes milliseconds


def program_version() -> str:
    """What this program calls itself, to people and to other nodes."""
    return VERSION


def checked_out(root: Path = ROOT) -> str | None:
    """The commit of a checkout, shortened, with `, changed` where its files are not as it has them.

    None for a wheel, wherever it is installed: another project's commit is not this program's.
    """
    import os
    import subprocess  # slow to import, and seldom wanted

    try:
        if not ((root / ".git").exists() and 'name = "local-swarm"' in (root / "pyproject.toml").read_text("utf-8")):
            return None
        told = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
            | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_S,
        )
    except (OSError, UnicodeError, subprocess.SubprocessError):  # without git nobody can say
        return None
    return told.stdout.strip().replace("-dirty", ", changed") or None
