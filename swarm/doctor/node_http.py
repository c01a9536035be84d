"""One question to one node over blocking HTTP, in a paired swarm over mutual TLS with this node's key and pins."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from federation import wire
from federation.certificate import node_id_of
from federation.hostport import Address
from federation.trust import Trust

TIMEOUT_S: Final = 3.0  # a lost SYN is repeated after one second, and again after two more
MAX_BODY_BYTES: Final = 256 * 1024  # as the peer client takes
ITSELF: Final = "is this node itself"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    clock_ahead_s: float | None


class NotThere(Exception):
    """Why nothing that could be used came from an address; `remedy` where it is a particular one."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.remedy = remedy


def get(
    address: Address,
    path: str,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    trust: Trust | None = None,
) -> Answer:
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
        return Answer(response.status, body, _ahead_s(response.getheader("Date"), (began + time.time()) / 2))
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
