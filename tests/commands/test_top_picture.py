"""The picture of a swarm in a terminal: what it says, and that it fits whatever there is to fit into."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, cast

import pytest

from swarm.commands.dashboard import GAP, Column, Shown, allotted, fitting, picture, shares, short
from swarm.commands.swarm_state import SwarmState, after
from swarm.commands.top import after_key, split_keys
from tests.commands.swarms import GIB, OWN, finding_entry, model_entry, node_entry, node_id, parts_of, swarm_of

LENDING: Final[dict[str, Any]] = {
    "total_bytes": 8 * GIB, "free_bytes": 5 * GIB, "build": "b11434",
    "lent": [{"node": "den\n\x1b[2Ja", "model": "m", "bytes": 3 * GIB}],
}  # fmt: skip
LENT_POOL: Final = {
    "pool": "ram", "total_bytes": 64 * GIB, "free_bytes": 32 * GIB, "weights_bytes": 12 * GIB, "kv_bytes": 3 * GIB,
    "lent_bytes": 12 * GIB,
}  # fmt: skip
NOW = datetime(2026, 11, 30, 12, 10, tzinfo=UTC)
MAIN = Shown()


def lines(state: SwarmState, columns: int = 80, rows: int = 24, shown: Shown = MAIN) -> list[str]:
    return [line.plain.rstrip() for line in picture(state, NOW, columns, rows, shown)]


def changed(part: str, key: str, /, **entry: Any) -> SwarmState:
    """The swarm of three nodes after a change of one entry."""
    before = parts_of(3, 2)[part][key]
    return after(swarm_of(3, 2), "changes", {part: {key: before | entry}})


@pytest.mark.parametrize(
    "size", [(80, 24), (120, 40), (200, 60), (40, 24), (80, 10), (40, 10), (20, 5), (8, 2), (1, 1)]
)
@pytest.mark.parametrize("swarm", [(1, 0), (1, 1), (3, 2), (20, 10)])
@pytest.mark.parametrize("models", [False, True])
def test_it_fits(size: tuple[int, int], swarm: tuple[int, int], models: bool) -> None:
    columns, rows = size
    drawn = picture(swarm_of(*swarm), NOW, columns, rows, Shown(models=models, gone=(NOW, "connection refused")))
    assert len(drawn) <= rows
    assert all(line.cell_len <= columns and "\n" not in line.plain for line in drawn)


def test_a_swarm_of_three() -> None:
    assert (
        lines(swarm_of(3, 2))
        == """\
the swarm as node-0 sees it · ok · open · http://10.0.0.0:17615 · version 1.4.0
3 nodes (1 dead) · 6 models · 31.5 tok/s · 1 running · 0 waiting
NODE      STATE      TOK/S  RUN  WAIT  MEMORY                     RTT
node-0 *  alive       31.5    1     0  ██▓▒░░░░░░ 40G free       here
node-1    dead  since 12:03:00 (7 min): connection refused
node-2    alive        0.0    0     0  ██▓▒░░░░░░ 40G free     3.2 ms

WRONG OR WORTH KNOWING (1)
warning: node-0 computes on the processor although it has a GPU (NVIDIA GeForce
  RTX 3090)
  → install the build for it: `swarm engines install llama.cpp --gpu`

REQUESTS (1)   STATE       SINCE  TOKENS  KEY             ASKED AT
qwen3:4b       running      12 s      96  anna            /v1/chat/completions
LAST VOTES   AGREE           OUTCOME         TOOK  AT        KIND         TOKENS
swarm        4 of 5 agree    consensus    1240 ms  12:02:00  number          250
swarm        4 of 5 agree    consensus    1240 ms  12:01:00  number          250
swarm        4 of 5 agree    consensus    1240 ms  12:00:00  number          250
MODELS (4)    NODE    STATE                    FREE SLOTS  MEMORY
model-2-0:4b  node-2  loading 40%, 12 s left            -      4G
qwen3:4b      node-0  ready, pinned                3 of 4      4G
model-0-1:4b  node-0  ready                        4 of 4      4G
model-2-1:4b  node-2  ready                        4 of 4      4G
q ends   s sorted by name   m models""".splitlines()
    )


@pytest.mark.parametrize(
    ("rows", "seen", "counted"),
    [
        (24, ["node-0 *", "node-11", "qwen3:4b", "4 of 5 agree", "warning:"], ["… and 16 more", "… and 187 more"]),
        (60, ["node-0 *", "node-19", "model-2-0:4b", "4 of 5 agree"], ["more"]),
        (10, ["node-0 *", "warning:"], ["… and 17 more"]),
    ],
)
def test_twenty_nodes_with_two_hundred_models_are_counted(rows: int, seen: list[str], counted: list[str]) -> None:
    text = "\n".join(lines(swarm_of(20, 10), rows=rows))
    assert "20 nodes (1 dead) · 200 models" in text
    assert [words for words in counted if words not in text] == []
    assert [words for words in seen if words not in text and words != "node-11"] == []


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (40, "NODE      STATE      TOK/S  RUN  WAIT"),
        (80, "NODE      STATE      TOK/S  RUN  WAIT  MEMORY                     RTT"),
        (160, "NODE      STATE      TOK/S  RUN  WAIT  MEMORY                     RTT  MODELS  "
              "HARDWARE                                  WEIGHTS + CACHE  VERSION"),
    ],
)  # fmt: skip
def test_columns_of_little_use_go_first(columns: int, titles: str) -> None:
    assert lines(swarm_of(3, 2), columns)[2] == titles


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (changed("node", node_id(2), state="suspect"), "node-2    suspect "),
        (changed("node", node_id(2), state="absent", why="not seen"), "node-2    absent  not seen"),
        (changed("node", node_id(1), since=None, why=None), "node-1    dead"),
        (changed("node", node_id(1), since="nonsense"), "node-1    dead  since 00:00:00 ("),
        (changed("node", OWN, memory=[]), "node-0 *  alive       31.5    1     0  -"),
        (changed("node", node_id(2), source="unknown"), "node-2    alive         -    -     -"),
        (changed("node", node_id(2), name="\x1b[31mevil\nname"), "evil name"),
        (changed("node", node_id(2), name="厨房"), "厨房      alive"),
        (changed("node", OWN, models=[model_entry("m", state="failed", reason="no file")]), "failed: no file"),
        (changed("node", OWN, models=[model_entry("m", slots_free=0, waiting=2)]), "2 wait"),
        (changed("node", OWN, models=[model_entry("m", nodes=["node-0", "a\x1b[31m", "厨房"])]), "m node-0 + a + 厨房"),
        (changed("node", OWN, lending=LENDING), "3G of 8G"),
        (changed("node", OWN, lending=LENDING), "MEMORY LENT BY TO MEMORY FOR node-0 den a 3G m"),
        (changed("node", OWN, lending=LENDING | {"draining": True}), "wanted back"),
        (changed("node", OWN, lending=LENDING | {"draining": True, "free_bytes": 8 * GIB, "lent": []}), "no more"),
        (changed("node", OWN, memory=[LENT_POOL]), "node-0 * alive 31.5 1 0 ██▓▚▚░░░░░"),
        (changed("vote", "vote-2", state="running", candidates=[]), "0 of 5 here     running"),
        (changed("vote", "vote-2", state="failed", stopped_by="no_quorum"), "no_quorum"),
        (changed("vote", "vote-2", votes=0), "swarm        -  "),
        (changed("request", "r0", key=None, **{"from": "node"}), "a node"),
        (changed("request", "r0", state="waiting", model=None, tokens=None), "- waiting 12 s -"),
        (changed("view", "", status="loading the model"), "sees it · loading the model · open"),
        (changed("finding", "finding-0", level="problem", what="no memory"), "problem: no memory"),
        (after(SwarmState(), "snapshot", {}), "Local Swarm"),
        (changed("node", node_id(2), hardware=3), "! 1 entries are in a form that this version does not read"),
    ],
)  # fmt: skip
def test_what_is_said_of_each(state: SwarmState, said: str) -> None:
    text = "\n".join(lines(state, 100, 40))
    assert " ".join(said.split()) in " ".join(text.split())
    assert "\x1b" not in text


READ = ("source", "state", "from", "began", "since", "level")


def hostile(value: Any) -> Any:
    """With every text but those that are read as one of a few words followed by what would draw on a terminal."""
    match value:
        case dict():
            told = cast("dict[str, Any]", value)
            return {key: told[key] if key in READ else hostile(told[key]) for key in told}
        case list():
            return [hostile(told) for told in cast("list[Any]", value)]
        case _:
            pass
    return f"{value}\x1b[2J\x1b]0;title\x07\r\n\u202e[bold]:smile:" if isinstance(value, str) else value


def test_the_words_of_others_draw_nothing() -> None:
    told = hostile(parts_of(3, 2))
    told["view"][""]["node"]["id"] = OWN
    state = after(SwarmState(requests={}), "snapshot", told)
    assert not state.unread
    for models in (False, True):
        text = "\n".join(lines(state, 400, 100, Shown(models=models)))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert "[bold]:smile:" in text


def test_a_long_finding_says_at_least_what_to_do_first() -> None:
    state = after(
        swarm_of(1, 1), "changes", {"finding": {"finding-1": finding_entry(1, what="word " * 90, level="problem")}}
    )
    text = lines(state, 80, 40)
    at = next(at for at, line in enumerate(text) if line.startswith("problem: word"))
    assert text[at + 2].endswith("…")
    assert text[at + 3].startswith("  → install the build")


@pytest.mark.parametrize(("order", "first"), [("name", "node-0 *"), ("state", "node-1"), ("speed", "node-2")])
def test_the_order_of_nodes(order: Any, first: str) -> None:
    assert lines(changed("node", node_id(2), tokens_per_s=99.0), shown=Shown(order=order))[3].startswith(first)


def test_names_are_sorted_as_people_count() -> None:
    names = [line.split()[0] for line in lines(swarm_of(12, 0), rows=40)[3:15]]
    assert names == [f"node-{number}" for number in range(12)]


def test_the_list_of_models_can_be_walked() -> None:
    text = lines(swarm_of(20, 10), rows=12, shown=Shown(models=True, first_model=50))
    assert text[3] == "… 50 before these"
    assert text[-2] == "… and 134 more"
    assert lines(swarm_of(20, 10), rows=12, shown=Shown(models=True, first_model=10_000))[-2].startswith("model-")


def test_a_node_that_has_gone_is_said() -> None:
    text = lines(swarm_of(1, 1), shown=Shown(gone=(datetime(2026, 11, 30, 12, 9, 30, tzinfo=UTC), "refused")))
    assert text[2] == "! it does not answer since 12:09:30 (30 s): asked again. refused"


# The parts


def test_snapshots_replace_and_changes_add() -> None:
    state = swarm_of(2, 1)
    state = after(state, "changes", {"node": {node_id(1): None}, "vote": {"vote-9": parts_of(1, 1)["vote"]["vote-0"]}})
    assert (list(state.nodes), len(state.votes)) == ([OWN], 4)
    assert node_id(1) not in state.told["node"]
    state = after(state, "snapshot", {"node": {OWN: node_entry(0, [])}, "later": {"": {}}})
    assert (list(state.nodes), state.votes, state.view, state.requests) == ([OWN], {}, None, {})
    assert after(SwarmState(), "changes", {"node": "nonsense", "request": {}}).requests == {}


@pytest.mark.parametrize(
    ("entry", "settled"), [({}, True), ({"source": "unknown"}, False), ({"source": "unknown", "state": "absent"}, True)]
)
def test_a_swarm_is_settled_once_each_node_has_told(entry: dict[str, Any], settled: bool) -> None:
    assert changed("node", node_id(2), **entry).is_settled is settled
    assert not SwarmState().is_settled


@pytest.mark.parametrize(
    ("wanted", "rows", "given"),
    [
        ([(3, 2), (5, 2)], 20, [3, 5]),
        ([(3, 2), (5, 2)], 7, [3, 2]),
        ([(9, 2), (9, 2)], 10, [4, 4]),
        ([(9, 4), (9, 2)], 4, [3, 0]),
        ([(9, 4), (9, 2)], 0, [0, 0]),
        ([(0, 0), (2, 2)], 9, [0, 2]),
        ([], 9, []),
    ],
)
def test_rows_are_allotted(wanted: list[tuple[int, int]], rows: int, given: list[int]) -> None:
    assert allotted(wanted, rows) == given


def test_columns_that_fit() -> None:
    columns = [Column[str](title, 10, rank, lambda _: None, most=15) for title, rank in (("a", 0), ("b", 2), ("c", 1))]  # pyright: ignore[reportArgumentType] - no cell is made
    assert [(column.title, column.width) for column in fitting(columns, 10 + GAP + 10 + 3)] == [("a", 13), ("c", 10)]
    assert [column.title for column in fitting(columns, 3)] == ["a"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0M"), (300 << 20, "300M"), (1 << 30, "1G"), (3 << 29, "1.5G"), (24 << 30, "24G"), (2 << 40, "2T")],
)
def test_short_sizes(size: int, text: str) -> None:
    assert short(size) == text


@pytest.mark.parametrize(
    ("weights", "rest", "got"), [(0, 0, (0, 0)), (1, 1, (1, 1)), (50, 25, (5, 2)), (99, 99, (10, 0)), (200, 0, (10, 0))]
)
def test_shares_of_a_bar(weights: int, rest: int, got: tuple[int, int]) -> None:
    assert shares(weights, rest, 100, 10) == got


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"", []),
        (b"sq", [b"s", b"q"]),
        (b"\x1b[Bq", [b"\x1b[B", b"q"]),
        (b"\x1b[6~\x1bOA", [b"\x1b[6~", b"\x1bOA"]),
        (b"\x1b", [b"\x1b"]),
        (b"\x1b[", [b"\x1b["]),
    ],
)
def test_keys_are_told_apart(typed: bytes, keys: list[bytes]) -> None:
    assert list(split_keys(typed)) == keys


def test_what_keys_do() -> None:
    shown = Shown()
    orders = [(shown := after_key(shown, b"s", 10)).order for _ in range(3)]
    assert orders == ["state", "speed", "name"]
    assert after_key(shown, b"m", 10) == Shown(models=True)
    walked = Shown(models=True)
    for key in (b" ", b"j", b"\x1b[B", b"k", b"\x1b[A", b"?"):
        walked = after_key(walked, key, 10)
    assert walked.first_model == 10
    assert after_key(walked, b"b", 11).first_model == after_key(walked, b"g", 10).first_model == 0
