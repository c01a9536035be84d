"""What the tests of clients found, cell by cell: the source of docs/compatibility.md and of docs/clients/.

A test says by `@pytest.mark.client("codex", "text", "stream")` which client it is of and which cells of the table it
proves; `folder="ai_sdk_7"` says which folder here pins its packages, where several pin one of that name. With
SWARM_CLIENT_RESULTS=FILE the outcomes are written there, with the version that ran, beside those of earlier runs of
other clients. With SWARM_CLIENT_CLAIMS=FILE what is said is written there, of every test collected.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from swarm.commands.client_settings import CELLS, ClientEntry, client_entries

RESULTS = "SWARM_CLIENT_RESULTS"
CLAIMS = "SWARM_CLIENT_CLAIMS"
PROPERTY = "client"
CLIENTS = Path(__file__).resolve().parents[1] / "clients"


@cache
def known() -> Mapping[str, ClientEntry]:
    return {entry.id: entry for entry in client_entries()}


@cache
def pinned_version(package: str, folder: str | None = None) -> str | None:
    """Which version of `npm:NAME` or `pypi:NAME` tests of clients install; else the one of this environment.

    The packages that clients need are in requirements.txt, beside others of the same name here: only a requirements.in
    says which clients run there. `folder` is the one of tests/clients that pins it, where several pin that name.
    """
    manager, _, name = package.partition(":")
    if manager == "npm":
        for manifest in sorted(CLIENTS.glob(f"{folder or '*'}/package.json")):
            if found := json.loads(manifest.read_text()).get("dependencies", {}).get(name):
                return str(found)
        return None
    for requirements in sorted(CLIENTS.glob(f"{folder or '*'}/requirements.in")):
        if found := re.search(rf"^{re.escape(name)}(\[[^\]]*\])?==(\S+)", requirements.read_text(), re.M):
            return found[2]
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def marked(item: pytest.Item) -> Iterator[tuple[str, str, str | None]]:
    """The client, cell and folder of each cell that a test proves. Fails for a client or cell that nobody knows."""
    for mark in item.iter_markers("client"):
        client, *cells = mark.args
        if client not in known():
            raise pytest.UsageError(f"{item.nodeid}: there is no client {client!r} in clients.toml")
        if not cells or (others := set(cells) - set(CELLS)):
            wrong = f"no cells {', '.join(sorted(others))}" if cells else "no cell"
            raise pytest.UsageError(f"{item.nodeid}: {wrong} of {client!r}: name some of {', '.join(CELLS)}")
        yield from ((client, cell, mark.kwargs.get("folder")) for cell in cells)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for client, cell, folder in marked(item):
            item.user_properties.append((PROPERTY, [client, cell, folder]))


def pytest_collection_finish(session: pytest.Session) -> None:
    if (file := os.environ.get(CLAIMS)) and not hasattr(session.config, "workerinput"):
        claims = {item.nodeid: list(marked(item)) for item in session.items}
        Path(file).write_text(json.dumps({test: cells for test, cells in claims.items() if cells}))


class Recorder:
    """Gathers outcomes where pytest reports them, which with several workers is one place, and writes them down."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, dict[str, dict[str, str]]] = {}  # client -> cell -> test -> outcome
        self._folders: dict[str, str | None] = {}  # by client

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        for name, value in report.user_properties:
            if name == PROPERTY:
                client, cell, folder = value  # type: ignore[misc]
                self._folders[client] = folder
                self._outcomes.setdefault(client, {}).setdefault(cell, {})[report.nodeid] = outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        results: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        for client, cells in self._outcomes.items():
            if session.config.getoption("lf", False):  # some of its tests again: the others are as they were
                for cell, tests in results.get(client, {}).get("cells", {}).items():
                    cells[cell] = {**tests, **cells.get(cell, {})}
            if all(outcome == "skipped" for tests in cells.values() for outcome in tests.values()):
                continue  # it was not there: nothing new is known
            results[client] = {
                "versions": {
                    package: pinned_version(package, self._folders[client]) for package in known()[client].packages
                },
                "date": datetime.now(UTC).date().isoformat(),
                "cells": {cell: dict(sorted(tests.items())) for cell, tests in sorted(cells.items())},
            }
        self._file.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if file := os.environ.get(RESULTS):
        config.pluginmanager.register(Recorder(Path(file)), "client results")
