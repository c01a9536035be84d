"""Talking to one peer over HTTP: the only place here that knows aiohttp, and where its errors are translated once."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Final, Self

import aiohttp
from pydantic import JsonValue

from federation import wire
from federation.advertisement import Goodbye, NodeDescription, PeerHint, parse_description, parse_hints, printable
from federation.errors import (
    AdvertisementError,
    PeerProtocolError,
    PeerRefused,
    PeerStatusError,
    PeerTimedOut,
    PeerUnreachable,
    PeerVersionError,
    VersionError,
)
from federation.hostport import Address
from federation.ndjson import LineSplitter, LineTooLong
from federation.timing import Timing

CONNECT_TIMEOUT_S: Final = 1.5  # one lost SYN and a slow round trip; then another replica is the better bet
IDLE_TIMEOUT_S: Final = 5.0  # peers send at least a heartbeat each second: five missed ones are no jitter
MAX_JSON_BYTES: Final = 256 * 1024  # 64 models, their hardware and 256 hints are under 64 KiB
MAX_LINE_BYTES: Final = 8 * 1024 * 1024  # one candidate: 4,096 tokens with 20 logprobs each (1.6 kB a token) fit
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024  # all candidates of one call
_MAX_ERROR_BYTES: Final = 4096  # read of the body of a refusal
_MAX_ERROR_CHARS: Final = 300  # quoted of it
_KEEPALIVE_S: Final = 10.0  # under the 15 s after which a node closes an idle connection; probes come each second
_GONE = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})


class PeerResponse:
    """An answer being received: status and headers are here, the body still flows."""

    def __init__(self, response: aiohttp.ClientResponse, where: str) -> None:
        self._response = response
        self._where = where

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def content_type(self) -> str:
        """The Content-Type header as sent, parameters included; "" where there is none."""
        return self._response.headers.get("Content-Type", "")

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises PeerError when it breaks off or falls silent.

        At most some 128 KiB wait here unread: a slow reader slows the sender.
        """
        with _translated(self._where):
            return await self._response.content.readany()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Every piece of the body."""
        while chunk := await self.read():
            yield chunk

    async def refusal(self) -> PeerStatusError:
        """The error that an answer with an unwanted status amounts to; reads the beginning of its body."""
        with _translated(self._where):
            return await _refusal(self._response, self._where)


class PeerClient:
    """One connection pool for all peers. Use as `async with`; every method raises PeerError and nothing of aiohttp's.

    `node_id` signs each call; `announced` is where this node can be probed itself, told with each `describe`.
    """

    def __init__(self, node_id: str, announced: Address | None = None) -> None:
        self._node_id = node_id
        self._announced = announced
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No connection limit: probes must not queue behind long generations, which routing's admission bounds.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
        self._open = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nothing compressed is asked for, and a bomb must not unpack
            headers={wire.FROM_HEADER: self._node_id, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            await self._open.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            raise RuntimeError("PeerClient is used outside its async with")
        return self._open

    async def describe(self, address: Address, timeout_s: float = Timing.probe_timeout_s) -> NodeDescription:
        """What the node at `address` says about itself; also tells it where this node is."""
        query = {} if self._announced is None else {wire.FROM_PARAM: str(self._announced)}
        raw = await self._get_json(address, wire.NODE_PATH, query, timeout_s)
        with _agreed(address):
            return parse_description(raw)

    async def peers(self, address: Address, timeout_s: float = Timing.probe_timeout_s) -> tuple[PeerHint, ...]:
        """The peers that the node at `address` finds alive."""
        raw = await self._get_json(address, wire.PEERS_PATH, {}, timeout_s)
        with _agreed(address):
            return parse_hints(raw)

    async def goodbye(
        self,
        address: Address,
        node_id: str,
        timeout_s: float = Timing.goodbye_timeout_s,
        instance: str | None = None,
    ) -> None:
        """Tell the node at `address` that `node_id`, in its run `instance`, leaves."""
        body = Goodbye(id=node_id, instance=instance).model_dump_json(exclude_none=True).encode()
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        where = str(address)
        with _translated(where):
            async with self._session.post(
                address.url + wire.GOODBYE_PATH,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise await _refusal(response, where)

    def stream_candidates(
        self, url: str, body: Mapping[str, JsonValue], *, request_id: str, hops: int, deadline_s: float
    ) -> AsyncGenerator[bytes]:
        """The candidates of the node at base URL `url`, one JSON line each: see `stream_lines`."""
        return self.stream_lines(
            url, wire.CANDIDATES_PATH, body, request_id=request_id, hops=hops, deadline_s=deadline_s
        )

    async def stream_lines(
        self, url: str, path: str, body: Mapping[str, JsonValue], *, request_id: str, hops: int, deadline_s: float
    ) -> AsyncGenerator[bytes]:
        """What the node at base URL `url` answers, one JSON line each, as they arrive; heartbeats are swallowed.

        Closing the generator (use `contextlib.aclosing`) cuts the connection, which cancels the work there.
        """
        raw = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        lines = _BoundedLines(url)
        async with self.open_generation(
            url, path, raw, request_id=request_id, hops=hops, deadline_s=deadline_s
        ) as answer:
            if answer.status != 200:
                raise await answer.refusal()
            while chunk := await answer.read():
                for line in lines.feed(chunk):
                    yield line
            if (last := lines.finish()) is not None:
                yield last

    @asynccontextmanager
    async def open_generation(
        self,
        url: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        request_id: str,
        hops: int,
        deadline_s: float,
        idle_s: float | None = IDLE_TIMEOUT_S,
    ) -> AsyncGenerator[PeerResponse]:
        """POST JSON bytes and hand the answer over unread, whatever its status.

        `hops` counts this call and `deadline_s` is what is left of the request's time: both travel along.
        `idle_s` bounds the wait for the headers and between two pieces of the body; None leaves only the deadline.
        Leaving the context before the end cuts the connection, which cancels the work there.
        """
        sent = {
            **(headers or {}),
            "Content-Type": "application/json",
            wire.REQUEST_ID_HEADER: request_id,
            wire.HOPS_HEADER: str(hops),
            wire.DEADLINE_HEADER: str(max(1, int(deadline_s * 1000))),
        }
        timeout = aiohttp.ClientTimeout(total=deadline_s, connect=CONNECT_TIMEOUT_S, sock_read=idle_s)
        with _translated(url):
            response = await self._session.post(
                url + path, data=io.BytesIO(body), headers=sent, timeout=timeout, allow_redirects=False
            )
        try:
            yield PeerResponse(response, url)
        finally:
            response.release()  # an unread rest closes the connection

    async def _get_json(self, address: Address, path: str, query: Mapping[str, str], timeout_s: float) -> bytes:
        """The body of a 200 answer that says it is JSON, at most MAX_JSON_BYTES."""
        where = str(address)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        with _translated(where):
            async with self._session.get(
                address.url + path, params=query, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await _refusal(response, where)
                if response.content_type != "application/json":
                    raise PeerProtocolError(f"{where} answered {printable(response.content_type)[:80]}, not JSON")
                raw = await _read_at_most(response, MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise PeerProtocolError(f"{where} answered more than {MAX_JSON_BYTES} bytes")
        return raw


class _BoundedLines:
    """Lines of one stream, within MAX_LINE_BYTES each and MAX_STREAM_BYTES together; raises PeerProtocolError."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._splitter = LineSplitter(MAX_LINE_BYTES)
        self._left_bytes = MAX_STREAM_BYTES

    def feed(self, chunk: bytes) -> list[bytes]:
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise PeerProtocolError(f"{self._where} sent more than {MAX_STREAM_BYTES} bytes in one stream")
        try:
            return self._splitter.feed(chunk)
        except LineTooLong as error:
            raise PeerProtocolError(f"{self._where} sent rubbish: {error}") from error

    def finish(self) -> bytes | None:
        return self._splitter.finish()


async def _read_at_most(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, or its first `limit_bytes`."""
    parts: list[bytes] = []
    left_bytes = limit_bytes
    while left_bytes > 0 and (part := await response.content.read(left_bytes)):
        parts.append(part)
        left_bytes -= len(part)
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse, where: str) -> PeerStatusError:
    text = printable((await _read_at_most(response, _MAX_ERROR_BYTES)).decode(errors="replace"))
    return PeerStatusError(f"{where} answered {response.status}: {text[:_MAX_ERROR_CHARS]}", response.status)


@contextmanager
def _agreed(address: Address) -> Generator[None]:
    """Answers that parse as JSON and say something else than agreed."""
    try:
        yield
    except VersionError as error:
        raise PeerVersionError(f"{address} {error}") from error
    except AdvertisementError as error:
        raise PeerProtocolError(f"{address} {error}") from error


@contextmanager
def _translated(where: str) -> Generator[None]:
    """aiohttp's errors as ours, most specific first. Wrap single awaits only: never a yield to the caller."""
    try:
        yield
    except TimeoutError as error:
        raise PeerTimedOut(f"{where} did not answer in time") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise PeerUnreachable(f"{where}: no such host name ({error.os_error.strerror})") from error
    except aiohttp.ClientOSError as error:
        if error.errno in _GONE:
            raise PeerRefused(f"nobody listens at {where}") from error
        raise PeerUnreachable(f"no way to {where} ({error.strerror})") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise PeerRefused(f"{where} broke off the connection") from error
    except aiohttp.ClientError as error:
        raise PeerProtocolError(f"{where} does not speak HTTP as agreed ({type(error).__name__})") from error
