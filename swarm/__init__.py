"""Local Swarm: nodes that serve language models, find each other, vote on answers and speak one OpenAI-compatible API.

Here at the top stands only what every room shares: requests and answers (`generation`), errors, log lines, what local
commands say to a running node (`control_messages`). Each folder's `__init__` says what belongs there.
"""

from __future__ import annotations


def program_version() -> str:
    """The installed version; a checkout that is not installed says so."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and seldom wanted

    try:
        return version("local-swarm")
    except PackageNotFoundError:
        return "0+checkout"
