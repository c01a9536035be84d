"""A model over two real nodes with a third in reserve: paired, in namespaces, llama.cpp's own RPC between them.

Skipped where no llama.cpp was built (SWARM_TEST_ENGINES), and without the model.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from swarm.node.pooling import pooling_build
from tests.doubles.made_engines import made_engine
from tests.e2e.asking import get_text
from tests.e2e.commands import swarm_command
from tests.e2e.network import Network
from tests.e2e.node_process import NodeProcess
from tests.e2e.swarm_of_nodes import Swarm
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.netns, pytest.mark.slow]

MODEL = "smollm2:135m:q4_1"
HERE, LENT = "620M", "300M"  # the model takes 759 MiB
READY_S = 90.0  # a load over a busy machine; a few seconds alone
QUESTION = "What is the capital of France?"
LONG_TOKENS = 100  # an answer of more is to last
ENDS = ("0", "2")  # the tokens with which the model ends an answer
KNOWN = "la Marseillaise"  # what the model says to it


@pytest.fixture
async def swarm(network: Network, tmp_path: Path, smollm2: Path) -> AsyncGenerator[Swarm]:
    if pooling_build([made_engine("llama-server")]) is None:
        pytest.skip("this llama.cpp has no ggml-rpc-server")
    common = ("--federation", "--engines-dir", os.environ["SWARM_TEST_ENGINES"])
    host = (
        *common, "--engine", "llama-server", "--model", MODEL, "--models-dir", str(smollm2.parent), "--pool",
        "--memory", HERE, "--context", "1024", "--workers", "1",
    )  # fmt: skip
    machines = network.machines
    nodes = [
        NodeProcess(machine.name, tmp_path / machine.name, machine, host if number == 0 else common)
        for number, machine in enumerate(machines)
    ]
    with Swarm(nodes) as made:
        for node in nodes:
            await node.ready()
        for node in nodes[1:]:
            code = (await swarm_command(nodes[0], tmp_path, "invite"))["code"]
            await swarm_command(node, tmp_path, "join", str(code))
            await swarm_command(node, tmp_path, "lend", "on", LENT)
        yield made


async def own_model(node: NodeProcess) -> dict[str, Any]:
    text = await get_text(f"{node.url}/v1/federation/health")
    models: list[dict[str, Any]] = [] if text is None else json.loads(text)["own_models"]
    return next((model for model in models if model["id"] == MODEL), dict[str, Any]())


async def machines_of(host: NodeProcess, without: str = "") -> tuple[str, ...]:
    """Over which machines its model is ready, which are several, and not that one."""

    async def nodes() -> tuple[str, ...]:
        model = await own_model(host)
        return tuple(model["nodes"] or ()) if model.get("state") == "ready" else ()

    return await eventually(
        nodes,
        READY_S,
        f"{host.name}'s model is ready over others",
        until=lambda found: len(found) > 1 and without not in found,
    )


@asynccontextmanager
async def streamed(node: NodeProcess, text: str, tokens: int) -> AsyncGenerator[aiohttp.StreamReader]:
    body: dict[str, object] = {
        "model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0,
        "stream": True,
    }  # fmt: skip
    if tokens > LONG_TOKENS:
        body["logit_bias"] = dict.fromkeys(ENDS, -100)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READY_S)) as session,
        session.post(f"{node.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        yield response.content


async def said(node: NodeProcess) -> str:
    words = ""
    async with streamed(node, QUESTION, 24) as lines:
        async for line in lines:
            if line.startswith(b"data: {"):
                words += "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"])
    return words


def frozen(node: NodeProcess) -> None:
    for one in (*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)):
        one.suspend()


@pytest.mark.parametrize("way", ["killed", "frozen", "revoked"])
async def test_a_lost_lender_is_told_and_the_model_comes_back_over_the_other(
    swarm: Swarm, tmp_path: Path, way: str
) -> None:
    host, *lenders = swarm.nodes
    (name,) = (await machines_of(host))[1:]
    assert KNOWN in await said(host)
    assert KNOWN in await said(lenders[0]), "any node answers for it"
    lost = next(node for node in lenders if node.name == name)
    seen = json.loads(await get_text(f"{lost.url}/v1/federation/health") or "{}")
    (part,) = seen["lending"]["lent"]
    assert (part["node"], part["model"]) == (host.name, MODEL), "the lender says to whom and for what"
    (peer,) = (peer for peer in seen["peers"] if peer["name"] == host.name)
    assert peer["pooled"] == {MODEL: [host.name, lost.name]}
    async with streamed(host, "Tell a very long story. " * 20, 800) as lines:
        while not (await lines.readline()).startswith(b"data: {"):
            pass
        began = asyncio.get_running_loop().time()
        if way == "killed":
            lost.kill()
        elif way == "frozen":
            await asyncio.to_thread(frozen, lost)
        else:
            await swarm_command(host, tmp_path, "revoke", lost.name, "--yes")
        errors = [json.loads(line[6:])["error"] async for line in lines if line.startswith(b'data: {"error"')]
        (error,) = errors
    assert (error["code"], error["lender"]) == ("lender_lost", lost.name), f"{error} after {began}"
    assert (await machines_of(host, without=lost.name))[0] == host.name
    assert KNOWN in await said(host)
    assert "Traceback" not in host.errors, host.logs()
