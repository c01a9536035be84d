"""Whatever a model or a peer sends, a vote ends in a verdict, and soon."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.question import Question, Strategy
from swarm.consensus.swarm_object import swarm_object
from swarm.consensus.verdict import decide
from swarm.generation import (
    Candidate,
    FunctionSpec,
    GenerationRequest,
    JsonSchemaFormat,
    ResponseFormat,
    ToolCall,
    ToolSpec,
    Usage,
)

MAX_ANSWER_S = 5.0  # of CPU time; measured under 1 s (text that NFKC multiplies by 18), the rest under 0.3 s

TOOLS = (
    ToolSpec(
        function=FunctionSpec(name="now", parameters={"type": "object", "additionalProperties": {"type": "integer"}})
    ),
)
SCHEMA = JsonSchemaFormat(schema={"type": "object", "additionalProperties": {"type": "integer", "default": 1}})
QUESTIONS = [
    Question(Strategy.AUTO, tools=TOOLS, wants_final_answer=True),
    Question(Strategy.MAJORITY, tools=TOOLS),
    Question(Strategy.MEDOID, tools=TOOLS, response_format=ResponseFormat(type="json_schema", json_schema=SCHEMA)),
]

HOSTILE = {
    "nested arrays": "[" * 300_000,
    "nested objects": '{"a":' * 50_000,
    "closed nesting": "[" * 5000 + "]" * 5000,
    "huge exponent": '{"a": 1e999999}',
    "huge integer": '{"a": ' + "9" * 100_000 + "}",
    "huge number": "Answer: " + "9" * 100_000,
    "huge final exponent": "Answer: 1e999999",
    "huge ratio": "Answer: 1/" + "9" * 150,
    "NaN": '{"a": NaN}',
    "Answer NaN": "Answer: NaN",
    "escaped surrogate": '{"a": "\\ud800"}',
    "wide object": "{" + ",".join(f'"{n}": {n}' for n in range(60_000)) + "}",
    "nested code": "```python\n" + "(" * 40_000 + "\n```",
    "unary code": "```python\n" + "-" * 40_000 + "1\n```",
    "long sum": "```python\n" + "1" + "+1" * 20_000 + "\n```",
    "attribute chain": "```python\nx" + ".a" * 20_000 + "\n```",
    "lambda chain": "```python\n" + "lambda:" * 6000 + "1\n```",
    "null byte": "```python\nx\0\n```",
    "open strings": "```js\n" + '"\\' * 24_000 + "\n```",
    "open comments": "```js\n" + "/*" * 24_000 + "\n```",
    "many fences": "```\n" * 100_000,
    "many ticks": "`" * 450_000,
    "many hashes": "#" * 450_000,
    "many headings": "####\n" * 80_000,
    "many boxes": "\\boxed{" * 60_000,
    "many answers": "answer: " * 55_000,
    "many phrases": "the answer is " * 35_000,
    "many thoughts": "<think>" * 60_000,
    "spaces": "answer" + " " * 450_000,
    "minus signs": "-" * 450_000,
    "commas": "1," * 225_000,
    "apostrophes": "a'" * 225_000,
    "expanding ligatures": "\ufdfa" * 100_000,
    "combining marks": "a" + "\u0301" * 100_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("question", QUESTIONS, ids=["auto", "majority", "medoid"])
def test_a_hostile_answer_is_judged_in_bounded_time(question: Question, text: str) -> None:
    call = ToolCall(id="1", name="now", arguments=text)
    candidates = [
        Candidate(voter="text", text=text),
        Candidate(voter="call", tool_calls=(call,)),
        Candidate(voter="honest", text="Answer: 1"),
    ]
    start = time.process_time()
    decided = decide(question, candidates, asked=3, wanted=3, stopped_by="all_in")
    assert time.process_time() - start < MAX_ANSWER_S
    assert decided.winner is not None


def test_a_lone_surrogate_in_a_reply_is_no_crash() -> None:
    """Candidates made by this process are not always validated; bytes from an engine can decode to surrogates."""
    broken = ["\ud800", "Answer: \udfff1", "```python\n'\ud800'\n```", '{"a": "\ud800"}']
    candidates = [Candidate.model_construct(voter=f"v{n}", text=text) for n, text in enumerate(broken)]
    for question in QUESTIONS:
        assert decide(question, candidates, asked=4, wanted=4, stopped_by="all_in").winner is not None


def test_hostile_instructions_are_searched_in_bounded_time() -> None:
    start = time.process_time()
    for text in HOSTILE.values():
        Question.of(GenerationRequest(model="m", messages=({"role": "user", "content": text},)), Strategy.AUTO)
    assert time.process_time() - start < MAX_ANSWER_S


strategies_: list[Strategy] = [Strategy.AUTO, Strategy.MAJORITY, Strategy.MEDOID, Strategy.FIRST, Strategy.SINGLE]
fragments = st.sampled_from(
    [
        "Answer:",
        "\\boxed{",
        "}",
        "{",
        "[",
        '"',
        "```",
        "```python\n",
        "\n",
        "####",
        "<think>",
        "</think>",
        "1e9",
        "-",
        "/",
        ",",
    ]
)
texts = st.lists(fragments | st.text(max_size=8), max_size=12).map("".join)
candidates_ = st.builds(
    Candidate,
    voter=st.sampled_from(["a", "b", "c", "d"]),
    text=texts,
    tool_calls=st.lists(
        st.builds(ToolCall, id=st.just("i"), name=st.sampled_from(["now", "x"]), arguments=texts), max_size=2
    ).map(tuple),
    finish_reason=st.sampled_from([None, "stop", "length", "tool_calls", "content_filter"]),
    mean_logprob=st.sampled_from([None, -0.5, math.nan, math.inf, -math.inf]),
    error=st.sampled_from([None, None, None, "lost"]),
    usage=st.just(Usage(completion_tokens=1)),
)


@settings(max_examples=500, deadline=None)
@given(
    candidates=st.lists(candidates_, max_size=6),
    strategy=st.sampled_from(strategies_),
    tools=st.sampled_from([(), TOOLS]),
    form=st.sampled_from([None, ResponseFormat(type="json_object")]),
    asked=st.booleans(),
)
def test_any_mix_of_answers_ends_in_a_verdict(
    candidates: list[Candidate],
    strategy: Strategy,
    tools: tuple[ToolSpec, ...],
    form: ResponseFormat | None,
    asked: bool,
) -> None:
    question = Question(strategy, tools=tools, response_format=form, wants_final_answer=asked)
    decided = decide(question, candidates, asked=6, wanted=6, stopped_by="all_in")
    shown = swarm_object(decided, coordinator="k", elapsed_ms=1)
    assert shown["total_completion_tokens"] == len(candidates)
    assert len(decided.candidates) == len(candidates)
    if strategy in ("auto", "majority", "medoid"):  # voters that contradict themselves do not make order count either
        backwards = decide(question, candidates[::-1], asked=6, wanted=6, stopped_by="all_in")
        assert swarm_object(backwards, coordinator="k", elapsed_ms=1) == shown
