"""What the commands make of a server that is not a node, or a hostile one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from swarm.cli import main
from swarm.commands.node_client import (
    MAX_ERROR_BYTES,
    MAX_JSON_BYTES,
    MAX_MESSAGE_CHARS,
    NodeApi,
    NodeUnreachable,
    get_json,
    post_stream,
)
from swarm.errors import SetupError, SwarmError


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> Generator[tuple[str, list[str]]]:
    """A server that answers everything alike; the paths and keys it was asked with."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                return

        do_GET = do_POST = do_HEAD = answer  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_key_goes_nowhere_but_to_the_node_that_was_named(status: int) -> None:
    with (
        answering(200, b"{}") as (elsewhere, asked),
        answering(status, b"", {"Location": f"{elsewhere}/x"}) as (url, _),
    ):
        with pytest.raises(SwarmError, match=f"answered {status}"):
            get_json(NodeApi(url, "sk-secret"), "/v1/federation/health")
        with pytest.raises(SwarmError, match=f"answered {status}"):
            list(post_stream(NodeApi(url, "sk-secret"), "/v1/chat/completions", {}))
    assert not asked


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b"1", b"[" * 100_000, b'{"a": "' + b"x" * MAX_JSON_BYTES + b'"}']
)
def test_what_is_no_node_is_said_to_be_none(body: bytes) -> None:
    with answering(200, body) as (url, _), pytest.raises(SwarmError, match="does not answer as a node does"):
        get_json(NodeApi(url), "/v1/federation/health")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"error": {"message": "x" * (MAX_ERROR_BYTES - 100)}}).encode(),
        json.dumps({"error": {"message": ["no text"]}}).encode(),
        json.dumps({"error": "no object"}).encode(),
        b"[" * 100_000,
        b"x" * 10 * MAX_ERROR_BYTES,
    ],
)
def test_a_refusal_is_quoted_within_bounds(body: bytes) -> None:
    with answering(500, body) as (url, _), pytest.raises(SwarmError) as caught:
        get_json(NodeApi(url), "/")
    assert len(str(caught.value)) <= MAX_MESSAGE_CHARS


@pytest.mark.parametrize("line", [b"data: {", b'data: {"error": ', b"data: {" + b'"a":[' * 100_000])
def test_an_event_that_is_no_json_is_an_error_in_words(line: bytes) -> None:
    with answering(200, line + b"\n") as (url, _), pytest.raises(SwarmError, match="is it a node"):
        list(post_stream(NodeApi(url), "/", {}))


@pytest.mark.parametrize(
    "url",
    ["foo", "", "ftp://kitchen", "http://", "http://a b", "http://a\nb", "http://[a", "http://a:99999", "http://a:x"],
)
def test_what_is_no_address_is_said_before_anything_is_asked(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SetupError, match="is no address of a node"):
        NodeApi(url)
    for command in (["status"], ["chat", "hi"], ["vote", "hi"], ["models", "list"], ["agent", "hi"]):
        assert main([*command, "--url", url]) == 2, command
    assert capsys.readouterr().err.count("is no address of a node") == 5


def test_a_key_that_no_header_can_hold_is_refused_and_not_quoted() -> None:
    for key in ("sk-se\ncret", "sk-sécret"):
        with pytest.raises(SetupError, match="API key") as caught:
            NodeApi("http://127.0.0.1:9", key)
        assert "cret" not in str(caught.value)


def test_a_server_of_another_protocol_is_no_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x00\xff SSH-2.0 x\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(NodeUnreachable, match="no node answers"):
            get_json(NodeApi(f"http://127.0.0.1:{server.getsockname()[1]}"), "/")
        thread.join()
