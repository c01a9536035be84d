"""Times, sizes and progress, as people write them and as they are told. Imports nothing that is slow."""

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


def left_words(seconds: float) -> str:
    """A time to wait: `3 s`, `2 min 5 s`, `1 h 20 min`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def load_words(name: str, share: float | None, left_s: float | None) -> str:
    """How far the load of a model is: `loading qwen3:4b 62 %, 3 s left`; what is not known is left out."""
    known = [] if share is None else [f"{min(1.0, max(0.0, share)):.0%}".replace("%", " %")]
    known += [] if left_s is None else [f"{left_words(max(1.0, left_s))} left"]  # it is not ready yet
    return f"loading {name} {', '.join(known)}".rstrip()
