"""Clients of a node under test. They keep no connection open, so that a test that ends leaves nothing behind."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import anthropic
from openai import AsyncOpenAI, DefaultAsyncHttpxClient


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. `json` is its parsed body; `chunks` those of an event stream, `done` whether it said so."""

    status: int
    headers: Mapping[str, str]
    text: str
    chunks: list[Any] = field(default_factory=list)
    comments: int = 0
    done: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> Any:
        return self.json["error"]

    def said(self, choice: int = 0) -> str:
        """The text that a stream's chunks add up to."""
        deltas = (c["delta"] for chunk in self.chunks for c in chunk.get("choices", ()) if c["index"] == choice)
        return "".join(delta.get("content") or "" for delta in deltas)


class Client:
    """Plain HTTP, for what no SDK would send."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def post(self, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str) -> Reply:
        data = io.BytesIO(json.dumps(body).encode() if raw is None else raw)  # aiohttp warns of large plain bytes
        sent = {"Content-Type": "application/json", **named(headers)}
        async with self._session.post(self._url + path, data=data, headers=sent) as response:
            return await read_reply(response)

    async def get(self, path: str, **headers: str) -> Reply:
        async with self._session.get(self._url + path, headers=named(headers)) as response:
            return await read_reply(response)

    async def chat(self, text: str = "hello", **fields: Any) -> Reply:
        return await self.post("/v1/chat/completions", chat_body(text, **fields))

    @asynccontextmanager
    async def open(self, path: str, body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body is read (or left) by the test."""
        async with self._session.post(self._url + path, json=body) as response:
            yield response


def named(headers: dict[str, str]) -> dict[str, str]:
    """Headers given as keyword arguments."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def chat_body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "swarm", "messages": [{"role": "user", "content": text}], **fields}


async def read_reply(response: aiohttp.ClientResponse) -> Reply:
    text = await response.text()
    headers = response.headers
    if "event-stream" not in headers.get("Content-Type", ""):
        return Reply(response.status, headers, text)
    events = [event for event in text.split("\n\n") if event]
    data = [event.removeprefix("data: ") for event in events if event.startswith("data: ")]
    chunks = [json.loads(event) for event in data if event != "[DONE]"]
    comments = sum(event.startswith(":") for event in events)
    return Reply(response.status, headers, text, chunks, comments, done=data[-1:] == ["[DONE]"])


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0)) as session:
        yield Client(session, url)


def openai_client(url: str, **options: Any) -> AsyncOpenAI:
    plain = DefaultAsyncHttpxClient(verify=False)  # without it each client would read the system's certificates
    return AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", http_client=plain, default_headers={"Connection": "close"}, **options
    )


def anthropic_client(url: str, **options: Any) -> anthropic.AsyncAnthropic:
    plain = anthropic.DefaultAsyncHttpxClient(verify=False)
    return anthropic.AsyncAnthropic(
        base_url=url, api_key="none", http_client=plain, default_headers={"Connection": "close"}, **options
    )
