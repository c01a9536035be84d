"""A node's choice where there is one model to choose."""

from __future__ import annotations

from typing import Any

from swarm.node.model_choice import ChosenModel, choose_models


def choose_model(*given: Any, **named: Any) -> ChosenModel:
    """The one that is chosen; see `choose_models`."""
    (chosen,) = choose_models(*given, **named)
    return chosen
