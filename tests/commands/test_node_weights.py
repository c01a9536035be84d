"""The weights file as a node reads it when it starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from swarm.node.node import known_weights
from swarm.registry.weights_file import WEIGHTS_FILE, Measured, Weights, add_weights


def test_what_was_measured_is_known(tmp_path: Path) -> None:
    add_weights(tmp_path / WEIGHTS_FILE, {"demo": {"number": Measured(29, 50)}})
    assert known_weights(tmp_path) == Weights({"demo": {"number": Measured(29, 50)}})


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert known_weights(tmp_path) == Weights()


def test_a_damaged_file_is_named_and_the_node_runs_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / WEIGHTS_FILE).write_text("{")
    with caplog.at_level(logging.WARNING):
        assert known_weights(tmp_path) == Weights()
    assert str(tmp_path / WEIGHTS_FILE) in caplog.text
