"""Asking the node that runs here, and each peer, as any node would: plain blocking HTTP."""

from __future__ import annotations

import http.client
import socket
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
from federation.advertisement import NodeDescription, parse_description, parse_hints
from federation.dns_source import candidates
from federation.errors import AddressError, AdvertisementError, VersionError
from federation.hostport import Address, parse_address
from federation.peer_store import load_peers
from swarm.doctor.network_checks import PeerFacts

HERE_TIMEOUT_S: Final = 1.0  # nothing is lost on the way to this machine itself
TIMEOUT_S: Final = 3.0  # a lost SYN is repeated after one second, and again after two more
MAX_BODY_BYTES: Final = 256 * 1024  # as the peer client takes
MAX_ASKED: Final = 64  # peers looked at
THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The node that runs here: what it says of itself, and of the addresses it knows (address -> name and state)."""

    description: NodeDescription
    peers: dict[Address, tuple[str, str]]


class _Peer(BaseModel):
    name: str
    url: str
    state: str


class _View(BaseModel):
    """What is used of `/v1/federation/health`."""

    peers: tuple[_Peer, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    clock_ahead_s: float | None


def find_own_node(hosts: Sequence[str], port: int, api_key: str | None) -> OwnNode | None:
    """The node at the first of these addresses that one answers at; None if none runs."""
    for host in hosts:
        address = Address(host, port)
        try:
            description = parse_description(_get(address, wire.NODE_PATH, timeout_s=HERE_TIMEOUT_S).body)
        except (OSError, http.client.HTTPException, AdvertisementError):
            continue
        return OwnNode(description, _known_peers(address, api_key))
    return None


def peer_addresses(own: OwnNode | None, data_dir: Path, given: Sequence[str]) -> tuple[Address, ...]:
    """Whom to look at: given now, kept from earlier starts, known to the node that runs here. Raises AddressError."""
    wanted = [*map(parse_address, given), *load_peers(data_dir)]
    resolved = [address for peer in wanted for address in (_resolve(peer) if peer.is_name else (peer,))]
    known = () if own is None else own.peers
    return tuple(dict.fromkeys((*resolved, *known)))[:MAX_ASKED]


def probe_peers(addresses: Sequence[Address], own: OwnNode | None) -> list[PeerFacts]:
    """Each as asked from here, and whether it knows the node that runs here; this node itself is left out."""
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        facts = list(threads.map(_probe, addresses, repeat(own)))
    return [fact for fact in facts if fact is not None]


def _probe(address: Address, own: OwnNode | None) -> PeerFacts | None:
    name, state = (None, None) if own is None else own.peers.get(address, (None, None))
    facts = PeerFacts(str(address), name, node_says=state)
    try:
        answer = _get(address, wire.NODE_PATH)
        if answer.status != http.client.OK:
            return replace(facts, problem=f"answers {answer.status}, as no node does")
        description = parse_description(answer.body)
    except VersionError as error:
        return replace(facts, problem=str(error), other_protocol=True)
    except AdvertisementError as error:
        return replace(facts, problem=str(error))
    except TimeoutError:
        return replace(facts, problem="does not answer")
    except (OSError, http.client.HTTPException) as error:
        return replace(facts, problem=f"cannot be reached ({getattr(error, 'strerror', None) or error})")
    if own is not None and description.id == own.description.id and description.instance == own.description.instance:
        return None
    return replace(
        facts,
        name=description.name,
        version=description.version,
        clock_ahead_s=answer.clock_ahead_s,
        sees_us=None if own is None else _sees(address, own.description.id),
    )


def _sees(address: Address, own_id: str) -> bool | None:
    try:
        return any(hint.id == own_id for hint in parse_hints(_get(address, wire.PEERS_PATH).body))
    except (OSError, http.client.HTTPException, AdvertisementError):
        return None


def _known_peers(own: Address, api_key: str | None) -> dict[Address, tuple[str, str]]:
    """Whom the node knows; nobody where it wants a key that is not given."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        view = _View.model_validate_json(_get(own, "/v1/federation/health", headers).body)
        return {parse_address(peer.url): (peer.name, peer.state) for peer in view.peers}
    except (OSError, http.client.HTTPException, AddressError, ValidationError):
        return {}


def _resolve(name: Address) -> tuple[Address, ...]:
    """What the name stands for; itself where nobody knows, so that it is reported."""
    try:
        found = socket.getaddrinfo(name.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return (name,)
    return candidates(name, (str(sockaddr[0]) for *_, sockaddr in found))


def _get(
    address: Address, path: str, headers: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> _Answer:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        began = time.time()
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read(MAX_BODY_BYTES)
        return _Answer(response.status, body, _ahead_s(response.getheader("Date"), (began + time.time()) / 2))
    finally:
        connection.close()


def _ahead_s(date: str | None, here_s: float) -> float | None:
    """By how much the clock that wrote the header is ahead; it has whole seconds, half of one on average."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - here_s
    except ValueError:
        return None
