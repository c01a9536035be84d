"""The phases of one model's life on this node, which follow which, and what others are told of each change. Pure.

| phase | what it means | what may follow |
|---|---|---|
| `available` | stored here, not loaded | `loading`: somebody wants it |
| `loading` | memory is promised to it, its engine starts | `ready`; `failed`: it could not be loaded; `unloading`: nobody wants it any more |
| `ready` | it answers | `draining`: others need its room, or it is to go; `unloading`: the same, and nobody uses it; `failed`: its engine broke |
| `draining` | finishes what it runs and those who waited, takes nothing new | `unloading`; `ready`: its room is not needed any more; `failed` |
| `unloading` | its engine ends, its memory comes back | `available` |
| `failed` | does not run, for a reason; loaded again at some time | `loading`: its time has come; `available`: others need its room, it is to go, or its file is gone |

A model that is not `available` takes memory, or is promised some; a `failed` one where its engine broke, and it is
loaded again by itself.
"""  # noqa: E501 - a row of the table is a line

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Phase = Literal["available", "loading", "ready", "draining", "unloading", "failed"]

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        "available": frozenset({"loading"}),
        "loading": frozenset({"ready", "failed", "unloading"}),
        "ready": frozenset({"draining", "unloading", "failed"}),
        "draining": frozenset({"unloading", "ready", "failed"}),
        "unloading": frozenset({"available"}),
        "failed": frozenset({"loading", "available"}),
    }
)
LEAVING: frozenset[Phase] = frozenset({"draining", "unloading"})  # its memory comes back by itself

# Why a model goes, as people are told, and the same in one word for figures.
Cause = Literal["room", "idle", "pressure", "asked", "other"]
WANTED_FOR = "its memory is wanted for "  # and the model that wants it
UNWANTED = "nobody wanted it for long"
UNDER_PRESSURE = "other programs need the memory"
AS_ASKED = "as asked"
_CAUSES: Mapping[str, Cause] = MappingProxyType({UNWANTED: "idle", UNDER_PRESSURE: "pressure", AS_ASKED: "asked"})
# A load that was over, or not seen, when it was told.
GIVEN, MENDED = "given at the start", "its engine is loaded again"


class IllegalTransition(Exception):
    """A defect of the caller: no model's life goes that way."""


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """One change, as subscribers are told. `reason` says in words why; `at` is in monotonic seconds."""

    model_id: str
    before: Phase
    after: Phase
    reason: str
    at: float

    @property
    def cause(self) -> Cause:
        """The reason in one word, where it is one to go."""
        return "room" if self.reason.startswith(WANTED_FOR) else _CAUSES.get(self.reason, "other")


@dataclass(slots=True)
class Life:
    """Where one model is, since when (monotonic seconds) and why. `retry_at` is set while it has failed."""

    model_id: str
    since: float
    phase: Phase = "available"
    reason: str = ""
    retry_at: float | None = None

    def move(self, after: Phase, reason: str, at: float, retry_at: float | None = None) -> LifeEvent:
        """It is `after` from `at` on. Raises IllegalTransition, and nothing has changed then.

        `retry_at` goes with `failed` alone: when it is loaded again, None where nobody knows.
        """
        check(self.phase, after, self.model_id)
        event = LifeEvent(self.model_id, self.phase, after, reason, at)
        self.phase, self.reason, self.since = after, reason, at
        self.retry_at = retry_at if after == "failed" else None
        return event


def check(before: Phase, after: Phase, model_id: str = "a model") -> None:
    """Raises IllegalTransition where `after` cannot follow `before`."""
    if after not in TRANSITIONS[before]:
        legal = ", ".join(sorted(TRANSITIONS[before]))
        raise IllegalTransition(f"{model_id} cannot be {after} after {before}: only {legal}")
