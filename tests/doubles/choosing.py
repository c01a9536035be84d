"""A node's choice where there is one model to choose."""

from __future__ import annotations

from typing import Any

from hardware.snapshot import HardwareSnapshot
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import ChosenModel, choose_models
from swarm.node.settings import Settings


def choose_model(settings: Settings, snapshot: HardwareSnapshot, console: Any, **named: Any) -> ChosenModel:
    """The one that is chosen with the engines of this machine; see `choose_models`."""
    (chosen,) = choose_models(settings, NodeEngines.look(settings, snapshot), console, **named)
    return chosen
