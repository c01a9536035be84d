"""The slots of this node's models, as llama-server tells its own: how many there are, and which are at work.

Of a slot are told numbers and switches, and never a text: a prompt, a stop string or a template of somebody else's
could be in any of those. What is in a slot stays there: each node keeps its own caches, and asks for them itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from swarm.engines.engine import TellsSlots
from swarm.errors import BadRequest, NotServed, SwarmError, Unavailable, UnknownModel
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.http.bodies import json_response
from swarm.gateway.http.keys import POOL
from swarm.gateway.openai.bodies import MAX_MODEL_CHARS
from swarm.generation import JsonObject
from swarm.routing.replicas import SWARM_ALIAS
from swarm.workers.model_workers import ModelWorkers

TOLD_WITHIN_S = 2.0  # an engine tells between two steps, and a step may be a large part of a prompt
LOOK_AGAIN_S = 1  # whoever waits for a free one


async def slots(request: web.Request) -> web.Response:
    """A list of this node's slots, those of `?model=` alone; with `?fail_on_no_slot=1` 503 where none is free."""
    served = await _asked_for(request)
    wants_one = request.query.get("fail_on_no_slot", "") not in ("", "0", "false")
    if wants_one and not any(workers.state().slots_free for _, workers in served):
        raise Unavailable("no slot is free: a request would wait, or be answered by another node", LOOK_AGAIN_S)
    told: list[JsonObject] = []
    for model, workers in served:
        told += [{**slot, "id": len(told) + number, "model": model} for number, slot in enumerate(await _told(workers))]
    return json_response(told)


async def _asked_for(request: web.Request) -> list[tuple[str, ModelWorkers]]:
    """The loaded models of this node that are meant. Raises UnknownModel for one that is none of its own."""
    pool, name = request.app[POOL], request.query.get("model", "")
    if len(name) > MAX_MODEL_CHARS:
        raise BadRequest(f"model has {len(name)} characters; at most {MAX_MODEL_CHARS} are read", param="model")
    loaded = {state.model_id: found for state in pool.states() if (found := pool.get(state.model_id)) is not None}
    if name in ("", SWARM_ALIAS):
        return list(loaded.items())
    meant = await request.app[NAMES].answering(name)
    if meant == SWARM_ALIAS:
        return list(loaded.items())
    if meant not in loaded and pool.loadable(meant) is None:
        raise UnknownModel(name, tuple(loaded), "slots are told by the node that has them")
    return [(meant, loaded[meant])] if meant in loaded else []


async def _told(workers: ModelWorkers) -> Sequence[JsonObject]:
    """Each slot as its engine tells of it; where that tells nothing, or takes long, only whether it is in use."""
    engine, state = workers.engine, workers.state()
    if isinstance(engine, TellsSlots):
        try:
            async with asyncio.timeout(TOLD_WITHIN_S):
                return await engine.slot_states()
        except (SwarmError, TimeoutError):
            pass
    used = state.slots - state.slots_free
    return [
        {"id": number, "n_ctx": state.context_tokens, "is_processing": number < used} for number in range(state.slots)
    ]


async def change_slot(_: web.Request) -> web.Response:
    """Always a 404."""
    raise NotServed(
        "what a slot has read is saved, restored and erased by the node itself: start it with --kv-disk SIZE, and "
        "prompts come back from the disk by themselves"
    )


def routes() -> list[web.RouteDef]:
    """`/slots`, with `/v1` and without."""
    return [web.get("/v1/slots", slots), web.post("/v1/slots/{slot}", change_slot)]
