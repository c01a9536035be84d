"""Keeping every member's list the same: compare digests, which come with every probe, and merge where they differ."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

from federation.client import PeerClient
from federation.errors import FederationError, PeerError
from federation.membership import Membership
from federation.peer import Peer
from federation.roster import Endpoint
from federation.tasks import cancel_and_wait, report_crash
from federation.trust import Trust, TrustChange

LOOK_S: Final = 1.0  # probes bring a new digest once a second
FIND_S: Final = 10.0  # members that are not here are looked for where they were last
FANOUT: Final = 3  # exchanges in one round: all have it after a few rounds
TELL_TIMEOUT_S: Final = 3.0

_log = logging.getLogger(__name__)


class RosterSync:
    """Works from `__aenter__` to `__aexit__`. Does nothing while this node is open."""

    def __init__(self, trust: Trust, membership: Membership, client: PeerClient, look_s: float = LOOK_S) -> None:
        self._trust = trust
        self._membership = membership
        self._client = client
        self._look_s = look_s
        self._task: asyncio.Task[None] | None = None
        trust.subscribe(self._on_change)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="roster")
        report_crash(self._task, _log, "the list of members is not compared with the others' any more")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel_and_wait(self._task)

    async def push_to_all(self) -> tuple[str, ...]:
        """Exchange lists with every member that is here, now; the names of those that took it."""
        reached = await asyncio.gather(*(self._exchange(peer) for peer in self._membership.alive()))
        return tuple(name for name in reached if name is not None)

    def find_absent(self) -> None:
        """Propose where members that are not here were found last."""
        here = {peer.id for peer in self._membership.alive()}
        for entry in self._trust.others:
            if entry.id not in here:
                for place in entry.places:
                    self._membership.endpoint_reported(place.host, place.port)

    def _on_change(self, change: TrustChange) -> None:
        if change.was != change.now or change.left:
            reason = "is not a member of this swarm" if change.now == "paired" else "this node has left the swarm"
            self._membership.expel(lambda node_id: not self._trust.is_member(node_id), reason)
        self.find_absent()

    async def _run(self) -> None:
        rounds_a_search = max(1, round(FIND_S / LOOK_S))
        rounds = 0
        while True:
            if self._trust.roster is not None:
                await self._keep()
                if rounds % rounds_a_search == 0:
                    self.find_absent()
                await self._look()
                rounds += 1
            await asyncio.sleep(self._look_s)

    async def _keep(self) -> None:
        try:
            await self._trust.keep()
        except FederationError as error:  # said aloud when it began
            _log.debug("%s", error)

    async def _look(self) -> None:
        roster = self._trust.roster
        assert roster is not None
        peers = self._membership.alive()
        differing = [peer for peer in peers if peer.description.roster not in (None, roster.digest)]
        await asyncio.gather(*(self._exchange(peer) for peer in differing[:FANOUT]))
        for peer in peers:
            await self._keep_place(peer)

    async def _keep_place(self, peer: Peer) -> None:
        places = tuple(Endpoint(host=address.host, port=address.port) for address in peer.addresses)
        try:
            await self._trust.found_at(peer.id, places)
        except FederationError as error:
            _log.warning("%s", error)

    async def _exchange(self, peer: Peer) -> str | None:
        """The peer's name if the two lists are one now."""
        roster = self._trust.roster
        if roster is None or not self._trust.is_member(peer.id):
            return None
        if self._trust.exclusion is not None:  # what it noted since must not arrive just when it is taken back
            return None
        try:
            merged = await self._client.exchange_roster(peer.address, roster, TELL_TIMEOUT_S)
            await self._trust.merge_reported(merged, peer.id)
        except PeerError as error:
            _log.debug("%s does not exchange its list of members: %s", peer.label, error)
            return None
        except FederationError as error:
            _log.warning("the list of members from %s: %s", peer.label, error)
            return None
        return peer.label
