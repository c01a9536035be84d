"""What peers say of files is parsed and bounded: whatever else they say is a broken agreement, and nothing worse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import PeerProtocolError
from federation.file_exchange import (
    MAX_FILE_BYTES,
    MAX_FILES,
    PIECE_BYTES,
    is_sha256,
    parse_file_list,
    parse_pieces,
    piece_count,
)

HASH = "0" * 64
FILE = {"sha256": HASH, "size_bytes": 5, "name": "o/r/f.gguf"}
PIECES = {"size_bytes": 5, "piece_bytes": PIECE_BYTES, "pieces": [HASH]}

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([HASH, [HASH]])
)
names = st.sampled_from(["files", "sha256", "size_bytes", "name", "pieces", "piece_bytes"])
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=4), max_leaves=12)


@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_anything_is_a_list_within_its_bounds_or_refused(raw: bytes) -> None:
    for parse in (parse_file_list, parse_pieces):
        try:
            found = parse(raw)
        except PeerProtocolError:
            continue
        for file in found if isinstance(found, tuple) else ():
            assert is_sha256(file.sha256)
            assert 0 < file.size_bytes <= MAX_FILE_BYTES


@pytest.mark.parametrize(
    "file",
    [
        {**FILE, "sha256": "../" + HASH[3:]}, {**FILE, "sha256": "A" * 64}, {**FILE, "sha256": HASH + "\n"},
        {**FILE, "size_bytes": 0}, {**FILE, "size_bytes": MAX_FILE_BYTES + 1}, {**FILE, "name": "x" * 600},
    ],
)  # fmt: skip
def test_files_that_cannot_be_are_refused(file: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError, match="does not list files"):
        parse_file_list(json.dumps({"files": [file]}).encode())


def test_more_files_than_any_node_has_are_refused() -> None:
    with pytest.raises(PeerProtocolError):
        parse_file_list(json.dumps({"files": [FILE] * (MAX_FILES + 1)}).encode())


@pytest.mark.parametrize(
    "pieces",
    [
        {**PIECES, "pieces": []}, {**PIECES, "pieces": [HASH] * 2}, {**PIECES, "size_bytes": PIECE_BYTES + 1},
        {**PIECES, "piece_bytes": 1},
    ],
)  # fmt: skip
def test_pieces_that_do_not_make_the_file_are_refused(pieces: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError):
        parse_pieces(json.dumps(pieces).encode())


def test_pieces_cover_a_file() -> None:
    size_bytes = 2 * PIECE_BYTES + 7
    assert piece_count(size_bytes) == 3
    found = parse_pieces(json.dumps({"size_bytes": size_bytes, "pieces": [HASH] * 3}).encode())
    assert [found.span(piece) for piece in range(3)] == [
        (0, PIECE_BYTES), (PIECE_BYTES, PIECE_BYTES), (2 * PIECE_BYTES, 7)
    ]  # fmt: skip
