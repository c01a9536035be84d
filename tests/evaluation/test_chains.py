"""Chains of voted steps, held again over stored samples: `benchmarks/chain.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import chain
from swarm.errors import SwarmError
from swarm.evaluation.intervals import Estimate
from swarm.evaluation.questions import shipped_questions
from swarm.evaluation.samples import Answered, DrawPlan, Sample, SampleStore
from tests.evaluation.made_up import RIGHT, answered

WRONG = 7
MOST = 10
RULES = {rule.name: rule for rule in chain.RULES}


def asked(*said: int, number: int = 0) -> Answered:
    """A question with these samples, in order; its greedy answer is right."""
    return answered({"m": said}, number)


def rows(ones: Sequence[Answered], questions: str) -> dict[tuple[str, bool], chain.Row]:
    measured = chain.chains_of(ones, "m", questions, MOST, orders=20)
    return {(row.rule, row.first_greedy): row for row in measured.rows}


@pytest.mark.parametrize(
    ("rule", "right", "voted"),
    [
        ("one vote", 0.9, 0.9),
        ("majority of 5", 0.9, 0.99144),
        ("majority of 5", 0.5, 0.5),
        ("ahead by 2", 0.9, 81 / 82),
        ("ahead by 3", 0.9, 729 / 730),
        ("ahead by 5", 0.0, 0.0),
        ("ahead by 5", 1.0, 1.0),
    ],
)
def test_the_formula_is_that_of_votes_that_err_independently(rule: str, right: float, voted: float) -> None:
    assert RULES[rule].formula(right) == pytest.approx(voted)


def test_where_all_agree_every_rule_asks_the_fewest_and_every_chain_is_right() -> None:
    measured = rows([asked(*[RIGHT] * 20, number=number) for number in range(3)], "right")
    fewest = {"one vote": 1, "the greedy answer": 1, "majority of 5": 3}
    fewest |= {"ahead by 2": 2, "ahead by 3": 3, "ahead by 5": 5}
    assert {rule: row.asked.value for (rule, _), row in measured.items()} == fewest
    assert all(row.chains[1000] == Estimate(1.0, 1.0, 1.0) for row in measured.values())


def test_a_race_that_nobody_wins_is_wrong_and_shown() -> None:
    """As many right as wrong, one after the other: no answer comes ahead, though the vote's best is the right one."""
    step = chain.hold(RULES["ahead by 3"], asked(*[RIGHT, WRONG] * 5), asked(*[RIGHT, WRONG] * 5).samples["m"])
    assert step == chain.Step(right=False, undecided=True, asked=9)


def test_the_greedy_answer_has_the_first_seat_or_none() -> None:
    one = asked(*[WRONG, WRONG, WRONG, RIGHT] * 5)
    ahead = RULES["ahead by 2"]
    alone = chain.step_on(ahead, one, one.samples["m"], None, MOST, orders=400)
    seated = chain.step_on(ahead, one, one.samples["m"], one.greedy["m"], MOST, orders=400)
    assert alone.right == pytest.approx(ahead.formula(0.25), abs=0.05)
    assert seated.right > alone.right + 0.05
    assert chain.step_on(RULES["one vote"], one, one.samples["m"], one.greedy["m"], MOST, 1).right == 1
    assert chain.step_on(RULES["one vote"], one, one.samples["m"], None, MOST, 1).right == 0.25


def test_a_question_is_chosen_by_one_half_and_measured_on_the_other() -> None:
    """One whose halves contradict each other is chosen once, and wrong there: what was chosen is not measured."""
    torn = asked(*[RIGHT] * 10, *[WRONG] * 10)
    measured = chain.chains_of([torn, asked(*[RIGHT] * 20, number=1)], "m", "right", MOST, orders=5)
    assert measured.count == 1.5, "the torn one by one of its halves"
    assert measured.one == pytest.approx(2 / 3)
    assert measured.rows[3].right.value == pytest.approx(2 / 3)
    hopeless = [asked(*[WRONG] * 20, number=number) for number in range(2)]
    both = rows([*hopeless, asked(*[RIGHT] * 20, number=3)], "all"), rows([*hopeless, asked(*[RIGHT] * 20)], "right")
    assert [one["ahead by 3", False].right.value for one in both] == [pytest.approx(1 / 3), 1.0]


def test_the_longer_the_chain_the_fewer_are_right() -> None:
    chains = chain.in_a_row(Estimate(0.9, 0.8, 1.0), 10)
    assert (chains.value, chains.low, chains.high) == pytest.approx((0.9**10, 0.8**10, 1.0))


def stored(path: Path, samples: int = 20, seed: int = 1) -> Path:
    """A file with the first two questions of `tools`, whose samples all make the right call, greedy ones included."""
    two = replace(shipped_questions("tools"), samples=20, problems=shipped_questions("tools").problems[:2])
    plan = DrawPlan(two, "embedded", ("demo",), samples, seed)
    store = SampleStore(path)
    with store.recording():
        for problem in two.problems:
            for key in plan.keys(problem):
                store.add(Sample(key=key, tool_calls=problem.gold.tool_calls, finish_reason="tool_calls"))
    return path


def test_what_is_in_the_file_is_one_draw_or_it_is_said(tmp_path: Path) -> None:
    tools = shipped_questions("tools")
    path = stored(tmp_path / "samples.jsonl")
    [one, _] = chain.stored(path, tools, "demo")
    assert len(one.samples["demo"]) == 20
    with pytest.raises(SwarmError, match=r"has 0 draws of demo:b on tools, not one: swarm bench votes --embedded"):
        chain.stored(path, tools, "demo:b")
    stored(path, seed=2)
    with pytest.raises(SwarmError, match="has 2 draws of demo on tools"):
        chain.stored(path, tools, "demo")


async def test_real_chains_are_counted_beside_their_replay(tmp_path: Path) -> None:
    ones = chain.stored(stored(tmp_path / "samples.jsonl"), shipped_questions("tools"), "demo")
    live = await chain.live_chains(ones, "demo", 1, MOST, orders=1, steps_each=3)
    assert live.replayed_right.value == 1.0
    assert live.replayed_asked.value == 3.0
    assert live.asked.value >= 3.0, "a vote was held on each"
    assert live.right.value > 0.5, "and the model can do these"


def test_the_command_prints_draws_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, figures, drawn = (tmp_path / name for name in ("samples.jsonl", "chain.json", "figures/chain.svg"))
    words = ["--store", str(stored(path)), "--json", str(figures), "--plot", str(drawn)]
    assert chain.main([*words, "--max-votes", "10"]) == 0
    said = capsys.readouterr().out
    assert "| ahead by 3 | greedy | 100.00 % (100.00 to 100.00) | 0.00 % | 0.00 % | 3.00 |" in said
    assert (
        "10 in a row, ahead by 3, first seat sample, all questions: 100.0 % (100.0 to 100.0), at least 78 %: met"
        in said
    )
    assert [one["questions"] for one in json.loads(figures.read_text())["chains"]] == ["all", "right"]
    assert "calls in a row" in drawn.read_text()
    with pytest.raises(SystemExit):
        chain.main([*words, "--max-votes", "11"])
    assert "--max-votes 11: use 5 to 10, half of the 20 samples" in capsys.readouterr().err
