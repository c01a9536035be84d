"""What this node knows of how good its swarm's models are: the weights file, or nothing where it cannot be used."""

from __future__ import annotations

import logging
from pathlib import Path

from swarm.errors import SetupError
from swarm.registry.weights_file import WEIGHTS_FILE, Measurements, read_weights

log = logging.getLogger(__name__)


def known_weights(data_path: Path) -> Measurements:
    """What was measured; empty, with a warning, where the file is damaged. Blocks on the disk."""
    try:
        return read_weights(data_path / WEIGHTS_FILE)
    except SetupError as error:
        log.warning("all voters weigh alike: %s", error)
        return {}
