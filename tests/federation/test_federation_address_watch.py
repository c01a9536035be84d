import asyncio
from collections.abc import Callable

import pytest

from federation.addresses import AddressWatch, AnnouncedAddresses, ClockReading, choose_addresses, has_slept
from federation.errors import AddressError
from federation.interfaces import Interface
from federation.tasks import cancel_and_wait
from tests.doubles.waiting import eventually


@pytest.mark.parametrize(
    ("before", "after", "slept"),
    [
        (ClockReading(100, 50), ClockReading(102, 52), False),
        (ClockReading(100, 50), ClockReading(110, 60), False),  # a busy machine
        (
            ClockReading(100, 50),
            ClockReading(4000, 52),
            True,
        ),  # the steady clock stands still during sleep, as on Linux
        (ClockReading(100, 50), ClockReading(4000, 3950), True),  # or goes on, as on Windows
        (ClockReading(100, 50), ClockReading(-5000, 52), False),  # the wall clock was set back
    ],
)
def test_sleep_shows_on_either_clock(before: ClockReading, after: ClockReading, slept: bool) -> None:
    assert has_slept(before, after) is slept


async def test_each_look_is_told_and_a_lost_address_changes_nothing() -> None:
    home = choose_addresses((Interface("eth0", ("10.0.0.1",)),))
    cafe = choose_addresses((Interface("eth0", ("10.9.9.9",)),))
    looks: list[AnnouncedAddresses | AddressError] = [home, AddressError("gone"), cafe]
    moments = iter([ClockReading(0, 0), ClockReading(1, 1), ClockReading(2, 2), ClockReading(900, 3)])
    seen: list[tuple[AnnouncedAddresses, bool]] = []
    last = ClockReading(901, 4)

    def choose() -> AnnouncedAddresses:
        look = looks.pop(0) if looks else cafe
        if isinstance(look, AddressError):
            raise look
        return look

    async def note(addresses: AnnouncedAddresses, slept: bool) -> None:
        seen.append((addresses, slept))

    now: Callable[[], ClockReading] = lambda: next(moments, last)  # noqa: E731
    running = asyncio.create_task(AddressWatch(choose, note, every_s=0.0, now=now).run())
    await eventually(lambda: len(seen) >= 3)
    await cancel_and_wait(running)
    assert seen[:3] == [(home, False), (cafe, True), (cafe, False)]


async def test_a_sleep_is_told_once_there_is_an_address_again() -> None:
    """After a nap the wireless network takes seconds to be back, and then perhaps with the address of before."""
    home = choose_addresses((Interface("wlan0", ("10.0.0.1",)),))
    looks = iter([home, None, None, home, home])
    moments = iter(
        [
            ClockReading(0, 0),
            ClockReading(1, 1),
            ClockReading(900, 2),
            ClockReading(901, 3),
            ClockReading(902, 4),
            ClockReading(903, 5),
        ]
    )
    seen: list[bool] = []

    def choose() -> AnnouncedAddresses:
        look = next(looks, home)
        if look is None:
            raise AddressError("gone")
        return look

    async def note(_: AnnouncedAddresses, slept: bool) -> None:
        seen.append(slept)

    watch = AddressWatch(choose, note, every_s=0.0, now=lambda: next(moments, ClockReading(904, 6)))
    running = asyncio.create_task(watch.run())
    await eventually(lambda: len(seen) >= 3)
    await cancel_and_wait(running)
    assert seen[:3] == [False, True, False]
