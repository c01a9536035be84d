"""A node's key and self-signed certificate: what other nodes pin, and what its id is the fingerprint of.

Making one needs the cryptography library, which is imported then and only then: once in the life of a data directory.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import Final

from federation.errors import CertificateError

MAX_CERTIFICATE_BYTES: Final = 1024  # DER; ours are under 400, and every member keeps those of all others
FINGERPRINT_BYTES: Final = 32  # SHA-256
_SEQUENCE: Final = b"\x30\x82"  # how DER of 256 to 65,535 bytes begins; two bytes of length follow
_VALID_BEFORE: Final = timedelta(days=2)  # whoever does look at the dates forgives a clock that is behind
_VALID_AFTER: Final = timedelta(days=20 * 365)  # the pin does the work, not the clock


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
        raise CertificateError("bytes that are no certificate")  # OpenSSL would overlook what comes after one
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trial.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError("bytes that are no certificate") from error
    counts = trial.cert_store_stats()
    if counts["x509"] != 1 or counts["crl"] or counts["x509_ca"]:
        raise CertificateError("a certificate that could vouch for others, or several: only a node's own is pinned")
    return certificate
