"""What counts as a final answer, and which ones are the same."""

from fractions import Fraction

import pytest

from swarm.consensus.final_answer import FinalAnswer, find_final_answer, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("42.0", 42),
        ("42.", 42),
        ("**42**", 42),
        ("+7", 7),
        ("-5", -5),
        ("\N{MINUS SIGN}5", -5),
        ("-$5", -5),
        (".5", Fraction(1, 2)),
        ("0,5", Fraction(1, 2)),
        ("0,500", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("½", Fraction(1, 2)),
        ("1½", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        ("1,234", 1234),
        ("12,34,567", 1234567),
        ("1,234.50", Fraction("1234.5")),
        ("1.234,50", Fraction("1234.5")),
        ("1.234.567", 1234567),
        ("1 234", 1234),
        ("1{,}234", 1234),
        ("$1,234", 1234),
        ("\\$12", 12),
        ("US$5", 5),
        ("€ 5", 5),
        ("50%", 50),
        ("50\\%", 50),
        ("5 million", 5_000_000),
        ("2 dozen eggs", 24),
        ("1e3", 1000),
        ("3×10^8", 300_000_000),
        ("3 \\times 10^{2}", 300),
        ("42 apples", 42),
        ("5 km/h", 5),
        ("9.8 m/s^2", Fraction("9.8")),
        ("5 m²", 5),
        ("90^\\circ", 90),
        ("42\\text{ cm}", 42),
        ("x = 7", 7),
        ("about 3", 3),
        ("٤٢", 42),
    ],
)
def test_a_number_is_read_by_its_value(text: str, value: Fraction) -> None:
    found = parse_quantity(text)
    assert found is not None
    assert found[0] == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "forty-two",
        "42 or 43",
        "3-5",
        "3:30",
        "2024-01-05",
        "1,2,3",
        "1.2.3",
        "(1, 2)",
        "x=1, y=2",
        "3x",
        "2 pi",
        "2π",
        "10²",
        "2^10",
        "1/0",
        "1/2/3",
        "3 * 4",
        "NaN",
        "Infinity",
        "1e999999",
        "9" * 100_000,
        "42 is the number of apples that they bought",
    ],
)
def test_what_is_no_single_number_is_not_read_as_one(text: str) -> None:
    assert parse_quantity(text) is None


NUMBER_42 = FinalAnswer("number", Fraction(42))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So we get \\boxed{42}.", NUMBER_42),
        ("\\boxed{41}, no: \\boxed{42}", NUMBER_42),
        ("\\boxed{\\frac{84}{2}}", NUMBER_42),
        ("6 * 7\n#### 42", NUMBER_42),
        ("Answer: 42", NUMBER_42),
        ("**Final answer:** 42 apples.", NUMBER_42),
        ("**Answer**: 42. That is because 6 * 7 = 42.", NUMBER_42),
        ("Answer:\n\n42", NUMBER_42),
        ("Answer: $42$", NUMBER_42),
        ("Answer: \\boxed{42}", NUMBER_42),
        ("Answer\uff1a42", NUMBER_42),
        ("Answer: 41\nWait.\nAnswer: 42", NUMBER_42),
        ("Answer: 42\n\n#### Explanation\nIt is so.", NUMBER_42),
        ("Answer: b", FinalAnswer("choice", "B")),
        ("Answer: (B)", FinalAnswer("choice", "B")),
        ("Answer: B) Paris", FinalAnswer("choice", "B")),
        ("Answer: B. Paris", FinalAnswer("choice", "B")),
        ("Answer: \uff22", FinalAnswer("choice", "B")),
        ("The answer: option B", FinalAnswer("choice", "B")),
        ("\\boxed{\\text{(B)}}", FinalAnswer("choice", "B")),
        ("Answer: yes.", FinalAnswer("choice", "YES")),
        ("Answer: A train leaves at nine", None),
        ("Answer: A. M. Turing", None),
        ("Answer: I do not know", None),
        ("Answer: B, C", None),
        ("#### Step 1", None),
        ("There are 42 apples.", None),
        ("42", None),
        ("Answer: 42\nAnswer: it depends", None),
    ],
)
def test_the_last_mark_in_a_reply_gives_its_final_answer(text: str, answer: FinalAnswer | None) -> None:
    assert find_final_answer(text, asked=False) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", NUMBER_42),
        ("Six times seven:\n\n**42**", NUMBER_42),
        ("So the answer is 42.", NUMBER_42),
        ("A", FinalAnswer("choice", "A")),
        ("A train leaves at nine", None),
        ("There are 42 apples and 3 pears.", None),
    ],
)
def test_where_the_client_asked_for_an_answer_a_bare_one_counts(text: str, answer: FinalAnswer | None) -> None:
    assert find_final_answer(text, asked=True) == answer
