"""Whether the node takes work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Condition:
    """`loading` ends when the first model runs; `draining` begins with the first stop signal and never ends."""

    loading: bool = True
    draining: bool = False
