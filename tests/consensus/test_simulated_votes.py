"""Thousands of seeded votes over unreliable voters: whatever happens, the rules of a vote hold."""

from collections import Counter
from collections.abc import Iterator

import pytest

from swarm.consensus.question import Question
from swarm.consensus.tally import tally
from tests.doubles.simulated_vote import Held, Scene, hold, scene

VOTES = 2500
POSTERIOR_VOTES = 1000


@pytest.fixture(scope="module")
def votes() -> list[tuple[Scene, Held]]:
    return [(one, hold(one)) for one in map(scene, range(VOTES))]


def fresh(question: Question) -> Question:
    """The same question with nothing remembered."""
    return Question(
        question.strategy,
        tools=question.tools,
        response_format=question.response_format,
        wants_final_answer=question.wants_final_answer,
    )


def same_as_the_full_vote(one: Scene, held: Held) -> bool:
    """Every seat answers, in the order in which they were asked: the same kind, and the same answer by equality."""
    full = tally(fresh(one.question), [arrival.candidate for arrival in one.arrivals], one.weights)
    verdict = held.verdict
    assert verdict.winner is not None
    return full.kind == verdict.kind and verdict.winner.voter in {
        ballot.candidate.voter for ballot in full.groups[0].ballots
    }


def stopped(votes: list[tuple[Scene, Held]], by: str) -> Iterator[tuple[Scene, Held]]:
    return ((one, held) for one, held in votes if held.verdict.stopped_by == by)


def test_an_unbeatable_lead_always_gives_the_outcome_of_the_full_vote(votes: list[tuple[Scene, Held]]) -> None:
    early = list(stopped(votes, "unbeatable_lead"))
    assert len(early) > VOTES / 5
    assert [held.verdict for one, held in early if not same_as_the_full_vote(one, held)] == []
    assert all(held.verdict.quorum for _, held in early)


def test_the_scenes_cover_every_way_to_end(votes: list[tuple[Scene, Held]]) -> None:
    endings = Counter(held.verdict.stopped_by for _, held in votes)
    assert endings.keys() == {"unbeatable_lead", "all_in", "deadline"}
    assert {held.verdict.outcome for _, held in votes} == {
        "consensus", "plurality", "degraded", "single",
    }  # fmt: skip
    assert {held.verdict.kind for _, held in votes} == {"number", "choice", "tool_calls", "json", "code", "text"}
    assert {held.verdict.weights for _, held in votes} == {"equal", "measured"}


def test_no_degraded_outcome_is_called_a_consensus(votes: list[tuple[Scene, Held]]) -> None:
    for _, held in votes:
        verdict = held.verdict
        assert (verdict.outcome == "degraded") == verdict.degraded == (not verdict.quorum) == bool(verdict.shortfall)
        if verdict.outcome in ("consensus", "plurality"):
            assert verdict.winner is not None
            assert 2 * verdict.votes >= verdict.asked
            assert verdict.votes > 1


def test_only_more_than_half_of_the_votes_and_of_their_weight_is_a_consensus(votes: list[tuple[Scene, Held]]) -> None:
    for _, held in votes:
        verdict = held.verdict
        agreeing = sum(part.group == 0 for part in verdict.candidates)
        most = verdict.agreement is not None and verdict.agreement > 0.5 and 2 * agreeing > verdict.votes
        assert (verdict.outcome == "consensus") == (most and not verdict.degraded)
        if verdict.outcome == "consensus":
            assert verdict.margin > 0


def test_every_seat_is_heard_cancelled_or_never_asked(votes: list[tuple[Scene, Held]]) -> None:
    for one, held in votes:
        verdict = held.verdict
        assert len(held.heard) + held.cancelled == verdict.asked <= verdict.wanted == len(one.arrivals)
        assert verdict.saved == held.cancelled + held.unasked == verdict.wanted - len(held.heard)
        assert verdict.votes <= len(verdict.candidates) == len(held.heard)


def test_agreement_is_a_share_and_absent_where_nothing_was_compared(votes: list[tuple[Scene, Held]]) -> None:
    for _, held in votes:
        verdict = held.verdict
        assert (verdict.agreement is None) == (verdict.degraded or verdict.votes == 1)
        assert verdict.agreement is None or 0 < verdict.agreement <= 1
        assert verdict.similarity is None or 0 <= verdict.similarity <= 1


def test_the_winner_is_somebodys_own_answer(votes: list[tuple[Scene, Held]]) -> None:
    for _, held in votes:
        winner = held.verdict.winner
        assert winner is None or (winner.error is None and any(winner is candidate for candidate in held.heard))
        assert winner is not None or all(candidate.error for candidate in held.heard)


def test_the_posterior_stops_sooner_and_seldom_changes_an_outcome() -> None:
    scenes = [one for one in map(scene, range(VOTES, VOTES + POSTERIOR_VOTES)) if len(one.arrivals) >= 9]
    pairs = [(one, hold(one), hold(one, posterior=True)) for one in scenes]
    early = [(one, held) for one, _, held in pairs if held.verdict.stopped_by == "posterior"]
    assert len(early) > 30
    assert all(len(held.heard) <= len(exact.heard) for _, exact, held in pairs)
    changed = sum(not same_as_the_full_vote(one, held) for one, held in early)
    assert changed <= 0.05 * len(early)
