"""TLS between nodes: contexts in which exactly the pinned certificates are trusted, and who is at the other end.

Python's `ssl` cannot accept any client certificate and judge it later, so pinned ones are loaded as trust anchors. None
of them may sign others (`certificate.py` sees to that). Anchors cannot be taken out of a context again: whoever
removes a pin makes new ones, and judges the connections that are open already by `member_of`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from federation.certificate import node_id_of

# X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for: a clock that is years off (a board without a
# battery) must not cut a node off. The pin does the work.
_NO_CHECK_TIME: Final = 0x200000


def server_context(pem: Path, pinned: Iterable[bytes]) -> ssl.SSLContext:
    """Answers only who shows a pinned certificate (DER). Blocks for the file."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, pem, pinned)
    context.num_tickets = 0  # a resumed session would skip the certificate, and outlive its pin
    return context


def client_context(pem: Path, pinned: Iterable[bytes]) -> ssl.SSLContext:
    """Talks only to who shows a pinned certificate (DER), by whatever name or address. Blocks for the file."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, pem, pinned)


def pairing_context(pem: Path) -> ssl.SSLContext:
    """Shows this node's certificate and asks for none: whoever joins has nothing pinned yet. Blocks for the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pem, password="")
    context.num_tickets = 0
    return context


def is_encrypted(transport: asyncio.BaseTransport | None) -> bool:
    return transport is not None and transport.get_extra_info("ssl_object") is not None


def member_of(transport: asyncio.BaseTransport | None) -> str | None:
    """The node id that the certificate at the other end proves; None over plain TCP, or where it showed none."""
    encryption = None if transport is None else transport.get_extra_info("ssl_object")
    certificate = None if encryption is None else encryption.getpeercert(binary_form=True)
    return None if certificate is None else node_id_of(certificate)


def _context(protocol: int, pem: Path, pinned: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # addresses change, certificates do not
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= _NO_CHECK_TIME
    context.load_cert_chain(pem, password="")
    anchors = b"".join(pinned)
    if anchors:
        context.load_verify_locations(cadata=anchors)
    return context
