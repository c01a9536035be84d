"""What llama.cpp's users and retrieval tools ask for: tokens, templates, facts, ranks: here or from a peer."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TypeVar

from aiohttp import web

from swarm.engines.engine import Capabilities
from swarm.errors import BadRequest
from swarm.gateway.answers import utility_calls
from swarm.gateway.http.bodies import read_body
from swarm.gateway.http.compact_json import json_response
from swarm.gateway.http.keys import CONDITION, DISPATCHER
from swarm.gateway.llama.bodies import DetokenizeBody, PropsBody, RerankBody, TemplateBody, TokenizeBody
from swarm.gateway.openai.sampling_body import MAX_MODEL_CHARS
from swarm.routing.replicas import SWARM_ALIAS, Replica
from swarm.routing.utilities import UtilityCall
from swarm.version import program_version

UTILITY_DEADLINE_S = 120.0  # for one call: 32 texts of 512 tokens on a slow machine
A = TypeVar("A")


async def ask(app: web.Application, model: str, call: UtilityCall[A], upstream: bool = True) -> tuple[A, Replica]:
    """The answer to a call, and whose it is; not without `upstream` the upstream's."""
    dispatcher = app[DISPATCHER]
    with app[CONDITION].finding_a_model(dispatcher.node):
        return await dispatcher.utility(model, call, time.monotonic() + UTILITY_DEADLINE_S, upstream=upstream)


async def tokenize(request: web.Request) -> web.Response:
    body = await read_body(request, TokenizeBody)
    tokens, _ = await ask(request.app, body.model, utility_calls.tokenize(body))
    if tokens.pieces is None:
        return json_response({"tokens": tokens.ids})
    pairs = zip(tokens.ids, tokens.pieces, strict=True)
    return json_response({"tokens": [{"id": token, "piece": piece} for token, piece in pairs]})


async def detokenize(request: web.Request) -> web.Response:
    body = await read_body(request, DetokenizeBody)
    text, _ = await ask(request.app, body.model, utility_calls.detokenize(body))
    return json_response({"content": text})


async def apply_template(request: web.Request) -> web.Response:
    body = await read_body(request, TemplateBody)
    text, _ = await ask(request.app, body.model, utility_calls.apply_template(body))
    return json_response({"prompt": text})


async def rerank(request: web.Request) -> web.Response:
    """Documents by how well they answer the query, best first; batches go to one model, perhaps on several nodes."""
    body = await read_body(request, RerankBody)
    passages, model, tokens = body.passages, body.model, 0
    scores: list[float] = []
    for start in range(0, len(passages), utility_calls.BATCH):
        part = passages[start : start + utility_calls.BATCH]
        batch = body.model_copy(update={"documents": part, "texts": None})
        ranking, replica = await ask(request.app, model, utility_calls.rerank(batch))
        model = replica.model
        tokens += ranking.prompt_tokens
        scores.extend(ranking.scores)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    if body.texts is not None:  # the form of text-embeddings-inference
        rows = [{"index": i, "score": scores[i], **({"text": passages[i]} if body.return_text else {})} for i in order]
        return json_response(rows)
    results = [
        {
            "index": i,
            "relevance_score": scores[i],
            **({"document": {"text": passages[i]}} if body.return_documents else {}),
        }
        for i in order
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "model": model, "results": results, "usage": usage})


async def props(request: web.Request) -> web.Response:
    """Facts of a model, with llama.cpp's names for them; nothing of where its file is."""
    model = request.query.get("model") or SWARM_ALIAS
    if len(model) > MAX_MODEL_CHARS:
        raise BadRequest(f"model has {len(model)} characters; at most {MAX_MODEL_CHARS} are read", param="model")
    facts, replica = await ask(request.app, model, utility_calls.props(PropsBody(model=model)))
    return json_response(
        {
            "model_alias": replica.model,
            "total_slots": facts.slots,
            "default_generation_settings": {"n_ctx": facts.context_tokens},
            "chat_template": facts.chat_template,
            "bos_token": facts.bos_token,
            "eos_token": facts.eos_token,
            "modalities": {"vision": False, "audio": False},
            "build_info": f"local-swarm {program_version()}",
            "swarm": {"node": replica.node, "slots_free": replica.slots_free, "can": abilities(facts)},
        }
    )


def abilities(facts: Capabilities) -> dict[str, bool]:
    return {name: value for name, value in asdict(facts).items() if isinstance(value, bool)}


async def change_props(_: web.Request) -> web.Response:
    raise BadRequest("props cannot be changed over HTTP: settings are given where the node is started; GET serves them")


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/tokenize", tokenize),
        web.post("/v1/detokenize", detokenize),
        web.post("/v1/apply-template", apply_template),
        web.post("/v1/rerank", rerank),
        web.post("/v1/reranking", rerank),
        web.get("/v1/props", props),
        web.post("/v1/props", change_props),
    ]
