"""Where conversations were answered last: their prompts are in the cache there. Bounded in number and in age."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from swarm.routing.prefix import Prefixes
from swarm.routing.replicas import Place

MAX_CONVERSATIONS = 4096  # remembered, the least recently used forgotten first; each is some 200 bytes
LIFETIME_S = 900.0  # after a quarter of an hour a slot has most likely been used for something else


class Affinity:
    """`clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: OrderedDict[bytes, tuple[Place, float]] = OrderedDict()

    def place_of(self, prefixes: Prefixes) -> Place | None:
        """Who answered the longest known beginning."""
        now_s = self._clock()
        for prefix in prefixes.earlier:
            found = self._places.get(prefix)
            if found is not None and now_s - found[1] <= LIFETIME_S:
                return found[0]
        return None

    def answered(self, prefixes: Prefixes, place: Place) -> None:
        """`place` has answered."""
        if prefixes.whole is None:
            return
        self._places[prefixes.whole] = (place, self._clock())
        self._places.move_to_end(prefixes.whole)
        if len(self._places) > MAX_CONVERSATIONS:
            self._places.popitem(last=False)
