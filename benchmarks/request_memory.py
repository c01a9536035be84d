"""What requests cost in memory, the largest of each kind alone and 64 at once, and how late /livez is meanwhile.

    python -m benchmarks.request_memory [--model PATH] [--context TOKENS] [--at-once N]

A real node and its engine in processes of their own. Peaks are of the resident memory of both, over what they held
warmed up and idle; 30 s after the last request they must be back within 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

BODY_BYTES = 16 * 2**20 - 1000
SAMPLE_S = 0.01
BACK_S = 30.0
SETTLED_S = 11.0  # what one left behind is not counted for the next
MIB = 2**20
CHAT = "/v1/chat/completions"


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}


def schema_of(size: int) -> dict[str, Any]:
    properties = {f"p{i}": {"type": "string", "maxLength": 2000} for i in range(size)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def image(size: int) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}},
    ]
    return {"model": "demo", "messages": [{"role": "user", "content": parts}], "max_tokens": 4}


KINDS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "a chat of 16 MB": (CHAT, lambda: chat("x " * (BODY_BYTES // 2))),
    "a chat of 16 MB with one emoji": (CHAT, lambda: chat("x" * (BODY_BYTES - 20) + "\N{GRINNING FACE}")),
    "a chat of 16 MB in Chinese": (CHAT, lambda: chat("\N{CJK UNIFIED IDEOGRAPH-4E00}" * (BODY_BYTES // 3))),
    "a chat of 7 MB": (CHAT, lambda: chat("word " * (7 * MIB // 5))),
    "a picture of 16 MB": (CHAT, lambda: image(BODY_BYTES - 500)),
    "a call of 16 MB": (
        CHAT,
        lambda: {
            "model": "demo",
            "max_tokens": 4,
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "x" * (BODY_BYTES - 500)}}],
                },
                {"role": "tool", "tool_call_id": "a", "content": "x"},
            ],
        },
    ),
    "a completion of 16 MB": ("/v1/completions", lambda: {"model": "demo", "prompt": "x" * (BODY_BYTES - 500)}),
    "a completion of tokens": ("/v1/completions", lambda: {"model": "demo", "prompt": [1] * 400_000}),
    "an infill of 16 MB": ("/infill", lambda: {"input_prefix": "x" * (BODY_BYTES - 500), "input_suffix": ""}),
    "the largest schema": (CHAT, lambda: chat("x", **schema_of(31))),
    "a schema too large": (CHAT, lambda: chat("x", **schema_of(1000))),
    "a text to tokenize": ("/tokenize", lambda: {"content": "word " * (2**20 // 5)}),
    "a template of 16 MB": ("/apply-template", lambda: chat("x " * (BODY_BYTES // 2 - 100))),
    "an embedding of 16 MB": ("/v1/embeddings", lambda: {"model": "demo", "input": "x" * (BODY_BYTES - 500)}),
    "a message of 16 MB": ("/v1/messages", lambda: chat("x " * (BODY_BYTES // 2 - 100))),
    "a full context": (CHAT, lambda: chat("word " * 900)),
}


PROBE = """
import json, select, sys, time, urllib.request
late_ms = []
while not select.select([sys.stdin], [], [], 0.01)[0]:
    begun = time.perf_counter()
    urllib.request.urlopen(sys.argv[1] + "/livez").read()
    late_ms.append((time.perf_counter() - begun) * 1000)
print(json.dumps(late_ms))
"""  # in a process of its own: whoever sends 16 MB is late, too


WARMING = ("a full context", "the largest schema", "a text to tokenize", "a picture of 16 MB")


@dataclass
class Watch:
    """Memory and /livez of a node, while something happens."""

    url: str
    root: psutil.Process
    peak_bytes: int = 0
    late_ms: list[float] = field(default_factory=list[float])

    def resident_bytes(self) -> int:
        total = 0
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def each_mib(self) -> list[int]:
        """Of the node, and of its engine."""
        return [process.memory_info().rss // MIB for process in [self.root, *self.root.children(recursive=True)]]

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        self.peak_bytes, self.late_ms = 0, []
        prober = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROBE, self.url), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        memory = asyncio.create_task(self._memory())
        try:
            yield
        finally:
            memory.cancel()
            out, _ = await prober.communicate(b"end\n")
            self.late_ms = json.loads(out)

    async def _memory(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, await asyncio.to_thread(self.resident_bytes))
            await asyncio.sleep(SAMPLE_S)

    def lateness(self) -> str:
        ranked = sorted(self.late_ms) or [0.0]
        p99 = ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)]
        return f"/livez p50 {statistics.median(ranked):.0f} p99 {p99:.0f} max {ranked[-1]:.0f} ms"


@asynccontextmanager
async def running(model: str, context: int) -> AsyncGenerator[Watch]:
    with tempfile.TemporaryDirectory() as home:
        command = (sys.executable, "main.py", "--model", model, "--port", "0", "--host", "127.0.0.1")
        process = await asyncio.create_subprocess_exec(
            *command, "--context", str(context), "--workers", "4", "--isolate", "--data-dir", home,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        url = ""
        while not url:
            line = (await process.stdout.readline()).decode()
            if not line:
                raise SystemExit("the node did not start")
            url = next((word.rstrip("/,") for word in line.split() if word.startswith("http://127.0.0.1")), "")
        drained = asyncio.create_task(process.stdout.read())
        try:
            yield Watch(url.removesuffix("/v1"), psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
            await drained


async def ask(session: aiohttp.ClientSession, url: str, path: str, raw: bytes) -> int:
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(url + path, data=raw, headers=headers) as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0


async def main(model: str, context: int, at_once: int) -> None:
    async with running(model, context) as watch, aiohttp.ClientSession() as session:
        bodies = {name: (path, json.dumps(make(), ensure_ascii=False).encode()) for name, (path, make) in KINDS.items()}
        for _ in range(20):  # what is made once is made now
            await ask(session, watch.url, CHAT, json.dumps(chat("Tell me of the sea.", **schema_of(1))).encode())
        for name in WARMING:  # on all workers: what a slot, its grammar and its prompt cache take is the model's
            await asyncio.gather(*(ask(session, watch.url, *bodies[name]) for _ in range(8)))
        await asyncio.sleep(BACK_S / 2)
        idle = watch.resident_bytes()
        print(f"idle, warmed up: {idle / MIB:.0f} MiB")
        for name, (path, raw) in bodies.items():
            async with watch.watching():
                begun = time.perf_counter()
                status = await ask(session, watch.url, path, raw)
                took_s = time.perf_counter() - begun
            over = (watch.peak_bytes - idle) / MIB
            print(f"{name:32} {status} {took_s:5.2f} s  +{over:5.0f} MiB  {watch.lateness()}", flush=True)
            await asyncio.sleep(SETTLED_S)
        await asyncio.sleep(BACK_S)
        print(f"30 s later: {watch.resident_bytes() / idle - 1:+.1%}")
        for title, names in (("16 chats of 16 MB", ["a chat of 16 MB"] * 16), ("all kinds", list(bodies) * at_once)):
            async with watch.watching():
                sent = [bodies[name] for name in names[:at_once]]
                statuses = await asyncio.gather(*(ask(session, watch.url, path, raw) for path, raw in sent))
            count = {status: statuses.count(status) for status in sorted(set(statuses))}
            over = (watch.peak_bytes - idle) / MIB
            print(f"{title:32} {len(sent)} at once {count}  +{over:.0f} MiB  {watch.lateness()}", flush=True)
            await asyncio.sleep(BACK_S)
            print(f"30 s later: {watch.resident_bytes() / idle - 1:+.1%} {watch.each_mib()}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--at-once", type=int, default=64)
    given = parser.parse_args()
    asyncio.run(main(given.model, given.context, given.at_once))
