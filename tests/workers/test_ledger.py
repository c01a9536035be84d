"""Who gets memory and who goes for it, in single decisions. `test_ledger_simulated.py` lets time pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.workers.ledger import (
    MOST_PATIENCE_S,
    STALE_S,
    Bytes,
    Decision,
    Holding,
    NoRoom,
    Resume,
    Room,
    Wait,
    Wanted,
    expired,
    make_room,
    next_expiry,
    plan,
    reserve_of,
    under_pressure,
)
from swarm.workers.life import Phase

NOW = 1000.0
GIB = 1 << 30


def held(
    model_id: str,
    size: int,
    *,
    idle: bool = True,
    pinned: bool = False,
    ago: float = 10.0,
    load_s: float = 5.0,
    phase: Phase = "ready",
    growth: int = 0,
    pool: str = "ram",
    ttl_s: float | None = None,
) -> Holding:
    return Holding(model_id, {pool: size}, idle, pinned, NOW - ago, load_s, phase, {pool: growth}, ttl_s)


def wanted(*sizes: int, model_id: str = "new", ago: float = 60.0, pool: str = "ram") -> Wanted:
    return Wanted(model_id, tuple({pool: size} for size in sizes), NOW - ago)


def decide(
    want: Wanted,
    holdings: Sequence[Holding] = (),
    free: int = 0,
    limit: int | None = None,
    reserve: int = 0,
    most_models: int | None = None,
) -> Decision:
    limits = {} if limit is None else {"ram": limit}
    return make_room(want, holdings, {"ram": free}, limits, {"ram": reserve}, most_models, NOW)


@pytest.mark.parametrize(
    ("want", "holdings", "rest", "decision"),
    [
        pytest.param(wanted(8), [], {"free": 8}, Room(0), id="what is free is taken"),
        pytest.param(wanted(8, 4), [], {"free": 8, "reserve": 1}, Room(1), id="the reserve is left"),
        pytest.param(wanted(8, 4), [], {"free": 99, "limit": 7}, Room(1), id="no more than the limit"),
        pytest.param(wanted(8), [held("a", 4)], {"free": 4}, Room(0, ("a",)), id="an idle one goes"),
        pytest.param(
            wanted(8), [held("a", 4)], {"free": 99, "limit": 10}, Room(0, ("a",)), id="an idle one goes for the limit"
        ),
        pytest.param(
            wanted(8),
            [held("large", 8, load_s=9), held("one", 4, load_s=4), held("two", 4, load_s=4)],
            {},
            Room(0, ("one", "two")),
            id="several small ones, where they are back sooner",
        ),
        pytest.param(
            wanted(8),
            [held("large", 8, load_s=7), held("one", 4, load_s=4), held("two", 4, load_s=4)],
            {},
            Room(0, ("large",)),
            id="one large one, where that is back sooner",
        ),
        pytest.param(
            wanted(4), [held("old", 4, ago=200), held("late", 4, ago=2)], {}, Room(0, ("old",)), id="the longest unused"
        ),
        pytest.param(
            wanted(4),
            [held("old", 4, ago=200, load_s=60), held("late", 4, ago=2, load_s=1)],
            {},
            Room(0, ("late",)),
            id="what is quickly back, although it was used lately",
        ),
        pytest.param(
            wanted(8, 4),
            [held("a", 4, ago=STALE_S)],
            {"free": 4},
            Room(0, ("a",)),
            id="what nobody uses any more goes before the context is cut",
        ),
        pytest.param(
            wanted(8, 4), [held("a", 4)], {"free": 4}, Room(1), id="less context lets one stay that is in use"
        ),
        pytest.param(
            wanted(8, 6, 4),
            [held("a", 4)],
            {"free": 4},
            Room(0, ("a",)),
            id="but not the least that there is",
        ),
        pytest.param(
            wanted(16, 12, 6), [held("a", 4)], {"free": 4}, Room(2, ("a",)), id="the least, where nothing else fits"
        ),
        pytest.param(
            wanted(16, 6),
            [held("idle", 3), held("busy", 10, idle=False)],
            {"free": 3},
            Room(1, ("idle",)),
            id="the least is better than waiting for a busy one",
        ),
        pytest.param(
            wanted(8), [held("a", 4), held("pinned", 4, pinned=True)], {"free": 4}, Room(0, ("a",)), id="never a pinned"
        ),
        pytest.param(
            wanted(8), [held("a", 4, idle=False)], {"free": 4}, Wait(("a",)), id="a busy one drains, where it must"
        ),
        pytest.param(
            wanted(8, ago=2),
            [held("a", 4, idle=False, load_s=5)],
            {"free": 4},
            Wait((), NOW + 3),
            id="not before the one who waits has waited as long as the busy one's return takes",
        ),
        pytest.param(
            wanted(8, ago=2),
            [held("a", 4, idle=False, load_s=500)],
            {"free": 4},
            Wait((), NOW - 2 + MOST_PATIENCE_S),
            id="which is bounded",
        ),
        pytest.param(
            wanted(8, 4),
            [held("a", 3, idle=False), held("b", 3, idle=False), held("c", 3, idle=False)],
            {"free": 1},
            Wait(("a",)),
            id="as few drain as let it load at all",
        ),
        pytest.param(
            wanted(8),
            [held("a", 4, phase="unloading"), held("b", 9)],
            {"free": 4},
            Wait(),
            id="nobody else goes while enough is coming back",
        ),
        pytest.param(
            wanted(12),
            [held("a", 4, phase="unloading"), held("b", 4)],
            {"free": 4},
            Wait(("b",)),
            id="but another, where that is not enough",
        ),
        pytest.param(
            wanted(8),
            [held("a", 4, phase="draining", idle=False), held("b", 9, idle=False)],
            {"free": 4},
            Wait(),
            id="nobody else drains while one does whose room is enough",
        ),
        pytest.param(
            wanted(8),
            [held("a", 4, phase="draining", idle=False), held("b", 9)],
            {"free": 4},
            Room(0, ("b",)),
            id="an idle one is sooner gone than one that drains",
        ),
        pytest.param(
            wanted(8),
            [held("a", 1, phase="loading", idle=False, growth=6)],
            {"free": 8},
            Wait(),
            id="what is promised to one that loads is not free, and it is not interrupted",
        ),
        pytest.param(
            wanted(8),
            [held("broken", 0, idle=False, phase="failed", growth=6)],
            {"free": 9},
            Room(0, ("broken",)),
            id="an engine that broke is not waited for",
        ),
        pytest.param(
            wanted(8),
            [held("broken", 0, phase="failed", growth=6, pinned=True), held("a", 6)],
            {"free": 9},
            Room(0, ("a",)),
            id="but keeps its room if it is pinned",
        ),
        pytest.param(
            wanted(1),
            [held("a", 1, ago=200), held("b", 1)],
            {"free": 9, "most_models": 2},
            Room(0, ("a",)),
            id="a count",
        ),
        pytest.param(
            wanted(1),
            [held("a", 1, idle=False), held("b", 1, pinned=True)],
            {"free": 9, "most_models": 2},
            Wait(("a",)),
            id="a count of busy ones",
        ),
        pytest.param(
            wanted(1, model_id="a"),
            [held("a", 1, phase="unloading"), held("b", 9)],
            {"free": 0},
            Wait(),
            id="what is on its way out and wanted again is waited for",
        ),
    ],
)
def test_a_decision(want: Wanted, holdings: list[Holding], rest: dict[str, int], decision: Decision) -> None:
    assert decide(want, holdings, **rest) == decision
    assert decide(want, holdings[::-1], **rest) == decision


def test_a_pool_of_which_nothing_is_known_is_bounded_by_the_limit_alone() -> None:
    want = wanted(8, 4, pool="vram0")
    assert make_room(want, [], {}, {}, {}, None, NOW) == Room(0)
    assert make_room(want, [], {}, {"vram0": 5}, {}, None, NOW) == Room(1)


def test_a_model_takes_of_two_pools_and_the_one_that_is_short_decides() -> None:
    want = Wanted("new", ({"ram": 2, "vram0": 8},), NOW)
    holdings = [held("a", 8), held("b", 8, pool="vram0")]
    assert make_room(want, holdings, {"ram": 2, "vram0": 1}, {}, {}, None, NOW) == Room(0, ("b",))


def test_who_wants_what_is_loaded_is_a_defect() -> None:
    with pytest.raises(ValueError, match="new is ready"):
        decide(wanted(1), [held("new", 1)])
    with pytest.raises(ValueError, match="one option"):
        Wanted("new", (), NOW)


class TestNoRoom:
    def test_the_numbers_and_the_remedy(self) -> None:
        refusal = decide(
            wanted(9 * GIB, 6 * GIB, model_id="qwen3:8b"),
            [held("qwen3:4b", 3 * GIB, pinned=True), held("demo", 1 * GIB, idle=False)],
            free=2 * GIB,
            reserve=GIB // 2,
        )
        assert isinstance(refusal, NoRoom)
        assert (refusal.needed, refusal.most) == ({"ram": 6 * GIB}, {"ram": 5 * GIB // 2})
        assert refusal.words == (
            "qwen3:8b needs 6.0 GiB of RAM and at most 2.5 GiB could be free: 2.0 GiB are free now, unloading demo "
            "gives back 1.0 GiB, and 512 MiB are kept for the system. Pinned: qwen3:4b (3.0 GiB). Unpin one, choose a "
            "smaller model or a smaller quantization, or close what else uses the memory."
        )

    def test_of_a_limit(self) -> None:
        refusal = decide(wanted(6 * GIB), [held("a", 3 * GIB, pinned=True)], free=64 * GIB, limit=8 * GIB)
        assert isinstance(refusal, NoRoom)
        assert refusal.words == (
            "new needs 6.0 GiB of RAM and at most 5.0 GiB could be free: models may take 8.0 GiB together (--memory). "
            "Pinned: a (3.0 GiB). Unpin one, choose a smaller model or a smaller quantization, or raise --memory."
        )

    def test_of_a_gpu_with_nothing_loaded(self) -> None:
        refusal = make_room(wanted(9 * GIB, pool="vram0"), [], {"vram0": GIB}, {}, {}, None, NOW)
        assert isinstance(refusal, NoRoom)
        assert refusal.words == (
            "new needs 9.0 GiB of the memory of GPU 0 and at most 1.0 GiB could be free: 1.0 GiB are free now. Choose "
            "a smaller model or a smaller quantization or close what else uses the memory."
        )

    def test_of_a_count(self) -> None:
        refusal = decide(wanted(1), [held("a", GIB, pinned=True)], free=GIB, most_models=1)
        assert isinstance(refusal, NoRoom)
        assert refusal.words == (
            "new has no place: this node keeps 1 model loaded at most, and these are pinned: a (1.0 GiB). Unpin one, "
            "or start the node with a larger --max-models."
        )


def planned(
    queue: Sequence[Wanted],
    holdings: Sequence[Holding] = (),
    free: Bytes | None = None,
    most_models: int | None = None,
    limit: Bytes | None = None,
) -> dict[str, object]:
    decided = plan(queue, holdings, free or {"ram": 0}, limit or {}, {}, most_models, NOW)
    return {want.model_id: decision for want, decision in decided}


class TestQueue:
    def test_one_load_after_the_other_in_order_of_arrival(self) -> None:
        queue = [wanted(4, model_id="second", ago=1), wanted(4, model_id="first", ago=2)]
        decided = plan(queue, [], {"ram": 8}, {}, {}, None, NOW)
        assert [(want.model_id, decision) for want, decision in decided] == [("first", Room(0)), ("second", Wait())]

    def test_side_by_side_where_there_is_plainly_enough(self) -> None:
        queue = [wanted(4, model_id="first", ago=2), wanted(4, model_id="second", ago=1)]
        assert planned(queue, free={"ram": 12}) == {"first": Room(0), "second": Room(0)}

    def test_who_comes_behind_takes_nothing_that_the_first_waits_for(self) -> None:
        queue = [wanted(8, model_id="first", ago=60), wanted(2, model_id="second", ago=50)]
        busy = held("busy", 4, idle=False)
        assert planned(queue, [busy], {"ram": 4}) == {"first": Wait(("busy",)), "second": Wait()}
        assert planned(queue, [busy], {"ram": 6}) == {"first": Wait(("busy",)), "second": Room(0)}

    def test_who_comes_behind_has_nobody_unloaded(self) -> None:
        queue = [wanted(9, model_id="first", ago=60), wanted(2, model_id="second", ago=50)]
        holdings = [held("busy", 6, idle=False), held("idle", 3)]
        assert planned(queue, holdings) == {"first": Wait(("busy", "idle")), "second": Wait()}

    def test_pools_that_have_nothing_to_do_with_each_other_have_queues_of_their_own(self) -> None:
        queue = [wanted(8, model_id="first", ago=60), wanted(2, model_id="second", ago=50, pool="vram0")]
        holdings = [held("busy", 8, idle=False), held("idle", 2, pool="vram0")]
        free = {"ram": 0, "vram0": 0}
        assert planned(queue, holdings, free) == {"first": Wait(("busy",)), "second": Room(0, ("idle",))}
        assert planned(queue, holdings, free, most_models=3) == {"first": Wait(("busy",)), "second": Wait()}

    def test_nobody_overtakes_one_that_waits_only_for_its_turn(self) -> None:
        queue = [wanted(6, model_id="first", ago=60), wanted(1, model_id="second", ago=50)]
        loads = held("loads", 1, idle=False, phase="loading")
        assert planned(queue, [loads], {"ram": 9}) == {"first": Wait(), "second": Wait()}

    def test_a_refusal_holds_nobody_up(self) -> None:
        queue = [wanted(99, model_id="first", ago=60), wanted(2, model_id="second", ago=50)]
        decided = planned(queue, free={"ram": 2})
        assert isinstance(decided["first"], NoRoom)
        assert decided["second"] == Room(0)

    def test_what_drains_for_nobody_is_taken_back(self) -> None:
        drains = held("a", 4, idle=False, phase="draining")
        again = wanted(4, model_id="a", ago=1)
        assert planned([again], [drains]) == {"a": Resume()}
        assert planned([again, wanted(4, model_id="first")], [drains]) == {"first": Wait(), "a": Wait()}


class TestPressure:
    @pytest.mark.parametrize(
        ("free", "gone"),
        [(5, ()), (4, ("old",)), (0, ("old", "new"))],
    )
    def test_idle_ones_go_below_half_of_the_reserve(self, free: int, gone: tuple[str, ...]) -> None:
        holdings = [
            held("new", 6, ago=1),
            held("old", 6, ago=200),
            held("busy", 6, idle=False),
            held("pinned", 6, pinned=True),
            held("elsewhere", 6, pool="vram0"),
        ]
        assert under_pressure(holdings, {"ram": free}, {"ram": 10}, NOW) == gone

    def test_what_leaves_already_counts(self) -> None:
        holdings = [held("a", 6), held("leaves", 6, phase="unloading")]
        assert under_pressure(holdings, {"ram": 4}, {"ram": 10}, NOW) == ()

    def test_a_pool_of_which_nothing_is_known_is_under_no_pressure(self) -> None:
        assert under_pressure([held("a", 6)], {}, {"ram": 10}, NOW) == ()


@pytest.mark.parametrize(("total", "reserve"), [(2 * GIB, GIB // 4), (16 * GIB, 16 * GIB // 20), (128 * GIB, 2 * GIB)])
def test_the_reserve(total: int, reserve: int) -> None:
    assert reserve_of(total) == reserve


def test_models_expire_when_nobody_wanted_them_for_long() -> None:
    holdings = [
        held("over", 1, ago=30, ttl_s=30),
        held("not yet", 1, ago=20, ttl_s=30),
        held("for ever", 1, ago=9000),
        held("busy", 1, ago=30, ttl_s=30, idle=False),
        held("pinned", 1, ago=30, ttl_s=30, pinned=True),
    ]
    assert expired(holdings, NOW) == ("over",)
    assert next_expiry(holdings) == NOW
    assert next_expiry(holdings[1:]) == NOW + 10
    assert next_expiry(holdings[2:]) is None


PHASES: list[Phase] = ["ready", "ready", "ready", "failed", "loading", "draining", "unloading"]
SIZES = st.integers(0, 12)
HOLDINGS = st.lists(
    st.builds(
        lambda size, vram, idle, pinned, ago, load_s, phase, growth: Holding(
            "", {"ram": size, "vram0": vram}, idle, pinned, NOW - ago, load_s, phase, {"ram": growth}
        ),
        SIZES,
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
        st.floats(0, 600),
        st.floats(0, 60),
        st.sampled_from(PHASES),
        st.integers(0, 2),
    ),
    max_size=7,
).map(lambda found: [Holding(f"m{n}", *_fields(holding)) for n, holding in enumerate(found)])
OPTIONS = st.lists(st.fixed_dictionaries({"ram": SIZES, "vram0": st.integers(0, 4)}), min_size=1, max_size=4)


def _fields(holding: Holding) -> tuple[object, ...]:
    return tuple(getattr(holding, name) for name in Holding.__slots__ if name != "model_id")


@given(
    HOLDINGS, OPTIONS, SIZES, SIZES, st.none() | st.integers(5, 30), st.integers(0, 3), st.none() | st.integers(1, 6)
)
def test_whatever_is_held(
    holdings: list[Holding],
    options: list[Bytes],
    free_ram: int,
    free_vram: int,
    limit: int | None,
    reserve: int,
    most_models: int | None,
) -> None:
    """Room keeps to the ledger, only idle unpinned ones go, no fewer of them would do, and a wait has a reason."""
    want = Wanted("new", tuple(options), NOW - 60)
    free, limits = {"ram": free_ram, "vram0": free_vram}, {} if limit is None else {"ram": limit}
    kept = {"ram": reserve}
    decision = make_room(want, holdings, free, limits, kept, most_models, NOW)
    assert decision == make_room(want, tuple(reversed(holdings)), free, limits, kept, most_models, NOW)
    by_id = {holding.model_id: holding for holding in holdings}

    def fits(option: Bytes, gone: set[str]) -> bool:
        stay = [holding for holding in holdings if holding.model_id not in gone]
        for pool, size in option.items():
            grown = sum(holding.growth.get(pool, 0) for holding in stay)
            taken = sum(holding.taken[pool] for holding in stay)
            back = sum(by_id[model_id].taken[pool] for model_id in gone)
            if size and size > free[pool] + back - grown - kept.get(pool, 0):
                return False
            if size and pool in limits and size > limits[pool] - taken - grown:
                return False
        return most_models is None or len(stay) < most_models

    may_leave = {h.model_id for h in holdings if not h.pinned or h.phase in ("draining", "unloading")}
    match decision:
        case Room(option, unload):
            assert all(by_id[model_id].removable for model_id in unload)
            assert fits(options[option], set(unload))
            assert not any(fits(options[option], set(unload) - {model_id}) for model_id in unload)
        case Wait(drain, again_at):
            assert all(by_id[model_id].drainable for model_id in drain)
            leaves = any(holding.phase in ("loading", "draining", "unloading") for holding in holdings)
            assert drain or leaves or again_at is not None
            assert again_at is None or NOW - 60 < again_at <= NOW + MOST_PATIENCE_S
            assert any(fits(option, may_leave) for option in options)
        case NoRoom():
            assert not any(fits(option, may_leave) for option in options)
            assert decision.words.startswith("new ")
