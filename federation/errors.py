"""Every failure of the federation layer that a caller can meet, as one tree.

Messages name the bad value and the remedy.

FederationError
├── AddressError            text that is no host:port, or a --host that is not this machine's
├── IdentityError           node.pem cannot be read, written or understood
├── CertificateError        bytes that are not a certificate that could be pinned
├── RosterError             a list of members that cannot be read, kept or joined with this node's
│   └── RosterNotKept       ... and that holds all the same, as long as this process runs
├── InvitationError         a code that can never work here: mistyped, this node's own, another swarm's
├── PairingError            a code that could have worked: used, too old, nobody there, somebody in between
├── AdvertisementError      what a node says about itself breaks the agreed shape
│   └── VersionError        ... or is of another major protocol version
└── PeerError               one exchange with one peer failed; `kind` says how
    ├── PeerRefused         "refused": nobody listens there, or the connection was cut
    │   └── PeerBrokeOff    "refused": it was cut after the request had gone out
    ├── PeerUnreachable     "unreachable": no such host name, or no route to it
    ├── PeerUntrusted       "untrusted": it is not a member of this swarm, or does not accept this node as one
    ├── PeerTimedOut        "timeout": nothing came in the agreed time
    ├── PeerProtocolError   "protocol": an answer came and is not what was agreed
    │   └── PeerVersionError "version": a node that speaks another major version
    └── PeerStatusError     "status": an HTTP status other than 200; `status` holds it
        └── PeerMembersOnly "untrusted": it belongs to a paired swarm, and was asked by an open node
"""

from typing import Literal

PeerErrorKind = Literal["refused", "unreachable", "timeout", "protocol", "version", "status", "untrusted"]


class FederationError(Exception):
    """Base of all expected failures here: `str(error)` is safe and useful to show to a person."""


class AddressError(FederationError):
    """An address that cannot be used as asked."""


class IdentityError(FederationError):
    """This node's own identity cannot be read or kept."""


class CertificateError(FederationError):
    """Bytes that are no certificate, or one that may not be pinned."""


class RosterError(FederationError):
    """A list of members that cannot be read or kept, or that is another swarm's."""


class RosterNotKept(RosterError):
    """Somebody was revoked, at once, and the disk did not take it: it holds as long as this process runs."""


class InvitationError(FederationError):
    """An invitation that can never work at this node, whenever it is tried."""


class PairingError(FederationError):
    """An invitation that did not work this time: used, too old, out of reach, or answered by somebody else."""


class AdvertisementError(FederationError):
    """A node's description or peer list that breaks the agreed shape or protocol version."""


class VersionError(AdvertisementError):
    """A node's description in another major version of the protocol."""


class PeerError(FederationError):
    """One exchange with one peer failed. Raised only as one of the classes below."""

    kind: PeerErrorKind
    status: int | None = None


class PeerRefused(PeerError):
    """Nobody listens at that address, or the connection broke off: the process there is gone or restarting."""

    kind = "refused"


class PeerBrokeOff(PeerRefused):
    """The connection stood and broke off under a request: the process there may have ended over it."""


class PeerUnreachable(PeerError):
    """The host name does not resolve or there is no route: says nothing about the process there."""

    kind = "unreachable"


class PeerUntrusted(PeerError):
    """The TLS handshake failed: one of the two is not a member of the other's swarm, or is not paired at all."""

    kind = "untrusted"


class PeerTimedOut(PeerError):
    """Nothing came within the agreed time: a frozen process, a lost machine or a dropped packet."""

    kind = "timeout"


class PeerProtocolError(PeerError):
    """An answer came and is not what was agreed: not JSON, too large, wrong shape or version."""

    kind = "protocol"


class PeerVersionError(PeerProtocolError):
    """A node answered that speaks another major version of the protocol."""

    kind = "version"


class PeerStatusError(PeerError):
    """The peer answered with the HTTP status `status` instead of 200; `code` names why, where it says so."""

    kind = "status"

    def __init__(self, message: str, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class PeerMembersOnly(PeerStatusError):
    """The node belongs to a paired swarm and was asked by one that is open."""

    kind = "untrusted"
