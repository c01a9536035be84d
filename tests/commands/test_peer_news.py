"""What a node's console says of its peers: changes each time, misunderstandings once for each node."""

from __future__ import annotations

from federation.hostport import Address
from federation.peer import AddressRejected, Change, Source, Why, why_of
from federation.peer_table import PeerTable
from swarm.engines.engine import Capabilities
from swarm.node.banner import MAX_SHOWN, PeerNews, tools_words
from tests.doubles.peer_tables import ATTIC, KITCHEN, KITCHEN_WIFI, answer, make_table, node

PAIRED = f"! {KITCHEN} belongs to a paired swarm: run `swarm invite` there, then `swarm join CODE` here"


class Heard:
    """The console of the node called here, and what was said there."""

    def __init__(self, is_open: bool = True) -> None:
        self.lines: list[str] = []
        self._news = PeerNews(self.lines.append, "here", lambda: is_open)

    def tell(self, *changes: Change) -> list[str]:
        """The lines that say `changes`."""
        before = len(self.lines)
        for change in changes:
            self._news.show(change)
        return self.lines[before:]


def met(table: PeerTable, address: Address, name: str, node_id: str, now: float = 0.0) -> tuple[Change, ...]:
    table.proposed(address, Source.MDNS, now)
    return answer(table, address, node(name, id=node_id), now)


def test_another_node_of_this_ones_name_is_named_once() -> None:
    table, heard = make_table(), Heard()
    assert heard.tell(*met(table, KITCHEN, "here", "cccc1")) == [
        f"+ peer here-cccc at {KITCHEN} (no model yet)",
        f"! another node is called here too ({KITCHEN}, shown as here-cccc): give one of them --name",
    ]
    gone = heard.tell(*table.goodbye("cccc1", 1.0))
    back = heard.tell(*answer(table, KITCHEN, node("here", id="cccc1"), 9.0))
    assert [line[0] for line in (*gone, *back)] == ["-", "+"]
    (_, again) = heard.tell(*met(table, ATTIC, "here", "dddd1", 9.0))
    assert "shown as here-dddd" in again


def test_a_peer_that_takes_this_nodes_name_is_named() -> None:
    table, heard = make_table(), Heard()
    assert len(heard.tell(*met(table, KITCHEN, "kitchen", "cccc1"))) == 1
    renamed = node("here", id="cccc1", instance="run-2")
    (line,) = heard.tell(*answer(table, KITCHEN, renamed, 1.0))
    assert line.startswith("! another node is called here too")


def test_two_others_of_one_name_are_their_own_business() -> None:
    table, heard = make_table(), Heard()
    lines = heard.tell(*met(table, KITCHEN, "kitchen", "aaaa1"), *met(table, ATTIC, "kitchen", "bbbb1"))
    assert [line[0] for line in lines] == ["+", "+"]


def refused(table: PeerTable, address: Address, source: Source, node_id: str | None) -> tuple[Change, ...]:
    """What a paired node's answers to an open one come to."""
    changes: tuple[Change, ...] = ()
    for now in (0.0, 10.0, 30.0):
        table.proposed(address, source, now, node_id)
        table.due_probes(now)
        changes += table.probe_failed(address, f"{address} answered 403: members only", False, now, Why.UNTRUSTED)
    return changes


def test_a_paired_node_beside_an_open_one_is_named_once_for_all_its_addresses() -> None:
    table, heard = make_table(), Heard()
    assert heard.tell(*refused(table, KITCHEN, Source.MDNS, "id-kitchen")) == [PAIRED]
    assert heard.tell(*refused(table, KITCHEN_WIFI, Source.MDNS, "id-kitchen")) == []
    (line,) = heard.tell(*refused(table, ATTIC, Source.STATIC, None))
    assert str(ATTIC) in line
    assert {rejected.why for rejected in table.rejected()} == {Why.UNTRUSTED}


def test_a_paired_node_says_of_strangers_only_what_somebody_asked_for() -> None:
    heard = Heard(is_open=False)
    near = AddressRejected(KITCHEN, Source.MDNS, f"{KITCHEN} is an open node", Why.UNTRUSTED)
    wanted = AddressRejected(ATTIC, Source.STATIC, f"{ATTIC} is an open node", Why.UNTRUSTED)
    assert heard.tell(near, wanted, wanted) == [f"! {ATTIC} is an open node"]


def test_a_copy_is_named_once_for_all_its_addresses() -> None:
    table, heard = make_table(), Heard()
    copy = node("attic", id="id-here", instance="run-of-the-copy")
    for address in (ATTIC, KITCHEN_WIFI):
        table.proposed(address, Source.EXCHANGE, 0.0)
        heard.tell(*answer(table, address, copy, 0.0))
    (line,) = heard.lines
    assert line.startswith(f"! {ATTIC} another node (attic) uses this node's id")


def test_what_was_said_once_is_remembered_within_bounds() -> None:
    heard = Heard()
    for number in range(2 * MAX_SHOWN):
        heard.tell(AddressRejected(KITCHEN, Source.MDNS, "", Why.UNTRUSTED, f"id-{number}"))
    (said_again,) = heard.tell(AddressRejected(KITCHEN, Source.MDNS, "", Why.UNTRUSTED, "id-0"))
    assert said_again == PAIRED
    assert heard.tell(AddressRejected(KITCHEN, Source.MDNS, "", Why.UNTRUSTED, f"id-{2 * MAX_SHOWN - 1}")) == []


def test_what_a_paired_node_answers_an_open_one_is_no_other_service() -> None:
    assert why_of("untrusted") is Why.UNTRUSTED
    assert why_of("status") is Why.NO_NODE


def test_a_model_that_knows_no_tools_is_told_of_where_it_writes() -> None:
    assert tools_words(Capabilities(tools=True)) is None
    assert tools_words(Capabilities(tools=False, generates=False)) is None
    assert "chat template knows none" in (tools_words(Capabilities(tools=False)) or "")
