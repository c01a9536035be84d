"""Lists of members: whatever order they are merged in, all copies come to say the same; what is revoked stays so."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import RosterError
from federation.roster import MAX_MEMBERS, Endpoint, Entry, Roster, encoded, parse_roster
from federation.roster_store import ROSTER_FILE, load_roster, save_roster
from tests.doubles.paired import identity, roster_of

FOLDER = Path(tempfile.mkdtemp(prefix="swarm-roster-"))
NAMES = ("kitchen", "study", "attic")
SWARM = "0123456789abcdef"
CERTIFICATES = {name: identity(FOLDER, name).certificate for name in NAMES}
IDS = {name: identity(FOLDER, name).node_id for name in NAMES}


def entry(name: str, epoch: int, revoked: bool) -> Entry:
    certificate = None if revoked else encoded(CERTIFICATES[name])
    return Entry(id=IDS[name], epoch=epoch, certificate=certificate, name=name)


entries = st.builds(entry, st.sampled_from(NAMES), st.integers(1, 4), st.booleans())
rosters = st.lists(entries, max_size=3, unique_by=lambda e: e.id).map(
    lambda held: Roster(swarm=SWARM, entries=tuple(held))
)


@given(rosters, rosters, rosters)
def test_the_order_of_merging_does_not_matter(a: Roster, b: Roster, c: Roster) -> None:
    assert a.merge(b).digest == b.merge(a).digest
    assert a.merge(b).merge(c).digest == a.merge(b.merge(c)).digest
    assert a.merge(b).merge(b).digest == a.merge(b).digest
    assert a.merge(a) == a


@given(rosters, rosters)
def test_digests_are_the_same_exactly_when_the_members_are(a: Roster, b: Roster) -> None:
    facts = [{(e.id, e.epoch, e.revoked) for e in roster.entries} for roster in (a, b)]
    assert (a.digest == b.digest) == (facts[0] == facts[1])


def test_a_late_copy_does_not_bring_a_revoked_node_back_but_an_invitation_does(tmp_path: Path) -> None:
    before = roster_of(tmp_path, *NAMES)
    revoked = before.revoke(IDS["attic"])
    assert revoked.merge(before).get(IDS["attic"]).revoked
    assert before.merge(revoked).get(IDS["attic"]).revoked
    invited = revoked.admit(CERTIFICATES["attic"], "attic")
    assert not invited.merge(revoked).get(IDS["attic"]).revoked
    assert {member.name for member in invited.members} == set(NAMES)
    with pytest.raises(RosterError, match="is not a member"):
        revoked.revoke(IDS["attic"])


def test_a_node_cannot_tell_that_it_is_back_itself(tmp_path: Path) -> None:
    before = roster_of(tmp_path, *NAMES)
    revoked = before.revoke(IDS["attic"])
    back = revoked.admit(CERTIFICATES["attic"], "attic")
    for held in (before, revoked):
        assert held.merge(held.as_reported_by(IDS["attic"], back)) == held
        assert held.merge(held.as_reported_by(IDS["study"], back)).digest == back.digest, (
            "whoever took it back tells so"
        )
    assert before.merge(before.as_reported_by(IDS["attic"], revoked)).digest == revoked.digest, "that it is out, it may"
    stranger = before.model_copy(update={"swarm": "f" * 16})
    with pytest.raises(RosterError, match="another swarm"):
        before.merge(before.as_reported_by(IDS["attic"], stranger))


def test_another_swarms_list_is_not_merged(tmp_path: Path) -> None:
    with pytest.raises(RosterError, match="another swarm"):
        roster_of(tmp_path, "kitchen").merge(roster_of(tmp_path, "kitchen"))


def test_a_full_swarm_says_so(tmp_path: Path) -> None:
    full = roster_of(tmp_path, *(f"node-{number}" for number in range(MAX_MEMBERS)))
    with pytest.raises(RosterError, match="it is full"):
        full.admit(CERTIFICATES["attic"], "attic")


@pytest.mark.parametrize(
    "change",
    [
        lambda e: {**e, "id": IDS["attic"]},  # another node's id with one's own certificate
        lambda e: {**e, "id": "../../etc/passwd"},
        lambda e: {**e, "certificate": "AAAA"},
        lambda e: {**e, "certificate": "x" * 5000},
        lambda e: {**e, "certificate": e["certificate"] + e["certificate"]},
        lambda e: {**e, "epoch": 10**9},
        lambda e: {**e, "epoch": 0},
        lambda e: {**e, "name": ""},
        lambda e: {**e, "places": [{"host": "a b", "port": 1}]},
        lambda e: {**e, "places": [{"host": "10.0.0.1", "port": 1}] * 5},
    ],
)
def test_hostile_entries_are_refused(tmp_path: Path, change: object) -> None:
    told = json.loads(roster_of(tmp_path, "kitchen").model_dump_json())
    told["entries"] = [change(told["entries"][0])]  # type: ignore[operator]
    with pytest.raises(RosterError, match="not a list of members"):
        parse_roster(json.dumps(told).encode())


def test_several_entries_for_one_node_are_refused(tmp_path: Path) -> None:
    told = json.loads(roster_of(tmp_path, "kitchen").model_dump_json())
    told["entries"] *= 2
    with pytest.raises(RosterError, match="several entries"):
        parse_roster(json.dumps(told).encode())


def test_it_is_kept_for_the_owner_only_and_comes_back_as_it_was(tmp_path: Path) -> None:
    place = Endpoint(host="10.0.0.1", port=17615)
    roster = roster_of(tmp_path, *NAMES).with_endpoints(IDS["study"], [place]).revoke(IDS["attic"])
    save_roster(tmp_path, roster)
    assert (tmp_path / ROSTER_FILE).stat().st_mode & 0o777 == 0o600
    assert load_roster(tmp_path) == roster
    save_roster(tmp_path, None)
    assert load_roster(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"swarm": "x"}', b"{" * 100_000])
def test_a_corrupt_list_stops_the_node_and_does_not_open_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ROSTER_FILE).write_bytes(content)
    with pytest.raises(RosterError, match=r"roster\.json is .* restore it"):
        load_roster(tmp_path)
