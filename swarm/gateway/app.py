"""The node's HTTP application, put together from its endpoint files."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from federation.advertisement import NodeDescription
from federation.membership import Membership
from federation.trust import Trust
from swarm.gateway.answers.answer_service import Answerer
from swarm.gateway.answers.streams import Pacing
from swarm.gateway.anthropic import endpoints as anthropic
from swarm.gateway.documentation import pages
from swarm.gateway.http.access import AccessRules
from swarm.gateway.http.access_middleware import every_route_has_a_kind, guard
from swarm.gateway.http.admission import Admission
from swarm.gateway.http.bodies import KEEPS_BODIES, MAX_BODY_BYTES
from swarm.gateway.http.body_budget import BODIES, BodyBudget
from swarm.gateway.http.condition import Condition, closing_connections
from swarm.gateway.http.errors import error_middleware
from swarm.gateway.http.keys import (
    ANSWERER,
    CONDITION,
    DESCRIBE,
    DISPATCHER,
    MEMBERSHIP,
    METRICS,
    PACING,
    POOL,
    STARTED_AT,
    TRUST,
)
from swarm.gateway.http.server_log import quiet_about_bad_requests
from swarm.gateway.http.unversioned_paths import with_twins
from swarm.gateway.llama import endpoints as utilities
from swarm.gateway.llama import infill
from swarm.gateway.observing import health, requests
from swarm.gateway.observing.metrics import Metrics
from swarm.gateway.observing.peer_metrics import PeerMetrics
from swarm.gateway.openai import embeddings, models
from swarm.gateway.openai import endpoints as openai
from swarm.gateway.peers import endpoints as federation
from swarm.gateway.peers import model_files
from swarm.gateway.peers import utilities as peer_utilities
from swarm.gateway.peers.gate import PeerGate
from swarm.gateway.responses import endpoint as responses
from swarm.routing.dispatcher import Dispatcher
from swarm.workers.pool import WorkerPool


async def unsigned(_: web.Request, response: web.StreamResponse) -> None:
    """Without a `Server` header: it tells strangers versions, and is a tenth of what a large swarm's probes carry."""
    response.headers.popall("Server", None)


def make_app(
    dispatcher: Dispatcher,
    pool: WorkerPool,
    membership: Membership,
    describe: Callable[[], NodeDescription],
    condition: Condition,
    pacing: Pacing | None = None,
    access: AccessRules | None = None,
    trust: Trust | None = None,
    files: model_files.FileService | None = None,
) -> web.Application:
    """The application that serves clients and peers of this node."""
    quiet_about_bad_requests()
    pacing = pacing or Pacing()
    metrics = Metrics()
    metrics.watch("swarm_slots_free", "Idle slots on this node", lambda: sum(s.slots_free for s in pool.states()))
    metrics.watch("swarm_slots", "Slots on this node", lambda: sum(state.slots for state in pool.states()))
    metrics.watch("swarm_peers_alive", "Peers that answer", lambda: len(membership.alive()))
    metrics.watch("swarm_draining", "1 while this node shuts down, else 0", lambda: condition.draining)
    admission = Admission(pool, metrics, condition.in_progress)
    dispatcher.listeners.append(metrics)
    metrics.registry.register(PeerMetrics(membership))
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[metrics.middleware, error_middleware])
    if trust is not None:
        app[TRUST] = trust
        app.middlewares.append(PeerGate(trust).middleware)
    guard(app, access or AccessRules())
    app.middlewares.append(admission.middleware)
    app[BODIES] = BodyBudget()
    app[KEEPS_BODIES] = dispatcher.upstream is not None
    app.middlewares.append(app[BODIES].middleware)
    app.on_response_prepare.append(closing_connections(condition))
    app.on_response_prepare.append(unsigned)
    app[ANSWERER] = Answerer(dispatcher, metrics, condition, pacing)
    app[DISPATCHER] = dispatcher
    app[POOL] = pool
    app[MEMBERSHIP] = membership
    app[METRICS] = metrics
    app[CONDITION] = condition
    app[DESCRIBE] = describe
    app[PACING] = pacing
    app[model_files.FILES] = files
    if files is not None:
        metrics.watch("swarm_file_transfers", "Model files being given to peers", lambda: files.transfers.running)
    app[STARTED_AT] = int(time.time())
    for module in (
        openai, responses, anthropic, embeddings, models, health, federation, model_files, infill, utilities,
        peer_utilities, pages, requests,
    ):  # fmt: skip
        app.add_routes(with_twins(module.routes()))
    every_route_has_a_kind(app)
    return app
