"""Whoever comes to join has one owner until its socket is closed, at whatever moment the port closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from federation.invitation import JoinReply, JoinRequest
from federation.pairing_server import PairingServer
from swarm.gateway.http.listener import shared_port
from tests.doubles.knocking import Handshake, RecordingListener, knock, turn
from tests.doubles.paired import paired_trusts
from tests.doubles.waiting import eventually
from tests.trust.test_joining import knock_anyway

TURNS = range(16)  # of the event loop, after which the exchange has begun


async def refuse(_: JoinRequest, __: str) -> JoinReply:
    return JoinReply(refusal="no")


@asynccontextmanager
async def port_of(tmp_path: Path, listener: RecordingListener, pairing: PairingServer) -> AsyncGenerator[int]:
    """A member's port, open to joiners."""
    (trust,) = paired_trusts(tmp_path, "kitchen")
    pairing.open(refuse)
    runner = web.AppRunner(web.Application(), access_log=None)
    number = int(listener.getsockname()[1])
    async with shared_port(runner, [listener], trust, pairing=pairing):
        yield number


@pytest.mark.parametrize("said", ["nothing", "hello", "finished"])
async def test_the_end_finds_nobody_without_an_owner(tmp_path: Path, said: str) -> None:
    for turns in TURNS:
        listener, pairing = RecordingListener(), PairingServer()
        async with port_of(tmp_path, listener, pairing) as number:
            await turn(2)
            handshake = None if said == "nothing" else Handshake(knock_anyway(), number)
            client = knock(number, b"") if handshake is None else handshake.socket
            if handshake is not None and said == "finished":
                await handshake.finish()
            await turn(turns)
            await pairing.close(at_once=True)
        assert not listener.left_open(), f"after {turns} turns"
        assert not pairing.is_open
        client.close()


async def test_too_many_are_shown_out_and_the_first_go_on(tmp_path: Path) -> None:
    listener, pairing = RecordingListener(), PairingServer(most_joining=3)
    async with port_of(tmp_path, listener, pairing) as number:
        links = [await asyncio.open_connection("127.0.0.1", number, ssl=knock_anyway()) for _ in range(5)]
        await eventually(lambda: len(listener.left_open()) == 3)
        await pairing.close(at_once=True)
        assert not listener.left_open()
        for _, writer in links:
            writer.transport.abort()
        await turn(2)
