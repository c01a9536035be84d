"""A whole node, started as people do it, with two upstreams from its file: each has its own key, headers and part."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.doubles.clients import Client, connect
from tests.doubles.upstream_house import content
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage

PROGRAM = (sys.executable, "-m", "swarm.cli")
WAIT_S = 60.0

TABLES = """
upstream_mode = "only"

[upstream.near]
base = "{near}"
model = "small"

[upstream.far]
base = "{far}"
key_variable = "FAR_KEY"
headers = {{ X-Team = "kitchen", X-Secret = "$FAR_SECRET" }}
"""
SECRETS = {"FAR_KEY": "sk-of-far", "FAR_SECRET": "s3cret", "SWARM_UPSTREAM_KEY": "sk-of-near", "GROQ_API_KEY": "gsk"}


def server(*models: str, says: str) -> UpstreamServer:
    listing = {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}
    return UpstreamServer(pieces=(text(says), ending(), usage(), DONE), listing=listing)


@asynccontextmanager
async def running(folder: Path, near: UpstreamServer, far: UpstreamServer) -> AsyncGenerator[tuple[Client, str]]:
    """A client of the node, and what the node says until it is ready."""
    config = folder / "swarm.toml"
    config.write_text(TABLES.format(near=near.url, far=far.url))
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "--config", str(config), "--port", "0", "--host", "127.0.0.1", "--data-dir", str(folder / "data"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **SECRETS},
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(WAIT_S):
            while said.count("ready: ") < 2:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found is not None, said
        async with connect(found.group()) as client:
            yield client, said
    finally:
        process.terminate()
        await process.communicate()


async def test_a_node_with_two_upstreams_of_its_file(tmp_path: Path) -> None:
    near, far = server("small", "tiny", says="near"), server("big", says="far")
    async with near, far, running(tmp_path, near, far) as (client, said):
        for one in (near, far):
            host = one.url.removeprefix("http://")
            assert f"  upstream   {host} (only): gets every request; it is on this machine" in said
            assert f"at {host} answers for this node" in said
        assert content(await client.chat(model="small")) == "near"
        assert content(await client.chat(model="big")) == "far"
        health = (await client.get("/v1/federation/health")).json
        assert [entry["requests"] for entry in health["upstreams"]] == [1, 1]
        assert health["upstream"] == health["upstreams"][0], "which is what earlier versions read"
        done = await asyncio.create_subprocess_exec(
            *PROGRAM, "status", "--url", health["node"]["url"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        shown = (await done.communicate())[0].decode()
    for one, key, other in ((near, "sk-of-near", "sk-of-far"), (far, "sk-of-far", "sk-of-near")):
        assert f"upstream {one.url.removeprefix('http://')} (only)" in shown
        seen = [dict(asked.headers) for asked in one.asked] + [dict(headers) for headers in one.listed]
        assert len(seen) >= 2
        assert {headers["Authorization"] for headers in seen} == {f"Bearer {key}"}
        assert other not in json.dumps(seen)
        assert "gsk" not in json.dumps(seen)
    assert {asked.headers.get("X-Secret") for asked in far.asked} == {"s3cret"}
    assert {asked.headers.get("X-Team") for asked in far.asked} == {"kitchen"}
    assert not any("X-Team" in asked.headers for asked in near.asked)
    assert not any(secret in said + shown for secret in SECRETS.values())
