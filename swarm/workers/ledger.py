"""Who gets memory, and who has to go for it: sizes and instants in, decisions out. Pure.

What may be taken of a pool is the least of what the system has free, less what it keeps in reserve and what those that
are held have yet to take, and of what the limit leaves. Only models that nobody uses and that are not pinned are
unloaded. Busy ones may be asked to drain, never cut short. `make_room` tries, in this order:

1. the best two options, at the cost of idle models that nobody wanted for `STALE_S`;
2. every option, the best first, at the cost of any idle model: a short context is worse than a second load;
3. waiting, for what leaves already, for what loads, and for busy models that take nothing new from now on;
4. refusing, with the numbers: when pinned models and what others hold leave too little, whoever else goes.

So two models that are asked in turn share the memory with one step less of context each, where that is enough, rather
than be loaded again for every request; and nobody waits for a stranger's answer to end while there is another way.

Of all sets of models that make enough room the one goes whose return does the least harm: the seconds that a load
takes, weighed by how soon it is expected to be wanted again, which is how lately it was. `plan` decides for a queue.
Nobody overtakes, but those who take nothing that anybody before them waits for. A busy model takes new requests until
the one that wants its room has waited for as long as its own return would take: so a swap is never dearer than what it
interrupts, and a wait is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hardware.pools import PoolName
from swarm.registry.model_memory import GIB, MIB, size_text
from swarm.workers.life import LEAVING, Phase

Bytes = Mapping[PoolName, int]

STALE_S = 300.0  # a person who has not come back to a model for so long has turned to something else
SOON_S = 60.0  # a model that was wanted a minute ago is half as likely to be wanted next as one that was just now
LEAST_LOAD_S = 0.05  # what was never measured, or takes no time, is still no reason to unload it for nothing
MOST_PATIENCE_S = 10.0  # that a busy model goes on taking new requests while another waits for its room
MOST_LOOKS = 1000  # at sets of models that could go: all of ten, and the likely ones of more; a few milliseconds
RESERVE_SHARE, LEAST_RESERVE_BYTES, MOST_RESERVE_BYTES = 20, 256 * MIB, 2 * GIB  # a twentieth, within reason
PLAINLY = 2  # times the memory needed must be there for a load beside another one

_NOTHING: Bytes = {}


@dataclass(frozen=True, slots=True)
class Holding:
    """A model that has memory. Its id is unique among those held.

    `taken` is part of what the system says is not free; `growth` is what it may take beyond that: of a model that
    loads, what is missing of its need. One that has `failed` is held while its engine is to be loaded again: it has
    taken nothing. `idle`: nobody uses it or waits for it. `wanted_at`: when a request last came for it or ended.
    `load_s`: what its return would cost. Instants are monotonic seconds. What is no model, such as memory that is lent,
    takes none of the models' number and limit.
    """

    model_id: str
    taken: Bytes
    idle: bool
    pinned: bool
    wanted_at: float
    load_s: float
    phase: Phase = "ready"
    growth: Bytes = field(default_factory=lambda: _NOTHING)
    ttl_s: float | None = None
    is_model: bool = True

    @property
    def removable(self) -> bool:
        """Whether it may be unloaded at once: nobody can use one whose engine broke."""
        return not self.pinned and (self.phase == "failed" or (self.phase == "ready" and self.idle))

    @property
    def drainable(self) -> bool:
        """Whether it may be unloaded, now or once it is idle."""
        return not self.pinned and self.phase in ("ready", "failed")

    def harm(self, now: float) -> float:
        """What unloading it is expected to cost, in seconds of loading."""
        return max(self.load_s, LEAST_LOAD_S) * SOON_S / (SOON_S + max(now - self.wanted_at, 0.0))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that requests wait for since `since`, the oldest of them. `options`: what it may take, the best first."""

    model_id: str
    options: tuple[Bytes, ...]
    since: float

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError(f"{self.model_id}: a model that is wanted has one option at least")


@dataclass(frozen=True, slots=True)
class Room:
    """Load it with option number `option`, once those in `unload`, all idle, are unloaded and their memory is back."""

    option: int
    unload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """There will be room. Those in `drain` take nothing new from now on, and are unloaded as soon as they are idle.

    Ask again when anything changes; at `again_at`, an instant, at the latest.
    """

    drain: tuple[str, ...] = ()
    again_at: float | None = None


@dataclass(frozen=True, slots=True)
class NoRoom:
    """It can never be loaded while things are as they are. `needed` is the least that it takes.

    `most` is what it could have if all that are not pinned were unloaded, `system` the same if there were no `limit`;
    `free` is what the system has now, `reserve` what is left to it. `pinned` are held for good, with what they take of
    all pools; `others` are those that would be unloaded. `most_models` is set where the count leaves no place.
    """

    model_id: str
    needed: Bytes
    most: Bytes
    system: Bytes
    free: Bytes
    reserve: Bytes
    limit: Bytes
    pinned: tuple[tuple[str, int], ...] = ()
    others: tuple[tuple[str, Bytes], ...] = ()
    most_models: int | None = None

    @property
    def words(self) -> str:
        """Some sentences for a person, with the numbers and the remedy."""
        pinned = ", ".join(f"{model_id} ({size_text(size)})" for model_id, size in self.pinned)
        if self.most_models is not None:
            return (
                f"{self.model_id} has no place: this node keeps {_counted(self.most_models)} loaded at most, and these "
                f"are pinned: {pinned}. Unpin one, or start the node with a larger --max-models."
            )
        pool = max(self.needed, key=lambda pool: self.needed[pool] - self.most.get(pool, self.needed[pool]))
        most, reserve = max(self.most.get(pool, 0), 0), self.reserve.get(pool, 0)
        by_limit = most < self.system.get(pool, most)
        if by_limit:
            parts = [f"models may take {size_text(self.limit[pool])} together (--memory)"]
        else:
            parts = [f"{size_text(self.free.get(pool, 0))} are free now"]
            if back := {model_id: taken[pool] for model_id, taken in self.others if taken.get(pool)}:
                parts.append(f"unloading {', '.join(back)} gives back {size_text(sum(back.values()))}")
            parts += [f"{size_text(reserve)} are kept for the system"] if reserve else []
        remedies = [
            *(["unpin one"] if pinned else []),
            "choose a smaller model or a smaller quantization",
            "raise --memory" if by_limit else "close what else uses the memory",
        ]
        remedy = _enumerated(remedies, "or")
        return (
            f"{self.model_id} needs {size_text(self.needed[pool])} of {pool_words(pool)} and at most {size_text(most)} "
            f"could be free: {_enumerated(parts, 'and')}.{f' Pinned: {pinned}.' if pinned else ''} "
            f"{remedy[0].upper()}{remedy[1:]}."
        )


@dataclass(frozen=True, slots=True)
class Resume:
    """It is draining, and nobody waits for its room any more: it may take new requests again, if it was for that."""


Decision = Room | Wait | NoRoom
PlannedDecision = Decision | Resume


def make_room(
    wanted: Wanted,
    held: Sequence[Holding],
    free: Bytes,
    limit: Bytes,
    reserve: Bytes,
    most_models: int | None,
    now: float,
) -> Decision:
    """What has to happen for `wanted`, which loads nobody yet, as if it waited alone. The same input, the same answer.

    `free` is what the system has free of each pool, all that is held excluded; a pool that is not in it is not
    bounded by that. `limit` is what models may take together; a pool that is not in it has none. At most `most_models`
    are loaded. A holding of the same id that is leaving is waited for; another one is an error: raises ValueError.
    """
    return _decide(wanted, _Books(_by_id(held), free, limit, reserve, most_models), now)[0]


def plan(
    queue: Sequence[Wanted],
    held: Sequence[Holding],
    free: Bytes,
    limit: Bytes,
    reserve: Bytes,
    most_models: int | None,
    now: float,
) -> tuple[tuple[Wanted, PlannedDecision], ...]:
    """A decision for each model in `queue`, those that wait longest first; all of them may be carried out together.

    Loads come one after the other, but where `PLAINLY` times the memory is there. Of those that wait for a pool only
    the first has others unloaded or drained for it; those behind are loaded where that takes nothing it waits for:
    neither the memory that is free, nor any that will be.
    """
    books = _Books(_by_id(held), free, limit, reserve, most_models)
    after = books  # as it will be once those before have what they wait for
    claimed: set[PoolName] = set()  # pools that somebody before waits for
    decided: list[tuple[Wanted, PlannedDecision]] = []
    in_turn = False  # whether somebody before waits for nothing but the load of another
    for wanted in sorted(queue, key=lambda wanted: (wanted.since, wanted.model_id)):
        decision, gone = _decide(wanted, books, now)
        if isinstance(decision, NoRoom):
            decided.append((wanted, decision))
            continue
        pools = {pool for option in wanted.options for pool in option}
        if in_turn or (claimed and (pools & claimed or most_models is not None)):
            decision, gone = Wait() if in_turn else _behind(wanted, books, after, decision), frozenset[str]()
        if isinstance(decision, Room):
            need = wanted.options[decision.option]
            if books.loads_beside(need, decision):
                books = books.without(decision.unload).with_loading(wanted.model_id, need, now)
                after = after.without(decision.unload).with_loading(wanted.model_id, need, now)
                decided.append((wanted, decision))
                continue
            decision, gone, in_turn = Wait(), frozenset(decision.unload), True
        elif not claimed and any(
            holding.model_id == wanted.model_id and holding.phase == "draining" for holding in held
        ):
            decided.append((wanted, Resume()))
            continue
        after = after.without(gone)
        need = next((option for option in wanted.options if after.fits(option, ())), min(wanted.options, key=_total))
        after = after.with_loading(wanted.model_id, need, now)
        claimed |= pools
        decided.append((wanted, decision))
    return tuple(decided)


def under_pressure(held: Sequence[Holding], free: Bytes, reserve: Bytes, now: float) -> tuple[str, ...]:
    """Idle models to unload because others took the memory: where less than half of a pool's reserve is free.

    Those whose return does the least harm go first, as many as bring the reserve back, counting what leaves already.
    """
    leaving = [holding for holding in held if holding.phase in LEAVING]
    gone: dict[str, Holding] = {}
    for pool in sorted(reserve):
        if pool not in free or free[pool] * 2 >= reserve[pool]:
            continue
        for holding in sorted(
            (holding for holding in held if holding.removable and holding.taken.get(pool, 0) > 0),
            key=lambda holding: (holding.harm(now), holding.model_id),
        ):
            coming = sum(going.taken.get(pool, 0) for going in (*leaving, *gone.values()))
            if free[pool] + coming >= reserve[pool]:
                break
            gone[holding.model_id] = holding
    return tuple(gone)


def expired(held: Sequence[Holding], now: float) -> tuple[str, ...]:
    """Idle models that nobody wanted for as long as their `ttl_s` allows."""
    return tuple(
        holding.model_id
        for holding in held
        if holding.removable and holding.ttl_s is not None and now - holding.wanted_at >= holding.ttl_s
    )


def next_expiry(held: Sequence[Holding]) -> float | None:
    """The instant at which the first of those that are idle now expires; None where none ever does."""
    return min(
        (holding.wanted_at + holding.ttl_s for holding in held if holding.removable and holding.ttl_s is not None),
        default=None,
    )


def reserve_of(total_bytes: int) -> int:
    """What is left to the system of a pool of that size: for the moment between a look and a load, and for others."""
    return max(LEAST_RESERVE_BYTES, min(total_bytes // RESERVE_SHARE, MOST_RESERVE_BYTES))


def pool_words(pool: PoolName) -> str:
    """The pool in a sentence: "RAM", "memory that CPU and GPU share", "the memory of GPU 0"."""
    if pool.startswith("vram"):
        return f"the memory of GPU {pool.removeprefix('vram')}".rstrip()
    return {"ram": "RAM", "unified": "memory that CPU and GPU share"}.get(pool, pool)


@dataclass(frozen=True, slots=True)
class _Books:
    """What is held and what is free of each pool; questions are asked as if some of those held were gone."""

    held: Sequence[Holding]
    free: Bytes
    limit: Bytes
    reserve: Bytes
    most_models: int | None

    def room(self, pool: PoolName, gone: Collection[str]) -> float:
        """What may be taken of `pool`: without end where nobody knows what is free and there is no limit."""
        kept = [holding for holding in self.held if holding.model_id not in gone]
        growth = sum(holding.growth.get(pool, 0) for holding in kept)
        room = math.inf
        if pool in self.free:
            back = sum(holding.taken.get(pool, 0) for holding in self.held if holding.model_id in gone)
            room = self.free[pool] + back - growth - self.reserve.get(pool, 0)
        if pool in self.limit:
            of_models = [holding for holding in kept if holding.is_model]
            sizes = [holding.taken.get(pool, 0) + holding.growth.get(pool, 0) for holding in of_models]
            room = min(room, self.limit[pool] - sum(sizes))
        return room

    def places_short(self, gone: Collection[str]) -> int:
        """How many more have to go so that the count allows one more."""
        if self.most_models is None:
            return 0
        kept = sum(holding.is_model and holding.model_id not in gone for holding in self.held)
        return max(0, kept + 1 - max(self.most_models, 1))

    def fits(self, need: Bytes, gone: Collection[str]) -> bool:
        room_for_all = all(size <= self.room(pool, gone) for pool, size in need.items() if size > 0)
        return room_for_all and not self.places_short(gone)

    def loads_beside(self, need: Bytes, room: Room) -> bool:
        """Whether a load may begin now: none is in progress, or there is plainly enough memory for both."""
        if not any(holding.phase == "loading" for holding in self.held):
            return True
        return not room.unload and self.fits({pool: size * PLAINLY for pool, size in need.items()}, ())

    def without(self, gone: Collection[str]) -> _Books:
        """The same once those are gone, and their memory is back."""
        going = [holding for holding in self.held if holding.model_id in gone]
        free = {pool: size + sum(holding.taken.get(pool, 0) for holding in going) for pool, size in self.free.items()}
        return replace(self, held=tuple(holding for holding in self.held if holding not in going), free=free)

    def with_loading(self, model_id: str, need: Bytes, now: float) -> _Books:
        """The same once a load of `model_id` has begun, which has taken nothing yet."""
        begun = Holding(model_id, {}, idle=False, pinned=False, wanted_at=now, load_s=0.0, phase="loading", growth=need)
        return replace(self, held=(*self.held, begun))


def _decide(wanted: Wanted, books: _Books, now: float) -> tuple[Decision, frozenset[str]]:
    """The decision for one model alone, and all that will be gone by the time it is loaded."""
    held = books.held
    leaving = frozenset(holding.model_id for holding in held if holding.phase in LEAVING)
    own = next((holding for holding in held if holding.model_id == wanted.model_id), None)
    if own is not None:
        if own.phase not in LEAVING:
            raise ValueError(f"{wanted.model_id} is {own.phase}: who wants it has it")
        return Wait(), leaving
    soon = frozenset(holding.model_id for holding in held if holding.phase == "unloading")
    removable = [holding for holding in held if holding.removable]
    stale = [holding for holding in removable if now - holding.wanted_at >= STALE_S]
    tries = [(number, stale) for number in range(min(len(wanted.options), 2))]
    tries += [(number, removable) for number in range(len(wanted.options))]
    for number, candidates in tries:
        unload = _least_harm(wanted.options[number], candidates, books, soon, now)
        if unload is None:
            continue
        if books.fits(wanted.options[number], unload):
            return Room(number, unload), frozenset(unload)
        return Wait(unload), soon.union(unload)  # an engine that is ending takes seconds, and its memory is back
    drained = _drained(wanted, books, leaving, now)
    if drained is not None:
        busy_s = sum(holding.load_s for holding in held if holding.model_id in drained and not holding.removable)
        patient_until = wanted.since + min(busy_s, MOST_PATIENCE_S)
        waits = Wait((), patient_until) if now < patient_until else Wait(drained)
        return waits, leaving.union(drained)
    unpinned = frozenset(holding.model_id for holding in held if not holding.pinned or holding.phase in LEAVING)
    if any(books.fits(option, unpinned) for option in wanted.options):
        return Wait(), unpinned  # for what loads: those who wait for it come first
    return _no_room(wanted, books, unpinned), frozenset()


def _drained(wanted: Wanted, books: _Books, leaving: frozenset[str], now: float) -> tuple[str, ...] | None:
    """The models that have to go, busy ones among them, where the memory of those that leave already is not enough.

    () where it is. Of all options the one that does the least harm; of equals the best one.
    """
    drainable = [holding for holding in books.held if holding.drainable]
    harm = {holding.model_id: holding.harm(now) for holding in drainable}
    sets = [_least_harm(option, drainable, books, leaving, now) for option in wanted.options]
    found = [chosen for chosen in sets if chosen is not None]
    return min(found, key=lambda chosen: sum(harm[model_id] for model_id in chosen), default=None)


def _behind(wanted: Wanted, books: _Books, after: _Books, alone: Decision) -> Decision:
    """The decision for one who is not the first: it takes nothing that those before it wait for, so it may go ahead.

    `alone` is what it would be told without them.
    """
    if isinstance(alone, Room):
        for number, option in enumerate(wanted.options):
            if books.fits(option, ()) and after.fits(option, ()):
                return Room(number)
    return Wait()


def _least_harm(
    need: Bytes, candidates: Sequence[Holding], books: _Books, base: frozenset[str], now: float
) -> tuple[str, ...] | None:
    """Of all sets of `candidates` that make room for `need`, beside those in `base`, the one that does the least harm.

    The smaller set of equals, then the first by its ids. None where not even all of them suffice.
    """
    short = {pool: size - books.room(pool, base) for pool, size in need.items() if size > 0}
    cover = _Cover({pool: size for pool, size in short.items() if size > 0}, books.places_short(base))
    # Whoever goes gives back what it has taken and what was promised to it, of what is free and of the limit alike.
    items = [
        _Item(
            holding.model_id,
            holding.harm(now),
            {pool: holding.taken.get(pool, 0) + holding.growth.get(pool, 0) for pool in cover.short},
        )
        for holding in candidates
        if holding.model_id not in base
    ]
    return cover.cheapest(sorted(items, key=lambda item: (item.harm, item.model_id)))


@dataclass(frozen=True, slots=True)
class _Item:
    """A model that may go: what that costs, and what it gives back of each pool that is short."""

    model_id: str
    harm: float
    gives: Bytes


@dataclass(slots=True)
class _Cover:
    """A search for the cheapest items that give back `short` of each pool, and `places`: exact, within `MOST_LOOKS`."""

    short: Mapping[PoolName, float]
    places: int
    _best: tuple[float, int, tuple[str, ...]] | None = None
    _looks: int = 0

    def cheapest(self, items: Sequence[_Item]) -> tuple[str, ...] | None:
        """The ids, sorted. `items` are sorted by what they cost."""
        if self._covered(()):
            return ()
        if not self._covered(items):
            return None
        self._note(self._pruned(items))
        self._search(items, [], 0.0)
        return None if self._best is None else self._best[2]

    def _covered(self, chosen: Sequence[_Item]) -> bool:
        return len(chosen) >= self.places and all(
            sum(item.gives[pool] for item in chosen) >= size for pool, size in self.short.items()
        )

    def _note(self, chosen: Sequence[_Item]) -> None:
        key = (sum(item.harm for item in chosen), len(chosen), tuple(sorted(item.model_id for item in chosen)))
        if self._best is None or key < self._best:
            self._best = key

    def _pruned(self, items: Sequence[_Item]) -> list[_Item]:
        """The cheapest until they suffice; then what is superfluous stays after all, the dearest first."""
        chosen: list[_Item] = []
        for item in items:
            chosen.append(item)
            if self._covered(chosen):
                break
        for item in reversed(chosen.copy()):
            rest = [other for other in chosen if other is not item]
            if self._covered(rest):
                chosen = rest
        return chosen

    def _search(self, items: Sequence[_Item], chosen: list[_Item], harm: float) -> None:
        """Every set of `chosen` and some of `items` that may be cheaper than the best so far."""
        self._looks += 1
        if self._covered(chosen):
            self._note(chosen)
            return
        for number, item in enumerate(items):
            if self._best is not None and harm + item.harm > self._best[0]:
                return  # those that follow cost more
            if self._looks >= MOST_LOOKS or not self._covered([*chosen, *items[number:]]):
                return
            self._search(items[number + 1 :], [*chosen, item], harm + item.harm)


def _no_room(wanted: Wanted, books: _Books, unpinned: frozenset[str]) -> NoRoom:
    needed = min(wanted.options, key=_total)
    unlimited = replace(books, limit=_NOTHING)
    return NoRoom(
        wanted.model_id,
        needed,
        most=_known({pool: books.room(pool, unpinned) for pool in needed}),
        system=_known({pool: unlimited.room(pool, unpinned) for pool in needed}),
        free=books.free,
        reserve=books.reserve,
        limit=books.limit,
        pinned=tuple(
            (holding.model_id, _total(holding.taken) + _total(holding.growth))
            for holding in books.held
            if holding.model_id not in unpinned
        ),
        others=tuple((holding.model_id, holding.taken) for holding in books.held if holding.model_id in unpinned),
        most_models=books.most_models if books.places_short(unpinned) else None,
    )


def _known(rooms: Mapping[PoolName, float]) -> Bytes:
    return {pool: int(room) for pool, room in rooms.items() if room != math.inf}


def _by_id(held: Sequence[Holding]) -> list[Holding]:
    """In an order that says nothing: the same models, the same decision."""
    return sorted(held, key=lambda holding: holding.model_id)


def _total(sizes: Bytes) -> int:
    return sum(sizes.values())


def _counted(models: int) -> str:
    return "1 model" if models == 1 else f"{models} models"


def _enumerated(parts: Sequence[str], word: str) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(parts) < 3:
        return f" {word} ".join(parts)
    return f"{', '.join(parts[:-1])}, {word} {parts[-1]}"
