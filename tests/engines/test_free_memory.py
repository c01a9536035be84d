"""What was freed goes back to the system where that is worth what it costs everybody who wants memory meanwhile."""

from __future__ import annotations

import mmap
import sys

import pytest

from swarm.engines.free_memory import WORTH_BYTES, Trimmer, held_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("held", "trims"),
    [
        ([50 * MIB], 1),  # the first time, whatever it has
        ([50 * MIB, 50 * MIB, 51 * MIB], 1),  # requests that leave nothing behind
        ([50 * MIB, 50 * MIB + WORTH_BYTES], 2),
        ([50 * MIB, 52 * MIB, 53 * MIB, 54 * MIB, 55 * MIB], 2),  # little by little is much, too
        ([50 * MIB, 10 * MIB, 30 * MIB], 2),  # a model that is gone makes no room for what is never given back
        ([0, 0], 0),  # a system that does not tell has another C library
    ],
)
def test_it_is_done_where_the_process_holds_more_than_after_the_last_time(held: list[int], trims: int) -> None:
    now, done = [0], [0]

    def trim() -> None:
        done[0] += 1

    trimmer = Trimmer(lambda: now[0], trim)
    for now[0] in held:
        trimmer.trim_where_worth_it()
    assert done[0] == trims


@pytest.mark.skipif(sys.platform != "linux", reason="told by Linux")
def test_what_this_process_takes_is_what_it_holds_more() -> None:
    before = held_bytes()
    with mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:  # not what malloc still has
        taken.write(b"x" * MIB * 16)
        assert held_bytes() - before >= len(taken) // 2
