"""Host names as sources, with look-ups that a test answers itself, and one by the system."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from federation.dns_source import MAX_ADDRESSES_PER_NAME, DnsSource, LookupTiming, candidates, system_lookup
from federation.hostport import Address
from federation.tasks import cancel_and_wait
from tests.doubles.waiting import eventually

AT_ONCE = LookupTiming(refresh_s=0.01, retry_s=0.01, retry_cap_s=0.01)
NAME = Address("swarm.example", 17615)


class Directory:
    """A name service that says what the test wants."""

    def __init__(self) -> None:
        self.answers: list[str] | OSError = []
        self.asked = 0

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answers, OSError):
            raise self.answers
        return self.answers


def test_every_record_is_a_candidate_once_with_the_names_port() -> None:
    found = candidates(NAME, ["10.0.0.1", "fd00::1", "10.0.0.1", "0.0.0.0", "::"])
    assert found == (Address("10.0.0.1", 17615), Address("fd00::1", 17615))


def test_a_name_with_more_addresses_than_can_be_tried_is_cut_short() -> None:
    assert len(candidates(NAME, (f"10.0.{n // 250}.{n % 250}" for n in range(1000)))) == MAX_ADDRESSES_PER_NAME


@pytest.mark.parametrize(("failures", "wait_s"), [(0, 15.0), (1, 2.0), (2, 4.0), (4, 16.0), (5, 30.0), (999, 30.0)])
def test_failed_look_ups_are_repeated_ever_more_slowly(failures: int, wait_s: float) -> None:
    assert LookupTiming().next_s(failures) == wait_s


async def test_names_are_looked_up_again_and_trouble_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    directory, proposed = Directory(), list[Address]()
    source = DnsSource(proposed.append, directory, AT_ONCE)
    running = asyncio.create_task(source.run())
    try:
        directory.answers = OSError(-2, "Name or service not known")
        source.add(NAME)
        await eventually(lambda: directory.asked >= 3)
        assert source.view()[0].problem == "Name or service not known"
        directory.answers = ["10.0.0.1", "10.0.0.2"]
        await eventually(lambda: len(proposed) >= 4)
        assert set(proposed) == {Address("10.0.0.1", 17615), Address("10.0.0.2", 17615)}
        assert source.view()[0].problem is None
        directory.answers = []
        await eventually(lambda: source.view()[0].problem is not None)
        assert source.view()[0].addresses, "what it stood for last is still shown"
        source.remove(NAME)
        assert source.names == ()
    finally:
        await cancel_and_wait(running)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "no peer at swarm.example:17615 (static): cannot look up swarm.example: Name or service not known",
        "no peer at swarm.example:17615 (static): cannot look up swarm.example: it stands for no usable address",
    ]


async def test_the_system_knows_this_machine() -> None:
    assert {"127.0.0.1", "::1"} & set(await system_lookup("localhost"))
    with pytest.raises(socket.gaierror):
        await system_lookup("nobody.invalid")
