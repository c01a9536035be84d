"""Nodes that are open, invited and joined, on real sockets; and whoever tries to join otherwise."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import PairingError
from federation.invitation import (
    MAX_REQUEST_BYTES,
    Invitation,
    JoinReply,
    JoinRequest,
    PairingTiming,
    decode,
    encode,
    joiner_proof,
)
from federation.pairing_client import join
from federation.pairing_server import MAX_JOINING_OF_NETWORK
from federation.printable_text import columns_of
from federation.roster import encoded
from federation.roster_store import load_roster
from federation.tls import fingerprint, server_context
from swarm.commands.members import peers_text
from swarm.errors import SetupError, SwarmError
from swarm.node.pairing import join_at_rest
from tests.doubles.clients import connect
from tests.doubles.paired import identity, open_trust
from tests.doubles.running_node import RunningNode, run_nodes
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode, joiners_port

WAIT_S = 10.0


async def all_alive(*nodes: RunningNode) -> None:
    """Return when each would ask all others, over links that both ends agree on."""
    for node in nodes:
        others = {other.id for other in nodes if other is not node}
        await node.until(lambda node=node, others=others: {peer.id for peer in node.membership.alive()} == others)


def knock_anyway() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def say(invitation: Invitation, line: bytes) -> JoinReply | None:
    """What is answered to a line; None where it just closes."""
    address = invitation.addresses[0]
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=knock_anyway())
    try:
        writer.write(line)
        if not line.endswith(b"\n"):
            writer.write(b"\n")
        raw = await asyncio.wait_for(reader.read(), WAIT_S)
    except OSError:
        return None
    finally:
        writer.transport.abort()
    return JoinReply.model_validate_json(raw) if raw else None


def request_of(folder: Path, name: str, invitation: Invitation, **changes: object) -> bytes:
    joiner = identity(folder, name)
    proof = joiner_proof(invitation.secret, invitation.fingerprint, fingerprint(joiner.certificate))
    request = {"certificate": encoded(joiner.certificate), "name": name, "places": [], "proof": proof, **changes}
    return json.dumps(request).encode()


async def test_three_nodes_pair_and_vote_for_each_other(make_node: MakeNode) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    async with run_nodes(kitchen, study, attic):
        invited = await kitchen.trust_service.invite()
        assert invited.was_open
        assert (kitchen.describe().mode, study.describe().mode) == ("paired", "open")
        joined = await study.trust_service.join(invited.code)
        assert (joined.inviter, joined.members) == ("kitchen", ("kitchen",))
        await all_alive(kitchen, study)
        again = await study.trust_service.invite()  # any member may invite
        assert not again.was_open
        await attic.trust_service.join(again.code)
        await all_alive(kitchen, study, attic)
        assert {node.trust.roster.digest for node in (kitchen, study, attic)} == {kitchen.trust.roster.digest}
        for node in (kitchen, study, attic):
            async with connect(node.url) as client:
                reply = await client.chat(swarm={"votes": 12})
            voters = {candidate["voter"].split("@")[1] for candidate in reply.json["swarm"]["candidates"]}
            assert voters == {"kitchen", "study", "attic"}
        assert any("attic is a member of this swarm" in line for line in kitchen.said)


async def test_a_node_is_a_member_again_after_a_restart(make_node: MakeNode, tmp_path: Path) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with run_nodes(kitchen, study):
        await study.trust_service.join((await kitchen.trust_service.invite()).code)
        await all_alive(kitchen, study)
    back = [make_node(name, open_trust(tmp_path, name)) for name in ("kitchen", "study")]
    async with run_nodes(*back):
        back[1].membership.endpoint_reported(*back[0].address)  # the ports have changed, as mDNS would tell
        back[0].membership.endpoint_reported(*back[1].address)
        await all_alive(*back)


async def test_a_code_is_good_once(make_node: MakeNode) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    async with run_nodes(kitchen, study, attic):
        code = (await kitchen.trust_service.invite()).code
        await study.trust_service.join(code)
        with pytest.raises(SwarmError, match=r"nobody takes this invitation any more|used already") as caught:
            await attic.trust_service.join(code)
        assert not isinstance(caught.value, SetupError)
        assert attic.trust.mode == "open"
        await all_alive(kitchen, study)


async def test_a_member_that_joins_again_is_one_already(make_node: MakeNode) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    async with run_nodes(kitchen, study, attic):
        code = (await kitchen.trust_service.invite()).code
        assert not (await study.trust_service.join(code)).already
        digest, for_attic = study.trust.roster.digest, (await study.trust_service.invite()).code
        for again in (code, (await kitchen.trust_service.invite()).code):  # used, and still live
            joined = await study.trust_service.join(again)
            assert (joined.already, joined.inviter, joined.members) == (True, "kitchen", ("kitchen",))
        assert study.trust.roster.digest == digest
        assert not (await attic.trust_service.join(for_attic)).already, "what this member had invited to is still good"


async def test_a_member_that_was_put_out_and_has_not_heard_joins_anew(make_node: MakeNode, tmp_path: Path) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with kitchen:
        async with study:
            await study.trust_service.join((await kitchen.trust_service.invite()).code)
        await kitchen.trust_service.revoke("study")
        assert open_trust(tmp_path, "study").problem is None, "it has not heard"
        joined = await asyncio.to_thread(join_at_rest, tmp_path / "study", (await kitchen.trust_service.invite()).code)
        assert not joined.already
        assert [entry.id for entry in kitchen.trust.others] == [study.id]


async def test_of_two_that_use_a_code_at_once_one_joins(make_node: MakeNode) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    async with run_nodes(kitchen, study, attic):
        code = (await kitchen.trust_service.invite()).code
        results = await asyncio.gather(
            study.trust_service.join(code), attic.trust_service.join(code), return_exceptions=True
        )
        assert sorted(isinstance(result, SwarmError) for result in results) == [False, True]
        assert len(kitchen.trust.others) == 1


async def test_a_code_that_is_too_old_lets_nobody_in(make_node: MakeNode) -> None:
    kitchen, study = make_node("kitchen", pairing=PairingTiming(code_life_s=0.1)), make_node("study")
    async with run_nodes(kitchen, study):
        code = (await kitchen.trust_service.invite()).code
        await eventually(lambda: not kitchen.trust_service.takes_joiners)
        with pytest.raises(SwarmError, match=r"nobody takes this invitation any more.*swarm invite"):
            await study.trust_service.join(code)
        later = (await kitchen.trust_service.invite()).code
        assert later != code


async def test_where_nobody_answers_at_all_the_firewall_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # as a dropped packet: nothing ever comes back
        port = mute.getsockname()[1]
        invitation = Invitation("0" * 16, b"x" * 32, b"y" * 16, ("127.0.0.1",), port)
        with pytest.raises(PairingError) as caught:
            await join(invitation, identity(tmp_path, "study"), (), connect_s=0.1)
    said = str(caught.value)
    assert said.startswith(f"no answer at 127.0.0.1:{port}: is that machine on, and on this network?")
    assert f"firewall must let TCP {port} in" in said
    assert "swarm invite" not in said, "a new code cannot help"


async def test_a_code_leads_to_the_node_s_own_port_while_members_go_on_as_ever(make_node: MakeNode) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    async with run_nodes(kitchen, study, attic):
        invited = await kitchen.trust_service.invite()
        assert decode(invited.code).addresses == (kitchen.address,)
        await study.trust_service.join(invited.code)
        await all_alive(kitchen, study)
        assert not kitchen.trust_service.takes_joiners
        invited = await kitchen.trust_service.invite()  # a code is live, and members' links are made meanwhile
        await study.stop()
        back = make_node("study", study.trust)
        async with back:
            back.membership.endpoint_reported(*kitchen.address)
            kitchen.membership.endpoint_reported(*back.address)
            await all_alive(kitchen, back)
            await attic.trust_service.join(invited.code)
            await all_alive(kitchen, back, attic)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda code: code[:-3], SetupError, "mistyped or cut short"),
        (lambda code: code.replace("swarm1", "https://"), SetupError, "this is not an invitation"),
        (lambda _: "", SetupError, "this is not an invitation"),
        (lambda code: encode(replace(decode(code), port=1)), SwarmError, "nobody takes this invitation"),
        (lambda code: encode(replace(decode(code), secret=b"x" * 16)), SwarmError, "used already, is too old"),
        (lambda code: encode(replace(decode(code), fingerprint=b"x" * 32)), SwarmError, "Nothing was sent"),
        (lambda code: encode(replace(decode(code), swarm="0" * 16)), SwarmError, "not what it invited to"),
    ],
)
async def test_a_spoilt_invitation_is_said_and_changes_nothing(
    make_node: MakeNode, spoil: object, error: type[SwarmError], words: str
) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with run_nodes(kitchen, study):
        code = (await kitchen.trust_service.invite()).code
        with pytest.raises(error, match=words) as caught:
            await study.trust_service.join(spoil(code))  # type: ignore[operator]
        assert type(caught.value) is error, "a SetupError is exit code 2"
        assert study.trust.mode == "open"


async def test_a_node_cannot_join_itself_or_leave_its_swarm_by_joining_another(make_node: MakeNode) -> None:
    kitchen, study, office = (make_node(name) for name in ("kitchen", "study", "office"))
    async with run_nodes(kitchen, study, office):
        code = (await kitchen.trust_service.invite()).code
        with pytest.raises(SetupError, match="this node's own invitation"):
            await kitchen.trust_service.join(code)
        await study.trust_service.join(code)
        other = (await office.trust_service.invite()).code
        with pytest.raises(SetupError, match="member of another swarm, with kitchen"):
            await study.trust_service.join(other)
        assert office.trust.others == ()
        left = await study.trust_service.revoke(study.id)
        assert left.itself
        assert study.trust.mode == "open"
        await eventually(lambda: kitchen.trust.others == ())
        await study.trust_service.join(other)
        await all_alive(study, office)


async def test_a_node_that_leaves_before_it_has_met_anybody_is_forgotten_all_the_same(make_node: MakeNode) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with run_nodes(kitchen, study):
        await study.trust_service.join((await kitchen.trust_service.invite()).code)
        study.membership.alive = tuple  # type: ignore[method-assign]
        assert (await study.trust_service.revoke(study.id)).itself
        await eventually(lambda: kitchen.trust.others == ())


async def test_a_node_outside_any_federation_does_not_invite(make_node: MakeNode) -> None:
    alone = make_node("alone", federated=False)
    async with alone:
        with pytest.raises(SetupError, match="swarm --federation"):
            await alone.trust_service.invite()
        assert alone.trust.mode == "open"


async def test_a_man_in_the_middle_is_refused_before_the_secret_is_sent(make_node: MakeNode, tmp_path: Path) -> None:
    """He has the address in the code, and a certificate of his own, which is all that he can have."""
    heard: list[bytes] = []
    settled = asyncio.Event()

    async def listen_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read())
        except OSError:
            pass
        finally:
            writer.transport.abort()
            settled.set()

    rogue = identity(tmp_path, "rogue")
    server = await asyncio.start_server(listen_in, "127.0.0.1", 0, ssl=server_context(rogue.pem, (), joining=True))
    kitchen, study = make_node("kitchen"), make_node("study")
    async with server, run_nodes(kitchen, study):
        invitation = decode((await kitchen.trust_service.invite()).code)
        diverted = replace(invitation, port=server.sockets[0].getsockname()[1])
        with pytest.raises(SwarmError, match=r"is not the node that made this invitation.*Nothing was sent"):
            await study.trust_service.join(encode(diverted))
        await asyncio.wait_for(settled.wait(), WAIT_S)
        assert b"".join(heard) == b""
        await study.trust_service.join(encode(invitation))  # the code is as good as before


async def test_an_impostor_that_answers_is_not_believed(tmp_path: Path) -> None:
    """Even with the inviter's key, whoever does not know the secret cannot answer."""
    inviter, joiner = open_trust(tmp_path, "kitchen"), identity(tmp_path, "study")
    roster = (await inviter.found(())).admit(joiner.certificate, joiner.name)

    async def redeem(_: JoinRequest, __: str) -> JoinReply:
        return JoinReply.model_validate({"answer": {"proof": "0" * 64, "roster": roster, "unix_s": 0}})

    async with joiners_port(inviter, redeem, "127.0.0.1") as port:
        mine = fingerprint(inviter.identity.certificate)
        invitation = Invitation(roster.swarm, mine, b"s" * 16, ("127.0.0.1",), port)
        with pytest.raises(PairingError, match="not what it invited to"):
            await join(invitation, joiner, ())


async def test_a_recorded_request_is_worth_nothing_later_nor_to_another_key(
    make_node: MakeNode, tmp_path: Path
) -> None:
    async with make_node("kitchen") as kitchen:
        invitation = decode((await kitchen.trust_service.invite()).code)
        await kitchen.trust_service.invite()  # another code, so that joiners are taken still
        recorded = request_of(tmp_path, "study", invitation)
        stolen = {**json.loads(recorded), "certificate": encoded(identity(tmp_path, "rogue").certificate)}
        first = await say(invitation, json.dumps(stolen).encode())
        assert first is not None
        assert first.answer is None
        assert (await say(invitation, recorded)).answer is not None
        replayed = await say(invitation, recorded)
        assert replayed is not None
        assert "used already" in replayed.refusal
        assert {entry.name for entry in kitchen.trust.others} == {"study"}


hostile_lines = st.one_of(
    st.binary(max_size=300),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=20), st.lists).map(
        lambda value: json.dumps(value).encode()
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "certificate": st.text(max_size=50) | st.none(),
            "name": st.text(max_size=80) | st.integers(),
            "places": st.lists(st.fixed_dictionaries({"host": st.text(max_size=9), "port": st.integers()}), max_size=6),
            "proof": st.text(max_size=70),
        },
    ).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * (MAX_REQUEST_BYTES - 1)),
    st.just(b"x" * (MAX_REQUEST_BYTES * 3)),
)


async def test_hostile_lines_are_refused_and_harm_nobody(make_node: MakeNode, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with make_node("kitchen") as kitchen:
        invitation = decode((await kitchen.trust_service.invite()).code)

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(hostile_lines)
        def throw(line: bytes) -> None:
            reply = asyncio.run_coroutine_threadsafe(say(invitation, line), loop).result(WAIT_S)
            assert reply is None or (reply.answer is None and reply.refusal)

        await asyncio.to_thread(throw)
        reply = await say(invitation, request_of(tmp_path, "study", invitation))
        assert reply is not None
        assert reply.answer is not None


async def test_idle_knockers_are_few_and_do_not_last(make_node: MakeNode, tmp_path: Path) -> None:
    async with make_node("kitchen", pairing=PairingTiming(exchange_s=0.5)) as kitchen, AsyncExitStack() as stack:
        invitation = decode((await kitchen.trust_service.invite()).code)
        address = invitation.addresses[0]
        links: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for _ in range(MAX_JOINING_OF_NETWORK + 4):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=knock_anyway())
            stack.callback(writer.transport.abort)
            links.append((reader, writer))

        async def over(reader: asyncio.StreamReader) -> None:
            try:
                assert await reader.read() == b""
            except OSError:
                return

        await asyncio.wait_for(asyncio.gather(*(over(reader) for reader, _ in links)), WAIT_S)
        reply = await say(invitation, request_of(tmp_path, "study", invitation))
        assert reply is not None
        assert reply.answer is not None


async def test_the_list_is_on_disk_for_its_owner_only(make_node: MakeNode, tmp_path: Path) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with run_nodes(kitchen, study):
        await study.trust_service.join((await kitchen.trust_service.invite()).code)
        for name in ("kitchen", "study"):
            kept = load_roster(tmp_path / name)
            assert kept is not None
            assert {member.name for member in kept.members} == {"kitchen", "study"}
            for file in ("node.pem", "roster.json", "control.json"):
                assert (tmp_path / name / file).stat().st_mode & 0o777 == 0o600, file
    assert not (tmp_path / "kitchen" / "control.json").exists()


async def test_a_name_with_letters_of_any_script_stays_what_it_is(make_node: MakeNode, tmp_path: Path) -> None:
    kitchen, chef = make_node("küche"), make_node("厨房")
    async with run_nodes(kitchen, chef):
        joined = await chef.trust_service.join((await kitchen.trust_service.invite()).code)
        assert joined.inviter == "küche"
        await all_alive(kitchen, chef)
        async with connect(kitchen.url) as client:
            reply = await client.chat(swarm={"votes": 12})
        assert reply.headers["X-Swarm-Node"] == "k%C3%BCche", "headers are ASCII"
        voters = {candidate["voter"].split("@")[1] for candidate in reply.json["swarm"]["candidates"]}
        assert voters == {"küche", "厨房"}
        shown = peers_text(chef.trust_service.peers()).splitlines()
        assert [columns_of(line[: line.index("  ")]) for line in shown] == [4, 5]
        assert (
            len({columns_of(line[: line.index(word)]) for line, word in zip(shown, ("this", "alive"), strict=True)})
            == 1
        )
        assert (await kitchen.trust_service.revoke("厨房")).name == "厨房"
        assert (await kitchen.trust_service.revoke("ku\u0308che")).itself, "as a Mac types it"
