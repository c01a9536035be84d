"""What the way to lent memory costs: a byte stream between two nodes against the same bytes without us.

    SWARM_TEST_ENGINES=DIR python benchmarks/byte_stream.py [--quick] [--json FILE]

A lender and a host are a process each, members of one swarm. Between the two ends of a connection of llama.cpp's stand
a socket of loopback, the host's event loop, mutual TLS, the lender's event loop, and a socket of the RPC server's own
network namespace. Against one direct connection it is told what a round trip of 64 bytes takes longer, how fast a
gibibyte goes up, and, with `llama-bench` and a random model in the shape of Qwen2.5-0.5B over two lenders, how many
tokens a second are read and written. All of it shares this machine's cores, which is the hardest case: the two event
loops take from what computes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from measure import Figure, Target, ratios
from nodes import random_model
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))  # this checkout's nodes, whatever is installed


from federation.client import PeerClient
from federation.lending import LendRequest
from federation.lending_client import lease_of
from swarm.engines.llama_cpp.llama_server_host import free_port
from swarm.engines.llama_cpp.rpc_server import python_inside
from swarm.node.lending import NodeLending
from swarm.node.settings import Settings
from swarm.registry.model_memory import GIB
from tests.doubles.lending_nodes import lending_build, parts_here, way_over
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

NAMES = ("study", "kitchen", "attic")  # the host, and two lenders
PING_BYTES = 64
SENT_BYTES = GIB
PIECE_BYTES = 256 * 1024
LENT_BYTES = 2 * GIB
# What stands in the RPC server's place, so that only the way is measured: it says hello as one, echoes, and swallows.
ECHO = """\
import socket, struct, sys
sys.argv.append("127.0.0.1:50052")
port = next((int(word) for word in sys.argv if word.isdigit() and int(word) > 1024), 50052)
with socket.create_server(("127.0.0.1", port)) as listener:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            first = connection.recv(9)
            if first[:1] == bytes([14]):
                connection.sendall(struct.pack("<Q", 28) + bytes([7, 0, 0]) + bytes(25))
            elif first[:1] == b"S":
                (left,) = struct.unpack("<Q", first[1:])
                room = memoryview(bytearray(1 << 20))
                while left and (came := connection.recv_into(room)):
                    left -= came
                connection.sendall(b"!")
            elif first:
                connection.sendall(b"!")
                while piece := connection.recv(65536):
                    connection.sendall(piece)
"""


# The two nodes, each a process


async def lend(data: Path, name: str, echoes: bool) -> None:
    """A lender, until the standard input ends."""
    trust = open_trust(data, name)
    lending = NodeLending(Settings(data_dir=data / name, threads=1), lambda: True, lambda guest: guest[:8], progress)
    parts = await asyncio.to_thread(parts_here, data / name, lending_build())
    if echoes:
        parts = replace(parts, program=replace(parts.program, path=echo_program(data)))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(lending.aclose)
        await lending.on(parts, LENT_BYTES)
        options = NodeOptions(trust=trust, lender=lending)
        engine = ready(ScriptedEngine(saying("a word")))
        node = await stack.enter_async_context(RunningNode(name, engine, options=options))
        print(node.address.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def borrow(data: Path, urls: Sequence[str], build: str) -> None:
    """A host with a port of loopback to each lender, until the standard input ends."""
    trust = open_trust(data, NAMES[0])
    request = LendRequest(model="measured", bytes=LENT_BYTES, build=build, rpc="7.0.0")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(PeerClient(trust.node_id, trust=trust))
        ports: list[int] = []
        for url in urls:
            lease = await stack.enter_async_context(lease_of(client, url, request))
            ports.append(await stack.enter_async_context(way_over(client, url, lease)))
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def echo_program(data: Path) -> Path:
    """Where the RPC server stands for the way alone."""
    program = data / "bin" / "ggml-rpc-server"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{python_inside().program}\n{ECHO}")
    program.chmod(0o755)
    return program


@contextmanager
def child(*words: str | Path) -> Generator[str]:
    """A process of this file, by the line that it says when it is ready; it ends with the block."""
    command = [sys.executable, str(Path(__file__)), *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{words[0]} did not start")
            yield line.strip()
        finally:
            process.communicate()


@contextmanager
def ways(data: Path, lenders: Sequence[str], echoes: bool) -> Generator[list[int]]:
    """Ports that lead to the lenders' servers."""
    with ExitStack() as stack:
        urls = [stack.enter_context(child("--lend", data, name, "echo" if echoes else "rpc")) for name in lenders]
        yield json.loads(stack.enter_context(child("--borrow", data, lending_build().version, *urls)))


@contextmanager
def direct(programs: Sequence[Sequence[str | Path]]) -> Generator[list[int]]:
    """The same servers on loopback, without us."""
    ports, running = [], list[subprocess.Popen[bytes]]()
    try:
        for program in programs:
            ports.append(port := free_port())
            words = [*map(str, program), "-H", "127.0.0.1", "-p", str(port)]
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for port in ports:
            until_it_listens(port)
        yield ports
    finally:
        for process in running:
            process.kill()
            process.wait()


def until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


# What is measured


def round_trips_us(port: int, count: int) -> list[float]:
    """Each of `count` round trips, in microseconds."""
    with socket.create_connection(("127.0.0.1", port)) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.sendall(b"P" * 9)
        made.recv(1)
        took: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            made.sendall(bytes(PING_BYTES))
            left = PING_BYTES
            while left:
                left -= len(made.recv(left))
            took.append((time.perf_counter() - began) * 1e6)
    return took


def bytes_per_s(port: int, size_bytes: int) -> float:
    """How fast so many bytes are taken at the other end."""
    piece = bytes(PIECE_BYTES)
    with socket.create_connection(("127.0.0.1", port)) as made:
        made.sendall(struct.pack("<cQ", b"S", size_bytes))
        began = time.perf_counter()
        for _ in range(size_bytes // PIECE_BYTES):
            made.sendall(piece)
        made.recv(1)
        return size_bytes / (time.perf_counter() - began)


def nodes_time_s() -> float:
    """What the processes of both nodes have computed, which is the same however busy the machine is."""
    nodes = [one for one in psutil.Process().children() if Path(__file__).name in " ".join(one.cmdline())]
    return sum(one.cpu_times().user + one.cpu_times().system for one in nodes)


def tokens_per_s(bench: Path, model: Path, ports: Sequence[int], rounds: int, quick: bool) -> tuple[float, float]:
    """Of prompts and of answers, by llama-bench; the model lies half on each."""
    rpc = ",".join(f"127.0.0.1:{port}" for port in ports)
    command = [str(bench), "-m", str(model), "--rpc", rpc, "-ngl", "99", "-t", "1", "-r", str(rounds), "-o", "json"]
    command += ["-p", "128" if quick else "256", "-n", "32" if quick else "48"]
    command += ["-dev", "/".join(f"RPC{number}" for number in range(len(ports))), "-ts", "/".join("1" * len(ports))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"llama-bench failed: {ran.stderr[-500:]}")
    found = json.loads(ran.stdout)
    prompts = next(max(one["samples_ts"]) for one in found if one["n_prompt"])
    answers = next(max(one["samples_ts"]) for one in found if one["n_gen"])
    return prompts, answers


def measured(quick: bool) -> list[Figure]:
    """All of it, our way and the direct one in turn."""
    build = lending_build()
    assert build.program is not None
    bench, server = (build.program.with_name(name) for name in ("llama-bench", "ggml-rpc-server"))
    pings, rounds = (500, 2) if quick else (5000, 5)
    with tempfile.TemporaryDirectory(prefix="byte-stream-") as folder:
        data = Path(folder)
        paired_trusts(data, *NAMES)
        progress("the way alone: round trips and a gibibyte")
        echo = [sys.executable, echo_program(data)]
        with ways(data, NAMES[1:2], echoes=True) as (far,), direct([echo]) as (near,):
            added, speeds, spent = list[float](), list[float](), list[float]()
            sent_bytes = SENT_BYTES // (8 if quick else 1)
            for _ in range(rounds):
                added.append(
                    statistics.median(round_trips_us(far, pings)) - statistics.median(round_trips_us(near, pings))
                )
                before_s = nodes_time_s()
                speeds.append(bytes_per_s(far, sent_bytes) / 1e6)
                spent.append((nodes_time_s() - before_s) / 2 / (sent_bytes / GIB))
        progress("llama.cpp over two lenders")
        model = random_model(24)
        prompts: tuple[list[float], list[float]] = ([], [])
        answers: tuple[list[float], list[float]] = ([], [])
        with ways(data, NAMES[1:], echoes=False) as ours, direct([[server, "-t", "1"]] * 2) as theirs:
            for _ in range(rounds):
                for side, ports in enumerate((ours, theirs)):
                    read, written = tokens_per_s(bench, model, ports, 1 if quick else 4, quick)
                    prompts[side].append(read)
                    answers[side].append(written)
                    progress(f"{('ours', 'direct')[side]}: {read:.1f} read, {written:.1f} written")
    return [
        Figure("round trip of 64 bytes, added", "µs", tuple(added), Target("at most", 300.0)),
        Figure("upload over one stream", "MB/s", tuple(speeds)),
        Figure("processor time of either node for each GiB", "s", tuple(spent)),
        Figure(
            "tokens written, over two lenders / llama.cpp's own RPC", "", ratios(*answers), Target("at least", 0.95)
        ),
        Figure("tokens read, over two lenders / llama.cpp's own RPC", "", ratios(*prompts), Target("at least", 0.9)),
    ]


def main() -> None:
    match sys.argv[1:]:
        case ["--lend", data, name, what]:
            asyncio.run(lend(Path(data), name, what == "echo"))
        case ["--borrow", data, build, *urls]:
            asyncio.run(borrow(Path(data), urls, build))
        case _:
            options = parser(__doc__).parse_args()
            publish(read_environment(), measured(options.quick), options.json)


if __name__ == "__main__":
    main()
