"""TLS between nodes: each node's certificate, contexts that trust exactly the pinned ones, and who is at the other end.

A node's certificate is self-signed. Others pin it, and the node's id is its fingerprint. Making one needs the
cryptography library, which is imported then and only then: once in the life of a data directory.

Python's `ssl` cannot accept any client certificate and judge it later, so pinned ones are loaded as trust anchors. None
of them may sign others (`check_certificate` sees to that). Anchors cannot be taken out of a context again: whoever
removes a pin makes new ones, and judges the connections that are open already by `member_of`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from asyncio import sslproto
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from federation.errors import CertificateError

MAX_CERTIFICATE_BYTES: Final = 1024  # DER; ours are under 400, and every member keeps those of all others
FINGERPRINT_BYTES: Final = 32  # SHA-256
_SEQUENCE: Final = b"\x30\x82"  # how DER of 256 to 65,535 bytes begins; two bytes of length follow
_VALID_BEFORE: Final = timedelta(days=2)  # whoever does look at the dates forgives a clock that is behind
_VALID_AFTER: Final = timedelta(days=20 * 365)  # the pin does the work, not the clock
# X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for: a clock that is years off (a board without a
# battery) must not cut a node off. The pin does the work.
_NO_CHECK_TIME: Final = 0x200000
# What asyncio reads at once of a TLS connection, for which each has a buffer of its own. Python's 256 KiB are 50 MB for
# the two hundred connections of a node of a hundred, and slower: 1.15 ms of a processor for a megabyte, with this 0.75.
TLS_BUFFER_BYTES: Final = 64 * 1024
sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


def make_certificate() -> bytes:
    """A new P-256 key and its certificate, as PEM. Takes a third of a second, nearly all of it the import."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    # Of its own for every node: OpenSSL looks trusted certificates up by name. It tells nothing of the machine.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"swarm-{identifier.digest.hex()[:16]}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID_BEFORE)
        .not_valid_after(now + _VALID_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)  # vouches for nobody else
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate).digest()


def node_id_of(certificate: bytes) -> str:
    """The node id that a certificate (DER) proves: its fingerprint as 52 characters of lower-case base32."""
    return id_of_fingerprint(fingerprint(certificate))


def id_of_fingerprint(digest: bytes) -> str:
    return base64.b32encode(digest).decode().rstrip("=").lower()


def check_certificate(certificate: bytes) -> bytes:
    """`certificate` if it is exactly one that can be pinned and vouches for no other. Raises CertificateError."""
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise CertificateError(f"a certificate of {len(certificate)} bytes, more than {MAX_CERTIFICATE_BYTES}")
    if certificate[:2] != _SEQUENCE or int.from_bytes(certificate[2:4]) + 4 != len(certificate):
        raise CertificateError("bytes that are not a certificate")  # OpenSSL would overlook what comes after one
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trial.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError("bytes that are not a certificate") from error
    counts = trial.cert_store_stats()
    if counts["x509"] != 1 or counts["crl"] or counts["x509_ca"]:
        raise CertificateError("a certificate that could vouch for others, or several: only a node's own is pinned")
    return certificate


def server_context(pem: Path, pinned: Iterable[bytes], *, joining: bool = False) -> ssl.SSLContext:
    """Answers only who shows a pinned certificate (DER); with `joining`, who shows none, too. Blocks for the file."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, pem, pinned)
    context.num_tickets = 0  # a resumed session would skip the certificate, and outlive its pin
    if joining:
        context.verify_mode = ssl.CERT_OPTIONAL  # one that is shown is checked as ever
    return context


def client_context(pem: Path, pinned: Iterable[bytes]) -> ssl.SSLContext:
    """Talks only to who shows a pinned certificate (DER), by whatever name or address. Blocks for the file."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, pem, pinned)


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
