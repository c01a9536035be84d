"""Pooled models against llama.cpp's own RPC, and what becomes of them when a lender is lost: real nodes, real engines.

    python benchmarks/pooled.py --engines DIR MODEL.gguf [--pairs 7] [--here 620M] [--lent 300M]

DIR is a folder that `swarm engines install native` filled. Three paired nodes in network namespaces of this machine:
the host, whose models may take less than this one, and two lenders of which one suffices. Beside them the same
llama-server over one `ggml-rpc-server` on loopback, with the same split and nothing of this project in between. Both
are asked alternately, one at a time, by the same client over the same API, and medians are compared: tokens a second of
an answer, from its first to its last, and tokens a second of a prompt that neither has seen, until its first.

Then the lender is lost in the middle of an answer, in each of the ways in which one can be, and times are taken by the
client: until its answer has ended with the error, and until the model answers again over the other lender.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from namespaces import PORT, Stage, ready_at, stage

from swarm.engines.installed import installed_engines
from swarm.quantities import bytes_of
from swarm.registry.gguf_header import read_layers
from swarm.registry.model_memory import AskedLoad
from swarm.registry.pooled_fit import PoolMachine, pooled_load

HOST, LENDERS = "den", ("attic", "hall")
CONTEXT_TOKENS = 1024
ANSWER_TOKENS, PROMPT_WORDS = 48, 300
WITHIN_S = 120.0
WAYS = ("node killed", "RPC server killed", "frozen", "cut off", "revoked")


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer: when its first and last pieces came, in seconds after it was asked, and what it counted."""

    first_s: float
    last_s: float
    prompt_tokens: int
    tokens: int
    text: str

    @property
    def decode_per_s(self) -> float:
        return (self.tokens - 1) / (self.last_s - self.first_s)

    @property
    def prefill_per_s(self) -> float:
        return self.prompt_tokens / self.first_s


class Ended(Exception):
    """An answer ended with an error object."""


async def asked(session: aiohttp.ClientSession, url: str, model: str, text: str, tokens: int) -> Timed:
    """A greedy answer, streamed. Raises Ended where the stream has an error."""
    body = {
        "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True}, "cache_prompt": False, "swarm": {"resume": False},
    }  # fmt: skip
    began, times, words, usage = time.perf_counter(), list[float](), "", dict[str, Any]()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise Ended(await response.text())
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise Ended(json.dumps(chunk["error"]))
            usage = chunk.get("usage") or usage
            said = "".join((choice["delta"].get("content") or "") for choice in chunk["choices"])
            if said:
                times.append(time.perf_counter() - began)
                words += said
    return Timed(times[0], times[-1], usage["prompt_tokens"], usage["completion_tokens"], words)


def prompt(number: int) -> str:
    """Text that nobody has read before, of some `PROMPT_WORDS` tokens."""
    return " ".join(f"{(number * 7919 + place * 104729) % 9973}" for place in range(PROMPT_WORDS // 3))


@asynccontextmanager
async def plain_rpc(bin_dir: Path, model: Path, layers: int, threads: int) -> AsyncGenerator[str]:
    """llama-server over one ggml-rpc-server of loopback, which has so many layers; its address."""
    rpc_port, port = 52_111, 52_112
    quiet = asyncio.subprocess.DEVNULL
    rpc = await asyncio.create_subprocess_exec(
        str(bin_dir / "ggml-rpc-server"),
        "-H",
        "127.0.0.1",
        "-p",
        str(rpc_port),
        "-t",
        str(threads),
        stdout=quiet,
        stderr=quiet,
    )
    await asyncio.sleep(1)
    server = await asyncio.create_subprocess_exec(
        str(bin_dir / "llama-server"), "--model", str(model), "--port", str(port), "--rpc", f"127.0.0.1:{rpc_port}",
        "--device", "RPC0", "--gpu-layers", str(layers), "--tensor-split", str(layers), "--fit", "off",
        "--ctx-size", str(CONTEXT_TOKENS), "--parallel", "1", "--threads", str(threads), "--ubatch-size", "512",
        "--jinja", "--cache-ram", "256", env={**os.environ, "OMP_WAIT_POLICY": "passive"}, stdout=quiet, stderr=quiet,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session:
            await until_answers(session, f"{url}/health")
        yield url
    finally:
        for process in (server, rpc):
            process.kill()
            await process.wait()


async def until_answers(session: aiohttp.ClientSession, url: str) -> None:
    until = time.perf_counter() + WITHIN_S
    while time.perf_counter() < until:
        try:
            async with session.get(url) as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError(f"{url} does not answer")


async def own_model(swarm: Stage) -> dict[str, Any]:
    """What the host's view says of its model; {} where it says nothing yet."""
    try:
        view = await swarm.health(swarm.nodes[HOST])
    except (aiohttp.ClientError, TimeoutError):
        return {}
    return next(iter(view.get("own_models", ())), dict[str, Any]())


async def until_ready(swarm: Stage, without: str = "") -> tuple[float, list[str]]:
    """When the host's model was ready over machines without that one, and its machines."""
    until = time.perf_counter() + WITHIN_S
    model: dict[str, Any] = {}
    while time.perf_counter() < until:
        model = await own_model(swarm)
        nodes: list[str] = list(model.get("nodes") or ())
        if model.get("state") == "ready" and nodes and without not in nodes:
            return time.perf_counter(), nodes
        await asyncio.sleep(0.05)
    raise AssertionError(f"not ready: {model}\n{swarm.nodes[HOST].logs()[-3000:]}")


def rpc_server_of(pid: int) -> psutil.Process:
    return next(one for one in psutil.Process(pid).children(recursive=True) if one.name().startswith("ggml-rpc"))


async def lose(swarm: Stage, name: str, way: str) -> None:
    node = swarm.nodes[name]
    match way:
        case "node killed":
            node.kill()
        case "RPC server killed":
            rpc_server_of(node.pid).kill()
        case "frozen":
            for one in (*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)):
                one.suspend()
        case "cut off":
            swarm.cut([name])
        case _:
            await swarm.command(swarm.nodes[HOST], "revoke", name, "--yes")


async def bring_back(swarm: Stage, name: str, way: str, lent: str) -> None:
    node = swarm.nodes[name]
    match way:
        case "frozen":
            for one in (psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)):
                one.resume()
        case "cut off":
            swarm.heal()
        case "node killed":
            node.start()
            await ready_at(node)
            await swarm.command(node, "lend", "on", lent)
        case _:
            pass


async def fault(swarm: Stage, session: aiohttp.ClientSession, model: str, way: str, lent: str) -> dict[str, object]:
    _, nodes = await until_ready(swarm)
    (lender,) = nodes[1:]
    url = f"http://{swarm.machine(HOST).ip}:{PORT}"
    answering = asyncio.create_task(asked(session, url, model, "Tell a very long story. " * 20, 800))
    await asyncio.sleep(1.5)
    began = time.perf_counter()
    losing = asyncio.create_task(lose(swarm, lender, way))
    try:
        await answering
        error = "none: the answer ended well"
    except Ended as ended:
        error = str(ended)
    except (aiohttp.ClientError, IndexError) as ended:
        error = f"{type(ended).__name__}: {ended}"
    ended_s = time.perf_counter() - began
    await losing
    back, after = await until_ready(swarm, lender if way != "RPC server killed" else "")
    await asked(session, url, model, "hello", 4)
    await bring_back(swarm, lender, way, lent)
    return {"way": way, "lender": lender, "ended_s": ended_s, "back_s": back - began, "over": after, "error": error}


def share_elsewhere(path: Path, here_bytes: int, lent_bytes: int) -> int:
    """How many layers the host puts with the lender."""
    machines = [PoolMachine("host", None, here_bytes, None), PoolMachine("lender", "1", lent_bytes, None)]
    _, plan = pooled_load(read_layers(path), AskedLoad(CONTEXT_TOKENS, 1), machines)
    return plan.gpu_layers


async def run(options: argparse.Namespace) -> None:
    build = installed_engines(options.engines, "llama-server")[0].build()
    assert build.program is not None
    common = ("--federation", "--engines-dir", str(options.engines))
    members = {
        HOST: (
            *common, "--engine", "llama-server", "--model", str(options.model), "--pool", "--memory", options.here,
            "--context", str(CONTEXT_TOKENS), "--workers", "1",
        ),
        **dict.fromkeys(LENDERS, (*common, "--model", "demo")),
    }  # fmt: skip
    timeout = aiohttp.ClientTimeout(total=None, sock_read=WITHIN_S)
    async with (
        stage(members) as swarm,
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        first, *others = swarm.nodes.values()
        for node in others:
            await swarm.command(node, "join", str((await swarm.command(first, "invite"))["code"]))
            await swarm.command(node, "lend", "on", options.lent)
        _, nodes = await until_ready(swarm)
        print(f"ready over {' + '.join(nodes)}", flush=True)
        model = str((await own_model(swarm))["id"])
        url = f"http://{swarm.machine(HOST).ip}:{PORT}"
        elsewhere = share_elsewhere(options.model, bytes_of(options.here), bytes_of(options.lent))
        if options.pairs:
            async with plain_rpc(build.program.parent, options.model, elsewhere, 1) as plain:
                await pairs(session, (url, model), (plain, "plain"), options.pairs)
        for way in options.ways or WAYS:
            found = await fault(swarm, session, model, way, options.lent)
            print(json.dumps(found), flush=True)


async def pairs(session: aiohttp.ClientSession, pooled: tuple[str, str], plain: tuple[str, str], count: int) -> None:
    """Both asked alternately, each first every other time."""
    decode: dict[str, list[float]] = {"pooled": [], "plain": []}
    prefill: dict[str, list[float]] = {"pooled": [], "plain": []}
    for number in range(-1, count):
        ways = [("pooled", pooled), ("plain", plain)]
        texts: set[str] = set()
        for name, (url, model) in ways if number % 2 else reversed(ways):
            answer = await asked(session, url, model, f"Tell me a story about number {number}.", ANSWER_TOKENS)
            read = await asked(session, url, model, prompt(number), 2)
            texts.add(answer.text)
            if number >= 0:  # the first of each is a rehearsal
                decode[name].append(answer.decode_per_s)
                prefill[name].append(read.prefill_per_s)
        assert len(texts) == 1, f"the two do not say the same: {texts}"
    for what, found in (("decode", decode), ("prefill", prefill)):
        ours, theirs = (statistics.median(found[name]) for name in ("pooled", "plain"))
        ratio = statistics.median(a / b for a, b in zip(found["pooled"], found["plain"], strict=True))
        rates = f"{ours:.1f} pooled, {theirs:.1f} plain tokens/s"
        print(f"{what}: {rates}; median of {count} pairs {ratio:.3f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--engines", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--here", default="620M", metavar="SIZE")
    parser.add_argument("--lent", default="300M", metavar="SIZE")
    parser.add_argument("--ways", action="append", choices=WAYS)
    asyncio.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
