"""Other servers' dialects of OpenAI's shapes, each as a table row: what they send, and what is made of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from swarm.engines.upstream.address import parse_upstream
from swarm.engines.upstream.reader import UpstreamReader, refused, seconds_of
from swarm.engines.upstream.upstream_http import MAX_MODELS, model_names, read_listing
from swarm.errors import SetupError
from swarm.generation import Delta, ToolCallDelta, Usage


def read(*chunks: dict[str, Any], chat: bool = True) -> tuple[list[Delta], UpstreamReader]:
    reader = UpstreamReader(chat)
    return [delta for chunk in chunks if (delta := reader.delta(chunk)) is not None], reader


def saying(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return saying(tool_calls=list(calls))


def piece(name: str | None = None, arguments: Any = "", **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"content": "hi"}, Delta(0, "hi")),
        ({"reasoning_content": "hm"}, Delta(0, "", "hm")),
        ({"reasoning": "hm"}, Delta(0, "", "hm")),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "x"}]}, Delta(0, "ab")),
        ({"content": None, "refusal": "I cannot"}, Delta(0, "I cannot")),
    ],
)
def test_text_and_reasoning_under_every_name(delta: dict[str, Any], expected: Delta) -> None:
    assert read(saying(**delta))[0] == [expected]


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": 7, "tool_calls": [3, {"function": None}]}}]},
        {"usage": "none"},
        {"usage": {"prompt_tokens": "many", "prompt_tokens_details": []}},
    ],
)
def test_what_says_nothing_is_nothing(chunk: dict[str, Any]) -> None:
    deltas, reader = read(chunk)
    assert not [delta for delta in deltas if delta.text]
    assert reader.usage == Usage()
    assert not reader.ended


@pytest.mark.parametrize(
    ("word", "reason"),
    [("stop", "stop"), ("eos", "stop"), ("end_turn", "stop"), ("MAX_TOKENS", "length"), ("length", "length"),
     ("tool_call", "tool_calls"), ("function_call", "tool_calls"), ("safety", "content_filter")],
)  # fmt: skip
def test_odd_finish_reasons(word: str, reason: str) -> None:
    _, reader = read({"choices": [{"delta": {}, "finish_reason": word}]})
    assert reader.ended
    assert reader.finish().reason == reason


@pytest.mark.parametrize(
    ("ended", "word"),
    [({"stop_reason": "###"}, "###"), ({"matched_stop": "###"}, "###"), ({"stop_reason": 151645}, None),
     ({"matched_stop": 2}, None), ({"stop_reason": None}, None), ({}, None)],
)  # fmt: skip
def test_the_stop_sequence_that_was_hit(ended: dict[str, Any], word: str | None) -> None:
    _, reader = read({"choices": [{"delta": {}, "finish_reason": "stop", **ended}]})
    assert reader.finish().stop_sequence == word


def test_an_empty_finish_reason_ends_nothing() -> None:
    _, reader = read({"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]})
    assert not reader.ended


def test_usage_in_every_chunk_counts_once_and_cached_tokens_under_both_names() -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}
    _, reader = read({**saying(content="a"), "usage": counts}, {"usage": {**counts, "completion_tokens": 2}})
    assert reader.finish().usage == Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=4)


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        pytest.param(
            [calling(piece("f", "{", index=0, id="a")), calling(piece(None, "}", index=0))],
            [ToolCallDelta(0, "a", "f", "{"), ToolCallDelta(0, None, None, "}")],
            id="as it should be",
        ),
        pytest.param(
            [calling(piece("f", "{}", id="a"), piece("g", "{}", id="b"))],
            [ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g", "{}")],
            id="no index",
        ),
        pytest.param(
            [calling(piece("f", "{}", index=0, id="a")), calling(piece("g", "{}", index=0, id="b"))],
            [ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g", "{}")],
            id="all at index 0",
        ),
        pytest.param(
            [calling(piece("f", "{")), calling(piece(None, "}"))],
            [ToolCallDelta(0, None, "f", "{"), ToolCallDelta(0, None, None, "}")],
            id="neither index nor id",
        ),
        pytest.param(
            [calling(piece("f", "{", index=0, id="a")), calling(piece("f", "}", index=0, id="a"))],
            [ToolCallDelta(0, "a", "f", "{"), ToolCallDelta(0, None, None, "}")],
            id="name and id again in every piece",
        ),
        pytest.param(
            [calling(piece("f", {"city": "Köln"}, index=3, id="a"))],
            [ToolCallDelta(0, "a", "f", '{"city": "Köln"}')],
            id="arguments as an object, indices with gaps",
        ),
    ],
)
def test_tool_calls_are_put_right(chunks: list[dict[str, Any]], calls: list[ToolCallDelta]) -> None:
    deltas, reader = read(*chunks)
    assert [call for delta in deltas for call in delta.tool_calls] == calls
    assert reader.finish().reason == "tool_calls"


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}, ("a", "b")),
        ({"models": [{"name": "a:latest", "model": "a:latest"}]}, ("a:latest",)),
        ([{"id": "a"}, {"name": "b"}, "c", 7, {}, {"id": ""}, {"id": "x" * 1000}], ("a", "b", "c")),
        ({"data": []}, ()),
        ({"error": "no"}, None),
        ("models", None),
        (None, None),
    ],
)
def test_lists_of_models_in_every_form(listing: object, names: tuple[str, ...] | None) -> None:
    assert model_names(listing) == names


def test_a_list_is_bounded_and_rubbish_is_none() -> None:
    assert len(model_names([f"m{number}" for number in range(MAX_MODELS + 5)]) or ()) == MAX_MODELS
    assert read_listing(b"<html>") is None
    assert read_listing(b"[" * 100_000) is None


@pytest.mark.parametrize(
    ("url", "bases"),
    [
        ("http://127.0.0.1:11434", ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434")),
        ("http://127.0.0.1:8080/v1/", ("http://127.0.0.1:8080/v1",)),
        ("https://api.openai.com/v1", ("https://api.openai.com/v1",)),
        ("https://opencode.ai/zen/v1//", ("https://opencode.ai/zen/v1",)),
        ("https://x.org/openai", ("https://x.org/openai/v1", "https://x.org/openai")),
        ("https://x.org/v1/chat/completions", ("https://x.org/v1",)),
    ],
)
def test_base_urls_as_people_write_them(url: str, bases: tuple[str, ...]) -> None:
    assert parse_upstream(url).bases == bases


@pytest.mark.parametrize(
    ("url", "host", "reach"),
    [
        ("http://localhost:1234", "localhost:1234", "machine"),
        ("http://[::1]:8080/v1", "[::1]:8080", "machine"),
        ("http://192.168.1.9/v1", "192.168.1.9", "network"),
        ("http://nas.local/v1", "nas.local", "network"),
        ("https://api.openai.com/v1", "api.openai.com", "internet"),
        ("http://8.8.8.8", "8.8.8.8", "internet"),
    ],
)
def test_who_may_read_along(url: str, host: str, reach: str) -> None:
    address = parse_upstream(url)
    assert (address.host, address.reach) == (host, reach)


@pytest.mark.parametrize(
    "url",
    ["", "api.openai.com", "ftp://x", "http://", "http://u:sk-secret@x/v1", "http://x/v1?key=sk-secret", "http://x:y"],
)
def test_what_is_no_base_url_is_refused_without_quoting_a_key(url: str) -> None:
    with pytest.raises(SetupError, match="--upstream") as caught:
        parse_upstream(url)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message", "kind", "code"),
    [
        (b'{"error":{"message":"no","type":"t","code":"c","param":null}}', "no", "t", "c"),
        (b'{"error":{"message":"no","type":"t","code":429}}', "no", "t", "429"),
        (b'{"error":"model not found"}', "model not found", "upstream_error", "upstream_error"),
        (b'{"detail":"no"}', "no", "upstream_error", "upstream_error"),
        (b'{"object":"error","message":"no","type":"t"}', "no", "t", "upstream_error"),
        (b'[{"error":{"message":"no"}}]', "no", "upstream_error", "upstream_error"),
        (b"<html>", "it answered 418 I'm a Teapot", "upstream_error", "upstream_error"),
        (b"", "it answered 418 I'm a Teapot", "upstream_error", "upstream_error"),
        (b'{"error":{"message":"key sk-1 is bad"}}', "key *** is bad", "upstream_error", "upstream_error"),
    ],
)
def test_refusals_in_every_shape(body: bytes, message: str, kind: str, code: str) -> None:
    said = refused("h", 418, body, None, "sk-1").refusal
    assert (said.status, said.message, said.type, said.code) == (418, message, kind, code)


def test_a_refused_key_is_this_nodes_fault_and_not_the_clients() -> None:
    error = refused("h", 401, b'{"error":{"message":"Incorrect API key: sk-1"}}', None, "sk-1")
    assert error.refusal.status == 502
    assert "SWARM_UPSTREAM_KEY" in str(error)
    assert "sk-1" not in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.2", 1), ("-3", 0), ("1e9", 86_400), ("inf", None), ("soon", None),
     ("Sat, 21 Nov 2026 12:00:30 GMT", 30)],
)  # fmt: skip
def test_retry_after_in_seconds_and_dates(header: str, seconds: int | None) -> None:
    assert seconds_of(header, datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)) == seconds
