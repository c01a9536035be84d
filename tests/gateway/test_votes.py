"""Votes as a client sees them: the account they give, the load they bow to, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from swarm.consensus.options import Strategy
from swarm.errors import BadRequest, EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta
from tests.doubles.clients import Reply, chat_body
from tests.doubles.scripted_engine import PROMPT_TOKENS, Step
from tests.doubles.stage import SLOTS, Stage, staged

CHAT, SUM = "/v1/chat/completions", "What is 9 + 7?"
SHORT_S = 0.4  # until deadlines that are meant to pass; what is meant to arrive by then takes milliseconds


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield await staged(stack)


def swarm_of(reply: Reply) -> dict[str, Any]:
    """The account of a vote: of a whole answer, or of the stream's chunk with the finish reason."""
    if not reply.chunks:
        return dict(reply.json["swarm"])
    (last,) = [c for c in reply.chunks if c.get("choices") and c["choices"][0]["finish_reason"]]
    assert not any("swarm" in chunk for chunk in reply.chunks if chunk is not last)
    return dict(last["swarm"])


async def test_the_account_of_a_vote_is_complete(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "I think 9 + 7.\nAnswer: 16", "Answer: 18", "Answer: **16**")
    reply = await stage.client.chat(swarm={"votes": 4, "strategy": "majority"})
    account = swarm_of(reply)
    zeus, nebula, atlas, luna = stage.names
    candidates = {candidate.pop("voter"): candidate for candidate in account.pop("candidates")}
    if luna not in candidates:  # the last seat is asked later, and may go to a slot that is free again
        luna = zeus.replace("@", "#2@")
    assert all(isinstance(candidate.pop("ms"), int) for candidate in candidates.values())
    assert isinstance(account.pop("elapsed_ms"), int)
    assert account.pop("winner") in (zeus, nebula, luna)
    agreed = {"model": "scripted", "group": 0, "weight": 1.0, "tokens": 1}
    assert candidates == {zeus: agreed, nebula: agreed, luna: agreed, atlas: {**agreed, "group": 1}}
    assert account == {
        "strategy": "majority",
        "kind": "number",
        "votes": 4,
        "asked": 4,
        "wanted": 4,
        "agreement": 0.75,
        "margin": 2,
        "stopped_by": "all_in",
        "quorum": True,
        "degraded": False,
        "outcome": "consensus",
        "saved": 0,
        "wasted_tokens": 0,
        "weights": "equal",
        "coordinator": "kitchen",
        "total_completion_tokens": 4,
    }
    assert reply.headers["X-Swarm-Node"] == "kitchen"
    assert reply.headers["X-Swarm-Votes"] == "4"
    assert reply.headers["X-Swarm-Agreement"] == "0.7500"
    assert "16" in reply.json["choices"][0]["message"]["content"]


async def test_usage_counts_the_winner_and_not_the_losers(stage: Stage) -> None:
    stage.voters_say(["Answer: ", "16"], ["Answer: ", "16"], ["Answer: ", "1", "8"], ["Answer: ", "16"])
    reply = await stage.client.chat(swarm={"votes": 4})
    assert reply.json["usage"]["completion_tokens"] == 2
    assert reply.json["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert swarm_of(reply)["total_completion_tokens"] == 9


async def test_the_answer_is_a_voters_own_words(stage: Stage) -> None:
    stage.voters_say("Answer: 7", "The answer is\n\nAnswer: 1/2", "Answer: 0.5", "Answer: 0.50")
    reply = await stage.client.chat(swarm={"votes": 4})
    said = reply.json["choices"][0]["message"]["content"]
    assert said in ("The answer is\n\nAnswer: 1/2", "Answer: 0.5", "Answer: 0.50")
    assert swarm_of(reply)["agreement"] == 0.75


@pytest.mark.parametrize(("busy", "asked"), [(0, 4), (1, 3), (2, 2), (3, 1), (4, 1)])
async def test_auto_asks_only_idle_workers_and_says_so(stage: Stage, busy: int, asked: int) -> None:
    gate = asyncio.Event()
    stage.engine.script = lambda _, voter: [gate, "busy"] if voter < busy else ["Answer: 16"]
    others = [asyncio.create_task(stage.client.chat(swarm={"strategy": "single"})) for _ in range(busy)]
    await stage.engine.until(lambda engine: engine.running == busy)
    vote = asyncio.create_task(stage.client.chat(SUM))
    if busy == SLOTS:
        await stage.until_waiting(1)
    else:
        await vote
    gate.set()
    account = swarm_of(await vote)
    seats = len(account["candidates"]) + account["saved"]
    assert (seats, account["wanted"], account["strategy"]) == (asked, 5, "auto")
    alone = (account["outcome"], account["stopped_by"], account.get("why"))
    assert (alone == ("single", "single", "no idle seats")) == (asked == 1), alone
    await asyncio.gather(*others)


COUNTED: dict[str, dict[str, Any]] = {
    "a sum": {"messages": [{"role": "user", "content": SUM}]},
    "a number": {"messages": [{"role": "user", "content": "Reply with only a number: how many legs has a spider?"}]},
    "a choice": {"messages": [{"role": "user", "content": "Which is a fruit?\nA) a stone\nB) an apple\nC) a car"}]},
    "yes or no": {"messages": [{"role": "user", "content": "Is the sky blue? Answer with yes or no."}]},
    "json": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "code": {"messages": [{"role": "user", "content": "Write a Python function that adds two numbers."}]},
}


@pytest.mark.parametrize("fields", COUNTED.values(), ids=COUNTED)
async def test_what_can_be_counted_is_voted_on_unasked(stage: Stage, fields: dict[str, Any]) -> None:
    stage.voters_say(*['{"a": 1}'] * 4)
    account = swarm_of(await stage.client.chat(**fields))
    assert (account["strategy"], account["wanted"]) == ("auto", 5)
    assert account["asked"] > 1
    assert "why" not in account


PROSE: dict[str, dict[str, Any]] = {
    "a story": {"messages": [{"role": "user", "content": "Tell me a story about 3 pigs."}]},
    "a context": {"messages": [{"role": "user", "content": "Context: the war of 1914. Who began it?\nAnswer:"}]},
    "calls forbidden": {"tools": COUNTED["tools"]["tools"], "tool_choice": "none"},
    "text as text": {"response_format": {"type": "text"}},
    "an outline": {"messages": [{"role": "user", "content": "Summarize:\nA. Introduction\nB. Methods"}]},
    "about a program": {"messages": [{"role": "user", "content": "Write an email about our Java program."}]},
    "the node's own word": {"swarm": {"strategy": "auto"}},
    "what a stream would show": {"swarm": {"on_no_quorum": "error", "deadline_s": 9}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", PROSE.values(), ids=PROSE)
async def test_prose_is_answered_once_and_the_account_says_why(
    stage: Stage, fields: dict[str, Any], stream: bool
) -> None:
    reply = await stage.client.chat(stream=stream, **fields)
    account = swarm_of(reply)
    told = {name: account[name] for name in ("strategy", "outcome", "stopped_by", "why", "asked", "wanted", "votes")}
    assert told == {
        "strategy": "auto",
        "outcome": "single",
        "stopped_by": "single",
        "why": "prose",
        "asked": 1,
        "wanted": 1,
        "votes": 1,
    }
    assert (account["agreement"], account["routed"]["node"]) == (None, "kitchen")
    assert len(stage.engine.requests) == 1


@pytest.mark.parametrize(
    "wanted",
    [{"votes": 3}, {"strategy": "majority"}, {"strategy": "medoid"}, {"min_votes": 2}],
    ids=lambda wanted: next(iter(wanted)),
)
async def test_prose_is_voted_on_where_the_request_asks_for_it(stage: Stage, wanted: dict[str, Any]) -> None:
    account = swarm_of(await stage.client.chat("Tell me a story.", swarm=wanted))
    assert account["asked"] > 1


@pytest.mark.parametrize(
    ("options", "asked", "why"),
    [
        ({"votes": 3}, 3, None),
        ({"strategy": Strategy.MEDOID}, 4, None),
        ({"votes": 1}, 1, "asked for"),
        ({"strategy": Strategy.SINGLE}, 1, "asked for"),
        ({}, 1, "prose"),
    ],
    ids=["--votes 3", "--strategy medoid", "--votes 1", "--strategy single", "neither"],
)
async def test_a_node_whose_owner_asked_for_votes_votes_on_prose_too(
    options: dict[str, Any], asked: int, why: str | None
) -> None:
    async with AsyncExitStack() as stack:
        stage = await staged(stack, **options)
        account = swarm_of(await stage.client.chat("Tell me a story."))
        assert (account["asked"], account.get("why")) == (asked, why)


@pytest.mark.parametrize(
    ("model", "fields", "why"),
    [
        ("scripted", {"temperature": 0}, "temperature 0"),
        ("scripted", {"temperature": 1e-9}, "temperature 0"),
        ("scripted", {"top_k": 1}, "temperature 0"),
        ("scripted", {"temperature": 0, "seed": 3}, "temperature 0"),
        ("scripted", {"temperature": 0, "swarm": {"votes": 3}}, None),
        ("scripted", {"temperature": 0, "swarm": {"strategy": "majority"}}, None),
        ("scripted", {"temperature": 0.1}, None),
        ("scripted", {"seed": 3}, None),
        ("swarm", {"temperature": 0}, None),
    ],
)
async def test_a_named_model_at_temperature_0_answers_once(
    stage: Stage, model: str, fields: dict[str, Any], why: str | None
) -> None:
    account = swarm_of(await stage.client.chat(SUM, model=model, **fields))
    assert account.get("why") == why
    assert (account["outcome"] == "single") == (why is not None)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (("Answer: 1", "Answer: 1", "Answer: 1", "Answer: 2"), "consensus"),
        (("Answer: 1", "Answer: 1", "Answer: 2", "Answer: 2"), "plurality"),
        (("Answer: 1", "Answer: 1", "Answer: 2", "Answer: 3"), "plurality"),
        (("Hi there!", "Good morning.", "Bananas sing.", "What now?"), "plurality"),
        (("", "", "", "Answer: 1"), "degraded"),
    ],
)
async def test_a_consensus_is_more_than_half_of_the_votes(stage: Stage, answers: tuple[str, ...], outcome: str) -> None:
    stage.voters_say(*answers)
    account = swarm_of(await stage.client.chat("say hi", swarm={"votes": 4, "min_votes": 4 if answers[0] else 1}))
    assert account["outcome"] == outcome
    assert account["margin"] > 0 or outcome != "consensus"


async def test_explicit_votes_wait_for_workers(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.engine.script = lambda _, voter: [gate, "busy"] if voter < 2 else [f"Answer: {voter}"]
    others = [asyncio.create_task(stage.client.chat(swarm={"strategy": "single"})) for _ in range(2)]
    await stage.engine.until(lambda engine: engine.running == 2)
    vote = asyncio.create_task(stage.client.chat(swarm={"votes": 4}))
    await stage.until_waiting(1)
    assert len(stage.engine.requests) == 2, "the vote has not begun"
    gate.set()
    account = swarm_of(await vote)
    assert (account["asked"], account["wanted"], account["votes"]) == (4, 4, 4)
    await asyncio.gather(*others)


async def test_more_votes_than_workers_asks_all_and_says_so(stage: Stage) -> None:
    account = swarm_of(await stage.client.chat(swarm={"votes": 9}))
    assert (account["asked"], account["wanted"]) == (4, 9)


async def test_min_votes_waits_for_that_many_workers(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.engine.script = lambda _, voter: [gate, "busy"] if voter < 3 else ["yes"]
    others = [asyncio.create_task(stage.client.chat(swarm={"strategy": "single"})) for _ in range(3)]
    await stage.engine.until(lambda engine: engine.running == 3)
    vote = asyncio.create_task(stage.client.chat(swarm={"min_votes": 2}))
    await stage.until_waiting(1)
    gate.set()
    account = swarm_of(await vote)
    assert (account["asked"], account["wanted"]) == (2, 5)
    await asyncio.gather(*others)


async def test_a_vote_with_fewer_than_min_votes_is_degraded(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 16", ["", asyncio.Event()], ["", asyncio.Event()])
    account = swarm_of(await stage.client.chat(swarm={"votes": 4, "min_votes": 3, "deadline_s": SHORT_S}))
    assert (account["votes"], account["stopped_by"]) == (2, "deadline")
    assert (account["quorum"], account["degraded"], account["agreement"]) == (False, True, None)


async def test_min_votes_keeps_a_lead_from_ending_the_vote(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 16", "Answer: 16", "Answer: 16")
    account = swarm_of(await stage.client.chat(swarm={"votes": 4, "min_votes": 4}))
    assert (account["votes"], account["stopped_by"]) == (4, "all_in")


async def test_a_first_wave_that_decides_alone_ends_the_vote_and_the_rest_is_never_asked(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 16", "Answer: 16", ["Answer: ", asyncio.Event()])
    account = swarm_of(await stage.client.chat(swarm={"votes": 4, "strategy": "majority"}))
    assert (account["stopped_by"], account["votes"], account["asked"]) == ("unbeatable_lead", 3, 3)
    assert (account["wanted"], account["saved"], len(stage.engine.requests)) == (4, 1, 1)
    assert stage.engine.running == 0


@pytest.mark.parametrize(
    ("question", "waves"),
    [("Why is the sky blue?", 1), ("Why is it 16? End with: the final answer", 2)],
)
async def test_prose_is_asked_of_everyone_at_once_since_only_the_last_answer_settles_it(
    stage: Stage, question: str, waves: int
) -> None:
    stage.voters_say("It scatters.", "It does scatter.", "Scattering.", "Light scatters.")
    asked = [{"role": "user", "content": question}]
    account = swarm_of(await stage.client.chat(messages=asked, temperature=0.5, swarm={"votes": 4}))  # a batch a wave
    assert (account["stopped_by"], account["asked"], len(stage.engine.requests)) == ("all_in", 4, waves)


async def test_the_first_answer_wins_where_that_is_asked_for(stage: Stage) -> None:
    stage.voters_say(*([["slow", asyncio.Event()]] * 3), "quick")
    reply = await stage.client.chat(swarm={"strategy": "first"})
    assert reply.json["choices"][0]["message"]["content"] == "quick"
    assert swarm_of(reply)["stopped_by"] == "first"
    assert stage.engine.cancelled == 3


async def test_a_leader_streams_and_is_confirmed(stage: Stage) -> None:
    gate = asyncio.Event()
    prose = "The sky is blue because of scattering."
    stage.voters_say(["The sky is blue ", "because of scattering."], *([[gate, prose]] * 3))
    async with stage.client.open(CHAT, chat_body(stream=True, swarm={"votes": 4})) as response:
        while b"because of scattering." not in await response.content.readuntil(b"\n\n"):
            pass  # the leader's words are here while the others have not begun
        gate.set()
        rest = await response.content.read()
    assert b'"confirmed":true' in rest
    assert rest.endswith(b"[DONE]\n\n")


async def test_a_confirmed_leader_is_called_the_winner(stage: Stage) -> None:
    stage.voters_say(*["Grass is green in spring."] * 4)
    account = swarm_of(await stage.client.chat(stream=True, swarm={"votes": 4}))
    assert account["confirmed"] is True
    assert account["leader"] == account["winner"] == stage.names[0]
    assert "winner_message" not in account


async def test_an_overruled_leader_is_named_with_the_winners_answer(stage: Stage) -> None:
    other = "Grass is green in spring."
    stage.voters_say("Bananas sing loudly at night.", other, other, other)
    reply = await stage.client.chat(stream=True, swarm={"votes": 4})
    account = swarm_of(reply)
    assert reply.said() == "Bananas sing loudly at night.", "what was streamed is not taken back"
    assert account["confirmed"] is False
    assert account["leader"] == stage.names[0]
    assert account["winner"] in stage.names[1:]
    assert account["winner_message"]["content"] == other


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"swarm": {"strategy": "majority"}},
        {"messages": [{"role": "user", "content": "Reply with only a number: 4 + 4"}]},
    ],
    ids=["json", "majority", "a number is wanted"],
)
async def test_what_would_be_acted_on_streams_only_after_the_vote(stage: Stage, fields: dict[str, Any]) -> None:
    stage.voters_say('{"a": 9}', '{"a": 8}', '{"a": 8}', '{"a": 8}')
    reply = await stage.client.chat(stream=True, **fields)
    assert reply.said() == '{"a": 8}'
    assert "leader" not in swarm_of(reply)


async def test_heartbeats_flow_while_a_vote_that_shows_no_leader_runs() -> None:
    async with AsyncExitStack() as stack:
        stage = await staged(stack, pacing=Pacing(client_beat_s=0.02))
        gate = asyncio.Event()
        stage.engine.script = lambda _, __: [gate, "Answer: 16"]
        async with stage.client.open(CHAT, chat_body(stream=True, swarm={"strategy": "majority"})) as response:
            assert await response.content.readuntil(b"\n\n") == b": still working\n\n"
            gate.set()
            assert (await response.content.read()).endswith(b"[DONE]\n\n")


async def test_usage_of_a_streamed_vote_is_that_of_the_answer_shown(stage: Stage) -> None:
    stage.voters_say(["a ", "b ", "c"], "x", "x", "x")
    reply = await stage.client.chat(stream=True, stream_options={"include_usage": True})
    assert reply.said() == "a b c"
    assert reply.chunks[-1]["usage"]["completion_tokens"] == 3
    assert reply.chunks[-1]["choices"] == []
    assert reply.done


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_by_all_voters_is_the_clients_error(stage: Stage, stream: bool) -> None:
    stage.voters_say(*[[BadRequest("no such thing", param="messages")]] * 4)
    reply = await stage.client.chat(stream=stream, swarm={"votes": 4})
    assert reply.status == 400
    assert reply.error["message"] == "no such thing"
    assert reply.error["param"] == "messages"


@pytest.mark.parametrize("stream", [False, True])
async def test_when_all_voters_fail_the_reason_is_told(stage: Stage, stream: bool) -> None:
    stage.voters_say(*[[EngineFailed("out of memory")]] * 4)
    reply = await stage.client.chat(stream=stream, swarm={"votes": 4})
    assert reply.status == 500
    assert "out of memory" in reply.error["message"]


async def test_at_the_deadline_a_quorum_decides(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 16", ["", asyncio.Event()], ["", asyncio.Event()])
    account = swarm_of(await stage.client.chat(swarm={"votes": 4, "deadline_s": SHORT_S}))
    assert (account["stopped_by"], account["votes"], account["quorum"]) == ("deadline", 2, True)
    assert stage.engine.cancelled == 2


async def test_at_the_deadline_less_than_a_quorum_is_given_as_degraded(stage: Stage) -> None:
    stage.voters_say("Answer: 16", *[["", asyncio.Event()]] * 3)
    reply = await stage.client.chat(swarm={"votes": 4, "deadline_s": SHORT_S})
    account = swarm_of(reply)
    assert reply.json["choices"][0]["message"]["content"] == "Answer: 16"
    assert (account["degraded"], account["quorum"], account["agreement"]) == (True, False, None)
    assert "X-Swarm-Agreement" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_at_the_deadline_nothing_is_an_error(stage: Stage, stream: bool) -> None:
    stage.voters_say(*[[asyncio.Event()]] * 4)
    reply = await stage.client.chat(stream=stream, swarm={"votes": 4, "deadline_s": SHORT_S})
    assert reply.status == 504
    assert reply.error["message"] == "none of the 4 voters answered by the request's deadline"
    assert stage.engine.cancelled == 4


async def test_a_leader_cut_by_the_deadline_is_an_error_in_the_stream(stage: Stage) -> None:
    stage.voters_say(["half an ", asyncio.Event()], "x", "x", "x")
    reply = await stage.client.chat(stream=True, swarm={"deadline_s": SHORT_S})
    assert reply.said() == "half an "
    assert reply.chunks[-1]["error"]["code"] == "deadline_exceeded"
    assert not reply.done


async def test_after_the_quorum_the_others_get_a_grace_and_no_more(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 16", ["", asyncio.Event()], ["", asyncio.Event()])
    account = swarm_of(await stage.client.chat(swarm={"votes": 4}))
    assert (account["stopped_by"], account["votes"], account["quorum"]) == ("deadline", 2, True)
    assert stage.engine.cancelled == 2


async def test_a_nodes_default_strategy_bows_to_load_like_auto() -> None:
    async with AsyncExitStack() as stack:
        stage = await staged(stack, strategy=Strategy.MAJORITY, votes=4)
        gate = asyncio.Event()
        stage.engine.script = lambda _, voter: [gate, "busy"] if voter < 2 else ["Answer: 16"]
        others = [asyncio.create_task(stage.client.chat(swarm={"strategy": "single"})) for _ in range(2)]
        await stage.engine.until(lambda engine: engine.running == 2)
        account = swarm_of(await stage.client.chat())
        assert (account["strategy"], account["asked"], account["wanted"]) == ("majority", 2, 4)
        gate.set()
        await asyncio.gather(*others)


async def test_a_node_that_answers_singly_votes_where_a_request_wants_votes() -> None:
    async with AsyncExitStack() as stack:
        stage = await staged(stack, strategy=Strategy.SINGLE)
        assert swarm_of(await stage.client.chat())["asked"] == 1
        account = swarm_of(await stage.client.chat(swarm={"votes": 3}))
        assert (account["strategy"], account["asked"]) == ("auto", 3)


async def test_several_choices_are_never_voted_on(stage: Stage) -> None:
    stage.voters_say("a", "b", "c", "d")
    reply = await stage.client.chat(n=3)
    assert sorted(choice["message"]["content"] for choice in reply.json["choices"]) == ["a", "b", "c"]
    assert "swarm" not in reply.json


async def test_plain_completions_are_voted_on_only_where_that_is_asked_for(stage: Stage) -> None:
    body = {"model": "swarm", "prompt": "x"}
    assert (await stage.client.post("/v1/completions", body)).json["swarm"]["asked"] == 1
    voted = await stage.client.post("/v1/completions", {**body, "swarm": {"votes": 3}})
    assert voted.json["swarm"]["asked"] == 3
    assert voted.json["choices"][0]["text"] == "yes"


async def test_voters_differ_in_their_seeds_and_only_the_first_may_be_greedy(stage: Stage) -> None:
    await stage.client.chat(temperature=0, seed=7, swarm={"votes": 4})
    first, *rest = stage.engine.requests
    assert (first.temperature, first.seed) == (0.0, 7)
    assert all(other.temperature is not None and other.temperature > 0 for other in rest)
    assert len({first.seed, *(other.seed for other in rest)}) == len(rest) + 1


async def test_votes_are_counted_in_the_metrics(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 16", "Answer: 18", "Answer: 16")
    await stage.client.chat(swarm={"votes": 4})
    text = (await stage.client.get("/metrics")).text
    assert 'swarm_votes_total{kind="number",outcome="consensus"} 1.0' in text
    assert 'swarm_votes_stopped_total{by="all_in"} 1.0' in text
    assert "swarm_candidates_total 4.0" in text
    assert "swarm_completion_tokens_total 1.0" in text
    assert "swarm_losing_tokens_total 3.0" in text
    assert 'swarm_vote_agreement_sum{kind="number"} 0.75' in text
    assert "swarm_slots_free 4.0" in text


def unsure(text: str, logprob: float) -> list[Step]:
    """An answer whose one token had this log-probability."""
    return [Delta(text=text, logprobs={"content": [{"token": text, "logprob": logprob, "top_logprobs": []}]})]


@pytest.mark.parametrize("stream", [False, True])
async def test_votes_weigh_by_how_sure_their_model_was_and_nobody_is_told_log_probabilities(
    stage: Stage, stream: bool
) -> None:
    stage.voters_say(
        unsure("Answer: 16", -3.0), unsure("Answer: 16", -2.0), unsure("Answer: 18", -0.1), unsure("Answer: 18", -0.2)
    )
    reply = await stage.client.chat(SUM, stream=stream, swarm={"votes": 4, "strategy": "confident"})
    account = swarm_of(reply)
    weights = sorted((part["group"], part["weight"]) for part in account["candidates"])
    assert weights == [(0, 1.2), (0, 1.6), (1, 0.4), (1, 0.8)]
    assert (account["strategy"], account["agreement"], account["stopped_by"]) == ("confident", 0.7, "all_in")
    assert account["winner"] in stage.names[2:]
    assert '"logprob"' not in reply.text
    assert all(request.logprobs for request in stage.engine.requests)


async def test_a_race_goes_on_until_one_answer_is_ahead(stage: Stage) -> None:
    """More of them than the node has slots, each of which is asked again."""
    said = iter(["16", "18", "18", "16", "16", "16", "never"])
    stage.engine.script = lambda *_: [f"Answer: {next(said)}"]
    reply = await stage.client.chat(SUM, swarm={"stop": {"ahead": 2, "max_votes": 9}})
    account = swarm_of(reply)
    assert (account["stopped_by"], account["asked"], account["wanted"], account["saved"]) == ("ahead", 6, 9, 3)
    assert (account["margin"], account["outcome"], account["votes"]) == (2, "consensus", 6)


async def test_a_race_that_nobody_wins_is_undecided_or_refused(stage: Stage) -> None:
    stage.voters_say("Answer: 16", "Answer: 18", "Answer: 16", "Answer: 18")
    body = {"stop": {"ahead": 2, "max_votes": 4}, "strategy": "majority"}
    account = swarm_of(await stage.client.chat(SUM, swarm=body))
    assert (account["outcome"], account["degraded"], account["votes"]) == ("undecided", True, account["asked"])
    assert account["shortfall"].startswith("no answer came 2 votes ahead of the others")
    said = iter(["Answer: 16", "Answer: 18"] * 2)
    stage.engine.script = lambda *_: [next(said)]
    refused = await stage.client.chat(SUM, swarm={**body, "on_no_quorum": "error"})
    assert refused.status == 503
    assert "no answer came 2 votes ahead" in refused.error["message"]
