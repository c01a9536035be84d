"""This node's models: those that run, those that could, and how one comes and goes.

A model's life is in `life.py`, who has to go for whom in `ledger.py`; here are the effects. One task, the *keeper*,
loads and unloads: whoever wants a model that does not run waits for it in order of arrival, and one load serves all
that wait. Whoever uses a model holds it (`using`), and what is held is never unloaded. A waiter that leaves takes only
itself away: a load that others wait for, or that has begun, goes on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from federation.tasks import cancel_and_wait, report_crash, tell_each
from swarm.engines.engine import Engine
from swarm.errors import (
    DeadlineExceeded,
    EngineFailed,
    LenderLost,
    SwarmError,
    Unavailable,
    UnknownArchitecture,
    UnknownModel,
)
from swarm.workers.held_model import HeldModel, Use
from swarm.workers.ledger import (
    Bytes,
    Holding,
    NoRoom,
    Resume,
    Room,
    Wait,
    Wanted,
    expired,
    next_expiry,
    plan,
    under_pressure,
)
from swarm.workers.life import AS_ASKED, GIVEN, UNDER_PRESSURE, UNWANTED, WANTED_FOR, LifeEvent
from swarm.workers.loadable import Loadable, LoadOption, MemoryRules, ModelSource, NoModels
from swarm.workers.model_workers import DEFAULT_QUEUE, Loader, LoadProgress, ModelState, ModelWorkers
from swarm.workers.slots import QueueListener, retry_after_s, worker_names

log = logging.getLogger(__name__)

LOOK_S = 0.25  # between two looks at whether models that are to go are idle, while somebody waits for their memory
TICK_S = 5.0  # between two looks at free memory and at models that nobody has wanted for long
MEMORY_BACK_S = 3.0  # a system may take so long to have the memory of a process that ended
MEMORY_LOOKS = 60  # in that time
UNHURRIED_LOOK = 5  # the looks before this one come sooner: nearly always the second finds that nothing more comes
BACK_SHARE = 0.8  # of what an unloaded model took: what is back by then is all that comes
GROWING_SHARE = 0.05  # of it, between two looks: less, and of RAM no more comes
PEER_LOAD_S = 60.0  # one load in so long may be caused by peers
FIRST_RETRY_S, MOST_RETRY_S = 2.0, 300.0  # after a load that failed; doubled each time
FILE_GONE = "its file is gone"
NO_ROOM_RETRY_AFTER_S = 60  # what does not fit may fit when somebody has closed a program


@dataclass(frozen=True, slots=True)
class PoolPace:
    """Seconds: see the constants of these names. In each `peer_load_s` peers may cause `peer_loads` loads."""

    look_s: float = LOOK_S
    tick_s: float = TICK_S
    memory_back_s: float = MEMORY_BACK_S
    peer_load_s: float = PEER_LOAD_S
    peer_loads: int = 1

    @staticmethod
    def for_peers(loads_a_minute: int) -> PoolPace:
        """With so many loads that peers may cause; 0 is none."""
        return PoolPace(peer_load_s=60.0, peer_loads=loads_a_minute)


class LoadListener(Protocol):
    """Who keeps what loads took."""

    def note_load(self, model: Loadable, way: LoadOption, took_s: float, taken_bytes: int | None) -> None:
        """A load took so long, and its engine so much memory, None where nobody knows."""
        ...


class NoRoomFor(Unavailable):
    """A model does not fit beside what stays, with the numbers."""


@dataclass(slots=True, eq=False)
class _Wish:
    """A load that is asked for since `since`, and who waits for it: for a hold on the model, once it runs."""

    model_id: str
    since: float
    for_peer: bool
    stays: bool = False  # it is loaded even where nobody waits
    returnable: bool = False  # its place among what peers may cause, while nothing was unloaded for it
    waiters: list[asyncio.Future[Use]] = field(default_factory=list["asyncio.Future[Use]"])

    def refuse(self, error: SwarmError) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


class WorkerPool:
    """Every model this node serves itself. Use as `async with`.

    At most `queue` requests wait for each model's workers. `listeners` are told of waits and refusals; add to them at
    any time. `source` has the models that can be loaded, by the rules of `memory`; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        node_id: str,
        queue: int = DEFAULT_QUEUE,
        source: ModelSource | None = None,
        memory: MemoryRules | None = None,
        records: LoadListener | None = None,
        clock: Callable[[], float] = time.monotonic,
        pace: PoolPace | None = None,
    ) -> None:
        self._names = worker_names(node_id)
        self._queue = queue
        self._source: ModelSource = source or NoModels()
        self._memory = memory or MemoryRules()
        self._records = records
        self._clock = clock
        self._pace = pace or PoolPace()
        self.listeners: list[QueueListener] = []
        self.held_beside: Callable[[], Sequence[Holding]] = tuple[Holding, ...]  # what else takes this node's memory
        self._subscribers: list[Callable[[LifeEvent], None]] = []
        self._models: dict[str, HeldModel] = {}
        self._wishes: dict[str, _Wish] = {}  # what is to be loaded, or is being loaded, by model; in order of arrival
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._pinned: set[str] = set()
        self._peer_loads: deque[float] = deque()  # when peers caused one, lately
        self._free: Bytes | None = None  # when last looked; None before
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False

    def load_from(self, source: ModelSource, memory: MemoryRules, records: LoadListener) -> None:
        """From now on the models of `source` can be loaded; before anything is wanted."""
        self._source, self._memory, self._records = source, memory, records

    async def __aenter__(self) -> WorkerPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        for wish in self._wishes.values():
            wish.refuse(Unavailable("the node is shutting down: ask another node"))
        try:
            await cancel_and_wait(self._keeper, *self._loads.values())
        finally:
            models = list(self._models.values())
            self._models.clear()
            async with AsyncExitStack() as stack:  # all of them, whatever one raises
                for own in models:
                    stack.push_async_callback(own.stack.aclose)
                    for gone in own.gone:
                        if not gone.done():
                            gone.set_result(None)

    # What there is

    def get(self, model_id: str) -> ModelWorkers | None:
        """The workers of a model that is loaded."""
        own = self._models.get(model_id)
        return None if own is None else own.workers

    def states(self) -> tuple[ModelState, ...]:
        """Every model that is loaded, on its way to or from it, or could not be loaded."""
        told = (own for own in self._models.values() if own.phase != "available")
        return tuple(self._state(own) for own in told if own.workers is not None or own.model is not None)

    def stored(self) -> Sequence[Loadable]:
        """Every model that lies on this node's disks, loaded or not."""
        return self._source.all()

    def fits(self, model: Loadable) -> bool:
        """Whether its weights would find room, by what was free when last looked, were all unloaded but the pinned.

        For a choice among nodes; whether it is loaded is planned when it is wanted.
        """
        if self._free is None:  # nothing was ever loaded
            self._stir()
            return True
        pinned, rest = Counter[str](), Counter[str]()
        for own in self._models.values():
            (pinned if own.pinned else rest).update(own.taken)
        rules = self._memory
        for pool, need in model.usual.need.items():
            least = min(need, model.size_bytes) if model.size_bytes else need
            room = [rules.limit[pool] - pinned[pool]] if pool in rules.limit else []
            if pool in self._free:
                room.append(self._free[pool] + rest[pool] - rules.reserve.get(pool, 0))
            if room and min(room) < least:
                return False
        return True

    async def free(self) -> Bytes:
        """What the system has free of each pool, now, as far as anybody knows."""
        return await self._memory.free()

    def loadables(self) -> tuple[Loadable, ...]:
        """The models that could be loaded and are not."""
        return tuple(model for model in self._source.all() if self._rests(model.model_id))

    def loadable(self, model_id: str) -> Loadable | None:
        """The same for one of them."""
        return self._source.find(model_id) if self._rests(model_id) else None

    def _rests(self, model_id: str) -> bool:
        own = self._models.get(model_id)
        return own is None or (own.workers is None and own.phase in ("available", "failed"))

    def engine_of(self, model_id: str) -> str | None:
        """The name of the engine that runs the model, or would; None for none of this node's."""
        own = self._models.get(model_id)
        if own is not None and own.workers is not None:
            return own.workers.engine.name
        model = self._source.find(model_id)
        return None if model is None else model.engine

    def _state(self, own: HeldModel) -> ModelState:
        if own.workers is not None:
            state = own.workers.state()
        else:
            model = own.model
            assert model is not None, "what has no workers came from the source"
            option = own.option or model.usual
            wish = self._wishes.get(own.model_id)
            state = ModelState(
                model_id=own.model_id,
                engine=model.engine,
                slots=option.slots,
                slots_free=0,
                context_tokens=option.context_tokens,
                capabilities=model.capabilities,
                params=model.params,
                tokens_per_s=None,
                problem=None,
                waiting=0 if wish is None else len(wish.waiters),
                nodes=option.nodes,
            )
        return replace(
            state,
            phase=own.phase,
            reason=own.life.reason,
            pinned=own.pinned,
            fingerprint=own.model and own.model.fingerprint,
            sha256=own.model and own.model.sha256,
            size_bytes=own.model and own.model.size_bytes,
            taken_bytes=sum(own.taken.values()) or None,
            taken=own.taken,
            load=self._progress(own),
            load_s=own.load_s,
            also=own.model.also if own.model else (),
            unloads_in_s=own.unloads_in_s,
        )

    def _progress(self, own: HeldModel) -> LoadProgress | None:
        if own.model_id not in self._loads:
            return None
        return LoadProgress(self._clock() - own.life.since, own.model and own.model.expected_load_s)

    def refusal(self, model_id: str | None) -> Unavailable | None:
        """What to tell who asks for a loaded model that does not run now; `model_id` None for any of them."""
        models = self._models.values() if model_id is None else filter(None, [self._models.get(model_id)])
        loaded = (own.workers for own in models if own.workers is not None)
        refusals = [refusal for workers in loaded if (refusal := workers.refusal) is not None]
        return min(refusals, key=lambda refusal: refusal.retry_after_s, default=None)

    def expected_wait_s(self) -> float | None:
        """The shortest wait for one worker of any model; None while no model knows."""
        loaded = (own.workers for own in self._models.values() if own.workers is not None)
        waits = [workers.expected_wait_s() for workers in loaded]
        return min((wait for wait in waits if wait is not None), default=None)

    def subscribe(self, callback: Callable[[LifeEvent], None]) -> None:
        """Call `callback` with every change in a model's life, from now on."""
        self._subscribers.append(callback)

    def _tell(self, event: LifeEvent) -> None:
        log.info("model %s: %s: %s", event.model_id, event.after, event.reason)
        tell_each(self._subscribers, event)

    # What is asked for

    async def serve(self, load: Loader, params: int | None = None) -> ModelWorkers:
        """Load one more model, whatever it takes, and keep it. `params` is its parameter count, where known."""
        workers = ModelWorkers(load, self._names, params, queue=self._queue, listeners=self.listeners)
        stack = AsyncExitStack()
        await stack.enter_async_context(workers)
        own = HeldModel(workers.engine.model_id, self._tell, self._clock)
        own.workers, own.stack, own.pinned = workers, stack, True
        workers.on_change = own.heard
        self._models[own.model_id] = own
        own.go("loading", GIVEN)
        own.go("ready", GIVEN)
        return workers

    @asynccontextmanager
    async def using(
        self, model_id: str, deadline: float | None = None, for_peer: bool = False, if_loaded: bool = False
    ) -> AsyncGenerator[ModelWorkers]:
        """The workers of a model, loaded if need be; it is not unloaded within the block. Raises as `ensure` does.

        `if_loaded`: nothing is loaded for this, and Unavailable raised where it does not run.
        """
        own = self._models.get(model_id)
        if if_loaded and (own is None or not own.open):
            raise Unavailable(f"model {model_id!r} is not loaded")
        give_back = await self._hold(model_id, deadline, for_peer)
        try:
            workers = self._models[model_id].workers
            assert workers is not None, "what is held is loaded"
            yield workers
        finally:
            give_back()
            if self._wishes or any(own.phase == "draining" or own.ttl_s == 0 for own in self._models.values()):
                self._wake.set()  # else the keeper, which reads free memory, would have a turn for each request

    async def ensure(self, model_id: str, deadline: float | None = None, for_peer: bool = False) -> None:
        """Return when the model is loaded.

        Raises UnknownModel for none of this node's, Unavailable where it will not be loaded by `deadline` (an instant
        of the clock), where there is no room for it, or where peers (`for_peer`) have caused a load too lately, and
        EngineFailed where the load fails.
        """
        (await self._hold(model_id, deadline, for_peer))()

    def begin(self, model_id: str, for_peer: bool = False) -> None:
        """Have the model loaded, for whoever comes later. Raises at once what `ensure` does without waiting."""
        own = self._models.get(model_id)
        if own is None or not own.open:
            self._wish(model_id, None, for_peer).stays = True
            self._stir()

    async def _hold(self, model_id: str, deadline: float | None, for_peer: bool) -> Use:
        own = self._models.get(model_id)
        if own is not None and own.open:
            own.for_peers = own.for_peers and for_peer
            return own.use()
        wish = self._wish(model_id, deadline, for_peer)
        waiter: asyncio.Future[Use] = asyncio.get_running_loop().create_future()
        wish.waiters.append(waiter)
        self._stir()
        limit = asyncio.timeout(None if deadline is None else max(0.0, deadline - self._clock()))
        try:
            async with limit:
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result()()  # it came in the same moment
            if isinstance(error, TimeoutError) and limit.expired():
                raise DeadlineExceeded(f"model {model_id!r} was not loaded by the request's deadline") from None
            raise
        finally:
            wish.waiters.remove(waiter)
            if self._is_idle(wish):
                del self._wishes[model_id]
                self._stir()

    def _is_idle(self, wish: _Wish) -> bool:
        """Whether nobody waits for it any more, and its load has not begun."""
        is_current = self._wishes.get(wish.model_id) is wish
        return is_current and not wish.waiters and not wish.stays and wish.model_id not in self._loads

    def _wish(self, model_id: str, deadline: float | None, for_peer: bool) -> _Wish:
        """The wish to join, or a new one. Raises what is refused at once."""
        if self._closing:
            raise Unavailable("the node is shutting down: ask another node")
        now, own = self._clock(), self._models.get(model_id)
        model = own.model if own is not None and own.workers is not None else self._source.find(model_id)
        if model is None and own is None:
            raise UnknownModel(model_id, tuple(state.model_id for state in self.states()))
        if own is not None and own.workers is None and now < (retry_at := own.life.retry_at or now):
            left_s = math.ceil(retry_at - now)
            raise Unavailable(f"model {model_id!r} could not be loaded: {own.life.reason}; again in {left_s} s", left_s)
        load_s = None if model is None else model.expected_load_s
        if deadline is not None and load_s is not None and now + load_s > deadline:
            raise Unavailable(
                f"model {model_id!r} takes about {load_s:.0f} s to load, and the request's deadline is in "
                f"{max(0.0, deadline - now):.0f} s: try again later, or allow more time",
                retry_after_s(load_s),
            )
        known = self._wishes.get(model_id)
        if known is not None:
            known.for_peer = known.for_peer and for_peer
            return known
        if for_peer:
            self._count_for_peers(now)
        wish = self._wishes[model_id] = _Wish(model_id, now, for_peer, returnable=for_peer)
        return wish

    def _count_for_peers(self, now: float) -> None:
        """Raises Unavailable where peers have caused a load too lately."""
        if not self._pace.peer_loads:
            raise Unavailable("this node loads nothing for peers ([peers] loads_a_minute = 0)", NO_ROOM_RETRY_AFTER_S)
        while self._peer_loads and now >= self._peer_loads[0] + self._pace.peer_load_s:
            self._peer_loads.popleft()
        if len(self._peer_loads) >= self._pace.peer_loads:
            left_s = math.ceil(self._peer_loads[0] + self._pace.peer_load_s - now)
            raise Unavailable(f"peers had this node load a model lately: it loads for them again in {left_s} s", left_s)
        self._peer_loads.append(now)

    async def unload(self, model_id: str, reason: str = AS_ASKED) -> None:
        """Return when the model is unloaded; what runs on it ends first, and what comes meanwhile has it loaded again.

        Raises UnknownModel for one that is not loaded.
        """
        own = self._models.get(model_id)
        if own is not None and model_id in self._loads:
            await asyncio.wait({self._loads[model_id]})
        if own is None or own.phase == "available" or self._models.get(model_id) is not own:
            raise UnknownModel(model_id, tuple(state.model_id for state in self.states()), "it is not loaded")
        if own.phase == "failed":
            await self._give_up(own, reason)
            return
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        own.gone.append(gone)
        own.goes_for = None
        if own.phase == "ready":
            own.go("draining", reason)
        self._stir()
        await gone

    def pin(self, model_id: str, pinned: bool = True) -> None:
        """Never make room by unloading this model; or do so again. Raises UnknownModel for none of this node's."""
        own = self._models.get(model_id)
        if own is None and self._source.find(model_id) is None:
            raise UnknownModel(model_id, tuple(state.model_id for state in self.states()))
        (self._pinned.add if pinned else self._pinned.discard)(model_id)
        if own is not None:
            own.pinned = pinned
        self._wake.set()

    def keep(self, model_id: str, idle_s: float) -> bool:
        """Let the model go when nobody has wanted it for `idle_s`, for as long as it is loaded; whether that is new.

        0: as soon as nobody uses it; infinite: when its memory is wanted. A pinned one stays, whatever this says.
        Raises UnknownModel for one that is not loaded.
        """
        own = self._models.get(model_id)
        if own is None or (own.option is None and own.workers is None):
            raise UnknownModel(model_id, tuple(state.model_id for state in self.states()), "it is not loaded")
        if own.kept_s == idle_s:
            return False
        own.kept_s = idle_s
        self._stir()
        return True

    def try_again(self, model_id: str) -> None:
        """What the model could not be loaded without may be there: it is not waited for any longer.

        Where it is to stay loaded it is loaded by itself.
        """
        own = self._models.get(model_id)
        if own is None or own.workers is not None or own.phase != "failed":  # loaded again by its own workers
            return
        own.life.retry_at = None
        if own.pinned or model_id in self._pinned:
            self.begin(model_id)

    def held_bytes(self, but: str = "") -> Bytes:
        """What all models take, or are promised, of each pool; all but that one. Lent memory is no model's."""
        held = Counter[str]()
        for holding in self._held():
            if holding.is_model and holding.model_id != but:
                held.update(holding.taken)
                held.update(holding.growth)
        return held

    # The keeper

    def _stir(self) -> None:
        """Something has changed that the keeper is to act on."""
        self._wake.set()
        if self._keeper is None and not self._closing:
            self._keeper = asyncio.create_task(self._keep(), name="keeper of the models")
            report_crash(self._keeper, log, "loading models failed")

    async def _keep(self) -> None:
        try:
            await self._keep_on()
        except Exception:  # a defect: nobody waits for what will not come, and whoever comes next starts it anew
            self._keeper = None
            for wish in list(self._wishes.values()):
                self._refuse(wish, EngineFailed(f"{wish.model_id} could not be loaded: see this node's log"))
            raise

    async def _keep_on(self) -> None:
        while True:
            self._wake.clear()
            await self._unload_what_goes()
            await self._carry_out_plan()
            try:
                async with asyncio.timeout(self._rest_s()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _rest_s(self) -> float:
        """Until the keeper looks again, if nothing happens before."""
        waits = self._wishes.keys() - self._loads.keys()
        if waits or any(own.phase == "draining" for own in self._models.values()):
            return self._pace.look_s
        expires_at = next_expiry(self._held())
        until_s = math.inf if expires_at is None else max(expires_at - self._clock(), self._pace.look_s)
        return min(self._pace.tick_s, until_s)

    async def _unload_what_goes(self) -> None:
        for own in [own for own in self._models.values() if own.phase == "draining"]:
            if own.goes_for is not None and own.goes_for not in self._wishes and not own.gone:
                own.go("ready", "its memory is not wanted any more")
                self._grant(own)
            elif own.idle:
                await self._unload(own, own.life.reason)
        for own in [own for own in self._models.values() if own.phase == "failed"]:
            if own.gone:
                await self._give_up(own, AS_ASKED)
            elif own.model is not None and not own.pinned and self._source.find(own.model_id) is None:
                await self._give_up(own, FILE_GONE)
        held, now = self._held(), self._clock()
        for model_id in expired(held, now):
            await self._unload_idle(model_id, UNWANTED)
        self._free = await self._memory.free()
        for model_id in under_pressure(held, self._free, self._memory.reserve, now):
            await self._unload_idle(model_id, UNDER_PRESSURE)

    async def _unload_idle(self, model_id: str, reason: str) -> None:
        own = self._models.get(model_id)
        if own is None or own.pinned:
            return
        if own.phase == "failed":
            await self._give_up(own, reason)
        elif own.phase == "ready" and own.idle:
            await self._unload(own, reason)

    async def _give_up(self, own: HeldModel, reason: str) -> None:
        """Its engine broke: it is not loaded again before somebody wants it."""
        own.go("available", reason)
        self._forget(own)
        await own.stack.aclose()

    async def _unload(self, own: HeldModel, reason: str) -> None:
        """Its memory is back afterwards, as far as the system gives it back soon."""
        own.go("unloading", reason)
        before, taken = await self._memory.free(), own.taken
        stack, own.stack, own.workers, own.goes_for = own.stack, AsyncExitStack(), None, None
        try:
            await stack.aclose()
            last = before
            for number in range(MEMORY_LOOKS):
                now = await self._memory.free()
                if _is_back(before, now, taken) or _has_settled(last, now, taken):
                    break
                last = now
                pause_s = self._pace.memory_back_s / MEMORY_LOOKS
                await asyncio.sleep(pause_s * min(1.0, (number + 1) / UNHURRIED_LOOK))
        finally:
            own.option = None
            own.go("available", own.life.reason)
            self._forget(own)

    def _forget(self, own: HeldModel) -> None:
        if self._models.get(own.model_id) is own:
            del self._models[own.model_id]
        for gone in own.gone:
            if not gone.done():
                gone.set_result(None)

    def _held(self) -> list[Holding]:
        models = [own.holding() for own in self._models.values() if own.option is not None or own.workers is not None]
        return [*models, *self.held_beside()]

    async def _carry_out_plan(self) -> None:
        """Begin what can be loaded, refuse what never can, have room made for the rest."""
        if not self._wishes.keys() - self._loads.keys():
            return
        free = await self._memory.free()
        queue: list[Wanted] = []
        options: dict[str, tuple[LoadOption, ...]] = {}
        for wish in list(self._wishes.values()):
            own = self._models.get(wish.model_id)
            if wish.model_id in self._loads:
                continue
            if own is not None and own.open:
                self._grant(own)
            elif (model := self._source.find(wish.model_id)) is None:
                if own is None or own.workers is None:
                    self._refuse(wish, UnknownModel(wish.model_id, (), FILE_GONE))
            else:
                options[wish.model_id] = ways = model.options(free)
                queue.append(Wanted(wish.model_id, tuple(way.need for way in ways), wish.since))
        rules, now = self._memory, self._clock()
        for wanted, decision in plan(queue, self._held(), free, rules.limit, rules.reserve, rules.most_models, now):
            wish = self._wishes.get(wanted.model_id)
            if wish is None:  # whoever waited left while others were unloaded
                continue
            match decision:
                case NoRoom():
                    if wish.returnable and wish.since in self._peer_loads:  # no load, and others may find room
                        self._peer_loads.remove(wish.since)
                    hint = self._hint(wanted.model_id, free)
                    self._refuse(wish, NoRoomFor(f"{decision.words}{hint}", NO_ROOM_RETRY_AFTER_S))
                case Resume():
                    own = self._models.get(wanted.model_id)
                    if own is not None and own.phase == "draining" and not own.gone:
                        own.go("ready", "its memory is not wanted any more")
                        self._grant(own)
                case Wait():
                    wish.returnable = wish.returnable and not decision.drain
                    for model_id in decision.drain:
                        await self._drain(model_id, wanted.model_id)
                case Room(unload=()):
                    self._begin_load(wish, options[wanted.model_id][decision.option :])
                case Room():  # it is planned anew once they are gone, and what was theirs is counted
                    wish.returnable = False
                    for model_id in decision.unload:
                        await self._unload_idle(model_id, f"{WANTED_FOR}{wanted.model_id}")
                    self._wake.set()
                    return

    async def _drain(self, model_id: str, wanted_for: str) -> None:
        own = self._models.get(model_id)
        if own is not None and own.phase == "failed":
            await self._unload_idle(model_id, f"{WANTED_FOR}{wanted_for}")
        elif own is not None and own.phase == "ready" and not own.pinned:
            own.go("draining", f"{WANTED_FOR}{wanted_for}")
            own.goes_for = wanted_for

    def _hint(self, model_id: str, free: Bytes) -> str:
        """What else could be done for a model that finds no room, as a further sentence."""
        model = self._source.find(model_id)
        hint = "" if model is None else model.hint(free)
        return f" {hint}" if hint else ""

    def _refuse(self, wish: _Wish, error: SwarmError) -> None:
        self._wishes.pop(wish.model_id, None)
        wish.refuse(error)

    def _begin_load(self, wish: _Wish, options: Sequence[LoadOption]) -> None:
        """Load what is wished in the first of the ways in `options`; if that fails, once more in the second."""
        model = self._source.find(wish.model_id)
        if model is None:  # its file went meanwhile
            return
        own = self._models.get(wish.model_id)
        if own is None:
            own = self._models[wish.model_id] = HeldModel(wish.model_id, self._tell, self._clock)
            own.pinned = model.pinned or wish.model_id in self._pinned
        own.model, own.option, own.for_peers, own.kept_s = model, options[0], wish.for_peer, None
        own.go("loading", "a peer asked for it" if wish.for_peer else "it was asked for")
        task = asyncio.create_task(self._load(own, wish, model, options), name=f"load of {wish.model_id}")
        report_crash(task, log, f"{task.get_name()} ended")
        self._loads[wish.model_id] = task

    async def _load(self, own: HeldModel, wish: _Wish, model: Loadable, options: Sequence[LoadOption]) -> None:
        try:
            try:
                workers = await self._enter(own, model)
            except EngineFailed as error:
                if len(options) == 1 or isinstance(error, UnknownArchitecture | LenderLost):
                    raise
                log.warning("model %s: %s: it is tried once more, with less context", own.model_id, error)
                own.option = options[1]
                workers = await self._enter(own, model)
        except (SwarmError, OSError) as error:
            own.option = None
            if isinstance(error, UnknownArchitecture) and self._has_another_way(model):
                own.go("failed", str(error), self._clock())  # and the wish stays: the keeper plans it anew
                return
            own.failures += 1
            retry_at = self._clock() + min(FIRST_RETRY_S * 2 ** (own.failures - 1), MOST_RETRY_S)
            own.go("failed", str(error), retry_at)
            self._refuse(wish, error if isinstance(error, SwarmError) else EngineFailed(str(error)))
        else:
            own.workers, own.failures = workers, 0
            own.load_s = self._clock() - own.life.since
            if self._records is not None and own.option is not None and not own.option.nodes:
                self._records.note_load(model, own.option, own.load_s, workers.engine.taken_bytes)
            own.go("ready", "it is loaded")
            self._grant(own)
        finally:
            del self._loads[own.model_id]
            self._wake.set()

    def _has_another_way(self, model: Loadable) -> bool:
        """Whether its source has meanwhile found another engine for it, which may know what the first did not."""
        found = self._source.find(model.model_id)
        return found is not None and found.build != model.build

    async def _enter(self, own: HeldModel, model: Loadable) -> ModelWorkers:
        async def load() -> Engine:
            assert own.option is not None
            return await model.load(own.option)

        workers = ModelWorkers(
            load, self._names, model.params, queue=self._queue, listeners=self.listeners, on_change=own.heard,
            sleep=model.rest,
        )  # fmt: skip
        return await own.stack.enter_async_context(workers)

    def _grant(self, own: HeldModel) -> None:
        """Everybody who waits for it has it."""
        wish = self._wishes.pop(own.model_id, None)
        own.for_peers = own.for_peers and (wish is None or wish.for_peer)
        for waiter in () if wish is None else wish.waiters:
            if not waiter.done():
                waiter.set_result(own.use())


def _is_back(before: Bytes, now: Bytes, taken: Bytes) -> bool:
    """Whether most of what was taken is free."""
    return all(
        now[pool] >= before[pool] + BACK_SHARE * size for pool, size in taken.items() if pool in now and pool in before
    )


def _has_settled(last: Bytes, now: Bytes, taken: Bytes) -> bool:
    """Whether no more comes back: of RAM, where free memory grows no longer.

    An engine that ended has given back its RAM, and the weights that it had mapped from a file may never have counted
    as taken. A GPU's driver takes its time, and nothing is concluded from that.
    """
    return all(
        pool in ("ram", "unified") and now.get(pool, 0) <= last.get(pool, 0) + GROWING_SHARE * size
        for pool, size in taken.items()
    )
