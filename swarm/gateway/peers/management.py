"""Loading, unloading and pinning models: as those who manage a node ask for it, and as other nodes may.

`/v1/models/load`, `unload` and `pin` (and llama-server's `/models/load` and `/models/unload`) act on this node, or on
the `node` that they name, which is asked over the federation. There a load is within what this node does for peers; the
rest is for members of a paired swarm, where its owner allows it (`[peers] manage = true`): see `http/access.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field, StrictBool

from federation import wire
from federation.file_exchange import is_sha256
from federation.peer import Peer
from swarm.errors import BadRequest, DeadlineExceeded, Forbidden, Unavailable, UnknownModel
from swarm.gateway.answers.answer_form import NDJSON, PACING, open_stream
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.http.bodies import Part, json_response, read_body
from swarm.gateway.http.keys import CONDITION, DISPATCHER, MEMBERSHIP, POOL
from swarm.gateway.openai.bodies import RequestedModel
from swarm.gateway.peers.endpoints import deadline_s, known_here
from swarm.generation import JsonObject
from swarm.routing.loadables import soonest_ready
from swarm.routing.peer_models import Action, ModelDone
from swarm.routing.replicas import SWARM_ALIAS, Replica
from swarm.workers.life import Phase

LOAD_S: Final = 1800.0  # the largest models from slow disks
DRAIN_S: Final = 1800.0  # what a model runs may take so long to end
PULL_S: Final = 3600.0  # 400 GB over a gigabit cable; a copy that breaks off goes on where it was
MAX_NODE_CHARS = 128

Pull = Callable[[str, str | None], Awaitable[str]]
"""Has a model copied to this node's own folder, by its name and, where it is known, its file's sha256; its id here."""

PULL: web.AppKey[Pull | None] = web.AppKey("pull")

log = logging.getLogger(__name__)

RequestedNode = Annotated[str, Field(min_length=1, max_length=MAX_NODE_CHARS, description="A node's name or id")]


class LoadBody(Part):
    """`POST /v1/models/load`. `pin`: the model stays until it is unloaded; false: it makes room for others again."""

    model: RequestedModel
    node: RequestedNode | None = None
    pin: StrictBool | None = None


class UnloadBody(Part):
    """`POST /v1/models/unload`."""

    model: RequestedModel
    node: RequestedNode | None = None


class PinBody(Part):
    """`POST /v1/models/pin`: `pinned` has the model loaded, and it stays; false: it makes room for others again."""

    model: RequestedModel
    node: RequestedNode | None = None
    pinned: StrictBool


class PeerLoadBody(Part):
    """`POST /federation/v1/load`. Without `wait` it is answered as soon as the load is asked for."""

    model: RequestedModel
    wait: StrictBool = True


class PeerModelBody(Part):
    """`POST /federation/v1/unload`."""

    model: RequestedModel


class PeerPinBody(Part):
    """`POST /federation/v1/pin`."""

    model: RequestedModel
    pinned: StrictBool


class PeerPullBody(Part):
    """`POST /federation/v1/pull`. A file is known by its `sha256` alone; `model` is what to call it."""

    model: RequestedModel
    sha256: Annotated[str, Field(min_length=64, max_length=64)] | None = None


# What this node does with its own models


def takes_work(app: web.Application) -> None:
    """Raises Unavailable once this node is on its way out."""
    if app[CONDITION].draining:
        raise Unavailable("this node is shutting down: ask another node")


async def load_here(app: web.Application, model: str, deadline: float, for_peer: bool = False) -> ModelDone:
    """Return when the model, by its id here, is loaded. Raises as `WorkerPool.ensure` does."""
    began = time.monotonic()
    runs = app[POOL].get(model) is not None
    try:
        async with asyncio.timeout(max(0.0, deadline - began)):
            await app[POOL].ensure(model, deadline, for_peer)
    except TimeoutError:
        raise DeadlineExceeded(f"model {model!r} was not loaded by the request's deadline") from None
    return ModelDone(model=model, state="ready", load_ms=0 if runs else round((time.monotonic() - began) * 1000))


async def unload_here(app: web.Application, model: str) -> ModelDone:
    """Return when the model is gone; at once where it was not loaded. Raises UnknownModel for none of this node's."""
    pool = app[POOL]
    if any(state.model_id == model for state in pool.states()):
        await pool.unload(model)
    elif pool.loadable(model) is None:
        raise UnknownModel(model, app[DISPATCHER].model_names(), "this node does not have it")
    return ModelDone(model=model, state="available")


async def pin_here(app: web.Application, model: str, pinned: bool, deadline: float) -> ModelDone:
    """The model stays, for which it is loaded, or makes room again. Raises as `load_here` does."""
    pool = app[POOL]
    loaded = await load_here(app, model, deadline) if pinned else None
    pool.pin(model, pinned)
    phases: dict[str, Phase] = {state.model_id: state.phase for state in pool.states()}
    return ModelDone(
        model=model, state=phases.get(model, "available"), load_ms=loaded.load_ms if loaded else 0, pinned=pinned
    )


# What those who manage this node ask for, here or on another node


class Target:
    """Where a request about a model goes: `peer` None is this node; `model` is what it is called there."""

    def __init__(self, model: str, node: str, peer: Replica | None = None, there: str | None = None) -> None:
        self.model = model
        self.node = node
        self.peer = peer
        self.there = there or model

    async def ask(self, app: web.Application, action: Action, body: JsonObject, within_s: float) -> ModelDone:
        """What the peer did."""
        assert self.peer is not None
        return await app[DISPATCHER].have(self.peer, action, {"model": self.there, **body}, time.monotonic() + within_s)

    def answer(self, done: ModelDone, **more: object) -> web.Response:
        """As both our own API and llama-server's router have it."""
        return json_response({"model": self.model, "node": self.node, "state": done.state, "success": True, **more})


async def target_of(request: web.Request, name: str, node: str | None, anywhere: bool = False) -> Target:
    """What is meant by the names of a model and of a node. Raises UnknownModel, and BadRequest for an unknown node.

    Where no node is named it is this one; `anywhere`: if this one does not have the model, the one that is ready
    soonest.
    """
    with request.app[CONDITION].finding_a_model(request.app[DISPATCHER].node):
        return await _found(request.app, name, node, anywhere)


async def _found(app: web.Application, name: str, node: str | None, anywhere: bool) -> Target:
    dispatcher, names = app[DISPATCHER], app[NAMES]
    peer = None if node is None else peer_named(node, app[MEMBERSHIP].alive(), dispatcher.node, dispatcher.node_id)
    model = names.found(name)
    if model is None:
        await names.look_again()
        model = names.found(name)
    if model == SWARM_ALIAS:
        raise BadRequest(f"{SWARM_ALIAS!r} stands for all models: name one of them", param="model")
    if model is None:
        raise names.unknown(name)
    places = [*dispatcher.known(allowed=False), *dispatcher.loadable()]
    having = [replica for replica in places if replica.model == model]
    if peer is None and (node is not None or not anywhere or app[POOL].engine_of(model) is not None):
        return Target(model, dispatcher.node)
    if peer is None:
        running = [replica for replica in having if replica.state == "ready" and not replica.upstream]
        best = next(iter((*running, *soonest_ready(having))), None)
        if best is None:
            raise UnknownModel(name, dispatcher.model_names(), "no node can load it now")
        return Target(model, best.node) if best.local else Target(model, best.node, best, best.model_there)
    there = next((replica.model_there for replica in having if replica.node_id == peer.id), model)
    place = Replica(peer.id, peer.label, model, slots=0, slots_free=0, url=peer.url)
    return Target(model, peer.label, place, there)


def peer_named(node: str, peers: Sequence[Peer], own_name: str, own: str) -> Peer | None:
    """The peer of that name or id; None for this node. Raises BadRequest where it is none, or several."""
    if node in (own_name, own):
        return None
    found = [peer for peer in peers if node in (peer.id, peer.label)]
    found = found or [peer for peer in peers if node.casefold() in (peer.name.casefold(), peer.label.casefold())]
    if len(found) == 1:
        return found[0]
    labels = ", ".join([own_name, *sorted(peer.label for peer in found or peers)])
    which = "several nodes have that name: give the id of one of" if found else "no node has that name; there are"
    raise BadRequest(f"node is {node!r}: {which} {labels}", param="node")


async def load(request: web.Request) -> web.Response:
    """{"model", "node", "state": "ready", "load_ms"}, when it is loaded."""
    app = request.app
    body = await read_body(request, LoadBody)
    target = await target_of(request, body.model, body.node, anywhere=True)
    if target.peer is None:
        takes_work(app)
        done = await load_here(app, target.model, time.monotonic() + LOAD_S)
        if body.pin is not None:
            app[POOL].pin(target.model, body.pin)
    else:
        done = await load_there(app, target)
        if body.pin is not None:
            await target.ask(app, "pin", {"pinned": body.pin}, LOAD_S)
    pinned = {} if body.pin is None else {"pinned": body.pin}
    return target.answer(done, load_ms=done.load_ms, **pinned)


async def load_there(app: web.Application, target: Target) -> ModelDone:
    """The load on a peer; where it does not have the model it copies it first, if it may be told to."""
    try:
        return await target.ask(app, "load", {}, LOAD_S)
    except UnknownModel as unknown:
        try:
            pulled = await pull_there(app, target)
        except Forbidden as error:
            raise Forbidden(f"{unknown}, and may not be told to copy it: {error}", error.code) from error
    target.there = pulled.model
    return await target.ask(app, "load", {}, LOAD_S)


async def pull_there(app: web.Application, target: Target) -> ModelDone:
    """Have the peer copy the model to its own folder: by its file's hash where that is known here, else by its name."""
    having = [
        r for r in (*app[DISPATCHER].known(allowed=False), *app[DISPATCHER].loadable()) if r.model == target.model
    ]
    sha256 = next((replica.sha256 for replica in having if replica.sha256), None)
    further = (name for name in app[NAMES].further(target.model) if name.startswith("hf:"))
    target.there = min(further, default=target.model)  # by which it can be found without its hash, too
    return await target.ask(app, "pull", {} if sha256 is None else {"sha256": sha256}, PULL_S)


async def unload(request: web.Request) -> web.Response:
    """{"model", "node", "state": "available"}, when what it ran is over and its memory is free."""
    body = await read_body(request, UnloadBody)
    target = await target_of(request, body.model, body.node)
    if target.peer is None:
        return target.answer(await unload_here(request.app, target.model))
    return target.answer(await target.ask(request.app, "unload", {}, DRAIN_S))


async def pin(request: web.Request) -> web.Response:
    """{"model", "node", "state", "pinned"}."""
    body = await read_body(request, PinBody)
    target = await target_of(request, body.model, body.node)
    if target.peer is None:
        takes_work(request.app)
        done = await pin_here(request.app, target.model, body.pinned, time.monotonic() + LOAD_S)
    else:
        done = await target.ask(request.app, "pin", {"pinned": body.pinned}, LOAD_S)
    return target.answer(done, pinned=body.pinned)


# What other nodes ask for


async def answered(request: web.Request, work: Callable[[float], Awaitable[ModelDone]]) -> web.StreamResponse:
    """What `work` did, by the caller's deadline, as one line after heartbeats; an error is the line, too."""
    app = request.app
    deadline = time.monotonic() + deadline_s(request)
    takes_work(app)
    pacing = app[PACING]
    async with open_stream(request, NDJSON, {}, pacing.peer_beat_s, pacing.stalled_s) as out:
        await out.beat()  # from here on everything is a line: an error's body would reach the caller cut short
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                done = await work(deadline)
        except TimeoutError:
            raise DeadlineExceeded("the caller's deadline passed") from None
        await out.write(done.model_dump_json(exclude_defaults=True).encode() + b"\n")
    return out.response


async def load_for_peer(request: web.Request) -> web.StreamResponse:
    """Within what this node does for peers: idle models may go for it, pinned and busy ones never."""
    body = await read_body(request, PeerLoadBody)

    async def work(deadline: float) -> ModelDone:
        await known_here(request.app, body.model)
        if not body.wait:
            request.app[POOL].begin(body.model, for_peer=True)
            return ModelDone(model=body.model, state="loading")
        return await load_here(request.app, body.model, deadline, for_peer=True)

    return await answered(request, work)


async def unload_for_peer(request: web.Request) -> web.StreamResponse:
    """For members, where they may manage this node."""
    body = await read_body(request, PeerModelBody)
    log.info("a member has %s unloaded", body.model)
    return await answered(request, lambda _: unload_here(request.app, body.model))


async def pin_for_peer(request: web.Request) -> web.StreamResponse:
    """For members, where they may manage this node."""
    body = await read_body(request, PeerPinBody)
    log.info("a member has %s %s", body.model, "pinned" if body.pinned else "pinned no longer")
    return await answered(request, lambda deadline: pin_here(request.app, body.model, body.pinned, deadline))


async def pull_for_peer(request: web.Request) -> web.StreamResponse:
    """For members, where they may manage this node."""
    body = await read_body(request, PeerPullBody)
    pull = request.app[PULL]
    if pull is None:
        raise Forbidden("this node copies no models", "management_not_allowed")
    if body.sha256 is not None and not is_sha256(body.sha256):
        raise BadRequest("sha256 is no such sum: 64 digits of it, in lower case")
    log.info("a member has %s copied to this node", body.model)

    async def work(_: float) -> ModelDone:
        found = await pull(body.model, body.sha256)
        await request.app[NAMES].look_again()
        return ModelDone(model=found, state="available")

    return await answered(request, work)


def routes() -> list[web.RouteDef]:
    """What manages models, for people and between nodes."""
    return [
        web.post("/v1/models/load", load),
        web.post("/v1/models/unload", unload),
        web.post("/v1/models/pin", pin),
        web.post(wire.LOAD_PATH, load_for_peer),
        web.post(wire.UNLOAD_PATH, unload_for_peer),
        web.post(wire.PIN_PATH, pin_for_peer),
        web.post(wire.PULL_PATH, pull_for_peer),
    ]
