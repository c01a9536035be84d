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

import numpy as np
import pytest
from gguf import GGUFWriter

from benchmarks.random_model import Shape, write_model, write_tokenizer
from swarm.engines.engine import EngineBuild, EnginePart, EngineSpec
from swarm.engines.llama_cpp.llama_program import LlamaProgram, command, listening_port, options_in
from swarm.engines.llama_cpp.server_host import Batching
from swarm.registry.embedded import embedded_model_path
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


@pytest.fixture(scope="module")
def mixture_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of eight experts, of which two are chosen for a token; with an output matrix of its own."""
    path, random = tmp_path_factory.mktemp("mixture") / "mixture.gguf", np.random.default_rng(1)
    hidden, heads, kv_heads, feed_forward, vocabulary, experts, blocks = 256, 4, 4, 512, 20_000, 8, 6
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    write_tokenizer(writer, embedded_model_path(), vocabulary)

    def tensor(name: str, *sizes: int) -> None:
        writer.add_tensor(f"{name}.weight", random.standard_normal(sizes, dtype=np.float32) * np.float32(0.02))

    tensor("token_embd", vocabulary, hidden)
    for block in (f"blk.{number}." for number in range(blocks)):
        for norm in ("attn_norm", "ffn_norm"):
            tensor(block + norm, hidden)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(block + part, hidden, hidden)
        tensor(block + "ffn_gate_inp", experts, hidden)
        tensor(block + "ffn_gate_exps", experts, feed_forward, hidden)
        tensor(block + "ffn_up_exps", experts, feed_forward, hidden)
        tensor(block + "ffn_down_exps", experts, hidden, feed_forward)
    tensor(
        "output_norm", hidden
    )  # behind the blocks: what lies between two tensors of the host's counts as mapped there
    tensor("output", vocabulary, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path


@pytest.fixture(params=[("wide_model", (3, 4, 2)), ("mixture_model", (2, 3, 2)), ("demo_model", (2, 1, 2))])
def dealt(request: pytest.FixtureRequest) -> tuple[Path, tuple[int, ...]]:
    """A model, and how many of its layers each of three machines has."""
    name, counts = request.param
    return request.getfixturevalue(name), counts


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
async def test_each_machine_takes_what_is_planned_for_it(
    build: EngineBuild, dealt: tuple[Path, tuple[int, ...]]
) -> None:
    path, counts = dealt
    layers = await asyncio.to_thread(read_layers, path)
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


def test_of_a_mixture_two_experts_of_eight_are_read(mixture_model: Path) -> None:
    block = read_layers(mixture_model).blocks[0]
    assert 0.25 < block.read_bytes / block.weights_bytes < 0.45
