"""What is planned for each machine of a pooled model, against what llama.cpp says that it takes there.

A real `llama-server` over two real `ggml-rpc-server`, as a node starts them. Skipped where no build was made
(SWARM_TEST_ENGINES), or its folder has no such program.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from benchmarks.random_model import Shape, write_model
from swarm.engines.engine import EngineBuild, EnginePart, EngineSpec
from swarm.engines.llama_cpp.llama_program import LlamaProgram, command, listening_port, options_in
from swarm.engines.llama_cpp.server_host import Batching
from swarm.registry.gguf_header import read_layers
from swarm.registry.layer_sizes import LayerSizes
from swarm.registry.model_memory import MIB, UBATCH_TOKENS, Load
from swarm.registry.pooled_fit import PooledPlan, PoolMachine, laid_out
from tests.doubles.made_engines import made_engine
from tests.engines.test_parts_elsewhere import RpcServer

SEEN_S = 60.0
LOAD = Load(2048, 2)
ROUNDED_BYTES = 0.01 * MIB  # the log has two digits of a mebibyte
SIZE = re.compile(r"(\S+)\s+(model|KV|compute) buffer size =\s+([\d.]+) MiB")
RPC_PORT = re.compile(r"\[127\.0\.0\.1:(\d+)\]")


@pytest.fixture
def build() -> EngineBuild:
    found = made_engine("llama-server")
    assert found.program is not None
    if not (found.program.parent / "ggml-rpc-server").is_file():
        pytest.skip(f"{found.program.parent} has no ggml-rpc-server")
    return found


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers, whose feed-forward part is wide, as in models of today; its output is its embeddings."""
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    write_model(path, 8, shape=Shape(hidden=256, heads=4, kv_heads=2, feed_forward=1408, vocabulary=20_000))
    return path


async def said_by(words: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return said.decode(errors="replace")


def peak_bytes(server: RpcServer) -> int:
    """The most that the process had in memory at once."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


async def logged(build: EngineBuild, spec: EngineSpec) -> dict[str, dict[str, float]]:
    """Bytes by machine ("CPU" or the port of an RPC server) and kind of buffer, once the model serves."""
    assert build.program is not None
    program = LlamaProgram("made", (), options_in(await said_by([str(build.program), "--help"])))
    words = command(program, spec, Batching(None, UBATCH_TOKENS, spec.slots), 0)
    process = await asyncio.create_subprocess_exec(
        build.program, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    found: dict[str, dict[str, float]] = {}
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SEEN_S):
            async for raw in process.stdout:
                line = raw.decode(errors="replace")
                if (size := SIZE.search(line)) is not None:
                    port = RPC_PORT.search(size[1])
                    sizes = found.setdefault(port[1] if port else "CPU", {})
                    sizes[size[2]] = sizes.get(size[2], 0) + float(size[3]) * MIB
                if listening_port(line) is not None:
                    return found
    finally:
        process.kill()
        await process.communicate()
    raise AssertionError(f"the server ended: {found}")


def ranges(plan: PooledPlan) -> list[range]:
    """Which layers each machine has."""
    ends = [sum(share.layers for share in plan.shares[: n + 1]) for n in range(len(plan.shares))]
    return [range(end - share.layers, end) for share, end in zip(plan.shares, ends, strict=True)]


def weights(layers: LayerSizes, of: range) -> int:
    return sum([*layers.blocks, layers.output][layer].weights_bytes for layer in of)


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory in /proc")
@pytest.mark.parametrize(("model", "counts"), [("wide_model", (3, 4, 2)), ("demo_model", (2, 1, 2))])
async def test_each_machine_takes_what_is_planned_for_it(
    build: EngineBuild, model: str, counts: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    layers = read_layers(path)
    names = ("attic", "hall")
    machines = [PoolMachine("here", None, 1 << 40, None), *(PoolMachine(name, name, 1 << 40, None) for name in names)]
    plan = laid_out(layers, LOAD, machines, counts)
    assert build.program is not None
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RpcServer(build.program.parent / "ggml-rpc-server")) for _ in names]
        parts = tuple(
            EnginePart(share.node, f"127.0.0.1:{server.port}", share.layers)
            for share, server in zip(plan.shares[1:], servers, strict=True)
        )
        spec = EngineSpec("model", path, LOAD.context_tokens, LOAD.slots, threads=1, build=build, parts=parts)
        sizes = await logged(build, spec)
        own, *lent = (sizes[name] for name in ("CPU", *(str(server.port) for server in servers)))
        own_layers, *lent_layers = ranges(plan)
        assert own["model"] == pytest.approx(weights(layers, own_layers) + layers.embeddings_bytes, abs=ROUNDED_BYTES)
        assert sum(own.values()) <= plan.shares[0].bytes
        for share, of, taken, server in zip(plan.shares[1:], lent_layers, lent, servers, strict=True):
            assert taken["model"] == pytest.approx(weights(layers, of), abs=ROUNDED_BYTES)
            cached = sum(layers.cache_bytes(block, LOAD) for block in of if block < len(layers.blocks))
            assert taken.get("KV", 0.0) == pytest.approx(cached, abs=ROUNDED_BYTES)
            bound = layers.compute_bytes(LOAD, output=layers.layers - 1 in of)
            assert bound / 8 < taken["compute"] <= bound
            assert sum(taken.values()) < share.bytes
            assert peak_bytes(server) < share.bytes, "while its tensors arrive, too"
