"""A node as the agent's model: what it is asked, what is kept of its vote, and when it is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from swarm.agent import Agent, ModelChoice
from swarm.agent.step_vote import StepVotes
from swarm.agent.swarm_model import make_swarm_model, node_error, swarm_settings
from swarm.errors import BadRequest, EngineFailed, SetupError, SwarmError, Unauthorized, Unavailable
from swarm.gateway.http.access import AccessRules, digest
from swarm.generation import GenerationRequest
from swarm.providers import THINKING_LEVELS
from tests.agent.scripted_turns import RecordingHost, node_taking
from tests.agent.test_session import LOOK
from tests.doubles.running_node import NodeOptions


def chosen(url: str, waits: list[float], told: list[str]) -> ModelChoice:
    async def sleep(s: float) -> None:
        waits.append(s)

    model = make_swarm_model(url, "swarm", tell=told.append, sleep=sleep)
    return ModelChoice(model, "swarm", explain=lambda error: node_error(error, url))


async def test_a_busy_node_is_asked_again_when_it_says() -> None:
    asked = 0

    def busy_twice(_: GenerationRequest, __: int) -> Sequence[Any]:
        nonlocal asked
        asked += 1
        return [Unavailable("all workers are busy", 3)] if asked <= 2 else ["Done."]

    waits: list[float] = []
    told: list[str] = []
    async with node_taking(busy_twice) as (node, _):
        ended = await Agent(chosen(node.url, waits, told)).run("go")
    assert (ended.output, waits) == ("Done.", [3, 5])
    assert told[0].startswith("the swarm is busy")


async def test_a_model_that_was_left_can_be_used_again() -> None:
    async with node_taking(["Hi."]) as (node, _):
        made = Agent(chosen(node.url, [], []))
        assert [(await made.run("go")).output for _ in range(2)] == ["Hi.", "Hi."]


@pytest.mark.parametrize(
    ("error", "kind", "waits"),
    [
        (Unavailable("busy", 1), Unavailable, [1, 5, 15]),
        (Unavailable("come back tomorrow", 3600), Unavailable, []),
        (EngineFailed("it broke"), EngineFailed, []),
        (BadRequest("never"), BadRequest, []),
    ],
)
async def test_what_does_not_get_better_ends_the_run(
    error: SwarmError, kind: type[SwarmError], waits: list[float]
) -> None:
    waited: list[float] = []
    async with node_taking([error]) as (node, engine):
        with pytest.raises(kind):
            await Agent(chosen(node.url, waited, [])).run("go")
        assert len(engine.requests) == len(waits) + 1
    assert waited == waits


async def test_a_wrong_key_is_said_once_with_the_remedy() -> None:
    options = NodeOptions(access=AccessRules(key_digests=(digest("sk-right"),)))
    async with node_taking(["Hi."], options=options) as (node, engine):
        with pytest.raises(Unauthorized, match="--api-key KEY") as refused:
            await Agent(url=node.url, api_key="sk-wrong-key").run("go")
        assert "sk-wrong-key" not in str(refused.value)
        assert (await Agent(url=node.url, api_key="sk-right").run("go")).output == "Hi."
        assert len(engine.requests) == 1


@pytest.mark.parametrize("level", THINKING_LEVELS)
async def test_a_node_s_model_is_told_whether_to_think(level: Any) -> None:
    async with node_taking(["Hi."]) as (node, engine):
        await Agent(url=node.url, thinking=level).run("go")
        assert engine.requests[0].thinking is (level != "off")


def test_nothing_is_said_of_votes_and_thinking_where_nothing_was_asked() -> None:
    assert swarm_settings(StepVotes()) == {}
    assert swarm_settings(StepVotes(5, 3, 0.5)) == {
        "extra_body": {"swarm": {"votes": 5, "stop": {"ahead": 3}, "min_agreement": 0.5}}
    }


async def test_the_schemas_of_tools_reach_the_model_as_they_are() -> None:
    async with node_taking(["Hi."]) as (node, engine):
        await Agent(url=node.url, hosts=[RecordingHost(LOOK)]).run("go")
        (spec,) = engine.requests[0].tools or ()
        assert spec.function.parameters == LOOK.parameters
        assert [message["role"] for message in engine.requests[0].messages or ()] == ["user"], (
            "and nothing else is said"
        )


def test_settings_of_votes_are_for_a_node_s_model() -> None:
    choice = ModelChoice(None, "x")  # type: ignore[arg-type]
    for more in ({"votes": 3}, {"ahead": 2}, {"min_agreement": 0.5}, {"thinking": "low"}):
        with pytest.raises(SetupError, match="settings of its own"):
            Agent(choice, **more)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="at least 1"):
        Agent(max_turns=0)
