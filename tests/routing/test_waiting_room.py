"""Who waits for this node's workers is called out once a peer is idle: the oldest first, one for each idle slot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from swarm.routing import waiting_room
from swarm.routing.replicas import Replica
from swarm.routing.waiting_room import MOST_AT_A_LOOK, SoonerElsewhere, WaitingRoom
from tests.doubles.replicas import replica
from tests.doubles.waiting import eventually

LOOK_S = 0.002


@dataclass
class Waiting:
    """Requests in a room, by number, and what they are told when they ask for an idle peer."""

    room: WaitingRoom = field(default_factory=WaitingRoom)
    peer: Replica | None = None
    looks: list[int] = field(default_factory=list[int])
    called_out: list[int] = field(default_factory=list[int])
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def elsewhere(self, number: int) -> Replica | None:
        self.looks.append(number)
        return self.peer

    async def wait(self, number: int, choices: int = 1) -> None:
        try:
            async with self.room.waits(choices, lambda: self.elsewhere(number)):
                await self.released.wait()
        except SoonerElsewhere:
            self.called_out.append(number)
            assert self.peer is not None
            self.peer = replace(self.peer, slots_free=self.peer.slots_free - choices)  # it is being asked

    def start(self, *choices: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.wait(number, count)) for number, count in enumerate(choices)]

    async def looked(self, times: int) -> None:
        seen = len(self.looks)
        await eventually(lambda: len(self.looks) >= seen + times)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(waiting_room, "LOOK_S", LOOK_S)
    return Waiting()


async def test_the_oldest_leave_one_for_each_idle_slot(waiting: Waiting) -> None:
    tasks = waiting.start(1, 1, 1)
    await waiting.looked(9)
    assert waiting.called_out == [], "no peer is idle"
    waiting.peer = replica("attic", slots=4, free=2)
    await eventually(lambda: len(waiting.called_out) == 2)
    await waiting.looked(3)
    assert waiting.called_out == [0, 1]
    waiting.released.set()
    await asyncio.gather(*tasks)
    assert waiting.called_out == [0, 1]


async def test_who_needs_more_slots_lets_others_go_first(waiting: Waiting) -> None:
    tasks = waiting.start(3, 1)
    waiting.peer = replica("attic", slots=4, free=2)
    await eventually(lambda: waiting.called_out == [1])
    waiting.peer = replica("attic", slots=4, free=3)
    await asyncio.gather(*tasks)
    assert waiting.called_out == [1, 0]


async def test_nobody_looks_once_the_room_is_empty(waiting: Waiting) -> None:
    tasks = waiting.start(1, 1)
    await waiting.looked(2)
    waiting.released.set()
    await asyncio.gather(*tasks)
    seen, other = len(waiting.looks), Waiting()
    others = other.start(1)
    await other.looked(10)
    assert len(waiting.looks) == seen
    other.released.set()
    waiting.released.clear()
    again = waiting.start(1)
    await waiting.looked(2)
    waiting.released.set()
    await asyncio.gather(*again, *others)


async def test_a_look_at_a_thousand_that_wait_is_one_at_a_few(waiting: Waiting) -> None:
    tasks = waiting.start(*[1] * 1000)
    await waiting.looked(10 * MOST_AT_A_LOOK)
    assert set(waiting.looks) == set(range(MOST_AT_A_LOOK))
    waiting.released.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("failure", [TimeoutError("its own"), RuntimeError("the engine broke")])
async def test_what_the_wait_itself_raises_is_passed_on(waiting: Waiting, failure: Exception) -> None:
    async def fails() -> None:
        raise failure

    with pytest.raises(type(failure)) as raised:
        await _within(waiting, fails)
    assert raised.value is failure


async def _within(waiting: Waiting, block: Callable[[], Awaitable[None]]) -> None:
    async with waiting.room.waits(1, lambda: None):
        await block()
