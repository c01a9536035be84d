"""Cascades over real nodes with unequal models: who is asked, whose answer stands, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from swarm.consensus.options import Strategy
from swarm.errors import EngineFailed
from swarm.registry.weights_file import Measured, MeasuredCascade, Measurements
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step

SUM, PROSE = "What is 40 + 2?", "Tell me about the sea."
SMALL = 2_000_000
SIZES = {"demo": SMALL, "demo:b": SMALL, "large": 9_000_000, "huge": 700_000_000}
RIGHT, WRONG = "Answer: 42", "Answer: 43"
MEASURED = {"number": MeasuredCascade(("demo", "demo:b"), "large", votes=4, agreement=0.75, asked=100)}
MODELS = {"attic": "large", "study": "demo:b", "kitchen": "demo"}  # the last one is asked, and knows the others


class House:
    """A node for each model; what each of its voters says is a step of its own, the last one for all further ones."""

    client: Client

    def __init__(self) -> None:
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}

    @property
    def asked(self) -> dict[str, int]:
        """The requests that reached each model."""
        return {model: len(engine.requests) for model, engine in self.engines.items()}

    async def cascade(self, text: str = SUM, stream: bool = False, **swarm: Any) -> Reply:
        return await self.client.chat(text, stream=stream, swarm={"strategy": "cascade", **swarm})


@asynccontextmanager
async def house(
    said: Mapping[str, Sequence[Step]],
    models: Mapping[str, str] = MODELS,
    measured: Measurements | None = None,
    cascades: Mapping[str, MeasuredCascade] | None = None,
    strategy: Strategy = Strategy.AUTO,
    slots: int = 4,
) -> AsyncGenerator[House]:
    built = House()
    async with AsyncExitStack() as stack:
        for name, model in models.items():
            steps = said[model]
            engine = ScriptedEngine(
                lambda _, voter, steps=steps: [steps[min(voter, len(steps) - 1)]], model_id=model, slots=slots
            )
            options = NodeOptions(
                peers=[node.address for node in built.nodes.values()],
                params=SIZES[model],
                sizes=SIZES,
                measurements=measured or {},
                cascades=cascades or {},
                strategy=strategy,
            )
            node = await stack.enter_async_context(RunningNode(name, ready(engine), options=options))
            built.nodes[name], built.engines[model] = node, engine
        node = built.nodes["kitchen"]
        await node.until(lambda: len(node.membership.alive()) == len(models) - 1)
        built.client = await stack.enter_async_context(connect(node.url))
        yield built


def text_of(reply: Reply) -> str:
    return str(reply.json["choices"][0]["message"]["content"])


async def test_where_the_small_agree_the_strongest_is_never_asked() -> None:
    async with house({"demo": [RIGHT], "demo:b": [RIGHT], "large": [WRONG]}) as built:
        reply = await built.cascade()
        account = reply.json["swarm"]
        assert (text_of(reply), built.asked["large"]) == (RIGHT, 0)
        assert (account["stopped_by"], account["outcome"], account["strategy"]) == ("agreed", "consensus", "cascade")
        assert (account["asked"], account["wanted"], account["saved"]) == (2, 3, 1)
        assert account["cascade"] == {
            "strong": "large",
            "asked": False,
            "agreement": 1,
            "threshold": 1,
            "measured": False,
        }


async def test_where_they_disagree_the_strongest_answers_and_sees_nothing_of_theirs() -> None:
    async with house({"demo": [WRONG], "demo:b": ["Answer: 44"], "large": [RIGHT]}) as built:
        reply = await built.cascade()
        account = reply.json["swarm"]
        assert (text_of(reply), account["winner"].split("@")[1]) == (RIGHT, "attic")
        assert (account["stopped_by"], account["outcome"], account["degraded"]) == ("strongest", "plurality", False)
        assert (account["asked"], account["wanted"], account["saved"]) == (3, 3, 0)
        assert account["cascade"] == {
            "strong": "large",
            "asked": True,
            "agreement": 0.5,
            "threshold": 1,
            "measured": False,
        }
        (seen,) = built.engines["large"].requests
        assert seen.messages == built.engines["demo"].requests[0].messages


async def test_what_was_measured_says_who_is_strong_and_how_many_have_to_agree() -> None:
    """`demo` was measured best: it is asked last, whatever the sizes say."""
    right = {"demo": 90, "demo:b": 60, "large": 50}
    measured = {model: {"number": Measured(count, 100)} for model, count in right.items()}
    two = {"number": MeasuredCascade(("large", "demo:b"), "demo", votes=4, agreement=0.75, asked=100)}
    async with house({"demo": [WRONG], "demo:b": [RIGHT, WRONG], "large": [RIGHT]}, MODELS, measured, two) as built:
        account = (await built.cascade()).json["swarm"]
        assert (account["cascade"]["strong"], account["stopped_by"], built.asked["demo"]) == ("demo", "agreed", 0)
        assert (account["cascade"]["threshold"], account["cascade"]["measured"]) == (0.75, True)
        assert account["wanted"] == 5


async def test_a_threshold_counts_for_the_models_that_it_was_measured_with() -> None:
    async with house({"demo": [RIGHT], "demo:b": [RIGHT, WRONG], "large": [WRONG]}, cascades=MEASURED) as built:
        account = (await built.cascade()).json["swarm"]
        assert (account["stopped_by"], account["cascade"]["measured"]) == ("agreed", True)
        account = (await built.cascade(votes=3)).json["swarm"]
        assert account["cascade"]["measured"] is False, "of two small votes nothing was measured"


async def test_a_model_too_weak_for_a_vote_among_equals_is_small_here() -> None:
    models = {"attic": "huge", "kitchen": "demo"}
    async with house({"demo": [RIGHT], "huge": [WRONG]}, models) as built:
        account = (await built.cascade()).json["swarm"]
        assert (account["stopped_by"], account["votes"], built.asked["huge"]) == ("agreed", 3, 0), "three of one model"
        assert "left_out" not in account


async def test_one_that_is_silent_does_not_keep_the_strongest_from_being_asked() -> None:
    never = asyncio.Event()
    async with house({"demo": [WRONG], "demo:b": [never], "large": [RIGHT]}) as built:
        account = (await built.cascade()).json["swarm"]
        assert (account["stopped_by"], account["saved"], account["cascade"]["asked"]) == ("strongest", 1, True)


async def test_where_the_strongest_fails_the_best_of_the_others_is_given_as_degraded() -> None:
    broken = EngineFailed("out of order")
    async with house({"demo": [RIGHT], "demo:b": [WRONG], "large": [broken]}) as built:
        reply = await built.cascade()
        account = reply.json["swarm"]
        assert text_of(reply) in (RIGHT, WRONG)
        assert (account["outcome"], account["quorum"]) == ("degraded", False)
        assert "large gave no answer" in account["shortfall"]
        refused = await built.cascade(on_no_quorum="error")
        assert (refused.status, "large gave no answer" in refused.text) == (503, True)


async def test_at_the_deadline_what_is_in_is_given_as_degraded() -> None:
    never = asyncio.Event()
    async with house({"demo": [RIGHT], "demo:b": [WRONG], "large": [never]}) as built:
        account = (await built.cascade(deadline_s=0.5)).json["swarm"]
        assert (account["stopped_by"], account["outcome"]) == ("deadline", "degraded")


async def test_a_stream_shows_nothing_before_it_is_decided_who_answers() -> None:
    async with house({"demo": [WRONG], "demo:b": ["Answer: 44"], "large": [RIGHT]}) as built:
        reply = await built.cascade(stream=True, progress=True)
        shown = "".join(c["choices"][0]["delta"].get("content") or "" for c in reply.chunks if c.get("choices"))
        assert shown == RIGHT
        standings = [chunk["swarm"]["ballot"] for chunk in reply.chunks if "ballot" in chunk.get("swarm", {})]
        assert not any(standing["degraded"] for standing in standings if standing["votes"] > 1)
        assert standings[-1]["cascade"]["asked"]


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ({"kitchen": "demo"}, "one model"),
        ({"study": "demo:b", "kitchen": "demo"}, "no model is known to be stronger"),
        ({"study": "demo", "kitchen": "large"}, "the smaller models are one peer's, which agrees with nobody"),
    ],
)
async def test_where_no_cascade_is_possible_there_is_a_plain_vote_that_says_why(
    models: dict[str, str], why: str
) -> None:
    async with house({model: [RIGHT] for model in SIZES}, models) as built:
        account = (await built.cascade(votes=4)).json["swarm"]
        assert account["cascade"] == {"strong": None, "why_not": why}
        assert (account["outcome"], account["strategy"]) == ("consensus", "cascade")


async def test_a_node_whose_strategy_it_is_answers_prose_once_by_the_strongest() -> None:
    async with house(
        {"demo": [RIGHT], "demo:b": [RIGHT], "large": ["The sea is salt."]}, strategy=Strategy.CASCADE
    ) as built:
        reply = await built.client.chat(PROSE)
        assert (text_of(reply), reply.json["swarm"]["why"]) == ("The sea is salt.", "prose")
        account = (await built.client.chat(SUM)).json["swarm"]
        assert (account["stopped_by"], account["cascade"]["strong"]) == ("agreed", "large")


@pytest.mark.parametrize(
    ("swarm", "field"),
    [
        ({"votes": 2}, "swarm.votes"),
        ({"votes": 5, "min_votes": 5}, "swarm.min_votes"),
        ({"stop": "posterior"}, "swarm.stop"),
        ({"stop": {"ahead": 2}}, "swarm.stop"),
        ({"stream": "leader"}, "swarm.stream"),
        ({"stream": "reasoning"}, "swarm.stream"),
    ],
)
async def test_what_contradicts_a_cascade_is_refused_by_its_field(swarm: dict[str, Any], field: str) -> None:
    async with house({"demo": [RIGHT]}, {"kitchen": "demo"}) as built:
        reply = await built.client.chat(SUM, stream="stream" in swarm, swarm={"strategy": "cascade", **swarm})
        assert (reply.status, reply.json["error"]["param"]) == (400, field)
