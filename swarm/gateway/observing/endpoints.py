"""Is this node alive, is it ready, what does it count, whom does it know, and which requests are in progress."""

from __future__ import annotations

import logging

from aiohttp import web

from swarm.gateway.http.access import REQUESTS_PATH
from swarm.gateway.http.bodies import json_response
from swarm.gateway.http.keys import CONDITION
from swarm.gateway.observing.metrics import METRICS
from swarm.gateway.observing.view import ViewSources, json_object
from swarm.logs import MAX_REQUEST_ID_CHARS

VIEW = web.AppKey("view", ViewSources)

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


async def cancel(request: web.Request) -> web.Response:
    """A stream ends by an error in it, a whole answer is a 409; what worked on it, here and on peers, stops."""
    request_id = request.match_info["id"][:MAX_REQUEST_ID_CHARS]
    cancelled = request.app[CONDITION].in_progress.cancel(request_id)
    log.warning("%s cancelled request %s", request.remote, request_id)
    return json_response({"id": request_id, "cancelled": cancelled})


def routes() -> list[web.RouteDef]:
    """This room's endpoints, under their whole paths."""
    return [
        web.get("/livez", live),
        web.get("/readyz", ready),
        web.get("/health", ready),
        web.get("/v1/health", ready),
        web.get("/metrics", metrics),
        web.get("/v1/federation/health", federation),
        web.get(REQUESTS_PATH, requests),
        web.post(REQUESTS_PATH + "/{id}/cancel", cancel),
    ]
