"""Whatever happens in whatever order: legal transitions, honest change reports, bounds, and recovery."""

from __future__ import annotations

from functools import cache

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from federation.advertisement import NodeDescription
from federation.hostport import Address
from federation.peer import AddressRejected, PeerChanged, PeerJoined, PeerLeft, PeerState, Source
from federation.peer_table import Changes
from federation.probing import News, NewsKind, ProbeAnswer
from federation.timing import MAX_PROBES_AT_ONCE, TableBounds
from tests.doubles.peer_tables import OpenTable

BOUNDS = TableBounds(
    peers=4, static=3, unproven=3, addresses_per_peer=2, peers_per_address=2, unproven_per_address=2
)  # small: reached in a few steps
MAX_CONTACTS = BOUNDS.static + BOUNDS.unproven + BOUNDS.peers * BOUNDS.addresses_per_peer
IDS = [f"n{number}" for number in range(7)]
SELF_ID = IDS[0]

addresses = st.sampled_from([Address(f"10.0.0.{number // 2}", 1 + number % 2) for number in range(10)])
node_ids = st.sampled_from(IDS)
ILLEGAL = {(PeerState.DEAD, PeerState.SUSPECT)}


class AnyHistory(RuleBasedStateMachine):
    @initialize(seed=st.randoms(use_true_random=False))
    def begin(self, seed: object) -> None:
        self.now = 100.0
        self.table = OpenTable(SELF_ID, self_name="name", self_instance="run-1", random=seed.random, bounds=BOUNDS)
        self.in_flight: list[Address] = []
        self.members: set[str] = set()
        self.before: dict[str, PeerState] = {}

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.recover()

    def note(self, changes: Changes) -> None:
        """Replay the reports: they alone must give the routable set."""
        for change in changes:
            match change:
                case PeerJoined(peer, _):
                    assert peer.id not in self.members
                    assert peer.state is PeerState.ALIVE
                    self.members.add(peer.id)
                case PeerLeft(peer, reason):
                    assert peer.id in self.members
                    assert reason
                    self.members.remove(peer.id)
                case PeerChanged(peer, was, reason):
                    assert peer.id in self.members
                    assert (was, reason) != (peer.state, "")
                case AddressRejected(_, _, reason):
                    assert reason

    @rule(address=addresses, source=st.sampled_from(Source))
    def propose(self, address: Address, source: Source) -> None:
        self.note(self.table.proposed(address, source, self.now))

    @rule()
    def probe(self) -> None:
        due = self.table.due_probes(self.now)
        assert set(due) <= set(self.table.addresses())
        routes = {peer.address for peer in self.table.alive()}
        assert set(due) & set(self.in_flight) <= routes, "beside a late probe only on the address in use"
        self.in_flight += due
        assert all(self.in_flight.count(address) <= MAX_PROBES_AT_ONCE for address in due)

    @precondition(lambda self: self.in_flight)
    @rule(
        data=st.data(),
        node_id=node_ids,
        run=st.sampled_from(["run-1", "run-2"]),
        draining=st.booleans(),
        rtt=st.floats(0, 99),
    )
    def answered(self, data: st.DataObject, node_id: str, run: str, draining: bool, rtt: float) -> None:
        address = data.draw(st.sampled_from(sorted(set(self.in_flight))))
        self.in_flight = [held for held in self.in_flight if held != address]
        self.note(self.table.probe_answered(address, ProbeAnswer(describe(node_id, run, draining)), rtt, self.now))

    @rule(address=addresses, node_id=node_ids)
    def answered_late(self, address: Address, node_id: str) -> None:
        """The address was forgotten, and perhaps proposed again, while its probe ran."""
        if address not in self.in_flight:
            self.note(self.table.probe_answered(address, ProbeAnswer(describe(node_id, "run-1", False)), 1.0, self.now))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), refused=st.booleans(), reason=st.sampled_from(["timed out", "rubbish"]))
    def failed(self, data: st.DataObject, refused: bool, reason: str) -> None:
        address = data.draw(st.sampled_from(sorted(set(self.in_flight))))
        self.in_flight.remove(address)
        self.note(self.table.probe_failed(address, reason, refused, self.now))

    @rule(node_id=node_ids, event=st.sampled_from(["traffic_ok", "traffic_failed", "goodbye", "doubted"]))
    def heard(self, node_id: str, event: str) -> None:
        self.note(getattr(self.table, event)(node_id, self.now))

    @rule(node_id=node_ids)
    def expelled(self, node_id: str) -> None:
        self.note(self.table.expelled(node_id, "was revoked", self.now))

    @rule(address=addresses)
    def withdrawn(self, address: Address) -> None:
        self.note(self.table.withdrawn(address))

    @rule(node_id=node_ids, what=st.sampled_from(NewsKind), address=addresses, informant=node_ids)
    def told(self, node_id: str, what: NewsKind, address: Address, informant: str) -> None:
        news = News(id=node_id, what=what, host=address.host, port=address.port)
        self.note(self.table.news_received([news], informant, self.now))
        self.note(self.table.called(informant, self.now))

    @rule()
    def woke(self) -> None:
        self.note(self.table.woke(self.now))

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.1, 3.0, 20.0, 130.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.table.tick(self.now))

    @invariant()
    def the_table_is_valid(self) -> None:
        self.table.validate()

    @invariant()
    def forgotten_addresses_are_no_longer_being_probed(self) -> None:
        held = self.table.addresses()
        self.in_flight = [address for address in self.in_flight if address in held]
        if self.table.next_due() is None:
            assert set(self.in_flight) == set(held)

    @invariant()
    def routing_sees_exactly_the_members_and_no_dead_ones(self) -> None:
        alive = self.table.alive()
        assert {peer.id for peer in alive} == self.members
        assert len(alive) == len(self.members)
        assert all(peer.state is not PeerState.DEAD for peer in alive)
        ranks = [peer.state is PeerState.SUSPECT for peer in alive]
        assert ranks == sorted(ranks)
        assert {hint.id for hint in self.table.hints()} == {peer.id for peer in alive if peer.state is PeerState.ALIVE}

    @invariant()
    def transitions_are_legal(self) -> None:
        after = {peer.id: peer.state for peer in self.table.peers()}
        assert not ILLEGAL & {
            (self.before[node_id], state) for node_id, state in after.items() if node_id in self.before
        }
        assert all(state is PeerState.ALIVE for node_id, state in after.items() if node_id not in self.before)
        self.before = after

    @invariant()
    def bounds_and_ownership_hold(self) -> None:
        peers = self.table.peers()
        held = self.table.addresses()
        owned = [address for peer in peers for address in peer.addresses]
        assert len(peers) <= BOUNDS.peers
        assert len(held) <= MAX_CONTACTS
        assert len(owned) == len(set(owned)), "one address, one node"
        assert set(owned) <= set(held)
        assert SELF_ID not in {peer.id for peer in peers}
        assert len({peer.label for peer in peers}) == len(peers)
        for peer in peers:
            assert peer.address in peer.addresses
            assert len(peer.addresses) <= BOUNDS.addresses_per_peer

    def recover(self) -> None:
        """Every address now leads to its own healthy node: within two minutes all that is held is a member."""
        home = {address: IDS[1 + number % 6] for number, address in enumerate(sorted(self.table.addresses()))}
        end = self.now + 120.0
        while self.now < end:
            for address in {*self.in_flight, *self.table.due_probes(self.now)}:
                self.note(
                    self.table.probe_answered(
                        address, ProbeAnswer(describe(home[address], "run-3", False)), 1.0, self.now
                    )
                )
            self.in_flight.clear()
            self.now += 0.5
        wanted = {node_id for address, node_id in home.items() if address in self.table.addresses()}
        assert len(self.members) == min(len(wanted), BOUNDS.peers)
        self.routing_sees_exactly_the_members_and_no_dead_ones()


@cache
def describe(node_id: str, run: str, draining: bool) -> NodeDescription:
    return NodeDescription(id=node_id, name="name", version="0", url="http://x:1", instance=run, draining=draining)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
