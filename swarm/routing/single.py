"""One answer of one replica: before its first event the next best may take over, within the budget for retries."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from swarm.errors import (
    BadRequest,
    ContextExceeded,
    EngineFailed,
    PeerFailed,
    SwarmError,
    Unavailable,
    UnknownModel,
    UpstreamFailed,
)
from swarm.generation import Delta, Finish, GenerationRequest, Usage
from swarm.routing.asking import Asking, OnServed, Served
from swarm.routing.expected_time import expected_tokens
from swarm.routing.preference import Reason, is_warm, reason_for
from swarm.routing.prefix import Prefixes
from swarm.routing.replicas import Place, Replica
from swarm.routing.router import Router
from swarm.routing.voters import held_back
from swarm.routing.waiting_room import SoonerElsewhere

log = logging.getLogger(__name__)

FAILING_OVER = (PeerFailed, EngineFailed, Unavailable, ContextExceeded, UpstreamFailed)  # another may do better
MAX_TOLD = 8  # of those that were tried before; more names explain nothing
MAX_HELD_SHARE = 0.2  # of an answer's time that its reader may hold it up without spoiling what is measured


class SingleAnswer:
    """The work on one request: those that `rank` tells are asked in order for `choices` answers until `deadline`.

    That is a monotonic instant. While the request waits for this node's own workers, `rank` is asked again.
    Of a `whole` answer nothing is handed out before it is complete, so that the next best may take over until then.
    """

    def __init__(
        self,
        asking: Asking,
        router: Router,
        request: GenerationRequest,
        rank: Callable[[], Sequence[Replica]],
        prefixes: Prefixes,
        choices: int,
        deadline: float,
        on_served: OnServed,
        whole: bool = False,
    ) -> None:
        self._asking = asking
        self._router = router
        self._request = request
        self._rank = rank
        self._prefixes = prefixes
        self._choices = choices
        self._deadline = deadline
        self._on_served = on_served
        self._whole = whole
        self._tried: list[str] = []
        self._failed: set[Place] = set()
        self._reason: Reason = "only one"

    async def events(self) -> AsyncGenerator[Delta | Finish, None]:
        """The events of whoever answers. Raises the last failure, or what says that no more are tried."""
        self._router.attempt()
        left = self._ranked()
        self._tell_followed(left[0])
        begun = False
        while left:
            replica, *left = left
            try:
                async with aclosing(self._from(replica)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except SoonerElsewhere:
                self._tell_moved()
                left = self._ranked() or [replica]
            except FAILING_OVER as error:
                if begun or not left:
                    raise
                self._fail_over(replica, error)

    def _ranked(self) -> list[Replica]:
        """Who is left to be asked, best first."""
        ranked = [replica for replica in self._rank() if replica.place not in self._failed]
        if not self._tried:
            self._reason = reason_for(ranked, self._choices, expected_tokens(self._request))
        return ranked

    def _elsewhere(self) -> Replica | None:
        """The peer that would be asked now, if it has idle slots."""
        try:
            best = next((replica for replica in self._rank() if replica.place not in self._failed), None)
        except (BadRequest, UnknownModel):  # whoever served the model is gone
            return None
        if best is None or best.local or best.upstream or best.troubled or best.slots_free < self._choices:
            return None
        return best

    def _from(self, replica: Replica) -> AsyncGenerator[Delta | Finish, None]:
        events = self._measured(replica)
        return held_back(events) if self._whole else events

    def _tell_followed(self, first: Replica) -> None:
        if is_warm(first, self._choices):
            for listener in self._router.listeners:
                listener.prefix_followed()

    def _tell_moved(self) -> None:
        for listener in self._router.listeners:
            listener.moved()

    def _fail_over(self, replica: Replica, error: SwarmError) -> None:
        """Raises Unavailable where no more retries are to be had."""
        self._router.fail_over(replica, error)
        self._tried.append(replica.node)
        self._failed.add(replica.place)
        self._reason = "next best"

    def _served(self, served: Served) -> None:
        self._on_served(Served(served.voter, served.replica, self._reason, tuple(self._tried[:MAX_TOLD])))

    async def _measured(self, replica: Replica) -> AsyncGenerator[Delta | Finish, None]:
        """The events of `replica`, whose speed is noted, and that it has answered this conversation."""
        asked = time.monotonic()
        first: float | None = None
        held_s, usage = 0.0, Usage()
        events = self._asking.events(
            replica, self._request, self._choices, self._deadline, self._served, self._elsewhere
        )
        async with aclosing(events):
            async for event in events:
                came = time.monotonic()
                if first is None:
                    first = came
                    self._tell_choice(replica)
                if isinstance(event, Finish):
                    usage = event.usage
                yield event
                held_s += time.monotonic() - came
        self._router.affinity.answered(self._prefixes, replica.place)
        ended = time.monotonic()
        if first is not None and self._choices == 1 and held_s <= MAX_HELD_SHARE * (ended - asked):
            self._router.note_pace(replica, first - asked, ended - first, usage)

    def _tell_choice(self, replica: Replica) -> None:
        after = f", after {', '.join(self._tried[:MAX_TOLD])}" if self._tried else ""
        log.info("%s answers with %s: %s%s", replica.node, replica.model, self._reason, after)
