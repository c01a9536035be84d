"""Telling a node that it was revoked: the last that it hears from a member, over a link that leads nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

import aiohttp

from federation import wire
from federation.hostport import Address
from federation.identity import NodeIdentity
from federation.peer_link import over_tls
from federation.roster import Roster
from federation.tls import client_context

FAREWELL_S: Final = 1.0  # whoever revokes waits for this; a node that is off learns it when members refuse it

_log = logging.getLogger(__name__)


async def tell_revoked(identity: NodeIdentity, certificate: bytes, places: Iterable[Address], roster: Roster) -> bool:
    """Whether the node with `certificate`, at one of `places`, took the list that it is no member of any more.

    It still takes this node for a member; this node trusts its certificate for this one call only.
    """
    context = await asyncio.to_thread(client_context, identity.pem, [certificate])
    timeout = aiohttp.ClientTimeout(total=FAREWELL_S)
    headers = {wire.FROM_HEADER: identity.node_id, "Content-Type": "application/json"}
    body = roster.model_dump_json()

    async def tell(session: aiohttp.ClientSession, address: Address) -> bool:
        url = over_tls(address.url) + wire.ROSTER_PATH
        try:
            async with session.post(url, data=body, headers=headers, ssl=context, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.debug("%s does not hear that it is revoked: %s", address, error)
            return False

    async with aiohttp.ClientSession(timeout=timeout) as session:
        return any(await asyncio.gather(*(tell(session, address) for address in dict.fromkeys(places))))
