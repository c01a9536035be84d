"""Whoever knocks at the pairing port has one owner until its socket is closed, at whatever moment the port closes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from federation.invitation import JoinReply, JoinRequest
from federation.pairing_listener import Bind, PairingListener
from federation.tls import pairing_context
from tests.doubles.knocking import Handshake, RecordingListener, knock, turn
from tests.doubles.paired import identity
from tests.doubles.waiting import eventually
from tests.trust.test_joining import knock_anyway

TURNS = range(16)  # of the event loop, after which the exchange has begun


def only(listener: socket.socket) -> Bind:
    return lambda _hosts, _port: [listener]


async def refuse(_: JoinRequest, __: str) -> JoinReply:
    return JoinReply(refusal="no")


@pytest.mark.parametrize("said", ["nothing", "hello", "finished"])
async def test_the_end_finds_no_knocker_without_an_owner(tmp_path: Path, said: str) -> None:
    context = pairing_context(identity(tmp_path, "kitchen").pem)
    for turns in TURNS:
        listener = RecordingListener()
        joiners_port = PairingListener(["127.0.0.1"], 0, context, refuse, bind=only(listener))
        port = await joiners_port.open()
        await turn(2)
        handshake = None if said == "nothing" else Handshake(knock_anyway(), port)
        client = knock(port, b"") if handshake is None else handshake.socket
        if handshake is not None and said == "finished":
            await handshake.finish()
        await turn(turns)
        await joiners_port.close(at_once=True)
        assert not listener.left_open(), f"after {turns} turns"
        assert joiners_port.port is None
        client.close()


async def test_too_many_knockers_are_shown_out(tmp_path: Path) -> None:
    listener, context = RecordingListener(), pairing_context(identity(tmp_path, "kitchen").pem)
    joiners_port = PairingListener(["127.0.0.1"], 0, context, refuse, most_joining=3, bind=only(listener))
    port = await joiners_port.open()
    clients = [knock(port, b"") for _ in range(5)]
    await eventually(lambda: len(listener.accepted) == len(clients))
    assert len(listener.left_open()) == 3
    await joiners_port.close(at_once=True)
    assert not listener.left_open()
    for client in clients:
        client.close()
