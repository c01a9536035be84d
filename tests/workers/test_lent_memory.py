"""The ledger of lent memory: what is counted, who is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.lending import (
    LENDING_DRAINS,
    MEMORY_ENDED,
    NO_SUCH_LEASE,
    NOT_ENOUGH_LENT,
    OTHER_BUILD,
    TOO_MANY_STREAMS,
    LendRequest,
)
from swarm.registry.model_memory import GIB, MIB
from swarm.workers.ledger import NoRoom, Room, Wanted, make_room
from swarm.workers.lent_memory import BARRED_S, MOST_LEASES, MOST_STREAMS, LentMemory, too_many_streams


def request(size_bytes: int = GIB, **more: Any) -> LendRequest:
    fields = {"model": "large", "bytes": size_bytes, "build": "b11434", "rpc": "7.0.0", **more}
    return LendRequest.model_validate(fields)


def lending(limit_bytes: int = 8 * GIB) -> LentMemory:
    return LentMemory(limit_bytes, "b11434", "7.0.0")


def code(memory: LentMemory, asked: LendRequest, room_bytes: int | None = None, now: float = 0.0) -> str | None:
    refused = memory.refusal("study", asked, room_bytes, now)
    return None if refused is None else refused.code


@pytest.mark.parametrize(
    ("asked", "room_bytes", "expected", "told"),
    [
        (request(), None, None, ""),
        (request(8 * GIB), None, None, ""),
        (request(8 * GIB + 1), None, NOT_ENOUGH_LENT, "8.0 GiB of the 8.0 GiB"),
        (request(2 * GIB), GIB, NOT_ENOUGH_LENT, "1.0 GiB of the 8.0 GiB"),
        (request(MIB - 1), None, NOT_ENOUGH_LENT, ""),
        (request(build="b11435"), None, OTHER_BUILD, "b11434 (RPC 7.0.0) and yours is b11435 (RPC 7.0.0)"),
        (request(rpc="8.0.0"), None, OTHER_BUILD, "yours is b11434 (RPC 8.0.0)"),
        (request(rpc="7.2.0"), None, None, ""),
    ],
)
def test_what_is_lent_and_why_not(asked: LendRequest, room_bytes: int | None, expected: str | None, told: str) -> None:
    refused = lending().refusal("study", asked, room_bytes, now=0.0)
    assert (None if refused is None else refused.code) == expected
    assert told in ("" if refused is None else refused.words)


def test_two_hosts_share_what_is_lent_and_the_second_is_told_who_has_it() -> None:
    memory = lending(4 * GIB)
    memory.take("a", "study", "study", request(3 * GIB), 0.0)
    refused = memory.refusal("attic", request(2 * GIB, model="other"), None, 1.0)
    assert refused is not None
    assert "1.0 GiB of the 4.0 GiB" in refused.words
    assert "lent to study for large" in refused.words
    assert memory.refusal("attic", request(GIB), None, 1.0) is None
    memory.give_back("a", 2.0)
    assert memory.refusal("attic", request(4 * GIB), None, 2.0) is None


def test_what_was_granted_and_is_not_in_use_yet_is_not_free_on_the_machine() -> None:
    memory = lending(8 * GIB)
    memory.take("a", "study", "study", request(4 * GIB), 0.0)
    assert memory.free_bytes(6 * GIB) == 2 * GIB
    memory.holds("a", 3 * GIB)  # the machine has 3 GiB less, of which the lease had 1 left
    assert memory.free_bytes(3 * GIB) == 2 * GIB


def test_a_lender_that_drains_lends_nothing() -> None:
    memory = lending()
    memory.draining = "its owner wants the memory back"
    refused = memory.refusal("study", request(), None, 0.0)
    assert refused is not None
    assert (refused.code, memory.free_bytes(None)) == (LENDING_DRAINS, 0)
    assert "its owner wants the memory back" in refused.words


def test_a_guest_that_took_more_than_it_had_is_lent_nothing_for_a_while() -> None:
    memory = lending()
    memory.take("a", "study", "study", request(), 0.0)
    memory.give_back("a", 10.0, took_more=True)
    assert code(memory, request(), now=11.0) == MEMORY_ENDED
    assert memory.refusal("attic", request(), None, 11.0) is None, "the others have done nothing"
    assert code(memory, request(), now=10.0 + BARRED_S) is None


def test_a_lease_is_its_guests_alone() -> None:
    memory = lending()
    memory.take("a", "study", "study", request(), 0.0)
    assert memory.check("study", "a") is None
    for guest, lease in (("attic", "a"), ("study", "b"), ("", "")):
        refused = memory.check(guest, lease)
        assert refused is not None
        assert refused.code == NO_SUCH_LEASE
    assert memory.check("attic", "a") == memory.check("attic", "none"), "nobody learns which leases there are"


def test_leases_are_few() -> None:
    memory = lending()
    for number in range(MOST_LEASES):
        memory.take(f"{number}", "study", "study", request(MIB), 0.0)
    assert code(memory, request(MIB)) == NOT_ENOUGH_LENT
    with pytest.raises(ValueError, match="there already"):
        memory.take("0", "study", "study", request(MIB), 0.0)


def test_lent_memory_is_room_that_no_model_gets_and_that_nobody_unloads() -> None:
    memory = lending()
    memory.take("a", "study", "study", request(4 * GIB), 0.0)
    memory.holds("a", GIB)
    held, free = memory.holdings("ram"), {"ram": 9 * GIB}  # 3 GiB of it are promised to the lease
    small, large = (Wanted(name, ({"ram": size},), 0.0) for name, size in (("small", 5 * GIB), ("large", 7 * GIB)))
    assert make_room(small, held, free, {}, {"ram": GIB}, None, 0.0) == Room(0)
    refused = make_room(large, held, free, {}, {"ram": GIB}, None, 0.0)
    assert isinstance(refused, NoRoom)
    assert "lent to study for large" in refused.words
    assert "4.0 GiB" in refused.words


def test_lent_memory_takes_none_of_the_models_number_and_limit() -> None:
    memory = lending()
    memory.take("a", "study", "study", request(4 * GIB), 0.0)
    wanted = Wanted("small", ({"ram": 2 * GIB},), 0.0)
    held, free = memory.holdings("ram"), {"ram": 20 * GIB}
    assert make_room(wanted, held, free, {"ram": 2 * GIB}, {}, 1, 0.0) == Room(0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "back", "holds"]), st.integers(0, 9), st.integers(1, 4 * GIB), st.booleans()),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS, st.none() | st.integers(0, 8 * GIB))
def test_whatever_happens_no_more_is_lent_than_is_lent_out(
    steps: list[tuple[str, int, int, bool]], room_bytes: int | None
) -> None:
    memory, now = lending(6 * GIB), 0.0
    for what, number, size_bytes, took_more in steps:
        now += 100.0
        lease, guest = f"{number}", f"guest {number % 3}"
        if what == "take" and lease not in {part.lease for part in memory.parts}:
            free = memory.free_bytes(room_bytes)
            if memory.refusal(guest, request(size_bytes), room_bytes, now) is None:
                assert size_bytes <= free
                memory.take(lease, guest, guest, request(size_bytes), now)
        elif what == "holds":
            memory.holds(lease, size_bytes)
        else:
            memory.give_back(lease, now, took_more)
        assert 0 <= memory.lent_bytes <= memory.limit_bytes
        assert 0 <= memory.free_bytes(room_bytes) <= memory.limit_bytes - memory.lent_bytes
        assert len(memory.holdings("ram")) == len(memory.parts)
        assert all(not holding.removable and not holding.drainable for holding in memory.holdings("ram"))


def test_a_lease_has_few_connections() -> None:
    assert too_many_streams(MOST_STREAMS - 1) is None
    refused = too_many_streams(MOST_STREAMS)
    assert refused is not None
    assert (refused.code, str(MOST_STREAMS) in refused.words) == (TOO_MANY_STREAMS, True)
