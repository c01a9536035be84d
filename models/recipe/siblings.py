"""The three models that one recipe makes: same tokenizer and mixture, other weights and other documents."""

from __future__ import annotations

from swarm.registry.names import EMBEDDED_NAMES

MAIN = EMBEDDED_NAMES[0]
SEEDS = {name: seed for seed, name in enumerate(EMBEDDED_NAMES, start=1)}
