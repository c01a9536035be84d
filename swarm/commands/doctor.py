"""`swarm doctor`: what this machine has, and where each fact is from."""

from __future__ import annotations

import json

from hardware.probe import probe_hardware
from hardware.report import render


def doctor(as_json: bool) -> int:
    """Print the hardware snapshot."""
    snapshot = probe_hardware()
    print(json.dumps(snapshot.as_json(), indent=2) if as_json else render(snapshot))
    return 0
