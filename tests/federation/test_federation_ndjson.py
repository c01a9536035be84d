import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.peer_response import LineSplitter, LineTooLong


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line)), st.data())
def test_where_chunks_are_cut_does_not_matter(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(lines)
    splitter = LineSplitter(max_line_bytes=12)
    got: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += splitter.feed(stream[:cut])
        stream = stream[cut:]
    last = splitter.finish()
    assert got + ([last] if last else []) == [line.strip() for line in lines if line.strip()]


def test_heartbeats_and_carriage_returns_vanish() -> None:
    assert LineSplitter(10).feed(b'\n\r\n{"a":1}\r\n\n') == [b'{"a":1}']


@pytest.mark.parametrize("chunks", [[b"12345678901"], [b"123456", b"78901"], [b"ok\n12345678901\n"]])
def test_a_line_beyond_the_limit_is_an_error_even_unfinished(chunks: list[bytes]) -> None:
    *first, last = chunks
    splitter = LineSplitter(10)
    for chunk in first:
        splitter.feed(chunk)
    with pytest.raises(LineTooLong, match="longer than 10 bytes"):
        splitter.feed(last)
