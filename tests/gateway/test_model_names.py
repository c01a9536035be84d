"""Names of models that no node serves: one rule for every API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

TURN = [{"role": "user", "content": "hello"}]
SINGLE = {"strategy": "single"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURN, "swarm": SINGLE},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello", "swarm": SINGLE},
    "/v1/messages": {"messages": TURN, "max_tokens": 9, "swarm": SINGLE},
    "/v1/embeddings": {"input": "hello"},
}
TEXTS: dict[str, dict[str, Any]] = {
    "/v1/messages/count_tokens": {"messages": TURN},
    "/v1/tokenize": {"content": "hello"},
    "/v1/apply-template": {"messages": TURN},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
}
Ask = Callable[[bool], Client]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ask() -> AsyncIterator[Ask]:
    """A client of a node that answers any name, or of one that does not."""
    async with AsyncExitStack() as stack:
        clients: dict[bool, Client] = {}
        for answers_any in (False, True):
            engine = ScriptedEngine(lambda _, __: ["yes"], model_id="small")
            options = NodeOptions(answers_any=answers_any)
            node = await stack.enter_async_context(RunningNode("kitchen", ready(engine), options=options))
            clients[answers_any] = await stack.enter_async_context(connect(node.url))
        yield lambda answers_any: clients[answers_any]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("name", "answers_any", "said"),
    [
        ("small", False, "small"),
        ("swarm", False, "swarm"),
        ("claude-sonnet-of-tomorrow", False, "swarm"),
        ("gpt-4o-mini", True, "swarm"),
        ("text-embedding-3-small", True, "swarm"),
        ("small", True, "small"),
    ],
)
async def test_the_answer_bears_the_name_that_answered(
    ask: Ask, path: str, name: str, answers_any: bool, said: str
) -> None:
    reply = await ask(answers_any).post(path, {"model": name, **BODIES[path]})
    assert reply.status == 200, reply.text
    assert reply.json["model"] == ("small" if path == "/v1/embeddings" else said)


@pytest.mark.parametrize("path", [*BODIES, *TEXTS])
async def test_any_other_name_is_unknown(ask: Ask, path: str) -> None:
    reply = await ask(False).post(path, {"model": "gpt-4o-mini", **(BODIES | TEXTS)[path]})
    assert reply.status == 404
    message = reply.json["error"]["message"]
    assert "'gpt-4o-mini' is not served here; available: small, swarm" in message
    assert "--answer-any-model" in message


@pytest.mark.parametrize("path", TEXTS)
async def test_calls_that_generate_nothing_keep_the_rule(ask: Ask, path: str) -> None:
    assert (await ask(True).post(path, {"model": "gpt-4o-mini", **TEXTS[path]})).status == 200
    assert (await ask(False).post(path, {"model": "claude-x", **TEXTS[path]})).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_stream_says_who_answers(ask: Ask, path: str) -> None:
    reply = await ask(True).post(path, {"model": "gpt-4o-mini", "stream": True, **BODIES[path]})
    assert '"model":"swarm"' in reply.text
    assert "gpt-4o-mini" not in reply.text
