"""A node with an upstream, whose server is a double."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from swarm.engines.upstream.address import UpstreamMode, parse_upstream
from swarm.routing.upstream import LookingPace, Upstream, UpstreamPlan
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step
from tests.doubles.upstream_server import UpstreamServer
from tests.doubles.waiting import eventually

KEY = "sk-very-secret"
PACE = LookingPace(first_retry_s=0.02, most_retry_s=0.05, relist_s=3600)


@dataclass(frozen=True, slots=True)
class House:
    """A node "kitchen" with an upstream; with `steps`, it has an engine of its own, too, that serves "m"."""

    server: UpstreamServer
    upstream: Upstream
    node: RunningNode
    client: Client
    news: list[str]
    engine: ScriptedEngine | None

    async def found(self) -> None:
        await eventually(lambda: self.upstream.offer().problem is None)


@asynccontextmanager
async def house(
    server: UpstreamServer, mode: UpstreamMode, *steps: Step, url: str = "", model: str | None = None, slots: int = 4
) -> AsyncIterator[House]:
    news: list[str] = []
    plan = UpstreamPlan(parse_upstream(url or server.url), mode, model, slots)
    upstream = Upstream(plan, KEY, news.append, PACE)
    engine = ScriptedEngine(lambda _, __: steps, model_id="m", slots=2) if steps else None
    loaders = [ready(engine)] if engine else []
    node = RunningNode("kitchen", *loaders, options=NodeOptions(upstreams=[upstream]))
    async with node, connect(node.url) as client:
        await upstream.first_look()
        yield House(server, upstream, node, client, news, engine)


def content(reply: Reply) -> Any:
    return reply.json["choices"][0]["message"]["content"]
