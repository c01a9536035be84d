from pathlib import Path

import pytest

from federation.errors import AddressError
from federation.hostport import Address
from federation.static_peers import StaticList, parse_list, read_list
from federation.timing import MAX_STATIC


def test_a_list_is_one_address_a_line_with_comments() -> None:
    text = "# the flat\n10.0.0.1:1\n\n  kitchen.lan  # by the door\n10.0.0.1:1\n[fd00::1]:2\n"
    assert parse_list(text) == (Address("10.0.0.1", 1), Address("kitchen.lan", 17615), Address("fd00::1", 2))


@pytest.mark.parametrize(("text", "complaint"), [("10.0.0.1\nkitchen:port\n", "line 2: .*'port'"), ("a b", "line 1")])
def test_a_bad_line_is_named(text: str, complaint: str) -> None:
    with pytest.raises(AddressError, match=complaint):
        parse_list(text)


def test_more_than_can_be_kept_is_refused() -> None:
    with pytest.raises(AddressError, match=f"more than {MAX_STATIC}"):
        parse_list("\n".join(f"10.0.0.{n}" for n in range(MAX_STATIC + 1)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match=r"cannot read --peer-file .*peers\.txt"):
        read_list(tmp_path / "peers.txt")


async def test_changes_are_told_and_a_broken_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, told = tmp_path / "peers.txt", list[tuple[Address, ...]]()
    source = StaticList(path, told.append)
    path.write_text("10.0.0.1")
    await source.look()
    await source.look()
    path.write_text("10.0.0.1\nnot:a:port:\n")
    await source.look()
    await source.look()
    path.write_text("10.0.0.2")
    await source.look()
    assert told == [(Address("10.0.0.1", 17615),), (Address("10.0.0.2", 17615),)]
    assert caplog.text.count("the peers that it listed before stay") == 1
