"""Telling subscribers when the node's view changes: peers that come, go or change, models, the node's own state.

Each subscriber is called in a task of its own, with the view it was given last and the one of now. So one that is slow
blocks nobody and misses nothing but what was undone meanwhile, one that fails harms nobody, and there is nothing to
queue. Without subscribers nothing is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from aiohttp import web

from swarm.gateway.observing.board import EventBoard
from swarm.gateway.observing.view import FederationView, LendingEntry, NodeView, ViewSources, json_object

LOOK_S: Final = 1.0  # between two looks for what nobody reports: load, requests, circuits, engines that stall
REST_S: Final = 0.1  # between two calls of one subscriber: a storm of changes costs ten views a second, at most

ViewPart = Literal["node", "peers", "models", "requests"]
"""`node`: whether it is ready, loading, draining, who may ask it, its upstreams. `requests`: how many are in progress.

`peers`: who there is, in which state, what each serves, has free and did; not when it was last seen. `models`: what
this node runs, who serves what, and what of its memory is lent.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ViewChange:
    """From `before` to `after`; `parts` says where they differ, and has at least one."""

    before: NodeView
    after: NodeView
    parts: frozenset[ViewPart]


ViewSubscriber = Callable[[ViewChange], Awaitable[None]]


def changed_parts(before: NodeView, after: NodeView) -> frozenset[ViewPart]:
    """Where two views differ, clocks and running counts aside."""
    old, new = before.federation, after.federation
    differing: dict[ViewPart, bool] = {
        "node": (before.loading, before.draining, _of_node(old)) != (after.loading, after.draining, _of_node(new)),
        "peers": _of_peers(old) != _of_peers(new, {peer.id: peer.lending for peer in old.peers}),
        "models": _of_models(old) != _of_models(new, old.lending),
        "requests": before.requests != after.requests,
    }
    return frozenset(part for part, differs in differing.items() if differs)


def _of_node(view: FederationView) -> object:
    upstreams = tuple(replace(upstream, requests=0) for upstream in view.upstreams)
    return view.status, view.node, view.trust, view.access, view.sources, upstreams


def _of_peers(view: FederationView, before: Mapping[str, LendingEntry | None] = MappingProxyType({})) -> object:
    """`before`: what each lent then."""
    peers = [
        replace(
            peer,
            rtt_ms=None,
            least_rtt_ms=None,
            last_seen_s=0.0,
            lending=_steadied(peer.lending, before.get(peer.id)),
        )
        for peer in view.peers
    ]
    return peers, view.changes, view.rejected, view.names


def _of_models(view: FederationView, before: LendingEntry | None = None) -> object:
    models = [replace(model, loading=None) for model in view.own_models]
    return view.models, models, _steadied(view.lending, before)


def _steadied(lending: LendingEntry | None, before: LendingEntry | None) -> LendingEntry | None:
    return None if lending is None else lending.steadied(before)


class ViewChanges:
    """The subscribers to the view that `look` makes. For the event loop's thread only.

    Whoever knows of a change says so by `notice`; what nobody says is found every `look_s` seconds. `sleep` waits.
    """

    def __init__(
        self,
        look: Callable[[], NodeView],
        look_s: float = LOOK_S,
        rest_s: float = REST_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._look = look
        self._look_s = look_s
        self._rest_s = rest_s
        self._sleep = sleep
        self._wakes: dict[asyncio.Task[None], asyncio.Event] = {}
        self._clock: asyncio.Task[None] | None = None

    def subscribe(self, callback: ViewSubscriber) -> Callable[[], None]:
        """Call `callback` with every change from now on, one call at a time; the returned function ends it, at once.

        A callback that raises is called again with the next change; its first failure is logged.
        """
        wake, before = asyncio.Event(), self._look()
        task = asyncio.create_task(self._tell(callback, before, wake), name="subscriber to the node's view")
        self._wakes[task] = wake
        if self._clock is None:
            self._clock = asyncio.create_task(self._look_now_and_then(), name="looks at the node's view")

        def unsubscribe() -> None:
            task.cancel()
            self._wakes.pop(task, None)
            if not self._wakes and self._clock is not None:
                self._clock.cancel()
                self._clock = None

        return unsubscribe

    def notice(self, *_: object) -> None:
        """Something has changed, or may have. Cheap, takes whatever a reporter gives, and never raises."""
        for wake in self._wakes.values():
            wake.set()

    async def aclose(self) -> None:
        """End all subscriptions."""
        tasks = [*self._wakes, *filter(None, [self._clock])]
        self._wakes, self._clock = {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_now_and_then(self) -> None:
        while True:
            await self._sleep(self._look_s)
            self.notice()

    async def _tell(self, callback: ViewSubscriber, before: NodeView, wake: asyncio.Event) -> None:
        """Tell one subscriber of each difference to what it knows."""
        failed = False
        while True:
            await wake.wait()
            wake.clear()
            try:
                after = self._look()
                if parts := changed_parts(before, after):
                    change, before = ViewChange(before, after, parts), after
                    await callback(change)
            except Exception:
                if not failed:
                    log.exception("a subscriber to the node's view failed; it is called again with the next change")
                failed = True
            await self._sleep(self._rest_s)


def show_view(board: EventBoard, sources: ViewSources, changes: ViewChanges) -> None:
    """Keep the board's part `view` while anybody watches it."""
    end: list[Callable[[], None]] = []

    async def put(change: ViewChange) -> None:
        board.put("view", "", json_object(change.after.federation))

    def watched(begins: bool) -> None:
        if begins:
            board.put("view", "", json_object(sources.look().federation))
            end.append(changes.subscribe(put))
        else:
            end.pop()()

    board.on_watch("view", watched)


CHANGES = web.AppKey("changes", ViewChanges)
