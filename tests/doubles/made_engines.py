"""Engines that are made on a machine, as `swarm engines install` makes them, for the tests that run them.

The environment variable SWARM_TEST_ENGINES names the folder that has them, which that command writes with
SWARM_ENGINES_DIR. Without it, and without the engine in it, such a test is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarm.engines.engine import EngineBuild
from swarm.engines.installed import installed_engines


def made_engine(name: str) -> EngineBuild:
    """The first build of the engine called `name`."""
    folder = os.environ.get("SWARM_TEST_ENGINES")
    if not folder:
        pytest.skip(f"SWARM_TEST_ENGINES names no folder with engine {name}")
    found = installed_engines(Path(folder), name)
    if not found:
        pytest.skip(f"{folder} has no engine {name}: ./scripts/engines {folder} makes it")
    return found[0].build()
