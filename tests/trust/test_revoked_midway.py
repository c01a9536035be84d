"""A revocation while something is under way: a handshake half done, streams at members that hear of it later."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from federation.errors import PeerError
from federation.roster import Roster
from federation.roster_store import load_roster, save_roster
from federation.tls import client_context
from federation.trust import TrustChange
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import RunningNode, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode
from tests.trust.test_members_only import acquainted, endless_answer

WAIT_S = 10.0
CLOSED_S = 2.0  # after the revocation, or after the list that says so arrived


class HalfDone:
    """A TLS client that can stop in the middle of its handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    async def begin(self, node: RunningNode) -> None:
        """Up to what the server has sent; this end's certificate is not out yet."""
        self._reader, self._writer = await asyncio.open_connection(*node.address)
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._writer.write(self._outgoing.read())
        while True:
            self._incoming.write(await self._reader.read(65536))
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()  # what comes of it waits in `_outgoing`
                return

    async def finish_and_ask(self, request: bytes) -> bytes:
        """What the server answers, until it closes."""
        with suppress(OSError, ssl.SSLError):
            self._writer.write(self._outgoing.read())
            self._tls.write(request)
            self._writer.write(self._outgoing.read())
        return await self._rest()

    async def _rest(self) -> bytes:
        answer = b""
        try:
            while data := await self._reader.read(65536):
                self._incoming.write(data)
                with suppress(ssl.SSLWantReadError):
                    while piece := self._tls.read(65536):
                        answer += piece
                    self._tls.unwrap()  # the other end has closed the encryption, and waits for the same
                    self._writer.write(self._outgoing.read())
        except (OSError, ssl.SSLError):
            pass
        finally:
            self._writer.transport.abort()
        return answer


@pytest.mark.parametrize("request_sent", [b"GET /federation/v1/node HTTP/1.1\r\nHost: kitchen\r\n\r\n", b""])
@pytest.mark.parametrize("inviting", [False, True])
async def test_a_handshake_that_began_before_brings_nothing_and_is_closed(
    make_node: MakeNode, tmp_path: Path, request_sent: bytes, inviting: bool
) -> None:
    kitchen_trust, study = paired_trusts(tmp_path, "kitchen", "study")
    async with make_node("kitchen", kitchen_trust) as kitchen:
        if inviting:  # then the port takes who shows no certificate, too
            await kitchen.trust_service.invite()
        client = HalfDone(client_context(study.identity.pem, [kitchen_trust.identity.certificate]))
        await client.begin(kitchen)
        await kitchen.trust_service.revoke("study")
        answer = await asyncio.wait_for(client.finish_and_ask(request_sent), CLOSED_S)
        assert b"200 OK" not in answer
        assert kitchen.id.encode() not in answer


async def test_the_same_handshake_is_answered_while_it_is_a_member(make_node: MakeNode, tmp_path: Path) -> None:
    """So the test above tests what it says."""
    kitchen_trust, study = paired_trusts(tmp_path, "kitchen", "study")
    async with make_node("kitchen", kitchen_trust) as kitchen:
        client = HalfDone(client_context(study.identity.pem, [kitchen_trust.identity.certificate]))
        await client.begin(kitchen)
        request = b"GET /federation/v1/node HTTP/1.1\r\nHost: kitchen\r\nConnection: close\r\n\r\n"
        answer = await asyncio.wait_for(client.finish_and_ask(request), WAIT_S)
        assert b"200 OK" in answer
        assert kitchen.id.encode() in answer


@pytest.mark.parametrize("asks", ["the revoked one", "the other member"])
async def test_a_member_that_hears_of_a_revocation_cuts_what_is_running(
    make_node: MakeNode, tmp_path: Path, asks: str
) -> None:
    never = asyncio.Event()
    trusts = paired_trusts(tmp_path, "kitchen", "study", "attic")
    kitchen, study, attic = (
        make_node(trust.identity.name, trust, ScriptedEngine(lambda _, __: [never], model_id="m")) for trust in trusts
    )
    async with run_nodes(kitchen, study, attic):
        await acquainted(kitchen, study, attic)
        answering, asking = (attic, study) if asks == "the revoked one" else (study, attic)
        async with endless_answer(answering, asking) as reading:
            assert kitchen.trust is not None
            await kitchen.trust.revoke(study.id)  # nobody is told: attic finds it out by the next probe
            async with asyncio.timeout(CLOSED_S):
                with pytest.raises(PeerError):
                    await asyncio.shield(reading)
            assert attic.trust is not None
            assert not attic.trust.is_member(study.id)
            await eventually(lambda: all(state.slots_free == state.slots for state in answering.pool.states()))


async def test_a_listener_that_raises_loses_no_revocation_and_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust, other = paired_trusts(tmp_path, "kitchen", "study")
    heard: list[TrustChange] = []

    def broken(_: TrustChange) -> None:
        raise RuntimeError("a defect")

    trust.subscribe(broken)
    trust.subscribe(heard.append)
    await trust.revoke(other.node_id)
    kept = load_roster(tmp_path / "kitchen")
    assert kept is not None
    assert [entry.name for entry in kept.members] == ["kitchen"]
    assert [entry.name for change in heard for entry in change.left] == ["study"]
    assert "broken failed on" in caplog.text
    await trust.leave()
    assert (trust.mode, load_roster(tmp_path / "kitchen")) == ("open", None)


async def test_a_disk_that_hangs_does_not_hold_up_a_revocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what listeners do comes after the list is on its way to the disk."""
    trust, other = paired_trusts(tmp_path, "kitchen", "study")
    began, go_on = threading.Event(), threading.Event()

    def hanging(data_dir: Path, roster: Roster | None) -> None:
        began.set()
        assert go_on.wait(WAIT_S)
        save_roster(data_dir, roster)

    monkeypatch.setattr("federation.trust.save_roster", hanging)
    cut = asyncio.Event()
    trust.subscribe(lambda _: cut.set())
    revoking = asyncio.create_task(trust.revoke(other.node_id))
    await asyncio.wait_for(cut.wait(), WAIT_S)
    assert began.wait(WAIT_S)
    assert not trust.is_member(other.node_id)
    assert not revoking.done()
    go_on.set()
    await revoking
