"""A member that lends memory, a second one that borrows it, and a real llama.cpp at that one's end.

Everything is real: mutual TLS, bwrap, `ggml-rpc-server`, `llama-server`; it is skipped only where these are not there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from federation.client import PeerClient
from federation.lending import LendRequest
from federation.lending_client import HeldLease, open_byte_stream
from federation.splice import SplicedEnd
from federation.trust import Trust
from hardware.snapshot import GIB_BYTES, MIB_BYTES, HardwareSnapshot, Memory
from swarm.engines.engine import EngineBuild
from swarm.engines.llama_cpp.rpc_server import PROGRAM
from swarm.node.lending import LendingParts, NodeLending, lending_parts
from swarm.node.settings import Settings
from tests.doubles.made_engines import made_engine
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

WAIT_S = 60.0  # far above what any of it takes: only a defect reaches it
LENT_BYTES = GIB_BYTES
PART_BYTES = 256 * MIB_BYTES
DEMO = Path(__file__).parents[2] / "models" / "demo" / "demo.gguf"


def lending_build() -> EngineBuild:
    """A real llama.cpp with its RPC server."""
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed here")
    build = made_engine("llama-server")
    assert build.program is not None
    if not build.program.with_name(PROGRAM).is_file():
        pytest.skip(f"{build.program.parent} has no {PROGRAM}")
    return build


def parts_here(data_dir: Path, build: EngineBuild) -> LendingParts:
    """What a node with that data directory would lend with."""
    snapshot = HardwareSnapshot(memory=Memory(total_bytes=4 * GIB_BYTES, free_bytes=3 * GIB_BYTES))
    return lending_parts(Settings(data_dir=data_dir, threads=1), snapshot, [build])


@dataclass(frozen=True, slots=True)
class Lent:
    """A lender and a host beside it. `client` is the host's."""

    node: RunningNode
    lending: NodeLending
    build: EngineBuild
    client: PeerClient
    host: Trust
    trust: Trust
    sent: list[int] = field(default_factory=list[int])  # bytes, by pieces, from llama.cpp to the RPC server

    def sent_bytes(self) -> int:
        return sum(self.sent)

    def forget_sent(self) -> None:
        self.sent.clear()

    @property
    def url(self) -> str:
        return self.node.address.url

    def request(self, size_bytes: int = PART_BYTES, **more: object) -> LendRequest:
        """For the demo model, by the same llama.cpp."""
        fields = {"model": "demo", "bytes": size_bytes, "build": self.build.version, "rpc": "7.0.0", **more}
        return LendRequest.model_validate(fields)


@asynccontextmanager
async def lending_nodes(
    folder: Path, build: EngineBuild, limit_bytes: int = LENT_BYTES, drain_s: float = 30.0
) -> AsyncGenerator[Lent]:
    """The kitchen lends, the study borrows; the attic is a member, too."""
    kitchen, study, _ = paired_trusts(folder, "kitchen", "study", "attic")
    settings = Settings(data_dir=folder / "kitchen", threads=1)
    lending = NodeLending(settings, lambda: kitchen.mode == "paired", lambda guest: f"node {guest[:4]}", print, drain_s)
    options = NodeOptions(trust=kitchen, lender=lending)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(lending.aclose)
        await lending.on(await asyncio.to_thread(parts_here, folder / "kitchen", build), limit_bytes)
        node = await stack.enter_async_context(
            RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options)
        )
        client = await stack.enter_async_context(PeerClient(study.node_id, trust=study))
        yield Lent(node, lending, build, client, study, kitchen)


class _CountedEnd(SplicedEnd):
    """Notes how much llama.cpp sends."""

    def __init__(self, sent: list[int]) -> None:
        super().__init__()
        self._sent = sent

    def data_received(self, data: bytes) -> None:
        self._sent.append(len(data))
        super().data_received(data)


@asynccontextmanager
async def way_to(lent: Lent, lease: HeldLease) -> AsyncGenerator[int]:
    """As `way_over`; what llama.cpp sends is counted."""
    async with way_over(lent.client, lent.url, lease, lambda: _CountedEnd(lent.sent)) as port:
        yield port


@asynccontextmanager
async def way_over(
    client: PeerClient, url: str, lease: HeldLease, near_end: Callable[[], SplicedEnd] = SplicedEnd
) -> AsyncGenerator[int]:
    """A port of loopback whose connections lead to the lease's RPC server, as a host has one for its llama.cpp."""
    tasks: set[asyncio.Task[None]] = set()
    ends: list[tuple[SplicedEnd, SplicedEnd]] = []

    def accepted() -> asyncio.Protocol:
        far = SplicedEnd()
        near = near_end()
        near.join(far)
        ends.append((near, far))

        async def lead() -> None:
            try:
                await open_byte_stream(client, url, lease.grant.lease, far)
            except Exception:
                near.close()
                raise

        task = asyncio.get_running_loop().create_task(lead())
        tasks.add(task)
        return near

    server = await asyncio.get_running_loop().create_server(accepted, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for near, far in ends:
            near.abort()
            far.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


class LlamaServer:
    """A real llama-server over an RPC server at a port of loopback; None: alone."""

    def __init__(self, build: EngineBuild, model: Path, rpc_port: int | None) -> None:
        assert build.program is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        words = ["--model", str(model), "--host", "127.0.0.1", "--port", str(self.port), "--threads", "1"]
        words += ["--ctx-size", "512", "--parallel", "1", "--fit", "off"]
        if rpc_port is not None:
            words += ["--rpc", f"127.0.0.1:{rpc_port}", "--device", "RPC0", "--gpu-layers", "99"]
        self._command = (str(build.program), *words)
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> LlamaServer:
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        async with asyncio.timeout(WAIT_S):
            while await self._status() != 200:
                assert self.process.returncode is None, f"llama-server ended: {self._command}"
                await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def _status(self) -> int:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}/health") as response,
            ):
                return response.status
        except aiohttp.ClientError:
            return 0

    async def answer(self, prompt: str, tokens: int) -> str:
        """At temperature 0."""
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": False}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.port}/completion", json=body) as response,
        ):
            return str((await response.json())["content"])


def listening_ports() -> set[int]:
    """Of TCP, on any address of this machine's own network namespace."""
    found: set[int] = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found.add(int(words[1].rpartition(":")[2], 16))
    return found


def rpc_servers(within: int | None = None) -> list[int]:
    """The processes of RPC servers below this process, or below `within`."""
    found: list[int] = []
    todo = [os.getpid() if within is None else within]
    while todo:
        pid = todo.pop()
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                todo += map(int, children.read_text().split())
            except OSError:
                continue
        try:
            if Path(f"/proc/{pid}/exe").resolve().name == PROGRAM:
                found.append(pid)
        except OSError:
            continue
    return found
