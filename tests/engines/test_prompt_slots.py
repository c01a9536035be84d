"""Which slot reads a prompt: the one that has most of it, and never one that drives another conversation out for it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import pytest

from swarm.engines.llama_cpp.prompt_slots import ANSWER_TOKENS, SHORT_TOKENS, PromptSlots

SYSTEM = list(range(1000))  # what two conversations begin with
ANN = [*SYSTEM, *range(2000, 2500)]
BOB = [*SYSTEM, *range(3000, 3500)]
OTHER = list(range(5000, 6000))
THIRD = list(range(7000, 8500))
NONE: list[int] = []


@dataclass(frozen=True)
class OnDisk:
    tokens: array[int]


def tokens(*parts: list[int]) -> array[int]:
    return array("i", [token for part in parts for token in part])


def slots(*held: list[int] | str | None, cells: int = 0) -> PromptSlots:
    """Slots that hold these prompts, read in this order; None is a busy one."""
    made = PromptSlots(len(held), cells, cells)
    for slot, prompt in zip(made.slots, held, strict=True):
        made.clock += 1
        slot.used = made.clock if prompt else 0
        slot.busy = prompt is None
        if isinstance(prompt, str):
            slot.text = prompt
        elif prompt:
            slot.hold(tokens(prompt), 0.0)
    return made


@pytest.mark.parametrize(
    ("held", "prompt", "chosen", "has"),
    [
        pytest.param((NONE, NONE), ANN, 1, 0, id="the last of the empty ones: votes take the first"),
        pytest.param((ANN, OTHER), [*ANN, 1, 2], 0, 1500, id="where it goes on"),
        pytest.param((ANN, BOB), [*BOB, 1, 2], 1, 1500, id="the one that is most like it"),
        pytest.param((ANN, NONE), BOB, 1, 0, id="not in place of another that begins alike, while there is room"),
        pytest.param((ANN, OTHER), ANN[:1490], 0, 1490, id="a few tokens less of an answer are no other conversation"),
        pytest.param((None, NONE), ANN, 1, 0, id="not where one is being read"),
        pytest.param((None, OTHER), ANN, 1, 0, id="in place of another, where nothing else is free"),
    ],
)
def test_a_prompt_is_read_where_least_is_read_now_and_later(
    held: tuple[list[int], ...], prompt: list[int], chosen: int, has: int
) -> None:
    choice = slots(*held).choose(tokens(prompt))
    assert choice is not None
    assert (choice.slot.id, choice.held) == (chosen, has)


def test_an_answer_is_in_the_cache_too() -> None:
    made = slots(ANN)
    made.slots[0].answered = 40
    grown = made.choose(tokens(ANN, list(range(9000, 9100))))
    other = made.choose(tokens(ANN[:1400], list(range(9000, 9100))))
    assert grown is not None
    assert other is not None
    assert (grown.held, other.held) == (1540, 1400)


def test_nothing_is_chosen_where_no_slot_is_free() -> None:
    assert slots(None, None).choose(tokens(ANN)) is None
    assert slots(None).choose_short("hello") is None


def test_without_a_disk_what_leaves_is_swapped_within_llama_cpp_and_comes_back() -> None:
    made = slots(ANN)
    choice = made.choose(tokens(BOB))
    assert choice is not None
    assert choice.swaps
    (slot,) = made.take(choice)
    slot.tokens, slot.busy = tokens(BOB), False
    back = made.choose(tokens(ANN, [1]))
    assert back is not None
    assert (back.swaps, back.held) == (True, len(ANN))


def test_a_saved_prompt_is_restored_where_nothing_of_worth_is() -> None:
    made, saved = slots(OTHER, []), OnDisk(tokens(ANN))
    choice = made.choose(tokens(ANN, [1]), [OnDisk(tokens(OTHER)), saved], saves=True)
    assert choice is not None
    assert (choice.slot.id, choice.restore, choice.held) == (1, saved, len(ANN))


def test_what_two_begin_with_is_taken_from_the_disk_into_a_slot_of_its_own() -> None:
    made, saved = slots(ANN, []), OnDisk(tokens(ANN))
    choice = made.choose(tokens(BOB), [saved], saves=True)
    assert choice is not None
    assert (choice.slot.id, choice.restore, choice.held) == (1, saved, len(SYSTEM))


def test_a_disk_that_is_slower_than_reading_is_not_asked() -> None:
    made, saved = slots([], []), OnDisk(tokens(ANN))
    choice = made.choose(tokens(ANN, [1]), [saved], saves=True, share=1.0)
    assert choice is not None
    assert choice.restore is None


@pytest.mark.parametrize(
    ("held", "text", "chosen"),
    [
        pytest.param(("hello there", "what is it"), "hello there, you", 0, id="where it goes on"),
        pytest.param((ANN, ""), "hello", 1, id="away from long ones"),
        pytest.param((ANN, "what is it"), "hello", 1, id="in place of a short one"),
        pytest.param((ANN, OTHER), "hello", 0, id="in place of the one that was read first"),
    ],
)
def test_short_prompts_keep_away_from_long_ones(held: tuple[list[int] | str, ...], text: str, chosen: int) -> None:
    choice = slots(*held).choose_short(text)
    assert choice is not None
    assert choice.slot.id == chosen


def test_the_answers_of_a_vote_take_the_first_slots_that_are_free() -> None:
    made = slots([], None, [], ANN)
    choice = made.choose(tokens(OTHER))
    assert choice is not None
    assert [slot.id for slot in made.take(choice, others=1)] == [2, 0]
    assert [slot.id for slot in made.free] == [3]


def emptied(made: PromptSlots, prompt: list[int] | str) -> tuple[int, list[int]]:
    """In which slot a prompt is read, and which others are emptied for it."""
    choice = made.choose_short(prompt) if isinstance(prompt, str) else made.choose(tokens(prompt))
    assert choice is not None
    return choice.slot.id, [slot.id for slot in choice.clears]


@pytest.mark.parametrize(
    ("held", "cells", "prompt", "chosen", "gone"),
    [
        pytest.param((ANN, OTHER, NONE), 5000, "a title", 2, [], id="a title has a slot of its own"),
        pytest.param((ANN, OTHER, NONE), 5000, [*ANN, 1], 0, [], id="what goes on needs no more room"),
        pytest.param((ANN, OTHER, NONE), 4000, THIRD, 2, [0], id="what was used the longest time ago gives way"),
        pytest.param((ANN, OTHER, NONE), 4000, BOB, 0, [], id="or what begins alike: least is read once more"),
        pytest.param((OTHER, ANN, NONE), 4000, [*ANN, 1], 1, [], id="never what goes on"),
        pytest.param((OTHER, ANN, NONE), 3000, [*ANN, 1], 1, [0], id="others do for it"),
        pytest.param((ANN, OTHER, BOB, NONE), 3000, THIRD, 3, [0, 1, 2], id="several, where it is long"),
        pytest.param((None, OTHER, NONE), 2000, BOB, 2, [1], id="not one that answers"),
        pytest.param((ANN, OTHER, NONE), 2504, "a title", 2, [], id="nothing gives way to what a title may answer"),
        pytest.param((ANN, OTHER, NONE), 2504, "a title" * 10, 2, [0], id="but to what it says"),
    ],
)
def test_where_all_share_their_cells_idle_slots_are_emptied_for_what_does_not_fit(
    held: tuple[list[int] | None, ...], cells: int, prompt: list[int] | str, chosen: int, gone: list[int]
) -> None:
    made = slots(*held, cells=cells)
    made.keeps_tokens = 0
    assert emptied(made, prompt) == (chosen, gone)


def test_a_slot_that_answers_is_not_emptied_though_it_was_chosen_the_longest_time_ago() -> None:
    made = slots(ANN, OTHER, NONE, cells=3000)
    made.keeps_tokens = 0
    made.slots[0].busy = True
    assert emptied(made, THIRD) == (2, [1])


def test_of_a_slot_that_holds_less_than_was_read_there_nothing_is_believed() -> None:
    made = slots(ANN, OTHER)
    made.found({0: len(ANN) - 1, 1: len(OTHER) + 9})
    assert [len(slot.tokens) for slot in made.slots] == [0, len(OTHER)]
    assert [slot.filled for slot in made.slots] == [len(ANN) - 1, len(OTHER) + 9]


def test_an_answer_is_planned_for_and_what_it_was_is_known_at_its_end() -> None:
    made = slots(NONE, NONE, NONE, cells=10_000)
    choice = made.choose(tokens(ANN))
    assert choice is not None
    (slot,) = made.take(choice, tokens=len(ANN))
    assert slot.filled == len(ANN)
    assert not made.doubted
    beside = len(ANN) + ANSWER_TOKENS
    fits = list(range(7000, 7000 + 10_000 - beside - ANSWER_TOKENS))
    other = made.choose(tokens(fits))
    assert other is not None
    assert other.clears == ()
    slot.hold(tokens(ANN), 0.0)
    slot.busy, slot.filled = False, 9000  # a long one
    assert emptied(made, THIRD)[1] == [slot.id]


def test_llama_cpp_may_have_emptied_a_slot_where_all_answers_together_could_need_more() -> None:
    made = slots(ANN, OTHER, NONE, NONE, cells=6000)
    made.slot_tokens = 3000
    first = made.choose(tokens(BOB))
    assert first is not None
    made.take(first, tokens=len(BOB))
    assert not made.doubted  # one answer of 3,000 beside 2,500
    second = made.choose(tokens(list(range(9000, 9900))))
    assert second is not None
    made.take(second, tokens=900)
    assert made.doubted


def test_what_was_emptied_is_not_believed_any_more() -> None:
    made = slots(ANN, OTHER, None)
    made.doubted = True
    made.found({0: len(ANN) + 12, 1: 0, 2: 5})
    assert (len(made.slots[0].tokens), made.slots[0].filled) == (len(ANN), len(ANN) + 12)
    assert (len(made.slots[1].tokens), made.slots[1].filled) == (0, 0)
    assert made.slots[2].filled == 0  # somebody's, who is at it
    assert not made.doubted


def test_what_llama_cpp_cannot_keep_in_memory_is_not_swapped() -> None:
    made = slots(ANN)
    made.keeps_tokens = len(ANN) - 1
    choice = made.choose(tokens(BOB))
    short = made.choose_short("hello")
    assert choice is not None
    assert short is not None
    assert (choice.swaps, short.swaps) == (False, False)


def test_what_left_for_others_that_left_later_is_read_again() -> None:
    made = slots(ANN)
    made.keeps_tokens = len(ANN) + SHORT_TOKENS
    for prompt in (OTHER, list(range(7000, 8000))):
        choice = made.choose(tokens(prompt))
        assert choice is not None
        assert choice.swaps
        (slot,) = made.take(choice)
        slot.hold(tokens(prompt), 0.0)
        slot.busy = False
    back = made.choose(tokens(ANN, [1]))
    assert back is not None
    assert back.held == 0
