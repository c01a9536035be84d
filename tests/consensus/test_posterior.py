"""The opt-in stop: where it stops, and where it has nothing to say."""

import pytest

from swarm.consensus.count import POSTERIOR_STOP, posterior
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import posterior_stops, tally
from swarm.consensus.verdict import decide
from swarm.generation import Candidate

ASKED = Question(Strategy.AUTO, wants_final_answer=True)


def said(*texts: str) -> list[Candidate]:
    return [Candidate(voter=f"v{n}", text=text, model="m") for n, text in enumerate(texts)]


@pytest.mark.parametrize(("first", "second"), [(4, 0), (6, 1), (8, 2), (9, 3)])
def test_it_stops_at_the_published_scores_and_not_one_vote_sooner(first: int, second: int) -> None:
    votes = said(*["Answer: 1"] * first, *["Answer: 2"] * second)
    assert posterior_stops(tally(ASKED, votes))
    assert not posterior_stops(tally(ASKED, votes[1:]))
    assert posterior(first, second) >= POSTERIOR_STOP > posterior(first - 1, second)


@pytest.mark.parametrize("votes", range(6))
def test_equal_votes_say_nothing(votes: int) -> None:
    assert posterior(votes, votes) == 0.5


def test_replies_without_an_answer_are_against() -> None:
    assert not posterior_stops(tally(ASKED, said(*["Answer: 1"] * 5, "no idea", "who knows")))


def test_what_is_chosen_by_likeness_is_not_counted() -> None:
    assert not posterior_stops(tally(Question(Strategy.AUTO), said(*["The same words."] * 9)))


def test_nothing_is_settled_without_a_valid_ballot() -> None:
    assert not posterior_stops(tally(ASKED, []))


def test_seats_that_the_posterior_made_needless_are_no_missing_votes() -> None:
    stopped = decide(ASKED, said(*["Answer: 1"] * 4), asked=9, wanted=16, stopped_by="posterior", saved=12)
    assert (stopped.outcome, stopped.agreement, stopped.saved) == ("consensus", 1.0, 12)
    mostly_lost = [*said(*["Answer: 1"] * 4), *(Candidate(voter=f"x{n}", error="lost") for n in range(5))]
    assert decide(ASKED, mostly_lost, asked=9, wanted=16, stopped_by="posterior").degraded
