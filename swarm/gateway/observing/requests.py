"""The requests in progress, for whoever may manage this node: which there are, and the end of one of them."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from swarm.gateway.http.compact_json import json_response
from swarm.gateway.http.in_progress import Work
from swarm.gateway.http.keys import CONDITION
from swarm.gateway.http.route_kinds import REQUESTS_PATH
from swarm.tracing import MAX_REQUEST_ID_CHARS

log = logging.getLogger(__name__)


def request_object(work: Work, now: float) -> dict[str, object]:
    """One request. Neither what it asks nor with which key is anybody's business."""
    return {
        "id": work.request_id,
        "path": work.path,
        "from": "node" if work.for_a_node else "client",
        "running_s": round(now - work.began, 2),
    }


async def requests(request: web.Request) -> web.Response:
    """The oldest first."""
    now = time.monotonic()
    running = sorted(request.app[CONDITION].in_progress.now(), key=lambda work: work.began)
    return json_response({"object": "list", "data": [request_object(work, now) for work in running]})


async def cancel(request: web.Request) -> web.Response:
    """A stream ends by an error in it, a whole answer is a 409; what worked on it, here and on peers, stops."""
    request_id = request.match_info["id"][:MAX_REQUEST_ID_CHARS]
    cancelled = request.app[CONDITION].in_progress.cancel(request_id)
    log.warning("%s cancelled request %s", request.remote, request_id)
    return json_response({"id": request_id, "cancelled": cancelled})


def routes() -> list[web.RouteDef]:
    return [web.get(REQUESTS_PATH, requests), web.post(REQUESTS_PATH + "/{id}/cancel", cancel)]
