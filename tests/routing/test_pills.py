"""What makes a request a poison pill, for how long, and what is the same request: tables, and any sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.engines.openai_dialect import request_body
from swarm.errors import BadRequest, EngineDied, LenderLost, PeerFailed, PeerVanished, SwarmError
from swarm.gateway.openai.bodies import ChatCompletionBody, CompletionBody
from swarm.generation import GenerationRequest
from swarm.routing.poison_pills import MAX_REMEMBERED, REFUSED_S, PoisonPills, RequestContent
from tests.doubles.replicas import Clock

GONE = PeerVanished("attic", "broke off the connection")


def chat(text: str = "hello", **fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": text}], **fields})


HELLO, OTHER = RequestContent.of(chat()), RequestContent.of(chat("hello!"))


class Watched:
    """A machine and its clock; `work` is a node that has the request, and what becomes of it there."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pills = PoisonPills(self.clock)

    def work(
        self,
        error: BaseException | None = None,
        node: str = "attic",
        content: RequestContent = HELLO,
        there: bool = True,
    ) -> BaseException | None:
        """What comes out: None for an answer."""
        try:
            with self.pills.guard(content, node, f"id-{node}", lambda: there):
                if error is not None:
                    raise error
        except BaseException as out:  # noqa: BLE001 - looked at by the test
            return out
        return None

    def refused(self, content: RequestContent = HELLO) -> EngineDied | None:
        try:
            self.pills.refuse(content)
        except EngineDied as error:
            return error
        return None


@pytest.fixture
def seen() -> Watched:
    return Watched()


def test_a_reported_death_refuses_that_request_for_a_minute_and_no_other(seen: Watched) -> None:
    assert isinstance(seen.work(EngineDied("the engine ended over this request: x")), EngineDied)
    seen.clock.now += 12.5
    refusal = seen.refused()
    assert refusal is not None
    assert str(refusal) == (
        "an engine ended over this very request (attic): so that no other does, it is refused for another 48 s; "
        "change it, or send it again after that"
    )
    assert refusal.refused_for_s == 48
    assert seen.refused(OTHER) is None
    seen.clock.now += REFUSED_S - 12.5
    assert seen.refused() is None


def test_a_refusal_is_no_new_death(seen: Watched) -> None:
    """Else a request that is sent every few seconds would be refused for ever."""
    seen.work(EngineDied("x"))
    for _ in range(5):
        seen.clock.now += REFUSED_S / 5
        seen.work(node="kitchen")
    assert seen.refused() is None


@pytest.mark.parametrize(
    ("told", "after", "refused"), [(10, 9, True), (10, 10, False), (600, 61, False), (0, 1, False)]
)
def test_what_a_peer_remembers_is_not_remembered_longer_here(
    seen: Watched, told: int, after: int, refused: bool
) -> None:
    """Nodes that tell each other of one death must not keep it alive between them."""
    seen.work(EngineDied("x", told))
    seen.clock.now += after
    assert (seen.refused() is not None) == refused


def test_a_shorter_memory_does_not_cut_a_longer_one(seen: Watched) -> None:
    seen.work(EngineDied("x"))
    seen.pills.died(HELLO, "kitchen", 5)
    seen.clock.now += 30
    assert seen.refused() is not None


DIED = EngineDied("ended over it")
LOST = LenderLost("hall", "hall is gone")


@pytest.mark.parametrize(
    ("what", "events", "pill"),
    [
        ("one node vanished", [("attic", GONE)], False),
        ("the same one twice", [("attic", GONE), ("attic", GONE)], False),
        ("two nodes vanished", [("attic", GONE), ("kitchen", GONE)], True),
        ("one vanished, one reported", [("attic", GONE), ("kitchen", DIED)], True),
        ("answered in between", [("attic", GONE), ("study", None), ("kitchen", GONE)], False),
        ("answered, then two", [("study", None), ("attic", GONE), ("kitchen", GONE)], True),
        ("refused in between", [("attic", GONE), ("study", BadRequest("no")), ("kitchen", GONE)], True),
        ("a slow peer and a dead one", [("attic", PeerFailed("attic", "late")), ("kitchen", GONE)], False),
        ("its lenders were lost", [("attic", LOST), ("kitchen", LOST)], False),
        ("a lender lost in between", [("attic", GONE), ("study", LOST), ("kitchen", GONE)], True),
        ("the client left two", [("attic", GeneratorExit()), ("kitchen", GeneratorExit())], False),
    ],
)
def test_nodes_that_vanish(
    seen: Watched, what: str, events: list[tuple[str, BaseException | None]], pill: bool
) -> None:
    for node, error in events:
        last = seen.work(error, node)
    assert (seen.refused() is not None) == pill, what
    assert isinstance(last, EngineDied) == pill, what


def test_two_that_vanished_more_than_a_minute_apart_are_no_pill(seen: Watched) -> None:
    seen.work(GONE, "attic")
    seen.clock.now += REFUSED_S
    assert seen.work(GONE, "kitchen") is GONE


def test_who_had_said_goodbye_has_not_vanished(seen: Watched) -> None:
    for node in ("attic", "kitchen", "study"):
        left = seen.work(GONE, node, there=False)
        assert isinstance(left, PeerFailed)
        assert not isinstance(left, PeerVanished)
    assert seen.refused() is None


def test_with_nothing_remembered_nothing_is_hashed(seen: Watched) -> None:
    """A hash of 16 MB is 50 ms of everybody's time."""

    def never() -> dict[str, Any]:
        raise AssertionError("hashed")

    assert seen.work(content=RequestContent("generate", never)) is None


# What is the same request


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"seed": 7},
        {"temperature": 0.7},
        {"model": "another", "seed": 1, "temperature": 0.0},
        {"original": b"{}"},
    ],
)
def test_what_voters_and_routing_change_is_no_part_of_it(other: dict[str, Any]) -> None:
    request = chat(seed=3, temperature=1.0).model_copy(update=other)
    assert RequestContent.of(request).key == HELLO.key


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "hellp"}]},
        {"messages": [{"role": "system", "content": "hello"}]},
        {"messages": None, "prompt": "hello"},
        {"messages": None, "prompt": "hello", "suffix": "x"},
        {"messages": None, "prompt": "hello", "suffix": "x", "input_extra": [{"text": "y"}]},
        {"messages": None, "prompt": [1, 2]},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 5},
        {"top_k": 1},
        {"top_p": 0.5},
        {"min_p": 0.1},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repeat_penalty": 1.1},
        {"logit_bias": {"1": 1.0}},
        {"stop": ["x"]},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 2},
        {"thinking": True},
        {"llama_options": {"dry_multiplier": 0.8}},
    ],
)
def test_what_the_engine_is_told_is_part_of_it(other: dict[str, Any]) -> None:
    request = GenerationRequest.model_validate({**chat().model_dump(), **other})
    assert RequestContent.of(request).key != HELLO.key


def test_every_field_of_a_request_is_in_one_of_the_two_tables() -> None:
    """A new field is in the hash unless somebody decides otherwise: then it belongs into VARIED, and above."""
    varied = {"model", "seed", "temperature", "first_temperature", "original", "foreign", "foreign_why", "repair"}
    hashed = {
        "messages", "prompt", "suffix", "input_extra", "max_tokens", "top_p", "top_k", "min_p", "presence_penalty",
        "frequency_penalty", "repeat_penalty", "logit_bias", "stop", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "logprobs", "top_logprobs", "thinking", "llama_options",
    }  # fmt: skip
    assert set(GenerationRequest.model_fields) == varied | hashed


def test_a_call_is_not_the_request_with_the_same_words() -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "model": "m"}
    assert (
        RequestContent.of_call("count-tokens", body).key
        == RequestContent.of_call("count-tokens", {**body, "model": "n"}).key
    )
    assert len({RequestContent.of_call(name, body).key for name in ("generate", "count-tokens", "apply-template")}) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "é\ud800"}], "logprobs": True, "stop": "x"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{oops"}}
                ]},
                {"role": "tool", "tool_call_id": "1", "content": "7"},
            ],
            "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL], "tool_choice": "none", "stop": "a"},
        {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"enable_thinking": False}, "n": 3},
        {"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 5, "max_tokens": 9},
        {"prompt": "x", "logprobs": 0, "seed": -1},
        {"prompt": [1, 2, 3], "stop": ["", "a"]},
        {"prompt": "x", "suffix": "y", "input_extra": [{"filename": "a", "text": "b"}]},
    ],
)  # fmt: skip
def test_a_request_is_the_same_at_every_node_that_it_passes(body: dict[str, Any]) -> None:
    schema: Callable[[Any], Any] = (ChatCompletionBody if "messages" in body else CompletionBody).model_validate
    first = schema({"model": "m", **body}).to_request()
    second = schema(request_body(first, 1)).to_request()
    third = schema(
        request_body(second.model_copy(update={"seed": 9, "temperature": 0.7, "model": "k"}), 1)
    ).to_request()
    assert RequestContent.of(first).key == RequestContent.of(second).key == RequestContent.of(third).key


# Any sequence of events

ERRORS: list[SwarmError | None] = [None, DIED, GONE, BadRequest("no"), PeerFailed("attic", "late"), EngineDied("x", 9)]
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from(("attic", "kitchen", "study")), st.sampled_from(ERRORS), st.floats(0, 40)
    ),
    max_size=40,
)


@given(events=EVENTS)
def test_whatever_happens_only_what_was_seen_to_kill_is_refused_and_never_for_longer(
    events: list[tuple[int, str, SwarmError | None, float]],
) -> None:
    seen = Watched()
    contents = [RequestContent.of(chat(str(number))) for number in range(7)]
    last_death: dict[int, float] = {}
    for number, node, error, passes_s in events:
        refused = seen.refused(contents[number])
        out = seen.work(error, node, contents[number])
        if refused is not None:
            assert isinstance(out, EngineDied)
            assert seen.clock.now - last_death[number] < REFUSED_S
        elif isinstance(out, EngineDied):
            last_death[number] = seen.clock.now
            assert seen.refused(contents[number]) is not None
        else:
            assert out is error
        assert seen.refused(contents[6]) is None, "it was never asked"
        seen.clock.now += passes_s
    seen.clock.now += REFUSED_S
    assert not any(map(seen.refused, contents))


def test_no_more_is_remembered_than_fits(seen: Watched) -> None:
    for number in range(2 * MAX_REMEMBERED):
        seen.work(GONE, content=RequestContent.of(chat(f"gone {number}")))
        seen.work(DIED, content=RequestContent.of(chat(f"died {number}")))
    remembered = [seen.pills.find(RequestContent.of(chat(f"died {number}"))) for number in range(2 * MAX_REMEMBERED)]
    assert [pill is not None for pill in remembered] == [False] * MAX_REMEMBERED + [True] * MAX_REMEMBERED
    vanished = [
        seen.work(GONE, "kitchen", RequestContent.of(chat(f"gone {n}"))) for n in range(2 * MAX_REMEMBERED - 1, -1, -1)
    ]
    assert sum(isinstance(out, EngineDied) for out in vanished) == MAX_REMEMBERED
