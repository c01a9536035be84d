"""`swarm bench speculation`: two engines that write the same texts, what is made of their times, and of their texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarm.cli import main
from swarm.commands.bench_speculation import Difference, Task, Written, common_chars, gains, gap_at, tasks


def test_there_is_as_much_of_each_kind_and_all_of_it_fits_the_smallest_model() -> None:
    kinds = [task.kind for task in tasks()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"code": 4, "JSON": 4, "prose": 4}
    assert max(len(task.question) for task in tasks()) < 1200
    assert all(task.begun.partition("\n")[2] in task.question for task in tasks())


def test_gains_are_ratios_of_the_same_text() -> None:
    asked = [Task("code", "a"), Task("code", "b"), Task("prose", "c")]

    def side(*speeds: float) -> list[tuple[Task, Written]]:
        return [(task, Written("", 9, speed)) for task, speed in zip(asked, speeds, strict=True)]

    code, prose = gains(side(10, 20, 5), side(20, 60, 5))
    assert (code.plain, code.guessed, code.ratio, code.least, code.most, code.texts) == (15, 40, 2.5, 2, 3, 2)
    assert (prose.kind, prose.ratio) == ("prose", 1)
    assert gains(side(10, 0, 0), side(20, 1, 1))[0].texts == 1, "a text of one token has no speed"


@pytest.mark.parametrize(
    ("one", "other", "chars"), [("", "", 0), ("abc", "abd", 2), ("abc", "ab", 2), ("same", "same", 4), ("x", "y", 0)]
)
def test_how_far_two_texts_are_alike(one: str, other: str, chars: int) -> None:
    assert common_chars(one, other) == chars


PIECES = [("The ", (-0.1, -3.0)), ("cat", (-0.9, -1.0)), (" sat", (-0.5,))]


@pytest.mark.parametrize(
    ("plain", "after", "gap"),
    [
        ("The cat sat", 0, 2.9),
        ("The cat sat", 4, 0.1),
        ("The cat sat", 6, 0.1),
        ("The cat sat", 7, None),  # of one token alone nothing is told
        ("The cat sat on", 11, None),
        ("The dog", 4, None),
    ],
)
def test_how_close_two_tokens_were(plain: str, after: int, gap: float | None) -> None:
    found = gap_at(PIECES, plain, after)
    assert found is None if gap is None else found == pytest.approx(gap)
    assert Difference("code", after, found).is_near_tie == (gap is None or gap < 0.5)


def test_a_model_is_measured_without_and_with_guesses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    small = ["--rounds", "1", "--tokens", "16", "--threads", "1", "--data-dir", str(tmp_path)]
    guess = ["--draft", "demo:b", "--ngram"]
    assert main(["bench", "speculation", *small, *guess, "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "demo, 1 threads, tokens guessed from what was written before and demo:b" in said
    assert "of 8 greedy texts differ" in said
    assert {gain["kind"] for gain in json.loads(figures.read_text())["gains"]} == {"code", "JSON", "prose"}


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--rounds", "0"], "--rounds 0 is out of range: use 1 to 100"),
        (["--tokens", "5000"], "--tokens 5000 is out of range"),
        (["--draft", "demo"], "--draft demo: it is the model itself"),
        (["--model", "nowhere"], "'nowhere' is not on this disk: `swarm models list` says what is"),
    ],
)
def test_what_cannot_be_measured_is_said(
    words: list[str], refusal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "speculation", *words, "--data-dir", str(tmp_path)]) != 0
    assert refusal in capsys.readouterr().err
