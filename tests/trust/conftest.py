"""Nodes with keys of their own and a data directory, on real sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from federation.trust import Trust
from tests.doubles.paired import open_trust
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

MakeNode = Callable[..., RunningNode]


@pytest.fixture
def make_node(tmp_path: Path) -> MakeNode:
    """A node by that name that serves model "m"; open unless given a trust."""

    def make(
        name: str, trust: Trust | None = None, engine: ScriptedEngine | None = None, **options: object
    ) -> RunningNode:
        engine = engine or ScriptedEngine(lambda _, __: ["yes"], model_id="m")
        trust = trust or open_trust(tmp_path, name)
        return RunningNode(name, ready(engine), options=NodeOptions(trust=trust, **options))  # type: ignore[arg-type]

    return make
