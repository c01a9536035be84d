"""What the official package does by itself after an error: it must repeat what can help, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import APIStatusError, AsyncOpenAI, InternalServerError

from swarm.errors import BadRequest, DeadlineExceeded, EngineFailed, Unavailable
from tests.doubles.clients import openai_client
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

HELLO = [{"role": "user", "content": "hello"}]
SINGLE = {"swarm": {"strategy": "single"}}


@pytest.fixture
async def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda _, __: ["yes"])


@pytest.fixture
async def ai(engine: ScriptedEngine) -> AsyncIterator[AsyncOpenAI]:
    """The package as users have it: two retries."""
    async with RunningNode("kitchen", ready(engine)) as node, openai_client(node.url) as opened:
        yield opened


@pytest.mark.client("openai-python", "errors")
async def test_a_busy_node_is_asked_again_and_answers(ai: AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.script = lambda _, voter: [Unavailable("full") if voter == 0 else "yes"]
    answer = await ai.chat.completions.create(model="swarm", messages=HELLO, extra_body=SINGLE)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "yes"
    assert len(engine.requests) == 2


@pytest.mark.client("openai-python", "errors")
@pytest.mark.parametrize(
    "error",
    [EngineFailed("broke"), DeadlineExceeded("late"), ZeroDivisionError("a defect"), BadRequest("no")],
    ids=["engine", "deadline", "defect", "bad request"],
)
async def test_what_would_fail_again_is_asked_once(ai: AsyncOpenAI, engine: ScriptedEngine, error: Exception) -> None:
    engine.script = lambda _, __: [error]
    with pytest.raises(APIStatusError) as caught:
        await ai.chat.completions.create(model="swarm", messages=HELLO, extra_body=SINGLE)  # type: ignore[arg-type]
    assert len(engine.requests) == 1
    assert isinstance(caught.value, InternalServerError) == (not isinstance(error, BadRequest))
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "code", "param"}
