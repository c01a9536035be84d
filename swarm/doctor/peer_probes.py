"""Probes of each peer: it is asked as this machine's own node would ask it, in a paired swarm over mutual TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Final

from federation import wire
from federation.advertisement import parse_description, parse_hints
from federation.dns_source import candidates
from federation.errors import AdvertisementError, VersionError
from federation.hostport import Address, parse_address
from federation.peer_response import NOT_ACCEPTED, why_no_handshake
from federation.static_peers import load_peers
from federation.trust import Trust
from swarm.doctor.network_checks import PeerFacts
from swarm.doctor.own_node import ITSELF, NodeReply, NotThere, OwnNode, get

MAX_ASKED: Final = 64  # peers checked
THREADS: Final = 16
SOMETHING_ELSE: Final = "check the address and the port: something other than a node answers there"
INVITE_IT: Final = "`swarm invite` here and `swarm join CODE` there, if it is one of yours; else check the address"


def peer_addresses(
    own: OwnNode | None, data_dir: Path, given: Sequence[str], listed: Sequence[Address], trust: Trust | None
) -> tuple[Address, ...]:
    """Whom to check: peers given now, `listed` in a file, stored, known to the node that runs here, and the members.

    Raises AddressError.
    """
    wanted = [*map(parse_address, given), *listed, *load_peers(data_dir)]
    resolved = [address for peer in wanted for address in (_resolve(peer) if peer.is_name else (peer,))]
    known = () if own is None else own.peers
    return tuple(dict.fromkeys((*resolved, *known, *_members(trust))))[:MAX_ASKED]


def probe_peers(addresses: Sequence[Address], own: OwnNode | None, trust: Trust | None) -> list[PeerFacts]:
    """Each peer as reached from here, and whether it knows the node that runs here; this node itself is left out.

    A member is asked wherever it was last; where it answers somewhere, the places where it does not are left out.
    """
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        found = list(threads.map(_probe, addresses, repeat(own), repeat(trust)))
    facts = {address: fact for address, fact in zip(addresses, found, strict=True) if fact is not None}
    members = _members(trust)
    if trust is not None and own is not None:  # it knows members only, and newer addresses of them than the list has
        members = {address: name for address, (name, _) in own.peers.items()} | members
    reached = {fact.name for fact in facts.values() if fact.problem is None}
    for address, fact in list(facts.items()):
        member = members.get(address)
        if member is None or fact.problem is None or fact.node_says == "alive":
            continue
        if member in reached:
            del facts[address]
        else:
            reached.add(member)
            facts[address] = replace(fact, name=fact.name or member, is_absent=fact.remedy is None)
    return list(facts.values())


def without_address(own: OwnNode | None, trust: Trust | None) -> tuple[str, ...]:
    """The names of the members that could not be asked, since no address of theirs is known."""
    entries = () if trust is None else trust.others
    known = frozenset[str]() if own is None else own.ids
    return tuple(entry.name for entry in entries if not entry.places and entry.id not in known)


def _members(trust: Trust | None) -> dict[Address, str]:
    """Where the other members were found last, with their names."""
    entries = () if trust is None else trust.others
    return {place.address: entry.name for entry in entries for place in entry.places}


def _probe(address: Address, own: OwnNode | None, trust: Trust | None) -> PeerFacts | None:
    name, state = (None, None) if own is None else own.peers.get(address, (None, None))
    facts = PeerFacts(str(address), name, node_says=state)
    try:
        answer = _ask(address, wire.NODE_PATH, trust)
        description = parse_description(answer.body)
    except NotThere as error:
        if error.args[0] == ITSELF:
            return None
        return replace(facts, problem=str(error), remedy=error.remedy)
    except VersionError as error:
        return replace(facts, problem=str(error), other_protocol=True)
    except AdvertisementError as error:
        return replace(facts, problem=str(error), remedy=SOMETHING_ELSE)
    if own is not None and (description.id, description.instance) == (own.id, own.instance):
        return None
    return replace(
        facts,
        name=description.name,
        version=description.version,
        clock_ahead_s=answer.clock_ahead_s,
        sees_us=None if own is None else _sees(address, own.id, trust),
    )


def _ask(address: Address, path: str, trust: Trust | None) -> NodeReply:
    """A 200 answer of the node there, asked as a member where this node is one. Raises NotThere."""
    try:
        answer = get(address, path, trust=trust)
    except ssl.SSLCertVerificationError as error:
        raise NotThere("what answers there is not a member of this swarm", INVITE_IT) from error
    except ssl.SSLError as error:
        raise NotThere(why_no_handshake(error), INVITE_IT) from error
    except http.client.RemoteDisconnected as error:
        if trust is None:
            raise NotThere("breaks off the connection", SOMETHING_ELSE) from error
        raise NotThere(
            NOT_ACCEPTED, "ask for a new code (`swarm invite` there), then `swarm join CODE` here"
        ) from error
    except http.client.HTTPException as error:
        raise NotThere(f"does not speak HTTP as a node does ({type(error).__name__})", SOMETHING_ELSE) from error
    except TimeoutError as error:
        raise NotThere("does not answer") from error
    except OSError as error:
        raise NotThere(f"cannot be reached ({getattr(error, 'strerror', None) or error})") from error
    if answer.status == http.client.FORBIDDEN and trust is None:
        raise NotThere(
            "belongs to a paired swarm, and talks to its members only", "`swarm invite` there, `swarm join CODE` here"
        )
    if answer.status != http.client.OK:
        raise NotThere(f"answers HTTP {answer.status}: it is not a node", SOMETHING_ELSE)
    return answer


def _sees(address: Address, own_id: str, trust: Trust | None) -> bool | None:
    try:
        return any(hint.id == own_id for hint in parse_hints(_ask(address, wire.PEERS_PATH, trust).body))
    except (NotThere, AdvertisementError):
        return None


def _resolve(name: Address) -> tuple[Address, ...]:
    """The addresses of a name; the name itself where it cannot be looked up, so that it is reported."""
    try:
        found = socket.getaddrinfo(name.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return (name,)
    return candidates(name, (str(sockaddr[0]) for *_, sockaddr in found))
