"""What the node's own page is let in by: its token, links that open once, and the owner's sessions. No I/O.

**The token** is the page's alone: it is told to the node's own page and to no other, so that a request which carries it
was meant by whoever sees that page (a guard against CSRF behind the one that looks at `Origin`). It is random with each
start of the node.

**A link** is made for whoever has the owner's secret (`swarm page`), opens once, and is for this machine unless it was
asked for the network. **A session** is what it opens: whoever sends it may do what the owner may, from the places
that its link was for, until it ends. Only digests are kept, in memory: all of it ends with the node.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from federation.hostport import network_of
from federation.invitation import WrongProofs
from swarm.errors import Forbidden
from swarm.gateway.http.access import digest

SECRET_BYTES: Final = 32
LINK_LIFE_S: Final = 600.0
SESSION_LIFE_S: Final = 12 * 3600.0
MAX_LINKS: Final = 8  # alive at once; a further one ends the oldest
MAX_SESSIONS: Final = 32  # the same
MAX_USED: Final = 64  # links remembered as used, so that a second use is told from a wrong one


@dataclass(frozen=True, slots=True)
class _Secret:
    """A link or a session: good until `ends_at`, monotonic seconds; `lan`: from other machines, too."""

    digest: bytes
    ends_at: float
    lan: bool


@dataclass(frozen=True, slots=True)
class OwnerSession:
    """What a link opened: what the page sends as X-Swarm-Owner, and how long it is good."""

    session: str
    expires_in_s: float


class PageAccess:
    """One node's token, links and sessions. `clock` is monotonic seconds. For the event loop's thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.token: Final = secrets.token_urlsafe(SECRET_BYTES)
        self._token = digest(self.token)
        self._links: list[_Secret] = []
        self._used: list[_Secret] = []
        self._sessions: list[_Secret] = []
        self._wrong = WrongProofs()

    def is_token(self, given: str) -> bool:
        """Whether a request's X-Swarm-Page is this node's."""
        return hmac.compare_digest(self._token, digest(given))

    def new_link(self, lan: bool) -> str:
        """A token that opens one session; `lan`: from other machines, too."""
        token = secrets.token_urlsafe(SECRET_BYTES)
        self._links = self._alive(self._links)[1 - MAX_LINKS :]
        self._links.append(_Secret(digest(token), self._clock() + LINK_LIFE_S, lan))
        return token

    def redeem(self, token: str, remote: str, from_loopback: bool) -> OwnerSession:
        """The session that a link opens. Raises Forbidden for every other token, and for who tried too many.

        A link for this machine is not used up by who tries it from another one.
        """
        now = self._clock()
        network = network_of(remote) if remote else ""
        if (wait_s := self._wrong.wait_s(network, now)) > 0:
            raise Forbidden(
                f"too many wrong links came from your address: wait {wait_s:.0f} s, then use one of `swarm page`",
                "too_many_links",
            )
        found = _find(self._alive(self._links), token)
        if found is None:
            if _find(self._alive(self._used), token) is not None:
                raise Forbidden(
                    "this link was opened already, and opens once: if it was not by you, restart the node; "
                    "`swarm page` on the node's machine makes a new one",
                    "link_used",
                )
            self._wrong.note(network, now)
            raise Forbidden(
                f"this link is not good (any more): it is for {LINK_LIFE_S / 60:.0f} minutes, and ends with the node; "
                "`swarm page` on the node's machine makes a new one",
                "link_unknown",
            )
        if not (found.lan or from_loopback):
            raise Forbidden(
                "this link is for a browser on the node's own machine (not through a proxy): `swarm page --lan` makes "
                "one for the network",
                "link_not_from_here",
            )
        self._links.remove(found)
        self._used = [*self._alive(self._used), found][-MAX_USED:]
        session = secrets.token_urlsafe(SECRET_BYTES)
        self._sessions = self._alive(self._sessions)[1 - MAX_SESSIONS :]
        self._sessions.append(_Secret(digest(session), now + SESSION_LIFE_S, found.lan))
        return OwnerSession(session, SESSION_LIFE_S)

    def is_session(self, given: str, from_loopback: bool) -> bool:
        """Whether a request's X-Swarm-Owner is a session that holds where the request comes from."""
        found = _find(self._alive(self._sessions), given)
        return found is not None and (found.lan or from_loopback)

    def end(self, session: str) -> int:
        """End one session, if there is such; how many ended."""
        found = _find(self._sessions, session)
        if found is None:
            return 0
        self._sessions.remove(found)
        return 1

    def end_all(self) -> int:
        """End every session and every link; how many sessions ended."""
        ended = len(self._alive(self._sessions))
        self._sessions, self._links = [], []
        return ended

    def _alive(self, kept: Iterable[_Secret]) -> list[_Secret]:
        now = self._clock()
        return [one for one in kept if one.ends_at > now]


def _find(kept: Iterable[_Secret], given: str) -> _Secret | None:
    """The one that was given, in a time that depends on how many there are and on nothing else."""
    wanted, found = digest(given), None
    for one in kept:
        if hmac.compare_digest(one.digest, wanted):
            found = one
    return found
