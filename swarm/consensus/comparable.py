"""What a kind of answer must offer to be counted, and to be compared."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, Self


class Keyed(Protocol):
    """An answer that equals another where their keys are equal."""

    @property
    def key(self) -> Hashable: ...


class Comparable(Keyed, Protocol):
    """An answer that can also be partly like another: 0..1, the same either way round."""

    def likeness(self, other: Self, /) -> float: ...
