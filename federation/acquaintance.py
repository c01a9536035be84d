"""Getting to know each other: asking peers whom they know, and telling them goodbye."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from federation.advertisement import PeerHint
from federation.client import PeerClient
from federation.errors import PeerError
from federation.hostport import Address, worth_a_probe
from federation.peer import Peer, PeerState
from federation.peer_table import PeerTable
from federation.timing import SMALL_SWARM_PEERS, Timing

EXCHANGE_FANOUT: Final = 3  # peers asked per round: word of a newcomer reaches all in a few rounds
LARGE_FANOUT: Final = 1  # in a large swarm, whose lists are long and whose news travel with the probes
ASKED_AT_ONCE: Final = 2  # newcomers: when a hundred come together, two know them all

_log = logging.getLogger(__name__)


class Acquaintance:
    """`propose` takes what is learned; `charge` whom an answer was not to be had of."""

    def __init__(
        self,
        self_id: str,
        table: PeerTable,
        client: PeerClient,
        timing: Timing,
        propose: Callable[[Address], None],
        charge: Callable[[str], None],
    ) -> None:
        self._self_id = self_id
        self._table = table
        self._client = client
        self._timing = timing
        self._propose = propose
        self._charge = charge
        self._asking = 0

    async def exchange_now_and_then(self, tasks: asyncio.TaskGroup) -> None:
        """Ask a few of those that find others here than this node does, for ever."""
        while True:
            await asyncio.sleep(self._timing.exchange_interval_s)
            healthy = [peer for peer in self._table.alive() if peer.state is PeerState.ALIVE]
            fanout = EXCHANGE_FANOUT if len(healthy) <= SMALL_SWARM_PEERS else LARGE_FANOUT
            differing = [peer for peer in healthy if self._table.sees_otherwise(peer.id)]
            for peer in random.sample(differing, min(fanout, len(differing))):
                tasks.create_task(self._learn_from(peer))

    async def meet(self, peer: Peer) -> None:
        """Ask a newcomer whom it knows, unless that is nobody new or others are being asked already."""
        if self._asking < ASKED_AT_ONCE and self._table.sees_otherwise(peer.id):
            await self._learn_from(peer)

    async def say_goodbye(self, instance: str | None) -> None:
        """Tell every living peer, all at once; those that do not take note in time will find out by probing."""
        try:
            async with asyncio.timeout(self._timing.goodbye_timeout_s), asyncio.TaskGroup() as tasks:
                for peer in self._table.alive():
                    tasks.create_task(self._tell_goodbye(peer, instance))
        except TimeoutError:
            _log.debug("not every peer took note of the goodbye")

    async def _learn_from(self, peer: Peer) -> None:
        self._asking += 1
        try:
            hints = await self._client.peers(peer.address, self._timing.probe_timeout_s)
        except PeerError as error:
            _log.debug("%s does not tell its peers: %s", peer.label, error)
            self._charge(peer.id)
            return
        finally:
            self._asking -= 1
        for address in useful_hints(hints, informant=peer.address, self_id=self._self_id):
            self._propose(address)

    async def _tell_goodbye(self, peer: Peer, instance: str | None) -> None:
        try:
            await self._client.goodbye(peer.address, self._self_id, self._timing.goodbye_timeout_s, instance)
        except PeerError as error:
            _log.debug("%s did not take note of the goodbye: %s", peer.label, error)


def useful_hints(hints: Iterable[PeerHint], informant: Address, self_id: str) -> tuple[Address, ...]:
    """The hinted addresses worth a probe."""
    return tuple(hint.address for hint in hints if hint.id != self_id and worth_a_probe(hint.address, informant))
