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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from secrets import token_bytes
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from federation.advertisement import Name
from federation.errors import AddressError, InvitationError, PairingError
from federation.hostport import Address, make_address, network_of
from federation.printable_text import printable
from federation.roster import MAX_MEMBERS, MAX_ROSTER_BYTES, SWARM_ID_BYTES, Certificate, Endpoints, Roster
from federation.tls import FINGERPRINT_BYTES, id_of_fingerprint
from federation.wire import WireModel

PREFIX: Final = "swarm1"
SECRET_BYTES: Final = 16  # 128 bits: a code cannot be guessed, on line or off
MAX_HOSTS: Final = 4
MAX_CODE_CHARS: Final = 400  # the longest code has 290; more is no code
MAX_LIVE_CODES: Final = 32  # one for each machine of a room that somebody sets up at once
MAX_CODE_USES: Final = MAX_MEMBERS - 1  # more could not join the inviter
MIN_CODE_LIFE_S: Final = 60.0
MAX_CODE_LIFE_S: Final = 7 * 86_400.0  # who has an old mail must not be let in for ever
MAX_WRONG_PROOFS: Final = 20  # of one address in WRONG_PROOFS_S, which then waits: nobody mistypes a proof
WRONG_PROOFS_S: Final = 60.0
MAX_WRONG_NETWORKS: Final = 1024  # remembered; a code of 128 bits stands however many guess
CODE_ID_CHARS: Final = 8
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


def code_id(secret: bytes) -> str:
    """What a code is called where it is listed: it tells nothing of the secret."""
    digest = hashlib.sha256(b"local-swarm code " + secret).digest()
    return base64.b32encode(digest).decode().lower()[:CODE_ID_CHARS]


class ProofResult(Enum):
    """What became of a proof: it took one use of a code, no live code fits, or its address has to wait first."""

    RIGHT = auto()
    WRONG = auto()
    TOO_MANY = auto()


@dataclass(frozen=True, slots=True)
class Redeemed:
    """`secret` only where the proof was right; `wait_s` only after too many wrong ones, `is_news` the first time."""

    result: ProofResult
    secret: bytes = b""
    wait_s: float = 0.0
    is_news: bool = False


@dataclass(frozen=True, slots=True)
class CodeState:
    """One code: how many machines it lets in, the names of those that used it, and how long it is good for."""

    id: str
    uses: int
    joined: tuple[str, ...]
    ends_in_s: float

    @property
    def uses_left(self) -> int:
        return self.uses - len(self.joined)


@dataclass(slots=True)
class _Code:
    secret: bytes
    ends_at: float
    uses: int
    joined: dict[bytes, str]  # names by fingerprint

    @property
    def is_live(self) -> bool:
        return len(self.joined) < self.uses


class Invitations:
    """The codes of one inviter. Each is good for its number of machines, and for `life_s` if nothing else is said."""

    def __init__(
        self,
        fingerprint: bytes,
        random_bytes: Callable[[int], bytes] = token_bytes,
        life_s: float = PairingTiming().code_life_s,
    ) -> None:
        self.life_s = life_s
        self._fingerprint = fingerprint
        self._random_bytes = random_bytes
        self._codes: list[_Code] = []  # used up ones, too, until their time is over: they are listed
        self._wrong = WrongProofs()

    def issue(self, now: float, uses: int = 1, life_s: float | None = None) -> bytes:
        """A new secret. Raises PairingError where MAX_LIVE_CODES are good already: none ends unasked."""
        if self.live(now) >= MAX_LIVE_CODES:
            raise PairingError(
                f"{MAX_LIVE_CODES} codes are good at the same time already: `swarm invite --list` shows them, "
                "`swarm invite --withdraw ID` ends one; one code can be for many machines (--uses)"
            )
        used_up = [code for code in self._codes if not code.is_live][-MAX_LIVE_CODES:]
        self._codes = [code for code in self._codes if code.is_live or code in used_up]
        secret = self._random_bytes(SECRET_BYTES)
        self._codes.append(_Code(secret, now + (self.life_s if life_s is None else life_s), uses, {}))
        return secret

    def live(self, now: float) -> int:
        """How many codes may still be used."""
        self._codes = [code for code in self._codes if now < code.ends_at]
        return sum(code.is_live for code in self._codes)

    def next_end(self, now: float) -> float | None:
        """When the next live code ends by age; None while there is none."""
        self.live(now)
        return min((code.ends_at for code in self._codes if code.is_live), default=None)

    def states(self, now: float) -> tuple[CodeState, ...]:
        """All whose time is not over, the oldest first; those used up are among them."""
        self.live(now)
        return tuple(
            CodeState(code_id(code.secret), code.uses, tuple(code.joined.values()), code.ends_at - now)
            for code in self._codes
        )

    def withdraw(self, ids: Iterable[str]) -> None:
        """End these codes at once."""
        ended = frozenset(ids)
        self._codes = [code for code in self._codes if code_id(code.secret) not in ended]

    def withdraw_all(self) -> None:
        self._codes.clear()

    def withdraw_known_to(self, joiner: bytes) -> tuple[str, ...]:
        """End the live codes that the node with this fingerprint joined by, and could come back by; their ids."""
        known = tuple(code_id(code.secret) for code in self._codes if code.is_live and joiner in code.joined)
        self.withdraw(known)
        return known

    def redeem(self, joiner: bytes, name: str, proof: str, host: str, now: float) -> Redeemed:
        """Judge a joiner's proof; a right one takes a use. `joiner` is a fingerprint, `host` where it called from.

        All codes are tried, whichever fits: the time taken does not depend on them.
        """
        network = network_of(host)
        wait_s = self._wrong.wait_s(network, now)
        if wait_s > 0:
            return Redeemed(ProofResult.TOO_MANY, wait_s=wait_s)
        self.live(now)
        live = [code for code in self._codes if code.is_live]
        fitting = [code for code in live if same(proof, joiner_proof(code.secret, self._fingerprint, joiner))]
        if fitting:
            fitting[0].joined[joiner] = name
            return Redeemed(ProofResult.RIGHT, fitting[0].secret)
        self._wrong.note(network, now)
        wait_s = self._wrong.wait_s(network, now)
        return Redeemed(ProofResult.TOO_MANY if wait_s else ProofResult.WRONG, wait_s=wait_s, is_news=wait_s > 0)

    def give_back(self, secret: bytes, joiner: bytes) -> None:
        """The use that a joiner took, because it could not be let in after all."""
        for code in self._codes:
            if code.secret == secret:
                code.joined.pop(joiner, None)


class WrongProofs:
    """How many wrong proofs each network sent of late. It bounds what a flood costs; no code becomes worse by it."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, float]] = {}  # how many, and when the first of them came

    def note(self, network: str, now: float) -> None:
        count, since = self._current(network, now)
        if network not in self._of and len(self._of) >= MAX_WRONG_NETWORKS:
            del self._of[next(iter(self._of))]
        self._of[network] = (count + 1, since)

    def wait_s(self, network: str, now: float) -> float:
        """How long it has to wait until it is heard again; 0 where it need not."""
        count, since = self._current(network, now)
        return max(0.0, since + WRONG_PROOFS_S - now) if count >= MAX_WRONG_PROOFS else 0.0

    def _current(self, network: str, now: float) -> tuple[int, float]:
        count, since = self._of.get(network, (0, now))
        return (count, since) if now - since < WRONG_PROOFS_S else (0, now)
