"""The load generator: a client so thin that it costs the server under test next to nothing.

No HTTP library: one socket a request, bytes kept as they come with the instant of each read, everything parsed after
the clock has stopped.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

Json = dict[str, Any]

CONTENT = re.compile(rb'"content":"[^"]')  # a delta that says something: the opening one has null or ""
CHAT = "/v1/chat/completions"
ANSWER_TIMEOUT_S = 600.0
SPECIAL_TEXT = "<|endoftext|><|im_start|><|im_end|><tool_call></tool_call><tool_response></tool_response>"
NEVER = -100.0  # OpenAI's bias for a token that must not come
TEMPERATURE = 0.8  # as most clients sample
SEED_BITS = 30  # of a seed that every engine takes
PROMPT_DIGITS = 32  # a token each in the Qwen family's tokenizer, so every prompt has the same length


class RunError(RuntimeError):
    """The run cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server to ask: where it listens and its key, if it wants one."""

    host: str
    port: int
    key: str | None = None

    @classmethod
    def at(cls, url: str, key: str | None = None) -> Self:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise RunError(f"{url!r} is no http://HOST:PORT")
        return cls(parts.hostname, parts.port, key)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, raw. Instants are `time.perf_counter()`; `first_content` is None for a body without one."""

    sent: float
    first_content: float | None
    last: float
    raw: bytes


@dataclass(frozen=True, slots=True)
class Streamed:
    """One streamed answer, checked and counted."""

    sent: float
    first_content: float
    last: float
    prompt_tokens: int
    completion_tokens: int


class Exchange(asyncio.Protocol):
    """One request on one connection, which the server closes."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[tuple[float, bytes]] = []  # as they were read, and when
        self._tail = b""
        self._first_content: float | None = None
        self._last = 0.0
        self.sent = 0.0
        self.spoken = asyncio.Event()
        self.begun = asyncio.Event()
        self.done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._last = time.perf_counter()
        self.spoken.set()
        self.pieces.append((self._last, data))
        if self._first_content is None:
            self._tail = self._tail[-16:] + data
            if CONTENT.search(self._tail):
                self._first_content = self._last
                self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.begun.set()  # whoever waits for content finds out why there is none
        if self.done.done():
            return
        if exc is not None:
            self.done.set_exception(exc)
        else:
            raw = b"".join(piece for _, piece in self.pieces)
            self.done.set_result(Reply(self.sent, self._first_content, self._last, raw))


def _exchange(endpoint: Endpoint, path: str, body: Json) -> Exchange:
    payload = json.dumps(body).encode()
    key = f"Authorization: Bearer {endpoint.key}\r\n" if endpoint.key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {endpoint.host}:{endpoint.port}\r\n{key}Content-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    return Exchange(head.encode() + payload)


@asynccontextmanager
async def opened(endpoint: Endpoint, path: str, body: Json) -> AsyncGenerator[Exchange]:
    """`body` sent on a connection of its own, which is closed with the block; the clock starts before it is opened."""
    exchange = _exchange(endpoint, path, body)
    exchange.sent = time.perf_counter()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: exchange, endpoint.host, endpoint.port)
    try:
        yield exchange
    finally:
        transport.close()


async def post(endpoint: Endpoint, path: str, body: Json) -> Reply:
    """The whole reply to `body`."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S), opened(endpoint, path, body) as exchange:
        return await exchange.done


def body_of(reply: Reply) -> bytes:
    """The body of a 200. Raises RunError with what the server said instead."""
    head, _, body = reply.raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined(body)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RunError(f"the server answered {head[:40]!r}: {body[:400].decode(errors='replace')}")
    return body


def _joined(chunked: bytes) -> bytes:
    """A chunked body without its framing."""
    parts: list[bytes] = []
    at = 0
    while (end := chunked.find(b"\r\n", at)) >= 0 and (size := int(chunked[at:end], 16)):
        parts.append(chunked[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


def read_stream(reply: Reply, expected_tokens: int) -> Streamed:
    """A streamed answer's counts. Raises RunError if it is not whole or not exactly `expected_tokens` long."""
    lines = [line[6:] for line in body_of(reply).split(b"\n") if line.startswith(b"data: ")]
    if not lines or lines[-1].strip() != b"[DONE]":
        raise RunError(f"a stream broke off: {lines[-1][:200] if lines else 'nothing came'!r}")
    usage = next((u for line in reversed(lines[:-1]) if (u := json.loads(line).get("usage"))), None)
    if usage is None or usage["completion_tokens"] != expected_tokens:
        raise RunError(f"asked for {expected_tokens} tokens exactly, usage is {usage}")
    if reply.first_content is None:
        raise RunError("a stream without any content")
    return Streamed(reply.sent, reply.first_content, reply.last, usage["prompt_tokens"], usage["completion_tokens"])


def streams(endpoint: Endpoint, bodies: Sequence[Json]) -> list[Streamed]:
    """All `bodies` asked at once, each streamed to its end."""

    async def together() -> list[Reply]:
        return await asyncio.gather(*(post(endpoint, CHAT, body) for body in bodies))

    replies = asyncio.run(together())
    return [read_stream(reply, body["max_tokens"]) for reply, body in zip(replies, bodies, strict=True)]


def beside(
    endpoint: Endpoint, running: Sequence[Json], probes: Sequence[Json], pauses_s: Sequence[float]
) -> list[Streamed]:
    """`probes` streamed one after the other while all of `running` are generated; those are broken off at the end.

    A pause before each probe keeps them from always arriving right after an engine's step.
    """

    async def one_by_one() -> list[Reply]:
        async with AsyncExitStack() as stack:
            others = [await stack.enter_async_context(opened(endpoint, CHAT, body)) for body in running]
            for other in others:
                await other.begun.wait()
            replies: list[Reply] = []
            for body, pause_s in zip(probes, pauses_s, strict=True):
                await asyncio.sleep(pause_s)
                replies.append(await post(endpoint, CHAT, body))
            if any(other.done.done() for other in others):
                raise RunError("a stream in the background ended before the probes did")
            return replies

    replies = asyncio.run(one_by_one())
    return [read_stream(reply, body["max_tokens"]) for reply, body in zip(replies, probes, strict=True)]


def whole(endpoint: Endpoint, body: Json) -> tuple[float, Json]:
    """Seconds until the last byte of one whole answer, and the answer."""
    reply = asyncio.run(post(endpoint, CHAT, body))
    return reply.last - reply.sent, json.loads(body_of(reply))


def fresh_prompt(dice: random.Random, digits_count: int = PROMPT_DIGITS) -> list[dict[str, str]]:
    """A conversation that no prompt cache has seen, of always the same number of tokens."""
    digits = "".join(dice.choices("0123456789", k=digits_count))
    return [{"role": "user", "content": f"{digits} tell a story about these digits"}]


def exact_answer(
    model: str, dice: random.Random, bias: dict[str, float], tokens: int, digits: int = PROMPT_DIGITS
) -> Json:
    """A request to `model` that no cache has seen, whose answer is exactly `tokens` long under that `bias`."""
    return {
        "model": model,
        "messages": fresh_prompt(dice, digits),
        "max_tokens": tokens,
        "temperature": TEMPERATURE,
        "seed": dice.getrandbits(SEED_BITS),
        "logit_bias": bias,
    }


def asking_for_a_number(body: Json) -> Json:
    """The same request, and that it wants a number: one of those that `auto` votes on."""
    first = {"role": "system", "content": "Reply with only a number."}
    return body | {"messages": [first, *body["messages"]]}


def special_tokens(engine: Endpoint) -> dict[str, float]:
    """A `logit_bias` without which random weights would now and then end an answer, or begin a tool call."""
    reply = asyncio.run(post(engine, "/tokenize", {"content": SPECIAL_TEXT, "parse_special": True}))
    return {str(token): NEVER for token in json.loads(body_of(reply))["tokens"]}
