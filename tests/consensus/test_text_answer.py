"""Prose: near-identical answers are one, and never those that conclude or deny differently."""

import pytest

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import tally
from swarm.consensus.text_answer import read_text
from swarm.generation import Candidate

PADDING = "The calculation starts from the rows of the first table and adds what the second table says about each. "


def are_near(*texts: str) -> bool:
    """They are counted as one answer."""
    return len(tally(Question(Strategy.AUTO), [Candidate(voter=text, text=text) for text in texts]).groups) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris is the capital.", "**Paris**  is the capital"),
        ("PARIS", "paris."),
        ("It isn\u2019t far.", "It isn't far."),
        (PADDING + "So the total is 1,200.", PADDING + "Thus the total is 1200.0."),
        ("\uff30aris", "Paris"),
    ],
)
def test_wording_that_hardly_differs_is_one_answer(one: str, other: str) -> None:
    assert are_near(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PADDING + "The answer is 42.", PADDING + "The answer is 43."),
        (PADDING + "The answer is 42. I hope it helps!", PADDING + "The answer is 43. I hope it helps!"),
        (PADDING + "The answer is 5.", PADDING + "The answer is -5."),
        (PADDING + "The answer is 5%.", PADDING + "The answer is five."),
        (PADDING + "It is safe.", PADDING + "It is not safe."),
        (PADDING + "It can be done.", PADDING + "It can't be done."),
        ("Berlin", "Paris"),
        ("\u6771\u4eac", "\u4eac\u90fd"),
    ],
)
def test_answers_that_conclude_or_deny_differently_are_two(one: str, other: str) -> None:
    assert not are_near(one, other)
    assert read_text(one).key != read_text(other).key


@pytest.mark.parametrize(("one", "other"), [("x > 5", "x < 5"), ("-5", "5"), ("a b", "b a")])
def test_signs_and_order_count_where_text_is_compared_word_for_word(one: str, other: str) -> None:
    assert read_text(one).key != read_text(other).key


def test_likeness_is_token_f1() -> None:
    one, other = read_text("the cat sat on the mat"), read_text("the cat lay on the rug")
    assert one.likeness(other) == other.likeness(one) == 2 * 4 / 12


def test_ideographs_are_compared_one_by_one() -> None:
    assert read_text("\u6771\u4eac\u90fd").likeness(read_text("\u4eac\u90fd\u5e02")) == pytest.approx(2 / 3)


def test_wordless_answers_can_still_be_equal() -> None:
    assert are_near("\U0001f44d", " \U0001f44d ")
    assert read_text("\U0001f44d").likeness(read_text("\U0001f44e")) == 0
