"""The slot table, as tables of cases and as any sequence of asking and giving back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swarm.workers.slots import SlotTable, Ticket, Worker

MAX_WAITING = 3


def table(slots: int, max_waiting: int = MAX_WAITING) -> SlotTable:
    return SlotTable(tuple(Worker(f"w{slot}", slot) for slot in range(slots)), max_waiting)


def asked(slots: SlotTable, count: int) -> Ticket:
    ticket = slots.ask(count)
    assert ticket is not None
    return ticket


def test_free_workers_are_granted_at_once_lowest_slot_first() -> None:
    slots = table(3)
    ticket = asked(slots, 2)
    assert slots.grants() == [ticket]
    assert [worker.slot for worker in ticket.granted] == [0, 1]
    assert slots.idle == 1


def test_more_than_there_are_means_all() -> None:
    slots = table(2)
    ticket = asked(slots, 9)
    slots.grants()
    assert len(ticket.granted) == 2


def test_nobody_overtakes() -> None:
    slots = table(2)
    holding, large, small = asked(slots, 1), asked(slots, 2), asked(slots, 1)
    assert slots.grants() == [holding]
    assert slots.idle == 0, "a newcomer would wait, though a worker is free"
    slots.give_back(holding)
    assert slots.grants() == [large]
    slots.give_back(large)
    assert slots.grants() == [small]


def test_a_full_queue_refuses_only_those_who_would_wait() -> None:
    slots = table(2, max_waiting=0)
    first = asked(slots, 1)
    slots.grants()
    assert slots.ask(2) is None
    second = asked(slots, 1)
    assert slots.grants() == [second]
    assert slots.ask(1) is None
    slots.give_back(first)
    assert slots.ask(1) is not None


def test_leaving_the_queue_lets_the_next_one_through() -> None:
    slots = table(2)
    holding, large, small = asked(slots, 1), asked(slots, 2), asked(slots, 1)
    assert slots.grants() == [holding]
    slots.give_back(large)
    assert slots.grants() == [small]
    assert slots.waiting == 0


def test_giving_back_twice_frees_a_worker_once() -> None:
    slots = table(1)
    ticket = asked(slots, 1)
    slots.grants()
    slots.give_back(ticket)
    slots.give_back(ticket)
    assert slots.idle == 1


def test_who_gives_way_takes_what_is_idle_and_never_waits() -> None:
    slots = table(4)
    asked(slots, 1)
    slots.grants()
    slots.ask(9, gives_way=True)
    assert [len(ticket.granted) for ticket in slots.grants()] == [3]
    assert slots.ask(1, gives_way=True) is None
    assert (slots.idle, slots.obtainable) == (0, 3)


def test_who_gives_way_is_called_back_once_when_somebody_waits_and_the_youngest_first() -> None:
    slots = table(4)
    asked(slots, 1)
    slots.grants()
    slots.ask(1, gives_way=True)
    (old,) = slots.grants()
    slots.ask(2, gives_way=True)
    (young,) = slots.grants()
    assert slots.call_back() == [], "nobody waits"
    waiting = asked(slots, 1)
    assert slots.call_back() == [young]
    assert slots.call_back() == [], "workers enough are on their way"
    asked(slots, 2)
    assert slots.call_back() == [old]
    slots.give_back(young)
    assert slots.grants() == [waiting]


def test_no_queue_refuses_nobody_for_workers_that_others_give_way_with() -> None:
    slots = table(2, max_waiting=0)
    assert slots.ask(2, gives_way=True) is not None
    slots.grants()
    asked(slots, 1)
    asked(slots, 1)
    assert slots.ask(1) is None


class AnySequence(RuleBasedStateMachine):
    """Against the plainest model: a list of who waits, in order, and a set of who holds what."""

    SLOTS = 4

    def __init__(self) -> None:
        super().__init__()
        self.slots = table(self.SLOTS)
        self.waiting: list[Ticket] = []
        self.holding: list[Ticket] = []

    def settle(self) -> None:
        granted = self.slots.grants()
        assert granted == self.waiting[: len(granted)], "in order of arrival"
        assert all(len(ticket.granted) == ticket.count for ticket in granted)
        del self.waiting[: len(granted)]
        self.holding += granted
        assert all(ticket.gives_way for ticket in self.slots.call_back())

    @property
    def free(self) -> int:
        return self.SLOTS - sum(ticket.count for ticket in self.holding)

    @rule(count=st.integers(1, SLOTS + 2))
    def ask(self, count: int) -> None:
        count_here = min(count, self.SLOTS)
        at_once = not self.waiting and count_here <= self.free
        lacking = count_here + sum(ticket.count for ticket in self.waiting) - self.free
        soon = lacking <= sum(ticket.count for ticket in self.holding if ticket.gives_way)
        ticket = self.slots.ask(count)
        assert (ticket is None) == (not at_once and not soon and len(self.waiting) >= MAX_WAITING)
        if ticket is not None:
            self.waiting.append(ticket)
            self.settle()
            assert (ticket in self.holding) == at_once

    @rule(count=st.integers(1, SLOTS + 2))
    def take_what_is_idle(self, count: int) -> None:
        idle = 0 if self.waiting else self.free
        ticket = self.slots.ask(count, gives_way=True)
        assert (0 if ticket is None else ticket.count) == min(count, idle)
        if ticket is not None:
            self.waiting.append(ticket)
            self.settle()
            assert ticket in self.holding

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.slots.give_back(self.holding.pop(data.draw(st.integers(0, len(self.holding) - 1))))
        self.settle()

    @precondition(lambda self: any(ticket.called_back for ticket in self.holding))
    @rule()
    def give_way(self) -> None:
        called = next(ticket for ticket in self.holding if ticket.called_back)
        self.holding.remove(called)
        self.slots.give_back(called)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.slots.give_back(self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))))
        self.settle()

    @invariant()
    def no_worker_is_held_twice_and_none_is_lost(self) -> None:
        held = [worker for ticket in self.holding for worker in ticket.granted]
        assert len(held) == len(set(held))
        assert self.slots.waiting == len(self.waiting)
        assert self.slots.idle == (0 if self.waiting else self.SLOTS - len(held))

    @invariant()
    def nobody_waits_who_could_be_served(self) -> None:
        if self.waiting:
            assert self.waiting[0].count > self.free

    @invariant()
    def as_many_are_called_back_as_who_waits_needs(self) -> None:
        coming = sum(ticket.count for ticket in self.holding if ticket.called_back)
        lacking = sum(ticket.count for ticket in self.waiting) - self.free - coming
        assert lacking <= 0 or all(ticket.called_back for ticket in self.holding if ticket.gives_way)

    def teardown(self) -> None:
        while self.holding:
            self.slots.give_back(self.holding.pop())
            self.settle()
        assert not self.waiting, "everybody is served in the end"
        assert self.slots.idle == self.SLOTS


TestAnySequence = AnySequence.TestCase


@given(slots=st.integers(1, 6), counts=st.lists(st.integers(1, 8), max_size=12))
def test_everybody_is_served_once_in_order_when_each_gives_back(slots: int, counts: list[int]) -> None:
    queue = table(slots, max_waiting=len(counts))
    tickets = [asked(queue, count) for count in counts]
    order: list[Ticket] = []
    while granted := queue.grants():
        order += granted
        queue.give_back(granted[0])
        for ticket in granted[1:]:
            queue.give_back(ticket)
    assert order == tickets
