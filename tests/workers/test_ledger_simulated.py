"""The ledger over time: made-up models, requests, failures and a clock, and a driver that does what the plan says.

The driver is a node without engines: it keeps to the phases of a model's life, loads take time and memory by and by,
engines break, clients leave, and other programs take memory and give it back.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.workers.ledger import (
    MOST_PATIENCE_S,
    Bytes,
    Holding,
    NoRoom,
    PlannedDecision,
    Resume,
    Room,
    Wait,
    Wanted,
    expired,
    next_expiry,
    plan,
    under_pressure,
)
from swarm.workers.life import LEAVING, Life, LifeEvent, Phase

POOLS = ("ram", "vram0")
UNLOAD_S = 0.5


@dataclass(frozen=True)
class MadeUpModel:
    """`options` are what its node expects it to take, and `share` of that is what it really does."""

    options: tuple[Bytes, ...]
    load_s: float
    share: float = 1.0
    slots: int = 2
    pinned: bool = False
    ttl_s: float | None = None
    failing_loads: int = 0
    back_after_s: float | None = None  # its engine, when it broke: loaded again by itself; None: never, though it tries


@dataclass(frozen=True)
class MadeUpRequest:
    model: int
    at: float
    service_s: float
    leaves_after_s: float | None = None


@dataclass(frozen=True)
class Machine:
    free: Bytes
    limit: Bytes
    reserve: Bytes
    most_models: int | None = None
    others: tuple[tuple[float, int], ...] = ()  # at some instant other programs take more RAM, or give some back
    breaks: tuple[tuple[float, int], ...] = ()  # at some instant the engine of a model breaks


@dataclass
class Serving:
    """One model on the simulated node."""

    model: MadeUpModel
    life: Life
    taken: Bytes = field(default_factory=dict)
    growth: Bytes = field(default_factory=dict)
    wanted_at: float = 0.0
    running: list[int] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)  # wait for a slot of it
    waiting: list[int] = field(default_factory=list)  # wait for it to be loaded
    loads: int = 0

    @property
    def idle(self) -> bool:
        return not self.running and not self.admitted


class Driver:
    """Runs `requests` to their ends. `ends` says how each ended, `events` what became of the models."""

    def __init__(self, machine: Machine, models: list[MadeUpModel], requests: list[MadeUpRequest]) -> None:
        self.machine, self.requests = machine, requests
        self.serving = [Serving(model, Life(f"m{number}", 0.0)) for number, model in enumerate(models)]
        self.ends: dict[int, str] = {}
        self.served_at: dict[int, float] = {}
        self.events: list[LifeEvent] = []
        self.now = 0.0
        self.others = 0
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._woken: set[float] = set()

    def run(self) -> None:
        for number, request in enumerate(self.requests):
            self._at(request.at, lambda number=number: self._arrive(number))
        for at, more in self.machine.others:
            self._at(at, lambda more=more: self._take_by_others(more))
        for at, number in self.machine.breaks:
            self._at(at, lambda number=number: self._break(self.serving[number % len(self.serving)]))
        while self._agenda:
            self.now, _, act = heapq.heappop(self._agenda)
            act()
            self._carry_out()
            self._check()
        assert len(self.ends) == len(self.requests), "somebody waits for ever"

    def _at(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), act))

    # What comes from outside.

    def _arrive(self, number: int) -> None:
        request = self.requests[number]
        serving = self.serving[request.model % len(self.serving)]
        serving.wanted_at = self.now
        if serving.life.phase == "failed":
            self.ends[number] = "failed"
            return
        if serving.life.phase == "ready":
            serving.admitted.append(number)
            self._serve(serving)
            return
        serving.waiting.append(number)
        if request.leaves_after_s is not None:
            self._at(self.now + request.leaves_after_s, lambda: self._leave(serving, number))

    def _leave(self, serving: Serving, number: int) -> None:
        if number in serving.waiting:
            serving.waiting.remove(number)
            self.ends[number] = "left"

    def _take_by_others(self, more: int) -> None:
        self.others = max(0, min(self.others + more, self.machine.free["ram"]))

    def _break(self, serving: Serving) -> None:
        if serving.life.phase in ("ready", "draining"):
            self._move(serving, "failed", "its engine broke")
            for number in (*serving.running, *serving.admitted):
                self.ends[number] = "failed"
            serving.growth = serving.taken  # so much it was measured to take, and will again
            serving.running, serving.admitted, serving.taken = [], [], {}
            broken = self.events[-1]
            if serving.model.back_after_s is not None:
                self._at(self.now + serving.model.back_after_s, lambda: self._come_back(serving, broken))

    def _come_back(self, serving: Serving, broken: LifeEvent) -> None:
        """Its engine is loaded again, unless it was unloaded meanwhile."""
        if [event for event in self.events if event.model_id == broken.model_id][-1] is not broken:
            return
        serving.taken, serving.growth = serving.growth, {}
        self._move(serving, "loading", "its engine broke")
        self._move(serving, "ready", "its engine is loaded again")
        self._admit(serving)

    # What the plan says.

    def _carry_out(self) -> None:
        for _ in range(100):
            before = len(self.events), len(self.ends)
            for serving in self.serving:
                if serving.life.phase == "draining" and serving.idle:
                    self._unload(serving, "it is idle now")
            for model_id in under_pressure(self.held(), self.free(), self.machine.reserve, self.now):
                self._evict(model_id, "others need the memory")
            for model_id in expired(self.held(), self.now):
                self._evict(model_id, "nobody wanted it")
            for wanted, decision in self._plan():
                self._obey(wanted, decision)
            if (len(self.events), len(self.ends)) == before:
                break
        else:
            raise AssertionError("the plan never comes to rest")
        expiry = next_expiry(self.held())
        if expiry is not None:
            self._wake(expiry)

    def _plan(self) -> tuple[tuple[Wanted, PlannedDecision], ...]:
        queue = [
            Wanted(serving.life.model_id, serving.model.options, min(self.requests[n].at for n in serving.waiting))
            for serving in self.serving
            if serving.waiting and serving.life.phase not in ("loading", "failed")
        ]
        machine = self.machine
        decided = plan(queue, self.held(), self.free(), machine.limit, machine.reserve, machine.most_models, self.now)
        shuffled = plan(
            queue[::-1], self.held()[::-1], self.free(), machine.limit, machine.reserve, machine.most_models, self.now
        )
        assert decided == shuffled
        return decided

    def _obey(self, wanted: Wanted, decision: PlannedDecision) -> None:
        serving = self._named(wanted.model_id)
        match decision:
            case Room(option, ()):
                self._load(serving, wanted.options[option])
            case Room(_, unload):
                for model_id in unload:
                    self._evict(model_id, f"{wanted.model_id} needs its room")
            case Wait(drain, again_at):
                for model_id in drain:
                    self._drain(self._named(model_id), wanted.model_id)
                if again_at is not None:
                    assert again_at > self.now
                    self._wake(again_at)
            case Resume():
                self._move(serving, "ready", "nobody needs its room")
                self._admit(serving)
            case NoRoom():
                for number in serving.waiting:
                    self.ends[number] = decision.words
                serving.waiting = []

    def _wake(self, at: float) -> None:
        if at not in self._woken:
            self._woken.add(at)
            self._at(max(at, self.now), lambda: None)

    def _load(self, serving: Serving, need: Bytes) -> None:
        free, growing = self.free(), self.held()
        for pool, size in need.items():
            promised = sum(holding.growth.get(pool, 0) for holding in growing)
            assert not size or size + promised + self.machine.reserve.get(pool, 0) <= free[pool], "over the ledger"
        self._move(serving, "loading", "somebody wants it")
        serving.growth = need
        serving.loads += 1

        def half() -> None:
            serving.taken = {pool: int(size * serving.model.share) // 2 for pool, size in need.items()}
            serving.growth = {pool: size - serving.taken[pool] for pool, size in need.items()}

        def end() -> None:
            serving.growth = {}
            if serving.loads <= serving.model.failing_loads:
                serving.taken = {}
                self._move(serving, "failed", "it could not be loaded")
                for number in serving.waiting:
                    self.ends[number] = "failed"
                serving.waiting = []
                self._move(serving, "available", "it is tried again when it is wanted")
                return
            serving.taken = {pool: int(size * serving.model.share) for pool, size in need.items()}
            self._move(serving, "ready", "loaded")
            self._admit(serving)

        self._at(self.now + serving.model.load_s / 2, half)
        self._at(self.now + serving.model.load_s, end)

    def _evict(self, model_id: str, reason: str) -> None:
        serving = self._named(model_id)
        assert serving.life.phase in ("ready", "failed")
        assert serving.idle, "a busy model was to be unloaded"
        assert not serving.model.pinned, "a pinned model was to be unloaded"
        if serving.life.phase == "failed":
            serving.growth = {}
            self._move(serving, "available", reason)
        else:
            self._unload(serving, reason)

    def _drain(self, serving: Serving, for_whom: str) -> None:
        assert not serving.model.pinned, "a pinned model was to drain"
        if serving.idle:
            self._evict(serving.life.model_id, f"{for_whom} needs its room")
        else:
            self._move(serving, "draining", f"{for_whom} needs its room")

    def _unload(self, serving: Serving, reason: str) -> None:
        self._move(serving, "unloading", reason)

        def end() -> None:
            serving.taken = {}
            self._move(serving, "available", "unloaded")

        self._at(self.now + UNLOAD_S, end)

    # Requests.

    def _admit(self, serving: Serving) -> None:
        serving.admitted += serving.waiting
        serving.waiting = []
        self._serve(serving)

    def _serve(self, serving: Serving) -> None:
        while serving.admitted and len(serving.running) < serving.model.slots:
            number = serving.admitted.pop(0)
            serving.running.append(number)
            self.served_at[number] = self.now
            self._at(self.now + self.requests[number].service_s, lambda number=number: self._finish(serving, number))

    def _finish(self, serving: Serving, number: int) -> None:
        if number in serving.running:  # else its engine broke
            serving.running.remove(number)
            serving.wanted_at = self.now
            self.ends[number] = "served"
            self._serve(serving)

    # What is so.

    def held(self) -> list[Holding]:
        return [
            Holding(
                serving.life.model_id,
                serving.taken,
                serving.idle and serving.life.phase != "loading",
                serving.model.pinned,
                serving.wanted_at,
                serving.model.load_s,
                serving.life.phase,
                serving.growth,
                serving.model.ttl_s,
            )
            for serving in self.serving
            if serving.life.phase != "available"
        ]

    def free(self) -> dict[str, int]:
        taken = {pool: sum(serving.taken.get(pool, 0) for serving in self.serving) for pool in POOLS}
        return {pool: self.machine.free[pool] - taken[pool] - (self.others if pool == "ram" else 0) for pool in POOLS}

    def _named(self, model_id: str) -> Serving:
        return next(serving for serving in self.serving if serving.life.model_id == model_id)

    def _move(self, serving: Serving, after: Phase, reason: str) -> None:
        self.events.append(serving.life.move(after, reason, self.now))

    def _check(self) -> None:
        held, free, machine = self.held(), self.free(), self.machine
        for pool, most in machine.limit.items():
            assert sum(h.taken.get(pool, 0) + h.growth.get(pool, 0) for h in held) <= most, "over the limit"
        for pool in POOLS if not machine.others else ("vram0",):
            promised = sum(holding.growth.get(pool, 0) for holding in held)
            assert free[pool] - promised >= min(machine.reserve.get(pool, 0), machine.free[pool]), "into the reserve"
        assert machine.most_models is None or len(held) <= machine.most_models
        for serving in self.serving:
            assert not (serving.life.phase in LEAVING and serving.model.pinned)


SIZES = st.integers(0, 8)
INSTANTS = st.integers(0, 300).map(lambda tenths: tenths / 10)
MODELS = st.lists(
    st.builds(
        MadeUpModel,
        options=st.lists(
            st.builds(lambda ram, vram: {"ram": ram, "vram0": vram}, SIZES, st.sampled_from([0, 0, 0, 2, 4])),
            min_size=1,
            max_size=3,
        ).map(lambda found: tuple(sorted(found, key=lambda need: -sum(need.values())))),
        load_s=st.sampled_from([0.2, 2.0, 30.0]),
        share=st.sampled_from([1.0, 0.7]),
        slots=st.integers(1, 3),
        pinned=st.sampled_from([False, False, False, True]),
        ttl_s=st.sampled_from([None, None, 5.0]),
        failing_loads=st.sampled_from([0, 0, 0, 1]),
        back_after_s=st.sampled_from([None, 2.0, 20.0]),
    ),
    min_size=1,
    max_size=6,
)
REQUESTS = st.lists(
    st.builds(
        MadeUpRequest,
        model=st.integers(0, 5),
        at=INSTANTS,
        service_s=st.sampled_from([0.1, 1.0, 20.0]),
        leaves_after_s=st.sampled_from([None, None, None, 1.0]),
    ),
    max_size=40,
)
MACHINES = st.builds(
    Machine,
    free=st.fixed_dictionaries({"ram": st.integers(4, 24), "vram0": st.integers(0, 8)}),
    limit=st.just({}) | st.fixed_dictionaries({"ram": st.integers(2, 16)}),
    reserve=st.fixed_dictionaries({"ram": st.integers(0, 3)}),
    most_models=st.none() | st.integers(1, 4),
    others=st.just(()) | st.lists(st.tuples(INSTANTS, st.integers(-8, 8)), max_size=4).map(tuple),
    breaks=st.lists(st.tuples(INSTANTS, st.integers(0, 5)), max_size=3).map(tuple),
)


@settings(max_examples=200)
@given(MACHINES, MODELS, REQUESTS)
def test_whatever_happens_every_request_ends_and_nothing_is_over_the_ledger(
    machine: Machine, models: list[MadeUpModel], requests: list[MadeUpRequest]
) -> None:
    driver = Driver(machine, models, requests)
    driver.run()
    for end in driver.ends.values():
        assert end in ("served", "failed", "left") or end.startswith("m"), end
    again = Driver(machine, models, requests)
    again.run()
    assert again.events == driver.events
    assert again.ends == driver.ends


def stream(model: int, every_s: float, service_s: float, until: float, begin: float = 0.0) -> list[MadeUpRequest]:
    count = int((until - begin) / every_s)
    return [MadeUpRequest(model, begin + number * every_s, service_s) for number in range(count)]


ONE_AT_A_TIME = Machine({"ram": 4, "vram0": 0}, {}, {})


def test_a_model_that_is_never_idle_makes_room_for_another_in_bounded_time() -> None:
    models = [MadeUpModel(({"ram": 4},), load_s=2.0, slots=4), MadeUpModel(({"ram": 4},), load_s=3.0)]
    requests = [*stream(0, every_s=0.5, service_s=1.0, until=100), MadeUpRequest(1, 20.0, 1.0)]
    driver = Driver(ONE_AT_A_TIME, models, requests)
    driver.run()
    assert set(driver.ends.values()) == {"served"}
    assert driver.served_at[len(requests) - 1] <= 20 + 2 + 1 + UNLOAD_S + 3  # patience, what runs, the end, the load


def test_two_models_that_are_wanted_all_the_time_spend_most_of_it_with_answers() -> None:
    models = [MadeUpModel(({"ram": 4},), load_s=2.0, slots=4) for _ in range(2)]
    requests = [request for model in range(2) for request in stream(model, 1.0, 1.0, until=200, begin=model / 2)]
    driver = Driver(ONE_AT_A_TIME, models, requests)
    driver.run()
    assert set(driver.ends.values()) == {"served"}
    loads = sum(serving.loads for serving in driver.serving)
    assert len(requests) / loads >= 5, "each load serves those who waited for it, and those who came meanwhile"
    waits = [driver.served_at[number] - request.at for number, request in enumerate(requests)]
    assert max(waits) < 15


def test_the_patience_of_who_waits_is_bounded_however_long_loads_take() -> None:
    models = [MadeUpModel(({"ram": 4},), load_s=60.0, slots=8), MadeUpModel(({"ram": 4},), load_s=1.0)]
    requests = [*stream(0, every_s=0.5, service_s=1.0, until=300), MadeUpRequest(1, 100.0, 1.0)]
    driver = Driver(ONE_AT_A_TIME, models, requests)
    driver.run()
    assert driver.served_at[len(requests) - 1] <= 100 + MOST_PATIENCE_S + 1 + UNLOAD_S + 1
