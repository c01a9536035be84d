"""What must hold for every vote, whatever is said, by whom, and in whatever order it arrives."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from swarm.consensus.options import KINDS, Kind
from swarm.consensus.question import Question, Strategy
from swarm.consensus.swarm_object import swarm_object
from swarm.consensus.tally import is_settled, tally
from swarm.consensus.verdict import Verdict, decide, no_quorum
from swarm.consensus.weights import EQUAL, VoterWeights, source_of
from swarm.generation import Candidate, FunctionSpec, ResponseFormat, ToolCall, ToolSpec
from tests.doubles.own_weights import each_its_own_model

TOOLS = (ToolSpec(function=FunctionSpec(name="now")), ToolSpec(function=FunctionSpec(name="weather")))
VOTING: list[Strategy] = [Strategy.AUTO, Strategy.MAJORITY, Strategy.WEIGHTED, Strategy.MEDOID, Strategy.JUDGE]

TEXTS = [
    "Answer: 1",
    "Answer: 1.0",
    "Answer: 2",
    "\\boxed{B}",
    "1",
    "```python\nx = 1\n```",
    "```python\nx=1 # one\n```",
    "```python\nx = 2\n```\nAnswer: 2",
    '{"a": 1, "b": 2}',
    '{"b": 2.0, "a": 1}',
    '{"a": 1, "b": 3}',
    "The cat sat on the mat.",
    "the cat sat on the mat",
    "The cat lay on the mat.",
    "",
    "<think>hm",
]
CALLS = [("now", "{}"), ("now", '{"a": 1}'), ("now", '{"a": 1.0}'), ("weather", "{}"), ("gone", "{}"), ("now", "{")]


def a_call(name: str, arguments: str) -> Candidate:
    return Candidate(
        voter="", tool_calls=(ToolCall(id="i", name=name, arguments=arguments),), finish_reason="tool_calls"
    )


ANSWERS = [
    *(Candidate(voter="", text=text, finish_reason="stop") for text in TEXTS),
    *(Candidate(voter="", text=text, finish_reason="length") for text in TEXTS[-6:]),
    *(a_call(name, arguments) for name, arguments in CALLS),
    Candidate(voter="", error="lost"),
]
LOST = Candidate(voter="", error="lost")

# Related answers: those over which a kind, a name, an argument or an object can be contested to the last ballot.
CONTESTS = [
    [
        Candidate(voter="", text=text)
        for text in ("Answer: 2", "```python\nx = 2\n```\nAnswer: 2", "```python\nx = 2\n```")
    ],
    [Candidate(voter="", text="Answer: 1"), Candidate(voter="", text="Answer: 2"), a_call("now", "{}")],
    [
        Candidate(voter="", text=f"Answer: {value}")
        for value in ("5 km", "5", "5 miles", "5000 m", "5000", "B", "5 apples")
    ],
    [a_call("now", "{}"), a_call("now", '{"a": 1}'), a_call("weather", "{}"), Candidate(voter="", text="No.")],
    [Candidate(voter="", text=text) for text in ('{"a": 1}', '{"a": 2}', "Answer: 1", '{"a": 1, "b": 2}')],
    [
        Candidate(voter="", text="Answer: 1"),
        Candidate(voter="", text="Answer: 2"),
        Candidate(voter="", text="Hm."),
        LOST,
    ],
]

questions = st.builds(
    Question,
    strategy=st.sampled_from(VOTING),
    tools=st.sampled_from([(), TOOLS]),
    response_format=st.sampled_from([None, None, ResponseFormat(type="json_object")]),
    wants_final_answer=st.booleans(),
)
small_pools = st.sampled_from(CONTESTS) | st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=3)
a_weight = st.sampled_from([Fraction(n, 10) for n in (10, 10, 10, 1, 3, 25, 0)])
voters_weights = st.lists(a_weight, min_size=9, max_size=9)
weights_by_kind = st.dictionaries(st.sampled_from(KINDS), voters_weights) | voters_weights.map(
    lambda weights: dict.fromkeys(KINDS, weights)
)


@st.composite
def electorates(draw: st.DrawFn, min_size: int = 1) -> list[Candidate]:
    """Up to nine voters that draw from a small pool of answers."""
    pool = draw(small_pools)
    said = draw(st.lists(st.sampled_from(pool), min_size=min_size, max_size=9))
    logprobs = draw(st.lists(st.sampled_from([None, -0.1, -0.2]), min_size=9, max_size=9))
    model = st.sampled_from(["m", "m", "n"])
    return [
        answer.model_copy(update={"voter": f"v{n}", "model": draw(model), "mean_logprob": logprobs[n]})
        for n, answer in enumerate(said)
    ]


def weights_for(by_kind: Mapping[Kind, Sequence[Fraction]]) -> VoterWeights:
    """Where each voter is a model of its own: its weights by kind, equal ones in kinds that are not there."""
    return VoterWeights(
        {kind: {f"v{n}": weight for n, weight in enumerate(weights)} for kind, weights in by_kind.items()}
    )


def assert_same_result(
    question: Question, early: Sequence[Candidate], full: Sequence[Candidate], by: VoterWeights
) -> None:
    """Of the same kind, an answer equal to the one that won (not which of its voters is quoted), and by a quorum."""
    stopped, counted = tally(question, early, by), tally(question, full, by)
    assert stopped.winner is not None
    assert stopped.winner.voter in {ballot.candidate.voter for ballot in counted.groups[0].ballots}
    assert stopped.kind == counted.kind
    assert no_quorum(counted, (), min_votes=1) is None, "stopped on the way to a quorum that did not come"


@settings(max_examples=400, deadline=None)
@given(data=st.data(), question=questions, candidates=electorates(), weights=weights_by_kind)
def test_no_order_of_arrival_changes_a_verdict(
    data: st.DataObject, question: Question, candidates: list[Candidate], weights: dict[Kind, list[Fraction]]
) -> None:
    own = each_its_own_model(candidates) if data.draw(st.booleans()) else candidates
    shuffled = data.draw(st.permutations(own))
    shown = [
        swarm_object(
            decide(question, order, asked=9, wanted=9, stopped_by="all_in", weights=weights_for(weights)),
            coordinator="k",
            elapsed_ms=1,
        )
        for order in (own, shuffled)
    ]
    assert shown[0] == shown[1]


@settings(max_examples=400, deadline=None)
@given(data=st.data(), question=questions, candidates=electorates())
def test_a_doubled_voter_flips_nothing(data: st.DataObject, question: Question, candidates: list[Candidate]) -> None:
    doubled = data.draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=5))
    before, after = tally(question, candidates), tally(question, [*doubled, *candidates])
    assert after.winner == before.winner
    assert (after.kind, after.votes, after.voting_weight, after.leads) == (
        before.kind,
        before.votes,
        before.voting_weight,
        before.leads,
    )


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), question=questions, candidates=electorates(min_size=4), weights=weights_by_kind)
def test_stopping_by_an_unbeatable_lead_gives_the_result_of_the_full_vote(
    data: st.DataObject, question: Question, candidates: list[Candidate], weights: dict[Kind, list[Fraction]]
) -> None:
    order = each_its_own_model(data.draw(st.permutations(candidates)))
    by = weights_for(weights)
    for heard in range(1, len(order)):
        out = [data.draw(st.sampled_from([candidate.model, None])) for candidate in order[heard:]]
        if is_settled(tally(question, order[:heard], by), out):
            assert_same_result(question, order[:heard], order, by)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), question=questions, said=st.sampled_from(ANSWERS), heard=st.integers(2, 6))
def test_no_completion_whatever_turns_a_unanimous_start_that_stopped(
    data: st.DataObject, question: Question, said: Candidate, heard: int
) -> None:
    candidates = [said.model_copy(update={"voter": f"v{n}"}) for n in range(heard)]
    outstanding = data.draw(st.integers(1, 5))
    assume(is_settled(tally(question, candidates), ["m"] * outstanding))
    rest = data.draw(st.lists(st.sampled_from(ANSWERS), min_size=outstanding, max_size=outstanding))
    late = [answer.model_copy(update={"voter": f"w{n}"}) for n, answer in enumerate(rest)]
    assert_same_result(question, candidates, [*candidates, *late], EQUAL)


@settings(max_examples=400, deadline=None)
@given(question=questions, candidates=electorates(), asked=st.integers(1, 20))
def test_no_quorum_is_never_labelled_consensus(question: Question, candidates: list[Candidate], asked: int) -> None:
    decided = decide(question, candidates, asked=asked, wanted=asked, stopped_by="deadline")
    assert decided.quorum == (decided.votes > 0 and 2 * decided.votes >= asked and _half_of_weight(decided, asked))
    assert decided.degraded is not decided.quorum
    if not decided.quorum:
        assert decided.agreement is None


def _half_of_weight(decided: Verdict, asked: int) -> bool:
    return 2 * sum(summary.weight for summary in decided.candidates) >= max(asked, len(decided.candidates))


@given(question=questions, candidates=electorates())
def test_the_winner_is_one_of_the_candidates_and_no_failure(question: Question, candidates: list[Candidate]) -> None:
    winner = decide(question, candidates, asked=9, wanted=9, stopped_by="all_in").winner
    usable = [candidate for candidate in candidates if candidate.error is None]
    assert (winner is None) == (not usable)
    assert winner is None or any(winner is candidate for candidate in usable)


scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), values, min_size=1, max_size=4)


def written_otherwise(value: JsonValue) -> JsonValue:
    """The same value with its keys in another order and whole numbers as floats."""
    if isinstance(value, dict):
        return {key: written_otherwise(member) for key, member in reversed(value.items())}
    if isinstance(value, list):
        return [written_otherwise(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


@settings(max_examples=200, deadline=None)
@given(value=objects, indent=st.integers(0, 4), ascii_only=st.booleans())
def test_key_order_number_form_and_white_space_split_no_vote(
    value: dict[str, JsonValue], indent: int, ascii_only: bool
) -> None:
    plain = json.dumps(value)
    other = json.dumps(written_otherwise(value), indent=indent, ensure_ascii=ascii_only)
    by_text = [Candidate(voter="a", text=plain), Candidate(voter="b", text=f"  {other}\n")]
    by_call = [
        candidate.model_copy(update={"text": "", "tool_calls": a_call("now", candidate.text).tool_calls})
        for candidate in by_text
    ]
    demanded = Question(Strategy.MAJORITY, tools=TOOLS, response_format=ResponseFormat(type="json_object"))
    for candidates, kind in ((by_text, "json"), (by_call, "tool_calls")):
        counted = tally(demanded, candidates)
        assert (counted.kind, len(counted.groups), counted.votes) == (kind, 1, 2)
    assert len(tally(replace(demanded, response_format=None), by_text).groups) == 1


@settings(max_examples=200, deadline=None)
@given(data=st.data(), question=questions, candidates=electorates(), mute=st.integers(1, 4))
def test_who_weighs_nothing_changes_no_verdict(
    data: st.DataObject, question: Question, candidates: list[Candidate], mute: int
) -> None:
    said = [data.draw(st.sampled_from(ANSWERS)) for _ in range(mute)]
    liars = [
        answer.model_copy(update={"voter": f"liar {n}", "model": "m", "node_id": f"liar {n}"})
        for n, answer in enumerate(said)
    ]
    weights = VoterWeights(by_node={kind: {source_of(liar): Fraction(0) for liar in liars} for kind in KINDS})
    mixed = data.draw(st.permutations([*candidates, *liars]))
    alone, beside = (
        decide(question, voters, asked=len(voters), wanted=9, stopped_by="all_in", weights=weights, outstanding=())
        for voters in (candidates, mixed)
    )
    assert (alone.kind, alone.agreement, alone.margin, alone.quorum, alone.votes) == (
        beside.kind, beside.agreement, beside.margin, beside.quorum, beside.votes
    )  # fmt: skip
    if alone.votes:
        assert beside.winner == alone.winner
    assert alone.outcome == beside.outcome
