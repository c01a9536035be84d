"""Answers that are continued as a turn: where, by which tokens, and with which counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.advertisement import Capabilities
from swarm.engines.engine import Tokens
from swarm.errors import PeerSilent
from swarm.generation import Delta, Finish, GenerationRequest, JsonObject, Timings, ToolCallDelta, Usage
from swarm.routing.continuation import (
    LEAST_SAVED_S,
    SEAMS,
    Continued,
    can_continue,
    continued,
    is_cut_alike,
    saved_s,
    seam_of,
)
from swarm.routing.resumption import AnswersDiffer, Continuity, ReplayFailed
from tests.doubles.replicas import replica

ASKED: tuple[JsonObject, ...] = ({"role": "user", "content": "hello"},)
GREEDY = GenerationRequest(model="m", messages=ASKED, temperature=0, max_tokens=100)
ALIKE: dict[str, Any] = {"fingerprint": "a" * 64, "computed_by": "x 1 on the CPU"}
ATTIC, CELLAR = replica("attic", **ALIKE), replica("cellar", **ALIKE)
WORDS = [f" w{number}" for number in range(20)]


def steps(*texts: str) -> list[Delta]:
    return [Delta(text=text) for text in texts]


def cut(*pieces: str | tuple[int, ...]) -> Tokens:
    return Tokens(tuple(range(len(pieces))), pieces)


@pytest.mark.parametrize(
    ("changed", "thinks", "can"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"temperature": 0.5, "seed": 1}, False, False),  # a sampler's state is nowhere told
        ({"messages": None, "prompt": "hello"}, False, False),
        ({"messages": (*ASKED, {"role": "assistant", "content": "well"})}, False, False),
        ({"response_format": {"type": "json_object"}}, False, False),
        ({"response_format": {"type": "text"}}, False, True),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False, False),
    ],
)
def test_who_can_be_continued(changed: dict[str, Any], thinks: bool, can: bool) -> None:
    request = GenerationRequest.model_validate(GREEDY.model_dump() | changed)
    assert can_continue(request, thinks) is can


@pytest.mark.parametrize(
    ("shown_steps", "took_s", "pays"),
    [(500, 1.0, False), (500, 25.0, True), (9, 1.5, False), (0, 0.0, False), (100, 3.0, True)],
)
def test_it_is_taken_where_it_saves_time(shown_steps: int, took_s: float, pays: bool) -> None:
    assert (saved_s(shown_steps, took_s) >= LEAST_SAVED_S) is pays


def test_the_seam_is_some_tokens_before_the_end() -> None:
    shown = steps("w", *WORDS)
    seam = seam_of(shown, [])
    assert seam is not None
    assert seam.steps == len(shown) - SEAMS[0]
    assert seam.text == "".join(step.text for step in shown[: seam.steps])


def test_the_seam_is_as_long_as_the_longest_stop_string() -> None:
    """One that began before it, and ends after it, would not be seen else."""
    shown = steps("w", *WORDS)
    stop = "x" * 40
    seam = seam_of(shown, ["short", stop])
    assert seam is not None
    assert sum(len(step.text) for step in shown[seam.steps :]) >= len(stop)
    assert seam_of(shown, ["x" * 1000]) is None


def test_what_is_sent_neither_begins_nor_ends_with_white_space() -> None:
    texts = ["w", *WORDS]
    texts[-SEAMS[0] - 1] = " \n"
    seam = seam_of(steps(*texts), [])
    assert seam is not None
    assert seam.steps == len(texts) - SEAMS[0] - 1
    assert seam_of(steps(" w", *WORDS), []) is None


@pytest.mark.parametrize(
    "odd",
    [
        Delta(reasoning="hm"),
        Delta(text="w", reasoning="hm"),
        Delta(),
        Delta(tool_calls=(ToolCallDelta(0, "c", "f", ""),)),
    ],
)
def test_only_text_has_a_seam(odd: Delta) -> None:
    assert seam_of([*steps("w", *WORDS), odd], []) is None
    assert seam_of([odd, *steps("w", *WORDS)], []) is None


@pytest.mark.parametrize("count", range(SEAMS[0] + 1))
def test_a_short_answer_has_no_seam(count: int) -> None:
    assert seam_of(steps(*["w"] * count), []) is None


@pytest.mark.parametrize(
    ("shown", "tokens", "alike"),
    [
        (["The", " cap", "ital"], cut("The", " cap", "ital"), True),
        (["The", " cap", "ital"], cut("The", " capital"), False),  # it was written in other tokens than it is read in
        (["The", " capital"], cut("The", " cap", "ital"), False),
        (["The", " cap"], cut("The", " cap", "ital"), False),
        (["The", " cap"], cut("The"), False),
        (["The"], cut(" The"), False),  # a vocabulary that puts a space before each text
        (["a", "é", "b"], cut("a", (0xC3,), (0xA9,), "b"), True),  # bytes of a character, which came in one step
        (["aé", "b"], cut("a", (0xC3,), (0xA9,), "b"), True),
        (["é", "b"], cut((0xC3,), (0xA9, 0x62)), False),
        (["The"], Tokens((1,)), False),  # no pieces were told
    ],
)
def test_what_is_sent_is_read_as_the_tokens_that_were_written(shown: list[str], tokens: Tokens, alike: bool) -> None:
    assert is_cut_alike(steps(*shown), tokens) is alike


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12))
@settings(deadline=None)
def test_steps_are_alike_to_themselves_and_to_no_other_cut_of_their_ascii(texts: list[str]) -> None:
    assert is_cut_alike(steps(*texts), cut(*texts))
    halved = [half for text in texts for half in (text[:1], text[1:]) if half]
    assert is_cut_alike(steps(*texts), cut(*halved)) is all(len(text) < 2 or not text.isascii() for text in texts)


def test_a_continuation_has_what_is_left_of_the_budget_and_counts_as_a_whole() -> None:
    shown = steps("w", *WORDS)
    seam = seam_of(shown, [])
    assert seam is not None
    going_on = continued(GREEDY, seam, cut(*(step.text for step in shown[: seam.steps])))
    assert going_on is not None
    assert going_on.request.max_tokens == 100 - seam.steps
    assert going_on.request.messages == (*ASKED, {"role": "assistant", "content": seam.text})
    end = Finish(0, "length", Usage(prompt_tokens=30 + seam.steps, completion_tokens=87, cached_tokens=35),
                 timings=Timings(prompt_ms=1, predicted_ms=2))  # fmt: skip
    whole = going_on.whole(end)
    assert whole.usage == Usage(prompt_tokens=30, completion_tokens=87 + seam.steps, cached_tokens=30)
    assert whole.timings is None, "of the first part nobody knows"
    unbounded = continued(GREEDY.model_copy(update={"max_tokens": None}), seam, cut("w"))
    assert unbounded is not None
    assert unbounded.request.max_tokens is None
    assert continued(GREEDY.model_copy(update={"max_tokens": 1}), seam, cut("w")) is None


# In the story of an answer


def lost_after(texts: list[str], each_s: float = 1.0) -> Continuity:
    story = Continuity()
    for number, text in enumerate(texts):
        story.new_in(Delta(text=text), ATTIC, number * each_s)
    story.lost(ATTIC, PeerSilent("attic", "silent"))
    return story


def going_on(story: Continuity) -> Continued:
    found = story.seam(GREEDY, CELLAR)
    assert found is not None
    seam, before = found
    begun = continued(GREEDY, seam, cut(*(step.text for step in before)))
    assert begun is not None
    story.begins(begun)
    return begun


def test_the_seam_is_held_against_what_was_shown_and_what_follows_goes_on() -> None:
    texts = ["w", *WORDS]
    story = lost_after(texts)
    begun = going_on(story)
    for text in texts[begun.seam.steps :]:
        assert story.new_in(Delta(text=text), CELLAR, 30.0) is None
    assert story.new_in(Delta(text=" next"), CELLAR, 31.0) == Delta(text=" next")
    told = story.resumption
    assert told is not None
    assert (told.how, told.at_chars, told.gap_s) == ("continued", len("".join(texts)), 11.0)
    end = Finish(0, "stop", Usage(prompt_tokens=50, completion_tokens=SEAMS[0] + 1))
    whole = story.new_in(end, CELLAR, 32.0)
    assert isinstance(whole, Finish)
    assert whole.usage.completion_tokens == len(texts) + 1


def test_where_the_seam_does_not_hold_the_answer_is_made_anew_there() -> None:
    texts = ["w", *WORDS]
    story = lost_after(texts)
    going_on(story)
    with pytest.raises(AnswersDiffer):
        story.new_in(Delta(text=" else"), CELLAR, 30.0)
    shorter = going_on(story)
    assert len(texts) - shorter.seam.steps == SEAMS[1]
    with pytest.raises(AnswersDiffer):
        story.new_in(Delta(text=" else"), CELLAR, 35.0)
    assert story.has_another_way(GREEDY, CELLAR)
    assert story.seam(GREEDY, CELLAR) is None, "it is not tried again there"
    story.begins(None)
    for text in texts:
        assert story.new_in(Delta(text=text), CELLAR, 40.0) is None
    assert story.new_in(Delta(text=" next"), CELLAR, 41.0) == Delta(text=" next")
    assert story.resumption is not None
    assert story.resumption.how == "replay"
    end = Finish(0, "stop", Usage(prompt_tokens=7, completion_tokens=22))
    assert story.new_in(end, CELLAR, 42.0) == end, "it counted all of it"


def test_where_a_replay_differs_the_answer_is_continued_there_however_short_it_is() -> None:
    """Numbers that are rounded otherwise make another answer; what was shown is a beginning like any other."""
    story = lost_after(["w", *WORDS], each_s=0.01)
    assert story.seam(GREEDY, CELLAR) is None
    story.begins(None)
    with pytest.raises(AnswersDiffer):
        story.new_in(Delta(text="else"), CELLAR, 1.0)
    assert story.has_another_way(GREEDY, CELLAR)
    begun = going_on(story)
    for text in WORDS[begun.seam.steps - 1 :]:
        assert story.new_in(Delta(text=text), CELLAR, 2.0) is None
    assert story.new_in(Delta(text=" next"), CELLAR, 3.0) == Delta(text=" next")
    assert story.resumption is not None
    assert story.resumption.how == "continued"


def test_both_ways_are_tried_once_at_each_place() -> None:
    story = lost_after(["w", *WORDS])
    for _ in SEAMS:
        going_on(story)
    story.begins(None)
    assert not story.has_another_way(GREEDY, CELLAR)
    story.cannot(CELLAR, "answers otherwise")
    assert story.seam(GREEDY, ATTIC) is not None
    story.begins(None)  # its tokens were others
    with pytest.raises(ReplayFailed, match="other tokens"):
        story.begins(None)
    assert not story.has_another_way(GREEDY, ATTIC)


def test_who_leaves_a_queue_for_another_node_has_tried_nothing() -> None:
    story = lost_after(["w", *WORDS])
    story.begins(None)
    story.asks_anew()
    story.begins(None)
    assert story.new_in(Delta(text="w"), CELLAR, 30.0) is None


def test_a_seeded_answer_has_one_way() -> None:
    story = lost_after(["w", *WORDS])
    seeded = GREEDY.model_copy(update={"temperature": 0.7, "seed": 1})
    assert story.seam(seeded, CELLAR) is None
    story.begins(None)
    assert not story.has_another_way(seeded, CELLAR)


def test_a_short_part_is_made_anew_and_so_is_what_a_thinking_model_said() -> None:
    assert lost_after(["w", *WORDS], each_s=0.01).seam(GREEDY, CELLAR) is None
    thinking = replace(CELLAR, capabilities=Capabilities(reasoning=True))
    assert lost_after(["w", *WORDS]).seam(GREEDY, thinking) is None
    assert Continuity(least_saved_s=0.0).seam(GREEDY, CELLAR) is None, "nothing was lost"
