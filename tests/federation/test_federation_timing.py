"""Intervals that have to fit to each other."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from federation.client import KEEPALIVE_S, MEMBERS_KEEPALIVE_S, PeerClient
from federation.timing import MAX_PEERS, Timing, stretch
from federation.tls import TLS_BUFFER_BYTES
from federation.wire import IDLE_S, MEMBERS_IDLE_S
from tests.doubles.paired import identity, open_trust, trusting_all


def test_a_connection_lives_from_one_probe_to_the_next_in_the_largest_swarm_there_is() -> None:
    timing = Timing()
    longest_s = timing.probe_interval_s * stretch(MAX_PEERS) * (1 + timing.crowd_jitter)
    assert longest_s < MEMBERS_KEEPALIVE_S, "each probe would need a connection of its own, and a TLS handshake"


def test_whoever_asks_gives_up_a_connection_before_the_other_end_does() -> None:
    for kept_s, idle_s in ((KEEPALIVE_S, IDLE_S), (MEMBERS_KEEPALIVE_S, MEMBERS_IDLE_S)):
        assert kept_s + 5 <= idle_s, "a question could be on its way while its connection is closed"


async def test_a_peer_client_keeps_connections_for_so_long_paired_or_not(tmp_path: Path) -> None:
    for trust, kept_s in ((None, KEEPALIVE_S), (open_trust(tmp_path, "kitchen"), MEMBERS_KEEPALIVE_S)):
        connector = PeerClient("x" * 52, trust=trust)._make_connector()
        assert connector._keepalive_timeout == kept_s
        await connector.close()


async def test_both_ends_of_a_tls_connection_have_the_small_buffer(tmp_path: Path) -> None:
    """Should asyncio call it otherwise some day, this fails, and nothing else would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity(tmp_path, "kitchen").pem)
    accepted = asyncio.get_running_loop().create_future()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer)

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting_all(None))
        ends = [writer, await accepted]
        assert [len(end.transport._ssl_protocol._ssl_buffer) for end in ends] == [TLS_BUFFER_BYTES] * 2
        for end in ends:
            end.close()
            await end.wait_closed()
