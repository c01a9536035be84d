"""Clients that never stop asking, and the history of what each of them was told."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from openai import APIError, AsyncOpenAI, DefaultAsyncHttpxClient

from federation.tasks import cancel_and_wait
from tests.e2e.asking import rambling

LOOK_S: Final = 0.5  # how often the balancer asks each node whether it is ready
LOOK_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 30.0
BETWEEN_S: Final = 0.05  # a client's thought between two questions: its connection is idle meanwhile
LONG_TOKENS: Final = 150  # most of a second, so that a stop signal meets some of them in the middle

SHORT, LONG = "What is the capital of France?", "Tell me about the sea."
SINGLE: Final[dict[str, Any]] = {"strategy": "single"}
VOTES: Final = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """How one thing is asked: by whom it is answered, and whether its answer is streamed."""

    question: str
    streamed: bool
    voted: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return {"votes": VOTES} if self.voted else SINGLE


MIXED: Final[Sequence[Kind]] = (
    Kind(SHORT, False), Kind(LONG, True), Kind(SHORT, False, True), Kind(SHORT, True), Kind(LONG, False),
    Kind(SHORT, True, True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """The end of one request: the text, or what went wrong."""

    url: str
    kind: Kind
    began: float
    ended: float
    text: str | None = None
    error: str | None = None


def is_right(kind: Kind, text: str, reference: dict[str, str]) -> bool:
    """To the letter, except where voters take other words each time."""
    return "Paris" in text if kind.voted else text == reference[kind.question]


@dataclass(slots=True)
class History:
    """Everything that the clients were told."""

    told: list[Told] = field(default_factory=list[Told])

    @property
    def failed(self) -> list[Told]:
        return [told for told in self.told if told.error is not None]

    @property
    def errors(self) -> list[str]:
        return [f"{told.url} {told.kind}: {told.error}" for told in self.failed]

    def wrong(self, reference: dict[str, str]) -> list[Told]:
        """Answers said to be complete that are not what was asked for."""
        return [told for told in self.told if told.text is not None and not is_right(told.kind, told.text, reference)]

    @property
    def asked(self) -> Counter[str]:
        """Requests by where they went."""
        return Counter(told.url for told in self.told)


class Balancer:
    """Knows which nodes said at its last look that they are ready; between two looks it may be wrong."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._ready = list(urls)
        self._urls = tuple(urls)
        self._turn = itertools.count()

    def pick(self) -> str:
        return self._ready[next(self._turn) % len(self._ready)]

    async def watch(self) -> None:
        timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def is_ready(url: str) -> bool:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{url}/readyz") as response:
                        return response.status == 200
                return False

            while True:
                found = await asyncio.gather(*map(is_ready, self._urls))
                self._ready = [url for url, ready in zip(self._urls, found, strict=True) if ready] or self._ready
                await asyncio.sleep(LOOK_S)


async def body_of(kind: Kind) -> dict[str, Any]:
    """A request whose answer is the same whoever gives it: the likeliest tokens, of the long one a fixed number."""
    asked = {"model": "demo", "messages": [{"role": "user", "content": kind.question}]}
    fixed: dict[str, Any] = {**asked, "temperature": 0, "extra_body": {"swarm": kind.options}}
    if kind.question == SHORT:
        return fixed
    bias = (await asyncio.to_thread(rambling))["logit_bias"]
    return {**fixed, "max_tokens": LONG_TOKENS, "logit_bias": bias}


def sdk_client(url: str, retries: int) -> AsyncOpenAI:
    """The official client with connections of its own, kept alive as it does by itself."""
    plain = DefaultAsyncHttpxClient(verify=False)  # each would read the system's certificates, a tenth of a second
    return AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=retries, timeout=ANSWER_TIMEOUT_S, http_client=plain
    )


async def answer_of(client: AsyncOpenAI, kind: Kind) -> str:
    """The text, which ended properly. Raises APIError, and EOFError for a stream that ends without saying so."""
    body = await body_of(kind)
    if not kind.streamed:
        completion = await client.chat.completions.create(**body)
        return completion.choices[0].message.content or ""
    text, finished = "", False
    async with await client.chat.completions.create(stream=True, **body) as chunks:
        async for chunk in chunks:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finished = finished or choice.finish_reason is not None
    if not finished:
        raise EOFError("the stream ended without a finish_reason")
    return text


async def keep_asking(pick: Callable[[], str], history: History, retries: int, kinds: Iterator[Kind]) -> None:
    """One client with connections of its own, kept alive. `retries` are the SDK's."""
    async with AsyncExitStack() as stack:
        clients: dict[str, AsyncOpenAI] = {}
        while True:
            url = pick()
            if url not in clients:
                clients[url] = await stack.enter_async_context(sdk_client(url, retries))
            kind = next(kinds)
            began = time.monotonic()
            text = error = None
            try:
                text = await answer_of(clients[url], kind)
            except (APIError, EOFError) as failure:
                error = f"{type(failure).__name__}: {failure} ({failure.__cause__!r})"
            history.told.append(Told(url, kind, began, time.monotonic(), text, error))
            await asyncio.sleep(BETWEEN_S)


@asynccontextmanager
async def load(
    clients: int, pick: Callable[[], str], retries: int = 0, kinds: Sequence[Kind] = MIXED
) -> AsyncGenerator[History]:
    """`clients` ask one of `kinds` after the other until the block ends; they finish what they began."""
    history = History()
    asking = itertools.cycle(kinds)
    stopping = False

    def pick_until_stopped() -> str:
        if stopping:
            raise StopAsking
        return pick()

    async def one() -> None:
        with suppress(StopAsking):
            await keep_asking(pick_until_stopped, history, retries, asking)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(one())
        try:
            yield history
        finally:
            stopping = True


class StopAsking(Exception):
    """The load is over."""


async def watched(balancer: Balancer, work: Awaitable[None]) -> None:
    """Do `work` while the balancer looks who is ready."""
    watching = asyncio.create_task(balancer.watch())
    try:
        await work
    finally:
        await cancel_and_wait(watching)
