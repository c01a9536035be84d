"""Whether this node was put out of its swarm, as far as it can know. Pure: time is given.

Either its own list of members says so, told by whoever revoked it. Or it was off at that moment, and finds that a
member, known by its certificate, does not take it for one while nobody else does: then it knows who, not since when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.roster import Roster

SURE_AFTER: Final = 3  # refusals in a row: a member that is being restarted breaks off once or twice
SURE_S: Final = 5.0  # between the first and the last: all members hear of a newcomer within a second or two
SOMEBODY: Final = "another member"  # revoked by an older version, which does not say who did it


@dataclass(frozen=True, slots=True)
class Exclusion:
    """`by` is the name of who revoked this node, or, where it was not told, of who takes it for no member any more."""

    by: str
    told: bool

    def __str__(self) -> str:
        how = f"this node was revoked by {self.by}"
        if not self.told:
            how = f"this node was revoked: {self.by} takes it for no member any more, and nobody else does"
        return f"{how}: ask for a new code (`swarm invite` there), then `swarm join CODE` here"


def told_exclusion(roster: Roster | None, node_id: str) -> Exclusion | None:
    """What the list of members says of the node that keeps it."""
    entry = None if roster is None else roster.get(node_id)
    return Exclusion(entry.revoked_by or SOMEBODY, told=True) if entry is not None and entry.revoked else None


class Refusals:
    """The members that refuse this node, from one that took it on."""

    def __init__(self) -> None:
        self._by: str | None = None
        self._first_at = 0.0
        self._count = 0

    def refused(self, node_id: str, now: float) -> None:
        """The member `node_id` does not take this node for one."""
        if self._by is None:
            self._by, self._first_at = node_id, now
        self._count += 1

    def taken(self) -> None:
        """A member takes this node for one: the others have not heard of it yet, or hear soon that it is out."""
        self._by, self._count = None, 0

    def by(self, now: float) -> str | None:
        """Who refuses this node for good, the first of all; None while that is not sure."""
        is_sure = self._count >= SURE_AFTER and now - self._first_at >= SURE_S
        return self._by if is_sure else None
