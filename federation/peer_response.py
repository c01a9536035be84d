"""What a peer answers over HTTP: read within bounds, and aiohttp's errors translated to `PeerError`, in one place."""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from pydantic import BaseModel, JsonValue, ValidationError

from federation import wire
from federation.errors import (
    AdvertisementError,
    PeerBrokeOff,
    PeerMembersOnly,
    PeerProtocolError,
    PeerRefused,
    PeerStatusError,
    PeerTimedOut,
    PeerUnreachable,
    PeerUntrusted,
    PeerVersionError,
    VersionError,
)
from federation.hostport import Address
from federation.printable_text import printable

NOT_ACCEPTED: Final = "is a member, and does not accept this node as one (any more): it may have to be invited again"

_MAX_ERROR_BYTES: Final = 4096  # read of the body of a refusal
_MAX_ERROR_CHARS: Final = 300  # quoted of it
_MAX_CODE_CHARS: Final = 64
_NO_TLS_SIGNS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")  # OpenSSL's words
_MAX_SHOWN_CHARS: Final = 80  # of what OpenSSL says
_GONE = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What a peer may send, in bytes: more is no answer."""

    line_bytes: int = 8 * 1024 * 1024  # one candidate: 4,096 tokens with 20 logprobs each (1.6 kB a token) fit
    stream_bytes: int = 64 * 1024 * 1024  # all candidates of one call


class PeerResponse:
    """An answer being received: status and headers are here, the body still flows."""

    def __init__(self, response: aiohttp.ClientResponse, where: str, limits: AnswerLimits) -> None:
        self._response = response
        self._where = where
        self._limits = limits

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
        with translated(self._where):
            return await self._response.content.readany()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Every piece of the body. Raises PeerProtocolError where it is longer than any answer."""
        limit_bytes = left_bytes = self._limits.stream_bytes
        while chunk := await self.read():
            left_bytes -= len(chunk)
            if left_bytes < 0:
                raise PeerProtocolError(f"{self._where} sent more than {limit_bytes} bytes in one stream")
            yield chunk

    async def refusal(self) -> PeerStatusError:
        """The error that an answer with an unwanted status amounts to; reads the beginning of its body."""
        with translated(self._where):
            return await refusal_of(self._response, self._where)


class BoundedLines:
    """Lines of one stream, within `limits` each and together; raises PeerProtocolError."""

    def __init__(self, where: str, limits: AnswerLimits) -> None:
        self._where = where
        self._splitter = LineSplitter(limits.line_bytes)
        self._limit_bytes = self._left_bytes = limits.stream_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise PeerProtocolError(f"{self._where} sent more than {self._limit_bytes} bytes in one stream")
        try:
            return self._splitter.feed(chunk)
        except LineTooLong as error:
            raise PeerProtocolError(f"{self._where} sent rubbish: {error}") from error

    def finish(self) -> bytes | None:
        return self._splitter.finish()


class LineTooLong(ValueError):
    """A line exceeded the limit; the stream cannot be read further."""


class LineSplitter:
    """Cuts a stream of bytes into lines and never holds more than one bounded line: feed chunks, get complete lines.

    Blank ones (heartbeats) vanish; where chunks were cut does not matter.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []  # of the unfinished line; joined once, so a slow long line stays linear
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines this chunk completes, without their line ends. Raises LineTooLong."""
        lines: list[bytes] = []
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            self._hold(piece)
            line = self._take()
            if line:
                lines.append(line)
        self._hold(rest)
        return lines

    def finish(self) -> bytes | None:
        """The last line when the stream ended without a line end, else None."""
        return self._take() or None

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes > self._max_line_bytes:
            raise LineTooLong(f"a line is longer than {self._max_line_bytes} bytes")
        if piece:
            self._parts.append(piece)

    def _take(self) -> bytes:
        line = b"".join(self._parts).strip()
        self._parts.clear()
        self._held_bytes = 0
        return line


class _RefusalError(BaseModel):
    message: str
    code: JsonValue = None


class _Refusal(BaseModel):
    """The error object of every node's refusals."""

    error: _RefusalError


async def read_at_most(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, or its first `limit_bytes`."""
    parts: list[bytes] = []
    left_bytes = limit_bytes
    while left_bytes > 0 and (part := await response.content.read(left_bytes)):
        parts.append(part)
        left_bytes -= len(part)
    return b"".join(parts)


async def refusal_of(response: aiohttp.ClientResponse, where: str, *, is_known: bool = True) -> PeerStatusError:
    """The error that it amounts to: a node's in its own words, a stranger's by its status alone.

    Not `is_known`: whoever answers was only named by somebody, so that it is quoted in nothing. What an internal
    service says must not be read from this node's logs and its public view.
    """
    text = (await read_at_most(response, _MAX_ERROR_BYTES)).decode(errors="replace")
    try:
        refusal = _Refusal.model_validate_json(text).error
    except ValidationError:
        return PeerStatusError(f"{where} answers HTTP {response.status}: it is not a node", response.status)
    kind = PeerMembersOnly if response.status == 403 and refusal.code == wire.MEMBERS_ONLY else PeerStatusError
    if not is_known:
        said = (
            ": it belongs to a paired swarm (`swarm invite` there, `swarm join CODE` here)"
            if kind is PeerMembersOnly
            else ""
        )
        return kind(f"{where} answers HTTP {response.status}{said}", response.status)
    said = printable(refusal.message)[:_MAX_ERROR_CHARS]
    code = printable(refusal.code)[:_MAX_CODE_CHARS] if isinstance(refusal.code, str) else None
    return kind(f"{where} answered {response.status}: {said}", response.status, code)


def was_closed_meanwhile(error: aiohttp.ClientError) -> bool:
    """Whether a kept connection ended under a request, before a byte of its answer: a fresh one may do.

    A node closes its connections when it restarts. aiohttp itself repeats only what changes nothing; nor does this.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        return False  # it was a fresh one
    return isinstance(error, aiohttp.ServerDisconnectedError) or getattr(error, "errno", None) in _GONE


@contextmanager
def agreed(address: Address) -> Generator[None]:
    """Answers that parse as JSON and say something else than agreed."""
    try:
        yield
    except VersionError as error:
        raise PeerVersionError(f"{address} {error}") from error
    except AdvertisementError as error:
        raise PeerProtocolError(f"{address} {error}") from error


@contextmanager
def translated(where: str) -> Generator[None]:
    """aiohttp's errors as ours, most specific first. Wrap single awaits only: never a yield to the caller."""
    try:
        yield
    except TimeoutError as error:
        raise PeerTimedOut(f"{where} did not answer in time") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise PeerUnreachable(f"{where}: no such host name ({error.os_error.strerror})") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise PeerUntrusted(f"what answers at {where} is not a member of this paired swarm") from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise PeerUntrusted(f"{where} {why_no_handshake(error)}") from error
    except aiohttp.ClientOSError as error:
        if isinstance(error.__cause__, ssl.SSLError):  # in TLS 1.3 a refused certificate shows at the first read
            raise PeerUntrusted(f"{where} {why_no_handshake(error.__cause__)}") from error
        if isinstance(error, aiohttp.ClientConnectorError) and error.errno in _GONE:
            raise PeerRefused(f"nobody listens at {where}") from error
        if error.errno in _GONE:
            raise PeerBrokeOff(f"{where} broke off the connection") from error
        raise PeerUnreachable(f"no way to {where} ({error.strerror})") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise PeerBrokeOff(f"{where} broke off the connection") from error
    except aiohttp.ClientError as error:
        raise PeerProtocolError(f"{where} does not speak HTTP as agreed ({type(error).__name__})") from error


def why_no_handshake(error: Exception) -> str:
    """What a failed TLS handshake, or its late refusal, means among nodes."""
    words = str(error).upper()
    if any(sign in words for sign in _NO_TLS_SIGNS):
        return "is an open node, or none: this node is paired and talks to members only (`swarm invite` invites it)"
    if "ALERT" in words:
        return NOT_ACCEPTED
    return f"breaks off the TLS handshake ({printable(words)[:_MAX_SHOWN_CHARS]})"
