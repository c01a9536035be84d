"""OpenAI's endpoints: chat completions, completions, embeddings, models."""

from __future__ import annotations

import base64
import struct
from typing import TypeVar

from aiohttp import web

from swarm.errors import BadRequest, UnknownModel
from swarm.gateway.answers import Asked
from swarm.gateway.keys import ANSWERER, DISPATCHER, STARTED_AT
from swarm.gateway.schemas import Body, ChatCompletionBody, CompletionBody, EmbeddingBody
from swarm.gateway.shapes import compact
from swarm.routing.policy import VoteOptions
from swarm.routing.replicas import SWARM_ALIAS, Replica, model_names

B = TypeVar("B", bound=Body)


async def read_body(request: web.Request, schema: type[B]) -> B:
    """The body, parsed. Raises ValidationError or HTTP 413; the error mapper words both."""
    raw = await request.read()
    if not raw:
        raise BadRequest("the body is empty: send a JSON object")
    return schema.model_validate_json(raw)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, ChatCompletionBody)
    return await request.app[ANSWERER].answer(
        request,
        Asked(body.to_request(), body.swarm.options(), body.choices, bool(body.stream), body.include_usage),
    )


async def completions(request: web.Request) -> web.StreamResponse:
    """Plain text continuation: voted on only where the request says so."""
    body = await read_body(request, CompletionBody)
    options = body.swarm.options()
    if options.strategy == "auto" and options.votes is None:
        options = VoteOptions("single", deadline_s=options.deadline_s)
    return await request.app[ANSWERER].answer(
        request, Asked(body.to_request(), options, body.choices, bool(body.stream), body.include_usage)
    )


async def embeddings(request: web.Request) -> web.Response:
    body = await read_body(request, EmbeddingBody)
    answer, model = await request.app[DISPATCHER].embed(body.model, body.texts)
    if body.dimensions is not None and body.dimensions != len(answer.vectors[0]):
        raise BadRequest(
            f"dimensions is {body.dimensions}; {model!r} gives vectors of {len(answer.vectors[0])} and none shorter",
            param="dimensions",
        )
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector, body.encoding_format)}
        for index, vector in enumerate(answer.vectors)
    ]
    usage = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})


def encoded(vector: tuple[float, ...], how: str) -> list[float] | str:
    """A vector as numbers, or as base64 of little-endian float32 (what the OpenAI SDK asks for)."""
    if how == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def json_response(body: object) -> web.Response:
    return web.Response(text=compact(body), content_type="application/json")


def model_object(name: str, replicas: tuple[Replica, ...], created: int) -> dict[str, object]:
    """One entry of the list; `nodes` is our own extension."""
    nodes = sorted({replica.node for replica in replicas if name in (SWARM_ALIAS, replica.model)})
    return {"id": name, "object": "model", "created": created, "owned_by": "local-swarm", "nodes": nodes}


async def models(request: web.Request) -> web.Response:
    replicas = request.app[DISPATCHER].replicas()
    names = [*model_names(replicas), SWARM_ALIAS] if replicas else []
    data = [model_object(name, replicas, request.app[STARTED_AT]) for name in names]
    return json_response({"object": "list", "data": data})


async def model(request: web.Request) -> web.Response:
    name = request.match_info["id"]
    replicas = request.app[DISPATCHER].replicas()
    names = (*model_names(replicas), SWARM_ALIAS) if replicas else ()
    if name not in names:
        raise UnknownModel(name, names)
    return json_response(model_object(name, replicas, request.app[STARTED_AT]))


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", chat_completions),
        web.post("/v1/completions", completions),
        web.post("/v1/embeddings", embeddings),
        web.get("/v1/models", models),
        web.get("/v1/models/{id:.+}", model),
    ]
