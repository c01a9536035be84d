"""One answer of one replica: before its first event the next best may take over, within the budget for retries."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from swarm.errors import ContextExceeded, EngineFailed, PeerFailed, SwarmError, Unavailable, UpstreamFailed
from swarm.generation import Delta, Finish, GenerationRequest, Usage
from swarm.routing.asking import Asking, OnServed, Served
from swarm.routing.expected_time import expected_tokens
from swarm.routing.preference import Reason, is_warm, reason_for
from swarm.routing.prefix import Prefixes
from swarm.routing.replicas import Replica
from swarm.routing.router import Router
from swarm.routing.voters import held_back

log = logging.getLogger(__name__)

FAILING_OVER = (PeerFailed, EngineFailed, Unavailable, ContextExceeded, UpstreamFailed)  # another may do better
MAX_TOLD = 8  # of those that were tried before; more names explain nothing
MAX_HELD_SHARE = 0.2  # of an answer's time that its reader may hold it up without spoiling what is measured


class SingleAnswer:
    """The work on one request: `ranked` are asked in order for `choices` answers until the monotonic `deadline`.

    Of a `whole` answer nothing is handed out before it is complete, so that the next best may take over until then.
    """

    def __init__(
        self,
        asking: Asking,
        router: Router,
        request: GenerationRequest,
        ranked: Sequence[Replica],
        prefixes: Prefixes,
        choices: int,
        deadline: float,
        on_served: OnServed,
        whole: bool = False,
    ) -> None:
        self._asking = asking
        self._router = router
        self._request = request
        self._ranked = ranked
        self._prefixes = prefixes
        self._choices = choices
        self._deadline = deadline
        self._on_served = on_served
        self._whole = whole
        self._tried: list[str] = []
        self._reason: Reason = reason_for(ranked, choices, expected_tokens(request))

    async def events(self) -> AsyncGenerator[Delta | Finish, None]:
        """The events of whoever answers. Raises the last failure, or what says that no more are tried."""
        self._router.attempt()
        self._tell_followed()
        begun = False
        for replica in self._ranked:
            try:
                async with aclosing(self._from(replica)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except FAILING_OVER as error:
                if begun or replica is self._ranked[-1]:
                    raise
                self._fail_over(replica, error)

    def _from(self, replica: Replica) -> AsyncGenerator[Delta | Finish, None]:
        events = self._measured(replica)
        return held_back(events) if self._whole else events

    def _tell_followed(self) -> None:
        if is_warm(self._ranked[0], self._choices):
            for listener in self._router.listeners:
                listener.prefix_followed()

    def _fail_over(self, replica: Replica, error: SwarmError) -> None:
        """Raises Unavailable where no more retries are to be had."""
        self._router.fail_over(replica, error)
        self._tried.append(replica.node)
        self._reason = "next best"

    def _served(self, served: Served) -> None:
        self._on_served(Served(served.voter, served.replica, self._reason, tuple(self._tried[:MAX_TOLD])))

    async def _measured(self, replica: Replica) -> AsyncGenerator[Delta | Finish, None]:
        """The events of `replica`, whose speed is noted, and that it has answered this conversation."""
        asked = time.monotonic()
        first: float | None = None
        held_s, usage = 0.0, Usage()
        events = self._asking.events(replica, self._request, self._choices, self._deadline, self._served)
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
