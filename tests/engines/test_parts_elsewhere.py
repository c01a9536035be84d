"""A model of which other processes compute parts: real `ggml-rpc-server` programs on loopback, of the same build.

Skipped where no build was made (SWARM_TEST_ENGINES), or its folder has no such program.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.engines.engine import EngineBuild, EnginePart, EngineSpec
from swarm.engines.llama_cpp import llama_server
from swarm.engines.llama_cpp.llama_server_host import free_port
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.errors import EngineDied
from swarm.generation import Delta, GenerationRequest
from tests.doubles.made_engines import made_engine

SEEN_S = 60.0  # far above what any of it takes


class RpcServer:
    """A running `ggml-rpc-server` at `port` of loopback."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self.port = free_port()

    async def __aenter__(self) -> RpcServer:
        words = ["-H", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(self._program, *words, stdout=quiet, stderr=quiet)
        async with asyncio.timeout(SEEN_S):
            while not await asyncio.to_thread(self._listens):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def build() -> EngineBuild:
    found = made_engine("llama-server")
    assert found.program is not None
    if not (found.program.parent / "ggml-rpc-server").is_file():
        pytest.skip(f"{found.program.parent} has no ggml-rpc-server")
    return found


@pytest.fixture
async def lenders(build: EngineBuild) -> AsyncGenerator[list[RpcServer]]:
    assert build.program is not None
    async with AsyncExitStack() as stack:
        servers = [RpcServer(build.program.parent / "ggml-rpc-server") for _ in range(2)]
        yield [await stack.enter_async_context(server) for server in servers]


def over(lenders: list[RpcServer], build: EngineBuild, path: Path) -> EngineSpec:
    """One of the four layers here, two at the first lender, one and the output at the second."""
    names = ("attic", "hall")
    parts = tuple(EnginePart(name, f"127.0.0.1:{lender.port}", 2) for name, lender in zip(names, lenders, strict=True))
    return EngineSpec("demo", path, 2048, 2, threads=1, build=build, parts=parts, node="me")


def asked(text: str, tokens: int) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0.0, "max_tokens": tokens}
    )


async def said(engine: LlamaServerEngine, text: str) -> str:
    async with asyncio.timeout(SEEN_S), aclosing(engine.candidates(asked(text, 48), 1)) as events:
        return "".join([event.text async for event in events if isinstance(event, Delta)])


async def test_two_lenders_say_what_one_machine_says(
    lenders: list[RpcServer], build: EngineBuild, demo_model: Path
) -> None:
    pooled = over(lenders, build, demo_model)
    async with (
        aclosing(await llama_server.load(pooled)) as engine,
        aclosing(await llama_server.load(replace(pooled, parts=(), node=""))) as alone,
    ):
        for text in ("What is the capital of France?", "Count from 1 to 9."):
            answer = await said(engine, text)
            assert answer
            assert answer == await said(alone, text)
        words = "me + attic + hall (1 of 5 layers on me)"
        assert str(engine.computation) == f"llama-server {build.version} over {words}"
        assert engine.computation.nodes == ("me", "attic", "hall")
        assert engine.taken_bytes, "what it takes here is measured: no GPU of this machine has any of it"
        assert (alone.computation.nodes, alone.computation.devices) == ((), ())


async def test_a_lender_that_is_killed_ends_the_engine_at_once(
    lenders: list[RpcServer], build: EngineBuild, demo_model: Path
) -> None:
    """llama.cpp aborts; were a debugger started to tell where, as it does by itself, that would take seconds."""
    async with aclosing(await llama_server.load(over(lenders, build, demo_model))) as engine:
        async with asyncio.timeout(SEEN_S), aclosing(engine.candidates(asked("Tell a story. " * 60, 900), 1)) as events:
            assert isinstance(await anext(events), Delta)
            lenders[1].process.kill()
            with pytest.raises(EngineDied):
                _ = [event async for event in events]
        reason = await asyncio.wait_for(engine.failed, SEEN_S)
        assert "SIGABRT" in reason
