import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.advertisement import (
    MAX_HINTS,
    MAX_LOADABLE,
    MAX_LOADABLE_BYTES,
    MAX_MODELS,
    Capabilities,
    LoadableModel,
    NodeDescription,
    PeerHint,
    PeerHints,
    ServedModel,
    list_body,
    parse_description,
    parse_hints,
    parse_loadable,
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
    for parse in (parse_description, parse_hints, parse_loadable):
        with contextlib.suppress(AdvertisementError):  # some bytes are all right: {} says nothing, in order
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


# What a node could load

PRINT = "0a" * 32
QWEN = LoadableModel(
    id="qwen3:4b", fingerprint=PRINT, size_bytes=2_600_000_000, params=4_000_000_000, context_tokens=8192, slots=4,
    capabilities=Capabilities(tools=False, infill=True), load_s=3.5, fits=False, also=("qwen3-4b-q4_k_m",),
)  # fmt: skip


def test_what_could_be_loaded_survives_the_wire_in_any_order() -> None:
    small = LoadableModel(id="a")
    found = parse_loadable(list_body([QWEN, small]))
    assert found.models == (small, QWEN), "what fits comes first"
    assert found == parse_loadable(list_body([small, QWEN]))
    assert found.digest != parse_loadable(list_body([small])).digest
    assert parse_loadable(b"{}").models == ()


@pytest.mark.parametrize("name_chars", [8, 250])
def test_a_list_that_is_too_long_says_how_much_it_leaves_out(name_chars: int) -> None:
    many = [
        LoadableModel(id=f"{number:0{name_chars}}", fits=number >= 100, sha256=PRINT, also=("x" * name_chars,) * 8)
        for number in range(MAX_LOADABLE + 100)
    ]
    body = list_body(many)
    found = parse_loadable(body)
    assert len(body) <= MAX_LOADABLE_BYTES
    assert 0 < len(found.models) <= MAX_LOADABLE
    assert len(found.models) + found.left_out == len(many)
    assert all(model.fits for model in found.models), "what fits has the room"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"id": ""}, "models.0.id"),
        ({"id": "x" * 257}, "models.0.id"),
        ({"size_bytes": -1}, "size_bytes"),
        ({"load_s": -0.5}, "load_s"),
        ({"load_s": "soon"}, "load_s"),
        ({"slots": 0}, "slots"),
        ({"state": "x" * 17}, "state"),
        ({"also": ["x"] * 9}, "also"),
        ({"also": [""]}, "also"),
        ({"fingerprint": "f" * 129}, "fingerprint"),
    ],
)
def test_a_list_with_a_model_that_cannot_be_is_one_line(changed: dict[str, object], complaint: str) -> None:
    with pytest.raises(AdvertisementError, match=rf"^does not list what it could load: .*{complaint}"):
        parse_loadable(json.dumps({"models": [{"id": "m", **changed}]}).encode())
    with pytest.raises(AdvertisementError):
        parse_loadable(json.dumps({"models": [{"id": "m"}] * (MAX_LOADABLE + 1)}).encode())


@pytest.mark.parametrize("said", ["", "abc", PRINT.upper(), PRINT[1:] + "g", "\x1b[31m"])
def test_what_is_no_digest_tells_no_content(said: str) -> None:
    described = parse_description(as_sent(models=[{"id": "m", "fingerprint": said, "sha256": said}])).models[0]
    assert (described.fingerprint, described.sha256) == (None, None)
    assert parse_description(as_sent(models=[{"id": "m", "sha256": PRINT}])).models[0].sha256 == PRINT


def test_a_state_of_the_future_is_read() -> None:
    assert parse_loadable(b'{"models": [{"id": "m", "state": "dreaming"}]}').models[0].state == "dreaming"
    assert parse_description(as_sent(models=[{"id": "m", "state": "dreaming"}])).models[0].state == "dreaming"
