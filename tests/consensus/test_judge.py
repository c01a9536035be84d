"""The judge: asked only where there is a dispute, shown what cannot break out of its letters, read without guessing."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.consensus.judge import MAX_OPTION_CHARS, MAX_OPTIONS, disputed, judge_request, judged
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.swarm_object import swarm_object
from swarm.consensus.tally import is_settled, tally
from swarm.consensus.verdict import Verdict, decide
from swarm.generation import Candidate, FunctionSpec, GenerationRequest, ToolCall, ToolSpec, Usage

JUDGED = Question(Strategy.JUDGE, wants_final_answer=True)
PROSE = Question(Strategy.JUDGE)
REQUEST = GenerationRequest(model="m", messages=({"role": "user", "content": "How far is it?"},), seed=7)
OPTION = re.compile(r"^([A-Z]): (.*)$", re.MULTILINE)


def said(*texts: str) -> list[Candidate]:
    return [
        Candidate(voter=f"v{n}", text=text, model="m", usage=Usage(completion_tokens=10))
        for n, text in enumerate(texts)
    ]


def options(question: Question, candidates: list[Candidate]) -> dict[str, str]:
    """What the judge is shown, by letter."""
    asked = judge_request(REQUEST, tally(question, candidates).groups)
    assert asked.messages is not None
    content = asked.messages[-1]["content"]
    assert isinstance(content, str)
    return {letter: json.loads(quoted) for letter, quoted in OPTION.findall(content)}


def ruling(reply: Candidate, *texts: str) -> Verdict:
    return decide(JUDGED, said(*texts), asked=len(texts), wanted=len(texts), stopped_by="all_in", judge=reply)


def letter_of(text: str, *texts: str) -> str:
    return next(letter for letter, shown in options(JUDGED, said(*texts)).items() if shown == text)


@pytest.mark.parametrize(
    ("texts", "is_disputed"),
    [
        (["Answer: 1", "Answer: 1", "Answer: 2"], False),
        (["Answer: 1", "Answer: 2"], True),
        (["Answer: 1", "Answer: 1", "Answer: 2", "Answer: 3"], True),
        (["Answer: 1"], False),
        ([], False),
    ],
)
def test_over_half_of_the_weight_needs_no_judge(texts: list[str], is_disputed: bool) -> None:
    assert disputed(tally(JUDGED, said(*texts)).groups) is is_disputed


def test_a_vote_with_a_judge_only_stops_early_where_none_will_be_asked() -> None:
    plurality = said("Answer: 1", "Answer: 1", "Answer: 1", "Answer: 2", "Answer: 3")
    assert is_settled(tally(Question(Strategy.AUTO, wants_final_answer=True), plurality), ["m"])
    assert not is_settled(tally(JUDGED, plurality), ["m"])
    assert is_settled(tally(JUDGED, plurality[:3]), ["m"] * 2)


TWO = ("Answer: 1", "Answer: 2")


def test_the_judge_picks_the_answer_and_its_tokens_are_counted() -> None:
    reply = Candidate(
        voter="strong", text=json.dumps({"best": letter_of(TWO[1], *TWO)}), usage=Usage(completion_tokens=5)
    )
    decided = ruling(reply, *TWO)
    assert decided.winner is not None
    assert (decided.winner.text, decided.judge, decided.total_completion_tokens) == ("Answer: 2", "strong", 25)
    assert (decided.agreement, decided.margin, [summary.group for summary in decided.candidates]) == (0.5, 0, [0, 1])
    assert swarm_object(decided, coordinator="k", elapsed_ms=1)["judge"] == "strong"


@pytest.mark.parametrize(
    "reply",
    [
        Candidate(voter="j", error="lost"),
        Candidate(voter="j", text=""),
        Candidate(voter="j", text="I cannot decide"),
        Candidate(voter="j", text='{"best": "Z"}'),
        Candidate(voter="j", text='{"best": 1}'),
        Candidate(voter="j", text="A B"),
        Candidate(voter="j", text="<think>B"),
        Candidate(voter="j", text="[" * 100_000),
        Candidate(voter="j", text="AB"),
    ],
)
def test_a_judge_that_cannot_be_read_changes_nothing(reply: Candidate) -> None:
    decided = ruling(reply, *TWO)
    assert decided.winner is not None
    assert (decided.winner.voter, decided.judge) == ("v0", None)
    assert swarm_object(decided, coordinator="k", elapsed_ms=1)["judge"] is None


def test_a_judge_has_no_say_where_the_answer_has_over_half() -> None:
    decided = ruling(Candidate(voter="j", text='{"best": "B"}'), "Answer: 1", "Answer: 1", "Answer: 2")
    assert decided.winner is not None
    assert (decided.winner.text, decided.judge) == ("Answer: 1", None)


def test_the_engine_leaves_the_judge_nothing_but_a_letter() -> None:
    asked = judge_request(REQUEST, tally(JUDGED, said("Answer: 1", "Answer: 2", "Answer: 3")).groups)
    assert asked.response_format is not None
    assert asked.response_format.json_schema is not None
    properties = asked.response_format.json_schema.schema_["properties"]
    assert properties == {"best": {"type": "string", "enum": ["A", "B", "C"]}}
    assert (asked.model, asked.temperature, asked.seed, asked.tools) == ("m", 0, 7, ())


def test_the_letters_say_nothing_about_who_leads() -> None:
    texts = [f"Answer: {n}" for n in range(5)]
    assert options(JUDGED, said(*texts)) == options(JUDGED, said(*reversed(texts)))


def test_only_the_heaviest_answers_are_shown() -> None:
    shown = options(JUDGED, said(*["Answer: 99"] * 2, *(f"Answer: {n}" for n in range(9))))
    assert len(shown) == MAX_OPTIONS
    assert "Answer: 99" in shown.values()


def test_a_long_answer_is_shown_with_its_end() -> None:
    long = "word " * 2000 + "and so it is 42."
    shown = options(PROSE, said(long, "Quite another thing."))
    longest = max(shown.values(), key=len)
    assert len(longest) <= MAX_OPTION_CHARS
    assert longest.endswith("so it is 42.")


def test_calls_are_shown_by_name_and_arguments() -> None:
    question = Question(Strategy.JUDGE, tools=(ToolSpec(function=FunctionSpec(name="now")),))
    call = Candidate(voter="c", tool_calls=(ToolCall(id="1", name="now", arguments='{"a": 1}'),))
    assert set(options(question, [call, *said("No.")]).values()) == {'calls now with {"a": 1}', "No."}


HOSTILE = st.text(st.sampled_from('A:B"\n\r\\<|im_end|>\u2028\x85{}best \udcff')) | st.text()


@given(texts=st.lists(HOSTILE.filter(str.strip), min_size=2, max_size=6), request_text=HOSTILE)
def test_no_text_breaks_out_of_its_option(texts: list[str], request_text: str) -> None:
    groups = tally(PROSE, said(*texts)).groups
    if not groups:
        return
    request = REQUEST.model_copy(update={"messages": ({"role": "user", "content": request_text},)})
    asked = judge_request(request, groups)
    assert asked.messages is not None
    content = asked.messages[-1]["content"]
    assert isinstance(content, str)
    lines = content.splitlines()
    letters = [line[0] for line in lines if OPTION.fullmatch(line)]
    assert letters == list("ABCDE"[: min(len(groups), MAX_OPTIONS)])
    assert len(lines) == len(letters) + (6 if request_text else 5)
    assert "<" not in content.encode().decode()
    shown = [json.loads(line[3:]) for line in lines if OPTION.fullmatch(line)]
    picked = [judged(json.dumps({"best": letter}), groups) for letter in letters]
    assert len(set(picked)) == len(shown)
