"""When something that broke is started again: soon at first, then ever later, but always some time."""

from __future__ import annotations

FIRST_S = 1.0
MOST_S = 300.0  # a person who has mended the reason waits no longer than that
RAN_WELL_S = 60.0  # after so long it is as good as new
SUSPECT_AFTER = 3  # breaks in a row: chance, a full memory or a bad request explain one or two


class BackOff:
    """Counts what breaks in a row. Pure: the caller brings the time, in monotonic seconds."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._started_s: float | None = None

    def started(self, now_s: float) -> None:
        """It runs."""
        self._started_s = now_s

    def broke(self, now_s: float) -> float:
        """It broke, or could not be started: how long to wait before it is started again."""
        if self._started_s is not None and now_s - self._started_s >= RAN_WELL_S:
            self._in_a_row = 0
        self._started_s = None
        self._in_a_row += 1
        return min(FIRST_S * 2 ** min(self._in_a_row - 1, 32), MOST_S)

    @property
    def in_a_row(self) -> int:
        """How often it broke since it last ran well."""
        return self._in_a_row

    @property
    def suspect(self) -> bool:
        """Whether it is to blame itself."""
        return self._in_a_row >= SUSPECT_AFTER
