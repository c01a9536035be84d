"""Clients that ask one node after another kind of question, and write down what happened to them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.faults.checker import MARGIN_S
from tests.faults.history import QUESTIONS, Account, End, Mark, Question

DEADLINE_S: Final = 15.0  # a dead peer is given up after 1.5 s, a silent one after 5: there is time for another
PATIENCE_S: Final = DEADLINE_S + 2 * MARGIN_S
PAUSE_S: Final = 0.15  # between two requests of one client, so that two cores are busy and not swamped
EVENT_END: Final = b"\n\n"


@dataclass(slots=True)
class _Listener:
    """What has come of one answer."""

    pieces: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    marks: list[Mark] = field(default_factory=list[Mark])
    ids: set[str] = field(default_factory=set[str])
    code: str | None = None
    swarm: dict[str, Any] = field(default_factory=dict[str, Any])

    def event(self, raw: bytes) -> None:
        """One event of a stream, heartbeats included."""
        if not raw.startswith(b"data: "):
            return
        data = raw.removeprefix(b"data: ")
        if data == b"[DONE]":
            self._mark(Mark.DONE)
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.code = chunk["error"]["code"]
            self._mark(Mark.ERROR, every_time=True)
            return
        self.ids.add(chunk["id"])
        self.swarm = chunk.get("swarm") or self.swarm
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                self.pieces.append((time.monotonic(), text))
                self._mark(Mark.CONTENT)
            if choice["finish_reason"]:
                self._mark(Mark.FINISH, every_time=True)

    def whole(self, body: dict[str, Any]) -> None:
        """The body of an answer that is no stream."""
        self.pieces.append((time.monotonic(), body["choices"][0]["message"]["content"]))
        self.ids.add(body["id"])
        self.swarm = body["swarm"]

    def _mark(self, mark: Mark, *, every_time: bool = False) -> None:
        if every_time or mark is Mark.DONE or self.marks[-1:] != [mark]:
            self.marks.append(mark)

    @property
    def end(self) -> End:
        """How a stream ended that was received to its end."""
        if Mark.DONE in self.marks:
            return End.COMPLETE
        return End.ERROR if Mark.ERROR in self.marks else End.CUT

    @property
    def winner(self) -> str | None:
        name = self.swarm.get("winner")
        return None if name is None else name.split("@")[-1]

    @property
    def voters(self) -> frozenset[str]:
        counted = (one for one in self.swarm.get("candidates", ()) if one["group"] is not None)
        return frozenset(one["voter"].split("@")[-1] for one in counted)


class Clients:
    """Everything that the clients of one test asked and got."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self._numbers = itertools.count(1)
        self.history: list[Account] = []

    async def ask(
        self,
        node: str,
        question: Question,
        *,
        stream: bool = False,
        strategy: str = "auto",
        model: str = "demo",
        deadline_s: float = DEADLINE_S,
    ) -> Account:
        """One request to the node, whatever becomes of it."""
        number, started_at, heard = next(self._numbers), time.monotonic(), _Listener()
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": 0,
            "max_tokens": question.max_tokens,
            "stream": stream,
            "swarm": {"strategy": strategy, "deadline_s": deadline_s},
        }
        end = await self._end_of(node, body, heard, deadline_s + 2 * MARGIN_S)
        account = Account(
            number=number,
            node=node,
            question=question,
            stream=stream,
            strategy=strategy,
            deadline_s=deadline_s,
            started_at=started_at,
            ended_at=time.monotonic(),
            end=end,
            first_byte_at=heard.pieces[0][0] if heard.pieces else None,
            pieces=tuple(heard.pieces),
            marks=tuple(heard.marks),
            ids=frozenset(heard.ids),
            code=heard.code,
            winner=heard.winner,
            voters=heard.voters,
        )
        self.history.append(account)
        return account

    async def _end_of(self, node: str, body: dict[str, Any], heard: _Listener, patience_s: float) -> End:
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with (
                asyncio.timeout(patience_s),
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{self._urls[node]}/v1/chat/completions", json=body) as response,
            ):
                if response.status != 200:
                    heard.code = (await response.json())["error"]["code"]
                    return End.ERROR
                if not body["stream"]:
                    heard.whole(await response.json())
                    return End.COMPLETE
                async for event in _events(response):
                    heard.event(event)
                return heard.end
        except TimeoutError:
            return End.LATE
        except aiohttp.ClientError:
            return End.CUT if heard.marks else End.NO_ANSWER

    async def keep_asking(self, node: str, stop: asyncio.Event, offset: int) -> None:
        """Ask the node every kind of question in turn, from the `offset`th on, until `stop`."""
        kinds = itertools.islice(itertools.cycle(KINDS), offset % len(KINDS), None)
        while not stop.is_set():
            question, stream, strategy = next(kinds)
            await self.ask(node, question, stream=stream, strategy=strategy)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S):
                    await stop.wait()

    @asynccontextmanager
    async def asking(self, nodes: Sequence[str], each: int) -> AsyncGenerator[None]:
        """`each` clients of each node keep asking while the block runs; what they have begun is finished after it."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for offset, node in enumerate(itertools.chain.from_iterable([nodes] * each)):
                tasks.create_task(self.keep_asking(node, stop, offset))
            try:
                yield
            finally:
                stop.set()


KINDS: Final = tuple(
    (question, stream, strategy)
    for question in QUESTIONS
    for stream in (True, False)
    for strategy in (("single", "auto") if question.votable else ("single",))
)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The events of a stream, without the empty line that ends each."""
    rest = b""
    async for piece in response.content.iter_any():
        *whole, rest = (rest + piece).split(EVENT_END)
        for event in whole:
            yield event


async def reference_answers(clients: Clients, node: str) -> dict[Question, str]:
    """What the embedded model says while all is well. Fails where the same question has two answers."""
    texts: dict[Question, str] = {}
    for question in QUESTIONS:
        for stream in (False, True):
            account = await clients.ask(node, question, stream=stream, strategy="single")
            assert account.end is End.COMPLETE, str(account)
            assert texts.setdefault(question, account.text) == account.text, "it does not repeat itself"
    return texts
