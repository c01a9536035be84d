"""What the doctor takes from the node that runs here, and what it says where that node tells nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from federation.hostport import parse_address
from swarm.doctor.examination import examine_network
from swarm.doctor.finding import Finding, Level
from swarm.gateway.http.access import AccessRules, digest
from swarm.node.settings import Settings, make_settings
from tests.doubles.clients import connect
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode

KEY = "of-the-kitchen"


def settings_of(node: RunningNode, folder: Path) -> Settings:
    given = {"federation": True, "data_dir": folder / node.name, "port": node.address.port, "host": "127.0.0.1"}
    return make_settings(given, environment={})


async def said_of_peers(settings: Settings) -> list[Finding]:
    findings = await asyncio.to_thread(lambda: list(examine_network(settings)))
    return [finding for finding in findings if finding.check.startswith("peer")]


async def test_a_node_with_a_key_is_asked_with_that_of_the_file_and_without_one_nothing_is_claimed(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# laptop\n{KEY}\n")
    keys.chmod(0o600)
    access = AccessRules(key_digests=(digest(KEY),), open_federation=True)
    async with RunningNode("kitchen", options=NodeOptions(access=access)) as kitchen:
        settings = settings_of(kitchen, tmp_path)
        (locked_out,) = await said_of_peers(settings)
        assert locked_out.level is Level.UNKNOWN
        assert "wants an API key" in locked_out.message
        assert "SWARM_API_KEY" in (locked_out.remedy or "")
        (let_in,) = await said_of_peers(replace(settings, api_key_file=keys))
        assert (let_in.level, "knows none" in let_in.message) == (Level.OK, True)


async def test_members_whose_address_nobody_knows_are_named(tmp_path: Path) -> None:
    kitchen, _ = paired_trusts(tmp_path, "kitchen", "study")
    async with RunningNode("kitchen", options=NodeOptions(trust=kitchen)) as node:
        (finding,) = await said_of_peers(settings_of(node, tmp_path))
        async with connect(node.url) as client:
            health = (await client.get("/v1/federation/health")).json
    assert [member["name"] for member in health["trust"]["absent"]] == ["study"]
    assert (finding.level, finding.message) == (Level.WARN, "members without a known address: study")


@pytest.fixture
async def web_server() -> AsyncIterator[str]:
    """Something that answers HTTP and is not a node."""

    async def page(_: web.BaseRequest) -> web.Response:
        text = "<html>" + "<p>not here</p>" * 100
        return web.Response(status=404, text=text, content_type="text/html")

    runner = web.ServerRunner(web.Server(page))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "{}:{}".format(*runner.addresses[0][:2])
    await runner.cleanup()


async def test_what_the_node_rejects_is_said_in_its_words(tmp_path: Path, web_server: str) -> None:
    address = parse_address(web_server)
    async with RunningNode("kitchen", options=NodeOptions(trust=open_trust(tmp_path, "kitchen"))) as node:
        node.membership.listed((address,))
        await node.until(lambda: bool(node.membership.rejected()))
        (finding,) = await said_of_peers(settings_of(node, tmp_path))
    assert (finding.check, finding.level) == (f"peer {address}", Level.WARN)
    assert finding.message.endswith(f"no node: {address} answers HTTP 404: it is not a node")
    assert "firewall" not in (finding.remedy or "")


async def test_an_address_that_answers_as_no_node_is_no_matter_of_firewalls(tmp_path: Path, web_server: str) -> None:
    async with RunningNode("kitchen") as node:
        (finding,) = await said_of_peers(replace(settings_of(node, tmp_path), peer=(web_server,)))
    assert (finding.level, finding.message) == (Level.FAIL, "answers HTTP 404: it is not a node")
    assert "firewall" not in (finding.remedy or "")


async def test_a_list_of_peers_is_looked_at_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (tmp_path / "peers.txt").write_text(f"127.0.0.1:{port}  # the study\n")
    (tmp_path / "spoilt.txt").write_text("host:port\n")
    async with RunningNode("kitchen") as node:
        settings = settings_of(node, tmp_path)
        (down,) = await said_of_peers(replace(settings, peer_file=tmp_path / "peers.txt"))
        spoilt, *_ = await said_of_peers(replace(settings, peer_file=tmp_path / "spoilt.txt"))
    assert (down.check, down.level) == (f"peer 127.0.0.1:{port}", Level.FAIL)
    assert (spoilt.level, "line 1" in spoilt.message, "correct it" in (spoilt.remedy or "")) == (Level.FAIL, True, True)


async def said_of_access(settings: Settings) -> list[Finding]:
    findings = await asyncio.to_thread(lambda: list(examine_network(settings)))
    return [finding for finding in findings if finding.check == "access"]


@pytest.mark.parametrize(
    ("aloud", "with_key", "told", "remedy"),
    [
        (
            True,
            True,
            "any machine that reaches the port may have answers generated at /federation/v1",
            "pair the nodes",
        ),
        (False, False, None, None),
    ],
)
async def test_what_the_node_here_leaves_open_beside_its_key_is_said(
    tmp_path: Path, aloud: bool, with_key: bool, told: str | None, remedy: str | None
) -> None:
    access = AccessRules(key_digests=(digest(KEY),) if with_key else (), open_federation=aloud)
    async with RunningNode("kitchen", options=NodeOptions(access=access)) as kitchen:
        findings = await said_of_access(replace(settings_of(kitchen, tmp_path), api_key=(KEY,)))
    assert len(findings) == (told is not None)
    for finding in findings:
        assert (finding.level, told in finding.message, remedy in (finding.remedy or "")) == (Level.WARN, True, True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "does not start in an open federation"),
        ({"open_federation": True}, "without one (--open-federation)"),
        ({"federation": False}, None),
        ({"api_key": ()}, None),
    ],
)
async def test_what_the_settings_would_make_of_a_node_is_said_while_none_runs(
    tmp_path: Path, changed: dict[str, object], told: str | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    given = {"federation": True, "data_dir": tmp_path, "port": port, "host": "127.0.0.1", "api_key": [KEY]}
    findings = await said_of_access(make_settings(given | changed, environment={}))
    assert [(finding.level, told in finding.message) for finding in findings] == (
        [] if told is None else [(Level.WARN, True)]
    )
    paired_trusts(tmp_path, "node", "study")
    paired = make_settings(given | changed | {"data_dir": tmp_path / "node"}, environment={})
    assert await said_of_access(paired) == []
