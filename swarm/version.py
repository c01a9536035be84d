"""Which version this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """The installed version; a checkout that is not installed says so."""
    try:
        return version("local-swarm")
    except PackageNotFoundError:
        return "0+checkout"
