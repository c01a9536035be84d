"""Questions with known answers: which lines are taken, and which answers are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SetupError
from swarm.evaluation.questions import SHIPPED, read_problem, read_questions, shipped_questions
from swarm.generation import Candidate, ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
        },
    }
]


def problem_of(**fields: Any) -> Any:
    return read_problem(json.dumps({"question": "What?", **fields}))


def said(text: str) -> Candidate:
    return Candidate(voter="x", text=text, finish_reason="stop")


def called(*calls: tuple[str, str]) -> Candidate:
    made = tuple(ToolCall(id=f"c{at}", name=name, arguments=text) for at, (name, text) in enumerate(calls))
    return Candidate(voter="x", tool_calls=made, finish_reason="tool_calls")


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"answer": 42}, "6*7=42\nAnswer: 42.0", "Answer: 43"),
        ({"answer": 42}, "the answer is 42", "42 is what I would not say"),
        ({"answer": "1/2", "kind": "number"}, "#### 0.5", "#### 2"),
        ({"answer": "B", "options": 4}, "\\boxed{B}", "\\boxed{C}"),
        ({"answer": {"a": 1, "b": [2]}}, '{"b": [2], "a": 1.0}', '{"a": 1, "b": [3]}'),
        ({"answer": "Paris"}, "paris.", "It is London"),
        ({"answer": "x = 1\n", "kind": "code"}, "```python\nx=1  # one\n```", "```python\nx=2\n```"),
    ],
)
def test_an_answer_is_right_as_the_product_reads_it(fields: dict[str, Any], right: str, wrong: str) -> None:
    one = problem_of(**fields)
    assert one.is_right(said(right))
    assert not one.is_right(said(wrong))
    assert not one.is_right(said(""))
    assert not one.is_right(Candidate(voter="x", error="broke"))


def test_calls_are_right_whatever_their_order_and_spelling() -> None:
    calls = [{"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "add", "arguments": {"a": 3}}]
    one = problem_of(answer=calls, tools=TOOLS)
    assert one.kind == "tool_calls"
    assert one.is_right(called(("add", '{"a": 3}'), ("add", '{"b":2,"a":"1"}')))
    assert not one.is_right(called(("add", '{"a": 3}')))
    assert not one.is_right(said("Answer: 3"))


def test_no_call_can_be_the_right_answer() -> None:
    one = problem_of(answer=[], tools=TOOLS)
    assert one.is_right(said("hello"))
    assert not one.is_right(called(("add", "{}")))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Invalid JSON"),
        ('{"answer": 1}', 'give either "question" or "messages"'),
        ('{"question": "What?"}', "answer: Field required"),
        ('{"question": "What?", "answer": 1, "kind": "poem"}', "kind: Input should be 'tool_calls'"),
        ('{"question": "What?", "answer": "forty", "kind": "number"}', 'answer "forty" does not read as number'),
        ('{"messages": [{"content": "x"}], "answer": 1}', 'every message needs a "role"'),
        ('{"question": "What?", "answer": [1], "tools": []}', ""),
        ('{"question": "W?", "answer": [{"name": "f"}], "kind": "tool_calls"}', "does not read as tool_calls"),
        ('{"question": "W?", "answer": ["f"], "kind": "tool_calls"}', "expected calls as"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{{"question": "Fine?", "answer": 1}}\n\n{line}\n')
    if not words:
        assert len(read_questions(path)) == 2
        return
    with pytest.raises(SetupError) as caught:
        read_questions(path)
    assert f"{path} line 3: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "has no questions"), ('{"question": "Q?", "answer": 1}\n' * 2, "has a question twice")],
)
def test_a_useless_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(SetupError, match=words):
        read_questions(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read the questions in .*no\.jsonl: No such file"):
        read_questions(tmp_path / "no.jsonl")


def test_the_shipped_sets_are_whole() -> None:
    sizes = {name: len(shipped_questions(name).problems) for name in SHIPPED}
    assert sizes == {"arithmetic": 300, "tools": 200}
