"""What a verdict says, and that it never claims more than was found."""

import json
from fractions import Fraction

import pytest

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.swarm_object import swarm_object
from swarm.consensus.verdict import StoppedBy, Verdict, decide
from swarm.generation import Candidate, FunctionSpec, ResponseFormat, ToolCall, ToolSpec, Usage
from tests.doubles.own_weights import by_voter, each_its_own_model

ASKED = Question(Strategy.AUTO, wants_final_answer=True)
AUTO = Question(Strategy.AUTO)


def said(*texts: str) -> list[Candidate]:
    return [
        Candidate(voter=f"v{n}@here", text=text, model="m", usage=Usage(completion_tokens=10 + n), elapsed_ms=100 * n)
        for n, text in enumerate(texts)
    ]


def verdict(
    question: Question, candidates: list[Candidate], asked: int | None = None, stopped_by: StoppedBy = "all_in"
) -> Verdict:
    return decide(question, candidates, asked=asked or len(candidates), wanted=7, stopped_by=stopped_by)


def test_the_response_object_has_every_field_clients_are_promised() -> None:
    candidates = [
        *said("Answer: 42", "It is \\boxed{42}", "Answer: 43", "Answer: 42.0"),
        Candidate(voter="x", error="lost"),
    ]
    decided = decide(ASKED, candidates, asked=6, wanted=7, stopped_by="unbeatable_lead", saved=1, wasted_tokens=9)
    shown = swarm_object(decided, coordinator="kitchen", elapsed_ms=812)
    assert shown == {
        "strategy": "auto",
        "kind": "number",
        "outcome": "consensus",
        "votes": 4,
        "asked": 6,
        "wanted": 7,
        "saved": 1,
        "agreement": 0.75,
        "margin": 2,
        "weights": "equal",
        "stopped_by": "unbeatable_lead",
        "quorum": True,
        "degraded": False,
        "winner": "v0@here",
        "coordinator": "kitchen",
        "elapsed_ms": 812,
        "total_completion_tokens": 46,
        "wasted_tokens": 9,
        "candidates": [
            {"voter": "v0@here", "model": "m", "group": 0, "weight": 1.0, "tokens": 10, "ms": 0},
            {"voter": "v1@here", "model": "m", "group": 0, "weight": 1.0, "tokens": 11, "ms": 100},
            {"voter": "v3@here", "model": "m", "group": 0, "weight": 1.0, "tokens": 13, "ms": 300},
            {"voter": "v2@here", "model": "m", "group": 1, "weight": 1.0, "tokens": 12, "ms": 200},
            {
                "voter": "x",
                "model": "",
                "group": None,
                "weight": 0.0,
                "tokens": 0,
                "ms": 0,
                "abstained": "failed: lost",
            },
        ],
    }
    assert json.loads(json.dumps(shown)) == shown


def test_shares_are_rounded() -> None:
    shown = swarm_object(verdict(ASKED, said("Answer: 1", "Answer: 1", "Answer: 2")), coordinator="k", elapsed_ms=1)
    assert (shown["agreement"], shown["margin"]) == (0.6667, 1)


def test_text_reports_likeness_beside_the_share_of_nearly_identical_answers() -> None:
    decided = verdict(AUTO, said("The cat sat.", "the cat sat", "The cat lay."))
    assert (decided.kind, decided.agreement) == ("text", pytest.approx(2 / 3))
    assert decided.similarity == pytest.approx((1 + 2 / 3) / 2)
    assert "similarity" in swarm_object(decided, coordinator="k", elapsed_ms=1)


def test_the_margin_is_negative_where_the_central_answer_was_the_rarer_one() -> None:
    pair = '{"a": 9, "b": 9, "c": 9, "d": 9}'
    centre = '{"a": 1, "b": 2, "c": 3, "d": 4}'
    around = [
        '{"a": 0, "b": 2, "c": 3, "d": 4}',
        '{"a": 1, "b": 0, "c": 3, "d": 4}',
        '{"a": 1, "b": 2, "c": 0, "d": 4}',
    ]
    decided = verdict(Question(Strategy.MEDOID), said(pair, pair, centre, *around))
    assert decided.winner is not None
    assert (decided.winner.text, decided.margin) == (centre, -1)


@pytest.mark.parametrize("asked", [5, 6, 9])
def test_without_a_quorum_there_is_no_agreement(asked: int) -> None:
    decided = verdict(ASKED, said("Answer: 1", "Answer: 1"), asked=asked, stopped_by="deadline")
    assert decided.winner is not None
    assert (decided.quorum, decided.degraded, decided.agreement) == (False, True, None)


@pytest.mark.parametrize("asked", [2, 3, 4])
def test_half_of_those_asked_are_a_quorum(asked: int) -> None:
    decided = verdict(ASKED, said("Answer: 1", "Answer: 1"), asked=asked, stopped_by="deadline")
    assert (decided.quorum, decided.degraded, decided.agreement) == (True, False, 1.0)


def weighed(candidates: list[Candidate], asked: int, **weights: int) -> Verdict:
    own = each_its_own_model(candidates)
    by = by_voter(own, {f"{voter}@here": Fraction(weight) for voter, weight in weights.items()})
    return decide(ASKED, own, asked=asked, wanted=asked, stopped_by="deadline", weights=by)


def test_a_quorum_is_of_weight_too() -> None:
    candidates = said("Answer: 1", "Answer: 1", "", "")
    heavy = weighed(candidates, 4, v2=3)
    assert (heavy.quorum, heavy.shortfall) == (
        False,
        "the 2 valid answers of 4 voters have less than half of the weight asked",
    )
    assert weighed(candidates, 4).quorum


def test_one_heavy_voter_is_no_quorum() -> None:
    decided = weighed(said("Answer: 1"), 4, v0=9)
    assert (decided.quorum, decided.agreement) == (False, None)
    assert decided.shortfall == "1 of 4 voters gave a valid answer, and a quorum is 2"


def test_a_lone_ballot_agrees_with_nobody() -> None:
    decided = verdict(ASKED, said("Answer: 1"))
    assert (decided.quorum, decided.agreement, decided.similarity) == (True, None, None)


@pytest.mark.parametrize("strategy", [Strategy.FIRST, Strategy.SINGLE])
def test_a_race_claims_no_agreement(strategy: Strategy) -> None:
    decided = verdict(Question(strategy), said("one", "one"), asked=5, stopped_by=strategy)
    assert decided.winner is not None
    assert (decided.winner.text, decided.votes, decided.agreement, decided.degraded) == ("one", 1, None, False)


def test_where_everybody_failed_there_is_no_winner() -> None:
    decided = verdict(AUTO, [Candidate(voter="a", error="lost"), Candidate(voter="b", error="lost")])
    assert decided.winner is None
    assert (decided.votes, decided.quorum, decided.degraded) == (0, False, True)
    assert swarm_object(decided, coordinator="k", elapsed_ms=1)["winner"] is None


def test_without_a_valid_ballot_the_least_flawed_answer_is_returned_as_degraded() -> None:
    question = Question(Strategy.AUTO, response_format=ResponseFormat(type="json_object"))
    candidates = [
        Candidate(voter="a", error="lost"),
        Candidate(voter="b", text="no JSON"),
        Candidate(voter="d", text='{"a": 1', finish_reason="length"),
        Candidate(voter="c", text='{"a": 2', finish_reason="length"),
    ]
    decided = verdict(question, candidates)
    assert decided.winner is not None
    assert (decided.winner.voter, decided.kind, decided.votes, decided.degraded) == ("c", "json", 0, True)


def test_dissent_names_who_said_otherwise() -> None:
    decided = verdict(ASKED, said("Answer: 1", "Answer: 1", "Answer: 2"))
    assert [[ballot.candidate.voter for ballot in group.ballots] for group in decided.dissent] == [["v2@here"]]


def test_the_winner_is_the_voters_own_answer_unchanged() -> None:
    call = ToolCall(id="own", name="now", arguments='{ "a" : 1.0 }')
    candidates = [Candidate(voter="a", text="<think>x</think>", tool_calls=(call,)), Candidate(voter="b", error="lost")]
    decided = verdict(Question(Strategy.AUTO, tools=(ToolSpec(function=FunctionSpec(name="now")),)), candidates)
    assert decided.winner is candidates[0]


WITH_TOOL = Question(Strategy.AUTO, tools=(ToolSpec(function=FunctionSpec(name="pay")),))


def paying(*amounts: int) -> list[Candidate]:
    return [
        Candidate(voter=f"v{n}", tool_calls=(ToolCall(id="1", name="pay", arguments=f'{{"sum": {amount}}}'),))
        for n, amount in enumerate(amounts)
    ]


@pytest.mark.parametrize(
    ("amounts", "min_agreement", "shortfall"),
    [
        ((1, 1, 2), None, None),
        ((1, 1, 2), 0.0, None),
        ((1, 1, 2), 0.6, None),
        ((1, 1, 2, 2), 0.5, None),
        ((1, 1, 2), 0.7, "0.67 of the votes agree on the call, and min_agreement is 0.7"),
        ((1, 2, 3), 1.0, "0.33 of the votes agree on the call, and min_agreement is 1"),
        ((1,), 0.5, "one voter alone made this call, and min_agreement is 0.5"),
    ],
)
def test_a_call_needs_the_agreement_that_was_asked_for(
    amounts: tuple[int, ...], min_agreement: float | None, shortfall: str | None
) -> None:
    decided = decide(
        WITH_TOOL,
        paying(*amounts),
        asked=len(amounts),
        wanted=5,
        stopped_by="all_in",
        min_agreement=min_agreement,
    )
    assert (decided.shortfall, decided.degraded, decided.quorum) == (shortfall, shortfall is not None, True)
    met = "single" if len(amounts) == 1 else "plurality" if len(amounts) == 4 else "consensus"
    assert decided.outcome == ("degraded" if shortfall else met)


def test_words_need_no_agreement_for_tools() -> None:
    decided = decide(WITH_TOOL, said("No.", "Never."), asked=2, wanted=2, stopped_by="all_in", min_agreement=1.0)
    assert not decided.degraded


def test_min_votes_are_needed_for_a_quorum_as_far_as_so_many_were_asked() -> None:
    few = decide(ASKED, said("Answer: 1", "Answer: 1"), asked=3, wanted=3, stopped_by="deadline", min_votes=3)
    assert few.shortfall == "2 of 3 voters gave a valid answer, and a quorum is 3"
    assert decide(ASKED, said("Answer: 1"), asked=1, wanted=5, stopped_by="all_in", min_votes=3).quorum


def test_the_models_outstanding_count_by_their_weight() -> None:
    candidates = each_its_own_model(said("Answer: 1", "Answer: 1"))
    weights = by_voter([*candidates, Candidate(voter="light"), Candidate(voter="heavy")], {"heavy": Fraction(4)})
    for missing, quorum in (("light", True), ("heavy", False)):
        decided = decide(
            ASKED, candidates, asked=3, wanted=3, stopped_by="deadline", weights=weights, outstanding=[missing]
        )
        assert decided.quorum is quorum
