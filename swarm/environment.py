"""What the environment may say instead of the command line, readable without anything heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping

API_KEY = "SWARM_API_KEY"


def texts(environment: Mapping[str, str], variable: str) -> list[str]:
    """The texts in a variable that lists several: they part at commas and white space. Unset counts as empty."""
    return [text for text in re.split(r"[,\s]+", environment.get(variable, "")) if text]
