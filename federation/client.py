"""Asking other nodes over HTTP; with `peer_response.py` the only file of the federation that knows aiohttp.

`PeerClient` has a method for each question. Under it `PeerLink` chooses plain HTTP while this node is open and mutual
TLS once it is paired, and `MemberConnector` is the connection pool of a paired node: it lends connections to members
only, and cuts those of nodes that are members no more.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from weakref import WeakSet

import aiohttp
from pydantic import JsonValue

from federation import wire
from federation.advertisement import (
    MAX_LOADABLE_BYTES,
    Goodbye,
    Loadables,
    NodeDescription,
    PeerHint,
    parse_hints,
    parse_loadable,
)
from federation.errors import (
    PeerBrokeOff,
    PeerProtocolError,
    PeerRefused,
    PeerUntrusted,
    RosterError,
)
from federation.hostport import Address
from federation.identity import NodeIdentity
from federation.peer_response import (
    NOT_ACCEPTED,
    AnswerLimits,
    BoundedLines,
    PeerResponse,
    agreed,
    read_at_most,
    refusal_of,
    translated,
    was_closed_meanwhile,
)
from federation.probing import ProbeAnswer, ProbeQuestion, news_header, read_reply
from federation.roster import MAX_ROSTER_BYTES, Roster, parse_roster
from federation.splice import SplicedEnd
from federation.timing import Timing
from federation.tls import client_context, member_of
from federation.trust import Trust

if TYPE_CHECKING:
    from aiohttp.connector import Connection

CONNECT_TIMEOUT_S: Final = 1.5  # one lost SYN and a slow round trip; then another replica is the better bet
IDLE_TIMEOUT_S: Final = 5.0  # peers send at least a heartbeat each second: five missed ones are no jitter
# Headers come with the first heartbeat, and until then another node can be asked at no loss.
FIRST_SIGN_S: Final = 3.0
SLOWEST_UPLOAD_BYTES_PER_S: Final = 1_000_000  # what a large body adds to that
TELL_LEAVING_S: Final = 3.0  # for each member; whoever leaves waits for it once
TELL_REVOKED_S: Final = 1.0  # whoever revokes waits for this; a node that is off learns it when members refuse it
MAX_JSON_BYTES: Final = 256 * 1024  # 64 models, their hardware and 256 hints are under 64 KiB
KEEPALIVE_S: Final = 10.0  # in an open swarm, where a connection costs next to nothing
MEMBERS_KEEPALIVE_S: Final = 35.0  # longer than between two probes in a full table: a TLS handshake is five probes
_MAX_WORD_BYTES: Final = 4096  # of an answer that nobody reads
_TIMING: Final = Timing()
_log = logging.getLogger(__name__)


class PeerClient:
    """One connection pool for all peers. Use as `async with`; every method raises PeerError and nothing of aiohttp's.

    `node_id` signs each call; `announced` is where this node can be probed itself, reported with each `describe`.
    Without `trust` it is an open node's. URLs are `http://` ones either way: what they become is decided here.
    """

    def __init__(
        self,
        node_id: str,
        announced: Address | None = None,
        trust: Trust | None = None,
        limits: AnswerLimits | None = None,
    ) -> None:
        self._node_id = node_id
        self._announced = announced
        self._trust = trust
        self._limits = limits or AnswerLimits()
        self._open: aiohttp.ClientSession | None = None
        self._link: PeerLink | None = None

    async def __aenter__(self) -> Self:
        self._open = aiohttp.ClientSession(
            connector=self._make_connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nothing compressed is asked for, and a bomb must not unpack
            headers={wire.FROM_HEADER: self._node_id, "Accept-Encoding": "identity"},
            skip_auto_headers=("User-Agent", "Accept"),  # nobody reads them, and probes are most of what is sent
            trace_configs=[_noting_fresh_connections()],
        )
        self._link = PeerLink(self._open, self._trust)
        return self

    def _make_connector(self) -> aiohttp.TCPConnector:
        # No connection limit: probes must not queue behind long generations, which routing's admission bounds.
        if self._trust is None:
            return aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        connector = MemberConnector(self._trust, MEMBERS_KEEPALIVE_S)
        self._trust.subscribe(lambda _: connector.cut_strangers())
        return connector

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            await self._open.close()

    @property
    def _session(self) -> PeerLink:
        if self._link is None:
            raise RuntimeError("PeerClient is used outside its async with")
        return self._link

    async def describe(self, address: Address, timeout_s: float = _TIMING.probe_timeout_s) -> NodeDescription:
        """What the node at `address` says about itself; also reports where this node is."""
        return (await self.probe(address, ProbeQuestion(timeout_s))).description

    async def probe(self, address: Address, question: ProbeQuestion) -> ProbeAnswer:
        """The same, in as few bytes as what is known already allows, with news both ways."""
        query = {wire.FROM_PARAM: str(self._announced)} if self._announced and question.introduces else {}
        headers = {wire.NEWS_HEADER: news_header(question.news)} if question.news else {}
        if question.known is not None and question.known.tag is not None:
            headers["If-None-Match"] = question.known.tag
        with noting_who_answers() as answering:
            try:
                raw, tag = await self._get_as_member(address, question.timeout_s, query, headers, answering)
            except PeerUntrusted:
                if self._trust is not None and answering.node_id is not None:
                    self._trust.refused_by(answering.node_id)
                raise
        with agreed(address):
            answer = read_reply(raw, tag, question.known)
        node_id = answer.description.id
        if answering.node_id not in (None, node_id):
            raise PeerProtocolError(f"{address} calls itself {node_id} and its certificate is another node's")
        if self._trust is not None and self._trust.mode == "paired" and not self._trust.is_member(node_id):
            raise PeerUntrusted(f"{address} is not a member of this swarm")  # it was asked before this node was paired
        if self._trust is not None and answering.node_id is not None:
            self._trust.accepted_by(answering.node_id)
        return answer

    async def _get_as_member(
        self,
        address: Address,
        timeout_s: float,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        answering: AnsweringMember,
    ) -> tuple[bytes | None, str | None]:
        """The raw description. Raises PeerUntrusted where a member closes without a word, as asyncio's servers do."""
        try:
            return await self._get(address, wire.NODE_PATH, timeout_s, query, headers)
        except PeerRefused as error:
            if answering.node_id is None or not isinstance(error.__cause__, aiohttp.ServerDisconnectedError):
                raise
            raise PeerUntrusted(f"{address} {NOT_ACCEPTED}") from error

    async def peers(self, address: Address, timeout_s: float = _TIMING.probe_timeout_s) -> tuple[PeerHint, ...]:
        """The peers that the node at `address` finds alive."""
        raw = await self.get_json(address, wire.PEERS_PATH, timeout_s)
        with agreed(address):
            return parse_hints(raw)

    async def loadable(self, address: Address, timeout_s: float = _TIMING.list_timeout_s) -> Loadables:
        """The models that the node at `address` could load."""
        raw = await self.get_json(address, wire.LOADABLE_PATH, timeout_s, limit_bytes=MAX_LOADABLE_BYTES)
        with agreed(address):
            return parse_loadable(raw)

    async def goodbye(
        self,
        address: Address,
        node_id: str,
        timeout_s: float = _TIMING.goodbye_timeout_s,
        instance: str | None = None,
    ) -> None:
        """Tell the node at `address` that `node_id`, in its run `instance`, leaves."""
        body = Goodbye(id=node_id, instance=instance).model_dump_json(exclude_none=True).encode()
        await self._post(address, wire.GOODBYE_PATH, body, timeout_s, _MAX_WORD_BYTES)

    async def exchange_roster(
        self, address: Address, roster: Roster, timeout_s: float = _TIMING.probe_timeout_s
    ) -> Roster:
        """Tell the member at `address` this node's list of members; the list it has then."""
        where, body = str(address), roster.model_dump_json().encode()
        raw = await self._post(address, wire.ROSTER_PATH, body, timeout_s, MAX_ROSTER_BYTES + 1)
        try:
            return parse_roster(raw)
        except RosterError as error:
            raise PeerProtocolError(f"{where} answered {error}") from error

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
        lines = BoundedLines(url, self._limits)
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
        `idle_s` bounds the wait between two pieces of the body, and for the headers if FIRST_SIGN_S is longer; None
        leaves only the deadline.
        Leaving the context before the end cuts the connection, which cancels the work there.
        A kept connection that breaks off is tried anew once; a fresh one had the request, and raises PeerBrokeOff.
        """
        sent = {
            **(headers or {}),
            "Content-Type": "application/json",
            wire.REQUEST_ID_HEADER: request_id,
            wire.HOPS_HEADER: str(hops),
            wire.DEADLINE_HEADER: str(max(1, int(deadline_s * 1000))),
        }
        first_s = None if idle_s is None else min(idle_s, FIRST_SIGN_S + len(body) / SLOWEST_UPLOAD_BYTES_PER_S)
        timeout = aiohttp.ClientTimeout(total=deadline_s, connect=CONNECT_TIMEOUT_S, sock_read=first_s)
        response = await self._answered(url, path, body, sent, timeout)
        if response.connection is not None and response.connection.protocol is not None:
            response.connection.protocol.read_timeout = idle_s
        try:
            yield PeerResponse(response, url, self._limits)
        finally:
            response.release()  # an unread rest closes the connection

    async def open_upgraded(
        self,
        url: str,
        path: str,
        headers: Mapping[str, str],
        upgrade: str,
        end: SplicedEnd,
        timeout_s: float = FIRST_SIGN_S,
    ) -> None:
        """Give `end` a connection to the node at base URL `url` that is no HTTP any more but `upgrade`.

        It ends by itself where the node is no member any more.
        """
        sent = {**headers, "Connection": "Upgrade", "Upgrade": upgrade}
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=timeout_s)
        response = await self._answered(url, path, b"", sent, timeout)
        try:
            connection = response.connection
            protocol = None if connection is None else connection.protocol
            transport = None if connection is None else connection.transport
            if response.status != 101:
                with translated(url):
                    raise await refusal_of(response, url)
            if connection is None or protocol is None or not isinstance(transport, asyncio.Transport):
                raise PeerBrokeOff(f"{url} broke off the connection")
        except BaseException:
            response.close()
            raise
        protocol.read_timeout = None

        def lost() -> None:
            protocol.connection_lost(None)
            response.close()  # the pool of connections lets go of it

        end.when_lost(lost)
        end.take(transport)

    async def _answered(
        self,
        url: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - its name there
    ) -> aiohttp.ClientResponse:
        """The beginning of an answer to a POST. A kept connection that breaks off is tried anew once."""
        with translated(url):
            way = _Way()
            try:
                return await self._send(url + path, body, headers, timeout, way)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if way.fresh or not was_closed_meanwhile(error):
                    raise
                try:
                    return await self._send(url + path, body, headers, timeout, way)
                except aiohttp.ClientConnectorError:  # it ended in between, perhaps over this very request
                    raise error from None

    def _send(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout, way: _Way
    ) -> Awaitable[aiohttp.ClientResponse]:
        return self._session.post(
            url, data=io.BytesIO(body), headers=headers, timeout=timeout, allow_redirects=False, trace_request_ctx=way
        )

    async def get_json(
        self,
        address: Address,
        path: str,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        limit_bytes: int = MAX_JSON_BYTES,
    ) -> bytes:
        """The body of a 200 answer that says it is JSON, at most `limit_bytes`."""
        raw, _ = await self._get(address, path, timeout_s, query or {}, {}, limit_bytes)
        if raw is None:
            raise PeerProtocolError(f"{address} answered 304 to a question without a condition")
        return raw

    async def _get(
        self,
        address: Address,
        path: str,
        timeout_s: float,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        limit_bytes: int = MAX_JSON_BYTES,
    ) -> tuple[bytes | None, str | None]:
        """The JSON body of a 200 answer, or None for 304, and the ETag."""
        where = str(address)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        with translated(where):
            async with self._session.get(
                address.url + path, params=query, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                tag = response.headers.get("ETag")
                if response.status == 304:
                    return None, tag
                if response.status != 200:
                    raise await refusal_of(response, where, is_known=path != wire.NODE_PATH)
                if response.content_type != "application/json":
                    raise PeerProtocolError(f"{where} answered something else than JSON: it is not a node")
                raw = await read_at_most(response, limit_bytes + 1)
        if len(raw) > limit_bytes:
            raise PeerProtocolError(f"{where} answered more than {limit_bytes} bytes")
        return raw, tag

    async def _post(self, address: Address, path: str, body: bytes, timeout_s: float, limit_bytes: int) -> bytes:
        """The beginning, `limit_bytes` at most, of a 200 answer to a JSON body."""
        where = str(address)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        with translated(where):
            async with self._session.post(
                address.url + path,
                data=io.BytesIO(body),
                headers={"Content-Type": "application/json"},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise await refusal_of(response, where)
                return await read_at_most(response, limit_bytes)

    async def get_range(self, address: Address, path: str, start: int, size_bytes: int, timeout_s: float) -> bytes:
        """`size_bytes` (at least one) of what `path` names, from `start` on; never more, never less."""
        where = str(address)
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S)
        wanted = {"Range": f"bytes={start}-{start + size_bytes - 1}"}
        with translated(where):
            async with self._session.get(
                address.url + path, headers=wanted, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 206:
                    raise await refusal_of(response, where)
                raw = await read_at_most(response, size_bytes + 1)
        if len(raw) != size_bytes:
            raise PeerProtocolError(f"{where} sent {len(raw)} bytes where {size_bytes} were asked for")
        return raw


async def tell_revoked(identity: NodeIdentity, certificate: bytes, places: Iterable[Address], roster: Roster) -> bool:
    """Whether the node with `certificate`, at one of `places`, accepted the list of members that it is no longer on.

    It still accepts this node as a member; this node trusts its certificate for this one call only.
    """
    return await _post_roster(identity, certificate, places, roster, TELL_REVOKED_S, cut_is_heard=False)


async def tell_of_leaving(
    identity: NodeIdentity, certificate: bytes, places: Iterable[Address], roster: Roster
) -> bool:
    """Whether the member with `certificate`, at one of `places`, heard that this node is no longer on the list.

    This node need not be a member any more. It may be cut off before the answer, since it is one no more there, too.
    """
    return await _post_roster(identity, certificate, places, roster, TELL_LEAVING_S, cut_is_heard=True)


async def _post_roster(
    identity: NodeIdentity,
    certificate: bytes,
    places: Iterable[Address],
    roster: Roster,
    timeout_s: float,
    *,
    cut_is_heard: bool,
) -> bool:
    context = await asyncio.to_thread(client_context, identity.pem, [certificate])
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    headers = {wire.FROM_HEADER: identity.node_id, "Content-Type": "application/json"}
    body = roster.model_dump_json()

    async def post(session: aiohttp.ClientSession, address: Address) -> bool:
        url = over_tls(address.url) + wire.ROSTER_PATH
        try:
            async with session.post(url, data=body, headers=headers, ssl=context, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.debug("the list of members did not reach %s: %s", address, error)
            return cut_is_heard and was_cut_off(error)

    async with aiohttp.ClientSession(timeout=timeout) as session:
        return any(await asyncio.gather(*(post(session, address) for address in dict.fromkeys(places))))


def was_cut_off(error: Exception) -> bool:
    """Whether the other end had the connection and ended it, rather than that there was none."""
    is_cut = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientPayloadError)
    return is_cut and not isinstance(error, aiohttp.ClientConnectorError)


def over_tls(url: str) -> str:
    """The same place, asked over TLS."""
    return url.replace("http://", "https://", 1)


class ResponseToCome(Awaitable[aiohttp.ClientResponse], AbstractAsyncContextManager[aiohttp.ClientResponse], Protocol):
    """What aiohttp's request methods return."""


class PeerLink:
    """A client session whose `http://` URLs become what this node's trust asks for at that moment."""

    def __init__(self, session: aiohttp.ClientSession, trust: Trust | None) -> None:
        self._session = session
        self._trust = trust

    def get(self, url: str, **options: Any) -> ResponseToCome:
        secured, context = self._secured(url)
        return self._session.get(secured, ssl=context, **options)

    def post(self, url: str, **options: Any) -> ResponseToCome:
        secured, context = self._secured(url)
        return self._session.post(secured, ssl=context, **options)

    def _secured(self, url: str) -> tuple[str, ssl.SSLContext | bool]:
        context = None if self._trust is None else self._trust.client_context
        return (url, True) if context is None else (over_tls(url), context)


@dataclass(slots=True)
class AnsweringMember:
    """Which member a request went to; None over plain HTTP."""

    node_id: str | None = None


_answering: ContextVar[AnsweringMember | None] = ContextVar("answering", default=None)


@contextmanager
def noting_who_answers() -> Generator[AnsweringMember]:
    """Requests made inside note in the value whose connection they used."""
    noted = AnsweringMember()
    token = _answering.set(noted)
    try:
        yield noted
    finally:
        _answering.reset(token)


class MemberConnector(aiohttp.TCPConnector):
    """A connection pool that lends a TLS connection only while its other end is a member."""

    def __init__(self, trust: Trust, keepalive_s: float) -> None:
        # No connection limit: probes must not queue behind long generations, which routing's admission bounds.
        super().__init__(limit=0, keepalive_timeout=keepalive_s)  # pyright: ignore[reportUnknownMemberType]
        self._trust = trust
        self._lent: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the base class's
    ) -> Connection:
        """As the base class; raises PeerUntrusted for a TLS connection whose certificate is not pinned (any more)."""
        connection = await super().connect(req, traces, timeout)
        if not req.is_ssl():
            return connection
        transport = connection.transport
        node_id = member_of(transport)
        if transport is None or not self._trust.is_member(node_id):
            connection.close()
            itself = node_id == self._trust.node_id
            raise PeerUntrusted(
                f"{req.url.authority} is {'this node itself' if itself else 'not a member of this swarm any more'}"
            )
        self._lent.add(transport)
        if (noted := _answering.get()) is not None:
            noted.node_id = node_id
        return connection

    def cut_strangers(self) -> None:
        """Close what leads to nodes that are not members any more, whatever it is carrying."""
        for transport in tuple(self._lent):
            if transport.is_closing():
                continue
            if not self._trust.is_member(member_of(transport)) and isinstance(transport, asyncio.Transport):
                transport.abort()


@dataclass(slots=True)
class _Way:
    """Whether a request went over a connection that was made for it, or over one kept from before."""

    fresh: bool = False


async def _note_fresh(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    if isinstance(way := context.trace_request_ctx, _Way):
        way.fresh = True


def _noting_fresh_connections() -> aiohttp.TraceConfig:
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_start.append(_note_fresh)
    return tracing
