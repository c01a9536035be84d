"""Who this node is: a key and certificate kept in the data directory, an id that they prove, and a display name.

The id is the certificate's fingerprint from the first start on, paired or not, so that pairing changes nobody's id.
Earlier versions drew a random one (`node.json`); it proved nothing, and such a node gets its new id once.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from federation.advertisement import MAX_NAME_CHARS
from federation.errors import CertificateError, IdentityError
from federation.printable_text import printable
from federation.small_files import write_atomically
from federation.tls import check_certificate, make_certificate, node_id_of

IDENTITY_FILE = "node.pem"
FORMER_IDENTITY_FILE = "node.json"
FALLBACK_NAME = "node"
_MAX_FILE_BYTES = 8192  # the file holds one key and one certificate, under 1,000 bytes
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

MAX_NAME_BYTES = 192  # of UTF-8: with its key it fits a string of an mDNS TXT record (255)
_UNFIT_IN_NAME = re.compile(r"[ -]+")
_SIGNS_IN_NAME = frozenset("._-")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """`node_id` never changes for one data directory; `name` is what people see and may change at any start.

    `certificate` is DER; `pem` is the file that holds it with its private key.
    """

    node_id: str
    name: str
    certificate: bytes
    pem: Path


def display_name(wanted: str | None = None) -> str:
    """`wanted`, or the host name's first label, reduced to letters and digits of any script and `._-`; never empty.

    What needs ASCII makes its own form of it (headers, mDNS instance names); the network knows it as UTF-8.
    """
    source = wanted if wanted is not None else socket.gethostname().split(".")[0]
    shown = printable(unicodedata.normalize("NFC", source))
    name = _UNFIT_IN_NAME.sub("-", "".join(char if _fits_in_name(char) else " " for char in shown)).strip("-.")
    return name[:MAX_NAME_CHARS].encode()[:MAX_NAME_BYTES].decode(errors="ignore") or FALLBACK_NAME


def _fits_in_name(char: str) -> bool:
    """Letters with the marks that belong to them, digits, and the signs that names have."""
    return char in _SIGNS_IN_NAME or unicodedata.category(char)[0] in "LMN"


def load_identity(data_dir: Path, name: str | None = None) -> NodeIdentity:
    """The identity kept in `data_dir`, made on first use. Blocks. Raises IdentityError with the remedy."""
    path = data_dir / IDENTITY_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES)
        _keep_private(path)
    except FileNotFoundError:
        raw = _create(path)
    except OSError as error:
        raise IdentityError(f"cannot read {path} ({error.strerror}): make it readable, or use --data-dir") from error
    certificate = _certificate_in(path, raw)
    return NodeIdentity(node_id_of(certificate), display_name(name), certificate, path)


def _create(path: Path) -> bytes:
    raw = make_certificate()
    try:
        write_atomically(path, raw)  # mode 0600
        (path.parent / FORMER_IDENTITY_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise IdentityError(
            f"cannot write {path} ({error.strerror}): make its folder writable, or use --data-dir"
        ) from error
    return raw


def _certificate_in(path: Path, raw: bytes) -> bytes:
    """The certificate (DER) of the key in the file."""
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        match = _CERTIFICATE.search(raw.decode("ascii"))
        certificate = check_certificate(ssl.PEM_cert_to_DER_cert(match[0] if match else ""))
        trial.load_cert_chain(path, password="")  # checks that they belong together; "" so that nobody is asked for one
    except (CertificateError, ssl.SSLError, ValueError, OSError) as error:
        raise IdentityError(
            f"{path} does not hold this node's key and certificate: delete it to get a new identity "
            "(a paired node must be invited again then), or restore it from a backup"
        ) from error
    return certificate


def _keep_private(path: Path) -> None:
    """Whoever reads the key can pose as this node, so nobody else may."""
    if os.name == "posix" and path.stat().st_mode & _OTHERS:
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        log.warning("%s holds this node's key and others could read it: its mode is 0600 now", path)
