"""The `swarm` object is the same on every API; every field of it is in the document and in `docs/swarm-object.md`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
import pytest_asyncio

from swarm.consensus.options import STRATEGIES, STREAM_MODES
from swarm.consensus.verdict import VerdictOutcome
from swarm.gateway.answers.swarm_options import SwarmOptions
from swarm.gateway.documentation.answer_bodies import (
    SwarmCandidate,
    SwarmLeftOut,
    SwarmLoaded,
    SwarmReport,
    SwarmRoute,
)
from swarm.gateway.documentation.document import make_document
from swarm.gateway.documentation.ollama_answers import OllamaReport, SwarmKeepAlive
from swarm.gateway.documentation.operations import OPERATIONS
from swarm.routing.policy import WhyOnce
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "swarm-object.md").read_text(encoding="utf-8")
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(),
    "/v1/completions": {"model": "swarm", "prompt": "x"},
    "/v1/responses": {"model": "swarm", "input": "x"},
    "/v1/messages": chat_body(max_tokens=9),
}


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    engine = ScriptedEngine(saying("Answer: 16", "Answer: 18", "Answer: 16"))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as connected:
        yield connected


@pytest.mark.parametrize("path", BODIES)
async def test_every_api_tells_the_same_of_a_vote(client: Client, path: str) -> None:
    reply = await client.post(path, {**BODIES[path], "swarm": {"votes": 3, "strategy": "majority"}})
    account = reply.json["swarm"]
    assert (account["strategy"], account["kind"], account["votes"]) == ("majority", "number", 3)
    assert account["agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert reply.headers["X-Swarm-Node"] == "kitchen"
    assert reply.headers["X-Swarm-Votes"] == "3"
    assert reply.headers["X-Swarm-Agreement"] == "0.6667"
    SwarmReport.model_validate(account, strict=True)
    assert set(account) <= set(SwarmReport.model_fields), "a field that is not documented"
    for candidate in account["candidates"]:
        assert set(candidate) <= set(SwarmCandidate.model_fields), "a field that is not documented"


@pytest.mark.parametrize("path", BODIES)
async def test_every_api_tells_where_a_single_answer_was_made(client: Client, path: str) -> None:
    reply = await client.post(path, {**BODIES[path], "swarm": {"strategy": "single"}})
    account = reply.json["swarm"]
    assert account["routed"] == {"node": "kitchen", "reason": "only one", "tried": []}
    SwarmReport.model_validate(account, strict=True)


async def test_several_prompts_have_an_account_each(client: Client) -> None:
    body = {"model": "swarm", "prompt": ["a", "b"], "swarm": {"votes": 2}}
    reply = (await client.post("/v1/completions", body)).json
    assert "swarm" not in reply
    assert [choice["swarm"]["asked"] for choice in reply["choices"]] == [2, 2]


async def test_several_choices_have_none(client: Client) -> None:
    reply = await client.chat(n=3)
    assert "swarm" not in reply.json
    assert "X-Swarm-Votes" not in reply.headers


def test_the_document_describes_every_field_and_header() -> None:
    document: Any = make_document(OPERATIONS, "1")
    schemas = document["components"]["schemas"]
    told = ("SwarmReport", "SwarmCandidate", "SwarmRoute", "SwarmLeftOut", "SwarmLoaded", "SwarmKeepAlive")
    for name in ("SwarmOptions", *told):
        undescribed = [key for key, field in schemas[name]["properties"].items() if not field.get("description")]
        assert not undescribed
    assert schemas["SwarmOptions"]["properties"]["strategy"]["enum"] == list(STRATEGIES)
    for path in BODIES:
        answer = document["paths"][path]["post"]["responses"]["200"]
        assert {"X-Swarm-Node", "X-Swarm-Votes", "X-Swarm-Agreement"} <= set(answer["headers"])


def test_the_page_names_every_field_and_value() -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    told = (OllamaReport, SwarmCandidate, SwarmRoute, SwarmLeftOut, SwarmLoaded, SwarmKeepAlive)
    for model in (SwarmOptions, *told):
        assert set(model.model_fields) <= named
    assert {*STRATEGIES, *STREAM_MODES, *get_args(VerdictOutcome)} <= named
    assert all(f"`{why}`" in PAGE for why in get_args(WhyOnce))
