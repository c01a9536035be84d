"""Proxies of the environment: nodes, engines and this machine are asked directly, the hub and the internet by them."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from federation.client import PeerClient
from swarm.commands.bench_endpoint import MeasuredEndpoint
from swarm.commands.node_client import NodeApi, get_json, post_stream
from swarm.doctor import own_node
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp import xllamacpp
from swarm.engines.upstream.address import parse_upstream, proxy_to
from swarm.engines.upstream.upstream_http import UpstreamHttp
from swarm.environment import keep_this_machine_direct
from swarm.errors import SetupError
from swarm.generation import GenerationRequest
from swarm.registry.hub import hub_reachable
from tests.commands.test_asking_a_node import answering
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.e2e.node_process import PROGRAM, environment

KINDS = ("http_proxy", "https_proxy", "all_proxy")
COMMAND_S = 60.0


def set_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in (*KINDS, *map(str.upper, KINDS)):
        monkeypatch.setenv(name, url)


async def test_no_client_of_nodes_and_engines_asks_a_proxy(monkeypatch: pytest.MonkeyPatch, demo_model: Path) -> None:
    chat = {"model": "swarm", "messages": [{"role": "user", "content": "the secret"}], "stream": True}
    with answering(200, b"{}") as (proxy, asked):
        set_proxy(monkeypatch, proxy)
        async with RunningNode("kitchen", ready(ScriptedEngine(lambda _, __: ["hello"]))) as kitchen:
            api = NodeApi(kitchen.url, "sk-secret")
            view = await asyncio.to_thread(get_json, api, "/v1/federation/health")
            assert view["node"]["name"] == "kitchen"
            assert await asyncio.to_thread(lambda: list(post_stream(api, "/v1/chat/completions", chat)))
            async with MeasuredEndpoint(kitchen.url, "sk-secret") as endpoint:
                assert await endpoint.models()
            async with PeerClient("id-here") as client:
                assert (await client.describe(kitchen.address)).name == "kitchen"
            found = await asyncio.to_thread(own_node.find_own_node, ("127.0.0.1",), kitchen.address.port, None, None)
            assert found is not None
            upstream = UpstreamHttp(parse_upstream(kitchen.url), "sk-secret")
            assert await upstream.models()
            await upstream.aclose()
        engine = await xllamacpp.load(EngineSpec("demo", demo_model, 256, 1, 1), "never")
        assert await engine.count_tokens(GenerationRequest(model="demo", prompt="hello"))
        await engine.aclose()
    assert not asked


def test_commands_and_a_whole_node_ask_no_proxy(tmp_path: Path) -> None:
    """`models pull` from a hub on this machine, too, which its library would ask through a proxy."""
    with answering(404, b"{}") as (proxy, asked), answering(404, b"{}") as (hub, asked_of_hub):
        proxies = dict.fromkeys((*KINDS, *map(str.upper, KINDS)), proxy)
        kept = {**environment(tmp_path), **proxies, "HF_ENDPOINT": hub}
        for words in ("status", "chat hello", "vote hello", "models pull hf:a/b/c.gguf", "peers", "doctor"):
            command = [*PROGRAM, *words.split(), *(("--url", hub) if words[:4] in ("stat", "chat", "vote") else ())]
            done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=COMMAND_S, check=False)
            assert "Traceback" not in done.stderr
    assert not asked
    assert len(asked_of_hub) >= 4


def test_the_hub_on_the_internet_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with answering(404, b"{}") as (proxy, asked):
        for variable in ("HTTP_PROXY", "ALL_PROXY"):
            asked.clear()
            kept = {**environment(tmp_path), variable: proxy, "HF_ENDPOINT": "http://hub.invalid"}
            command = [*PROGRAM, "models", "pull", "hf:a/b/c.gguf"]
            subprocess.run(command, env=kept, capture_output=True, timeout=COMMAND_S, check=False)
            assert asked
            asked.clear()
            with monkeypatch.context() as patch:
                patch.setenv(variable, proxy)
                patch.setenv("HF_ENDPOINT", "http://hub.invalid")
                assert hub_reachable()
            assert asked


def test_a_proxy_that_the_download_cannot_use_is_a_sentence(tmp_path: Path) -> None:
    kept = {**environment(tmp_path), "ALL_PROXY": "socks5://127.0.0.1:9", "HF_ENDPOINT": "http://hub.invalid"}
    command = [*PROGRAM, "models", "pull", "hf:a/b/c.gguf"]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 2
    assert "SOCKS proxy" in done.stderr
    assert "Traceback" not in done.stderr


CLOUD, PLAIN, NEAR = "https://api.example.com/v1", "http://api.example.com:81", "http://192.168.1.9:8080"


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        (CLOUD, {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        (CLOUD, {"https_proxy": "proxy:3128", "HTTPS_PROXY": "http://other:1"}, "http://proxy:3128"),
        (CLOUD, {"HTTP_PROXY": "http://proxy:3128"}, None),
        (PLAIN, {"HTTP_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        (CLOUD, {"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        (CLOUD, {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "localhost, .example.com"}, None),
        (CLOUD, {"HTTPS_PROXY": "http://proxy:1", "no_proxy": "example.com"}, None),
        (PLAIN, {"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "api.example.com:81"}, None),
        (PLAIN, {"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "api.example.com:82"}, "http://proxy:1"),
        (CLOUD, {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "*"}, None),
        (CLOUD, {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "ample.com,,"}, "http://proxy:1"),
        (NEAR, {"HTTP_PROXY": "http://proxy:1", "ALL_PROXY": "http://proxy:1"}, None),
        ("http://localhost:11434", {"HTTP_PROXY": "http://proxy:1"}, None),
        (CLOUD, {}, None),
        (CLOUD, {"HTTPS_PROXY": ""}, None),
    ],
)
def test_an_upstream_on_the_internet_is_asked_by_the_proxy(
    url: str, variables: dict[str, str], proxy: str | None
) -> None:
    assert proxy_to(parse_upstream(url), variables) == proxy


def test_an_upstream_behind_a_proxy_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(SetupError, match=r"ALL_PROXY names a socks5 proxy.*HTTPS_PROXY.*NO_PROXY=api\.example\.com"):
        proxy_to(parse_upstream(CLOUD), {"ALL_PROXY": "socks5://127.0.0.1:1080"})


async def test_an_upstream_s_proxy_is_used() -> None:
    from dataclasses import replace

    with answering(200, b'{"data": [{"id": "far-model"}]}') as (proxy, asked):
        upstream = UpstreamHttp(replace(parse_upstream("http://api.invalid"), proxy=proxy), "sk")
        assert await upstream.models() == ("far-model",)
        await upstream.aclose()
    assert asked == ["http://api.invalid/v1/models Bearer sk"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, None),
        ({"NO_PROXY": "a"}, "a,localhost,127.0.0.1,::1"),
        ({"HTTP_PROXY": "x"}, "localhost,127.0.0.1,::1"),
        ({"https_proxy": "x", "no_proxy": "a, ::1"}, "a,::1,localhost,127.0.0.1"),
        ({"all_proxy": "x", "NO_PROXY": "*"}, "*"),
    ],
)
def test_no_library_asks_this_machine_through_a_proxy(before: dict[str, str], after: str | None) -> None:
    variables = dict(before)
    keep_this_machine_direct(variables)
    assert variables.get("NO_PROXY") == after
