"""A request over which llama.cpp ends, in four real nodes with engine hosts: one engine is lost, and no node.

Whatever is known to end llama.cpp is refused before it gets there, so the host is ended for it, by SIGABRT. Hosts stand
still meanwhile (SIGSTOP), so that none has answered before its signal comes. On loopback, without root.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.asking import SLOTS, federation_view, metrics_of, rambling, slots_free
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually

JOIN_S = 30.0  # four processes, each with an engine host, beside other tests on two cores
SEEN_S = 20.0  # until a request is in an engine, or an engine is back
ENGINES = ("study", "attic", "cellar")  # serve the model that the kitchen is asked for
OTHER = ("--model", "demo:b", "--isolate", "--host", "127.0.0.1")


PATHS = ("/federation/v1/generate", "/federation/v1/candidates")


def hosts_of(node: NodeProcess) -> list[psutil.Process]:
    """The engine processes of a node."""
    return [
        child
        for child in psutil.Process(node.pid).children()
        if "swarm.engines.llama_cpp.xllamacpp_host" in child.cmdline()
    ]


@dataclass(frozen=True)
class FourNodes:
    """The kitchen is asked; the others have engines for `model`. `session` is a client's."""

    nodes: dict[str, NodeProcess]
    model: str
    session: aiohttp.ClientSession

    async def post(self, node: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        async with self.session.post(self.nodes[node].url + path, json=body) as response:
            return response.status, dict(response.headers), await response.text()

    async def with_the_request(self, count: int = 1) -> list[NodeProcess]:
        """The nodes whose engine works at this moment, once there are so many."""

        async def busy() -> list[NodeProcess]:
            return [node for node in self.nodes.values() if await slots_free(node) not in (None, SLOTS)]

        return await eventually(busy, SEEN_S, "the request is in an engine", until=lambda found: len(found) == count)

    @contextmanager
    def standing_still(self) -> Generator[None]:
        """Engines take requests in the block and do nothing with them; signals that they got take effect after it.

        Shorter than the time after which an engine that makes no progress is ended by its node.
        """
        hosts = [host for name in ENGINES for host in hosts_of(self.nodes[name])]
        for host in hosts:
            host.suspend()
        try:
            yield
        finally:
            for host in hosts:
                host.resume()

    async def asked(self) -> dict[str, float]:
        """How many requests each engine's node got from its peers so far, those it refused at once included."""
        counts = {}
        for name in ENGINES:
            series = await metrics_of(self.nodes[name])
            counted = [key for key in series if key.startswith("swarm_requests_total{")]
            asked = [key for key in counted if any(path in key for path in PATHS)]
            counts[name] = sum(series[key] for key in asked)
        return counts

    async def asked_since(self, before: dict[str, float], count: int = 1) -> set[str]:
        """Whose peers asked them since, once there are so many: a request is counted when its answer is out."""

        async def asked() -> set[str]:
            now = await self.asked()
            return {name for name in ENGINES if now[name] != before[name]}

        return await eventually(asked, SEEN_S, "the request is counted", until=lambda names: len(names) >= count)

    async def idle(self) -> None:
        """Return once every engine runs and nobody uses one."""

        async def free() -> bool:
            return all([await slots_free(node) == SLOTS for node in self.nodes.values()])

        await eventually(free, SEEN_S, "every engine is loaded and idle")


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[FourNodes]:
    with ExitStack() as stack:
        nodes: dict[str, NodeProcess] = {}
        known = ("--federation",)
        for name in (*ENGINES, "kitchen"):
            arguments = OTHER if name in ENGINES else ("--isolate", "--host", "127.0.0.1")
            nodes[name] = stack.enter_context(NodeProcess(name, tmp_path / name, None, (*arguments, *known)))
            if len(nodes) == 1:  # it tells the others of each other
                await nodes[name].ready()
                known = ("--peer", nodes[name].url.removeprefix("http://"))
        for node in nodes.values():
            await node.ready()

        async def serving() -> dict[str, list[str]]:
            view = await federation_view(nodes["kitchen"])
            return {} if view is None else {model: sorted(names) for model, names in view["models"].items()}

        seen = await eventually(serving, JOIN_S, "all are there", until=lambda seen: sorted(ENGINES) in seen.values())
        model = next(model for model, names in seen.items() if names == sorted(ENGINES))
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=JOIN_S)) as session:
            yield FourNodes(nodes, model, session)


def long_request(model: str, text: str, **fields: Any) -> dict[str, Any]:
    """What keeps an engine busy for a second or more."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **rambling(), **fields}


def assert_refused(status: int, headers: dict[str, str], text: str) -> None:
    assert (status, headers.get("x-should-retry")) == (502, "false"), text
    assert '"code": "engine_failed"' in text


async def test_one_engine_is_lost_and_no_node(swarm: FourNodes) -> None:
    before = {name: {host.pid for host in hosts_of(node)} for name, node in swarm.nodes.items()}
    victims: set[str] = set()
    for number, stream in enumerate((False, True)):
        body = long_request(swarm.model, f"pill {number}", stream=stream, swarm={"strategy": "single"})
        asked_before = await swarm.asked()
        with swarm.standing_still():
            asking = asyncio.create_task(swarm.post("kitchen", "/v1/chat/completions", body))
            (victim,) = await swarm.with_the_request()
            (host,) = hosts_of(victim)
            host.send_signal(signal.SIGABRT)
        status, headers, text = await asking
        if stream:
            assert '"code": "engine_failed"' in text
            assert "[DONE]" not in text
        else:
            assert_refused(status, headers, text)
        assert await swarm.asked_since(asked_before) == {victim.name}
        # The same again: refused by the node that was asked and by the victim, whole and streamed, before any engine.
        for node in ("kitchen", victim.name):
            for streamed in (False, True):
                assert_refused(*await swarm.post(node, "/v1/chat/completions", {**body, "stream": streamed}))
        messages = {"model": swarm.model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
        assert (await swarm.post("kitchen", "/v1/messages", messages))[0] == 200
        victims.add(victim.name)
        await swarm.idle()
        now = {name: {host.pid for host in hosts_of(node)} for name, node in swarm.nodes.items()}
        assert [name for name in before if before[name] != now[name]] == [victim.name], "one engine was lost"
        before = now
    assert all(node.exit_code is None for node in swarm.nodes.values())
    assert victims <= set(ENGINES)


async def test_a_vote_loses_the_engines_that_were_asked_and_asks_no_other(swarm: FourNodes) -> None:
    body = long_request(swarm.model, "a pill", swarm={"strategy": "majority", "votes": 2, "min_votes": 2})
    asked_before = await swarm.asked()
    with swarm.standing_still():
        asking = asyncio.create_task(swarm.post("kitchen", "/v1/chat/completions", body))
        voters = await swarm.with_the_request(2)
        for voter in voters:
            (host,) = hosts_of(voter)
            host.send_signal(signal.SIGABRT)
    assert_refused(*await asking)
    assert await swarm.asked_since(asked_before, len(voters)) == {voter.name for voter in voters}
    for options in (body["swarm"], {"strategy": "single"}):
        assert_refused(*await swarm.post("kitchen", "/v1/chat/completions", {**body, "swarm": options}))
    assert all(node.exit_code is None for node in swarm.nodes.values())
