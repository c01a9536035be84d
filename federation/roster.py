"""Who belongs to a paired swarm, and whether this node still does. Pure: time is given.

A `Roster` is a list of members that every member keeps. Each node has one entry. A higher epoch wins; of two with the
same epoch the revoked one wins, so that any two copies merge to the same. What is revoked stays so, however late a copy
turns up that knows nothing of it, until somebody invites the node again (a higher epoch).

A node learns that it was revoked in one of two ways. Either its own list says so, sent by whoever revoked it. Or it
was off at that moment, and finds that a member, known by its certificate, refuses it while nobody else accepts it:
then it knows who, not since when.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from federation.advertisement import Host, Name, NodeId
from federation.errors import CertificateError, RosterError
from federation.hostport import MAX_PORT, Address
from federation.timing import MAX_ADDRESSES_PER_PEER, MAX_PEERS
from federation.tls import MAX_CERTIFICATE_BYTES, check_certificate, node_id_of
from federation.wire import WireModel, first_problem

MAX_MEMBERS: Final = MAX_PEERS  # as many as a peer table holds
MAX_ENTRIES: Final = 2 * MAX_MEMBERS  # revoked ones included, which are never forgotten
MAX_ROSTER_BYTES: Final = 1024 * 1024  # MAX_ENTRIES of the largest legal size; a real entry is under 1,000 bytes
SWARM_ID_BYTES: Final = 8  # keeps swarms apart for people's sake; certificates are what is trusted
SURE_AFTER: Final = 3  # refusals in a row: a member that is being restarted breaks off once or twice
SURE_S: Final = 5.0  # between the first and the last: all members know a newcomer within a second or two
SOMEBODY: Final = "another member"  # revoked by an older version, which does not say who did it
_MAX_EPOCH: Final = 1_000_000
_DIGEST_CHARS: Final = 26  # 130 bits


def encoded(certificate: bytes) -> str:
    """DER as it travels in JSON."""
    return base64.b64encode(certificate).decode()


@lru_cache(2 * MAX_ENTRIES)  # each copy of a list brings the same ones again, and OpenSSL takes a while over each
def _sound_certificate(text: str) -> str:
    try:
        check_certificate(base64.b64decode(text, validate=True))
    except (binascii.Error, CertificateError) as error:
        raise ValueError(str(error)) from error
    return text


Certificate = Annotated[str, Field(max_length=MAX_CERTIFICATE_BYTES * 4 // 3 + 4), AfterValidator(_sound_certificate)]
SwarmId = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * SWARM_ID_BYTES}}}$")]


class Endpoint(WireModel):
    """Where a member was last known to listen."""

    host: Host
    port: Annotated[int, Field(ge=1, le=MAX_PORT)]

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


Endpoints = Annotated[tuple[Endpoint, ...], Field(max_length=MAX_ADDRESSES_PER_PEER)]


class Entry(WireModel):
    """One node. Without a certificate it is revoked.

    `name` and `places` are for finding it, `revoked_by` is the name of who did it: for people, and proof of nothing.
    """

    id: NodeId
    epoch: Annotated[int, Field(ge=1, le=_MAX_EPOCH)] = 1
    certificate: Certificate | None = None
    name: Name
    places: Endpoints = ()
    revoked_by: Name | None = None

    @model_validator(mode="after")
    def _is_its_own(self) -> Self:
        if self.certificate is not None and node_id_of(self.der) != self.id:
            raise ValueError(f"the certificate is not that of {self.id}")
        return self

    @property
    def revoked(self) -> bool:
        return self.certificate is None

    @property
    def der(self) -> bytes:
        """The certificate; of members only."""
        return base64.b64decode(self.certificate or "")

    def supersedes(self, other: Entry) -> bool:
        """Whether this entry replaces `other`, of the same node."""
        return (self.epoch, self.revoked) > (other.epoch, other.revoked)


class Roster(WireModel):
    """The entries of one swarm, by id. Changes make new ones."""

    swarm: SwarmId
    entries: Annotated[tuple[Entry, ...], Field(max_length=MAX_ENTRIES)] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({entry.id for entry in self.entries}) != len(self.entries):
            raise ValueError("one node has several entries")
        return self

    def get(self, node_id: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.id == node_id), None)

    @property
    def members(self) -> tuple[Entry, ...]:
        """Those not revoked, this node included."""
        return tuple(entry for entry in self.entries if not entry.revoked)

    @cached_property
    def digest(self) -> str:
        """The same for two copies exactly when they agree on who is in and who is out."""
        facts = [f"{entry.id} {entry.epoch} {entry.revoked}" for entry in sorted(self.entries, key=lambda e: e.id)]
        digest = hashlib.sha256("\n".join((self.swarm, *facts)).encode()).digest()
        return base64.b32encode(digest).decode().lower()[:_DIGEST_CHARS]

    def admit(self, certificate: bytes, name: str, places: Iterable[Endpoint] = ()) -> Roster:
        """With this node in it: newly, or again after it was revoked. Raises RosterError when there is no room."""
        node_id = node_id_of(certificate)
        held = self.get(node_id)
        epoch = 1 if held is None else held.epoch + held.revoked
        entry = Entry(id=node_id, epoch=epoch, certificate=encoded(certificate), name=name, places=tuple(places))
        return self._with(entry)

    def revoke(self, node_id: str, by: str | None = None) -> Roster:
        """With this node out of it, by the node of that name. Raises RosterError for one that is not in it."""
        held = self.get(node_id)
        if held is None or held.revoked:
            raise RosterError(f"{node_id} is not a member of this swarm")
        return self._with(held.model_copy(update={"certificate": None, "places": (), "revoked_by": by}))

    def merge(self, other: Roster) -> Roster:
        """What two copies amount to, whichever is asked. Raises RosterError for another swarm's, or too many."""
        if other.swarm != self.swarm:
            raise RosterError("it is the list of another swarm")
        held = {entry.id: entry for entry in self.entries}
        news = [entry for entry in other.entries if entry.id not in held or entry.supersedes(held[entry.id])]
        return self._with(*news) if news else self

    def as_reported_by(self, sender: str, reported: Roster) -> Roster:
        """What a member reports, except that it is a member again: a revoked node cannot readmit itself.

        It may have met somebody who does not know of its revocation. That a node is admitted again is believed only
        from others, such as the one that admitted it; its own revocation a node may pass on.
        """
        own, held = reported.get(sender), self.get(sender)
        if own is None or own.revoked or held is None or not own.supersedes(held):
            return reported
        return Roster(swarm=reported.swarm, entries=tuple(entry for entry in reported.entries if entry is not own))

    def with_endpoints(self, node_id: str, places: Iterable[Endpoint]) -> Roster:
        """With the places where a member was found last."""
        held = self.get(node_id)
        if held is None or held.revoked:
            return self
        return self._with(held.model_copy(update={"places": tuple(places)[:MAX_ADDRESSES_PER_PEER]}))

    def _with(self, *changed: Entry) -> Roster:
        entries = {entry.id: entry for entry in (*self.entries, *changed)}
        if len(entries) > MAX_ENTRIES or sum(not held.revoked for held in entries.values()) > MAX_MEMBERS:
            raise RosterError(
                f"a swarm holds {MAX_MEMBERS} members and remembers {MAX_ENTRIES} nodes with those revoked: it is full"
            )
        return Roster(swarm=self.swarm, entries=tuple(entries.values()))


def new_roster(certificate: bytes, name: str, places: Iterable[Endpoint] = ()) -> Roster:
    """A swarm of one."""
    return Roster(swarm=secrets.token_hex(SWARM_ID_BYTES)).admit(certificate, name, places)


def parse_roster(raw: bytes) -> Roster:
    """A list of members from a file or a peer; raises RosterError that says what is wrong, in one line."""
    if len(raw) > MAX_ROSTER_BYTES:
        raise RosterError(f"more than {MAX_ROSTER_BYTES} bytes")
    try:
        return Roster.model_validate_json(raw)
    except ValidationError as error:
        raise RosterError(f"not a list of members: {first_problem(error)}") from error


@dataclass(frozen=True, slots=True)
class Exclusion:
    """`by` is the name of who revoked this node, or, where nobody reported that, of who does not accept it any more."""

    by: str
    reported: bool

    def __str__(self) -> str:
        how = f"this node was revoked by {self.by}"
        if not self.reported:
            how = f"this node was revoked: {self.by} does not accept it as a member any more, and nobody else does"
        return f"{how}: ask for a new code (`swarm invite` there), then `swarm join CODE` here"


def exclusion_in(roster: Roster | None, node_id: str) -> Exclusion | None:
    """What the list of members says of the node that keeps it."""
    entry = None if roster is None else roster.get(node_id)
    return Exclusion(entry.revoked_by or SOMEBODY, reported=True) if entry is not None and entry.revoked else None


class Refusals:
    """The members that refuse this node, from one that took it on. `sure_s`: for how long, until that is certain."""

    def __init__(self, sure_s: float = SURE_S) -> None:
        self._sure_s = sure_s
        self._by: str | None = None
        self._first_at = 0.0
        self._count = 0

    def refused(self, node_id: str, now: float) -> None:
        """The member `node_id` does not accept this node as one."""
        if self._by is None:
            self._by, self._first_at = node_id, now
        self._count += 1

    def accepted(self) -> None:
        """A member accepts this node: the others do not know it yet, or will soon know that it is revoked."""
        self._by, self._count = None, 0

    def by(self, now: float) -> str | None:
        """Who refuses this node for good, the first of all; None while that is not sure."""
        is_sure = self._count >= SURE_AFTER and now - self._first_at >= self._sure_s
        return self._by if is_sure else None
