"""The node that runs on this machine, and what it reports of its swarm; and one question to any node over HTTP.

In a paired swarm nodes are asked over mutual TLS, with this node's own certificate. All of it blocks.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final

from pydantic import BaseModel, ValidationError

from federation import wire
from federation.advertisement import parse_description
from federation.errors import AddressError, AdvertisementError
from federation.hostport import Address, parse_address
from federation.tls import node_id_of
from federation.trust import Trust
from swarm.doctor.network_checks import Rejected

TIMEOUT_S: Final = 3.0  # a lost SYN is repeated after one second, and again after two more
HERE_TIMEOUT_S: Final = 1.0  # nothing is lost on the way to this machine itself
MAX_BODY_BYTES: Final = 256 * 1024  # as the peer client takes
ITSELF: Final = "is this node itself"


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The node that runs here: who it is, and its `peers` (address -> name and state).

    `instance` names this run of it; None for a paired node, which says so to members only. `ids` are its peers' ids,
    `rejected` the addresses that it does not take for peers. `wants_key`: it reports its peers only with an API key.
    `access`: who may use its API, and who may ask it as a node; None where it does not say.
    """

    id: str
    name: str
    instance: str | None
    peers: dict[Address, tuple[str, str]]
    ids: frozenset[str] = frozenset()
    rejected: tuple[Rejected, ...] = ()
    wants_key: bool = False
    access: Access | None = None


class _Peer(BaseModel):
    id: str
    name: str
    url: str
    state: str


class _Self(BaseModel):
    id: str
    name: str


class Access(BaseModel):
    """`api` is anyone or key; `peers` none, members, anyone or nobody."""

    api: str
    peers: str


class _View(BaseModel):
    """What is used of `/v1/federation/health`."""

    node: _Self
    peers: tuple[_Peer, ...]
    rejected: tuple[Rejected, ...] = ()
    access: Access | None = None  # nodes of earlier versions do not say


def find_own_node(hosts: Sequence[str], port: int, api_key: str | None, trust: Trust | None) -> OwnNode | None:
    """The node at the first of these addresses that one answers at; None if none runs."""
    for host in hosts:
        address = Address(host, port)
        try:
            answer = get(address, wire.NODE_PATH, timeout_s=HERE_TIMEOUT_S)
        except (OSError, http.client.HTTPException):
            continue
        view = _view(address, api_key)
        own = _who_answers(answer, view if isinstance(view, _View) else None, trust)
        if own is None:
            continue
        if isinstance(view, _View):
            ids = frozenset(peer.id for peer in view.peers)
            return replace(own, peers=_known_peers(view), ids=ids, rejected=view.rejected, access=view.access)
        return replace(own, wants_key=view == http.client.UNAUTHORIZED)
    return None


def _who_answers(answer: NodeReply, view: _View | None, trust: Trust | None) -> OwnNode | None:
    """The node that gave this answer about itself; None where it is none."""
    if answer.status == http.client.FORBIDDEN and view is not None:
        return OwnNode(view.node.id, view.node.name, None, {})
    if answer.status == http.client.FORBIDDEN and trust is not None:  # it wants a key that is not given
        return OwnNode(trust.node_id, trust.identity.name, None, {})
    try:
        found = parse_description(answer.body)
    except AdvertisementError:
        return None
    return OwnNode(found.id, found.name, found.instance, {})


def _view(own: Address, api_key: str | None) -> _View | int | None:
    """The swarm as the node sees it, or the HTTP status with which it refuses; None for anything else."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        answer = get(own, "/v1/federation/health", headers)
        return _View.model_validate_json(answer.body) if answer.status == http.client.OK else answer.status
    except (OSError, http.client.HTTPException, ValidationError):
        return None


def _known_peers(view: _View) -> dict[Address, tuple[str, str]]:
    try:
        return {parse_address(peer.url): (peer.name, peer.state) for peer in view.peers}
    except AddressError:
        return {}


@dataclass(frozen=True, slots=True)
class NodeReply:
    """An HTTP answer, bounded; `clock_ahead_s`: by how much the clock there is ahead of this machine's, if it says."""

    status: int
    body: bytes
    clock_ahead_s: float | None


class NotThere(Exception):
    """An address gave no usable answer, and why; `remedy` where there is a particular one."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.remedy = remedy


def get(
    address: Address,
    path: str,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    trust: Trust | None = None,
) -> NodeReply:
    """What the node at `address` answers to GET `path`, asked as a member if `trust` is given.

    Raises OSError and HTTPException as `http.client` does, NotThere where this node itself answers.
    """
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
        return NodeReply(response.status, body, _ahead_s(response.getheader("Date"), (began + time.time()) / 2))
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
