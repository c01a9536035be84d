"""What the page says is wrong, and what to do: from the view alone, in the doctor's words, under ids that stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.snapshot import GIB_BYTES, MIB_BYTES, Gpu, HardwareSnapshot
from swarm.gateway.observing.board import EventBoard
from swarm.gateway.observing.changes import ViewChanges
from swarm.gateway.observing.findings import (
    MAX_CHARS,
    MAX_FINDINGS,
    Trouble,
    disk_trouble,
    findings_of,
    gpu_trouble,
    memory_trouble,
    show_findings,
)
from swarm.gateway.observing.view import (
    AccessEntry,
    ConductEntry,
    FederationView,
    LendingEntry,
    LentEntry,
    MemberEntry,
    NameEntry,
    NodeEntry,
    NodeView,
    OwnModel,
    PeerEntry,
    RejectedEntry,
    SourceEntry,
    TrustEntry,
)

PEER = PeerEntry(
    id="id-study", name="study", url="http://10.0.0.2:17615", state="alive", models=(), rtt_ms=1.0, last_seen_s=0.1,
    slots_free=4, source="mdns", circuit="closed", conduct=ConductEntry(), problems=(),
)  # fmt: skip
WELL = FederationView(
    status="ok",
    node=NodeEntry(id="id-kitchen", name="kitchen", version="1", url="http://10.0.0.1:17615", mode="open"),
    trust=TrustEntry(mode="open", problem=None, absent=()),
    access=AccessEntry(api="anyone", peers="anyone", management="this machine"),
    peers=(PEER,),
    changes=(),
    rejected=(),
    names=(),
    sources=(),
    models={},
    own_models=(),
    upstream=None,
    upstreams=(),
    records=False,
    tools=(),
    lending=None,
)
MODEL = OwnModel(id="m", engine="e", slots=1, slots_free=1, waiting=0, problem=None)
LENT = LentEntry(node="study", model="m", bytes=GIB_BYTES)
LENDING = LendingEntry(total_bytes=8 * GIB_BYTES, free_bytes=7 * GIB_BYTES, build="b11434")
CARD = HardwareSnapshot(gpus=(Gpu("nvidia", "RTX 4090", memory_total_bytes=24 * GIB_BYTES),))
DOWN = RejectedEntry(address="10.0.0.9:17615", source="static", why="down", reason="cannot be reached")


def test_all_well_is_no_finding() -> None:
    assert findings_of(WELL, {"id-study": "1"}) == {}


@pytest.mark.parametrize(
    ("differing", "key", "level", "node", "said", "remedy"),
    [
        ({"peers": ()}, "alone", "note", "id-kitchen", "no other node", "swarm doctor"),
        ({"own_models": (replace(MODEL, state="failed", reason="no file"),)}, "model:m", "problem", "id-kitchen",
         "no file", "swarm models load"),
        ({"own_models": (replace(MODEL, problem="stalls"),)}, "model:m", "problem", "id-kitchen", "stalls", "anew"),
        ({"trust": TrustEntry(mode="paired", problem="put out", absent=())}, "trust", "problem", "id-kitchen",
         "put out", "swarm leave"),
        ({"sources": (SourceEntry(source="mDNS", problem="no socket"),)}, "source:mDNS", "warning", "id-kitchen",
         "mDNS is off: no socket", "--peer"),
        ({"names": (NameEntry(name="attic:1", addresses=(), problem="unknown"),)}, "name:attic:1", "warning",
         "id-kitchen", "unknown", "--peer"),
        ({"rejected": (DOWN,)}, "rejected:10.0.0.9:17615", "warning", None, "cannot be reached", "firewall"),
        ({"access": AccessEntry(api="key", peers="anyone", management="this machine")}, "access", "warning",
         "id-kitchen", "clients need a key", "swarm invite"),
        ({"peers": (replace(PEER, circuit="open"),)}, "circuit:id-study", "warning", "id-study", "left alone", "log"),
        ({"peers": (replace(PEER, state="dead"),)}, "dead:id-study", "warning", "id-study", "answer", "start"),
        ({"peers": (replace(PEER, problems=("slow",)),)}, "conduct:id-study", "warning", "id-study", "slow", "revoke"),
        ({"trust": TrustEntry(mode="paired", problem=None, absent=(MemberEntry(id="id-a", name="attic"),))},
         "absent:id-a", "note", "id-a", "attic", "swarm revoke"),
        ({"own_models": (replace(MODEL, state="failed", reason="waiting for den", nodes=("kitchen", "den", "attic")),)},
         "model:m", "problem", "id-kitchen", "model m is not there: waiting for den", "start den and attic again"),
        ({"own_models": (replace(MODEL, problem="den takes its memory back", nodes=("kitchen", "den")),)},
         "model:m", "warning", "id-kitchen", "model m: den takes its memory back", "over whoever else lends"),
        ({"own_models": (replace(MODEL, state="failed", reason="lost", problem="waiting for lenders: 3 GiB short"),)},
         "model:m", "problem", "id-kitchen", "m is not there: waiting for lenders: 3 GiB short", "lend memory on"),
        ({"peers": (), "lending": LENDING, "access": replace(WELL.access, peers="none")},
         "lending", "note", "id-kitchen", "lends 8.0 GiB of memory, and no other member", "swarm join CODE"),
        ({"lending": replace(LENDING, draining=True, lent=(LENT, replace(LENT, node="den"), LENT))},
         "lending", "note", "id-kitchen", "memory that this node lent to den, study is wanted back", "half a minute"),
        ({"peers": (replace(PEER, lending=replace(LENDING, problem="it lied")),)},
         "lender:id-study", "warning", "id-study", "study lends memory that this node does not use: it lied", "native"),
    ],
)  # fmt: skip
def test_what_is_wrong(
    differing: dict[str, Any], key: str, level: str, node: str | None, said: str, remedy: str
) -> None:
    (found,) = findings_of(replace(WELL, **differing), {}).values()
    assert (found.id, found.level, found.node) == (key, level, node)
    assert said in found.what
    assert remedy in found.remedy


def test_what_is_no_fault_is_not_told() -> None:
    assert findings_of(replace(WELL, lending=replace(LENDING, lent=(LENT,))), {}) == {}
    assert findings_of(replace(WELL, lending=replace(LENDING, draining=True)), {}) == {}
    assert findings_of(replace(WELL, peers=(replace(PEER, lending=LENDING),)), {}) == {}
    drains = replace(PEER, lending=replace(LENDING, draining=True, problem="it takes its memory back"))
    assert findings_of(replace(WELL, peers=(drains,)), {}) == {}
    harmless = (replace(DOWN, source="mdns"), replace(DOWN, why="itself"), replace(DOWN, why="leaving"))
    assert findings_of(replace(WELL, rejected=harmless), {}) == {}


def test_another_version_is_told_once() -> None:
    (found,) = findings_of(WELL, {"id-study": "2"}).values()
    assert (found.id, found.what) == ("versions", "this is 1; peers run 2")


@pytest.mark.parametrize(
    ("trouble", "level", "remedy"),
    [
        (gpu_trouble(CARD, False), "warning", "swarm engines install"),
        (disk_trouble("/data", GIB_BYTES), "warning", "swarm models rm"),
        (disk_trouble("/data", MIB_BYTES), "problem", "--data-dir"),
        (memory_trouble(GIB_BYTES), "warning", "swarm models fit"),
        (memory_trouble(MIB_BYTES), "problem", "swarm models fit"),
    ],
)
def test_the_machine(trouble: Trouble | None, level: str, remedy: str) -> None:
    assert trouble is not None
    (found,) = findings_of(WELL, {}, {"it": trouble}).values()
    assert (found.id, found.level, found.node, remedy in found.remedy) == ("machine:it", level, "id-kitchen", True)


def test_a_machine_in_order() -> None:
    assert gpu_trouble(CARD, True) is gpu_trouble(HardwareSnapshot(), False) is None
    assert disk_trouble("/data", 9 * GIB_BYTES) is memory_trouble(9 * GIB_BYTES) is None


@given(st.lists(st.tuples(st.text(max_size=1000), st.text(max_size=1000)), max_size=300))
def test_it_is_bounded_whatever_peers_say(said: list[tuple[str, str]]) -> None:
    peers = tuple(replace(PEER, id=f"{n}", name=name, problems=(words,)) for n, (name, words) in enumerate(said))
    found = findings_of(replace(WELL, peers=(PEER, *peers)), {}, {"disk": Trouble("problem", "full", "clear it")})
    assert len(found) <= MAX_FINDINGS
    assert next(iter(found)) == "machine:disk", "the gravest is the first"
    assert all(len(entry.what) <= MAX_CHARS and len(entry.remedy) <= MAX_CHARS for entry in found.values())


async def test_the_board_has_them_only_while_somebody_watches() -> None:
    alone = NodeView(
        federation=replace(WELL, peers=()), loading=False, draining=False, requests=0, file_transfers=None,
        peers_by_state={}, changes_to_state={},
    )  # fmt: skip
    board, changes = EventBoard(), ViewChanges(lambda: alone)
    show_findings(board, lambda: alone, changes, dict[str, str], dict[str, Trouble])
    assert board.since(0, ["finding"]) is None
    with board.watching(["finding"]):
        assert '"alone"' in (board.since(0, ["finding"]) or "")
    await changes.aclose()
