"""Thoughts at the beginning of an answer, however they are cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.engines.thoughts import ThoughtReader, answer_in, may_think, parted
from swarm.generation import Delta, Finish, ToolCallDelta, Usage

END = Finish(0, "stop", Usage())


def read(pieces: list[str]) -> tuple[str, str]:
    reader = ThoughtReader()
    events = [shown for piece in pieces for shown in reader.read(Delta(0, piece))] + reader.read(END)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert events[-1] == END
    return "".join(event.reasoning for event in deltas), "".join(event.text for event in deltas)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nhm\n</think>\n\nParis", "hm\n", "Paris"),
        (" \n<think>hm</think>Paris", "hm", "Paris"),
        ("<think></think>Paris", "", "Paris"),
        ("<think>a < b </thin k> c</think> Paris <think>x</think>", "a < b </thin k> c", "Paris <think>x</think>"),
        ("<think>never done", "never done", ""),
        ("<think>almost done</thi", "almost done</thi", ""),
        ("Paris", "", "Paris"),
        ("  Paris", "", "  Paris"),
        ("<b>Paris</b>", "", "<b>Paris</b>"),
        ("<thi", "", "<thi"),
        ("The <think> tag", "", "The <think> tag"),
        ("", "", ""),
    ],
)
def test_only_a_block_that_begins_the_answer_is_a_thought(text: str, reasoning: str, answer: str) -> None:
    assert read(list(text)) == (reasoning, answer)
    for cut in range(1, len(text)):
        assert read([text[:cut], text[cut:]]) == (reasoning, answer)


def test_text_that_is_clear_is_not_held_back() -> None:
    assert ThoughtReader().read(Delta(0, "Paris")) == [Delta(0, "Paris")]


def test_text_that_was_held_back_comes_before_a_call() -> None:
    reader = ThoughtReader()
    call = Delta(0, tool_calls=(ToolCallDelta(0, "id", "f", ""),))
    assert reader.read(Delta(0, "<")) == []
    assert reader.read(call) == [Delta(0, "<"), call]


def test_what_llama_cpp_has_found_itself_goes_through() -> None:
    reader = ThoughtReader()
    for event in (Delta(0, reasoning="hm"), Delta(0, "Paris", logprobs={"content": []})):
        assert reader.read(event) == [event]


WORDS = st.lists(st.sampled_from(["<think>", "</think>", "<", "think", "/", ">", " ", "\n", "Paris", "hm"]), max_size=9)


@given(words=WORDS, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_a_stream_reads_as_the_whole_answer_does_however_it_is_cut(words: list[str], cuts: list[int]) -> None:
    text = "".join(words)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    thought, answer, closed = parted(text)
    assert read(pieces) == (thought, answer)
    compared = answer_in(text)
    assert (compared is None) == (not closed)
    if compared is not None and (thought or answer != text):
        assert compared == answer, "votes compare what clients are shown"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>hm</think> Paris", "Paris"),
        ("<think>never done", None),
        ("<think>", None),
        ("hm\n</think>\nParis", "\nParis"),
        ("hm </think>\nParis", "\nParis"),
        ("a </think> tag within a line", "a </think> tag within a line"),
        ("Models write <think> and then\n</think>", "Models write <think> and then\n</think>"),
        ("Paris", "Paris"),
    ],
)
def test_what_is_compared(text: str, answer: str | None) -> None:
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    ("template", "thinks"),
    [
        ("{% if enable_thinking is false %}<think>\n\n</think>{% endif %}", True),
        ("{{ message.reasoning_content }}", True),
        ("<|start|>assistant<|channel|>analysis<|message|>", True),
        ("[THINK]{{ thoughts }}[/THINK]", True),
        ("{% for message in messages %}<|im_start|>{{ message.role }}{% endfor %}", False),
        ("Think step by step. {{ message.content }}", False),
        ("", False),
    ],
)
def test_a_template_says_whether_a_model_thinks(template: str, thinks: bool) -> None:
    assert may_think(template) == thinks
