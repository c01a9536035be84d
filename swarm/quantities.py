"""Times and sizes as people write them on a command line or in a configuration file. Imports nothing that is slow."""

from __future__ import annotations

import re
from typing import Final

TIME_FORM: Final = "write it like 30m, 1h, 2d or 1h30m"
SIZE_FORM: Final = "write it like 512M, 8G or 1.5G"

_SECONDS: Final = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_TIME: Final = re.compile(r"(?:[0-9]{1,7}[dhms])+", re.IGNORECASE)
_BYTES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)\s*([kmgt])(?:i?b)?", re.IGNORECASE)


def seconds_of(text: str) -> float:
    """Seconds of a time such as 30m, 2d or 1h30m. Raises ValueError, saying how one is written."""
    wanted = text.strip()
    if not _TIME.fullmatch(wanted):
        raise ValueError(f"is no time: {TIME_FORM}")
    parts = re.findall(r"([0-9]+)([dhms])", wanted.lower())
    return float(sum(int(count) * _SECONDS[unit] for count, unit in parts))


def bytes_of(text: str) -> int:
    """Bytes of a size such as 512M, 8G, 8GB or 8GiB, which are all powers of 1024, as `swarm models fit` prints them.

    Raises ValueError, saying how one is written.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"is no size: {SIZE_FORM}")
    return int(float(found[1]) * _BYTES[found[2].lower()])
