"""Whether what is forecast of a pooled model is what it then does: tokens/s expected and measured, far and near.

    python benchmarks/pooled_forecast.py [--models smollm2 random] [--lenders 0 1 2] [--rounds N] [--json FILE]

The engine that a node would start (`swarm/engines/llama_cpp`), with the layers of SmolLM2-135M and of a random model in
the shape of Qwen2.5-0.5B dealt to one and two `ggml-rpc-server` of the same build (SWARM_TEST_ENGINES), at once and
behind a line that delays each way by half a round trip. The forecast knows what a node knows: the memory's speed as a
lender measures it (`hardware/memory_speed.py`), and the round trip and the bandwidth as they are measured over the same
line. All processes have one thread and share this machine's cores, but work one after the other, as pooled ones do.
Of the gaps between tokens the fastest tenth counts, and of the prompts the fastest one: what else the machine does
takes time and never gives any.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from measure import Figure
from nodes import random_model
from platformdirs import user_cache_path
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))  # this checkout's engines, whatever is installed

from hardware.memory_speed import weights_bytes_per_s
from hardware.probe import probe_hardware
from hardware.snapshot import ModelMemory
from swarm.engines.engine import EngineBuild, EnginePart, EngineSpec
from swarm.engines.llama_cpp import llama_server
from swarm.engines.llama_cpp.llama_server_host import free_port
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.generation import Delta, GenerationRequest
from swarm.registry.catalogue import Catalogue
from swarm.registry.download import download_choice
from swarm.registry.gguf_header import read_layers
from swarm.registry.model_memory import Load
from swarm.registry.pooled_fit import PooledPlan, PoolMachine, laid_out
from tests.doubles.made_engines import made_engine

CONTEXT_TOKENS = 4096
SMOLLM2 = "smollm2:135m:q4_1"
ROUND_TRIPS_MS = (0.0, 1.0, 5.0, 10.0, 40.0)
MEASURED_BYTES = 4 << 20
PROMPT = "one two three four five six seven eight "
WITHIN = 0.25  # of what was measured
CHUNK_BYTES = 1 << 18
SEEN_S = 60.0


# --- the line


def carry(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Everything that arrives at `source` goes to `target`, each piece `delay_s` after it came."""
    on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue()

    def take() -> None:
        piece = b"."
        while piece:
            try:
                piece = source.recv(CHUNK_BYTES)
            except OSError:
                piece = b""
            on_the_way.put((time.monotonic() + delay_s, piece))

    def deliver() -> None:
        while True:
            due, piece = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(piece)
            except OSError:
                return

    for work in (take, deliver):
        threading.Thread(target=work, daemon=True).start()


def line(delay_s: float, port: int) -> None:
    """A program: what connects to the port that it prints reaches `port` of loopback, late by `delay_s` each way."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), listener.shutdown(socket.SHUT_RDWR)), daemon=True).start()
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            carry(near, far, delay_s)
            carry(far, near, delay_s)


@contextmanager
def delayed(rtt_s: float, port: int) -> Generator[int]:
    """A port that leads to `port`, `rtt_s` away; it is `port` itself where that is nothing."""
    if not rtt_s:
        yield port
        return
    command = [sys.executable, __file__, "--line", str(rtt_s / 2), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield int(program.stdout.readline())
        finally:
            program.kill()


def answering(listener: socket.socket) -> None:
    """For each eight bytes that say a size, as many bytes."""
    while True:
        try:
            side, _ = listener.accept()
        except OSError:
            return
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with side:
            while asked := side.recv(8):
                side.sendall(bytes(int.from_bytes(asked, "little")))


def measured_link(rtt_s: float) -> tuple[float, float]:
    """Round trip in seconds and bytes a second, over a line like the one that the engine gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answering, args=(listener,), daemon=True).start()
        with delayed(rtt_s, listener.getsockname()[1]) as port, socket.create_connection(("127.0.0.1", port)) as side:
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def fetch(size: int) -> float:
                began = time.perf_counter()
                side.sendall(size.to_bytes(8, "little"))
                left = size
                while left:
                    left -= len(side.recv(min(left, CHUNK_BYTES)))
                return time.perf_counter() - began

            trip_s = min(fetch(1) for _ in range(20))
            whole_s = min(fetch(MEASURED_BYTES) for _ in range(3))
        listener.shutdown(socket.SHUT_RDWR)
    return trip_s, MEASURED_BYTES / max(whole_s - trip_s, 1e-6)


# --- the engine


@contextmanager
def rpc_server(program: Path) -> Generator[int]:
    port = free_port()
    with subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port), "-t", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        deadline = time.monotonic() + SEEN_S
        while time.monotonic() < deadline:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        try:
            yield port
        finally:
            server.kill()


@dataclass(frozen=True, slots=True)
class Speed:
    """Gaps between written tokens, in seconds; tokens of a prompt read a second, with the first one written."""

    gaps_s: tuple[float, ...]
    reads: float


def fastest_tenth(gaps_s: Sequence[float]) -> float:
    """The longest gap of the fastest tenth."""
    return sorted(gaps_s)[len(gaps_s) // 10]


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens written, and tokens of a prompt read, a second."""

    writes: float
    reads: float


async def measured(engine: LlamaServerEngine, tokens: int, repeats: int, number: int) -> Speed:
    """One answer to a prompt that it has not seen: the time to its first piece, and from there to its last."""
    words = f"{number} {number * 7919 % 10007} " + PROMPT * repeats
    request = GenerationRequest.model_validate(
        {
            "model": "model",
            "messages": [{"role": "user", "content": words}],
            "max_tokens": tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }
    )
    began, at, prompt_tokens, written = time.perf_counter(), list[float](), 0, 0
    async with aclosing(engine.candidates(request, 1)) as events:
        async for event in events:
            if isinstance(event, Delta):
                at.append(time.perf_counter())
            if (usage := getattr(event, "usage", None)) is not None:
                prompt_tokens, written = usage.prompt_tokens, usage.completion_tokens
    assert written == len(at), "each token is a piece of its own"
    return Speed(tuple(later - sooner for sooner, later in pairwise(at)), prompt_tokens / (at[0] - began))


def dealt(layers: int, lenders: int) -> list[int]:
    """As equal shares as there are, the host's the largest."""
    each = layers // (lenders + 1)
    return [layers - each * lenders, *([each] * lenders)]


async def compared(
    name: str, path: Path, build: EngineBuild, bytes_per_s: float, lenders: int, rtt_ms: float, rounds: int
) -> tuple[PooledPlan, Measured]:
    """The forecast, and what was measured."""
    assert build.program is not None
    layers = read_layers(path)
    counts = dealt(layers.layers, lenders)
    trip_s, link = measured_link(rtt_ms / 1000) if lenders else (0.0, 0.0)
    others = [PoolMachine(f"lender{n}", f"id{n}", 1 << 40, bytes_per_s, trip_s, link, True) for n in range(lenders)]
    plan = laid_out(layers, Load(CONTEXT_TOKENS), [PoolMachine("here", None, 1 << 40, bytes_per_s), *others], counts)
    with ExitStack() as stack:
        servers = [stack.enter_context(rpc_server(build.program.parent / "ggml-rpc-server")) for _ in range(lenders)]
        ports = [stack.enter_context(delayed(rtt_ms / 1000, port)) for port in servers]
        parts = tuple(
            EnginePart(share.node, f"127.0.0.1:{port}", share.layers)
            for share, port in zip(plan.shares[1:], ports, strict=True)
        )
        spec = EngineSpec("model", path, CONTEXT_TOKENS, 1, threads=1, build=build, parts=parts, node="here")
        async with aclosing(await llama_server.load(spec)) as engine:
            await measured(engine, 8, 4, 0)
            runs = [await measured(engine, 32, 8, number) for number in range(1, rounds + 1)]
    gap_s = fastest_tenth([gap for run in runs for gap in run.gaps_s])
    best = Measured(1 / gap_s, max(run.reads for run in runs))
    progress(
        f"{name} over {lenders} lenders at {rtt_ms:g} ms: writes {best.writes:.1f} tokens/s, "
        f"forecast {plan.tokens_per_s or 0:.1f}; reads {best.reads:.0f}, forecast {plan.prefill_tokens_per_s or 0:.0f} "
        f"(round trip {trip_s * 1000:.2f} ms, {link / 1e6:.0f} MB/s)"
    )
    return plan, best


async def forecasts(
    names: Sequence[str], numbers: Sequence[int], rounds: int, trips_ms: Sequence[float]
) -> list[Figure]:
    build = made_engine("llama-server")
    snapshot = probe_hardware()
    speed = weights_bytes_per_s(snapshot, ModelMemory("ram", snapshot.memory.free_bytes), 1, native=True)
    progress(f"weights are read with {speed / 1e9:.1f} GB/s, as this machine says")
    (smollm2,) = [choice for choice in Catalogue.load().choices() if choice.id == SMOLLM2]
    kept = user_cache_path("local-swarm-bench", appauthor=False, ensure_exists=True)
    makers = {
        "smollm2": lambda: ("SmolLM2-135M", download_choice(smollm2, kept / "models")),
        "random": lambda: ("random 0.5B", random_model(24)),
    }
    figures: list[Figure] = []
    for name, path in (makers[name]() for name in names):
        for lenders, trip in [(number, trip) for number in numbers for trip in (trips_ms if number else (0.0,))]:
            plan, best = await compared(name, path, build, speed, lenders, trip, rounds)
            assert plan.tokens_per_s is not None
            where = f"{name}, {lenders} lenders, {trip:g} ms" if lenders else f"{name}, alone"
            figures += [
                Figure(f"measured: {where}", "tokens/s", (best.writes,)),
                Figure(f"forecast / measured: {where}", "", (plan.tokens_per_s / best.writes,)),
            ]
    return figures


def main() -> None:
    if sys.argv[1:2] == ["--line"]:
        line(float(sys.argv[2]), int(sys.argv[3]))
        return
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", choices=("smollm2", "random"), default=("smollm2", "random"))
    made.add_argument("--lenders", nargs="+", type=int, choices=(0, 1, 2), default=(0, 1, 2), metavar="N")
    made.add_argument("--rounds", type=int, metavar="N", help="default 5")
    arguments = made.parse_args()
    environment = read_environment()
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    trips_ms = (0.0, 10.0) if arguments.quick else ROUND_TRIPS_MS
    figures = asyncio.run(forecasts(arguments.models, arguments.lenders, rounds, trips_ms))
    publish(environment, figures, arguments.json)


if __name__ == "__main__":
    main()
