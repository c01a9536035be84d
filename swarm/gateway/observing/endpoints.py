"""Is this node alive, is it ready, what does it count, and whom does it know.

The requests in progress, for whoever may manage this node: which there are, and the end of one of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from aiohttp import web

from federation.change_log import RecentChange
from federation.dns_source import ResolvedName
from federation.peer import AddressRejected, Peer
from federation.trust import Trust
from swarm.gateway.http.access import REQUESTS_PATH, AccessRules
from swarm.gateway.http.access_middleware import ACCESS
from swarm.gateway.http.compact_json import json_response
from swarm.gateway.http.in_progress import Work
from swarm.gateway.http.keys import CONDITION, DESCRIBE, DISPATCHER, MEMBERSHIP, POOL, TRUST
from swarm.gateway.observing.metrics import METRICS
from swarm.routing.conduct import Account
from swarm.routing.replicas import CircuitState
from swarm.routing.upstream import Upstream
from swarm.tracing import MAX_REQUEST_ID_CHARS

UNKNOWN: Final[tuple[Account, tuple[str, ...]]] = (Account(), ())  # a peer of which nothing was asked


async def live(_: web.Request) -> web.Response:
    """The process answers: nothing more."""
    return json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """200 while this node's own model runs, until it is on its way out; else 503 with the reason."""
    request.app[CONDITION].in_progress.note_client()
    problem = not_ready(request)
    if problem is None:
        return json_response({"status": "ok"})
    response = json_response({"status": "unavailable", "reason": problem})
    response.set_status(503)
    response.headers["Retry-After"] = "1"
    return response


def not_ready(request: web.Request) -> str | None:
    condition = request.app[CONDITION]
    if condition.draining:
        return "draining"
    if condition.loading:  # it passes requests on already; but who restarts nodes in turn must wait for its model
        return "loading the model"
    for state in request.app[POOL].states():  # others may answer for it: a balancer asks them without this detour
        if state.problem is not None or state.stalled is not None:
            return f"model {state.model_id!r}: {state.problem or state.stalled}"
    dispatcher = request.app[DISPATCHER]
    if dispatcher.offered():
        return None
    if dispatcher.upstream is not None and dispatcher.upstream.offer().problem is not None:
        return dispatcher.upstream.offer().problem
    return "no model is running"


async def metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=request.app[METRICS].render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


def peer_object(
    peer: Peer, circuit: CircuitState = "closed", conduct: tuple[Account, tuple[str, ...]] = UNKNOWN
) -> dict[str, object]:
    """One peer in the public view; `circuit`: whether requests to it fail; `conduct`: its account, and what stands out.

    `problems` are facts with their numbers, for a person to judge: nothing is done about them.
    """
    account, problems = conduct
    return {
        "id": peer.id,
        "name": peer.label,
        "url": peer.url,
        "state": str(peer.state),
        "models": [model.id for model in peer.description.models],
        "rtt_ms": None if peer.rtt_ms is None else round(peer.rtt_ms, 2),
        "last_seen_s": round(peer.silent_s(time.monotonic()), 2),
        "slots_free": peer.description.slots_free,
        "source": peer.source.word,
        "circuit": circuit,
        "conduct": asdict(account),
        "problems": list(problems),
    }


def trust_object(trust: Trust | None, peers: Sequence[Peer]) -> dict[str, object]:
    """Who may be a peer; `problem` where this node was put out of its swarm; `absent`: members not among `peers`."""
    if trust is None:
        return {"mode": "open", "problem": None, "absent": []}
    seen = {peer.id for peer in peers}
    absent = () if trust.problem is not None else (entry for entry in trust.others if entry.id not in seen)
    return {
        "mode": trust.mode,
        "problem": trust.problem,
        "absent": [{"id": entry.id, "name": entry.name} for entry in absent],
    }


def access_object(rules: AccessRules, trust: Trust | None) -> dict[str, object]:
    """Who may use the API, ask as a node, and manage this one."""
    return {
        "api": "key" if rules.wants_key else "anyone",
        "peers": rules.peers("open" if trust is None else trust.mode),
        "management": "this machine or admin key" if rules.admin_digests else "this machine",
    }


def upstream_object(upstream: Upstream | None) -> dict[str, object] | None:
    """Where requests may go beside nodes, and how many went; the address without a path, and never a key."""
    if upstream is None:
        return None
    offer, address = upstream.offer(), upstream.plan.address
    return {
        "host": offer.host,
        "mode": offer.mode,
        "reach": address.reach,
        "model": offer.default,
        "models": len(offer.models),
        "requests": upstream.http.requests,
        "problem": offer.problem,
    }


def address_object(rejected: AddressRejected) -> dict[str, object]:
    """One address that was proposed and leads to no peer."""
    return {
        "address": str(rejected.address),
        "source": rejected.source.word,
        "why": str(rejected.why),
        "reason": rejected.reason,
    }


def name_object(resolved: ResolvedName) -> dict[str, object]:
    """One host name given with --peer, and what it stood for when last asked."""
    return {
        "name": str(resolved.name),
        "addresses": [str(address) for address in resolved.addresses],
        "problem": resolved.problem,
    }


def change_object(change: RecentChange) -> dict[str, object]:
    """One change among the peers; `times` counts the same one within a minute."""
    return {
        "at": change.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "peer": change.peer,
        "id": change.id,
        "state": str(change.state),
        "reason": change.reason,
        "times": change.times,
    }


async def federation(request: web.Request) -> web.Response:
    """The swarm as this node sees it: itself, its peers and why they are in or out, who serves what."""
    node, peers = request.app[DESCRIBE](), request.app[MEMBERSHIP].peers()
    served: dict[str, list[str]] = {}
    circuits, conduct = request.app[DISPATCHER].circuits(), request.app[DISPATCHER].conduct()
    for replica in request.app[DISPATCHER].replicas():
        served.setdefault(replica.model, []).append(replica.node)
    return json_response(
        {
            "status": not_ready(request) or "ok",
            "node": {"id": node.id, "name": node.name, "version": node.version, "url": node.url, "mode": node.mode},
            "trust": trust_object(request.app.get(TRUST), peers),
            "access": access_object(request.app[ACCESS], request.app.get(TRUST)),
            "peers": [
                peer_object(peer, circuits.get(peer.id, "closed"), conduct.get(peer.id, UNKNOWN)) for peer in peers
            ],
            "changes": [change_object(change) for change in request.app[MEMBERSHIP].changes()],
            "rejected": [address_object(rejected) for rejected in request.app[MEMBERSHIP].rejected()],
            "names": [name_object(resolved) for resolved in request.app[MEMBERSHIP].names()],
            "sources": [
                {"source": name, "problem": problem} for name, problem in request.app[MEMBERSHIP].sources.items()
            ],
            "models": served,
            "upstream": upstream_object(request.app[DISPATCHER].upstream),
        }
    )


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
