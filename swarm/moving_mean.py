"""One way to follow a figure that changes."""

from __future__ import annotations

NEWEST_SHARE = 0.2  # of a new figure: five of them later the mean is mostly about those five


def moving_mean(before: float | None, new: float) -> float:
    """The exponentially weighted mean with one more figure; the first one is the mean."""
    return new if before is None else (1 - NEWEST_SHARE) * before + NEWEST_SHARE * new
