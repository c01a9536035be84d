"""Ways to an MCP server of others: a process in the sandbox that reads and writes lines, or HTTP.

What a server sends is bounded here: how long a message is, how many come that nobody asked for, how many it may leave
unread. One that goes beyond is left, which for a process means that it is ended with all that it started.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from federation.peer_response import LineSplitter, LineTooLong
from federation.printable_text import clean_line
from federation.tasks import cancel_and_wait
from swarm.environment import proxy_for
from swarm.generation import JsonObject
from swarm.tools.mcp_messages import (
    MAX_MESSAGE_BYTES,
    EventSplitter,
    McpProblem,
    ServerAnswer,
    ServerError,
    ServerMessage,
    ServerRequest,
    answer_to,
    cancel_message,
    headers_of,
    notification_message,
    params_in,
    read_message,
    request_message,
)
from swarm.tools.mcp_servers import McpServerSettings
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.sandbox import CommandLimits, Sandbox
from swarm.tools.sandboxed_process import opened_confinement, sandboxed

if TYPE_CHECKING:
    import aiohttp

READ_AT_ONCE_BYTES: Final = 1 << 18
ON_LOOP_MESSAGE_BYTES: Final = 1 << 16  # what is parsed beside the event loop is larger
MAX_UNREAD_BYTES: Final = 16 << 20  # that a server has been sent and has not taken
UNASKED_WITHIN_S: Final = 10.0
MAX_UNASKED: Final = 10_000  # messages in so many seconds that answer nothing
MAX_NO_MESSAGES: Final = 1000  # lines that are none: some servers write a greeting there
LAST_WORDS_S: Final = 2.0  # from the end of its output to that of everything else
NOT_FOUND_CODES: Final = (126, 127)  # of a shell: it cannot be executed, or is not there
MAX_LAST_WORDS: Final = 300  # characters of what a process wrote last
SERVER_LIMITS: Final = CommandLimits(cpu_s=None)
LEAVING_S: Final = 2.0  # that a server over HTTP is given to hear that its session is over
CONNECT_S: Final = 10.0
SESSION: Final = "Mcp-Session-Id"


class McpConnection(Protocol):
    """One connection. `broken` is done with the reason once nothing can be asked any more; it completes "it ...".

    `on_change` is called when the server says that its tools have changed. `hangs_apart`: a request that is not
    answered says nothing of the others.
    """

    broken: asyncio.Future[str]
    on_change: Callable[[], None]
    hangs_apart: bool

    async def ask(
        self, method: str, params: JsonObject, revision: str | None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        """The result. Cancelling it tells the server. Raises ServerError as it answers one, McpProblem where it does
        not keep the protocol or is gone."""
        ...

    async def tell(self, method: str, revision: str) -> None:
        """What no answer is owed to."""
        ...


# A process


class ProcessConnection:
    """A server that is a process: one message a line, on its input and its output."""

    hangs_apart = False

    def __init__(self, process: asyncio.subprocess.Process, clock: Callable[[], float] = time.monotonic) -> None:
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_change: Callable[[], None] = lambda: None
        self._process = process
        self._clock = clock
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._no_messages = 0
        self._unasked: deque[float] = deque(maxlen=MAX_UNASKED)
        self._last_words = ""
        self._heard_all = asyncio.Event()

    async def ask(
        self, method: str, params: JsonObject, revision: str | None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        del headers
        request_id = next(self._ids)
        answer = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        try:
            self._write(request_message(request_id, method, params_in(revision or "", params)))
            return await answer
        except asyncio.CancelledError:
            with suppress(McpProblem):
                self._write(cancel_message(request_id))
            raise
        finally:
            self._waiting.pop(request_id, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # it was seen, also where it came with the cancellation

    async def tell(self, method: str, revision: str) -> None:
        del revision
        self._write(notification_message(method))

    def _write(self, message: JsonObject) -> None:
        if self.broken.done():
            raise McpProblem(self.broken.result())
        writer = self._process.stdin
        if writer is None or writer.is_closing():
            return  # why it is gone, the end of its output shows
        if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.give_up("does not read what it is sent")
            raise McpProblem("does not read what it is sent")
        writer.write(json.dumps(message).encode() + b"\n")

    def give_up(self, reason: str) -> None:
        """Nothing can be asked any more."""
        if not self.broken.done():
            self.broken.set_result(reason)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(McpProblem(self.broken.result()))

    async def read(self) -> None:
        """Take what the server says, until it says no more or too much."""
        output, splitter = self._process.stdout, LineSplitter(MAX_MESSAGE_BYTES)
        assert output is not None
        try:
            while piece := await output.read(READ_AT_ONCE_BYTES):
                for line in splitter.feed(piece):
                    await self._take_line(line)
                await asyncio.sleep(0)  # whoever writes all the time is no reason for others to wait
        except LineTooLong:
            self.give_up(f"sent a message of more than {MAX_MESSAGE_BYTES >> 20} MiB")
            return
        except McpProblem as problem:
            self.give_up(str(problem))
            return
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                how = f"ended with exit code {(code := await self._process.wait())}"
                if code in NOT_FOUND_CODES:
                    how += " (in the sandbox there are the system's folders, its root, and its `folders`)"
                await self._heard_all.wait()
        except TimeoutError:
            how = "closed its output"
        self.give_up(how + self.said())

    async def read_errors(self) -> None:
        """Keep the last line of what the server writes for people."""
        errors = self._process.stderr
        while errors is not None and (piece := await errors.read(READ_AT_ONCE_BYTES)):
            self._heard(piece)
            await asyncio.sleep(0)
        self._heard_all.set()

    def said(self) -> str:
        """The last that it wrote and that is no message, to stand after what went wrong."""
        return f"; the last that it wrote is: {self._last_words}" if self._last_words else ""

    def _heard(self, piece: bytes) -> None:
        for line in reversed(piece[-2048:].splitlines()):
            if words := clean_line(line[: 2 * MAX_LAST_WORDS].decode(errors="replace")):
                self._last_words = words[:MAX_LAST_WORDS]
                return

    async def _take_line(self, line: bytes) -> None:
        try:
            if len(line) > ON_LOOP_MESSAGE_BYTES:
                messages = await asyncio.to_thread(read_message, line)
            else:
                messages = read_message(line)
        except McpProblem as problem:
            self._heard(line)
            self._no_messages += 1
            if self._no_messages > MAX_NO_MESSAGES:
                raise McpProblem(f"{problem}, and more of that kind") from problem
            return
        for message in messages:
            self._take(message)

    def _take(self, message: ServerMessage) -> None:
        if isinstance(message, ServerAnswer):
            answer = self._waiting.get(message.id) if isinstance(message.id, int) else None
            if answer is not None and not answer.done():
                if isinstance(message.result, ServerError):
                    answer.set_exception(message.result)
                else:
                    answer.set_result(message.result)
                return
        now = self._clock()
        if len(self._unasked) == MAX_UNASKED and now - self._unasked[0] < UNASKED_WITHIN_S:
            raise McpProblem("sends more than anybody asked for")
        self._unasked.append(now)
        if isinstance(message, ServerRequest):
            if message.method == "notifications/tools/list_changed":
                self.on_change()
            elif (reply := answer_to(message)) is not None:
                self._write(reply)


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """Where the processes of servers run: in `sandbox`, below `root`; without one in an empty folder.

    `writable`: they may change what is below the root. A /tmp of its own each has in any case.
    """

    sandbox: Sandbox
    root: Path | None = None
    writable: bool = False


@asynccontextmanager
async def process_connection(server: McpServerSettings, place: ServerPlace) -> AsyncGenerator[McpConnection]:
    """A server's process while it is connected to; leaving ends it with all that it started. Raises ToolFailure."""
    with ExitStack() as held:
        root = place.root
        if root is None:
            root = Path(held.enter_context(TemporaryDirectory(prefix="swarm-mcp-", ignore_cleanup_errors=True)))
        opened = held.enter_context(ExitStack())
        confinement = opened.enter_context(
            opened_confinement(
                RootedFiles(root),
                writable=place.writable and place.root is not None,
                network=server.network,
                limits=SERVER_LIMITS,
                environment=dict(server.env),
                talks=True,
                by_name=not place.sandbox.takes_descriptors,
            )
        )
        confinement = replace(confinement, shown=server.folders)
        async with sandboxed(place.sandbox, confinement, server.command) as running:
            opened.close()  # it has them, and runs as long as the node
            connection = ProcessConnection(running.process)
            reading = asyncio.create_task(connection.read(), name="MCP server's messages")
            hearing = asyncio.create_task(connection.read_errors(), name="MCP server's errors")
            try:
                yield connection
            finally:
                await cancel_and_wait(reading, hearing)
                connection.give_up("was left")


# HTTP


class HttpConnection:
    """A server behind a URL: each message is a request, answered at once or by events."""

    hangs_apart = True

    def __init__(self, session: aiohttp.ClientSession, url: str, proxy: str | None) -> None:
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_change: Callable[[], None] = lambda: None
        self._session = session
        self._url = url
        self._proxy = proxy
        self._ids = itertools.count(1)
        self._session_id: str | None = None

    async def ask(
        self, method: str, params: JsonObject, revision: str | None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        request_id = next(self._ids)
        message = request_message(request_id, method, params_in(revision or "", params))
        sent = {**headers_of(revision, method, params), **(headers or {})}
        async with self._posted(message, sent) as response:
            if response.status == 404 and self._session_id is not None:
                self._give_up("has ended its session")
                raise McpProblem("has ended its session")
            if method == "initialize":
                self._session_id = response.headers.get(SESSION)
            answer = await self._answer(response, request_id, revision)
        if isinstance(answer.result, ServerError):
            raise answer.result
        return answer.result

    async def tell(self, method: str, revision: str) -> None:
        async with self._posted(notification_message(method), headers_of(revision, method, {})):
            pass  # whether it was taken, the next request shows

    async def leave(self, revision: str | None) -> None:
        """Tell the server that its session is over, where it has one."""
        if self._session_id is None:
            return
        import aiohttp

        headers = {SESSION: self._session_id, **headers_of(revision, "", {})}
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(LEAVING_S), self._session.delete(self._url, headers=headers, proxy=self._proxy):
                pass

    def _give_up(self, reason: str) -> None:
        if not self.broken.done():
            self.broken.set_result(reason)

    @asynccontextmanager
    async def _posted(self, message: JsonObject, headers: Mapping[str, str]) -> AsyncGenerator[aiohttp.ClientResponse]:
        import aiohttp

        own = {} if self._session_id is None else {SESSION: self._session_id}
        sent = {**headers, **own, "Content-Type": "application/json"}
        body = json.dumps(message).encode()
        try:
            async with self._session.post(
                self._url, data=body, headers=sent, proxy=self._proxy, allow_redirects=False
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            system = getattr(error, "os_error", error)
            number = system.errno if isinstance(system, OSError) else None
            known = number is not None and number in errno.errorcode
            why = os.strerror(number) if known and number is not None else str(system) or type(error).__name__
            raise McpProblem(f"cannot be asked: {clean_line(str(why))}") from error

    async def _answer(self, response: aiohttp.ClientResponse, request_id: int, revision: str | None) -> ServerAnswer:
        kind = response.content_type
        if 300 <= response.status < 400:
            where = clean_line(response.headers.get("Location", ""))[:200]
            raise McpProblem(f"redirects to {where}, which is not followed: name that as its url")
        if response.status in (401, 403):
            raise McpProblem(f"refuses the key ({response.status}): check its `headers`")
        if kind == "text/event-stream" and response.status == 200:
            return await self._answer_of_events(response, request_id)
        body = await self._whole(response)
        if kind == "application/json":
            with suppress(McpProblem):
                for message in read_message(body):
                    if isinstance(message, ServerAnswer) and message.id in (request_id, None):
                        return message
        if 400 <= response.status < 500:  # of a server that knows no such revision or method
            return ServerAnswer(request_id, ServerError(0, f"HTTP status {response.status}"))
        if response.status != 200:
            raise McpProblem(f"answered with HTTP status {response.status}")
        raise McpProblem(f"answered with what is no message of its protocol ({clean_line(kind)[:60]})")

    async def _answer_of_events(self, response: aiohttp.ClientResponse, request_id: int) -> ServerAnswer:
        splitter, taken = EventSplitter(), 0
        async for piece in response.content.iter_any():
            for data in splitter.feed(piece):
                for message in read_message(data):
                    if isinstance(message, ServerAnswer) and message.id == request_id:
                        return message
                    taken += 1
                    if taken > MAX_UNASKED:
                        raise McpProblem("sends more than anybody asked for")
                    if isinstance(message, ServerRequest) and message.method == "notifications/tools/list_changed":
                        self.on_change()
        raise McpProblem("ended its stream without an answer")

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > MAX_MESSAGE_BYTES:
                raise McpProblem(f"sent a message of more than {MAX_MESSAGE_BYTES >> 20} MiB")
        return bytes(body)


@asynccontextmanager
async def http_connection(server: McpServerSettings, environment: Mapping[str, str]) -> AsyncGenerator[McpConnection]:
    """A server behind a URL, wherever that is: its owner wrote it down. `environment` names proxies."""
    import aiohttp

    from swarm.tools.public_web import is_near, is_numeric, is_public

    assert server.url is not None
    parts = urlsplit(server.url)
    host = parts.hostname or ""
    far = is_public(host) if is_numeric(host) else not is_near(host)
    proxy = proxy_for(parts.netloc, parts.scheme == "https", environment) if far else None
    if proxy is not None and not proxy.url.startswith(("http://", "https://")):
        raise McpProblem(f"would be asked through {proxy.variable}, and only HTTP proxies are used")
    headers = {"Accept": "application/json, text/event-stream", **server.headers}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    async with aiohttp.ClientSession(
        headers=headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), max_line_size=8190
    ) as session:
        connection = HttpConnection(session, server.url, None if proxy is None else proxy.url)
        try:
            yield connection
        finally:
            await connection.leave(None)
