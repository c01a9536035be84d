"""Environment variables that the command line reads, apart from the settings, which take long to import."""

from __future__ import annotations

import re
from collections.abc import Mapping

API_KEY = "SWARM_API_KEY"


def texts(environment: Mapping[str, str], variable: str) -> list[str]:
    """The texts in a variable that lists several, separated by commas or white space; none where it is unset."""
    return [text for text in re.split(r"[,\s]+", environment.get(variable, "")) if text]
