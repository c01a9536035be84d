"""`GET /swarm/v1/models`: what lies on a node's disk and what could, with what each needs and whether that is there.

Of this node all is known; of another one what it tells its peers: which models it could load, and whether they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from federation.advertisement import LoadableModel
from federation.peer import Peer
from swarm.errors import Unavailable
from swarm.gateway.http.access import STORED_PATH
from swarm.gateway.http.bodies import json_response
from swarm.gateway.http.keys import DISPATCHER, MEMBERSHIP, POOL
from swarm.gateway.observing.view import json_object
from swarm.gateway.page.pulls import SHELF
from swarm.gateway.peers.management import peer_named
from swarm.registry.model_memory import size_text
from swarm.registry.table import FitRow
from swarm.workers.loadable import Loadable
from swarm.workers.model_workers import ModelState
from swarm.workers.pool import WorkerPool

IN_MEMORY: Final = ("ready", "draining", "unloading", "failed")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One model. `need_bytes`: what it takes while it is loaded; `why` says in words whether that is there.

    `tokens_per_s`: measured of one that runs, else expected, where anybody knows.
    """

    id: str
    name: str
    state: str
    pinned: bool
    size_bytes: int | None
    need_bytes: int | None
    fits: bool | None
    why: str
    tokens_per_s: float | None
    engine: str | None


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One kind of memory. `weights_bytes` and `kv_bytes` (the rest of what they take) are those of loaded models."""

    pool: str
    total_bytes: int | None
    free_bytes: int | None
    weights_bytes: int
    kv_bytes: int


class StoredListing(BaseModel):
    """The answer of `GET /swarm/v1/models`. `fit`: the catalogue, for this node only."""

    node: str
    free: tuple[PoolRow, ...]
    data: tuple[StoredRow, ...]
    fit: tuple[StoredRow, ...]


def stored_rows(
    loadables: Iterable[tuple[Loadable, bool]], states: Mapping[str, ModelState], free: Mapping[str, int]
) -> list[StoredRow]:
    """This node's models, those in memory first. Beside each loadable: whether it fits where idle ones make room."""
    rows = [_stored(model, fits, states.get(model.model_id), free) for model, fits in loadables]
    known = {row.id for row in rows}
    rows += [_running(state) for id_, state in states.items() if id_ not in known]  # no file of a disk
    return sorted(rows, key=lambda row: (row.state == "available", row.id))


def _stored(model: Loadable, fits: bool, state: ModelState | None, free: Mapping[str, int]) -> StoredRow:
    if state is not None and (state.phase in IN_MEMORY or state.phase == "loading"):
        return _running(state)
    need_bytes = sum(model.usual.need.values())
    return StoredRow(
        id=model.model_id,
        name=model.model_id,
        state="available",
        pinned=False,
        size_bytes=model.size_bytes,
        need_bytes=need_bytes,
        fits=fits,
        why=_whether_it_fits(model, fits, free),
        tokens_per_s=None,
        engine=model.engine if model.build is None else model.build.words,
    )


def _whether_it_fits(model: Loadable, fits: bool, free: Mapping[str, int]) -> str:
    """In words, with the numbers."""
    usual = model.usual
    needs = f"needs {size_text(sum(usual.need.values()))} for {usual.slots} x {usual.context_tokens} tokens of context"
    known = [f"{size_text(free[pool])} of {pool} free" for pool in usual.need if pool in free]
    words = f"{needs}; {', '.join(known)}" if known else needs
    if not fits:
        return f"{words}: too little, whatever is unloaded"
    if all(size <= free.get(pool, size) for pool, size in usual.need.items()):
        return words
    return f"{words}: idle models are unloaded for it, or it is loaded with less context"


def _running(state: ModelState) -> StoredRow:
    takes = "" if state.taken_bytes is None else f"takes {size_text(state.taken_bytes)}"
    return StoredRow(
        id=state.model_id,
        name=state.model_id,
        state=state.phase,
        pinned=state.pinned,
        size_bytes=state.size_bytes,
        need_bytes=state.taken_bytes,
        fits=True,
        why=state.problem or state.reason if state.phase == "failed" else takes,
        tokens_per_s=state.tokens_per_s,
        engine=state.engine if state.computation is None else str(state.computation),
    )


def fit_rows_for_page(rows: Iterable[FitRow]) -> list[StoredRow]:
    """The catalogue as `swarm models fit` judges it, in its order."""
    return [
        StoredRow(
            id=row.name,
            name=row.name,
            state="available",
            pinned=False,
            size_bytes=row.size_bytes,
            need_bytes=row.needs_bytes,
            fits=row.fits,
            why=row.why or _why_it_fits(row),
            tokens_per_s=row.tokens_per_s,
            engine=None,
        )
        for row in rows
    ]


def _why_it_fits(row: FitRow) -> str:
    about = "about " if row.needs_estimated else ""
    rate = "" if row.tokens_per_s is None else f", about {row.tokens_per_s:g} tokens a second expected"
    here = "; on this disk" if row.on_disk else ""
    return f"needs {about}{size_text(row.needs_bytes)}{rate}{here}"


def told_rows(peer: Peer) -> list[StoredRow]:
    """What another node tells of its models."""
    told = {model.id: model for model in peer.loadable}
    served = [model.id for model in peer.description.models]
    rows = [_told(model, peer.label) for model in told.values()]
    rows += [
        StoredRow(id_, id_, "ready", False, None, None, True, f"{peer.label} runs it", None, None)
        for id_ in served
        if id_ not in told
    ]
    return sorted(rows, key=lambda row: (row.state == "available", row.id))


def _told(model: LoadableModel, node: str) -> StoredRow:
    runs = model.state != "available"
    says = "that it fits there" if model.fits else "that it does not fit there"
    return StoredRow(
        id=model.id,
        name=model.id,
        state=model.state,
        pinned=False,
        size_bytes=model.size_bytes,
        need_bytes=None,
        fits=model.fits,
        why=f"it is {model.state} on {node}" if runs else f"{node} says {says}",
        tokens_per_s=None,
        engine=None,
    )


def pool_rows(
    pool: WorkerPool, totals: Mapping[str, int], free: Mapping[str, int], states: Iterable[ModelState]
) -> list[PoolRow]:
    """The memory of this node's models. A model whose memory lies in several kinds is counted where most of it is."""
    places = {
        model.model_id: max(model.usual.need, key=model.usual.need.__getitem__, default=None) for model in pool.stored()
    }
    weights: dict[str, int] = {}
    rest: dict[str, int] = {}
    for state in states:
        place = places.get(state.model_id)
        if state.phase not in IN_MEMORY or place is None or state.taken_bytes is None:
            continue
        own = min(state.size_bytes or 0, state.taken_bytes)
        weights[place] = weights.get(place, 0) + own
        rest[place] = rest.get(place, 0) + state.taken_bytes - own
    return [
        PoolRow(name, totals.get(name), size, weights.get(name, 0), rest.get(name, 0)) for name, size in free.items()
    ]


async def stored(request: web.Request) -> web.Response:
    """For this node, or the one that `node` names."""
    app = request.app
    dispatcher, pool, named = app[DISPATCHER], app[POOL], request.query.get("node")
    peer = None
    if named is not None:
        peer = peer_named(named, app[MEMBERSHIP].alive(), dispatcher.node, dispatcher.node_id)
    if peer is not None:
        rows = told_rows(peer)
        return json_response({"node": peer.label, "free": [], "data": [json_object(row) for row in rows], "fit": []})
    shelf = app[SHELF]
    try:
        fit = () if shelf is None else await shelf.fit()
    except Unavailable:  # still starting, or nothing is known of its memory: what lies here is listed all the same
        fit = ()
    free = {str(name): size for name, size in (await pool.free()).items()}
    totals: Mapping[str, int] = {} if shelf is None else shelf.totals()
    states = {state.model_id: state for state in pool.states()}
    data = stored_rows([(model, pool.fits(model)) for model in pool.stored()], states, free)
    return json_response(
        {
            "node": dispatcher.node,
            "free": [json_object(row) for row in pool_rows(pool, totals, free, states.values())],
            "data": [json_object(row) for row in data],
            "fit": [json_object(row) for row in fit_rows_for_page(fit)],
        }
    )


def routes() -> list[web.RouteDef]:
    """For those who manage this node."""
    return [web.get(STORED_PATH, stored)]
