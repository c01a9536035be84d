"""The cascade: small models vote, and the strongest answers where they do not agree."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.cascade import (
    UNANIMOUS,
    Cascade,
    Step,
    Threshold,
    known_thresholds,
    next_step,
    share_agreeing,
)
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.swarm_object import swarm_object
from swarm.consensus.tally import tally
from swarm.consensus.verdict import StoppedBy, Verdict, decide
from swarm.generation import Candidate
from swarm.registry.weights_file import MeasuredCascade

ASKED = Question(Strategy.CASCADE, wants_final_answer=True)
THREE_OF_FOUR = Threshold(Fraction(3, 4), measured=True)
CASCADE = Cascade("large", {"number": THREE_OF_FOUR})


def said(*answers: int | str | None, models: str = "aabb", node: str = "") -> list[Candidate]:
    """Answers of small models, a letter each; None failed."""
    return [
        Candidate(
            voter=f"v{n}",
            node=node,
            model=models[n % len(models)],
            text=answer if isinstance(answer, str) else f"Answer: {answer}",
            error="lost" if answer is None else None,
        )
        for n, answer in enumerate(answers)
    ]


def strongest(answer: int | str | None) -> Candidate:
    return said(answer)[0].model_copy(update={"voter": "strong", "model": "large"})


def step(candidates: Sequence[Candidate], out: int = 0, threshold: Threshold = UNANIMOUS) -> Step:
    return next_step(tally(ASKED, candidates), ["a"] * out, threshold, {"there": "stranger", "too": "stranger"})


@pytest.mark.parametrize(
    ("answers", "models", "out", "expected"),
    [
        ([], "a", 3, "wait"),
        ([7, 7], "ab", 0, "agreed"),
        ([7, 7], "a", 0, "strongest"),  # two answers of one model say too little
        ([7, 7, 7], "a", 0, "agreed"),
        ([7, 7], "ab", 1, "wait"),
        ([7, 8], "ab", 3, "strongest"),
        ([7, "no idea"], "ab", 0, "strongest"),  # who has no answer does not agree
        ([7, 7, None], "ab", 0, "agreed"),  # who was lost has no part
        ([7, None], "ab", 0, "strongest"),
        ([None, None], "ab", 0, "strongest"),
        ([], "a", 1, "strongest"),
    ],
)
def test_where_nothing_was_measured_all_have_to_agree(
    answers: list[int | str | None], models: str, out: int, expected: Step
) -> None:
    assert step(said(*answers, models=models), out) == expected


@pytest.mark.parametrize(
    ("answers", "out", "expected"),
    [
        ([7, 7, 7], 1, "agreed"),  # whatever the fourth says
        ([7, 7], 2, "wait"),
        ([7, 7, 8], 1, "wait"),
        ([7, 7, 8, 7], 0, "agreed"),
        ([7, 8, 8], 1, "wait"),
        ([7, 7, 8, 8], 0, "strongest"),
        ([7, 8, 9], 1, "strongest"),
    ],
)
def test_a_measured_share_has_to_agree(answers: list[int], out: int, expected: Step) -> None:
    assert step(said(*answers), out, THREE_OF_FOUR) == expected


def test_strangers_of_one_party_agree_with_nobody() -> None:
    assert step(said(7, 7, 7, node="there")) == "strongest"
    own = said(7)[0].model_copy(update={"voter": "another"})
    assert step([*said(7, 7, node="there"), own.model_copy(update={"node": "too"})]) == "strongest"
    assert step([*said(7, 7, node="there"), own]) == "agreed"


def test_what_was_measured_counts_for_the_same_models_and_as_many_votes() -> None:
    measured = {"number": MeasuredCascade(("a", "b"), "large", votes=4, agreement=0.75, asked=100)}
    assert known_thresholds(measured, ["b", "a"], "large", 4) == {"number": THREE_OF_FOUR}
    for small, strong, votes in ((["a"], "large", 4), (["a", "b"], "c", 4), (["a", "b"], "large", 3)):
        assert known_thresholds(measured, small, strong, votes) == {}


def verdict(candidates: Sequence[Candidate], stopped_by: StoppedBy, *, escalated: bool, min_votes: int = 1) -> Verdict:
    return decide(
        ASKED,
        candidates,
        asked=len(candidates),
        wanted=5,
        stopped_by=stopped_by,
        outstanding=(),
        cascade=CASCADE,
        escalated=escalated,
        min_votes=min_votes,
    )


def test_an_answer_that_is_agreed_on_stands() -> None:
    found = verdict(said(7, 7, 7, 8), "agreed", escalated=False)
    shown = swarm_object(found, coordinator="k", elapsed_ms=1)
    assert (found.outcome, found.degraded, found.stopped_by) == ("consensus", False, "agreed")
    assert shown["cascade"] == {
        "strong": "large",
        "asked": False,
        "agreement": 0.75,
        "threshold": 0.75,
        "measured": True,
    }


@pytest.mark.parametrize(("answer", "agree"), [(9, 1), (8, 2), (7, 4), ("It is nine.", 1)])
def test_the_strongest_wins_whatever_the_others_say(answer: int | str, agree: int) -> None:
    found = verdict([*said(7, 7, 7, 8), strongest(answer)], "strongest", escalated=True)
    assert found.winner is not None
    assert (found.winner.voter, found.degraded) == ("strong", False)
    assert found.outcome == ("consensus" if answer == 7 else "plurality")
    assert sum(part.group == 0 for part in found.candidates) == agree


@pytest.mark.parametrize("escalated", [True, False])
def test_where_the_strongest_has_no_answer_the_best_of_the_others_is_degraded(escalated: bool) -> None:
    lost = [strongest(None)] if escalated else []
    found = verdict([*said(7, 7, 8, 9), *lost], "all_in" if escalated else "deadline", escalated=escalated)
    assert found.winner is not None
    assert (found.winner.text, found.outcome) == ("Answer: 7", "degraded")
    assert found.shortfall is not None
    assert ("gave no answer" in found.shortfall) == escalated


def test_with_fewer_than_min_votes_even_the_strongest_is_degraded() -> None:
    assert verdict([*said(7, None), strongest(8)], "strongest", escalated=True, min_votes=3).degraded
    assert not verdict([*said(7, 9), strongest(8)], "strongest", escalated=True, min_votes=3).degraded


answers = st.lists(st.sampled_from([1, 1, 1, 2, 3, "hm", None]), min_size=1, max_size=8)
limits = st.sampled_from([UNANIMOUS, THREE_OF_FOUR, Threshold(Fraction(2, 5), measured=True)])


@settings(max_examples=300, deadline=None)
@given(answers, limits, st.integers(0, 2**16))
def test_no_order_of_arrival_changes_a_cascade(given_: list[int | str | None], limit: Threshold, seed: int) -> None:
    candidates = said(*given_)
    shuffled = Random(seed).sample(candidates, len(candidates))
    assert step(candidates, 0, limit) == step(shuffled, 0, limit)
    own = strongest(5)
    shown = [
        swarm_object(verdict(order, "strongest", escalated=True), coordinator="k", elapsed_ms=1)
        for order in ([*candidates, own], [own, *shuffled])
    ]
    assert shown[0] == shown[1]
    assert shown[0]["winner"] == "strong"


@settings(max_examples=300, deadline=None)
@given(answers, answers, limits)
def test_what_is_told_early_is_what_all_of_them_would_have_told(
    heard: list[int | str | None], rest: list[int | str | None], limit: Threshold
) -> None:
    """`agreed` and `strongest` are never taken back; and what stands is agreed on by as many as it says, or more."""
    everybody = said(*heard, *rest)
    early = step(everybody[: len(heard)], len(rest), limit)
    lost = sum(answer is None for answer in rest)
    if early == "agreed":
        assert step(everybody, 0, limit) == "agreed"
        assert share_agreeing(tally(ASKED, everybody)) >= limit.agreement
    if early == "strongest" and not lost:  # whoever is lost makes what is left more alike
        assert step(everybody, 0, limit) == "strongest"
