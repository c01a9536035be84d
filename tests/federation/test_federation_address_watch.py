import asyncio
from collections.abc import Callable

import pytest

from federation.addresses import AddressWatch, AnnouncedAddresses, Moment, choose_addresses, has_slept
from federation.errors import AddressError
from federation.interfaces import Interface
from federation.tasks import cancel_and_wait
from tests.doubles.waiting import eventually


@pytest.mark.parametrize(
    ("before", "after", "slept"),
    [
        (Moment(100, 50), Moment(102, 52), False),
        (Moment(100, 50), Moment(110, 60), False),  # a busy machine
        (Moment(100, 50), Moment(4000, 52), True),  # the steady clock stands still during sleep, as on Linux
        (Moment(100, 50), Moment(4000, 3950), True),  # or goes on, as on Windows
        (Moment(100, 50), Moment(-5000, 52), False),  # the wall clock was set back
    ],
)
def test_sleep_shows_on_either_clock(before: Moment, after: Moment, slept: bool) -> None:
    assert has_slept(before, after) is slept


async def test_each_look_is_told_and_a_lost_address_changes_nothing() -> None:
    home = choose_addresses((Interface("eth0", ("10.0.0.1",)),))
    cafe = choose_addresses((Interface("eth0", ("10.9.9.9",)),))
    looks: list[AnnouncedAddresses | AddressError] = [home, AddressError("gone"), cafe]
    moments = iter([Moment(0, 0), Moment(1, 1), Moment(2, 2), Moment(900, 3)])
    seen: list[tuple[AnnouncedAddresses, bool]] = []
    last = Moment(901, 4)

    def choose() -> AnnouncedAddresses:
        look = looks.pop(0) if looks else cafe
        if isinstance(look, AddressError):
            raise look
        return look

    async def note(addresses: AnnouncedAddresses, slept: bool) -> None:
        seen.append((addresses, slept))

    now: Callable[[], Moment] = lambda: next(moments, last)  # noqa: E731
    running = asyncio.create_task(AddressWatch(choose, note, every_s=0.0, now=now).run())
    await eventually(lambda: len(seen) >= 3)
    await cancel_and_wait(running)
    assert seen[:3] == [(home, False), (cafe, True), (cafe, False)]


async def test_a_sleep_is_told_once_there_is_an_address_again() -> None:
    """After a nap the wireless network takes seconds to be back, and then perhaps with the address of before."""
    home = choose_addresses((Interface("wlan0", ("10.0.0.1",)),))
    looks = iter([home, None, None, home, home])
    moments = iter([Moment(0, 0), Moment(1, 1), Moment(900, 2), Moment(901, 3), Moment(902, 4), Moment(903, 5)])
    seen: list[bool] = []

    def choose() -> AnnouncedAddresses:
        look = next(looks, home)
        if look is None:
            raise AddressError("gone")
        return look

    async def note(_: AnnouncedAddresses, slept: bool) -> None:
        seen.append(slept)

    watch = AddressWatch(choose, note, every_s=0.0, now=lambda: next(moments, Moment(904, 6)))
    running = asyncio.create_task(watch.run())
    await eventually(lambda: len(seen) >= 3)
    await cancel_and_wait(running)
    assert seen[:3] == [False, True, False]
