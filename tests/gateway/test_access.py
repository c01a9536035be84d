"""Keys, Host, Origin and CORS over real sockets: what strangers, pages, clients and peers get."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openai import AuthenticationError
from yarl import URL

from swarm.commands.status import render
from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.observing.view import parse_view
from tests.doubles.clients import Client, chat_body, connect, openai_client
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying

KEY, OTHER_KEY = "sk-kitchen-door", "sk-garden-door"
PAGE = "http://app.example:3000"
LOCKED = AccessRules(origins=frozenset({PAGE}), key_digests=(digest(KEY), digest(OTHER_KEY)), open_federation=True)
SINGLE = {"strategy": "single"}
CHAT = "/v1/chat/completions"
PREFLIGHT = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,x-stainless-os"}


def node(name: str, *peers: RunningNode, access: AccessRules = LOCKED, engine: bool = True) -> RunningNode:
    options = NodeOptions(peers=[peer.address for peer in peers], access=access)
    return RunningNode(name, *([ready(ScriptedEngine(saying("a word")))] if engine else []), options=options)


@pytest_asyncio.fixture
async def locked() -> AsyncIterator[RunningNode]:
    """A node with two keys that lets one origin in."""
    async with node("kitchen") as running:
        yield running


@pytest_asyncio.fixture
async def client(locked: RunningNode) -> AsyncIterator[Client]:
    async with connect(locked.url) as connected:
        yield connected


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {OTHER_KEY}"},
        {"x_api_key": KEY},
        {"x_api_key": KEY, "Authorization": "Bearer none"},
    ],
)
async def test_each_key_opens_in_each_way(client: Client, headers: dict[str, str]) -> None:
    assert (await client.post(CHAT, chat_body(swarm=SINGLE), **headers)).status == 200
    assert (await client.get("/v1/models", **headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer sk-wrong"}, {"x_api_key": "sk-wrong"}, {"Authorization": f"Basic {KEY}"}],
)
async def test_without_a_right_key_nothing_is_done(
    client: Client, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for reply in (
        await client.post(CHAT, chat_body(), **headers),
        await client.post(CHAT, raw=b"{", **headers),
        await client.get("/v1/models", **headers),
        await client.get("/made/up", **headers),
        await client.get("/metrics", **headers),
        await client.get("/v1/federation/health", **headers),
    ):
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="local-swarm"')
        assert reply.error["type"] == "invalid_request_error"
        assert reply.error["code"] == "invalid_api_key"
        assert "sk-wrong" not in reply.text
        assert reply.headers["X-Request-Id"]
    assert "sk-wrong" not in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/scripted", "/swarm/v1/usage", "/v1/events", "/metrics"])
async def test_slashes_that_say_nothing_open_nothing(locked: RunningNode, path: str) -> None:
    async with aiohttp.ClientSession() as session:
        for target in (path, "/" + path, path.replace("/", "//"), path + "//"):
            async with session.get(URL(locked.url + target, encoded=True)) as response:
                assert response.status == 401, target


async def test_health_needs_no_key(client: Client) -> None:
    for path in ("/livez", "/readyz", "/health", "/v1/health"):
        assert (await client.get(path)).status == 200


async def test_the_sdk_understands_the_refusal(locked: RunningNode) -> None:
    async with openai_client(locked.url) as ai:
        with pytest.raises(AuthenticationError) as caught:
            await ai.models.list()
    assert caught.value.code == "invalid_api_key"
    async with openai_client(locked.url).with_options(api_key=KEY) as ai:
        assert [model.id for model in (await ai.models.list()).data] == ["swarm", "scripted"]


async def test_a_node_without_keys_takes_any() -> None:
    async with node("open", access=AccessRules()) as running, connect(running.url) as client:
        assert (await client.get("/v1/models", Authorization="Bearer none")).status == 200
        assert (await client.get("/v1/models")).status == 200


async def test_peers_of_locked_nodes_answer_each_other_where_that_was_said_aloud() -> None:
    study = node("study")
    async with study:
        kitchen = node("kitchen", study, engine=False)
        async with kitchen, connect(kitchen.url) as client:
            assert (await client.chat(swarm=SINGLE)).status == 401
            reply = await client.post(CHAT, chat_body(swarm=SINGLE), x_api_key=KEY)
            assert reply.status == 200
            assert reply.json["swarm"]["winner"] == "study"
            voted = await client.post(CHAT, chat_body(swarm={"votes": 2}), x_api_key=KEY)
            assert voted.json["swarm"]["votes"] == 2


async def test_what_nodes_ask_is_closed_to_strangers_where_it_was_not_said_aloud() -> None:
    """A node that had members and has none any more: their way in does not open to everybody."""
    async with node("study", access=replace(LOCKED, open_federation=False)) as study, connect(study.url) as client:
        for key in ({}, {"x_api_key": KEY}):
            for reply in (
                await client.get("/federation/v1/node", **key),
                await client.post("/federation/v1/generate", chat_body(), **key),
                await client.post("/federation/v1/utilities/tokenize", {"model": "scripted"}, **key),
                await client.get("/federation/v1/made-up", **key),
            ):
                assert (reply.status, reply.error["code"]) == (403, "members_only")
                assert "`swarm invite` there" in reply.error["message"]
        said = (await client.get("/v1/federation/health", x_api_key=KEY)).json
        assert said["access"] == {"api": "key", "peers": "nobody", "management": "this machine"}
        assert "! closed to other nodes: this one has an API key and no members" in render(parse_view(said))


async def test_an_open_federation_beside_a_key_is_said_in_the_status(client: Client) -> None:
    said = (await client.get("/v1/federation/health", x_api_key=KEY)).json
    assert said["access"]["peers"] == "anyone"
    assert "! open to nodes without the API key" in render(parse_view(said))


async def test_in_no_federation_the_key_guards_the_peers_endpoints_too() -> None:
    alone = AccessRules(key_digests=(digest(KEY),), federated=False)
    async with node("kitchen", access=alone) as running, connect(running.url) as client:
        assert (await client.get("/federation/v1/node")).status == 401
        assert (await client.post("/federation/v1/generate", chat_body())).status == 401
        assert (await client.get("/federation/v1/node", x_api_key=KEY)).status == 200


@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/federation/v1/node", "/made/up"])
async def test_a_name_that_is_not_this_machines_is_refused(client: Client, path: str) -> None:
    reply = await client.get(path, Host="evil.example:17615", x_api_key=KEY)
    assert reply.status == 403
    assert reply.error["code"] == "host_not_allowed"
    assert "--allow-host 'evil.example'" in reply.error["message"]
    assert (await client.get(path, Host="localhost:1", x_api_key=KEY)).status in (200, 404)


async def test_two_hosts_in_one_request_are_none(locked: RunningNode) -> None:
    reader, writer = await asyncio.open_connection(*locked.address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_health_check_of_http_1_0_names_no_host(locked: RunningNode) -> None:
    reader, writer = await asyncio.open_connection(*locked.address)
    writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
    assert b" 200 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_page_of_another_origin_gets_nothing(client: Client) -> None:
    page = {"Origin": "http://evil.example", "x_api_key": KEY}
    for reply in (
        await client.get("/v1/models", **page),
        await client.get("/livez", **page),
        await client.post(CHAT, chat_body(), **page),
        await client.get("/v1/models", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors", x_api_key=KEY),
    ):
        assert reply.status == 403
        assert reply.error["code"] == "origin_not_allowed"
        assert "Access-Control-Allow-Origin" not in reply.headers


async def test_the_nodes_own_page_may_ask(client: Client, locked: RunningNode) -> None:
    reply = await client.get("/v1/models", Origin=locked.url, Sec_Fetch_Site="same-origin", x_api_key=KEY)
    assert reply.status == 200


async def test_no_page_at_all_may_ask_what_peers_ask(client: Client, locked: RunningNode) -> None:
    for origin in (locked.url, PAGE, "http://evil.example"):
        assert (await client.get("/federation/v1/node", Origin=origin)).status == 403


async def preflight(locked: RunningNode, path: str, **headers: str) -> aiohttp.ClientResponse:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.options(locked.url + path, headers=sent) as response,
    ):
        await response.read()
        return response


async def test_a_preflight_of_an_allowed_page_needs_no_key(locked: RunningNode) -> None:
    asked: dict[str, str] = {"Origin": PAGE, "Access_Control_Request_Private_Network": "true", **PREFLIGHT}
    response = await preflight(locked, CHAT, **asked)
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    assert response.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
    assert response.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
    assert response.headers["Access-Control-Max-Age"] == "600"
    assert response.headers["Access-Control-Allow-Private-Network"] == "true"
    assert response.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_a_preflight_of_another_page_is_refused(locked: RunningNode) -> None:
    response = await preflight(locked, CHAT, Origin="http://evil.example", **PREFLIGHT)
    assert response.status == 403
    assert not [name for name in response.headers if name.startswith("Access-Control-")]


async def test_options_without_a_page_says_which_methods_there_are(locked: RunningNode) -> None:
    response = await preflight(locked, "/v1/models")
    assert (response.status, response.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_to_an_allowed_page_name_it_and_streams_do_too(client: Client, stream: bool) -> None:
    body: dict[str, Any] = chat_body(stream=stream, swarm=SINGLE)
    reply = await client.post(CHAT, body, Origin=PAGE, Sec_Fetch_Site="cross-site", x_api_key=KEY)
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    assert "X-Request-Id" in reply.headers["Access-Control-Expose-Headers"]
    assert reply.headers["Vary"] == "Origin"


async def test_an_allowed_page_can_read_its_errors(client: Client) -> None:
    for reply in (
        await client.post(CHAT, chat_body(), Origin=PAGE),
        await client.post(CHAT, {}, Origin=PAGE, x_api_key=KEY),
        await client.get("/made/up", Origin=PAGE, x_api_key=KEY),
    ):
        assert reply.status in (400, 401, 404)
        assert reply.headers["Access-Control-Allow-Origin"] == PAGE


async def test_without_an_allow_list_no_answer_speaks_of_origins() -> None:
    kitchen = node("kitchen", access=AccessRules())
    async with run_nodes(kitchen), connect(kitchen.url) as client:
        reply = await client.get("/v1/models")
        assert not [name for name in reply.headers if name.startswith("Access-Control-") or name == "Vary"]
