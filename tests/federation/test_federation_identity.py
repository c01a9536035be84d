import os
from pathlib import Path

import pytest

from federation.hostport import Address
from federation.identity import display_name
from federation.small_files import write_atomically
from federation.static_peers import PEERS_FILE, load_peers, save_peers
from federation.timing import MAX_STATIC


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("Anna's Mac", "Anna-s-Mac"),
        ("  ", "node"),
        ("", "node"),
        ("küche", "küche"),
        ("ku\u0308che", "küche"),  # as a Mac types it
        ("厨房", "厨房"),
        ("रसोई", "रसोई"),  # vowel signs are marks
        ("مطبخ", "مطبخ"),
        ("Büro 2. Stock", "Büro-2.-Stock"),
        ("🦊 fox", "fox"),
        ("🦊", "node"),
        ("a\nb", "a-b"),
        ("a\x1b[2Jb", "a-2Jb"),
        ("a\u202eb", "a-b"),  # turns text around
        ("a\u3164b", "a-b"),  # a letter that shows nothing
        ("a\u200bb", "a-b"),
        ("x" * 99, "x" * 64),
        ("厨" * 99, "厨" * 64),
        ("\U00020000" * 99, "\U00020000" * 48),
    ],
)
def test_names_are_made_fit_for_logs_and_voters(wanted: str, shown: str) -> None:
    assert display_name(wanted) == shown


def test_the_host_name_is_the_default_name() -> None:
    assert display_name() == display_name(os.uname().nodename.split(".")[0])


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "occupied"
    target.mkdir()
    with pytest.raises(OSError, match="occupied"):
        write_atomically(target, b"new")
    assert list(tmp_path.iterdir()) == [target]


def test_peers_are_kept_in_order(tmp_path: Path) -> None:
    addresses = (Address("nas", 17615), Address("fd00::5", 1), Address("192.168.1.5", 17616))
    save_peers(tmp_path, addresses)
    assert load_peers(tmp_path) == addresses


def test_no_more_peers_are_kept_than_are_read_back(tmp_path: Path) -> None:
    addresses = [Address(f"{'h' * 60}.{'x' * 60}-{number}", 17615) for number in range(MAX_STATIC + 5)]
    save_peers(tmp_path, addresses)
    assert load_peers(tmp_path) == tuple(addresses[:MAX_STATIC])


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"peers": [{"host": "a b", "port": 1}]}', b'{"peers": [{"port": 1}]}']
)
def test_a_corrupt_peer_file_costs_a_warning(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / PEERS_FILE).write_bytes(content)
    assert load_peers(tmp_path) == ()
    assert "give the peers again with --peer" in caplog.text


def test_a_peer_file_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    save_peers(tmp_path / "file", [Address("nas", 1)])
    assert "will have to be given again" in caplog.text


def test_no_peer_file_is_no_peers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_peers(tmp_path) == ()
    assert not caplog.text
