"""The node's end of an engine's process: it is started, asked, and heard, over its standard input and output.

`Connection` numbers calls and finds their answers, and gives each job the events that are its own. It knows no text.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from federation.tasks import cancel_and_wait
from swarm.engines.hosted.generator import Broke, Ended, GeneratorEvent, GeneratorFacts, Job, LoadOrder, Read
from swarm.engines.hosted.wire import HostMessage, error_in, event_in, facts_in, job_message, line_of, order_message
from swarm.engines.llama_cpp.progress import LoopCounts, SilentCall
from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.errors import BadRequest, EngineDied, EngineFailed, SwarmError, Unavailable, UnknownArchitecture

LINE_BYTES = 2**28  # the tokens of 16 MB of text, each a number of some digits
BROKEN: Mapping[str, type[SwarmError]] = {"bad request": BadRequest, "unreadable": EngineFailed, "failed": EngineFailed}


async def start_process(module: str, packages: Path | None) -> asyncio.subprocess.Process:
    """A process of `module`, a generator's; it looks into `packages` before this environment."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "swarm.engines.hosted.host",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
        start_new_session=True,
        env=host_environment(packages),
    )


class Connection:
    """What is under way with one process. `silent` are the calls and jobs that wait for a word of it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._jobs: dict[int, asyncio.Queue[GeneratorEvent | SwarmError]] = {}
        self._unfinished: dict[int, set[int]] = {}  # answers of each job
        self._reader: asyncio.Task[None] | None = None
        self._closed: SwarmError | None = None
        self.silent: set[SilentCall] = set()

    async def load(self, order: LoadOrder, load_limit_s: float) -> GeneratorFacts:
        """Have the model loaded. Raises EngineFailed with the reason and a remedy."""
        with contextlib.suppress(ConnectionError):  # it has ended already, and what it says is nothing
            self._to.write(line_of(order_message(order, load_limit_s)))
            await self._to.drain()
        answer = _object_in(await self._from.readline())
        if "facts" not in answer:
            why = answer.get("error") or f"the engine host ended while loading {order.path}: its log says why"
            kind = UnknownArchitecture if answer.get("unknown_architecture") is True else EngineFailed
            raise kind(str(why))
        self._reader = asyncio.create_task(self._read(), name=f"reader of the engine of {order.path.name}")
        return facts_in(answer)

    async def ask(self, what: str, most_tokens: int = 0, **fields: object) -> Any:
        """The answer to one call; cancelling it lets the process forget it. Raises what it failed with."""
        call = next(self._numbers)
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        try:
            with self._waiting(most_tokens):
                await self._send({"do": what, "call": call, **fields})
                return await answer
        except asyncio.CancelledError:
            self._say({"do": "forget", "call": call})
            raise
        finally:
            del self._calls[call]

    async def loop_counts(self) -> LoopCounts:
        """Asked of the thread that computes, which answers between two steps: not while one lasts."""
        call = next(self._numbers)
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        try:
            await self._send({"do": "steps", "call": call})
            steps, busy = await answer
        finally:
            del self._calls[call]
        return LoopCounts(int(steps), int(busy))

    def new_job(self) -> int:
        """The number of a job to come."""
        return next(self._numbers)

    async def events(self, job: Job) -> AsyncGenerator[GeneratorEvent]:
        """What comes of `job`, until its last answer ended; closing this stops it. Raises what it broke with."""
        arriving = self._jobs[job.id] = asyncio.Queue()
        unfinished = self._unfinished[job.id] = set(range(job.n))
        begun = False
        try:
            await self._send(job_message(job))
            while unfinished:
                with self._waiting(len(job.prompt), begun):
                    event = await arriving.get()
                if isinstance(event, SwarmError):
                    unfinished.clear()
                    raise event
                if isinstance(event, Broke):
                    unfinished.clear()
                    raise BROKEN[event.kind](event.message)
                begun = begun or not isinstance(event, Read)
                if isinstance(event, Ended):
                    unfinished.discard(event.choice)
                yield event
        finally:
            del self._jobs[job.id], self._unfinished[job.id]
            if unfinished:
                self._say({"do": "stop", "job": job.id, "choice": None})

    def stop(self, job: int, choice: int) -> None:
        """Nobody wants this answer of a job in progress any more: nothing of it follows."""
        self._unfinished[job].discard(choice)
        self._say({"do": "stop", "job": job, "choice": choice})

    async def close(self, error: SwarmError) -> None:
        """From now on everything fails with `error`, what is under way, too."""
        self._end(error)
        await cancel_and_wait(self._reader)

    async def _read(self) -> None:
        try:
            while line := await self._from.readline():
                self._hear(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            self._end(EngineFailed(f"the engine sent an unreadable line: {error!r:.200}"))
        self._end(EngineDied("the engine ended over this request"))

    def _hear(self, message: HostMessage) -> None:
        for event in map(event_in, message.get("events", ())):
            arriving = self._jobs.get(event.job)
            if arriving is not None:
                arriving.put_nowait(event)
        answer = self._calls.get(message.get("call", 0))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(error_in(message["error"]))
        else:
            answer.set_result(message["result"])

    def _end(self, error: SwarmError) -> None:
        if self._closed is not None:
            return
        self._closed = error
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(error)
        for arriving in self._jobs.values():
            arriving.put_nowait(error)

    def _say(self, message: HostMessage) -> None:
        if self._closed is None:
            self._to.write(line_of(message))

    async def _send(self, message: HostMessage) -> None:
        if isinstance(self._closed, EngineDied):  # it never had the request, so that this says nothing against it
            raise Unavailable("the engine is gone, and is about to be loaded again: ask again, or another node")
        if self._closed is not None:
            raise self._closed
        self._say(message)
        with contextlib.suppress(ConnectionError):  # the reader sees its end, too
            await self._to.drain()

    @contextmanager
    def _waiting(self, most_tokens: int, begun: bool = False) -> Generator[None]:
        call = SilentCall(most_tokens, begun)
        self.silent.add(call)
        try:
            yield
        finally:
            self.silent.discard(call)


class AnswerSlots:
    """How many answers may run at once. Whoever waits gets theirs in order of arrival, all of them together."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def taken(self, count: int) -> AsyncGenerator[None]:
        turn = asyncio.get_running_loop().create_future()
        entry = (count, turn)
        self._waiting.append(entry)
        self._serve()
        try:
            await turn
            yield
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif not turn.cancelled():
                self._free += count
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, turn = self._waiting.pop(0)
            if turn.cancelled():
                continue
            self._free -= count
            turn.set_result(None)


def _object_in(line: bytes) -> HostMessage:
    try:
        answer: object = json.loads(line)
    except ValueError:
        return {}
    return cast("HostMessage", answer) if isinstance(answer, dict) else {}
