"""What is believed of a peer's answer: any bytes become candidates, events, or an error that names the peer."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import (
    PeerBrokeOff,
    PeerError,
    PeerProtocolError,
    PeerRefused,
    PeerStatusError,
    PeerTimedOut,
    PeerUnreachable,
    PeerUntrusted,
)
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.openai_dialect import ChunkReader
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    EngineDied,
    LenderLost,
    PeerFailed,
    PeerSilent,
    PeerVanished,
    SwarmError,
    Unavailable,
)
from swarm.gateway.http.errors import error_line
from swarm.generation import Candidate, Delta, Finish
from swarm.routing.peer_answers import error_object, peer_failure, read_candidate, read_chunk, refusal
from swarm.routing.replicas import Replica

ATTIC = Replica("id-attic", "attic", "m", slots=4, slots_free=4, url="http://attic")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
candidate_fields = st.fixed_dictionaries(
    {"voter": st.text(max_size=9) | json_values},
    optional={
        field: st.text(max_size=5) | json_values
        for field in ("node", "model", "text", "tool_calls", "finish_reason", "usage", "mean_logprob", "logprobs")
    },
)
chunk_fields = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(
            json_values
            | st.fixed_dictionaries(
                {"index": st.just(0) | json_values},
                optional={
                    "delta": json_values
                    | st.fixed_dictionaries(
                        {},
                        optional={
                            "content": st.text(max_size=5) | json_values,
                            "reasoning_content": json_values,
                            "tool_calls": json_values
                            | st.lists(st.fixed_dictionaries({"index": json_values, "function": json_values})),
                        },
                    ),
                    "finish_reason": json_values | st.just("stop"),
                    "logprobs": json_values
                    | st.fixed_dictionaries(
                        {"content": st.lists(st.fixed_dictionaries({}, optional={"logprob": json_values}))}
                    ),
                },
            ),
            max_size=3,
        )
        | json_values,
        "usage": json_values | st.fixed_dictionaries({"prompt_tokens": json_values, "completion_tokens": json_values}),
        "error": json_values,
    },
)


@given(line=st.binary(max_size=40) | candidate_fields.map(json.dumps).map(str.encode))
def test_any_line_is_a_candidate_of_the_peers_own_or_an_error(line: bytes) -> None:
    try:
        candidate = read_candidate(line, ATTIC, took_ms=5)
    except SwarmError:
        return
    name, at, node = candidate.voter.partition("@")
    assert (at, node, candidate.node, candidate.model, candidate.elapsed_ms) == ("@", "attic", "attic", "m", 5)
    assert 0 < len(name) <= 64
    assert name.isprintable()
    assert candidate.usage.completion_tokens >= 0


@given(data=st.binary(max_size=40) | chunk_fields.map(json.dumps).map(str.encode))
def test_any_chunk_is_events_of_the_promised_types_or_an_error(data: bytes) -> None:
    try:
        events = read_chunk(ChunkReader(chat=True), data, ATTIC)
    except SwarmError:
        return
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
        assert event.choice == 0
        if isinstance(event, Delta):
            assert isinstance(event.text, str)
            assert isinstance(event.reasoning, str)
            for call in event.tool_calls:
                assert isinstance(call.index, int)
                assert isinstance(call.arguments, str)
        else:
            assert isinstance(event, Finish)
            assert event.usage.completion_tokens >= 0
    made = builder.candidate("a", "b", "c", 0)
    assert made.mean_logprob is None or math.isfinite(made.mean_logprob)


def test_a_candidate_is_taken_as_it_is_but_for_where_it_comes_from() -> None:
    sent = Candidate(voter="Rex@somewhere", node="x", model="y", text="hi", finish_reason="stop", mean_logprob=-0.5)
    got = read_candidate(sent.model_dump_json().encode(), ATTIC, took_ms=5)
    assert got == sent.model_copy(update={"voter": "Rex@attic", "node": "attic", "model": "m", "elapsed_ms": 5})


@pytest.mark.parametrize(
    ("detail", "error"),
    [
        ({"code": "invalid_value", "message": "no"}, BadRequest("no")),
        (
            {"code": "context_length_exceeded", "message": "x", "n_prompt_tokens": 9, "n_ctx": 5},
            ContextExceeded(9, 5),
        ),
        ({"code": "context_length_exceeded", "message": "too long"}, BadRequest("too long")),
        ({"code": "unavailable", "message": "full"}, Unavailable("attic: full")),
        ({"code": "engine_failed", "message": "broke"}, PeerFailed("attic", "broke")),
        ({"code": "engine_failed", "message": "broke", "died": 1}, PeerFailed("attic", "broke")),
        ({"code": "peer_failed", "message": "broke", "died": True}, PeerFailed("attic", "broke")),
        ({"code": "engine_failed", "message": "ended", "died": True}, EngineDied("attic: ended")),
        ({"code": "lender_lost", "message": "gone", "lender": "hall"}, LenderLost("hall", "attic: gone")),
        ({"code": ["odd"], "message": {"odd": 1}}, PeerFailed("attic", "{'odd': 1}")),
        ({"code": "new in version 9", "message": "\x1b[31m"}, PeerFailed("attic", "?[31m")),
        ({}, PeerFailed("attic", "answered 502")),
    ],
    ids=str,
)
def test_a_peers_error_is_here_what_it_was_there(detail: dict[str, Any], error: SwarmError) -> None:
    made = refusal(ATTIC, detail, status=502)
    assert (type(made), str(made)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("told", "taken"), [(None, 60), (7, 7), (60, 60), (61, 60), (0, 60), (-1, 60), ("7", 60), (1.5, 60), (10**30, 60)]
)
def test_how_long_a_peer_refuses_a_request_is_believed_within_a_minute(told: object, taken: int) -> None:
    made = refusal(ATTIC, {"code": "engine_failed", "message": "x", "died": True, "refused_for_s": told}, status=502)
    assert isinstance(made, EngineDied)
    assert made.refused_for_s == taken


def test_a_lost_lender_is_told_from_one_node_to_the_next() -> None:
    body = error_line(LenderLost("ha\x1bll", "hall is gone", 7))
    for read in (lambda: read_candidate(body, ATTIC, 1), lambda: read_chunk(ChunkReader(chat=True), body, ATTIC)):
        with pytest.raises(LenderLost, match=r"^attic: hall is gone$") as caught:
            read()
        assert (caught.value.lender, caught.value.retry_after_s) == ("ha?ll", 7)


@pytest.mark.parametrize("left", [None, 48])
def test_an_engine_that_died_is_told_from_one_node_to_the_next(left: int | None) -> None:
    """As a line of candidates, as an event of a stream, and as the body of a 502."""
    body = error_line(EngineDied("the engine ended over this request", left))
    for read in (lambda: read_candidate(body, ATTIC, 1), lambda: read_chunk(ChunkReader(chat=True), body, ATTIC)):
        with pytest.raises(EngineDied, match=r"^attic: the engine ended over this request$") as caught:
            read()
        assert caught.value.refused_for_s == (left or 60)
    assert isinstance(refusal(ATTIC, error_object(body), 502), EngineDied)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PeerBrokeOff("broke off"), PeerVanished),
        (PeerRefused("nobody listens"), PeerFailed),
        (PeerTimedOut("late"), PeerSilent),
        (PeerUnreachable("no route"), PeerSilent),
        (PeerUntrusted("a stranger"), PeerFailed),
        (PeerProtocolError("rubbish"), PeerFailed),
        (PeerStatusError("answered 500", 500), PeerFailed),
        (PeerStatusError("answered 503", 503), Unavailable),
    ],
    ids=str,
)
def test_only_a_connection_that_broke_off_looks_like_a_death(error: PeerError, kind: type[SwarmError]) -> None:
    assert type(peer_failure(ATTIC, error)) is kind


def test_a_long_message_of_a_peer_is_cut() -> None:
    assert len(str(refusal(ATTIC, {"message": "x" * 10**6}))) < 1000


@given(st.binary(max_size=30) | json_values.map(json.dumps).map(str.encode))
def test_the_error_in_anything_is_an_object_or_nothing(body: bytes) -> None:
    assert isinstance(error_object(body), dict)


def test_deep_nesting_is_no_error_object_and_no_crash() -> None:
    deep = b"[" * 10**6
    assert error_object(deep) == {}
    with pytest.raises(PeerFailed):
        read_chunk(ChunkReader(chat=True), deep, ATTIC)
    with pytest.raises(PeerFailed):
        read_candidate(deep, ATTIC, 0)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_kept_from_counts(number: str) -> None:
    with pytest.raises(PeerFailed):
        read_candidate(b'{"voter":"a","usage":{"completion_tokens":%s}}' % number.encode(), ATTIC, 0)
    kept = read_candidate(b'{"voter":"a","mean_logprob":%s}' % number.encode(), ATTIC, 0)
    assert kept.mean_logprob is not None
    assert not math.isfinite(kept.mean_logprob)
