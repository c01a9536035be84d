"""Names that people can tell apart when a vote lists who said what."""

from __future__ import annotations

import random

NAMES = (
    "Zeus", "Nebula", "Atlas", "Luna", "Orion", "Vega", "Apollo", "Iris", "Titan", "Nova", "Hermes", "Lyra", "Juno",
    "Comet", "Hera", "Quasar", "Ares", "Aurora", "Rhea", "Pulsar", "Thor", "Selene", "Odin", "Gaia", "Helios", "Eos",
    "Kepler", "Freya", "Cosmo", "Athena", "Sirius", "Maia", "Janus", "Carina", "Triton", "Electra", "Castor", "Dione",
    "Pollux", "Phoebe", "Altair", "Calypso", "Rigel", "Astra", "Mimas", "Cassiopeia", "Draco", "Andromeda", "Ceres",
    "Hyperion", "Leda", "Pandora", "Proteus", "Thalia", "Umbriel", "Miranda", "Oberon", "Ariel", "Callisto", "Europa",
)  # fmt: skip


def worker_names(count: int, node_id: str) -> tuple[str, ...]:
    """`count` different names; the same node gets the same ones, other nodes mostly others."""
    shuffled = list(NAMES)
    random.Random(node_id).shuffle(shuffled)
    return tuple(
        shuffled[i % len(shuffled)] + (f"-{i // len(shuffled) + 1}" if i >= len(shuffled) else "") for i in range(count)
    )
