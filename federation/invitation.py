"""Inviting a node into a swarm: the code, what the two nodes then say to each other, and which codes are live. Pure.

`swarm invite` prints a code and `swarm join` takes it. It holds where to go, whom to expect there, and a secret:
`swarm1`, then base32 in lower case: one word without signs, so that a double click selects all of it and it survives
mail, chat and being read in capitals. Its last four bytes are a checksum: a typing error is found before anything is
sent.

1. The joiner connects to the address in the code and looks at the certificate; unless it is the one named, it stops.
2. It sends its own certificate and a proof of the secret: HMAC over both fingerprints, good for these two nodes alone.
3. The inviter pins it and answers with its own proof and the list of members; the joiner pins them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from secrets import token_bytes
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from federation.advertisement import Name
from federation.errors import AddressError, InvitationError
from federation.hostport import Address, make_address
from federation.printable_text import printable
from federation.roster import MAX_ROSTER_BYTES, SWARM_ID_BYTES, Certificate, Endpoints, Roster
from federation.tls import FINGERPRINT_BYTES, id_of_fingerprint
from federation.wire import WireModel

PREFIX: Final = "swarm1"
SECRET_BYTES: Final = 16  # 128 bits: a code cannot be guessed, on line or off
MAX_HOSTS: Final = 4
MAX_CODE_CHARS: Final = 400  # the longest code has 290; more is no code
MAX_LIVE_CODES: Final = 8  # one for each machine of a room that somebody sets up at once
MAX_WRONG_PROOFS: Final = 20  # then the code is withdrawn: nobody mistypes a proof
MAX_REQUEST_BYTES: Final = 8192  # a certificate, a name and four addresses are under 3,000
MAX_REPLY_BYTES: Final = MAX_ROSTER_BYTES + 1024
_CHECKSUM_BYTES: Final = 4
_FIXED_BYTES: Final = FINGERPRINT_BYTES + SECRET_BYTES + SWARM_ID_BYTES + 2  # the port too
_HOST_BYTES: Final = {4: 4, 6: 16}
_COPY_IT: Final = "copy it once more, all of it"
_PURPOSE: Final = b"local-swarm pairing 1 "
Proof = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


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
        raise InvitationError(f"this is not an invitation: `swarm invite` prints one word that begins with {PREFIX}")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingTiming:
    """How long an inviter waits for joiners, in seconds."""

    code_life_s: float = 600.0  # ten minutes: to walk to the other machine
    exchange_s: float = 10.0  # for one connection, from the end of the handshake to the end of the answer


class JoinRequest(WireModel):
    """What a joiner sends, as one line of JSON. Its node id is its certificate's fingerprint."""

    certificate: Certificate
    name: Name
    places: Endpoints = ()
    proof: Proof

    @property
    def der(self) -> bytes:
        """The certificate."""
        return base64.b64decode(self.certificate)


class JoinAnswer(WireModel):
    """What the inviter answers. `unix_s` is its clock, so that a wrong one can be pointed out."""

    proof: Proof
    roster: Roster
    unix_s: Annotated[float, Field(ge=0, le=1e11)]


class JoinReply(WireModel):
    """What comes back, as one line of JSON: the answer, or why there is none."""

    answer: JoinAnswer | None = None
    refusal: Annotated[str, Field(max_length=300), AfterValidator(printable)] | None = None


def joiner_proof(secret: bytes, inviter: bytes, joiner: bytes) -> str:
    """What shows that the joiner holds the code. Arguments two and three are certificate fingerprints."""
    return _proof(b"joiner", secret, inviter, joiner)


def inviter_proof(secret: bytes, inviter: bytes, joiner: bytes) -> str:
    """What shows that the answer is from whoever made the code."""
    return _proof(b"inviter", secret, inviter, joiner)


def same(proof: str, other: str) -> bool:
    """Whether two proofs are equal, in a time that depends on neither."""
    return hmac.compare_digest(proof, other)


def _proof(role: bytes, secret: bytes, inviter: bytes, joiner: bytes) -> str:
    return hmac.new(secret, _PURPOSE + role + b" " + inviter + joiner, hashlib.sha256).hexdigest()


class ProofResult(Enum):
    """What became of a proof: the code was right and is used up, none fits, or too many were wrong."""

    RIGHT = auto()
    WRONG = auto()
    WITHDRAWN = auto()


@dataclass(slots=True)
class _LiveCode:
    secret: bytes
    ends_at: float
    wrong: int = 0


class Invitations:
    """The live codes of one inviter. Each is good once, for `life_s`, and for MAX_WRONG_PROOFS wrong proofs."""

    def __init__(
        self,
        fingerprint: bytes,
        random_bytes: Callable[[int], bytes] = token_bytes,
        life_s: float = PairingTiming().code_life_s,
    ) -> None:
        self.life_s = life_s
        self._fingerprint = fingerprint
        self._random_bytes = random_bytes
        self._codes: list[_LiveCode] = []

    def issue(self, now: float) -> bytes:
        """A new secret; beyond MAX_LIVE_CODES the oldest code ends."""
        self.live(now)
        del self._codes[: max(0, len(self._codes) - MAX_LIVE_CODES + 1)]
        code = _LiveCode(self._random_bytes(SECRET_BYTES), now + self.life_s)
        self._codes.append(code)
        return code.secret

    def live(self, now: float) -> int:
        """How many codes may still be used."""
        self._codes = [code for code in self._codes if now < code.ends_at and code.wrong < MAX_WRONG_PROOFS]
        return len(self._codes)

    def next_end(self, now: float) -> float | None:
        """When the next code ends by age; None while there is none."""
        self.live(now)
        return min((code.ends_at for code in self._codes), default=None)

    def withdraw_all(self) -> None:
        self._codes.clear()

    def redeem(self, joiner: bytes, proof: str, now: float) -> tuple[ProofResult, bytes]:
        """Judge a joiner's proof; the secret it proved, which is used up by that, else b"". `joiner` is a fingerprint.

        All codes are tried, whichever fits: the time taken does not depend on them.
        """
        self.live(now)
        fitting = [code for code in self._codes if same(proof, joiner_proof(code.secret, self._fingerprint, joiner))]
        if fitting:
            self._codes.remove(fitting[0])
            return ProofResult.RIGHT, fitting[0].secret
        for code in self._codes:
            code.wrong += 1
        withdrawn = any(code.wrong >= MAX_WRONG_PROOFS for code in self._codes)
        self.live(now)
        return (ProofResult.WITHDRAWN if withdrawn else ProofResult.WRONG), b""
