"""Asking the node that runs here, and each peer, as this machine's own node would: blocking HTTP.

In a paired swarm that is mutual TLS with this node's key and pins, so that both ends prove who they are.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from itertools import repeat
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from federation import wire
from federation.advertisement import parse_description, parse_hints
from federation.certificate import node_id_of
from federation.dns_source import candidates
from federation.errors import AddressError, AdvertisementError, VersionError
from federation.hostport import Address, parse_address
from federation.peer_link import NOT_TAKEN, why_no_handshake
from federation.peer_store import load_peers
from federation.trust import Trust
from swarm.doctor.network_checks import PeerFacts

HERE_TIMEOUT_S: Final = 1.0  # nothing is lost on the way to this machine itself
TIMEOUT_S: Final = 3.0  # a lost SYN is repeated after one second, and again after two more
MAX_BODY_BYTES: Final = 256 * 1024  # as the peer client takes
MAX_ASKED: Final = 64  # peers looked at
THREADS: Final = 16
ITSELF: Final = "is this node itself"
INVITE_IT: Final = "`swarm invite` here and `swarm join CODE` there, if it is one of yours; else check the address"


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The node that runs here: who it is, and of the addresses it knows (address -> name and state).

    `instance` is the mark of its run; None where it is paired, and tells members only.
    """

    id: str
    name: str
    instance: str | None
    peers: dict[Address, tuple[str, str]]


class _Peer(BaseModel):
    name: str
    url: str
    state: str


class _Self(BaseModel):
    id: str
    name: str


class _View(BaseModel):
    """What is used of `/v1/federation/health`."""

    node: _Self
    peers: tuple[_Peer, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    clock_ahead_s: float | None


class NotThere(Exception):
    """Why nothing that could be used came from an address; `remedy` where it is a particular one."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.remedy = remedy


def find_own_node(hosts: Sequence[str], port: int, api_key: str | None, trust: Trust | None) -> OwnNode | None:
    """The node at the first of these addresses that one answers at; None if none runs."""
    for host in hosts:
        address = Address(host, port)
        try:
            answer = _get(address, wire.NODE_PATH, timeout_s=HERE_TIMEOUT_S)
        except (OSError, http.client.HTTPException):
            continue
        view = _view(address, api_key)
        peers = {} if view is None else _known_peers(view)
        if answer.status == http.client.FORBIDDEN and view is not None:
            return OwnNode(view.node.id, view.node.name, None, peers)
        if answer.status == http.client.FORBIDDEN and trust is not None:  # it wants a key that is not given
            return OwnNode(trust.node_id, trust.identity.name, None, {})
        try:
            found = parse_description(answer.body)
        except AdvertisementError:
            continue
        return OwnNode(found.id, found.name, found.instance, peers)
    return None


def peer_addresses(
    own: OwnNode | None, data_dir: Path, given: Sequence[str], trust: Trust | None
) -> tuple[Address, ...]:
    """Whom to look at: given now, kept from earlier starts, known to the node that runs here, and the members.

    Raises AddressError.
    """
    wanted = [*map(parse_address, given), *load_peers(data_dir)]
    resolved = [address for peer in wanted for address in (_resolve(peer) if peer.is_name else (peer,))]
    known = () if own is None else own.peers
    return tuple(dict.fromkeys((*resolved, *known, *_members(trust))))[:MAX_ASKED]


def probe_peers(addresses: Sequence[Address], own: OwnNode | None, trust: Trust | None) -> list[PeerFacts]:
    """Each as asked from here, and whether it knows the node that runs here; this node itself is left out.

    A member is asked wherever it was last; where it answers somewhere, the places where it does not are left out.
    """
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        found = list(threads.map(_probe, addresses, repeat(own), repeat(trust)))
    facts = {address: fact for address, fact in zip(addresses, found, strict=True) if fact is not None}
    members = _members(trust)
    if (
        trust is not None and own is not None
    ):  # it knows nobody but members, and where they are now before the list does
        members = {address: name for address, (name, _) in own.peers.items()} | members
    told = {fact.name for fact in facts.values() if fact.problem is None}
    for address, fact in list(facts.items()):
        member = members.get(address)
        if member is None or fact.problem is None or fact.node_says == "alive":
            continue
        if member in told:
            del facts[address]
        else:
            told.add(member)
            facts[address] = replace(fact, name=fact.name or member, is_absent=fact.remedy is None)
    return list(facts.values())


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
        return replace(facts, problem=str(error))
    if own is not None and (description.id, description.instance) == (own.id, own.instance):
        return None
    return replace(
        facts,
        name=description.name,
        version=description.version,
        clock_ahead_s=answer.clock_ahead_s,
        sees_us=None if own is None else _sees(address, own.id, trust),
    )


def _ask(address: Address, path: str, trust: Trust | None) -> _Answer:
    """A 200 answer of the node there, as a member where this node is one. Raises NotThere."""
    try:
        answer = _get(address, path, trust=trust)
    except ssl.SSLCertVerificationError as error:
        raise NotThere("what answers there is no member of this swarm", INVITE_IT) from error
    except ssl.SSLError as error:
        raise NotThere(why_no_handshake(error), INVITE_IT) from error
    except http.client.RemoteDisconnected as error:
        if trust is None:
            raise NotThere("breaks off the connection") from error
        raise NotThere(NOT_TAKEN, "ask for a new code (`swarm invite` there), then `swarm join CODE` here") from error
    except TimeoutError as error:
        raise NotThere("does not answer") from error
    except (OSError, http.client.HTTPException) as error:
        raise NotThere(f"cannot be reached ({getattr(error, 'strerror', None) or error})") from error
    if answer.status == http.client.FORBIDDEN and trust is None:
        raise NotThere(
            "belongs to a paired swarm, and talks to its members only", "`swarm invite` there, `swarm join CODE` here"
        )
    if answer.status != http.client.OK:
        raise NotThere(f"answers {answer.status}, as no node does")
    return answer


def _sees(address: Address, own_id: str, trust: Trust | None) -> bool | None:
    try:
        return any(hint.id == own_id for hint in parse_hints(_ask(address, wire.PEERS_PATH, trust).body))
    except (NotThere, AdvertisementError):
        return None


def _view(own: Address, api_key: str | None) -> _View | None:
    """The swarm as the node sees it; None where it wants a key that is not given."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        return _View.model_validate_json(_get(own, "/v1/federation/health", headers).body)
    except (OSError, http.client.HTTPException, ValidationError):
        return None


def _known_peers(view: _View) -> dict[Address, tuple[str, str]]:
    try:
        return {parse_address(peer.url): (peer.name, peer.state) for peer in view.peers}
    except AddressError:
        return {}


def _resolve(name: Address) -> tuple[Address, ...]:
    """What the name stands for; itself where nobody knows, so that it is reported."""
    try:
        found = socket.getaddrinfo(name.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return (name,)
    return candidates(name, (str(sockaddr[0]) for *_, sockaddr in found))


def _get(
    address: Address,
    path: str,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    trust: Trust | None = None,
) -> _Answer:
    connection = _connection(address, timeout_s, None if trust is None else trust.client_context)
    sent = {**(headers or {}), **({} if trust is None else {wire.FROM_HEADER: trust.node_id})}
    try:
        began = time.time()
        connection.connect()
        if trust is not None and isinstance(connection.sock, ssl.SSLSocket):
            shown = connection.sock.getpeercert(binary_form=True)
            if shown is not None and node_id_of(shown) == trust.node_id:
                raise NotThere(ITSELF)
        connection.request("GET", path, headers=sent)
        response = connection.getresponse()
        body = response.read(MAX_BODY_BYTES)
        return _Answer(response.status, body, _ahead_s(response.getheader("Date"), (began + time.time()) / 2))
    finally:
        connection.close()


def _connection(address: Address, timeout_s: float, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=context)


def _ahead_s(date: str | None, here_s: float) -> float | None:
    """By how much the clock that wrote the header is ahead; it has whole seconds, half of one on average."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - here_s
    except ValueError:
        return None
