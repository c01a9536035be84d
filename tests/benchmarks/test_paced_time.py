"""The machine of steps that a paced engine takes its time from: `benchmarks/paced_time.py`."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.paced_time import Pace, PacedJob, PacedMachine, PacedToken

STEADY = Pace((1.0, 1.5, 2.0), ((10, 10.0),), slice_tokens=4, whole_tokens=0, batch_tokens=8)  # a token read a second


def words(count: int, first: str = "w") -> list[str]:
    return [f"{first}{number}" for number in range(count)]


def all_told(machine: PacedMachine) -> list[PacedToken]:
    """Everything that is still to come, told at the instants at which it is due."""
    told: list[PacedToken] = []
    while machine.next_due is not None:
        told += machine.advance(machine.next_due)
    return told


def dues(told: list[PacedToken], job: PacedJob) -> list[float]:
    return [token.due for token in told if token.job is job]


@pytest.mark.parametrize(
    ("answers", "seconds"), [(0, 0.0), (1, 1.0), (2, 1.5), (3, 2.0), (6, 4.0)], ids=lambda value: str(value)
)
def test_a_step_is_as_long_as_its_answers_say(answers: int, seconds: float) -> None:
    assert STEADY.writing_s(answers) == seconds


@pytest.mark.parametrize(
    ("tokens", "seconds"), [(0, 0.0), (5, 2.0), (10, 4.0), (15, 8.0), (20, 12.0), (40, 28.0)], ids=lambda v: str(v)
)
def test_reading_is_straight_between_and_beyond_what_was_measured(tokens: int, seconds: float) -> None:
    assert Pace((1.0,), ((10, 4.0), (20, 12.0))).reading_s(tokens) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_s": ()},
        {"step_s": (0.0,)},
        {"step_s": (2.0, -1.0)},
        {"read_s": ()},
        {"read_s": ((8, 2.0), (16, 1.0))},
        {"read_s": ((0, 1.0),)},
        {"context_s": -1.0},
        {"slice_tokens": 0},
        {"slice_tokens": 4096},
    ],
    ids=str,
)
def test_a_pace_that_no_engine_has_is_refused(wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {"step_s": (1.0,), "read_s": ((1, 1.0),)}
    with pytest.raises(ValueError, match=r"give|no time"):
        Pace(**{**fields, **wrong})  # pyright: ignore[reportArgumentType]


def test_a_pace_comes_back_from_its_file(tmp_path: Path) -> None:
    pace = Pace((0.1, 0.15), ((64, 0.5), (512, 4.0)), 1e-6, 0.01, 256, 300, 1024)
    pace.write(tmp_path / "pace.json")
    assert Pace.read(tmp_path / "pace.json") == pace


def test_twice_the_time_for_everything() -> None:
    pace = Pace((0.1, 0.15), ((64, 0.5), (512, 4.0)), 1e-6, 0.01)
    contexts, slices = [10, 20], [(0, 100)]
    assert pace.times(2).whole_step_s(contexts, slices) == pytest.approx(2 * pace.whole_step_s(contexts, slices))
    assert pace.times(2).whole_step_s(contexts, []) == pytest.approx(2 * pace.whole_step_s(contexts, []))


def test_a_simple_pace_shares_the_speed_or_does_not() -> None:
    assert Pace.simple(100, 10).writing_s(4) == pytest.approx(0.1)
    assert Pace.simple(100, 10, 0.0).writing_s(4) == pytest.approx(0.4)
    assert Pace.simple(100, 10).reading_s(50) == pytest.approx(0.5)


def test_one_answer_begins_when_its_prompt_is_read_and_goes_on_step_by_step() -> None:
    machine = PacedMachine(STEADY, 1)
    job = machine.begin(100.0, words(6), words(3))
    told = all_told(machine)
    assert dues(told, job) == [106.0, 107.0, 108.0]  # two slices, then two steps
    assert [token.number for token in told] == [0, 1, 2]
    assert [token.last for token in told] == [False, False, True]
    assert machine.next_due is None


def test_an_answer_of_nothing_ends_with_its_prompt() -> None:
    machine = PacedMachine(STEADY, 1)
    machine.begin(0.0, words(4), ())
    (token,) = all_told(machine)
    assert (token.due, token.number, token.last) == (4.0, None, True)


def test_who_comes_within_a_step_has_part_in_the_next() -> None:
    machine = PacedMachine(STEADY, 2)
    first = machine.begin(0.0, words(1), words(4, "a"))
    second = machine.begin(0.5, words(1, "x"), words(2, "b"))
    told = all_told(machine)
    assert dues(told, first) == [1.0, 2.5, 4.0, 5.0]  # both in two steps of 1.5 s
    assert dues(told, second) == [2.5, 4.0]


def test_a_long_prompt_is_read_in_slices_between_which_the_others_go_on() -> None:
    machine = PacedMachine(STEADY, 2)
    first = machine.begin(0.0, words(1), words(5, "a"))
    second = machine.begin(0.5, words(8, "x"), words(1, "b"))
    told = all_told(machine)
    assert dues(told, first) == [1.0, 5.0, 6.0, 10.0, 11.0]
    assert dues(told, second) == [10.0]


def test_long_prompts_share_a_slice() -> None:
    pace = Pace((1.0,), ((1, 1.0),), slice_tokens=200, whole_tokens=0)
    machine = PacedMachine(pace, 3)
    machine.begin(0.0, words(1), words(1))
    jobs = [machine.begin(0.5, words(100, name), words(1)) for name in "xy"]
    told = all_told(machine)
    assert [dues(told, job) for job in jobs] == [[201.0], [201.0]]  # 100 tokens of each in one step
    machine.begin(300.0, words(1, "z"), words(1))
    shared = [machine.begin(300.5, words(150, name), words(1)) for name in "uv"]
    told = all_told(machine)
    assert [dues(told, job) for job in shared] == [[601.0], [601.0]]  # 100 of each, then 50 of each


def test_a_prompt_that_is_not_long_is_read_in_one_step() -> None:
    machine = PacedMachine(replace(STEADY, whole_tokens=8), 2)
    first = machine.begin(0.0, words(1), words(3, "a"))
    second = machine.begin(0.5, words(8, "x"), words(1, "b"))
    told = all_told(machine)
    assert dues(told, first) == [1.0, 9.0, 10.0]
    assert dues(told, second) == [9.0]


def test_prompts_share_a_batch_in_order_of_arrival() -> None:
    machine = PacedMachine(Pace((1.0,), ((1, 1.0),), slice_tokens=6, whole_tokens=0, batch_tokens=8), 3)
    machine.begin(0.0, words(1), words(1))
    second = machine.begin(0.5, words(8, "x"), words(1))
    third = machine.begin(0.5, words(9, "y"), words(1))
    told = all_told(machine)
    assert dues(told, second) == [17.0]  # from 1.0 on: 6 tokens and 2, then 2 and 6
    assert dues(told, third) == [18.0]


def test_more_than_the_slots_wait_in_order() -> None:
    machine = PacedMachine(STEADY, 2)
    jobs = [machine.begin(0.0, words(1, name), words(2)) for name in "abcd"]
    told = all_told(machine)
    ends = [dues(told, job)[-1] for job in jobs]
    assert ends == sorted(ends)
    assert dues(told, jobs[2])[0] > ends[0]
    assert dues(told, jobs[3])[0] > ends[1]


def test_several_answers_share_the_reading_of_their_prompt() -> None:
    machine = PacedMachine(STEADY, 3)
    machine.begin(0.0, words(4), words(2), answers=3)
    assert [token.due for token in all_told(machine)] == [4.0, 6.0]
    assert machine.counts.read == 4
    assert machine.counts.written == 6


def test_what_a_slot_holds_is_not_read_again() -> None:
    machine = PacedMachine(STEADY, 2)
    machine.begin(0.0, words(4), words(2, "a"))
    machine.begin(0.0, words(4, "x"), words(2, "a"))
    all_told(machine)
    more = machine.begin(50.0, [*words(4), *words(2, "a"), "and"], words(1))
    assert dues(all_told(machine), more) == [51.0]
    assert more.cached == 6
    again = machine.begin(60.0, words(4, "x"), words(1))
    all_told(machine)
    assert again.cached == 3  # the last token is read anyway: the first one written comes of it


def test_who_leaves_gives_the_slot_to_the_next_and_is_told_nothing() -> None:
    machine = PacedMachine(STEADY, 1)
    first = machine.begin(0.0, words(8), words(5))
    second = machine.begin(0.0, words(1, "x"), words(1))
    machine.cancel(1.0, first)
    machine.cancel(1.0, first)
    assert machine.next_due == 4.0  # a step that has begun goes on
    told = all_told(machine)
    assert dues(told, first) == []
    assert dues(told, second) == [5.0]


def test_a_cancelled_prompt_keeps_what_was_read_of_it() -> None:
    machine = PacedMachine(STEADY, 1)
    first = machine.begin(0.0, words(8), words(5))
    machine.cancel(4.5, first)
    again = machine.begin(20.0, words(8), words(1))
    assert again.cached == 4


def test_more_answers_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="3 answers"):
        PacedMachine(STEADY, 2).begin(0.0, words(1), words(1), answers=3)


@dataclass(frozen=True)
class Asked:
    at: float
    prompt: int
    answer: int
    answers: int
    leaves_after: float | None


ASKED = st.builds(
    Asked,
    at=st.floats(0, 50),
    prompt=st.integers(1, 40),
    answer=st.integers(0, 8),
    answers=st.integers(1, 3),
    leaves_after=st.none() | st.floats(0, 30),
)


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    one, more, per_token = draw(st.floats(0.01, 2)), draw(st.floats(0, 2)), draw(st.floats(0.001, 0.5))
    context, beside, sliced = draw(st.floats(0, 0.01)), draw(st.floats(0, 0.5)), draw(st.integers(1, 16))
    return Pace(
        (one, one + more, 1.5 * (one + more)),
        ((1, per_token),),
        context,
        beside,
        sliced,
        draw(st.integers(0, 20)),
        2 * sliced,
    )


def played(pace: Pace, slots: int, asked: list[Asked], looks: list[float]) -> tuple[list[PacedToken], list[PacedJob]]:
    """All of it through a machine, which is looked at besides at `looks`."""
    machine = PacedMachine(pace, slots)
    told: list[PacedToken] = []
    jobs: dict[int, PacedJob] = {}
    happening = [(one.at, 0, number) for number, one in enumerate(asked)]
    happening += [(one.at + one.leaves_after, 1, n) for n, one in enumerate(asked) if one.leaves_after is not None]
    happening += [(look, 2, 0) for look in looks]
    for at, kind, number in sorted(happening):
        one = asked[number] if kind < 2 else None
        if kind == 0 and one is not None:
            jobs[number] = machine.begin(
                at, words(one.prompt, f"{number}."), words(one.answer), min(one.answers, slots)
            )
        elif kind == 1:
            told += machine.advance(at)
            machine.cancel(at, jobs[number])
        else:
            told += machine.advance(at)
    return told + all_told(machine), [jobs[number] for number in range(len(asked))]


@settings(deadline=None, max_examples=200)
@given(paces(), st.integers(1, 4), st.lists(ASKED, max_size=8))
def test_every_answer_comes_whole_in_order_and_after_it_was_asked(pace: Pace, slots: int, asked: list[Asked]) -> None:
    told, jobs = played(pace, slots, asked, [])
    assert [token.due for token in told] == sorted(token.due for token in told)
    of: dict[PacedJob, list[PacedToken]] = defaultdict(list)
    for token in told:
        of[token.job].append(token)
    for one, job in zip(asked, jobs, strict=True):
        mine = of[job]
        if one.leaves_after is None:
            assert [token.number for token in mine] == (list(range(one.answer)) or [None])
            assert [token.last for token in mine] == [False] * (len(mine) - 1) + [True]
        if mine:
            new = one.prompt - (job.cached or 0)
            assert mine[0].due >= one.at + pace.reading_s(one.prompt) - pace.reading_s(one.prompt - new) - 1e-6
            assert all(b.due - a.due >= min(pace.step_s) - 1e-6 for a, b in itertools.pairwise(mine))


@settings(deadline=None, max_examples=100)
@given(paces(), st.integers(1, 4), st.lists(ASKED, max_size=6), st.lists(st.floats(0, 80), max_size=12))
def test_when_somebody_looks_changes_nothing(pace: Pace, slots: int, asked: list[Asked], looks: list[float]) -> None:
    def plain(looks: list[float]) -> list[tuple[float, int, int | None, bool]]:
        told, jobs = played(pace, slots, asked, looks)
        return [(token.due, jobs.index(token.job), token.number, token.last) for token in told]

    assert plain(looks) == plain([])


@settings(deadline=None, max_examples=100)
@given(
    paces(), st.lists(st.integers(0, 2000), max_size=12), st.integers(0, 2000), st.integers(0, 500), st.integers(1, 500)
)
def test_a_step_never_gets_shorter_by_more_to_do(
    pace: Pace, contexts: list[int], another: int, begin: int, more: int
) -> None:
    plain = pace.whole_step_s(contexts, [])
    assert pace.whole_step_s([*contexts, another], []) >= plain
    reading = pace.whole_step_s(contexts, [(begin, begin + more)])
    assert reading >= plain
    assert pace.whole_step_s([*contexts, another], [(begin, begin + more)]) >= reading - 1e-9
    assert pace.whole_step_s(contexts, [(begin, begin + more + 1)]) >= reading - 1e-9
