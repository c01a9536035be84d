"""The peer client against real sockets that answer well, badly, late or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from federation import wire
from federation.advertisement import PeerHint, PeerHints
from federation.client import MAX_JSON_BYTES, PeerClient
from federation.errors import (
    PeerBrokeOff,
    PeerError,
    PeerProtocolError,
    PeerRefused,
    PeerStatusError,
    PeerTimedOut,
    PeerUnreachable,
)
from federation.hostport import Address
from federation.peer_response import AnswerLimits, PeerResponse

HERE = Address("10.9.9.9", 17615)
SHORT_S = 0.2  # for what is meant to run out
LONG_S = 10.0  # for what is not

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def ndjson(*pieces: bytes, then: asyncio.Event | None = None) -> Handler:
    """Sends the pieces one by one; waits for `then` before the end of the stream."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if then is not None:
            await then.wait()
        await response.write_eof()
        return response

    return handler


async def read_all(answer: PeerResponse) -> bytes:
    return b"".join([chunk async for chunk in answer.chunks()])


async def candidates(client: PeerClient, url: str, **options: Any) -> list[bytes]:
    call = {"request_id": "r1", "hops": 1, "deadline_s": LONG_S, **options}
    async with aclosing(client.stream_candidates(url, {"n": 2}, **call)) as lines:
        return [line async for line in lines]


async def test_a_node_describes_itself_and_learns_who_asked(fake_node: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here", HERE) as client:
        assert await client.describe(node.address, LONG_S) == node.description
        path, query, headers = node.requests[0]
        assert (path, query) == (wire.NODE_PATH, {"from": "10.9.9.9:17615"})
        assert headers[wire.FROM_HEADER] == "id-here"
        assert headers["Accept-Encoding"] == "identity"


async def test_one_connection_serves_many_probes(fake_node: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        ports = set()

        async def note_port(request: web.Request) -> web.Response:
            ports.add(request.transport.get_extra_info("peername")[1])
            return web.json_response(json.loads(node.description.model_dump_json()))

        node.answers[wire.NODE_PATH] = note_port
        for _ in range(3):
            await client.describe(node.address, LONG_S)
        assert len(ports) == 1
        assert node.requests[0][1] == {}, "a node that announces nothing does not say where it is"


async def test_peers_are_hinted_at(fake_node: Any, reply: Any) -> None:
    hint = PeerHint(id="attic", name="attic", host="10.0.0.3", port=17615)
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.PEERS_PATH] = reply(PeerHints(peers=(hint,)).model_dump_json().encode())
        assert await client.peers(node.address, LONG_S) == (hint,)


async def test_a_goodbye_says_who_leaves(fake_node: Any) -> None:
    bodies = []

    async def note(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({})

    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.GOODBYE_PATH] = note
        await client.goodbye(node.address, "id-here", LONG_S)
        node.answers[wire.GOODBYE_PATH] = lambda _: asyncio.sleep(0, web.Response(status=503, text="busy"))
        with pytest.raises(PeerStatusError, match=r"answers HTTP 503: it is not a node$") as caught:
            await client.goodbye(node.address, "id-here", LONG_S)
    assert bodies == [{"id": "id-here"}]
    assert (caught.value.kind, caught.value.status) == ("status", 503)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"not json", "does not describe a node"),
        (b'{"protocol": NaN}', "does not describe a node"),
        (b'{"protocol": 1}', "does not describe a node"),
        (b'{"protocol": 2}', "speaks federation protocol 2 and this node speaks 1"),
        (b" " * (MAX_JSON_BYTES + 1), f"more than {MAX_JSON_BYTES} bytes"),
        (b"\x1f\x8b\x08\x00rubbish", "does not describe a node"),
    ],
)
async def test_rubbish_is_a_protocol_error(fake_node: Any, reply: Any, body: bytes, complaint: str) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.NODE_PATH] = reply(body)
        with pytest.raises(PeerProtocolError, match=complaint) as caught:
            await client.describe(node.address, LONG_S)
        assert (caught.value.kind in ("protocol", "version"), caught.value.status) == (True, None)
        assert str(node.address) in str(caught.value)


async def test_an_endless_answer_is_cut_off(fake_node: Any) -> None:
    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.NODE_PATH] = pour
        with pytest.raises(PeerProtocolError, match="more than"):
            await client.describe(node.address, LONG_S)


async def test_other_content_is_not_read_as_json(fake_node: Any, reply: Any) -> None:
    async with fake_node("router") as node, PeerClient("id-here") as client:
        node.answers[wire.NODE_PATH] = reply(b"<html>", content_type="text/html")
        with pytest.raises(PeerProtocolError, match="answered something else than JSON: it is not a node"):
            await client.describe(node.address, LONG_S)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>" + b"<p>" * 100),
        ("text/plain", b"-ERR unknown command, secret of redis"),
        ("application/json", b'{"secret": 1}'),
        ("application/json", b'{"error": {"message": "secret", "code": "secret"}}'),
        ("application/json; secret", b'{"error": {"message": "secret", "type": "secret", "code": null}}'),
    ],
)
@pytest.mark.parametrize("status", [301, 404, 500])
async def test_of_a_stranger_nothing_but_the_status_is_said(
    fake_node: Any, reply: Any, content_type: str, body: bytes, status: int
) -> None:
    async with fake_node("router") as node, PeerClient("id-here") as client:
        node.answers[wire.NODE_PATH] = reply(body, content_type=content_type, status=status)
        with pytest.raises(PeerStatusError) as caught:
            await client.describe(node.address, LONG_S)
        assert str(caught.value).removesuffix(": it is not a node") == f"{node.address} answers HTTP {status}"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/x-secret", b"x"),
        ("application/json", b"secret"),
        ("application/json", b'{"secret": "secret"}'),
        ("application/json", b'{"protocol": "secret"}'),
        ("application/json", b'{"protocol": 1, "id": "SECRET secret", "name": "secret", "url": "secret", "mode": "x"}'),
        (
            "application/json",
            b'{"protocol": 1, "id": "a", "name": "b", "version": "c", "url": "http://x", "mode": "secret"}',
        ),
    ],
)
async def test_an_answer_of_a_stranger_is_quoted_nowhere(
    fake_node: Any, reply: Any, content_type: str, body: bytes
) -> None:
    async with fake_node("router") as node, PeerClient("id-here") as client:
        node.answers[wire.NODE_PATH] = reply(body, content_type=content_type)
        with pytest.raises(PeerProtocolError) as caught:
            await client.describe(node.address, LONG_S)
        assert "secret" not in str(caught.value).lower()


async def test_redirects_are_not_followed(fake_node: Any) -> None:
    async with fake_node("kitchen") as node, fake_node("victim") as victim, PeerClient("id-here") as client:

        async def elsewhere(_: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(victim.address.url + wire.NODE_PATH)

        node.answers[wire.NODE_PATH] = elsewhere
        with pytest.raises(PeerStatusError, match="answers HTTP 307"):
            await client.describe(node.address, LONG_S)
        assert victim.requests == []


async def test_nobody_listening_is_refused(fake_node: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        await node.stop()
        with pytest.raises(PeerRefused, match=f"nobody listens at {node.address}") as caught:
            await client.describe(node.address, LONG_S)
        assert caught.value.kind == "refused"


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async with PeerClient("id-here") as client:
        with pytest.raises(PeerUnreachable, match=r"nowhere\.invalid:1: no such host name") as caught:
            await client.describe(Address("nowhere.invalid", 1), LONG_S)
        assert caught.value.kind == "unreachable"


async def test_a_frozen_node_times_out(fake_node: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.thawed.clear()
        with pytest.raises(PeerTimedOut, match="did not answer in time") as caught:
            await client.describe(node.address, SHORT_S)
        assert caught.value.kind == "timeout"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", PeerRefused),
        (b"SSH-2.0-OpenSSH_9.6\r\n", PeerProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{", PeerRefused),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n", PeerError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", PeerProtocolError),
        (b"HTTP/1.1 999999 \xff\r\n\r\n", PeerProtocolError),
    ],
)
async def test_what_is_not_http_or_breaks_off_is_one_of_ours(sent: bytes, error: type[PeerError]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, PeerClient("id-here") as client:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(error):
            await client.describe(address, LONG_S)


async def test_candidates_come_line_by_line_with_the_call_described(fake_node: Any) -> None:
    bodies = []

    async def serve(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return await ndjson(b'\n{"a', b'": 1}\n\n', b"\n", b'{"b": 2}')(request)

    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.CANDIDATES_PATH] = serve
        assert await candidates(client, node.address.url) == [b'{"a": 1}', b'{"b": 2}']
        headers = node.requests[0][2]
        assert headers["X-Request-Id"] == "r1"
        assert headers["X-Swarm-Hops"] == "1"
        assert headers["X-Swarm-Deadline-Ms"] == "10000"
        assert headers["X-Swarm-From"] == "id-here"
        assert headers["Content-Type"] == "application/json"
    assert bodies == [{"n": 2}]


async def test_the_first_candidate_is_there_before_the_last_is_made(fake_node: Any) -> None:
    finish = asyncio.Event()
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.CANDIDATES_PATH] = ndjson(b"1\n", then=finish)
        lines = client.stream_candidates(node.address.url, {}, request_id="r", hops=1, deadline_s=LONG_S)
        async with aclosing(lines):
            assert await anext(lines) == b"1"
            finish.set()
            assert [line async for line in lines] == []


async def test_closing_early_cancels_the_work_there(fake_node: Any) -> None:
    cancelled = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await ndjson(b"1\n", then=asyncio.Event())(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.CANDIDATES_PATH] = serve
        lines = client.stream_candidates(node.address.url, {}, request_id="r", hops=1, deadline_s=LONG_S)
        async with aclosing(lines):
            await anext(lines)
        await asyncio.wait_for(cancelled.wait(), LONG_S)


async def test_a_peer_that_falls_silent_in_a_stream_times_out(fake_node: Any) -> None:
    never = asyncio.Event()
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.GENERATE_PATH] = ndjson(b"first", then=never)
        call = {"request_id": "r", "hops": 1, "deadline_s": 100 * LONG_S, "idle_s": SHORT_S}
        async with (
            asyncio.timeout(LONG_S),
            client.open_generation(node.address.url, wire.GENERATE_PATH, b"{}", **call) as answer,
        ):
            assert await answer.read() == b"first"
            with pytest.raises(PeerTimedOut):
                await answer.read()


async def test_heartbeats_keep_a_slow_stream_alive_until_the_deadline(fake_node: Any) -> None:
    async def beat(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"\n")
            await asyncio.sleep(SHORT_S / 10)

    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.GENERATE_PATH] = beat
        call = {"request_id": "r", "hops": 1, "deadline_s": 4 * SHORT_S, "idle_s": SHORT_S}
        began = asyncio.get_running_loop().time()
        async with client.open_generation(node.address.url, wire.GENERATE_PATH, b"{}", **call) as answer:
            with pytest.raises(PeerTimedOut):
                await read_all(answer)
        assert asyncio.get_running_loop().time() - began > 2 * SHORT_S


async def test_a_refusal_to_give_candidates_carries_its_status(fake_node: Any, reply: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.CANDIDATES_PATH] = reply(b'{"error": "full\x1b[2J"}', status=503)
        with pytest.raises(PeerStatusError, match=r"answers HTTP 503: it is not a node$") as caught:
            await candidates(client, node.address.url)
        assert caught.value.status == 503


@pytest.mark.parametrize(
    ("limits", "piece"),
    [(AnswerLimits(line_bytes=1000), b"x" * 600), (AnswerLimits(stream_bytes=1000), b"x" * 600 + b"\n")],
    ids=["a line", "lines"],
)
async def test_endless_streams_end(fake_node: Any, limits: AnswerLimits, piece: bytes) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here", limits=limits) as client:
        node.answers[wire.CANDIDATES_PATH] = ndjson(piece, piece, then=asyncio.Event())
        with pytest.raises(PeerProtocolError, match=r"than 1000 bytes"):
            await candidates(client, node.address.url)


async def test_a_stream_cut_in_the_middle_is_an_error_and_not_an_end(fake_node: Any) -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"whole": 1}\n{"hal')
        request.transport.close()
        return response

    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.CANDIDATES_PATH] = serve
        with pytest.raises(PeerRefused, match="broke off"):
            await candidates(client, node.address.url)


async def test_a_generation_is_handed_over_whatever_its_status(fake_node: Any, reply: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.GENERATE_PATH] = reply(b"data: 1\n\n", status=429, content_type="text/event-stream")
        call = {"request_id": "r", "hops": 2, "deadline_s": LONG_S}
        sent = {"X-Other": "kept", "X-Swarm-Hops": "forged"}
        async with client.open_generation(node.address.url, wire.GENERATE_PATH, b"{}", sent, **call) as answer:
            assert (answer.status, answer.content_type) == (429, "text/event-stream")
            assert await read_all(answer) == b"data: 1\n\n"
        headers = node.requests[0][2]
        assert (headers["X-Other"], headers["X-Swarm-Hops"]) == ("kept", "2")


async def test_errors_of_the_reader_pass_through_untranslated(fake_node: Any, reply: Any) -> None:
    async with fake_node("kitchen") as node, PeerClient("id-here") as client:
        node.answers[wire.GENERATE_PATH] = reply(b"x")
        call = {"request_id": "r", "hops": 1, "deadline_s": LONG_S}
        with pytest.raises(TimeoutError, match="mine"):
            async with client.open_generation(node.address.url, wire.GENERATE_PATH, b"{}", **call):
                raise TimeoutError("mine")


async def test_a_client_outside_its_context_says_so() -> None:
    with pytest.raises(RuntimeError, match="outside its async with"):
        await PeerClient("id-here").describe(HERE)


@pytest.mark.parametrize("aborted", [False, True], ids=["closed", "reset"])
async def test_a_kept_connection_that_the_node_closed_is_no_failure(aborted: bool) -> None:
    """As by a node that restarts between two requests: the second one is asked again, on a fresh connection."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        async with asyncio.timeout(LONG_S):
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(len(b'{"n":2}'))
                asked += 1
                if asked == 2:
                    if aborted:
                        writer.transport.abort()
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: application/x-ndjson\r\n\r\n{}\n")
                if asked == 3:
                    break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, PeerClient("id-me") as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await candidates(client, url) == [b"{}"]
        assert await candidates(client, url) == [b"{}"]
        assert asked == 3


async def test_a_node_that_breaks_off_a_fresh_connection_is_not_asked_again() -> None:
    """It had the request, which may have ended it: whoever restarts it must not find the same one waiting."""
    asked = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, PeerClient("id-me") as client:
        with pytest.raises(PeerBrokeOff, match="broke off"):
            await candidates(client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert asked == 1


async def test_a_node_that_breaks_off_a_kept_connection_and_is_gone_then_broke_off() -> None:
    """Whether the request ended it nobody can tell, so that it may have."""
    connections = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: application/x-ndjson\r\n\r\n{}\n")
        await reader.readuntil(b"\r\n\r\n")
        server.close()
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, PeerClient("id-me") as client:
        assert await candidates(client, url) == [b"{}"]
        with pytest.raises(PeerBrokeOff, match="broke off"):
            await candidates(client, url)
    assert connections == 1


async def test_a_node_where_nobody_listens_never_had_the_request() -> None:
    async with PeerClient("id-me") as client:
        with pytest.raises(PeerRefused, match="nobody listens") as caught:
            await candidates(client, "http://127.0.0.1:1")
    assert not isinstance(caught.value, PeerBrokeOff)
