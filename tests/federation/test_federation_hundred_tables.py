"""A hundred peer tables on one clock: what each asks while nothing happens, and how soon all agree on a change."""

from __future__ import annotations

import heapq
import random
from itertools import count

import pytest

from federation.advertisement import NodeDescription
from federation.hostport import Address
from federation.peer import Source
from federation.peer_table import PeerTable
from federation.probing import ProbeAnswer, ProbeQuestion
from federation.timing import PROBES_PER_S

NODES = 100
STEP_S = 0.1  # the simulation's resolution: every time here is up to this much too long
AGREE_S = 10.0  # the promise


class Crowd:
    """All know all from the start; `frozen` nodes swallow what they are asked, `killed` ones refuse it."""

    def __init__(self) -> None:
        dice = random.Random(7)
        self.now = 0.0
        self.tables: dict[Address, PeerTable] = {}
        self.frozen: set[Address] = set()
        self.killed: set[Address] = set()
        self.probes = 0
        self._numbers = count()
        self._timeouts: list[tuple[float, int, Address, Address]] = []
        self._seed = dice.random
        for _ in range(NODES):
            self.add()
        for one, table in self.tables.items():
            for other in self.tables:
                if other != one:
                    table.proposed(other, Source.MDNS, 0.0)

    def add(self) -> Address:
        address = Address(f"10.0.0.{len(self.tables) + 1}", 1)
        self.tables[address] = PeerTable(f"id-{len(self.tables) + 1}", random=self._seed)
        return address

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.step()
        self.validate()

    def validate(self) -> None:
        for table in self.tables.values():
            table.validate()

    def step(self) -> None:
        self.now += STEP_S
        while self._timeouts and self._timeouts[0][0] <= self.now:
            _, _, asker, asked = heapq.heappop(self._timeouts)
            self.tables[asker].probe_failed(asked, "silent", False, self.now)
        for address, table in self.tables.items():
            if address in self.killed | self.frozen:
                continue
            table.tick(self.now)
            for asked in table.due_probes(self.now):
                self._ask(address, table, asked, table.question(asked, self.now))

    def _ask(self, asker: Address, table: PeerTable, asked: Address, question: ProbeQuestion) -> None:
        self.probes += 1
        if asked in self.killed:
            table.probe_failed(asked, "refused", True, self.now)
        elif asked in self.frozen:
            heapq.heappush(self._timeouts, (self.now + question.timeout_s, next(self._numbers), asker, asked))
        else:
            asker_id, other = self.name(asker), self.tables[asked]
            other.called(asker_id, self.now)
            other.news_received(question.news, asker_id, self.now)
            other.proposed(asker, Source.EXCHANGE, self.now)
            answer = ProbeAnswer(
                NodeDescription(id=self.name(asked), name="x", version="0", url="http://x:1"),
                view="",
                sight=other.sight_of(asker_id),
                news=other.news(self.now, asker_id),
            )
            table.probe_answered(asked, answer, 1.0, self.now)
            table.news_received(answer.news, self.name(asked), self.now)

    def name(self, address: Address) -> str:
        return f"id-{address.host.rpartition('.')[2]}"

    def agreed_after(self, address: Address, here: bool) -> float:
        """Seconds until every other running node finds it here, or does not."""
        began = self.now
        others = [table for at, table in self.tables.items() if at not in self.killed | self.frozen | {address}]
        while any((address in {peer.address for peer in table.alive()}) is not here for table in others):
            assert self.now - began < 3 * AGREE_S
            self.step()
        self.validate()
        return self.now - began


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    made = Crowd()
    made.run(15.0)
    return made


def test_each_asks_few_others_while_nothing_happens(crowd: Crowd) -> None:
    before = crowd.probes
    crowd.run(10.0)
    assert (crowd.probes - before) / 10.0 / NODES <= 1.25 * PROBES_PER_S
    assert all(len(table.alive()) == NODES - 1 for table in crowd.tables.values())


def test_all_agree_on_a_killed_a_frozen_and_a_new_node(crowd: Crowd) -> None:
    addresses = list(crowd.tables)
    crowd.killed.add(addresses[40])
    killed_s = crowd.agreed_after(addresses[40], here=False)
    crowd.frozen.add(addresses[60])
    frozen_s = crowd.agreed_after(addresses[60], here=False)
    newcomer = crowd.add()
    crowd.tables[newcomer].proposed(addresses[3], Source.STATIC, crowd.now)
    joined_s = crowd.agreed_after(newcomer, here=True)
    assert max(killed_s, frozen_s, joined_s) <= AGREE_S
