"""What is kept and written of each change among the peers: every one once, a repetition within a minute as a count."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from federation.peer import AddressRejected, Change, Peer, PeerChanged, PeerJoined, PeerLeft, PeerState, Source, Why

MAX_CHANGES: Final = 64  # kept: an eventful day of a home swarm, a few seconds of a switch that is restarted
REPEAT_S: Final = 60.0  # the same change of the same peer within this is one entry, counted, and one line

SHOWN: Final = frozenset({Why.COPY, Why.UNTRUSTED})  # whoever runs the node reads these on its console

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecentChange:
    """One change of one peer, or the same one `times` within a minute: `at` is the last time, `reason` that of then."""

    at: datetime
    peer: str
    id: str
    state: PeerState
    reason: str
    times: int = 1


class ChangeLog:
    """The latest changes, the oldest first, and how often a peer went to each state."""

    def __init__(self) -> None:
        self._recent: deque[RecentChange] = deque(maxlen=MAX_CHANGES)
        self._first_at: dict[tuple[str, PeerState, str], float] = {}
        self.counts: Counter[PeerState] = Counter(dict.fromkeys(PeerState, 0))

    def note(self, change: Change, now: float) -> None:
        """Keep it and write it down. `now` is monotonic seconds."""
        kind = _kind_of(change)
        if kind is None:
            log_change(change)
            return
        peer, reason, is_other_state = kind
        self.counts[peer.state] += is_other_state
        key = (peer.id, peer.state, type(change).__name__)
        if now - self._first_at.get(key, now - REPEAT_S) < REPEAT_S:
            self._count(peer, reason)
            return
        self._first_at = {held: at for held, at in self._first_at.items() if now - at < REPEAT_S}  # bounded by a minute
        self._first_at[key] = now
        self._recent.append(RecentChange(datetime.now(UTC), peer.label, peer.id, peer.state, reason))
        log_change(change)

    def recent(self) -> tuple[RecentChange, ...]:
        """The oldest first."""
        return tuple(self._recent)

    def _count(self, peer: Peer, reason: str) -> None:
        """Once more what was just noted; written once, when it is plain that it goes on."""
        for index in range(len(self._recent) - 1, -1, -1):
            held = self._recent[index]
            if (held.id, held.state) == (peer.id, peer.state):
                del self._recent[index]
                self._recent.append(replace(held, at=datetime.now(UTC), reason=reason, times=held.times + 1))
                if held.times == 1:
                    _log.info("%s is %s again within a minute (%s): further ones are only counted", peer.label,
                              peer.state, reason)  # fmt: skip
                return


def _kind_of(change: Change) -> tuple[Peer, str, bool] | None:
    """Whose change it is, why, and whether it is one of state."""
    match change:
        case PeerJoined(peer, returned):
            return peer, f"{'is back' if returned else 'joined'} at {peer.address} ({peer.source.word})", True
        case PeerChanged(peer, was, reason):
            return peer, reason, was is not peer.state
        case PeerLeft(peer, reason):
            return peer, reason, True
        case AddressRejected():
            return None


def log_change(change: Change) -> None:
    """One line. Passing suspicions are for debugging: lossy Wi-Fi has many."""
    match change:
        case PeerJoined(peer, returned):
            word = "is back" if returned else "joined"
            _log.info("%s %s at %s (%s)", peer.label, word, peer.address, peer.source.word)
        case PeerChanged(peer, was, reason):
            level = logging.INFO if was is peer.state else logging.DEBUG
            _log.log(level, "%s is %s: %s", peer.label, peer.state, reason)
        case PeerLeft(peer, reason):
            _log.info("%s left: %s", peer.label, reason)
        case AddressRejected(address, source, reason, why):
            matters = source is Source.STATIC and why not in SHOWN
            level = logging.WARNING if matters else logging.INFO
            _log.log(level, "no peer at %s (%s): %s", address, source.word, reason)


def report_crash(root: asyncio.Task[None]) -> None:
    """A defect here must be seen at once: the node goes on, with a view of its peers that no longer changes."""
    if not root.cancelled() and (error := root.exception()) is not None:
        _log.critical("peers are not watched any more: restart this node and report this", exc_info=error)
