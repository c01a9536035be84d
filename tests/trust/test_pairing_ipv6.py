"""Invitations that lead to IPv6 addresses, loopback and link-local ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from federation.hostport import Address
from federation.interfaces import Interface
from federation.invitation import Invitation, JoinAnswer, JoinReply, JoinRequest, decode, encode, inviter_proof
from federation.pairing_client import join, with_zones
from federation.tls import fingerprint
from tests.doubles.paired import identity, open_trust
from tests.trust.conftest import joiners_port

SECRET = b"s" * 16


@pytest.mark.parametrize("hosts", [("::1",), ("127.0.0.1", "::1")], ids=" ".join)
async def test_a_code_with_an_ipv6_address_is_joined(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    inviter, joiner = open_trust(tmp_path, "kitchen"), identity(tmp_path, "study")
    came_from: list[str] = []
    mine = fingerprint(inviter.identity.certificate)

    async def redeem(request: JoinRequest, host: str) -> JoinReply:
        came_from.append(host)
        roster = (await inviter.found(())).admit(request.der, request.name)
        proof = inviter_proof(SECRET, mine, fingerprint(request.der))
        return JoinReply(answer=JoinAnswer(proof=proof, roster=roster, unix_s=time.time()))

    swarm = (await inviter.found(())).swarm
    async with joiners_port(inviter, redeem, *hosts) as port:
        code = encode(Invitation(swarm, mine, SECRET, ("::1",), port))
        answer, address = await join(decode(code), joiner, ())
    assert {entry.name for entry in answer.roster.members} == {"kitchen", "study"}
    assert (address.host, came_from) == ("::1", ["::1"])


def test_a_link_local_address_is_tried_on_every_cable() -> None:
    interfaces = (
        Interface("lo", ("127.0.0.1", "::1"), 1),
        Interface("eth0", ("10.0.0.1", "fe80::1"), 2),
        Interface("wlan0", ("fe80::2",), 3),
    )
    addresses = (Address("10.0.0.9", 5), Address("fe80::9", 5), Address("fd77::9", 5))
    assert [str(address) for address in with_zones(addresses, interfaces)] == [
        "10.0.0.9:5", "[fe80::9%eth0]:5", "[fe80::9%wlan0]:5", "[fd77::9]:5",
    ]  # fmt: skip
