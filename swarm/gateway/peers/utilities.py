"""Calls that generate nothing, asked by peers: answered by this node's engines as one line, after heartbeats."""

from __future__ import annotations

import time

from aiohttp import web

from federation import wire
from swarm.gateway.answers.streams import NDJSON, open_stream
from swarm.gateway.answers.utility_calls import PEER_UTILITIES
from swarm.gateway.http.keys import CONDITION, DISPATCHER, PACING
from swarm.gateway.peers.endpoints import deadline_s


async def utility(request: web.Request) -> web.StreamResponse:
    """One answer. What goes wrong once the call runs is the line, the error object of every other endpoint."""
    left_s = deadline_s(request)
    known = PEER_UTILITIES.get(request.match_info["name"])
    if known is None:
        raise web.HTTPNotFound
    model, call = await known.read(request)
    app = request.app
    dispatcher, pacing = app[DISPATCHER], app[PACING]
    deadline = time.monotonic() + left_s
    async with open_stream(request, NDJSON, {}, pacing.peer_beat_s, pacing.stalled_s) as out:
        await out.beat()  # from here on everything is a line: an error's body would reach the caller cut short
        with app[CONDITION].finding_a_model(dispatcher.node, for_peer=True):
            answer, _ = await dispatcher.utility(model, call, deadline, local_only=True)
        await out.write(call.answer.dump_json(answer) + b"\n")
    return out.response


def routes() -> list[web.RouteDef]:
    return [web.post(wire.UTILITIES_PATH + "/{name}", utility)]
