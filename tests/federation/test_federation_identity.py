import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from federation.advertisement import NodeId
from federation.atomic_file import write_atomically
from federation.errors import IdentityError
from federation.hostport import Address
from federation.identity import IDENTITY_FILE, display_name, load_identity, new_node_id
from federation.peer_store import PEERS_FILE, load_peers, save_peers
from federation.timing import MAX_STATIC


def test_the_id_stays_and_the_name_may_change(tmp_path: Path) -> None:
    first = load_identity(tmp_path / "made" / "on demand", "kitchen")
    again = load_identity(tmp_path / "made" / "on demand", "attic")
    assert (again.node_id, first.name, again.name) == (first.node_id, "kitchen", "attic")
    assert [path.name for path in (tmp_path / "made" / "on demand").iterdir()] == [IDENTITY_FILE]


def test_ids_are_short_legal_and_different() -> None:
    ids = {new_node_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(node_id) for node_id in ids} == {26}
    for node_id in ids:
        TypeAdapter(NodeId).validate_python(node_id)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 5}', b'{"id": "../x"}', b"\x00\xff", b"{" * 100_000])
def test_a_corrupt_identity_names_the_file_and_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / IDENTITY_FILE
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=r"node\.json does not hold a node id: delete it .* or restore it"):
        load_identity(tmp_path)
    assert path.read_bytes() == content


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IdentityError, match="--data-dir"):
        load_identity(tmp_path / "file")
    (tmp_path / "taken" / IDENTITY_FILE).mkdir(parents=True)
    with pytest.raises(IdentityError, match="cannot read"):
        load_identity(tmp_path / "taken")


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("Anna's Mac", "Anna-s-Mac"),
        ("  ", "node"),
        ("", "node"),
        ("küche", "k-che"),
        ("a\nb", "a-b"),
        ("x" * 99, "x" * 64),
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
