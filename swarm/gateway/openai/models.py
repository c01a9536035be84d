"""OpenAI's list of models: everything that this node, a peer or the upstream serves, and the alias for all of it."""

from __future__ import annotations

from aiohttp import web

from swarm.errors import UnknownModel
from swarm.gateway.answers.leaving import may_leave
from swarm.gateway.http.compact_json import json_response
from swarm.gateway.http.keys import DISPATCHER, STARTED_AT
from swarm.routing.replicas import SWARM_ALIAS, Replica, model_names

CODEX_VERSION = "client_version"  # the query by which Codex, and only Codex, asks for the list


def names_of(replicas: tuple[Replica, ...]) -> tuple[str, ...]:
    """What a client may ask for."""
    return (*model_names(replicas), SWARM_ALIAS) if replicas else ()


def model_object(name: str, replicas: tuple[Replica, ...], created: int) -> dict[str, object]:
    """One entry of the list; `nodes` is our own extension."""
    nodes = sorted({replica.node for replica in replicas if name in (SWARM_ALIAS, replica.model)})
    upstream = {r.node for r in replicas if r.upstream and r.model == name}
    owner = upstream.pop() if len(nodes) == len(upstream) == 1 else "local-swarm"
    return {"id": name, "object": "model", "created": created, "owned_by": owner, "nodes": nodes}


async def models(request: web.Request) -> web.Response:
    replicas = request.app[DISPATCHER].known(may_leave(request))
    of_model: dict[str, list[Replica]] = {SWARM_ALIAS: list(replicas)}
    for replica in replicas:
        of_model.setdefault(replica.model, []).append(replica)
    data = [model_object(name, tuple(of_model[name]), request.app[STARTED_AT]) for name in names_of(replicas)]
    listing: dict[str, object] = {"object": "list", "data": data}
    if CODEX_VERSION in request.query:
        # It reads `models`, whose entries hold its own prompts for its maker's models, and reports an error where there
        # is none. Nobody else is shown it: some clients would take an empty `models` for the whole list.
        listing["models"] = []
    return json_response(listing)


async def model(request: web.Request) -> web.Response:
    name = request.match_info["id"]
    replicas = request.app[DISPATCHER].known(may_leave(request))
    names = names_of(replicas)
    if name not in names:
        raise UnknownModel(name, names)
    return json_response(model_object(name, replicas, request.app[STARTED_AT]))


def routes() -> list[web.RouteDef]:
    return [web.get("/v1/models", models), web.get("/v1/models/{id:.+}", model)]
