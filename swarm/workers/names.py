"""Names that people can tell apart when a vote lists who said what."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

NAMES = (
    "Zeus", "Nebula", "Atlas", "Luna", "Orion", "Vega", "Apollo", "Iris", "Titan", "Nova", "Hermes", "Lyra", "Juno",
    "Comet", "Hera", "Quasar", "Ares", "Aurora", "Rhea", "Pulsar", "Thor", "Selene", "Odin", "Gaia", "Helios", "Eos",
    "Kepler", "Freya", "Cosmo", "Athena", "Sirius", "Maia", "Janus", "Carina", "Triton", "Electra", "Castor", "Dione",
    "Pollux", "Phoebe", "Altair", "Calypso", "Rigel", "Astra", "Mimas", "Cassiopeia", "Draco", "Andromeda", "Ceres",
    "Hyperion", "Leda", "Pandora", "Proteus", "Thalia", "Umbriel", "Miranda", "Oberon", "Ariel", "Callisto", "Europa",
)  # fmt: skip


def worker_names(node_id: str) -> Iterator[str]:
    """Different names without end; the same node gets the same ones, other nodes mostly others."""
    shuffled = list(NAMES)
    random.Random(node_id).shuffle(shuffled)
    for lap in itertools.count(1):
        for name in shuffled:
            yield name if lap == 1 else f"{name}-{lap}"
