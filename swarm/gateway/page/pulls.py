"""Models on their way to a disk: `/swarm/v1/pulls`, and the board's part `pull`.

A pull does what `swarm models pull` does, on this node, or has another node do it that lets its models be managed. One
at a time to each node; what waits is bounded. One that is cancelled, fails or is cut off by the node's end leaves what
has arrived, and the next pull of that model goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, Protocol

from aiohttp import web
from pydantic import BaseModel, Field

from federation.printable_text import clean_line
from federation.tasks import cancel_and_wait
from swarm.errors import BadRequest, SetupError, SwarmError, Unavailable, UnknownRequest
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.http.access import PULLS_PATH
from swarm.gateway.http.bodies import Part, json_response, read_body
from swarm.gateway.http.keys import DISPATCHER, MEMBERSHIP
from swarm.gateway.observing.board import EventBoard
from swarm.gateway.observing.view import json_object
from swarm.gateway.peers.management import RequestedNode, Target, peer_named, pull_there, takes_work
from swarm.registry.file_hashes import WorkStopped
from swarm.registry.hub import Progress
from swarm.registry.removal import ArrivedOf, Removal
from swarm.registry.table import FitRow
from swarm.routing.replicas import Replica

MAX_WAITING: Final = 32  # pulls that are not over
MAX_OVER: Final = 50  # of those that are, the newest are shown
TICK_S: Final = 0.5  # between two looks at how far a pull is
RATE_S: Final = 5.0  # a rate is that of the last seconds
MAX_NAME_CHARS: Final = 512

PullState = Literal["waiting", "running", "done", "failed", "cancelled"]

log = logging.getLogger(__name__)


class ModelShelf(Protocol):
    """What a node does with its own disk for those who manage it. Its errors are SwarmErrors, with the remedy."""

    def check(self, model: str) -> None:
        """Raises SetupError for what no pull can ever bring. Touches no network."""
        ...

    async def sized(self, model: str) -> str:
        """The name to pull by: of a family without a size the size that `swarm --model` would take here.

        Raises SetupError where none fits, and Unavailable while that is not known.
        """
        ...

    async def pull(self, model: str, progress: Progress) -> str:
        """Bring a model to this node's disk, by a name of the catalogue or of the hub; its id here.

        `progress` is called from another thread. Stops when it is cancelled, and keeps what has arrived.
        """
        ...

    async def removal(self, model: str) -> Removal | ArrivedOf:
        """What `swarm models rm` would remove by that name, an id or another whole name. Raises as `removal_of`."""
        ...

    async def remove(self, removal: Removal | ArrivedOf) -> int:
        """Remove it from this node's disk; the bytes freed. Raises SetupError where the disk refuses."""
        ...

    def totals(self) -> Mapping[str, int]:
        """Bytes of each kind of memory that models of this node may lie in, taken or not, as far as is known."""
        ...

    async def fit(self) -> tuple[FitRow, ...]:
        """Every model of the catalogue against what is free now, as `swarm models fit` has it."""
        ...


SHELF: web.AppKey[ModelShelf | None] = web.AppKey("shelf")


@dataclass(frozen=True, slots=True)
class PullEntry:
    """One pull, as the page has it. `total_bytes` None: not known (yet); what another node copies is not told."""

    id: str
    model: str
    node: str
    state: PullState
    done_bytes: int = 0
    total_bytes: int | None = None
    bytes_per_s: float | None = None
    problem: str | None = None


class PullListing(BaseModel):
    """The answer of `GET /swarm/v1/pulls`, the newest first."""

    data: tuple[PullEntry, ...]


class PullBody(Part):
    """`POST /swarm/v1/pulls`: `model` as `swarm models pull` takes it, `node` where it is to lie (this one)."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    node: RequestedNode | None = None


PullWork = Callable[[Progress], Awaitable[object]]
"""Brings a model; may call its argument with the bytes that are there and those in all, from any thread."""


@dataclass(slots=True, eq=False)
class _Pull:
    """One pull at work. `told` is what the work said last, from whatever thread."""

    entry: PullEntry
    told: tuple[int, int | None] | None = None
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque[tuple[float, int]]())
    task: asyncio.Task[None] | None = None

    def note(self, done_bytes: int, total_bytes: int | None) -> None:
        self.told = done_bytes, total_bytes

    def look(self, now: float) -> None:
        """Take over what was told, with the rate of the last RATE_S. What was there before counts as no speed."""
        if self.told is None:
            return
        done_bytes, total_bytes = self.told
        if self.seen and done_bytes < self.seen[-1][1]:
            self.seen.clear()  # another file, or it began anew
        self.seen.append((now, done_bytes))
        while len(self.seen) > 2 and now - self.seen[0][0] > RATE_S:
            self.seen.popleft()
        since, before = self.seen[0]
        rate = (done_bytes - before) / (now - since) if now > since else None
        self.entry = replace(self.entry, done_bytes=done_bytes, total_bytes=total_bytes, bytes_per_s=rate)


class Pulls:
    """The pulls of one node. For the event loop's thread only."""

    def __init__(self, board: EventBoard, clock: Callable[[], float] = time.monotonic, tick_s: float = TICK_S) -> None:
        self._board = board
        self._clock = clock
        self._tick_s = tick_s
        self._pulls: dict[str, _Pull] = {}
        self._turns: dict[str, asyncio.Lock] = {}  # by node

    def entries(self) -> tuple[PullEntry, ...]:
        """The newest first."""
        return tuple(pull.entry for pull in reversed(self._pulls.values()))

    def begin(self, model: str, node: str, work: PullWork) -> PullEntry:
        """Queue a pull; the one that brings the same there already, where there is such. Raises Unavailable if full."""
        going = [pull for pull in self._pulls.values() if pull.entry.state in ("waiting", "running")]
        for pull in going:
            if (pull.entry.model, pull.entry.node) == (model, node):
                return pull.entry
        if len(going) >= MAX_WAITING:
            raise Unavailable(f"{len(going)} models are on their way, which is all: cancel one, or wait", 60)
        pull = _Pull(PullEntry(secrets.token_hex(6), model, node, "waiting"))
        self._pulls[pull.entry.id] = pull
        pull.task = asyncio.create_task(self._run(pull, work), name=f"pull {model}")
        self._show(pull)
        return pull.entry

    async def cancel(self, pull_id: str) -> PullEntry:
        """End a pull and return when it has ended. Raises UnknownRequest for none such; one that is over stays so."""
        pull = self._pulls.get(pull_id)
        if pull is None:
            raise UnknownRequest(pull_id)
        await self._end([pull])
        return pull.entry

    async def aclose(self) -> None:
        """End all."""
        await self._end(list(self._pulls.values()))

    async def _end(self, pulls: Sequence[_Pull]) -> None:
        await cancel_and_wait(*(pull.task for pull in pulls))
        for pull in pulls:
            if pull.entry.state == "waiting":  # its task had not even begun
                self._enter(pull, "cancelled")

    async def _run(self, pull: _Pull, work: PullWork) -> None:
        try:
            async with self._turns.setdefault(pull.entry.node, asyncio.Lock()):
                self._enter(pull, "running")
                await self._work(pull, work)
            self._enter(pull, "done")
        except (asyncio.CancelledError, WorkStopped):
            self._enter(pull, "cancelled")
        except SwarmError as error:
            log.warning("pulling %s to %s: %s", clean_line(pull.entry.model), pull.entry.node, error)
            self._enter(pull, "failed", str(error))
        except Exception:
            log.exception("pulling %s to %s failed", clean_line(pull.entry.model), pull.entry.node)
            self._enter(pull, "failed", "this node made an error; see its log")

    async def _work(self, pull: _Pull, work: PullWork) -> None:
        working = asyncio.ensure_future(work(pull.note))
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=self._tick_s)
                pull.look(self._clock())
                self._show(pull)
            await working
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait({working})

    def _enter(self, pull: _Pull, state: PullState, problem: str | None = None) -> None:
        done_bytes = pull.entry.done_bytes
        if state == "done" and pull.entry.total_bytes is not None:
            done_bytes = pull.entry.total_bytes
        pull.entry = replace(pull.entry, state=state, done_bytes=done_bytes, bytes_per_s=None, problem=problem)
        self._show(pull)
        over = [key for key, one in self._pulls.items() if one.entry.state not in ("waiting", "running")]
        for key in over[:-MAX_OVER]:
            del self._pulls[key]
            self._board.drop("pull", key)

    def _show(self, pull: _Pull) -> None:
        self._board.put("pull", pull.entry.id, json_object(pull.entry))


PULLS = web.AppKey("pulls", Pulls)


# The endpoints


async def listing(request: web.Request) -> web.Response:
    """The newest first."""
    return json_response({"data": [json_object(entry) for entry in request.app[PULLS].entries()]})


def refuse_second_name(app: web.Application, name: str) -> None:
    """Raises BadRequest for a name that means another model here: the one that is pulled would not be asked by it."""
    if (stands_for := app[NAMES].second_name(name)) is not None:
        raise BadRequest(
            f"{name!r} is a second name of {stands_for!r} here, and would stay one: take it back first, with "
            "DELETE /api/delete or from [aliases]",
            param="model",
        )


async def begin(request: web.Request) -> web.Response:
    """The pull, at once; how it goes is in the list, and in the part `pull` of the events."""
    app = request.app
    body = await read_body(request, PullBody)
    takes_work(app)
    name, dispatcher = body.model.strip(), app[DISPATCHER]
    peer = None
    if body.node is not None:
        peer = peer_named(body.node, app[MEMBERSHIP].alive(), dispatcher.node, dispatcher.node_id)
    shelf = app[SHELF]
    if peer is None and shelf is None:
        raise BadRequest("this node loads no models of its own: name another one with `node`", param="node")
    try:
        if shelf is not None:
            shelf.check(name)
    except SetupError as error:
        raise BadRequest(str(error), param="model") from error
    if peer is None:
        refuse_second_name(app, name)
        assert shelf is not None
        own = shelf  # of this request, whatever comes

        async def here(progress: Progress) -> None:
            await own.pull(name, progress)
            await app[NAMES].look_again()

        node, work = dispatcher.node, here
    else:
        place = Replica(peer.id, peer.label, name, slots=0, slots_free=0, url=peer.url)
        target = Target(app[NAMES].meant(name) or name, peer.label, place, name)

        async def there(_: Progress) -> None:
            await pull_there(app, target)

        node, work = peer.label, there
    entry = app[PULLS].begin(name, node, work)
    log.warning("%s has %s pulled to %s", request.remote, clean_line(name), node)
    return json_response(json_object(entry))


async def cancel(request: web.Request) -> web.Response:
    """What has arrived stays, and the next pull of that model goes on from there."""
    entry = await request.app[PULLS].cancel(request.match_info["id"])
    log.warning("%s cancelled the pull of %s to %s", request.remote, clean_line(entry.model), entry.node)
    return json_response(json_object(entry))


def routes() -> list[web.RouteDef]:
    """For those who manage this node."""
    return [
        web.get(PULLS_PATH, listing),
        web.post(PULLS_PATH, begin),
        web.post(PULLS_PATH + "/{id}/cancel", cancel),
    ]
