"""Nodes with keys of their own and a data directory, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from federation.pairing_server import PairingServer, Redeem
from federation.trust import Trust
from swarm.gateway.http.listener import shared_port
from tests.doubles.paired import open_trust
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

MakeNode = Callable[..., RunningNode]


@pytest.fixture
def make_node(tmp_path: Path) -> MakeNode:
    """A node by that name that serves model "m"; open unless given a trust."""

    def make(
        name: str, trust: Trust | None = None, engine: ScriptedEngine | None = None, **options: object
    ) -> RunningNode:
        engine = engine or ScriptedEngine(lambda _, __: ["yes"], model_id="m")
        trust = trust or open_trust(tmp_path, name)
        return RunningNode(name, ready(engine), options=NodeOptions(trust=trust, **options))  # type: ignore[arg-type]

    return make


@asynccontextmanager
async def joiners_port(trust: Trust, redeem: Redeem, *hosts: str) -> AsyncGenerator[int]:
    """A node's port, where nothing but joiners is answered, as `redeem` says."""
    pairing = PairingServer()
    pairing.open(redeem)
    listeners = [socket.create_server((hosts[0], 0), family=_family(hosts[0]))]
    port = int(listeners[0].getsockname()[1])
    listeners += [socket.create_server((host, port), family=_family(host)) for host in hosts[1:]]
    runner = web.AppRunner(web.Application(), access_log=None)
    async with shared_port(runner, listeners, trust, pairing=pairing):
        yield port
        await pairing.close(at_once=True)
    await asyncio.sleep(0)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
