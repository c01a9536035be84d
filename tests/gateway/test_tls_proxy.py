"""The TLS proxies of deploy/, run: streams are not held back, names and origins arrive, nobody manages through them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from swarm.gateway.http.access import AccessRules
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.e2e.waiting import eventually

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NAME = "swarm.example"
WAIT_S = 30.0


def nginx_command(folder: Path, port: int, node: int) -> tuple[list[str], Path]:
    """nginx with the site of deploy/, this port, this node and a certificate made for it; and what to trust."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", folder / "key.pem",
         "-out", folder / "cert.pem"],
        check=True, capture_output=True, timeout=WAIT_S,
    )  # fmt: skip
    site = (DEPLOY / "nginx.conf").read_text()
    for shipped, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/swarm.pem", str(folder / "cert.pem")),
        ("/etc/ssl/private/swarm.key", str(folder / "key.pem")),
        ("http://127.0.0.1:17615", f"http://127.0.0.1:{node}"),
    ):
        assert shipped in site
        site = site.replace(shipped, here)
    folders = "".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = f"user {_owner()};pid {folder / 'pid'};events {{}}http {{access_log off;{folders}\n{site}}}"
    (folder / "nginx.conf").write_text(whole)
    command = [
        "nginx",
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-e",
        str(folder / "log"),
        "-g",
        "daemon off;",
    ]
    return command, folder / "cert.pem"


def _owner() -> str:
    return "root" if os.geteuid() == 0 else "nobody"


def caddy_command(folder: Path, port: int, node: int) -> tuple[list[str], Path]:
    """Caddy with the file of deploy/ as it is; and its authority's root, which it makes when it starts."""
    homes = (f"{name}={folder}" for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"))
    given = (f"SWARM_TLS_PORT={port}", f"SWARM_NODE=127.0.0.1:{node}")
    caddy = ("caddy", "run", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile")
    command = ["env", *homes, *given, *caddy]
    return command, folder / "caddy/pki/authorities/local/root.crt"


PROXIES: dict[str, Callable[[Path, int, int], tuple[list[str], Path]]] = {
    "caddy": caddy_command,
    "nginx": nginx_command,
}


@dataclass
class Proxied:
    """A client of the proxy, and the engine behind it, which says "one", waits for the gate, and says "two"."""

    session: aiohttp.ClientSession
    url: str
    tls: ssl.SSLContext
    engine: ScriptedEngine
    gate: asyncio.Event

    def ask(self, method: str, path: str, **options: object) -> aiohttp.client._RequestContextManager:
        headers = {"Host": NAME, **options.pop("headers", {})}  # type: ignore[dict-item, arg-type]
        return self.session.request(
            method,
            self.url + path,
            ssl=self.tls,
            server_hostname=NAME,
            headers=headers,
            **options,  # type: ignore[arg-type]
        )


@asynccontextmanager
async def proxied(name: str, folder: Path, port: int) -> AsyncIterator[Proxied]:
    """A node behind the proxy of that name, which listens on `port`."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    gate = asyncio.Event()
    engine = ScriptedEngine(lambda _, __: ["one", gate, "two"], model_id="m")
    rules = AccessRules(hosts=frozenset({NAME}), origins=frozenset({f"https://{NAME}"}))
    async with RunningNode("kitchen", ready(engine), options=NodeOptions(access=rules)) as node:
        command, root = PROXIES[name](folder, port, node.address.port)
        async with _running(command, folder / "said"):

            async def answers() -> bool:
                try:  # Caddy listens before it has made its certificate
                    tls = ssl.create_default_context(cafile=root)
                    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=NAME)
                except OSError:
                    return False
                writer.transport.abort()
                return True

            await eventually(answers, WAIT_S, f"{name} answers")
            tls = ssl.create_default_context(cafile=root)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                yield Proxied(session, f"https://127.0.0.1:{port}", tls, engine, gate)


@asynccontextmanager
async def _running(command: list[str], said: Path) -> AsyncIterator[None]:
    with said.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # nginx's workers, too
        await process.wait()


def chat(stream: bool) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream, "swarm": {"votes": 1}}


@pytest.mark.parametrize("name", PROXIES)
async def test_a_stream_arrives_while_it_is_made_and_a_client_that_leaves_ends_it(
    name: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with proxied(name, tmp_path, unused_tcp_port) as proxy:
        async with proxy.ask("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
            assert response.status == 200, await response.text()
            seen = b""
            while b"one" not in seen:
                seen += await asyncio.wait_for(response.content.readany(), WAIT_S)
            assert not proxy.gate.is_set(), "the rest does not exist yet"
            proxy.gate.set()
            seen += await response.content.read()
            assert b"two" in seen
            assert b"[DONE]" in seen
        proxy.gate.clear()
        async with proxy.ask("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
            await response.content.readany()
            await proxy.engine.until(lambda engine: engine.running == 1)
            assert response.connection is not None
            assert response.connection.transport is not None
            response.connection.transport.abort()  # as a program that ends; not the polite end of the encryption
        await proxy.engine.until(lambda engine: engine.running == 0)
        assert proxy.engine.cancelled == 1


@pytest.mark.parametrize("name", PROXIES)
async def test_the_api_is_there_under_its_name_and_nothing_else_is(
    name: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with proxied(name, tmp_path, unused_tcp_port) as proxy:
        proxy.gate.set()
        async with proxy.ask("POST", "/v1/chat/completions", json=chat(stream=False)) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "onetwo"
        async with proxy.ask("GET", "/v1/models", headers={"Origin": f"https://{NAME}"}) as response:
            assert response.status == 200, "a page of the proxy's own name, where it is on the list"
        async with proxy.ask("GET", "/v1/models", headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403
        async with proxy.ask("GET", "/federation/v1/node") as response:
            assert response.status == 404
        async with proxy.ask("GET", "/swarm/v1/requests") as response:
            assert response.status == 403, "through the proxy nobody is this machine"
