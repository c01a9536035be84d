"""Which kind is voted on, who abstains, who wins, and when the vote may stop."""

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest

from swarm.consensus.answers import AbstainReason
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import MAX_ANSWER_CHARS
from swarm.consensus.tally import MAX_CANDIDATES, Tally, is_settled, tally
from swarm.engines.thoughts import answer_in
from swarm.generation import Candidate, FunctionSpec, ResponseFormat, ToolCall, ToolSpec
from tests.doubles.own_weights import by_voter, each_its_own_model

WEATHER = ToolSpec(
    function=FunctionSpec(
        name="weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    )
)
NOW = ToolSpec(function=FunctionSpec(name="now"))

AUTO = Question(Strategy.AUTO)
ASKED = Question(Strategy.AUTO, wants_final_answer=True)
WITH_TOOLS = Question(Strategy.AUTO, tools=(WEATHER, NOW))
JSON = Question(Strategy.AUTO, response_format=ResponseFormat(type="json_object"))

PYTHON = "```python\nx = 1\n```"
OUT = ("m",) * 9  # seats of that model that are still out
ESSAY = "Sailing began on rivers, long before anyone thought of crossing a sea."


def said(*texts: str) -> list[Candidate]:
    return [Candidate(voter=f"v{n}", text=text, model="m", finish_reason="stop") for n, text in enumerate(texts)]


def call(voter: str, name: str, arguments: str = "{}") -> Candidate:
    calls = (ToolCall(id="1", name=name, arguments=arguments),)
    return Candidate(voter=voter, tool_calls=calls, finish_reason="tool_calls")


def reasons(counted: Tally) -> dict[str, AbstainReason]:
    return {entry.candidate.voter: entry.reason for entry in counted.abstentions}


def winner(counted: Tally) -> str:
    assert counted.winner is not None
    return counted.winner.voter


@pytest.mark.parametrize(
    ("question", "texts", "kind"),
    [
        (AUTO, [ESSAY, "Another.", "A third."], "text"),
        (AUTO, ["Answer: 1", "Answer: 1", ESSAY], "number"),
        (AUTO, ["Answer: B", "Answer: B", "Answer: 3"], "choice"),
        (AUTO, ["Answer: 1", ESSAY], "text"),
        (AUTO, [PYTHON, PYTHON, ESSAY], "code"),
        (AUTO, [PYTHON + "\nAnswer: 1"] * 3, "code"),
        (ASKED, [PYTHON + "\nAnswer: 1"] * 3, "number"),
        (ASKED, ["1", "1", "2"], "number"),
        (AUTO, ["1", "1", "2"], "text"),
        (AUTO, ['{"a": 1}', '{"a": 1}', ESSAY], "json"),
        (JSON, ['{"a": 1}', ESSAY, ESSAY], "json"),
        (Question(Strategy.MAJORITY), [ESSAY, ESSAY, "x"], "text"),
        (Question(Strategy.MEDOID), ["Answer: 1", "Answer: 1", "Answer: 2"], "number"),
    ],
)
def test_the_kind_follows_from_the_request_and_from_most_replies(
    question: Question, texts: Sequence[str], kind: str
) -> None:
    assert tally(question, said(*texts)).kind == kind


def test_equal_numbers_are_one_answer() -> None:
    counted = tally(ASKED, said("Answer: 0.5", "Answer: 2", "Answer: 1/2", "Answer: \\boxed{\\frac{1}{2}}"))
    assert [len(group.ballots) for group in counted.groups] == [3, 1]
    assert winner(counted) == "v0"


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate(voter="x", error="connection refused"), AbstainReason.FAILED),
        (Candidate(voter="x", text="Answer: 1", error="broke off"), AbstainReason.FAILED),
        (Candidate(voter="x", text="Answer: 1", finish_reason="content_filter"), AbstainReason.FILTERED),
        (Candidate(voter="x", text=" \n"), AbstainReason.EMPTY),
        (Candidate(voter="x", text="", finish_reason="length"), AbstainReason.CUT),
        (Candidate(voter="x", text="Answer: 1", finish_reason="length"), AbstainReason.CUT),
        (Candidate(voter="x", text="<think>Answer: 1"), AbstainReason.UNCLOSED_REASONING),
        (Candidate(voter="x", text="<think>Answer: 1</think>"), AbstainReason.EMPTY),
        (Candidate(voter="x", text="no idea"), AbstainReason.NO_FINAL_ANSWER),
        (Candidate(voter="x", text="a" * (MAX_ANSWER_CHARS + 1)), AbstainReason.TOO_LARGE),
        (call("x", "now"), AbstainReason.UNKNOWN_TOOL),
    ],
)
def test_who_has_no_valid_answer_abstains(candidate: Candidate, reason: AbstainReason) -> None:
    counted = tally(ASKED, [candidate, *said("Answer: 1", "Answer: 1", "Answer: 2")])
    assert reasons(counted) == {"x": reason}
    assert counted.votes == 3


def test_reasoning_is_not_compared() -> None:
    counted = tally(ASKED, said("<think>Answer: 9</think>Answer: 1", "hm, Answer: 8</think>\nAnswer: 1", "Answer: 1"))
    assert len(counted.groups) == 1


@pytest.mark.parametrize(
    "text",
    ["Models write <think> first.", 'A "</think>" tag ends it.', "First <think>, then\n</think>", '{"a": "</think>"}'],
)
def test_a_reply_about_think_tags_is_no_reasoning(text: str) -> None:
    assert answer_in(text) == text


def test_text_that_was_cut_counts_half_and_wins_only_where_all_were() -> None:
    cut = [Candidate(voter=f"c{n}", text=ESSAY, finish_reason="length") for n in range(3)]
    counted = tally(AUTO, [*cut, *said("Quite another answer.")])
    assert (winner(counted), counted.voting_weight) == ("v0", 2.5)
    assert winner(tally(AUTO, cut)) == "c0"


def test_calls_are_not_split_by_their_arguments_against_refusals() -> None:
    calls = [call(f"c{n}", "weather", f'{{"city": "{city}"}}') for n, city in enumerate(["Bern", "Basel", "Chur"])]
    counted = tally(WITH_TOOLS, [*calls, *said("I cannot.", "I cannot.")])
    assert (counted.kind, winner(counted), counted.votes) == ("tool_calls", "c0", 5)
    assert sorted(len(group.ballots) for group in counted.groups) == [1, 1, 1, 2]


def test_names_are_decided_before_arguments() -> None:
    one = [call(f"a{n}", "weather", f'{{"city": "{n}"}}') for n in range(3)]
    other = [call(f"b{n}", "now") for n in range(2)]
    counted = tally(WITH_TOOLS, [*one, *other])
    assert winner(counted) == "a0"


def test_words_win_over_a_minority_of_calls() -> None:
    counted = tally(WITH_TOOLS, [call("c", "now"), *said("Answer: 1", "Answer: 1", "Answer: 2")])
    assert (counted.kind, winner(counted), counted.votes) == ("number", "v0", 4)


def test_the_object_nearest_to_all_wins_where_no_whole_object_has_a_majority() -> None:
    objects = [
        '{"a": 9, "b": 2, "c": 3}',
        '{"a": 1, "b": 2, "c": 3}',
        '{"a": 1, "b": 9, "c": 3}',
        '{"a": 1, "b": 2, "c": 9}',
    ]
    assert winner(tally(JSON, said(*objects))) == "v1"


def test_a_whole_object_with_a_majority_wins_whatever_is_nearest() -> None:
    texts = ['{"a": 1, "b": 2}'] * 3 + ['{"a": 9, "b": 9}', '{"a": 9, "b": 8}']
    counted = tally(JSON, said(*texts))
    assert (winner(counted), counted.groups[0].weight) == ("v0", 3)


def test_prose_is_decided_by_what_is_most_like_the_rest() -> None:
    counted = tally(
        AUTO, said("Bananas!", "The cat sat on the mat.", "The dog sat on the mat.", "The cat lay on the mat.")
    )
    assert winner(counted) == "v1"
    assert counted.similarity == pytest.approx((0 + 5 / 6 + 5 / 6) / 3)


def test_majority_counts_prose_word_for_word() -> None:
    texts = ["Yes, it is.", "yes, it is", "No, it never was.", "No, it was never.", "No, it never ever was."]
    counted = tally(Question(Strategy.MAJORITY), said(*texts))
    assert (winner(counted), counted.groups[0].weight, counted.similarity) == ("v0", 2, None)


def weighed(candidates: Sequence[Candidate], **weights: str) -> Tally:
    """The tally where each voter has a model of its own, with these weights."""
    own = each_its_own_model(candidates)
    return tally(ASKED, own, by_voter(own, {voter: Fraction(weight) for voter, weight in weights.items()}))


def test_weights_outvote_numbers() -> None:
    counted = weighed(said("Answer: 1", "Answer: 1", "Answer: 2"), v2="2.5")
    assert (winner(counted), counted.voting_weight) == ("v2", 4.5)


def test_a_voter_without_weight_has_no_vote() -> None:
    assert reasons(weighed(said("Answer: 1", "Answer: 2"), v0="0")) == {"v0": AbstainReason.NO_WEIGHT}


def test_where_nobody_has_weight_there_is_no_winner() -> None:
    counted = weighed(said("Answer: 1", "Answer: 2"), v0="0", v1="0")
    assert (counted.winner, counted.votes, len(counted.abstentions)) == (None, 0, 2)


def test_many_small_weights_add_up_exactly() -> None:
    texts = ["Answer: 1"] * 10 + ["Answer: 2"]
    counted = weighed(said(*texts), **dict.fromkeys((f"v{n}" for n in range(10)), "0.1"), v10="1")
    assert counted.groups[0].weight == counted.groups[1].weight  # in doubles ten times 0.1 is not 1


def tied(**changes: object) -> list[Candidate]:
    """Two for 1, two for 2; `changes` are to v3, who votes for 2."""
    candidates = said("Answer: 1", "Answer: 1", "Answer: 2", "Answer: 2")
    return [*candidates[:3], candidates[3].model_copy(update=changes)]


def test_a_tie_goes_to_the_first_voter_id() -> None:
    assert winner(tally(ASKED, tied())) == "v0"
    assert winner(tally(ASKED, tied(voter="a"))) == "a"


def test_a_tie_goes_to_the_best_single_voter() -> None:
    assert winner(weighed(tied(), v2="0.5", v3="1.5")) == "v3"


def test_a_tie_goes_to_the_more_confident_answer_of_one_model() -> None:
    candidates = [c.model_copy(update={"mean_logprob": -0.5}) for c in tied()[:3]]
    confident = tied(mean_logprob=-0.1)[3]
    assert winner(tally(ASKED, [*candidates, confident])) == "v3"
    assert winner(tally(ASKED, [*candidates, confident.model_copy(update={"model": "other"})])) == "v0"
    assert winner(tally(ASKED, [*candidates, confident.model_copy(update={"mean_logprob": math.nan})])) == "v0"


def test_a_voter_that_failed_and_answered_on_a_second_try_votes_once() -> None:
    again = [Candidate(voter="v0", error="lost"), *said("Answer: 1", "Answer: 2"), said("Answer: 1")[0]]
    counted = tally(ASKED, again)
    assert counted.votes == 2
    assert sorted(entry.reason for entry in counted.abstentions) == [AbstainReason.FAILED, AbstainReason.DUPLICATE]


def test_first_takes_the_first_valid_answer_in_the_order_given() -> None:
    candidates = [Candidate(voter="z", error="lost"), Candidate(voter="y", text=""), *reversed(said("one", "two"))]
    counted = tally(Question(Strategy.FIRST), candidates)
    assert (winner(counted), counted.kind) == ("v1", "text")
    assert reasons(counted) == {"z": AbstainReason.FAILED, "y": AbstainReason.EMPTY, "v0": AbstainReason.OUTRUN}
    assert is_settled(counted, OUT[:5])
    assert not tally(Question(Strategy.FIRST), candidates[:2]).groups


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(voter="v", text='{"a": ', finish_reason="length"),
        Candidate(voter="v", text="<think>hm", finish_reason="length"),
        Candidate(voter="v", text=""),
        call("v", "no such tool", "{"),
    ],
)
def test_single_returns_even_a_flawed_answer(candidate: Candidate) -> None:
    question = Question(Strategy.SINGLE, response_format=ResponseFormat(type="json_object"))
    counted = tally(question, [Candidate(voter="dead", error="lost"), candidate])
    assert winner(counted) == "v"
    assert counted.kind == ("tool_calls" if candidate.tool_calls else "json")


def test_nothing_valid_has_no_winner_and_no_lead() -> None:
    counted = tally(AUTO, [Candidate(voter="a", error="lost")])
    assert (counted.winner, counted.groups, counted.votes) == (None, (), 0)
    assert not is_settled(counted, ())
    assert not is_settled(tally(AUTO, []), ())


@pytest.mark.parametrize(
    ("question", "texts", "outstanding", "stops"),
    [
        (ASKED, ["Answer: 1"] * 3, 2, True),
        (ASKED, ["Answer: 1"] * 2, 3, False),
        (ASKED, ["Answer: 1"] * 2, 2, False),
        (ASKED, ["Answer: 1", "Answer: 1", "Answer: 2"], 1, False),
        (ASKED, ["Answer: 1"] * 3 + ["Answer: 2"], 1, True),
        (ASKED, ["Answer: 1", "Answer: 2"], 0, True),
        (AUTO, ["Answer: 1"] * 3 + [ESSAY] * 2, 2, False),
        (AUTO, [PYTHON] * 3, 2, True),
        (JSON, ['{"a": 1}'] * 3, 2, True),
        (JSON, ['{"a": 1}'] * 3 + ['{"a": 2}', '{"a": 3}'], 1, False),
        (AUTO, [ESSAY] * 9, 1, False),
        (AUTO, [ESSAY] * 9, 0, True),
        (Question(Strategy.MAJORITY), [ESSAY] * 3, 2, True),
        (Question(Strategy.MEDOID, response_format=ResponseFormat(type="json_object")), ['{"a": 1}'] * 3, 1, False),
    ],
)
def test_a_vote_stops_when_its_result_stands(
    question: Question, texts: Sequence[str], outstanding: int, stops: bool
) -> None:
    assert is_settled(tally(question, said(*texts)), OUT[:outstanding]) is stops


def test_every_stage_of_a_tool_vote_must_stand() -> None:
    bern, basel = '{"city": "Bern"}', '{"city": "Basel"}'
    same = [call(f"c{n}", "weather", bern) for n in range(3)]
    assert is_settled(tally(WITH_TOOLS, same), OUT[:2])
    other_arguments = [*same[:2], call("c2", "weather", basel)]
    assert not is_settled(tally(WITH_TOOLS, other_arguments), OUT[:2])
    other_name = [*same[:2], call("c2", "now")]
    assert not is_settled(tally(WITH_TOOLS, other_name), OUT[:1])
    assert not is_settled(tally(WITH_TOOLS, [*same[:2], *said("I cannot.")]), OUT[:1])


def test_a_vote_does_not_stop_short_of_a_quorum_that_may_still_come() -> None:
    lost = [Candidate(voter=f"lost{n}", error="lost") for n in range(2)]
    assert not is_settled(tally(ASKED, [*lost, *said("Answer: 1", "Answer: 1")]), OUT[:1])


def test_too_many_candidates_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=str(MAX_CANDIDATES)):
        tally(AUTO, said(*["x"] * (MAX_CANDIDATES + 1)))
