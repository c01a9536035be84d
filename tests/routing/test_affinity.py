"""By what a conversation is known again, and where it was answered last."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.generation import FunctionSpec, GenerationRequest, Prompt, ToolSpec
from swarm.routing.observations import CONVERSATION_LIFETIME_S, MAX_CONVERSATIONS, Affinity
from swarm.routing.prefix import BLOCK, LONG_CHARS, MAX_HASHED_CHARS, Prefixes, prefixes_of
from tests.doubles.replicas import Clock

A, B = ("a", "m"), ("b", "m")
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def chat(*messages: dict[str, Any], model: str = "m", tools: tuple[str, ...] = ()) -> Prefixes:
    offered = tuple(ToolSpec(function=FunctionSpec(name=name)) for name in tools)
    return prefixes_of(GenerationRequest(model=model, messages=messages, tools=offered))


def raw(prompt: Prompt) -> Prefixes:
    return prefixes_of(GenerationRequest(model="m", prompt=prompt))


FIRST = (SYSTEM, user("Hello"))
SECOND = (*FIRST, assistant("Hi"), user("More"))
THIRD = (
    *SECOND,
    assistant(None, tool_calls=[{"id": "c", "function": {"name": "f"}}]),
    {"role": "tool", "content": "1"},
)


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (chat(*FIRST), chat(*SECOND), True),
        (chat(*SECOND), chat(*THIRD), True),
        (chat(*FIRST), chat(*THIRD), True),
        (chat(*FIRST), chat(*FIRST), False),
        (chat(SYSTEM, user("x" * LONG_CHARS)), chat(SYSTEM, user("x" * LONG_CHARS)), True),
        (chat(*FIRST), chat(SYSTEM, user("Other")), False),
        (chat(*FIRST), chat(SYSTEM, user("Other"), assistant("Hi"), user("More")), False),
        (chat(*FIRST), chat(*SECOND, model="other"), False),
        (chat(*FIRST), chat(*SECOND, tools=("f",)), False),
        (chat(*FIRST, tools=("f",)), chat(*SECOND, tools=("f",)), True),
        (chat(user("ab")), chat(user("a"), user("b"), assistant("x")), False),
        (raw("a" * 2 * BLOCK), raw("a" * 2 * BLOCK + "more"), True),
        (raw("a" * 2 * BLOCK), raw("b" * 2 * BLOCK), False),
        (raw("a" * BLOCK + "b" * 5), raw("a" * 5 * BLOCK), False),
        (raw("short"), raw("short and more"), False),
        (raw(tuple(range(2 * BLOCK))), raw(tuple(range(2 * BLOCK + 3))), True),
        (raw(tuple(range(2 * BLOCK))), raw(tuple(range(1, 2 * BLOCK + 3))), False),
    ],
    ids=[
        "the next turn", "after a call", "two turns on", "a short request again", "a long request again",
        "a shared system prompt", "another conversation", "another model", "other tools", "with tools",
        "no confusion of borders", "a prompt goes on", "another prompt", "a shared block is too little", "too short",
        "tokens", "other tokens",
    ],
)  # fmt: skip
def test_a_conversation_is_known_again(before: Prefixes, now: Prefixes, same: bool) -> None:
    affinity = Affinity(Clock())
    affinity.answered(before, A)
    assert affinity.place_of(now) == (A if same else None)


def test_the_longest_known_beginning_decides_and_the_last_who_answered_it() -> None:
    affinity = Affinity(Clock())
    affinity.answered(chat(*FIRST), A)
    affinity.answered(chat(*SECOND), B)
    assert affinity.place_of(chat(*THIRD)) == B
    affinity.answered(chat(*SECOND), A)
    assert affinity.place_of(chat(*THIRD)) == A


def test_a_conversation_is_forgotten_in_time() -> None:
    clock = Clock()
    affinity = Affinity(clock)
    affinity.answered(chat(*FIRST), A)
    clock.now += CONVERSATION_LIFETIME_S
    assert affinity.place_of(chat(*SECOND)) == A
    clock.now += 1
    assert affinity.place_of(chat(*SECOND)) is None


def test_what_is_remembered_is_bounded() -> None:
    affinity = Affinity(Clock())
    for number in range(MAX_CONVERSATIONS + 3):
        affinity.answered(chat(user(str(number))), A)
    known = [affinity.place_of(chat(user(str(n)), assistant("x"))) for n in (0, 2, 3, MAX_CONVERSATIONS + 2)]
    assert known == [None, None, A, A]


class Counted(str):
    """A text that tells how much of it was looked at."""

    looked_at = 0

    def __getitem__(self, part: Any) -> str:
        taken = super().__getitem__(part)
        Counted.looked_at += len(taken)
        return taken


def test_of_a_huge_prompt_only_the_beginning_is_looked_at() -> None:
    huge = Counted("x" * 16_000_000)
    Counted.looked_at = 0
    prefixes_of(GenerationRequest.model_construct(model="m", messages=None, prompt=huge))
    assert 0 < Counted.looked_at <= MAX_HASHED_CHARS
    Counted.looked_at = 0
    message = {"role": "user", "content": [{"type": "text", "text": huge}]}
    prefixes_of(GenerationRequest.model_construct(model="m", messages=(message, user("y")), tools=()))
    assert 0 < Counted.looked_at <= MAX_HASHED_CHARS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(one=json_values, other=json_values)
def test_messages_that_differ_never_look_alike(one: Any, other: Any) -> None:
    alike = repr(one) == repr(other)
    assert (chat({"role": "user", "content": one}).whole == chat({"role": "user", "content": other}).whole) == alike


def test_nesting_without_end_is_no_matter() -> None:
    nested: Any = "x"
    for _ in range(50_000):
        nested = [nested]
    assert prefixes_of(
        GenerationRequest.model_construct(model="m", messages=({"role": "user", "content": nested},), tools=())
    ).whole
    while isinstance(nested, list):  # taken apart by hand: the interpreter would do it in one deep recursion
        nested = nested.pop()
