"""A member that borrows memory and is a rogue: what it can do to a lender, over mutual TLS with a real llama.cpp.

Its RPC server may die of what it is sent; the lender's node, and what it lends to others, may not.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import psutil
import pytest

from federation.errors import PeerError, PeerStatusError
from federation.lending import NOT_ENOUGH_LENT, TOO_MANY_STREAMS
from federation.lending_client import HeldLease, lease_of, open_byte_stream
from federation.splice import SplicedEnd, spliced
from hardware.snapshot import MIB_BYTES
from swarm.workers.lent_memory import MOST_STREAMS
from tests.doubles.lending_nodes import Lent, lending_build, lending_nodes, rpc_servers, way_to
from tests.doubles.rpc_messages import GET_TENSOR, GRAPH_COMPUTE, SET_TENSOR, SET_TENSOR_HASH, RpcTalk
from tests.doubles.waiting import eventually

SMALL_BYTES = 32 * MIB_BYTES
SEEN_S = 60.0
WILD = struct.pack("<Q", 0xDEAD_BEEF_0000) * 40
# A command, the length that it says it has, and what of it is sent.
RUBBISH = [
    (SET_TENSOR, 2**64 - 1, b""),
    (SET_TENSOR, 2**40, bytes(2**20)),
    (SET_TENSOR, len(WILD), WILD),
    (SET_TENSOR_HASH, len(WILD), WILD),
    (GET_TENSOR, len(WILD), WILD),
    (GRAPH_COMPUTE, 2**63, b"\xff" * 64),
    (GRAPH_COMPUTE, len(WILD), WILD),
    (GRAPH_COMPUTE, 12, struct.pack("<III", 0, 2**32 - 1, 2**32 - 1)),
    (0, 12, struct.pack("<IQ", 2**31, 2**63)),
    (255, 8, bytes(8)),
]


async def serves(lent: Lent, lease: HeldLease) -> None:
    async with way_to(lent, lease) as port, RpcTalk(socket.create_connection(("127.0.0.1", port))) as talk:
        assert await talk.hello() == (7, 0, 0)


async def lent_again(lent: Lent) -> None:
    """The lender lends, and its server answers."""
    async with lease_of(lent.client, lent.url, lent.request(SMALL_BYTES)) as lease:
        await serves(lent, lease)


async def sends_rubbish(lent: Lent, lease: HeldLease, command: int, said_bytes: int, sent: bytes) -> None:
    """Until the server has closed the connection, or is gone."""
    async with way_to(lent, lease) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(struct.pack("<BQ", 14, 24) + bytes(24))
        await reader.readexactly(8)
        writer.write(struct.pack("<BQ", command, said_bytes) + sent)
        writer.write_eof()
        with suppress(ConnectionError):
            while await reader.read(2**16):
                pass
        writer.transport.abort()


async def test_rubbish_ends_the_rogues_server_at_most(tmp_path: Path) -> None:
    async with lending_nodes(tmp_path, lending_build()) as lent, AsyncExitStack() as stack:
        honest = await stack.enter_async_context(lease_of(lent.client, lent.url, lent.request(SMALL_BYTES)))
        for rubbish in RUBBISH:
            async with lease_of(lent.client, lent.url, lent.request(SMALL_BYTES)) as lease, asyncio.timeout(SEEN_S):
                await sends_rubbish(lent, lease, *rubbish)
        await serves(lent, honest)  # which has heard nothing of it
        await lent_again(lent)
    assert rpc_servers() == []


async def test_leases_asked_for_at_once_are_as_much_as_is_lent(tmp_path: Path) -> None:
    async with lending_nodes(tmp_path, lending_build(), limit_bytes=2 * SMALL_BYTES) as lent:
        enough = asyncio.Event()

        async def asks() -> str | None:
            try:
                async with lease_of(lent.client, lent.url, lent.request(SMALL_BYTES)):
                    await enough.wait()
            except PeerStatusError as error:
                return error.code
            return None

        asking = [asyncio.create_task(asks()) for _ in range(20)]
        await eventually(lambda: sum(task.done() for task in asking) == 18)
        await eventually(lambda: len(rpc_servers()) == 2)
        assert lent.lending.state().bytes_free == 0
        enough.set()
        codes = await asyncio.gather(*asking)
        assert sorted(map(str, codes)) == ["None"] * 2 + [NOT_ENOUGH_LENT] * 18
        await eventually(lambda: lent.lending.state().lent == () and rpc_servers() == [])
        await lent_again(lent)


async def test_one_lease_has_few_streams_however_many_are_asked_for(tmp_path: Path) -> None:
    async with lending_nodes(tmp_path, lending_build()) as lent:
        async with lease_of(lent.client, lent.url, lent.request(SMALL_BYTES)) as lease:
            ends = [SplicedEnd() for _ in range(3 * MOST_STREAMS)]
            asking = [
                asyncio.create_task(open_byte_stream(lent.client, lent.url, lease.grant.lease, end)) for end in ends
            ]
            await eventually(lambda: sum(_refused(task) for task in asking) == 2 * MOST_STREAMS)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            for end in ends:
                end.abort()
        await eventually(lambda: rpc_servers() == [])
        await lent_again(lent)


def _refused(task: asyncio.Task[None]) -> bool:
    error = task.exception() if task.done() and not task.cancelled() else None
    return isinstance(error, PeerStatusError) and error.code == TOO_MANY_STREAMS


async def test_a_guest_that_never_reads_costs_the_lender_no_memory(tmp_path: Path) -> None:
    """It asks for 1 GiB of what its buffer holds, and takes none of it."""
    async with lending_nodes(tmp_path, lending_build()) as lent, AsyncExitStack() as stack:
        lease = await stack.enter_async_context(lease_of(lent.client, lent.url, lent.request(64 * MIB_BYTES)))
        near, far = spliced(lambda: None, lambda: None)
        await open_byte_stream(lent.client, lent.url, lease.grant.lease, far)
        here, there = socket.socketpair()
        await asyncio.get_running_loop().create_connection(lambda: near, sock=there)
        async with RpcTalk(here) as talk:
            assert await talk.hello() == (7, 0, 0)
            size_bytes = 32 * MIB_BYTES
            pointer = await talk.alloc(size_bytes)
            asked = await talk.part_of(pointer, size_bytes)
            assert await talk.ask(GET_TENSOR, asked) == bytes(size_bytes)
            before = psutil.Process().memory_info().rss
            talk.stop_reading()
            for _ in range(32):
                talk.send(GET_TENSOR, asked)
            await eventually(lambda: lent.lending.state().lent[0].held_bytes > size_bytes)
            for _ in range(200):
                await asyncio.sleep(0.005)
                assert psutil.Process().memory_info().rss - before < 64 * MIB_BYTES
        near.abort()
        far.abort()
        await stack.aclose()
        await eventually(lambda: rpc_servers() == [])
        await lent_again(lent)


async def test_guessed_leases_lead_nowhere(tmp_path: Path) -> None:
    async with lending_nodes(tmp_path, lending_build()) as lent:
        for lease in ("", "0" * 31, "0" * 32, "g" * 32, "../../etc", "\xe2", "0" * 5000):
            with pytest.raises(PeerError):
                await open_byte_stream(lent.client, lent.url, lease, SplicedEnd())
        assert rpc_servers() == []
