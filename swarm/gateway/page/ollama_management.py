"""Ollama's words for what changes which models this node has, for those who manage it: pull, delete and copy.

A pull is one of those of `/swarm/v1/pulls`, by the names that `swarm models pull` takes, and is seen there and on the
page; these lie in this room because of that. Deleting has the rules of `swarm models rm`. A copy is a second name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web

from federation.printable_text import clean_line
from swarm.errors import (
    BadRequest,
    ModelInUse,
    NotInRegistry,
    SetupError,
    SwarmError,
    Unavailable,
    UnknownModel,
    UnknownRequest,
)
from swarm.gateway.answers.answer_form import PACING, Dialect, in_one_piece, open_stream
from swarm.gateway.answers.model_names import LATEST, NAMES
from swarm.gateway.answers.request_context import may_leave
from swarm.gateway.http.bodies import json_response, read_body
from swarm.gateway.http.keys import DISPATCHER, POOL
from swarm.gateway.ollama.bodies import OllamaNamedBody
from swarm.gateway.ollama.endpoints import untagged
from swarm.gateway.ollama.form import NDJSON_HEADERS, failure, line
from swarm.gateway.openai.bodies import Body, RequestedModel
from swarm.gateway.page.pulls import PULLS, SHELF, ModelShelf, PullEntry, refuse_second_name
from swarm.gateway.peers.management import takes_work
from swarm.generation import JsonObject
from swarm.registry.hub import Progress
from swarm.registry.names import NoSuchName
from swarm.registry.removal import ArrivedOf, NotDownloaded, Removal
from swarm.routing.replicas import SWARM_ALIAS
from swarm.workers.model_workers import ModelState

LOOK_S: Final = 0.1  # between two looks at how far a pull is
OVER: Final = ("done", "failed", "cancelled")
PREPARING: Final[JsonObject] = {"status": "pulling manifest"}
SUCCESS: Final[JsonObject] = {"status": "success"}

log = logging.getLogger(__name__)


class OllamaPullBody(OllamaNamedBody):
    """`POST /api/pull`. `insecure` has no meaning: files are checked by their hashes."""

    stream: bool | None = None


def pull_status(entry: PullEntry) -> JsonObject:
    """How far a pull is, as Ollama says it: bytes once it is known how many there are."""
    if entry.total_bytes is None:
        return PREPARING
    return {"status": f"pulling {entry.model}", "total": entry.total_bytes, "completed": entry.done_bytes}


async def pull(request: web.Request) -> web.StreamResponse:
    """A line whenever it got further, then {"status": "success"}; with `stream` false only that.

    What no registry has is a 404, what cannot be pulled at all a 400, and what may be had later a 503. A client that
    leaves ends its pull, as with Ollama, unless it was on its way before; what has arrived is kept.
    """
    app = request.app
    body = await read_body(request, OllamaPullBody)
    takes_work(app)
    name, shelf, pulls = untagged(request, body.wanted.strip()), app[SHELF], app[PULLS]
    if shelf is None:
        raise BadRequest("this node loads no models of its own, so it pulls none")
    refuse_second_name(app, name)
    failures: list[SwarmError] = []
    try:
        shelf.check(name)
        name = await shelf.sized(name)
    except SetupError as error:
        raise refusal_of(error) from error

    async def work(progress: Progress) -> None:
        try:
            await shelf.pull(name, progress)
        except SwarmError as error:
            failures.append(error)
            raise
        await app[NAMES].look_again()

    before = {entry.id for entry in pulls.entries()}
    began = pulls.begin(name, app[DISPATCHER].node, work)
    log.warning("%s has %s pulled to this node by Ollama's API", request.remote, clean_line(name))
    try:
        if body.stream is False:
            return await in_one_piece(request, {}, app[PACING], _whole(request, began, failures))
        return await _told(request, began)
    finally:
        if began.id not in before:
            with suppress(UnknownRequest):  # over, and listed no more
                await pulls.cancel(began.id)


async def _whole(request: web.Request, began: PullEntry, failures: Sequence[SwarmError]) -> web.Response:
    async for entry in _course(request, began):
        check_done(entry, failures)
    return json_response(SUCCESS)


async def _told(request: web.Request, began: PullEntry) -> web.StreamResponse:
    pacing = request.app[PACING]
    dialect = Dialect(NDJSON_HEADERS, line(PREPARING), failure)
    async with open_stream(request, dialect, {}, pacing.client_beat_s, pacing.stalled_s) as out:
        last: JsonObject = {}
        async for entry in _course(request, began):
            if (status := pull_status(entry)) != last:
                last = status
                await out.write(line(status))
            check_done(entry)
        await out.end(line(SUCCESS))
    return out.response


async def _course(request: web.Request, began: PullEntry) -> AsyncGenerator[PullEntry]:
    """The pull now and every LOOK_S, up to and with its end."""
    while True:
        entry = now_at(request, began)
        yield entry
        if entry.state in OVER:
            return
        await asyncio.sleep(LOOK_S)


def now_at(request: web.Request, began: PullEntry) -> PullEntry:
    """The pull as it is at this moment. Raises Unavailable where it is over for so long that it is listed no more."""
    for entry in request.app[PULLS].entries():
        if entry.id == began.id:
            return entry
    raise Unavailable("the pull is over, and so are many after it: ask again, which tells at once where it is here")


def check_done(entry: PullEntry, failures: Sequence[SwarmError] = ()) -> None:
    """Raises where a pull ended without the model: as `refusal_of`, and Unavailable for what may come another time."""
    if entry.state not in OVER or entry.state == "done":
        return
    for failed in failures:
        if isinstance(failed, NoSuchName):
            raise refusal_of(failed) from failed
    raise Unavailable(entry.problem or "the pull was cancelled; the next one goes on from there")


def refusal_of(error: SetupError) -> NotInRegistry | BadRequest:
    """What to answer for a name that no pull brings."""
    return NotInRegistry(str(error)) if isinstance(error, NoSuchName) else BadRequest(str(error), param="model")


class OllamaCopyBody(Body):
    """`POST /api/copy`."""

    source: RequestedModel
    destination: RequestedModel


async def copy(request: web.Request) -> web.Response:
    """{"status": "success"}: `destination` means the model that `source` means from now on; no file is copied.

    With a `note` where that does not outlive the node. Raises UnknownModel, and BadRequest for a name that is taken.
    """
    body = await read_body(request, OllamaCopyBody)
    names, source = request.app[NAMES], untagged(request, body.source.strip())
    found = names.meant(source, may_leave(request))
    if found is None:
        await names.look_again()
        found = names.meant(source, may_leave(request))
    if found is None:
        raise names.unknown(source)
    name = body.destination.strip().removesuffix(LATEST)
    why_not_kept = await names.give(name, found)
    log.warning("%s calls %s %s, too, by Ollama's API", request.remote, clean_line(found), clean_line(name))
    notes = [] if why_not_kept is None else [f"it holds until this node stops: {why_not_kept}"]
    return _success(notes)


async def delete(request: web.Request) -> web.Response:
    """{"status": "success"}: the model's files are gone from this node's disk, or a name that a model was given.

    A `note` tells what stays of it elsewhere. Raises UnknownModel, BadRequest for what this program did not bring here,
    and ModelInUse.
    """
    app = request.app
    body = await read_body(request, OllamaNamedBody)
    takes_work(app)
    names, wanted = app[NAMES], body.wanted.strip()
    if names.given.meaning(short := wanted.removesuffix(LATEST)) is not None:
        why_not_kept = await names.given.take_back(short)
        log.warning("%s takes back the name %s by Ollama's API", request.remote, clean_line(short))
        return _success([] if why_not_kept is None else [f"until this node starts again: {why_not_kept}"])
    name, shelf = untagged(request, wanted), app[SHELF]
    found = names.meant(name, upstream=False)
    if names.is_configured(name) and found != name:
        raise BadRequest(f"{name!r} is an alias of this node's configuration: take it out there", param="model")
    if found == SWARM_ALIAS:
        raise BadRequest(f"{SWARM_ALIAS!r} stands for all models: name one of them", param="model")
    if shelf is None:
        raise BadRequest("this node loads no models of its own, so it has none to delete")
    try:
        removal = await shelf.removal(found or name)
    except NotDownloaded as error:
        why = "" if found is None else "no file of it lies on this node's disk"
        raise UnknownModel(wanted, names.known(), why) from error
    except SetupError as error:
        raise BadRequest(str(error), param="model") from error
    return _success(await _removed(request, shelf, removal))


async def _removed(request: web.Request, shelf: ModelShelf, removal: Removal | ArrivedOf) -> list[str]:
    """Remove it, unloaded before where it idles; what there is of it all the same."""
    app, stays = request.app, list[str]()
    words = await asyncio.to_thread(lambda: removal.words)
    if isinstance(removal, Removal):
        model_id = removal.model.id
        check_idle(next((state for state in app[POOL].states() if state.model_id == model_id), None))
        having = (replica for replica in app[DISPATCHER].known() if replica.model == model_id)
        others = {replica.node for replica in having if not replica.local}
        with suppress(UnknownModel):  # it is not loaded
            await app[POOL].unload(model_id, "it is removed")
        stays = await asyncio.to_thread(removal.stays)
        stays += [f"{', '.join(sorted(others))} {'has' if len(others) == 1 else 'have'} it, too"] if others else []
    try:
        await shelf.remove(removal)
    except SetupError as error:
        raise BadRequest(str(error), param="model") from error
    log.warning("%s has removed %s by Ollama's API", request.remote, clean_line(words))
    return stays


def check_idle(state: ModelState | None) -> None:
    """Raises ModelInUse for a model that is pinned, on its way, or at work; None is not loaded."""
    if state is None:
        return
    model_id = state.model_id
    if state.pinned:
        raise ModelInUse(f"{model_id!r} is pinned: `swarm models pin {model_id} --off` lets it go")
    is_still = state.phase in ("ready", "failed")
    works = state.phase == "ready" and (state.slots_free < state.slots or state.waiting > 0)
    if works or not is_still:
        doing = "answers somebody" if works else f"is {state.phase}"
        raise ModelInUse(f"{model_id!r} {doing}: ask again when it is idle")


def _success(notes: Sequence[str]) -> web.Response:
    return json_response({**SUCCESS, **({"note": "; ".join(notes)} if notes else {})})


def routes() -> list[web.RouteDef]:
    """For those who manage this node."""
    return [web.post("/api/pull", pull), web.post("/api/copy", copy), web.delete("/api/delete", delete)]
