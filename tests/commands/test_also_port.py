"""`--also-port`: the node listens there, too, by the same rules; a port that another program has is only said so."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from aiohttp import web

from swarm.errors import SetupError
from swarm.gateway.http.listener import shared_port
from swarm.node.listeners import AlsoPorts, open_also
from swarm.node.settings import make_settings
from tests.doubles.paired import open_trust
from tests.e2e.node_process import NodeProcess

ENDED_S = 30.0


def free_port() -> int:
    """One that nobody has at this moment."""
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


class Greeter(BaseHTTPRequestHandler):
    """Greets as Ollama does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Ollama is running")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: tests are quiet."""


@contextmanager
def greeting() -> Generator[int]:
    """The port of a program that greets as Ollama does."""
    with HTTPServer(("127.0.0.1", 0), Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def close(also: AlsoPorts) -> None:
    for listener in also.listeners:
        listener.close()


def ask(port: int, host: str = "localhost", path: str = "/v1/models") -> tuple[int, object]:
    """The status and JSON of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers={"Host": f"{host}:{port}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_each_port_is_opened_on_all_addresses_and_once() -> None:
    port, other = free_port(), free_port()
    also = open_also(("127.0.0.1", "::1"), [port, other, port])
    try:
        assert also.ports == (port, other)
        assert also.problems == ()
        found = {listener.getsockname()[:2] for listener in also.listeners}
        assert found == {(host, each) for host in ("127.0.0.1", "::1") for each in (port, other)}
    finally:
        close(also)


def test_a_port_that_is_taken_is_told_with_who_has_it_and_the_others_are_opened() -> None:
    port = free_port()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        number = int(taken.getsockname()[1])
        also = open_also(("127.0.0.1",), [number, port])
    close(also)
    assert also.ports == (port,)
    (problem,) = also.problems
    assert problem.startswith(f"not port {number}: ")
    assert f"(process {os.getpid()}) listens there already" in problem
    assert problem.endswith(f"or leave out --also-port {number}")


def test_a_port_that_only_one_family_has_lost_is_not_half_opened() -> None:
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as taken:
        port = int(taken.getsockname()[1])
        also = open_also(("127.0.0.1", "::1"), [port])
        assert also.listeners == ()
        assert also.ports == ()
        assert len(also.problems) == 1
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_ollama_is_known_by_its_greeting_where_the_system_does_not_tell(host: str) -> None:
    with greeting() as port:
        (problem,) = open_also((host,), [port], who_listens=lambda _: None).problems
    assert problem.startswith(f"not port {port}: Ollama listens there already")


def test_a_program_that_says_nothing_is_another_program() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = int(taken.getsockname()[1])
        (problem,) = open_also(("127.0.0.1",), [port], who_listens=lambda _: None).problems
    assert problem.startswith(f"not port {port}: another program listens there already")


def test_an_address_that_this_machine_does_not_have_is_a_problem_and_no_error() -> None:
    (problem,) = open_also(("192.0.2.1",), [free_port()]).problems
    assert "cannot listen on 192.0.2.1" in problem


def test_the_setting_is_one_number_or_several_and_bad_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("also_port = 11434\n")
    assert make_settings({}, file, {}).also_port == (11434,)
    file.write_text("also_port = [11434, 1234]\n")
    assert make_settings({}, file, {}).also_port == (11434, 1234)
    assert make_settings({"also_port": [8080]}, file, {}).also_port == (8080,)
    with pytest.raises(SetupError, match="--also-port 70000 is out of range: use 1 to 65535"):
        make_settings({"also_port": [70000]}, None, {})
    with pytest.raises(SetupError, match=r"--also-port .*use 8 at most"):
        make_settings({"also_port": list(range(1, 10))}, None, {})


async def test_a_further_port_takes_http_and_no_tls(tmp_path: Path) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    own, further = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    port = int(further.getsockname()[1])
    runner = web.AppRunner(app, access_log=None)
    async with shared_port(runner, [own], open_trust(tmp_path, "kitchen"), plain=[further]) as ports:
        assert len(ports) == 2
        for begin, expected in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b" 200 "),
            (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b" 400 "),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begin)
            assert expected in await asyncio.wait_for(reader.readline(), 10)
            writer.close()
            await writer.wait_closed()
    socket.create_server(("127.0.0.1", port)).close()


async def test_a_node_listens_there_by_the_same_rules_and_gives_it_back(tmp_path: Path) -> None:
    port, work = free_port(), tmp_path / "work"
    work.mkdir()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        other = int(taken.getsockname()[1])
        arguments = ("--no-model", "--tools", "read", "--tools-root", str(work))
        further = ("--also-port", str(port), "--also-port", str(other))
        with NodeProcess("kitchen", tmp_path / "kitchen", arguments=(*arguments, *further), model=None) as node:
            await node.ready()
            assert f"also at    127.0.0.1:{port}\n" in node.output
            assert f"also at    not port {other}: " in node.output
            assert f"(process {os.getpid()}) listens there already" in node.output
            assert (await asyncio.to_thread(ask, port))[0] == 200
            status, refused = await asyncio.to_thread(ask, port, "evil.example")
            assert status == 403
            assert "evil.example" in str(refused)
            health = await asyncio.to_thread(ask, port, path="/v1/federation/health")
            assert str(port) not in json.dumps(health[1]), "it is announced to nobody"
            node.send(signal.SIGTERM)
            assert await node.ended(ENDED_S) == 0
    socket.create_server(("127.0.0.1", port)).close()
