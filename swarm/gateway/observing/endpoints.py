"""Is this node alive, is it ready, what does it count, whom does it know, and which requests are in progress."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web

from swarm.errors import BadRequest, Forbidden, Unauthorized, UnknownRequest
from swarm.gateway.http.access import (
    LOGS_PATH,
    PERFORMANCE_PATH,
    REQUESTS_PATH,
    USAGE_PATH,
    VOTES_PATH,
    check_management,
)
from swarm.gateway.http.access_middleware import ACCESS, caller_of
from swarm.gateway.http.bodies import json_response
from swarm.gateway.http.keys import CONDITION
from swarm.gateway.observing.log_lines import look_at, wanted_lines
from swarm.gateway.observing.metrics import METRICS
from swarm.gateway.observing.performance import PERFORMANCE
from swarm.gateway.observing.usage import USAGE, UsageListing
from swarm.gateway.observing.view import ViewSources, json_object
from swarm.gateway.observing.vote_history import MAX_KEPT, VOTES, vote_object
from swarm.logs import MAX_REQUEST_ID_CHARS, LogRing

VIEW = web.AppKey("view", ViewSources)
LOGS = web.AppKey("logs", LogRing)

log = logging.getLogger(__name__)


async def live(_: web.Request) -> web.Response:
    """The process answers: nothing more."""
    return json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """200 while this node's own model runs, until it is on its way out; else 503 with the reason."""
    request.app[CONDITION].in_progress.note_client()
    problem = request.app[VIEW].not_ready()
    if problem is None:
        return json_response({"status": "ok"})
    response = json_response({"status": "unavailable", "reason": problem})
    response.set_status(503)
    response.headers["Retry-After"] = "1"
    return response


async def metrics(request: web.Request) -> web.Response:
    """Everything that is counted, in Prometheus' text format."""
    return web.Response(
        body=request.app[METRICS].render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def federation(request: web.Request) -> web.Response:
    """The swarm as this node sees it: itself, its peers and why they are in or out, who serves what."""
    return json_response(json_object(request.app[VIEW].look().federation))


async def requests(request: web.Request) -> web.Response:
    """The oldest first."""
    return json_response(json_object(request.app[VIEW].requests()))


async def usage(request: web.Request) -> web.Response:
    """What each key used of this node, by day."""
    return json_response(json_object(UsageListing(object="list", data=request.app[USAGE].entries())))


async def logs(request: web.Request) -> web.Response:
    """The last log lines; `?level=`, `text=`, `after=` and `limit=` pick some."""
    return json_response(json_object(look_at(request.app[LOGS], wanted_lines(request.query))))


async def cancel(request: web.Request) -> web.Response:
    """A stream ends by an error in it, a whole answer is a 409; what worked on it, here and on peers, stops."""
    request_id = request.match_info["id"][:MAX_REQUEST_ID_CHARS]
    cancelled = request.app[CONDITION].in_progress.cancel(request_id)
    log.warning("%s cancelled request %s", request.remote, request_id)
    return json_response({"id": request_id, "cancelled": cancelled})


MAX_FILTER_CHARS: Final = 256


async def votes(request: web.Request) -> web.Response:
    """The votes that this node coordinated; `?kind=`, `outcome=` and `model=` pick some, `limit=` how many."""
    for name in request.query:
        if name not in ("kind", "outcome", "model", "limit"):
            raise BadRequest(
                f"there is no filter {name[:MAX_FILTER_CHARS]!r}: take kind, outcome, model or limit", name
            )
    history, query = request.app[VOTES], request.query
    found = history.entries(
        wanted_votes(query.get("limit")), query.get("kind"), query.get("outcome"), query.get("model")
    )
    return json_response({"object": "list", "data": [vote_object(entry) for entry in found]})


def wanted_votes(text: str | None) -> int:
    """How many votes a query wants. Raises BadRequest for what is no such number."""
    if text is None:
        return MAX_KEPT
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= number <= MAX_KEPT:
        raise BadRequest(f"limit is {text[:MAX_FILTER_CHARS]!r}: it must be from 1 to {MAX_KEPT}", "limit")
    return number


async def vote(request: web.Request) -> web.Response:
    """One vote in full; the words of its answers, and its prompt, only for those who manage this node."""
    vote_id = request.match_info["id"][:MAX_FILTER_CHARS]
    found = request.app[VOTES].in_full(vote_id, manages(request))
    if found is None:
        raise UnknownRequest(
            f"no vote {vote_id!r} is known here: each node has the last {MAX_KEPT} that it coordinated since it started"
        )
    return json_response(vote_object(found))


def manages(request: web.Request) -> bool:
    """Whether whoever asks may know what only those do who manage this node."""
    try:
        check_management(request.app[ACCESS], caller_of(request, manages=True))
    except (Forbidden, Unauthorized):
        return False
    return True


async def performance(request: web.Request) -> web.Response:
    """How quickly answers came in the last hour."""
    return json_response(json_object(request.app[PERFORMANCE].look()))


def routes() -> list[web.RouteDef]:
    """This room's endpoints, under their whole paths."""
    return [
        web.get("/livez", live),
        web.get("/readyz", ready),
        web.get("/health", ready),
        web.get("/v1/health", ready),
        web.get("/metrics", metrics),
        web.get("/v1/federation/health", federation),
        web.get(VOTES_PATH, votes),
        web.get(VOTES_PATH + "/{id}", vote),
        web.get(PERFORMANCE_PATH, performance),
        web.get(USAGE_PATH, usage),
        web.get(LOGS_PATH, logs),
        web.get(REQUESTS_PATH, requests),
        web.post(REQUESTS_PATH + "/{id}/cancel", cancel),
    ]
