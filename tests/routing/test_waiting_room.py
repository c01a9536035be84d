"""Who waits for this node's workers is called out once a peer is idle: the oldest first, one for each idle slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from swarm.routing.replicas import Replica
from swarm.routing.waiting_room import MOST_AT_A_LOOK, SoonerElsewhere, WaitingRoom
from tests.doubles.replicas import replica
from tests.doubles.waiting import eventually

LOOK_S = 0.002


@dataclass
class Waiting:
    """Requests in a room, by number, and what they are told when they ask for an idle peer."""

    peer: Replica | None = None
    idle: bool = True
    looks: list[int] = field(default_factory=list[int])
    ahead: dict[int, int] = field(default_factory=dict[int, int])
    called_out: list[int] = field(default_factory=list[int])
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.room = WaitingRoom(lambda: self.idle, LOOK_S)

    def elsewhere(self, number: int, ahead: int) -> Replica | None:
        self.looks.append(number)
        self.ahead[number] = ahead
        return self.peer

    async def wait(self, number: int, choices: int = 1, model: str = "m") -> None:
        try:
            async with self.room.waits(model, choices, lambda ahead: self.elsewhere(number, ahead)):
                await self.released.wait()
        except SoonerElsewhere as sooner:
            self.called_out.append(number)
            left = (self.peer or sooner.peer).slots_free - choices
            self.peer = replace(sooner.peer, slots_free=left)  # it is being asked

    def start(self, *choices: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.wait(number, count)) for number, count in enumerate(choices)]

    async def looked(self, times: int) -> None:
        seen = len(self.looks)
        await eventually(lambda: len(self.looks) >= seen + times)


@pytest.fixture
def waiting() -> Waiting:
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


async def test_a_look_at_a_thousand_is_one_at_a_few_and_each_gets_its_turn(waiting: Waiting) -> None:
    tasks = waiting.start(*[1] * 1000)
    await waiting.looked(3 * MOST_AT_A_LOOK)
    assert waiting.looks[: 3 * MOST_AT_A_LOOK] == [*range(3 * MOST_AT_A_LOOK)]
    await waiting.looked(1000)
    assert set(waiting.looks) == {*range(1000)}
    assert waiting.ahead == {number: number for number in range(1000)}
    waiting.released.set()
    await asyncio.gather(*tasks)


async def test_only_requests_for_the_same_model_are_ahead(waiting: Waiting) -> None:
    tasks = [asyncio.create_task(waiting.wait(number, model="mn"[number % 2])) for number in range(5)]
    await waiting.looked(5)
    assert waiting.ahead == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2}
    waiting.released.set()
    await asyncio.gather(*tasks)


async def test_nobody_is_looked_at_while_no_peer_is_idle(waiting: Waiting) -> None:
    waiting.idle = False
    tasks, other = waiting.start(1), Waiting()
    others = other.start(1)
    await other.looked(10)
    assert waiting.looks == []
    waiting.idle = True
    await waiting.looked(1)
    for room in (waiting, other):
        room.released.set()
    await asyncio.gather(*tasks, *others)


async def test_a_loop_that_stood_still_neither_ends_the_looks_nor_calls_anybody_twice(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look and the timeout of whoever was called out then come in one turn of the loop."""
    tasks = waiting.start(1, 1)
    waiting.peer = replica("attic", slots=4, free=1)
    await waiting.looked(2)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 3 * LOOK_S)
    await eventually(lambda: waiting.called_out == [0])
    await waiting.looked(5)
    waiting.peer = replica("attic", slots=4, free=1)
    await asyncio.gather(*tasks)
    assert waiting.called_out == [0, 1]


@pytest.mark.parametrize("failure", [TimeoutError("its own"), RuntimeError("the engine broke")])
async def test_what_the_wait_itself_raises_is_passed_on(waiting: Waiting, failure: Exception) -> None:
    async def fails() -> None:
        raise failure

    with pytest.raises(type(failure)) as raised:
        await _within(waiting, fails)
    assert raised.value is failure


async def _within(waiting: Waiting, block: Callable[[], Awaitable[None]]) -> None:
    async with waiting.room.waits("m", 1, lambda _: None):
        await block()
