"""Joining a swarm: connect where the invitation says, check the certificate, prove the secret, take the roster."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import ssl
import time
from collections.abc import Iterable
from typing import Final

from pydantic import ValidationError

from federation.errors import InvitationError, PairingError
from federation.hostport import Address
from federation.identity import NodeIdentity
from federation.interfaces import Interface, read_interfaces
from federation.invitation import (
    MAX_REPLY_BYTES,
    Invitation,
    JoinAnswer,
    JoinReply,
    JoinRequest,
    inviter_proof,
    joiner_proof,
    same,
)
from federation.roster import Endpoint, Roster, encoded, exclusion_in
from federation.tls import fingerprint
from federation.wire import first_problem

CONNECT_S: Final = 5.0  # for each address, TLS handshake included
ANSWER_S: Final = 10.0
NOTICEABLE_CLOCK_S: Final = 120.0  # two clocks this far apart are worth a word
_GOOD_FOR: Final = "a code is good for as many machines and as long as `swarm invite` said, while that node runs"
_ASK_AGAIN: Final = "run `swarm invite` there for a new one"


def check_invitation(invitation: Invitation, identity: NodeIdentity, roster: Roster | None) -> None:
    """Raises InvitationError for one that this node cannot take, before anything is sent."""
    if invitation.node_id == identity.node_id:
        raise InvitationError("this is this node's own invitation: run `swarm join` on the machine that is to join")
    is_out = exclusion_in(roster, identity.node_id) is not None  # of that swarm, so that it may join any
    others = () if roster is None or is_out else [entry for entry in roster.members if entry.id != identity.node_id]
    if roster is not None and others and roster.swarm != invitation.swarm:
        names = ", ".join(entry.name for entry in others[:5])
        raise InvitationError(
            f"this node is a member of another swarm, with {names}: to leave that one first, run `swarm leave` here"
        )


async def join(
    invitation: Invitation, identity: NodeIdentity, places: Iterable[Endpoint], connect_s: float = CONNECT_S
) -> tuple[JoinAnswer, Address]:
    """The inviter's answer, proven to be its own, and where it was reached. Raises PairingError with the remedy."""
    problems: list[str] = []
    silent: list[Address] = []
    for address in with_zones(invitation.addresses, read_interfaces()):
        try:
            async with asyncio.timeout(connect_s):
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, ssl=_looking_context(), server_hostname="", limit=MAX_REPLY_BYTES
                )
        except OSError as error:
            problems.append(f"{address}: {_why_closed(error)}")
            if not isinstance(error, ConnectionError | ssl.SSLError):  # these are answers: somebody is there
                silent.append(address)
            continue
        try:
            answer = await _exchange(reader, writer, address, invitation, identity, tuple(places))
        finally:
            writer.transport.abort()
        return answer, address
    if len(silent) == len(problems):
        raise PairingError(
            f"no answer at {', '.join(map(str, silent))}: is that machine on, and on this network? Its firewall must "
            f"let TCP {invitation.port} in while you join (`swarm doctor` there)"
        )
    raise PairingError(
        f"nobody takes this invitation any more, or the way there is closed ({'; '.join(problems)}): {_GOOD_FOR}; "
        f"{_ASK_AGAIN}"
    )


def with_zones(addresses: Iterable[Address], interfaces: Iterable[Interface]) -> tuple[Address, ...]:
    """A link-local address says nothing without the interface it is behind: each that has such an address is tried."""
    links = [interface for interface in interfaces if any(map(is_link_local, interface.ips))]
    zones = [str(link.index) if os.name == "nt" else link.name for link in links]
    found: list[Address] = []
    for host, port in addresses:
        found += [Address(f"{host}%{zone}", port) for zone in zones] if is_link_local(host) else [Address(host, port)]
    return tuple(found)


def is_link_local(host: str) -> bool:
    """Whether it is an IPv6 address of one cable."""
    return ":" in host and ipaddress.IPv6Address(host).is_link_local


def _why_closed(error: OSError) -> str:
    """In the system's words; asyncio's own repeat the address."""
    if isinstance(error, TimeoutError):
        return "no answer"
    return os.strerror(error.errno) if error.errno else str(error)


def clock_difference_s(answer: JoinAnswer) -> float | None:
    """How far this clock is ahead of the inviter's, if that is worth a word."""
    ahead_s = time.time() - answer.unix_s
    return ahead_s if abs(ahead_s) >= NOTICEABLE_CLOCK_S else None


def _looking_context() -> ssl.SSLContext:
    """Accepts any certificate, for its fingerprint to be judged before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: Address,
    invitation: Invitation,
    identity: NodeIdentity,
    places: tuple[Endpoint, ...],
) -> JoinAnswer:
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    if not hmac.compare_digest(fingerprint(shown or b""), invitation.fingerprint):
        raise PairingError(
            f"what answers at {address} is not the node that made this invitation: it is another node, or somebody in "
            f"between. Nothing was sent; {_ASK_AGAIN}"
        )
    mine = fingerprint(identity.certificate)
    request = JoinRequest(
        certificate=encoded(identity.certificate),
        name=identity.name,
        places=places,
        proof=joiner_proof(invitation.secret, invitation.fingerprint, mine),
    )
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(request.model_dump_json().encode() + b"\n")
            raw = await reader.readuntil(b"\n")
        reply = JoinReply.model_validate_json(raw)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise PairingError(
            f"nobody takes this invitation any more, or {address} broke off before it answered: {_GOOD_FOR}; try once "
            f"more, or {_ASK_AGAIN}"
        ) from error
    except ValidationError as error:
        raise PairingError(
            f"{address} answered something that is not a list of members: {first_problem(error)}"
        ) from error
    if reply.answer is None:
        raise PairingError(f"{address} refuses: {reply.refusal or 'it does not say why'}")
    return _checked(reply.answer, address, invitation, identity)


def _checked(answer: JoinAnswer, address: Address, invitation: Invitation, identity: NodeIdentity) -> JoinAnswer:
    """The answer, if it is the inviter's and makes both members."""
    proof = inviter_proof(invitation.secret, invitation.fingerprint, fingerprint(identity.certificate))
    members = {entry.id for entry in answer.roster.members}
    is_whole = {invitation.node_id, identity.node_id} <= members and answer.roster.swarm == invitation.swarm
    if not same(answer.proof, proof) or not is_whole:
        raise PairingError(f"{address} answered with a list of members that is not what it invited to: {_ASK_AGAIN}")
    return answer
