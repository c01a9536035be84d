"""From samples on disk to a report: what is kept, what is resumed, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.consensus.options import Strategy
from swarm.errors import SetupError
from swarm.evaluation.findings import measure
from swarm.evaluation.intervals import Estimate
from swarm.evaluation.plots import draw_plots
from swarm.evaluation.questions import QuestionSet, read_problem
from swarm.evaluation.report import (
    BEGIN,
    END,
    HOW_TO_PLOT,
    Provenance,
    link_from,
    render_report,
    write_report,
)
from swarm.evaluation.samples import DrawPlan, SampleStore, read_samples, sampling_seed
from swarm.evaluation.targets import judged, targets
from swarm.generation import JsonObject
from tests.evaluation.made_up import RIGHT, everything_of, problem, sample

CLOCK: JsonObject = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TOOL: JsonObject = {"type": "function", "function": CLOCK}
QUESTIONS = QuestionSet("arithmetic", tuple(problem(n) for n in range(3)), temperature=0.8, max_tokens=100, samples=9)
PLAN = DrawPlan(QUESTIONS, "made up", ("a", "b"), samples=9, seed=1)
PROVENANCE = Provenance("swarm bench votes", "today", "1", "http://x", "majority", 1)


def test_samples_survive_a_run(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    store, one = SampleStore(path), sample(problem(), "a", 0, RIGHT)
    with store.recording():
        store.add(one)
    assert read_samples(path) == {one.key: one}


def test_a_line_that_was_cut_off_is_dropped_and_drawn_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [sample(problem(), "a", index, RIGHT).model_dump_json(exclude_defaults=True) for index in range(2)]
    path.write_text(f"{lines[0]}\n{lines[1][:30]}")
    store = SampleStore(path)
    assert len(store.samples) == 1
    with store.recording():
        store.add(sample(problem(), "a", 1, RIGHT))
    assert len(read_samples(path)) == 2


@pytest.mark.parametrize("text", ["hello\n", "hello", '{"key": 1}\n'])
def test_another_file_is_never_written_to(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"notes\.txt line 1 is no sample"):
        SampleStore(path)
    assert path.read_text() == text


def test_every_sample_has_a_seed_of_its_own_in_31_bits() -> None:
    seeds = [sampling_seed(key) for one in QUESTIONS.problems for key in PLAN.keys(one)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_only_whole_problems_are_counted() -> None:
    drawn = everything_of(PLAN)
    del drawn[PLAN.keys(QUESTIONS.problems[1])[4]]
    answered = PLAN.answered(drawn, Strategy.MAJORITY)
    assert [one.problem for one in answered] == [
        QUESTIONS.problems[0],
        QUESTIONS.problems[2],
    ]


def test_the_report_says_everything() -> None:
    findings = measure(QUESTIONS, PLAN.answered(everything_of(PLAN), Strategy.MAJORITY), PLAN.models, seed=1)
    report = render_report(PROVENANCE, [findings], {})
    assert HOW_TO_PLOT in report
    assert "| arithmetic, a: vote of 5 against the greedy answer | interval above -2 points | +0.0 points" in report
    assert "| arithmetic: 3 votes of 2 models against 3 of the best | at least -1 point | +0.0 points" in report
    assert "| votes of 5, asked in two waves | 0 of 30 | 40.0 % (40.0 to 40.0) |" in report
    assert "| ahead by 3 | 3.00 (3.00 to 3.00) | 100.0 % (100.0 to 100.0) | 0.0 %" in report
    assert "The endpoint gave no log-probabilities" in report
    assert "all outcomes are equally right" in report
    assert findings.measured["a"]["number"].correct == 3


def test_an_interrupted_run_says_so() -> None:
    drawn = everything_of(PLAN)
    del drawn[PLAN.keys(QUESTIONS.problems[1])[4]]
    findings = measure(QUESTIONS, PLAN.answered(drawn, Strategy.MAJORITY), PLAN.models, seed=1)
    assert "2 of 3 (interrupted) problems" in render_report(PROVENANCE, [findings], {})


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.1, 0.09, 0.11, "met"),
        (0.1, 0.05, 0.15, "met, within noise"),
        (0.07, 0.05, 0.15, "missed, within noise"),
        (0.07, 0.05, 0.075, "missed"),
    ],
)
def test_a_promise_is_judged_by_its_interval(value: float, low: float, high: float, verdict: str) -> None:
    assert judged(Estimate(value, low, high), 0.08) == verdict


def test_with_log_probabilities_the_report_speaks_of_confidence() -> None:
    drawn = {
        key: sample.model_copy(update={"confidence": -0.1 * (key.index + 2)})
        for key, sample in everything_of(PLAN).items()
    }
    findings = measure(QUESTIONS, PLAN.answered(drawn, Strategy.MAJORITY), PLAN.models, seed=1)
    report = render_report(PROVENANCE, [findings], {})
    assert "no log-probabilities" not in report
    assert "| 5 votes by confidence | over the majority of 5 | over the majority of 8 | AUROC" in report
    assert "| arithmetic, a: 5 votes by confidence against the majority of 8 | at least equal | +0.0 points" in report


@pytest.mark.parametrize(
    ("problems", "samples", "models"), [(3, 3, ("a",)), (1, 3, ("a", "b")), (2, 4, ("a", "b", "c"))]
)
def test_few_samples_questions_and_models_make_a_report_too(
    problems: int, samples: int, models: tuple[str, ...]
) -> None:
    questions = replace(QUESTIONS, problems=QUESTIONS.problems[:problems], samples=samples)
    plan = DrawPlan(questions, "made up", models, samples, seed=1)
    findings = measure(questions, plan.answered(everything_of(plan), Strategy.MAJORITY), models, seed=1)
    report = render_report(PROVENANCE, [findings], {})
    assert f"over the majority of {samples} |" in report
    assert ("votes of a, b" in report) == (len(models) > 1)
    assert {target.verdict for target in targets([findings])} <= {"met"}


def test_questions_of_several_kinds_are_measured_together() -> None:
    call: JsonObject = {"question": "What is the time?", "answer": [], "kind": "tool_calls", "tools": [TOOL]}
    problems = (
        problem(),
        read_problem(json.dumps({"question": "Who?", "answer": "me"})),
        read_problem(json.dumps(call)),
    )
    questions = replace(QUESTIONS, problems=problems, samples=3)
    plan = DrawPlan(questions, "made up", ("a",), 3, seed=1)
    findings = measure(questions, plan.answered(everything_of(plan), Strategy.MAJORITY), ["a"], seed=1)
    assert findings.kinds == {"number": 1, "text": 1, "tool_calls": 1}
    assert "1 number, 1 text, 1 tool_calls" in render_report(PROVENANCE, [findings], {})


def test_a_page_keeps_what_is_around_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "voting.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_report(page, "new\n")
    write_report(page, "newer\n")
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"


def test_a_page_without_marks_becomes_the_report(tmp_path: Path) -> None:
    page = tmp_path / "votes.md"
    write_report(page, "new\n")
    assert page.read_text() == "new\n"
    with pytest.raises(SetupError, match="cannot write the report"):
        write_report(tmp_path / "no" / "votes.md", "new\n")


def test_images_are_linked_from_where_the_report_is(tmp_path: Path) -> None:
    assert link_from(tmp_path / "docs" / "voting.md", tmp_path / "docs" / "figures" / "x.svg") == "figures/x.svg"
    assert link_from(None, Path("figures/x.svg")) == "figures/x.svg"


def test_plots_are_the_same_for_the_same_findings(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    findings = measure(QUESTIONS, PLAN.answered(everything_of(PLAN), Strategy.MAJORITY), PLAN.models, seed=1)
    first, second = (draw_plots([findings], tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first.values()] == [
        "votes-accuracy.svg",
        "votes-tokens.svg",
        "votes-risk-coverage.svg",
    ]
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]
