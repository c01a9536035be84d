"""How large a model is, as this node can check it from the name alone: what a peer says of its own model is no fact.

A name is still a claim: whoever calls its model `llama3.3:70b` is taken for that large, and has one node's seats.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from types import MappingProxyType

from swarm.registry.catalogue import GIGA, Catalogue
from swarm.registry.names import EMBEDDED_NAMES

EMBEDDED_PARAMS = 2_166_720  # of each embedded model; a test reads the files
SIZE_TOLERANCE = 1.25  # a catalogue rounds, and some counts leave the embeddings out: a quarter more is no lie

_NONE: Mapping[str, int] = MappingProxyType({})


def checked_params(model_id: str, own: Mapping[str, int] = _NONE) -> int | None:
    """The parameters of the model called `model_id`; None where this node cannot know.

    `own` are this node's own models, whose files it has read; then the embedded models and the catalogue's.
    """
    return own.get(model_id) or _by_name().get(model_id)


def refutes(told: int | None, checked: int | None) -> bool:
    """Whether what a peer says of its model's size cannot be true of a model of that name."""
    if told is None or checked is None:
        return False
    return not checked / SIZE_TOLERANCE <= told <= checked * SIZE_TOLERANCE


@cache
def _by_name() -> Mapping[str, int]:
    """Every name under which a node may serve a model of the catalogue: its own, and that of its file."""
    found: dict[str, int] = dict.fromkeys(EMBEDDED_NAMES, EMBEDDED_PARAMS)
    for choice in Catalogue.load().choices():
        params = round(choice.entry.params_b * GIGA)
        names = [choice.entry.name, choice.id]
        if choice.variant.file is not None:
            names.append(PurePath(choice.variant.file).stem.lower())
        for name in names:
            found.setdefault(name, params)
    return MappingProxyType(found)
