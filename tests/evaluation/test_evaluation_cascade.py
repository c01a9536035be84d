"""Cascades over made-up samples, whose figures can be computed by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from swarm.evaluation.cascade import (
    FEW_PROBLEMS,
    choose,
    kept,
    measure_cascade,
    measure_cascades,
    outcome,
    replayed,
    vote_numbers,
)
from swarm.evaluation.report import cascade_section
from swarm.evaluation.samples import GREEDY, Answered, answers_of
from swarm.registry.weights_file import MeasuredCascade, add_weights, read_weights
from tests.evaluation.made_up import RIGHT, answered, problem, sample

WRONG = RIGHT + 1


def one(number: int, greedy: dict[str, int], samples: int = 5) -> Answered:
    """A problem to which every model says the same each time; `greedy` is what."""
    made = answered({model: [said] * samples for model, said in greedy.items()}, number)
    asked = problem(number)
    own = {model: answers_of(asked, [sample(asked, model, GREEDY, said)])[0] for model, said in greedy.items()}
    return Answered(made.problem, made.question, made.samples, own)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all samples say the same, two draws say what ten would."""
    for name in ("SUBSETS", "HALVINGS"):
        monkeypatch.setattr(f"swarm.evaluation.cascade.{name}", 2)


def half_and_half(problems: int) -> list[Answered]:
    """Every second question parts the small ones, and only the strong one knows it."""
    hard, easy = {"a": WRONG, "b": WRONG + 1, "c": RIGHT}, dict.fromkeys("abc", RIGHT)
    return [one(number, hard if number % 2 else easy) for number in range(problems)]


@pytest.mark.parametrize(
    ("models", "samples", "numbers"), [(1, 9, (2, 3, 4, 5)), (2, 9, (2, 4, 6)), (3, 9, (3, 6, 9)), (1, 1, (2,))]
)
def test_the_small_ones_have_as_many_votes_each(models: int, samples: int, numbers: tuple[int, ...]) -> None:
    assert vote_numbers(models, samples) == numbers


def test_of_a_question_that_parts_them_the_strong_one_answers() -> None:
    easy, hard = (replayed(each, ("a", "b"), "c", (2, 4), 1) for each in half_and_half(2))
    assert outcome(easy, 2, Fraction(1)) == (1, 0, 20)
    assert outcome(hard, 2, Fraction(1)) == (1, 1, 30)
    assert outcome(hard, 4, Fraction(1, 2)) == (0, 0, 40), "half of four agree on what is wrong"
    assert outcome(hard, 2, None) == (1, 1, 30)


def test_the_fewest_calls_that_lose_nothing_are_chosen_and_kept() -> None:
    (both, *alone) = measure_cascades(half_and_half(2 * FEW_PROBLEMS), ["a", "b", "c"], 1)
    assert (both.small, both.strong, [each.small for each in alone]) == (("a", "b"), "c", [("a",), ("b",)])
    assert both.chosen == MeasuredCascade(("a", "b"), "c", votes=2, agreement=1.0, asked=2 * FEW_PROBLEMS)
    assert both.held_out is not None
    assert (both.held_out.asked.value, both.held_out.over_greedy.value) == (0.5, 0)
    assert alone[0].chosen is None, "it is sure of what is wrong, so that no share helps"
    assert kept([*alone, both]) == {"number": both.chosen}
    report = "\n".join(cascade_section(both))
    assert "Chosen: 2 small votes, 100 % of them agreeing" in report
    assert "No share keeps within a point" in "\n".join(cascade_section(alone[0]))


def test_no_plurality_is_chosen() -> None:
    rows = [replayed(one(number, {"a": RIGHT, "b": RIGHT, "c": RIGHT}), ("a", "b"), "c", (2,), 1) for number in (1, 2)]
    assert choose(rows) == (2, 1)
    parted = [replayed(one(0, {"a": RIGHT, "b": WRONG, "c": RIGHT}), ("a", "b"), "c", (4,), 1)]
    assert choose(parted) is None


def test_few_problems_or_one_model_say_nothing() -> None:
    assert measure_cascades(half_and_half(FEW_PROBLEMS - 1), ["a", "b", "c"], 1) == ()
    assert measure_cascades(half_and_half(FEW_PROBLEMS), ["a"], 1) == ()
    assert measure_cascade(half_and_half(FEW_PROBLEMS), ["a"], "c", 1).held_out is None


def test_a_cascade_is_kept_beside_the_weights_and_replaced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    first = MeasuredCascade(("a", "b"), "c", votes=4, agreement=2 / 3, asked=100)
    add_weights(path, {}, cascade={"number": first})
    assert read_weights(path).cascade == {"number": first}
    other = MeasuredCascade(("a",), "c", votes=3, agreement=1.0, asked=50)
    add_weights(path, {}, cascade={"tool_calls": other})
    add_weights(path, {}, cascade={"number": other})
    add_weights(path, {})
    assert read_weights(path).cascade == {"number": other, "tool_calls": other}
