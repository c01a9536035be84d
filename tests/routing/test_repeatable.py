"""A question that is to be answered alike whenever it is asked: whoever is how fast, and whatever their names are."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.waves import SamplingChange
from swarm.generation import Candidate, GenerationRequest
from swarm.routing.ballot_box import BallotBox, BallotCall, Report
from swarm.routing.peer_answers import OnEvent
from swarm.routing.poison_pills import RequestContent
from swarm.routing.policy import Batch
from swarm.routing.replica_client import Meter
from swarm.routing.replicas import Replica
from tests.doubles.clients import connect
from tests.doubles.replicas import replica
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

WORDS = ["Answer: 4", "It is four.\nAnswer: 4", "So: 4.0\nAnswer: 4.0", "Answer: 5", "Hm.\nAnswer: 5", "Who knows?"]
NODES = ["here", "a", "b"]


async def nobody_runs(
    _: Replica, __: Sequence[SamplingChange], ___: OnEvent | None, ____: Meter
) -> AsyncGenerator[Candidate, None]:
    return
    yield Candidate(voter="")


def held(said: list[list[str]], wave: int, strategy: Strategy, dice: random.Random) -> tuple[str, bool]:
    """The words that a vote ends in, and whether it ended before everybody had answered; `dice` say who is how fast.

    `said` has what the voters of each batch say, who have other names each time; the first `wave` batches are asked at
    once.
    """
    batches = [
        Batch(replica(NODES[n % 3]), tuple(SamplingChange(0.7, seed) for seed in range(len(texts))))
        for n, texts in enumerate(said)
    ]
    call = BallotCall(
        question=Question(strategy, wants_final_answer=True),
        wanted=sum(map(len, said)),
        batches=tuple(batches[:wave]),
        later=tuple(batches[wave:]),
        deadline=0.0,
        run=nobody_runs,
        replace=lambda *_: None,
        repeatable=True,
    )
    box = BallotBox(call)
    coming = [(batch, text) for batch, texts in list(zip(batches, said, strict=True))[:wave] for text in texts]
    names = dice.sample(range(1000), 64)
    stopped = None
    while stopped is None:
        for batch in box.due(frozenset(), at_once=dice.random() < 0.2):
            coming += [(batch, text) for text in said[batches.index(batch)]]
        assert coming
        batch, text = coming.pop(dice.randrange(len(coming)))
        node = batch.replica.node
        voter = f"{names.pop()}@{node}"
        box.take(Report(batch, Candidate(voter=voter, node=node, model="m", text=text, finish_reason="stop")))
        stopped = box.stop_reason()
    winner = box.outcome(stopped).verdict.winner
    assert winner is not None
    return winner.text, bool(coming)


batch_of_words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)


@settings(deadline=None)
@given(
    said=st.lists(batch_of_words, min_size=1, max_size=4),
    wave=st.integers(1, 4),
    strategy=st.sampled_from([Strategy.MAJORITY, Strategy.WEIGHTED]),
    seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=6),
)
def test_the_same_answers_end_in_the_same_words_in_whatever_order_they_come(
    said: list[list[str]], wave: int, strategy: Strategy, seeds: list[int]
) -> None:
    said = [said[0][:1], *said[1:]]  # the first voter, who samples as the client says, has a batch of its own
    wave = max(min(wave, len(said)), next(n for n in range(1, 5) if 2 * seats(said[:n]) > seats(said)))
    ends = {held(said, wave, strategy, random.Random(seed))[0] for seed in seeds}
    assert len(ends) == 1


@settings(deadline=None)
@given(
    said=st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["m", "n"])), min_size=2, max_size=7),
    repeatable=st.booleans(),
    strategy=st.sampled_from([Strategy.MAJORITY, Strategy.WEIGHTED]),
    seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=6),
)
def test_where_answers_are_otherwise_alike_the_favourites_greedy_one_wins_whoever_is_how_fast(
    said: list[tuple[str, str]], repeatable: bool, strategy: Strategy, seeds: list[int]
) -> None:
    """Both models have a greedy answer; only that of the first counts for more, and no name does."""
    question = Question(strategy, wants_final_answer=True)
    greedy = [next((n for n, (_, model) in enumerate(said) if model == name), None) for name in ("m", "n")]
    batches = [
        Batch(
            replica(NODES[n % 3], model=model),
            (SamplingChange(0.0 if n in greedy else 0.5, n),),
        )
        for n, (_, model) in enumerate(said)
    ]
    favourite = said[0][1]
    ends: set[tuple[int, str]] = set()
    for turn, seed in enumerate([*seeds, *seeds]):
        dice = random.Random(seed)
        box = BallotBox(
            BallotCall(
                question=question,
                wanted=len(said),
                batches=tuple(batches),
                deadline=0.0,
                run=nobody_runs,
                replace=lambda *_: None,
                repeatable=repeatable,
                favourite=favourite,
            )
        )
        names = random.Random(turn % 2).sample(range(1000), len(said))
        for n in dice.sample(range(len(said)), len(said)):
            batch, (text, model) = batches[n], said[n]
            answer = Candidate(
                voter=f"{names[n]}@{batch.replica.node}",
                node=batch.replica.node,
                model=model,
                text=text,
                finish_reason="stop",
                temperature=batch.samplings[0].temperature,
            )
            box.take(Report(batch, answer))
        verdict = box.outcome("all_in").verdict
        assert verdict.winner is not None
        votes = Counter(part.group for part in verdict.candidates if part.group is not None)
        best = next(part for part in verdict.candidates if part.model == favourite and part.temperature == 0)
        if best.group is not None and votes[best.group] == votes[0]:
            assert verdict.winner.voter == best.voter, "of as many votes, and of equal words, it is the one"
        ends.add((0 if repeatable else turn % 2, verdict.winner.text))
    assert len(ends) == (1 if repeatable else 2), "who was how fast decides nothing"


def seats(said: list[list[str]]) -> int:
    return sum(map(len, said))


def test_a_lead_ends_a_repeatable_vote_early_where_the_words_are_those_of_its_first_voter() -> None:
    said = [["Answer: 4"], ["Answer: 4.0", "Answer: 4.00"], ["Answer: 5", "Answer: 6"]]
    ends = [held(said, 3, Strategy.MAJORITY, random.Random(seed)) for seed in range(40)]
    assert {text for text, _ in ends} == {"Answer: 4"}
    assert any(early for _, early in ends)


def request(**fields: Any) -> GenerationRequest:
    body = {"model": "swarm", "messages": [{"role": "user", "content": "What is 2 + 2?"}], **fields}
    return GenerationRequest.model_validate(body)


def test_the_seed_is_the_contents_and_nothing_elses() -> None:
    seed = RequestContent.of(request()).seed
    assert seed == RequestContent.of(request(model="demo", temperature=0, seed=4)).seed
    assert 0 <= seed < 2**31
    others = [request(messages=[{"role": "user", "content": "What is 2 + 3?"}]), request(max_tokens=9)]
    assert seed not in {RequestContent.of(other).seed for other in others}


class Sampler(ScriptedEngine):
    """Says another thing for each seed, each voter after a pause of its own: like a model that samples."""

    def __init__(self, dice: random.Random, **options: Any) -> None:
        super().__init__(self._say, **options)
        self._dice = dice

    def _say(self, request: GenerationRequest, voter: int) -> list[Any]:
        pause = asyncio.Event()
        asyncio.get_running_loop().call_later(self._dice.random() / 100, pause.set)
        choice = voter - self._voters
        sample = "greedy" if request.temperature == 0 else f"{request.seed} {choice}"
        value = random.Random(sample).choice([4, 4, 5])
        return [pause, f"By {sample}.\nAnswer: {value}"]


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"seed": 11}, {"temperature": 0, "seed": 3}])
@pytest.mark.parametrize("swarm", [None, {"votes": 6, "strategy": "majority"}, {"votes": 5}])
async def test_the_same_question_gets_the_same_answer_from_the_same_voters(
    fields: dict[str, Any], swarm: dict[str, Any] | None
) -> None:
    dice = random.Random(1)
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        for name in ("attic", "study", "kitchen"):
            engine, options = Sampler(dice, model_id="demo", slots=4), NodeOptions(peers=[n.address for n in nodes])
            nodes.append(await stack.enter_async_context(RunningNode(name, ready(engine), options=options)))
        asked = nodes[-1]
        await asked.until(lambda: len(asked.membership.alive()) == 2)
        client = await stack.enter_async_context(connect(asked.url))
        body = {**fields, **({} if swarm is None else {"swarm": swarm})}
        replies = [await client.chat("What is 2 + 2?", **body) for _ in range(6)]
        assert all(reply.json["swarm"]["asked"] > 1 for reply in replies)
        assert len({reply.json["choices"][0]["message"]["content"] for reply in replies}) == 1
