"""The `swarm` object of a request: what contradicts itself or the rest of the body is a 400 that names one field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from swarm.consensus.options import STRATEGIES, STREAM_MODES, Ahead, Strategy
from swarm.errors import BadRequest
from swarm.gateway.answers.swarm_options import SwarmOptions
from swarm.gateway.http.bodies import compact, parse_body
from swarm.gateway.openai.bodies import ChatCompletionBody
from swarm.routing.policy import VoteOptions
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    # the swarm object, the rest of the body, the field to blame, a part of what is said
    ({"votes": 0}, {}, "swarm.votes", "use a whole number from 1 to 32 (got 0)"),
    ({"votes": 1000}, {}, "swarm.votes", "use a whole number from 1 to 32 (got 1000)"),
    ({"votes": 2.5}, {}, "swarm.votes", "from 1 to 32 (got 2.5)"),
    ({"votes": True}, {}, "swarm.votes", "from 1 to 32"),
    ({"min_votes": 33}, {}, "swarm.min_votes", "from 1 to 32"),
    ({"votes": 3, "min_votes": 4}, {}, "swarm.min_votes", "use 1 to 3 (got 4)"),
    ({"deadline_s": 0}, {}, "swarm.deadline_s", "seconds above 0 and up to 3600"),
    ({"deadline_s": 3601}, {}, "swarm.deadline_s", "seconds above 0 and up to 3600"),
    ({"strategy": "dictator"}, {}, "swarm.strategy", "'auto', 'majority', 'weighted', 'confident', 'medoid'"),
    ({"strategy": "AUTO"}, {}, "swarm.strategy", "(got 'AUTO')"),
    ({"strategy": "single", "votes": 5}, {}, "swarm.votes", "single asks one voter"),
    ({"strategy": "single", "min_votes": 2}, {}, "swarm.min_votes", "single asks one voter"),
    ({"strategy": "first", "min_votes": 2}, {}, "swarm.min_votes", "first answer"),
    ({"stop": "soon"}, {}, "swarm.stop", "'lead' or 'posterior'"),
    ({"stop": "posterior", "votes": 7}, {}, "swarm.stop", "8 to 32 votes, and votes is 7"),
    ({"stop": "posterior", "strategy": "first", "votes": 8}, {}, "swarm.stop", "compares no answers"),
    ({"stop": {"ahead": 0}}, {}, "swarm.stop.ahead", "a whole number from 1 to 16 (got 0)"),
    ({"stop": {"ahead": 2.5}}, {}, "swarm.stop.ahead", "a whole number from 1 to 16"),
    ({"stop": {"ahead": 3, "max_votes": 33}}, {}, "swarm.stop.max_votes", "a whole number from 1 to 32 (got 33)"),
    ({"stop": {"max_votes": 9}}, {}, "swarm.stop.ahead", "required"),
    ({"stop": {"ahead": 3, "max_votes": 2}}, {}, "swarm.stop", "of 2 votes none can be 3 ahead"),
    ({"stop": {"ahead": 3}, "votes": 2}, {}, "swarm.stop", "of 2 votes none can be 3 ahead"),
    ({"stop": {"ahead": 3, "max_votes": 9}, "votes": 9}, {}, "swarm.stop", "leave one of them out"),
    ({"stop": {"ahead": 2}, "min_votes": 10}, {}, "swarm.stop", "min_votes is 10, and max_votes 9"),
    *(
        ({"stop": {"ahead": 1}, "strategy": strategy}, {}, "swarm.stop", "compares no answers")
        for strategy in ("single", "first")
    ),
    ({"stop": {"ahead": 1}, "strategy": "judge"}, {}, "swarm.stop", "a race goes on"),
    ({"on_no_quorum": "panic"}, {}, "swarm.on_no_quorum", "'best_effort' or 'error'"),
    ({"min_agreement": 1.01}, {}, "swarm.min_agreement", "a share from 0 to 1 (got 1.01)"),
    ({"min_agreement": -0.1}, {}, "swarm.min_agreement", "a share from 0 to 1"),
    ({"min_agreement": 0.5, "strategy": "single"}, {}, "swarm.min_agreement", "compares no answers"),
    ({"stream": "loudly"}, {"stream": True}, "swarm.stream", "'leader', 'words', 'buffer' or 'reasoning'"),
    ({"stream": "leader"}, {}, "swarm.stream", "stream is not true"),
    ({"stream": "buffer"}, {"stream": False}, "swarm.stream", "stream is not true"),
    ({"stream": "buffer", "strategy": "single"}, {"stream": True}, "swarm.stream", "streams its one answer"),
    ({"stream": "leader", "strategy": "first"}, {"stream": True}, "swarm.stream", "use buffer"),
    ({"progress": True}, {}, "swarm.progress", "needs stream: true"),
    ({"of_a_later_version": 1}, {}, "swarm.of_a_later_version", "no field 'of_a_later_version': use strategy, votes,"),
    ({"votes": 3, "min_vote": 2}, {}, "swarm.min_vote", "no field 'min_vote': did you mean min_votes? (got 2)"),
    ({"strategi": None}, {}, "swarm.strategi", "did you mean strategy?"),
    ({"stop": {"ahed": 3}}, {}, "swarm.stop.ahed", "did you mean ahead?"),
    ({"stop": {"ahead": 3, "of_a_later_version": 1}}, {}, "swarm.stop.of_a_later_version", "use ahead, max_votes"),
    ({"y" * 1000: 1}, {}, "swarm", f"no field '{'y' * 80}': use strategy"),
    ({"{told}\n": 1}, {}, "swarm", "no field '{told}\\n': use strategy"),
    ({"votes": 3}, {"n": 2}, "swarm.votes", "n is 2"),
    ({"strategy": "majority"}, {"n": 2}, "swarm.strategy", "n is 2"),
    ({"min_votes": 2}, {"n": 2}, "swarm.min_votes", "n is 2"),
    ({"stop": {"ahead": 1}}, {"n": 2}, "swarm.stop", "n is 2"),
    ({"stop": "posterior"}, {"n": 2}, "swarm.stop", "n is 2"),
    ({"min_agreement": 0.5}, {"n": 2}, "swarm.min_agreement", "n is 2"),
]
TAKEN: list[tuple[dict[str, Any], dict[str, Any], VoteOptions]] = [
    ({}, {}, VoteOptions()),
    ({"votes": 32, "min_votes": 32}, {}, VoteOptions(votes=32, min_votes=32)),
    ({"strategy": "single", "votes": 1}, {"n": 3}, VoteOptions(Strategy.SINGLE, votes=1)),
    ({"stop": "posterior"}, {}, VoteOptions(stop="posterior")),
    ({"stop": "posterior", "votes": 8}, {}, VoteOptions(votes=8, stop="posterior")),
    ({"stop": {"ahead": 3}}, {}, VoteOptions(votes=9, stop=Ahead(3))),
    ({"stop": {"ahead": 5}}, {}, VoteOptions(votes=15, stop=Ahead(5))),
    ({"stop": {"ahead": 16}}, {}, VoteOptions(votes=32, stop=Ahead(16))),
    ({"stop": {"ahead": 3}, "votes": 5}, {}, VoteOptions(votes=5, stop=Ahead(3))),
    ({"stop": {"ahead": 3, "max_votes": 12}, "min_votes": 12}, {}, VoteOptions(votes=12, min_votes=12, stop=Ahead(3))),
    ({"min_agreement": 0}, {}, VoteOptions(min_agreement=0)),
    ({"min_agreement": 1, "on_no_quorum": "error"}, {}, VoteOptions(min_agreement=1, on_no_quorum="error")),
    ({"stream": "buffer", "strategy": "first"}, {"stream": True}, VoteOptions(Strategy.FIRST, stream="buffer")),
    ({"stream": "reasoning", "progress": True}, {"stream": True}, VoteOptions(stream="reasoning", progress=True)),
    ({"upstream": False, "deadline_s": 0.5}, {}, VoteOptions(deadline_s=0.5, upstream=False)),
]


def options_of(swarm: dict[str, Any], rest: dict[str, Any]) -> VoteOptions:
    return parse_body(compact(chat_body(swarm=swarm, **rest)).encode(), ChatCompletionBody).options


@pytest.mark.parametrize(("swarm", "rest", "param", "told"), REFUSED, ids=str)
def test_a_contradiction_names_its_field_and_the_bounds(
    swarm: dict[str, Any], rest: dict[str, Any], param: str, told: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        options_of(swarm, rest)
    assert caught.value.param == param
    assert told in str(caught.value)
    assert param.removeprefix("swarm.") in str(caught.value)


@pytest.mark.skipif("judge" not in STRATEGIES, reason="there is no judge yet")
def test_a_judge_of_one_answer_is_refused() -> None:
    with pytest.raises(BadRequest, match="use 2 to 32") as caught:
        options_of({"strategy": "judge", "votes": 1}, {})
    assert caught.value.param == "swarm.votes"


@pytest.mark.parametrize(("swarm", "rest", "options"), TAKEN, ids=str)
def test_what_can_work_is_taken_as_it_is_said(
    swarm: dict[str, Any], rest: dict[str, Any], options: VoteOptions
) -> None:
    assert options_of(swarm, rest) == options


@given(
    swarm=st.dictionaries(
        st.sampled_from(sorted(SwarmOptions.model_fields)),
        st.none()
        | st.booleans()
        | st.integers(-1, 40)
        | st.floats(-1, 40)
        | st.dictionaries(st.sampled_from(["ahead", "max_votes", "other"]), st.integers(-1, 40))
        | st.sampled_from([*STRATEGIES, *STREAM_MODES, "posterior", "error"]),
    ),
    stream=st.booleans(),
)
def test_any_swarm_object_is_taken_or_blamed_on_a_field_of_it(swarm: dict[str, Any], stream: bool) -> None:
    blamed: str | None = f"swarm.{next(iter(swarm), None)}"
    try:
        options_of(swarm, {"stream": stream})
    except BadRequest as error:
        blamed = error.param
    assert blamed is not None
    assert ".".join(blamed.split(".")[:2]) in {f"swarm.{name}" for name in swarm or {None}}


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        RunningNode("kitchen", ready(ScriptedEngine(saying("yes")))) as node,
        connect(node.url) as connected,
    ):
        yield connected


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(),
    "/v1/completions": {"model": "swarm", "prompt": "x"},
    "/v1/responses": {"model": "swarm", "input": "x"},
    "/v1/messages": chat_body(max_tokens=9),
}


@pytest.mark.parametrize("path", BODIES)
async def test_every_api_refuses_alike(client: Client, path: str) -> None:
    for swarm, field in (
        ({"votes": 0}, "swarm.votes"),
        ({"vote": 3}, "swarm.vote"),
        ({"stop": {"ahead": 3, "most": 9}}, "swarm.stop.most"),
        ({"stream": "leader"}, "swarm.stream"),
    ):
        reply = await client.post(path, {**BODIES[path], "swarm": swarm})
        assert reply.status == 400
        assert field in reply.error["message"]
        assert reply.error.get("param", field) == field, "Anthropic's errors have no such field"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "swarm", "input": "x"}),
        ("/completion", {"prompt": "x"}),
        ("/infill", {"input_prefix": "x", "input_suffix": "y"}),
        ("/apply-template", chat_body()),
    ],
)
async def test_no_api_takes_a_field_that_there_is_not(client: Client, path: str, body: dict[str, Any]) -> None:
    reply = await client.post(path, {**body, "swarm": {"upsteam": False}})
    assert (reply.status, reply.error["param"]) == (400, "swarm.upsteam")
    assert "swarm.upsteam: there is no field 'upsteam': did you mean upstream? (got False)" in reply.error["message"]
