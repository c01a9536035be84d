"""The code that `swarm invite` prints and `swarm join` takes: where to go, whom to expect there, and a secret. Pure.

`swarm1`, then base32 in lower case: one word without signs, so that a double click selects all of it and it survives
mail, chat and being read in capitals. Its last four bytes are a checksum: a typing error is found before anything is
sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Final

from federation.certificate import FINGERPRINT_BYTES, id_of_fingerprint
from federation.errors import AddressError, InvitationError
from federation.hostport import Address, make_address
from federation.roster import SWARM_ID_BYTES

PREFIX: Final = "swarm1"
SECRET_BYTES: Final = 16  # 128 bits: a code cannot be guessed, on line or off
MAX_HOSTS: Final = 4
MAX_CODE_CHARS: Final = 400  # the longest code has 290; more is no code
_CHECKSUM_BYTES: Final = 4
_FIXED_BYTES: Final = FINGERPRINT_BYTES + SECRET_BYTES + SWARM_ID_BYTES + 2  # the port too
_HOST_BYTES: Final = {4: 4, 6: 16}
_COPY_IT: Final = "copy it once more, all of it"


@dataclass(frozen=True, slots=True)
class Invitation:
    """`hosts` are IP literals, the best first; `fingerprint` is that of the inviter's certificate."""

    swarm: str
    fingerprint: bytes
    secret: bytes
    hosts: tuple[str, ...]
    port: int

    @property
    def node_id(self) -> str:
        """The inviter's."""
        return id_of_fingerprint(self.fingerprint)

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(Address(host, self.port) for host in self.hosts)

    def __repr__(self) -> str:
        return f"Invitation(to {self.node_id} at {', '.join(map(str, self.addresses))})"  # the secret in no log


def encode(invitation: Invitation) -> str:
    """The code."""
    hosts = [ipaddress.ip_address(host) for host in invitation.hosts[:MAX_HOSTS]]
    raw = b"".join(
        (
            invitation.fingerprint,
            invitation.secret,
            bytes.fromhex(invitation.swarm),
            invitation.port.to_bytes(2),
            *(bytes([ip.version]) + ip.packed for ip in hosts),
        )
    )
    return PREFIX + base64.b32encode(raw + _checksum(raw)).decode().rstrip("=").lower()


def decode(text: str) -> Invitation:
    """The invitation in a code, in any case, white space ignored. Raises InvitationError for whoever typed it."""
    code = "".join(text.split()).lower()
    if not code.startswith(PREFIX) or len(code) > MAX_CODE_CHARS:
        raise InvitationError(f"this is no invitation: `swarm invite` prints one word that begins with {PREFIX}")
    body = code.removeprefix(PREFIX).upper()
    try:
        raw = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise InvitationError(f"the invitation is mistyped or cut short: {_COPY_IT}") from error
    content, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if checksum != _checksum(content) or len(content) < _FIXED_BYTES:
        raise InvitationError(f"the invitation is mistyped or cut short: {_COPY_IT}")
    return _parse(content)


def _parse(content: bytes) -> Invitation:
    """A checked content. What is wrong here was made so."""
    secret_at, swarm_at = FINGERPRINT_BYTES, FINGERPRINT_BYTES + SECRET_BYTES
    port_at = swarm_at + SWARM_ID_BYTES
    port = int.from_bytes(content[port_at:_FIXED_BYTES])
    hosts: list[str] = []
    rest = content[_FIXED_BYTES:]
    try:
        while rest:
            end = 1 + _HOST_BYTES[rest[0]]
            hosts.append(make_address(str(ipaddress.ip_address(rest[1:end])), port).host)
            rest = rest[end:]
    except (KeyError, ValueError, AddressError) as error:
        raise InvitationError("the invitation names an impossible address: ask for a new one") from error
    if not 1 <= len(hosts) <= MAX_HOSTS:
        raise InvitationError(f"the invitation names {len(hosts)} addresses: ask for a new one")
    return Invitation(
        swarm=content[swarm_at:port_at].hex(),
        fingerprint=content[:FINGERPRINT_BYTES],
        secret=content[secret_at:swarm_at],
        hosts=tuple(hosts),
        port=port,
    )


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(b"local-swarm invitation" + content).digest()[:_CHECKSUM_BYTES]
