"""Memory that is lent over mutual TLS between two nodes: a real llama.cpp computes in a real RPC server far away."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from federation import wire
from federation.client import PeerClient
from federation.errors import PeerError, PeerStatusError
from federation.lending import (
    DRAINED,
    LENDING_DRAINS,
    MEMORY_ENDED,
    NO_SUCH_LEASE,
    NOT_ENOUGH_LENT,
    NOT_LENDING,
    OTHER_BUILD,
    SERVER_ENDED,
    LendRequest,
)
from federation.lending_client import lease_of, measured_bytes_per_s, open_byte_stream
from federation.splice import SplicedEnd, spliced
from hardware.snapshot import MIB_BYTES
from swarm.gateway.http.in_progress import Condition
from tests.doubles.lending_nodes import (
    DEMO,
    LENT_BYTES,
    PART_BYTES,
    Lent,
    LlamaServer,
    lending_build,
    lending_nodes,
    listening_ports,
    rpc_servers,
    way_to,
)
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.real_models import smollm2
from tests.doubles.rpc_messages import RpcTalk
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

__all__ = ["smollm2"]  # a fixture

PROMPT = "Once upon a time there was a"


def over_nodes(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The test with two nodes, which begin and end inside of it: connections that idle belong to it, too."""
    wanted = inspect.signature(test)

    @wraps(test)
    async def run(**given: Any) -> None:
        async with lending_nodes(given["tmp_path"], lending_build()) as lent:
            await test(lent, **{name: value for name, value in given.items() if name in wanted.parameters})

    names = [name for name in wanted.parameters if name not in ("lent", "tmp_path")]
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("tmp_path", *names)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


@over_nodes
async def test_a_model_in_lent_memory_answers_as_it_does_alone(lent: Lent) -> None:
    async with LlamaServer(lent.build, DEMO, None) as alone:
        expected = await alone.answer(PROMPT, 40)
    async with lease_of(lent.client, lent.url, lent.request()) as lease, way_to(lent, lease) as port:
        assert lease.grant.rpc == "7.0.0"
        async with LlamaServer(lent.build, DEMO, port) as pooled:
            assert await pooled.answer(PROMPT, 40) == expected
            (part,) = lent.lending.state().lent
            assert part.model == "demo"
    assert expected.strip()


async def refused(lent: Lent, client: PeerClient | None = None, **request: object) -> PeerStatusError:
    with pytest.raises(PeerStatusError) as caught:
        async with lease_of(client or lent.client, lent.url, lent.request(**request)):  # type: ignore[arg-type]
            pass
    return caught.value


@over_nodes
async def test_who_is_lent_nothing_is_told_why(lent: Lent) -> None:
    other = await refused(lent, build="b11435")
    assert (other.status, other.code) == (403, OTHER_BUILD)
    assert "b11434" in str(other)
    assert "b11435" in str(other)
    too_much = await refused(lent, size_bytes=2 * LENT_BYTES)
    assert too_much.code == NOT_ENOUGH_LENT
    assert "1.0 GiB" in str(too_much)
    async with lease_of(lent.client, lent.url, lent.request(LENT_BYTES)):
        second = await refused(lent)
        assert second.code == NOT_ENOUGH_LENT
        assert "for demo" in str(second)
    assert rpc_servers() == [] or len(rpc_servers()) == 1, "refusals start nothing"


@over_nodes
async def test_an_open_swarm_borrows_nothing(lent: Lent, tmp_path: Path) -> None:
    """Neither from a paired node, nor from an open one, whatever that lends."""
    open_options = NodeOptions(trust=open_trust(tmp_path / "open", "hall"), lender=lent.lending)
    async with PeerClient("rogue") as rogue:
        with pytest.raises(PeerStatusError) as caught:
            async with lease_of(rogue, lent.url, lent.request()):
                pass
        assert caught.value.status == 403
        async with RunningNode("hall", ready(ScriptedEngine(saying("a word"))), options=open_options) as hall:
            with pytest.raises(PeerStatusError) as caught:
                async with lease_of(rogue, hall.address.url, lent.request()):
                    pass
            assert (caught.value.status, caught.value.code) == (403, "not_a_member")
            async with aiohttp.ClientSession() as session:
                upgrade = {"Connection": "Upgrade", "Upgrade": "ggml-rpc", "X-Swarm-Lease": "0" * 32}
                async with session.post(hall.address.url + wire.LEND_PATH, headers=upgrade) as response:
                    assert response.status == 403
    assert rpc_servers() == []


async def test_a_node_that_does_not_lend_says_so(tmp_path: Path) -> None:
    kitchen, study = paired_trusts(tmp_path, "kitchen", "study")
    options = NodeOptions(trust=kitchen)
    async with (
        RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options) as node,
        PeerClient(study.node_id, trust=study) as client,
    ):
        request = LendRequest(model="demo", bytes=1 << 20, build="b1", rpc="7.0.0")
        with pytest.raises(PeerStatusError) as caught:
            async with lease_of(client, node.address.url, request):
                pass
        assert (caught.value.status, caught.value.code) == (403, NOT_LENDING)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"measure": 0}', b'{"model": "a", "bytes": -1}', b"\xff"])
@over_nodes
async def test_what_is_no_request_is_refused(lent: Lent, body: bytes) -> None:
    asked = lent.client.open_generation(lent.url, wire.LEND_PATH, body, request_id="x", hops=1, deadline_s=60.0)
    async with asked as answer:
        assert answer.status == 400
    assert rpc_servers() == []


@over_nodes
async def test_a_lease_leads_its_own_guest_to_its_own_server_and_nobody_else(lent: Lent, tmp_path: Path) -> None:
    attic = open_trust(tmp_path, "attic")
    async with (
        lease_of(lent.client, lent.url, lent.request()) as lease,
        PeerClient(attic.node_id, trust=attic) as other,
    ):
        for client, name in ((other, lease.grant.lease), (lent.client, "0" * 32), (lent.client, ""), (other, "x" * 99)):
            end = SplicedEnd()
            with pytest.raises(PeerStatusError) as caught:
                await open_byte_stream(client, lent.url, name, end)
            assert (caught.value.status, caught.value.code) == (403, NO_SUCH_LEASE)
        headers = {wire.LEASE_HEADER: lease.grant.lease}
        with pytest.raises(PeerStatusError) as caught:
            await lent.client.open_upgraded(lent.url, wire.LEND_PATH, headers, "websocket", SplicedEnd())
        assert caught.value.status == 400
        await open_byte_stream(lent.client, lent.url, lease.grant.lease, end := SplicedEnd())
        end.abort()


@over_nodes
async def test_no_port_leads_to_a_lent_server(lent: Lent) -> None:
    before = listening_ports()
    async with lease_of(lent.client, lent.url, lent.request()):
        assert len(rpc_servers()) == 1
        assert listening_ports() - before == set()


@over_nodes
async def test_a_host_that_is_gone_gives_the_memory_back(lent: Lent) -> None:
    async with (
        lease_of(lent.client, lent.url, lent.request()) as lease,
        way_to(lent, lease) as port,
        LlamaServer(lent.build, DEMO, port),
    ):
        await eventually(lambda: lent.lending.state().lent[0].held_bytes > 0)
        (holding,) = lent.lending.holdings()
        assert sum(holding.taken.values()) + sum(holding.growth.values()) == PART_BYTES
        assert lent.lending.state().bytes_free == LENT_BYTES - PART_BYTES
    await eventually(lambda: lent.lending.state().lent == ())
    await eventually(lambda: rpc_servers() == [])
    assert lent.lending.state().bytes_free == LENT_BYTES


HOST = """\
import asyncio, sys
from pathlib import Path
from federation.client import PeerClient
from federation.lending import LendRequest
from federation.lending_client import lease_of
from tests.doubles.paired import open_trust
async def main():
    trust = open_trust(Path(sys.argv[1]), "study")
    request = LendRequest.model_validate_json(sys.argv[3])
    async with PeerClient(trust.node_id, trust=trust) as client, lease_of(client, sys.argv[2], request):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@over_nodes
async def test_a_host_that_is_killed_gives_the_memory_back(lent: Lent, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(tmp_path), lent.url, lent.request().model_dump_json(),
        stdout=asyncio.subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert host.stdout is not None
    assert await host.stdout.readline() == b"held\n"
    assert len(lent.lending.state().lent) == 1
    host.kill()
    await host.wait()
    await eventually(lambda: lent.lending.state().lent == () and rpc_servers() == [])


@over_nodes
async def test_revoking_a_host_cuts_its_lease_and_its_streams(lent: Lent) -> None:
    async with AsyncExitStack() as stack:
        lease = await stack.enter_async_context(lease_of(lent.client, lent.url, lent.request()))
        lost = asyncio.Event()
        near, far = spliced(lost.set, lost.set)
        await open_byte_stream(lent.client, lent.url, lease.grant.lease, far)
        here, there = socket.socketpair()
        await asyncio.get_running_loop().create_connection(lambda: near, sock=here)
        await lent.node.trust_service.revoke(lent.host.node_id)
        async with asyncio.timeout(60):
            await lost.wait()
            with pytest.raises(PeerError):
                async for _ in lease.news():
                    pass
        there.close()
        await eventually(lambda: lent.lending.state().lent == () and rpc_servers() == [])
        with pytest.raises(PeerError):
            await open_byte_stream(lent.client, lent.url, lease.grant.lease, SplicedEnd())


async def test_an_owner_who_wants_the_memory_back_is_told_to_hosts_first(tmp_path: Path) -> None:
    async with (
        lending_nodes(tmp_path, lending_build(), drain_s=0.2) as lent,
        lease_of(lent.client, lent.url, lent.request()) as lease,
    ):
        state = await lent.lending.decide(on=False)
        assert (state.on, state.bytes_free, len(state.lent)) == (False, 0, 1)
        offer = lent.lending.offer()
        assert offer is not None
        assert (offer.draining, offer.bytes_free) == (True, 0)
        assert (await refused(lent)).code == LENDING_DRAINS
        news = [one async for one in lease.news()]
        assert [one.draining is not None for one in news] == [True, False]
        assert (news[0].left_s, news[1].code) == (0.2, DRAINED)
        await eventually(lambda: lent.lending.state().lent == () and rpc_servers() == [])
        assert lent.lending.offer() is None


@over_nodes
async def test_a_server_that_is_killed_is_told_to_its_host(lent: Lent) -> None:
    async with lease_of(lent.client, lent.url, lent.request()) as lease:
        os.kill(rpc_servers()[0], signal.SIGKILL)
        news = [one async for one in lease.news()]
    assert [one.code for one in news] == [SERVER_ENDED]
    assert "SIGKILL" in (news[0].ended or "")


@over_nodes
async def test_a_guest_that_takes_more_than_it_asked_for_is_ended_and_lent_no_more(lent: Lent) -> None:
    async with lease_of(lent.client, lent.url, lent.request(64 * MIB_BYTES)) as lease, way_to(lent, lease) as port:
        async with RpcTalk(socket.create_connection(("127.0.0.1", port))) as talk:
            assert await talk.hello() == (7, 0, 0)
            pointer = await talk.alloc(500 * MIB_BYTES)
            assert pointer != 0
            await talk.touch(pointer)
            news = [one async for one in lease.news()]
        assert [one.code for one in news] == [MEMORY_ENDED]
    await eventually(lambda: lent.lending.state().lent == ())
    again = await refused(lent)
    assert again.code == MEMORY_ENDED


@over_nodes
async def test_weights_that_a_lender_has_kept_are_not_sent_again(lent: Lent, smollm2: Path) -> None:
    """Those of 10 MiB and more, which llama.cpp offers by their hash first."""
    passed: list[int] = []
    for _ in range(2):
        async with (
            lease_of(lent.client, lent.url, lent.request(512 * MIB_BYTES)) as lease,
            way_to(lent, lease) as port,
            LlamaServer(lent.build, smollm2, port) as pooled,
        ):
            assert "Paris" in await pooled.answer("The capital of France is", 12)
            passed.append(lent.sent_bytes())
        lent.forget_sent()
    assert passed[1] < passed[0] - 10 * MIB_BYTES, passed


@over_nodes
async def test_a_host_measures_the_way(lent: Lent) -> None:
    assert await measured_bytes_per_s(lent.client, lent.url, 1 << 20) > 0
    with pytest.raises(ValidationError):
        await measured_bytes_per_s(lent.client, lent.url, 1 << 30)


async def test_a_node_that_leaves_has_its_memory_back(tmp_path: Path) -> None:
    async with lending_nodes(tmp_path, lending_build(), drain_s=0.1) as lent, AsyncExitStack() as stack:
        condition = Condition(loading=False)
        await stack.enter_async_context(lent.lending.stopping_with(condition))
        lease = await stack.enter_async_context(lease_of(lent.client, lent.url, lent.request()))
        condition.draining = True
        news = [one async for one in lease.news()]
        assert "shutting down" in (news[0].draining or "")
        assert news[-1].code == DRAINED
