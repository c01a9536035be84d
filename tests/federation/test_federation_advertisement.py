import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.advertisement import (
    MAX_HINTS,
    MAX_MODELS,
    NodeDescription,
    PeerHint,
    PeerHints,
    ServedModel,
    parse_description,
    parse_hints,
)
from federation.errors import AdvertisementError
from federation.hostport import Address
from federation.wire import PROTOCOL_VERSION

KITCHEN = NodeDescription(
    id="kitchen-id",
    name="kitchen",
    version="0.1.0",
    url="http://192.168.1.5:17615",
    models=(ServedModel(id="qwen:0.5b:q8", context_tokens=4096, params=494_000_000, slots=4, slots_free=3),),
    slots_free=3,
    hardware={"ram_bytes": 8_000_000_000, "gpu": None},
)


def as_sent(**changed: object) -> bytes:
    return json.dumps({**json.loads(KITCHEN.model_dump_json()), **changed}).encode()


def test_a_description_survives_the_wire() -> None:
    assert parse_description(KITCHEN.model_dump_json().encode()) == KITCHEN


def test_fields_of_a_newer_minor_version_are_ignored() -> None:
    assert parse_description(as_sent(mood="fine", models=[{"id": "m", "colour": "blue"}])).models[0].id == "m"


def test_an_older_peer_that_sends_less_is_understood() -> None:
    least = {"id": "x", "name": "x", "version": "0", "protocol": 1, "url": "http://x:1"}
    assert parse_description(json.dumps(least).encode()).models == ()


def test_another_major_version_is_refused_before_anything_else_is_read() -> None:
    raw = json.dumps({"protocol": PROTOCOL_VERSION + 1, "shape": "unheard of"}).encode()
    with pytest.raises(AdvertisementError, match=r"speaks federation protocol 2 and this node speaks 1: run matching"):
        parse_description(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"protocol": NaN}',
        b"[" * 100_000,
        b'{"protocol": 1, "hardware": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        as_sent(name=""),
        as_sent(name="n" * 65),
        as_sent(id="../../etc"),
        as_sent(id="ID"),
        as_sent(mode="closed"),
        as_sent(url="file:///etc/passwd"),
        as_sent(slots_free=-1),
        as_sent(slots_free=1.5),
        as_sent(models=[{"id": "m"}] * (MAX_MODELS + 1)),
        as_sent(models=[{"id": "m", "tokens_per_s": "fast"}]),
        as_sent(hardware={"notes": "x" * 9000}),
        as_sent(hardware={"depth": [[[[1]]]], "list": list(range(5000))}),
        as_sent(models=[{"id": "m", "tokens_per_s": float("nan")}]),
        as_sent(hardware={"celsius": float("inf")}),
    ],
)
def test_rubbish_is_one_line_that_says_what_is_wrong(raw: bytes) -> None:
    with pytest.raises(AdvertisementError) as caught:
        parse_description(raw)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_bytes_make_parsing_fail_otherwise(raw: bytes) -> None:
    for parse in (parse_description, parse_hints):
        with pytest.raises(AdvertisementError):
            parse(raw)


def test_names_cannot_drive_a_terminal() -> None:
    shown = parse_description(as_sent(name="a\x1b[31mb\u202ec")).name
    assert shown == "a?[31mb?c"


def test_hints_are_canonical_and_bounded() -> None:
    hint = PeerHint(id="a", name="a", host="FD00:0::5", port=1)
    assert hint.address == Address("fd00::5", 1)
    assert parse_hints(PeerHints(peers=(hint,)).model_dump_json().encode()) == (hint,)
    many = {"peers": [hint.model_dump()] * (MAX_HINTS + 1)}
    with pytest.raises(AdvertisementError, match="does not list peers"):
        parse_hints(json.dumps(many).encode())


@pytest.mark.parametrize("host", ["", "a b", "0.0.0.0", "http://x", "x" * 300])
def test_a_hint_must_name_a_host(host: str) -> None:
    raw = json.dumps({"peers": [{"id": "a", "name": "a", "host": host, "port": 1}]}).encode()
    with pytest.raises(AdvertisementError):
        parse_hints(raw)
