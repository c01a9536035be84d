"""Rows of the table as a node's upstreams: where each is asked for its models and answers, and by which headers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from swarm.engines.upstream.address import parse_upstream
from swarm.node.settings import make_settings
from swarm.node.upstream import read_upstreams
from swarm.providers import PROVIDERS
from swarm.routing.upstream import Upstream
from tests.agent.provider_cases import at
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.upstream_house import PACE, content
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage

KEY = "sk-of-the-row"
ASKABLE = [name for name, row in PROVIDERS.items() if row.chat_base is not None]
LISTS = {"anthropic": "/v1", "google": "/v1beta"}  # where that is not below the OpenAI-compatible base


def path_of(base: str) -> str:
    _, slash, path = base.partition("://")[2].partition("/")
    return slash + path


def server_of(name: str) -> UpstreamServer:
    """What answers in the row's place: its list where the vendor has it, and one answer."""
    base = PROVIDERS[name].chat_base
    assert base is not None
    entry: dict[str, Any] = (
        {"name": "models/big", "supportedGenerationMethods": []} if name == "google" else {"id": "big"}
    )
    pieces = (text("from ", "above"), ending(), usage(), DONE)
    return UpstreamServer(pieces=pieces, listing={"data": [entry]}, prefix=LISTS.get(name, path_of(base)))


@asynccontextmanager
async def behind(name: str, server: UpstreamServer) -> AsyncGenerator[tuple[Client, list[str]]]:
    """A client of a node with that row, at `server`, for its only engine; and what the node says of it."""
    news: list[str] = []
    row = at(PROVIDERS[name], server.url)
    (plan,) = read_upstreams(make_settings({"upstream": name, "upstream_mode": "only"}, None, {}))
    assert row.chat_base is not None
    address = replace(parse_upstream(row.chat_base), bases=(row.chat_base,))
    upstream = Upstream(replace(plan, provider=row, address=address), KEY, news.append, PACE)
    node = RunningNode("kitchen", options=NodeOptions(upstreams=[upstream]))
    async with node, connect(node.url) as client:
        await upstream.first_look()
        yield client, news


@pytest.mark.parametrize("name", ASKABLE)
async def test_a_row_is_asked_at_its_own_paths_with_its_own_headers(name: str) -> None:
    async with server_of(name) as server, behind(name, server) as (client, news):
        assert content(await client.chat(model="big")) == "from above"
        assert len(news) == 1
        assert news[0].endswith(": big")
        (one,) = server.asked
        base = PROVIDERS[name].chat_base
        assert base is not None
        assert one.path == f"{path_of(base)}/chat/completions"
        assert one.headers["Authorization"] == f"Bearer {KEY}"
        listing = server.listed[0]
    if name == "anthropic":
        assert (listing["x-api-key"], listing["anthropic-version"]) == (KEY, "2023-06-01")
    elif name == "google":
        assert listing["x-goog-api-key"] == KEY
    else:
        assert listing["Authorization"] == f"Bearer {KEY}"
    assert ("Authorization" in listing) == (name not in LISTS)


@pytest.mark.parametrize("name", ["groq", "anthropic", "openrouter"])
async def test_a_refused_key_is_named_by_the_variable_that_it_came_from(name: str) -> None:
    async with server_of(name) as server, behind(name, server) as (client, _):
        server.status, server.refusal = 401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}
        reply = await client.chat(model="big", swarm={"strategy": "single"})
    assert reply.status == 502
    assert f"set {PROVIDERS[name].key_variables[0]} where the node is started" in reply.json["error"]["message"]
    assert KEY not in reply.text
