"""What is written of each change among the peers."""

from __future__ import annotations

import logging

from federation.peer import AddressRejected, Change, PeerChanged, PeerJoined, PeerLeft, Source, Why

_log = logging.getLogger(__name__)


def log_change(change: Change) -> None:
    """One line per change. Passing suspicions are for debugging: lossy Wi-Fi has many."""
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
            matters = source is Source.STATIC or why is Why.COPY
            level = logging.WARNING if matters else logging.INFO
            _log.log(level, "no peer at %s (%s): %s", address, source.word, reason)
