"""How long a peer usually takes to answer: mean and deviation, as TCP keeps them (RFC 6298, section 2).

Each probe is timed on its own, so an answer is never taken for that to another probe (Karn's problem does not arise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

_MEAN_GAIN: Final = 1 / 8  # RFC 6298's alpha
_DEVIATION_GAIN: Final = 1 / 4  # its beta
_DEVIATIONS: Final = 4.0  # its K


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Of one address, in milliseconds."""

    mean_ms: float
    deviation_ms: float

    @classmethod
    def first(cls, rtt_ms: float) -> Self:
        return cls(rtt_ms, rtt_ms / 2)

    def after(self, rtt_ms: float) -> RoundTrip:
        """With one more measurement."""
        deviation_ms = self.deviation_ms + _DEVIATION_GAIN * (abs(self.mean_ms - rtt_ms) - self.deviation_ms)
        return RoundTrip(self.mean_ms + _MEAN_GAIN * (rtt_ms - self.mean_ms), deviation_ms)

    @property
    def at_most_s(self) -> float:
        """What an answer hardly ever takes longer than (RFC 6298's RTO), in seconds."""
        return (self.mean_ms + _DEVIATIONS * self.deviation_ms) / 1000
