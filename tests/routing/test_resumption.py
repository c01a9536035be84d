"""An answer made anew, held against what of it the client has: however it was cut, nothing is lost or doubled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from federation.advertisement import Capabilities
from swarm.engines.assembly import AnswerBuilder
from swarm.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineDied,
    EngineFailed,
    LenderLost,
    PeerDeparted,
    PeerFailed,
    PeerMalformed,
    PeerSilent,
    PeerVanished,
    SwarmError,
    Unavailable,
)
from swarm.generation import Delta, Finish, GenerationRequest, ToolCallDelta, Usage
from swarm.routing.resumption import (
    LEAST_REPLAY_S,
    REPLAY_TIMES,
    AnswersDiffer,
    Continuity,
    ShownAnswer,
    computes_alike,
    not_resumed,
    says_the_same_again,
)
from tests.doubles.replicas import replica

END = Finish(0, "stop", Usage(prompt_tokens=7, completion_tokens=9))
KITCHEN = replica("here", fingerprint="a" * 64, computed_by="x 1 on the CPU")
ATTIC = replica("attic", fingerprint="a" * 64, computed_by="x 1 on the CPU")


def entry(token: str) -> dict[str, JsonValue]:
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []}


def call(index: int, arguments: str = "", name: str | None = None, call_id: str | None = None) -> Delta:
    return Delta(tool_calls=(ToolCallDelta(index, call_id, name, arguments),))


def given_of(shown: list[Delta], again: list[Delta | Finish]) -> list[Delta | Finish]:
    """What of `again` goes to a client that has `shown`."""
    answer = ShownAnswer()
    for delta in shown:
        answer.add(delta, 0.0)
    replay = answer.replay()
    return [new for event in again if (new := replay.new_in(event)) is not None]


def whole(events: list[Any]) -> AnswerBuilder:
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    return builder


# Answers as tokens, and the same tokens as an engine may cut them into events


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """One step a token, as engines make them: thoughts, then words, then calls; with log-probabilities or without."""
    with_logprobs = draw(st.booleans())
    steps: list[Delta] = []
    for field in ("reasoning", "text"):
        for token in draw(st.lists(st.text(min_size=1, max_size=4), max_size=8)):
            logprobs: JsonValue = {"content": [entry(token)]} if with_logprobs else None
            steps.append(replace(Delta(logprobs=logprobs), **{field: token}))
    for index in range(draw(st.integers(0, 2))):
        steps.append(call(index, name=draw(st.sampled_from(["f", "g"])), call_id=f"c{index}"))
        steps += [call(index, part) for part in draw(st.lists(st.text(min_size=1, max_size=4), max_size=4))]
    return steps


def joined(first: Delta, second: Delta) -> Delta:
    """Two steps as one, as an engine gives them that held the first one back."""
    entries = [each for delta in (first, second) for each in (delta.logprobs or {}).get("content", [])]  # type: ignore[union-attr]
    logprobs: JsonValue = {"content": entries} if entries else None
    calls = (*first.tool_calls, *second.tool_calls)
    return Delta(0, first.text + second.text, first.reasoning + second.reasoning, calls, logprobs)


def otherwise_cut(steps: list[Delta], cuts: set[int]) -> list[Delta]:
    """The same steps, some of them joined to the one before; the ids of calls are new ones."""
    made: list[Delta] = []
    for number, step in enumerate(steps):
        fresh = tuple(replace(c, id=None if c.id is None else f"new-{c.id}") for c in step.tool_calls)
        step = replace(step, tool_calls=fresh)
        if made and number not in cuts:
            made[-1] = joined(made[-1], step)
        else:
            made.append(step)
    return made


@given(st.data())
@settings(deadline=None)
def test_what_was_shown_and_what_is_new_are_the_whole_answer(data: st.DataObject) -> None:
    steps = data.draw(answers())
    at = data.draw(st.integers(0, len(steps)))
    numbers = st.sets(st.integers(0, len(steps)))
    shown = otherwise_cut(steps[:at], data.draw(numbers))
    again = otherwise_cut(steps, data.draw(numbers))
    new = given_of(shown, [*again, END])
    got, wanted = whole([*shown, *new]), whole([*steps, END])
    here, there = got.candidate("v", "n", "m", 0), wanted.candidate("v", "n", "m", 0)
    assert (here.text, here.reasoning, here.logprobs) == (there.text, there.reasoning, there.logprobs)
    assert [(c.name, c.arguments) for c in here.tool_calls] == [(c.name, c.arguments) for c in there.tool_calls]
    assert [event for event in new if isinstance(event, Finish)] == [END]
    assert here.usage == END.usage
    ids = [c.id for delta in (*shown, *new) if isinstance(delta, Delta) for c in delta.tool_calls if c.id]
    assert len(ids) == len(here.tool_calls), "the client was told another id of a call that it has"


@given(st.data())
@settings(deadline=None)
def test_of_another_answer_nothing_is_shown_that_does_not_go_on_with_the_first(data: st.DataObject) -> None:
    """Whatever comes: the client has the first answer's words, then what follows them in the second; or an error."""
    steps, others = data.draw(answers()), data.draw(answers())
    shown = steps[: data.draw(st.integers(0, len(steps)))]
    try:
        new = given_of(shown, [*others, END])
    except AnswersDiffer:
        return
    got, second = whole([*shown, *new]).candidate("v", "n", "m", 0), whole(others).candidate("v", "n", "m", 0)
    assert (got.text, got.reasoning) == (second.text, second.reasoning)
    assert [(c.name, c.arguments) for c in got.tool_calls] == [(c.name, c.arguments) for c in second.tool_calls]


@pytest.mark.parametrize(
    ("shown", "again", "at_chars"),
    [
        ([Delta(text="one two")], [Delta(text="one"), Delta(text=" three")], 5),
        ([Delta(text="one two")], [Delta(text="one"), END], 3),  # it ends before what was shown does
        ([Delta(reasoning="hm"), Delta(text="one")], [Delta(text="one"), Delta(text=" two")], 3),  # without thinking
        ([Delta(reasoning="hm")], [Delta(reasoning="h"), Delta(text="one")], 1),  # it thinks less
        ([call(0, '{"a"', "f", "c")], [call(0, "", "g", "d")], 0),
        ([call(0, '{"a"', "f", "c")], [call(0, "", "f", "d"), call(0, '{"b"')], 3),
        ([call(0, "", "f", "c")], [Delta(text="no call")], 0),
        ([Delta(text="x", logprobs={"content": [entry("x")]})],
         [Delta(text="x", logprobs={"content": [entry("X")]})], 1),
        ([Delta(text="x", logprobs={"content": [entry("x")]})], [Delta(text="x"), Delta(text="y")], 1),
    ],
)  # fmt: skip
def test_an_answer_that_differs_is_none_of_it(shown: list[Delta], again: list[Delta | Finish], at_chars: int) -> None:
    with pytest.raises(AnswersDiffer) as differs:
        given_of(shown, again)
    assert differs.value.at_chars == at_chars


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({}, False),
        ({"temperature": 0.7}, False),
        ({"temperature": 0}, True),
        ({"top_k": 1}, True),
        ({"temperature": 0.7, "seed": 0}, True),
    ],
)
def test_who_says_the_same_again(fields: dict[str, Any], same: bool) -> None:
    assert says_the_same_again(GenerationRequest(model="m", prompt="a", **fields)) is same


@pytest.mark.parametrize(
    ("changed", "alike"),
    [
        ({}, True),
        ({"model": "m-q4", "served_as": "m"}, True),
        ({"fingerprint": "b" * 64}, False),
        ({"fingerprint": None}, False),  # an older node: nothing is known
        ({"computed_by": "x 2 on the CPU"}, False),
        ({"computed_by": None}, False),
        ({"upstream": True}, False),
        ({"capabilities": Capabilities(vision=True)}, False),  # it sees images, and the other was told of them
        ({"capabilities": Capabilities(tools=False)}, False),
        ({"capabilities": Capabilities(logprobs=True)}, True),  # which no peer tells
    ],
)
def test_who_computes_alike(changed: dict[str, Any], alike: bool) -> None:
    other = replace(KITCHEN, **changed)
    assert computes_alike(ATTIC, other) is alike
    assert computes_alike(other, ATTIC) is alike


# Over the nodes that make it


def begun(*texts: str, at_s: float = 0.0) -> Continuity:
    """An answer of which the attic has made so much, a second each."""
    story = Continuity()
    for number, text in enumerate(texts):
        assert story.new_in(Delta(text=text), ATTIC, at_s + number) == Delta(text=text)
    return story


@pytest.mark.parametrize(
    "failure",
    [PeerVanished("attic", "x"), PeerSilent("attic", "x"), PeerDeparted("attic", "x"), Unavailable("it leaves")],
)
def test_a_node_that_is_gone_is_succeeded_by_one_that_computes_alike(failure: SwarmError) -> None:
    story = begun("one ", "two ")
    assert story.may_take_over(replica("cellar")), "anybody, before the first is lost"
    story.lost(ATTIC, failure)
    assert story.may_take_over(KITCHEN)
    assert not story.may_take_over(replica("cellar"))
    assert story.new_in(Delta(text="one "), KITCHEN, 5.0) is None
    assert story.resumption is None
    assert story.new_in(Delta(text="two three"), KITCHEN, 8.0) == Delta(text="three")
    assert story.resumption is not None
    assert (story.resumption.lost, story.resumption.to) == ("attic", "here")
    assert (story.resumption.at_chars, story.resumption.gap_s) == (8, 7.0)
    assert story.new_in(END, KITCHEN, 9.0) == END
    assert story.finished


@pytest.mark.parametrize(
    "failure",
    [
        PeerFailed("attic", "x"),
        PeerMalformed("attic", "x"),
        EngineFailed("x"),
        EngineDied("x"),
        BadRequest("x"),
        DeadlineExceeded("x"),
    ],
)
def test_after_other_failures_nothing_goes_on(failure: SwarmError) -> None:
    with pytest.raises(type(failure)) as raised:
        begun("one ").lost(ATTIC, failure)
    assert raised.value is failure


def test_a_second_loss_is_told_from_one_that_begins_a_replay() -> None:
    story = begun("one ")
    story.lost(ATTIC, PeerSilent("attic", "silent"))
    story.lost(KITCHEN, PeerMalformed("kitchen", "rubbish"))  # a try like others: nothing of it was shown
    story.cannot(ATTIC, "answers otherwise")
    assert str(story.ended) == (
        "peer attic: silent; it could not go on elsewhere: here failed (peer kitchen: rubbish); attic answers otherwise"
    )
    assert story.new_in(Delta(text="one two "), KITCHEN, 1.0) == Delta(text="two ")
    with pytest.raises(PeerMalformed):  # of this one something was
        story.lost(KITCHEN, PeerMalformed("kitchen", "rubbish"))
    story.lost(KITCHEN, PeerSilent("kitchen", "silent too"))
    assert story.new_in(Delta(text="one two three"), ATTIC, 3.0) == Delta(text="three")
    assert story.resumption is not None
    assert (story.resumption.lost, story.resumption.at_chars, story.resumption.gap_s) == ("here", 8, 2.0)


@pytest.mark.parametrize(("took", "limit_s"), [(1, LEAST_REPLAY_S), (31, REPLAY_TIMES * 30.0)])
def test_a_replay_has_a_limit_from_its_first_event_on(took: int, limit_s: float) -> None:
    story = begun(*["word "] * took)
    assert story.left_s(1e9) is None, "nothing is replayed"
    story.lost(ATTIC, PeerSilent("attic", "x"))
    assert story.left_s(1e9) is None, "it waits for a worker"
    assert story.new_in(Delta(text="wo"), KITCHEN, 100.0) is None
    assert story.left_s(101.0) == limit_s - 1
    story.new_in(Delta(text="rd " + "word " * took), KITCHEN, 102.0)
    assert story.left_s(1e9) is None


def test_the_error_of_the_loss_stays_what_it_was() -> None:
    lost = PeerVanished("attic", "broke off")
    assert not_resumed(lost, []) is lost
    told = not_resumed(lost, ["kitchen answers otherwise from character 4 on"])
    assert isinstance(told, PeerVanished)
    assert told.peer == "attic"
    assert str(told).startswith("peer attic: broke off; it could not go on elsewhere: kitchen answers otherwise")
    left = not_resumed(LenderLost("cellar", "cellar is gone", 9), ["x"])
    assert isinstance(left, LenderLost)
    assert (left.lender, left.retry_after_s) == ("cellar", 9)
