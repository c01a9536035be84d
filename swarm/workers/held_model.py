"""One model of this node from its first load on: its phase, its workers, who holds it, and what it takes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack

from swarm.workers.ledger import Bytes, Holding
from swarm.workers.life import MENDED, Life, LifeEvent, Phase
from swarm.workers.loadable import NO_BYTES, Loadable, LoadOption
from swarm.workers.model_workers import ModelWorkers

PEER_TTL_S = 600.0  # what only peers have wanted goes when it was idle for so long: it relieved somebody for a while
UNKNOWN_LOAD_S = 10.0  # where nothing is known: a small model from a slow disk

Use = Callable[[], None]  # gives a hold back


class HeldModel:
    """One model of this node, from its first load on. `tell` hears of every change."""

    def __init__(self, model_id: str, tell: Callable[[LifeEvent], None], clock: Callable[[], float]) -> None:
        self.life = Life(model_id, clock())
        self.workers: ModelWorkers | None = None
        self.stack = AsyncExitStack()  # what ends with its engine
        self.model: Loadable | None = None
        self.option: LoadOption | None = None
        self.users = 0
        self.wanted_at = clock()
        self.pinned = False
        self.for_peers = False  # nobody but peers has wanted it since its load
        self.kept_s: float | None = None  # what who manages the node said of this load: see `WorkerPool.keep`
        self.load_s: float | None = None
        self.failures = 0
        self.goes_for: str | None = None  # whose room it drains for
        self.gone: list[asyncio.Future[None]] = []  # who waits for its end
        self._tell = tell
        self._clock = clock

    @property
    def model_id(self) -> str:
        return self.life.model_id

    @property
    def phase(self) -> Phase:
        return self.life.phase

    def go(self, phase: Phase, reason: str, retry_at: float | None = None) -> None:
        self._tell(self.life.move(phase, reason, self._clock(), retry_at))

    @property
    def open(self) -> bool:
        """Whether newcomers may use it: one whose engine broke says so itself."""
        return self.workers is not None and self.phase in ("ready", "failed")

    @property
    def idle(self) -> bool:
        """Whether nobody uses it, by a hold or by a lease."""
        state = None if self.workers is None else self.workers.state()
        works = state is not None and state.problem is None and (state.slots_free < state.slots or state.waiting > 0)
        return not self.users and not works

    @property
    def taken(self) -> Bytes:
        """What its engine was measured to take; what it was estimated to need where that is not known."""
        if self.option is None:
            return NO_BYTES
        measured = None if self.workers is None else self.workers.engine.taken_bytes
        if measured is None or len(self.option.need) != 1:
            return self.option.need
        return dict.fromkeys(self.option.need, measured)

    def use(self) -> Use:
        """A hold on it, as the function that gives it back."""
        self.users += 1
        self.wanted_at = self._clock()
        return self._give_back

    def _give_back(self) -> None:
        self.users -= 1
        self.wanted_at = self._clock()

    @property
    def ttl_s(self) -> float | None:
        """How long it stays while nobody wants it; None until its memory is wanted."""
        if self.kept_s is not None:
            return None if self.kept_s == math.inf else self.kept_s
        decided = None if self.model is None else self.model.ttl_s
        return PEER_TTL_S if decided is None and self.for_peers else decided

    @property
    def unloads_in_s(self) -> float | None:
        """Until it goes, if nobody wants it before; of one that works, after its end. None: it stays."""
        if self.pinned or self.ttl_s is None:
            return None
        return max(0.0, self.ttl_s - (self._clock() - self.wanted_at)) if self.idle else self.ttl_s

    def holding(self) -> Holding:
        promised = NO_BYTES
        if self.phase == "loading" and self.option is not None:
            promised = self.option.need
        elif self.phase == "failed":  # its engine has given back what it took, and will take it again
            promised = self.taken
        return Holding(
            self.model_id,
            NO_BYTES if promised else self.taken,
            idle=self.idle,
            pinned=self.pinned,
            wanted_at=self.wanted_at,
            load_s=self.load_s or UNKNOWN_LOAD_S,
            phase=self.phase,
            growth=promised,
            ttl_s=self.ttl_s,
        )

    def heard(self, problem: str | None) -> None:
        """Its engine broke, for this reason, or is loaded again."""
        if problem is not None and self.phase in ("ready", "draining"):
            self.go("failed", problem)
        elif problem is None and self.phase == "failed":
            self.go("loading", "its engine broke")
            self.go("ready", MENDED)
