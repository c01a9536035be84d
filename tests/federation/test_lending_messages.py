"""What is offered, asked for and told of lent memory: hostile values are refused where they arrive."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from federation.advertisement import LendOffer, NodeDescription, parse_description
from federation.errors import AdvertisementError, PeerProtocolError
from federation.lending import (
    MAX_MEASURE_BYTES,
    LendGrant,
    LendNews,
    LendRequest,
    MeasureRequest,
    parse_grant,
    parse_news,
    same_llama_cpp,
)

GIB = 1 << 30
REQUEST: dict[str, Any] = {"model": "large", "bytes": GIB, "build": "b11434", "rpc": "7.0.0"}
OFFER: dict[str, Any] = {"bytes_free": GIB, "bytes_total": 2 * GIB, "build": "b11434", "rpc": "7.0.0"}
GRANT: dict[str, Any] = {"lease": "0" * 32, "bytes": GIB, "build": "b11434", "rpc": "7.0.0"}
NODE = {"protocol": 1, "id": "a" * 52, "name": "kitchen", "version": "1", "url": "http://127.0.0.1:1"}


def test_an_offer_travels_in_a_description_and_older_nodes_have_none() -> None:
    told = NodeDescription.model_validate({**NODE, "lends": {**OFFER, "bytes_per_s": 2e10, "threads": 8}})
    read = parse_description(told.model_dump_json().encode())
    assert read.lends == LendOffer(
        bytes_free=GIB, bytes_total=2 * GIB, build="b11434", rpc="7.0.0", bytes_per_s=2e10, threads=8
    )
    assert parse_description(json.dumps(NODE).encode()).lends is None
    assert parse_description(json.dumps({**NODE, "lends": {**OFFER, "newer": 1}}).encode()).lends is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"bytes_free": -1},
        {"bytes_free": 1 << 51},
        {"bytes_free": 1e400},
        {"bytes_total": "much"},
        {"build": ""},
        {"build": "b" * 65},
        {"rpc": "7"},
        {"rpc": "7.0.0.0"},
        {"rpc": "7.0.0\n"},
        {"rpc": "٧.0.0.x"},
        {"bytes_per_s": 0},
        {"bytes_per_s": float("inf")},
        {"bytes_per_s": -5.0},
        {"threads": 0},
        {"threads": 10**9},
    ],
)
def test_a_hostile_offer_is_no_description(wrong: dict[str, Any]) -> None:
    with pytest.raises(AdvertisementError):
        parse_description(json.dumps({**NODE, "lends": {**OFFER, **wrong}}).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"model": "x" * 257},
        {"bytes": 0},
        {"bytes": -1},
        {"bytes": 1 << 51},
        {"bytes": 1.5},
        {"build": "b" * 65},
        {"rpc": "7.0"},
        {"rpc": "seven"},
        {"context_tokens": 0},
        {"context_tokens": 1 << 40},
    ],
)
def test_a_hostile_request_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LendRequest.model_validate({**REQUEST, **wrong})


def test_what_cannot_be_compared_says_nothing() -> None:
    assert LendRequest.model_validate({**REQUEST, "sha256": "no hash"}).sha256 is None
    assert LendRequest.model_validate({**REQUEST, "sha256": "0" * 64}).sha256 == "0" * 64


def test_text_of_others_is_printable() -> None:
    assert "\x1b" not in LendRequest.model_validate({**REQUEST, "model": "a\x1b[2Jb"}).model
    assert "\x1b" not in (parse_news(json.dumps({"ended": "a\x1b[2Jb"}).encode()).ended or "")


@pytest.mark.parametrize("size", [0, -1, MAX_MEASURE_BYTES + 1, "8M", None, 1.5])
def test_no_more_is_sent_to_measure_than_measuring_takes(size: object) -> None:
    with pytest.raises(ValidationError):
        MeasureRequest.model_validate({"measure": size})


@pytest.mark.parametrize("lease", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "../" + "0" * 29])
def test_a_lease_is_a_number_and_nothing_else(lease: str) -> None:
    with pytest.raises(PeerProtocolError):
        parse_grant(json.dumps({**GRANT, "lease": lease}).encode())


@pytest.mark.parametrize(
    "news",
    [{}, {"draining": ""}, {"ended": "x" * 301}, {"ended": "so", "code": "No Code"}, {"draining": "so", "left_s": -1}],
)
def test_news_say_something_readable(news: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError):
        parse_news(json.dumps(news).encode())


@settings(deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=20), st.lists).map(repr))
def test_rubbish_raises_one_error(raw: bytes | str) -> None:
    data = raw if isinstance(raw, bytes) else raw.encode(errors="replace")
    for parse in (parse_grant, parse_news):
        with pytest.raises(PeerProtocolError) as caught:
            parse(data)
        assert "\n" not in str(caught.value)


def test_grants_and_news_come_back_as_they_were_sent() -> None:
    grant = LendGrant.model_validate(GRANT)
    assert parse_grant(grant.model_dump_json(exclude_none=True).encode()) == grant
    news = LendNews(draining="its owner wants it back", left_s=30.0)
    assert parse_news(news.model_dump_json(exclude_none=True).encode()) == news


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (("b11434", "7.0.0"), True),
        (("b11434", "7.1.3"), True),  # one build made twice says the same; a minor number is for newer clients
        (("b11434", "8.0.0"), False),
        (("b11435", "7.0.0"), False),
        (("b1143", "7.0.0"), False),
        (("b11434", "70.0.0"), False),
    ],
)
def test_which_programs_compute_one_model(other: tuple[str, str], same: bool) -> None:
    assert same_llama_cpp("b11434", "7.0.0", *other) is same
