"""What llama.cpp's users and retrieval tools ask for: tokens, templates, facts, ranks, and texts in its own shapes.

Any of them may be answered by a peer. `/infill` is editors' completion at the caret, by any model that can;
`/completion` what llama.cpp's own clients send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Annotated

from aiohttp import web
from pydantic import AliasChoices, Field, model_validator

from swarm import program_version
from swarm.engines.engine import Capabilities
from swarm.errors import BadRequest
from swarm.gateway.answers.answer_service import ANSWER_SERVICE
from swarm.gateway.answers.request_context import AnswerRequest, RequestContext
from swarm.gateway.http.bodies import compact, json_response, read_body
from swarm.gateway.llama.plain_form import PlainCompletionBody, PlainForm
from swarm.gateway.observing.usage import spend
from swarm.gateway.openai import utility_calls
from swarm.gateway.openai.bodies import MAX_MODEL_CHARS, EmbeddingBody, EmbeddingInput, ModelOrSwarm
from swarm.gateway.openai.endpoints import VECTORS_AT_ONCE, embedded, named, whole_bodies
from swarm.gateway.openai.utility_calls import (
    DetokenizeBody,
    InfillBody,
    PropsBody,
    RerankBody,
    TemplateBody,
    TokenizeBody,
    ask,
)
from swarm.routing.replicas import SWARM_ALIAS

EUCLIDEAN = 2  # how vectors are made of one length, in llama.cpp's numbers


async def tokenize(request: web.Request) -> web.Response:
    """{"tokens": [id, ...]}, or with pieces [{"id", "piece"}, ...]."""
    body = await read_body(request, TokenizeBody)
    tokens, _ = await ask(request.app, body.model, utility_calls.tokenize(body))
    if tokens.pieces is None:
        return json_response({"tokens": tokens.ids})
    pairs = zip(tokens.ids, tokens.pieces, strict=True)
    return json_response({"tokens": [{"id": token, "piece": piece} for token, piece in pairs]})


async def detokenize(request: web.Request) -> web.Response:
    """{"content": text}."""
    body = await read_body(request, DetokenizeBody)
    text, _ = await ask(request.app, body.model, utility_calls.detokenize(body))
    return json_response({"content": text})


class PlainEmbeddingBody(EmbeddingBody):
    """`POST /embedding`: `content` is the text, or several."""

    model: ModelOrSwarm = SWARM_ALIAS
    input: Annotated[EmbeddingInput, Field(validation_alias=AliasChoices("content", "input"))]
    embd_normalize: int | None = None

    @model_validator(mode="after")
    def _of_length_one(self) -> PlainEmbeddingBody:
        if self.embd_normalize not in (None, EUCLIDEAN):
            raise ValueError(f"embd_normalize is {self.embd_normalize}; vectors are of length 1 here ({EUCLIDEAN})")
        return self


async def embedding(request: web.Request) -> web.Response:
    """[{"index", "embedding": [vector]}, ...]: one pooled vector for each text."""
    body = await read_body(request, PlainEmbeddingBody)
    rows: list[str] = []
    async with aclosing(embedded(request, body)) as batches:
        async for batch, _ in batches:
            for vector in batch.vectors:
                rows.append(compact({"index": len(rows), "embedding": [vector]}))
                if len(rows) % VECTORS_AT_ONCE == 0:
                    await asyncio.sleep(0)
    return web.Response(text=f"[{','.join(rows)}]", content_type="application/json")


async def apply_template(request: web.Request) -> web.Response:
    """{"prompt": text}: the chat as the model sees it."""
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
        spend(request, ranking.prompt_tokens)
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
            "modalities": {"vision": facts.vision, "audio": False, "video": False},
            "build_info": f"local-swarm {program_version()}",
            "swarm": {
                "node": replica.node,
                "slots_free": replica.slots_free,
                "can": {each.name: getattr(facts, each.name) for each in fields(Capabilities)},
            },
        }
    )


async def change_props(_: web.Request) -> web.Response:
    """Always a 400."""
    raise BadRequest("props cannot be changed over HTTP: settings are given where the node is started; GET serves them")


async def infill(request: web.Request) -> web.StreamResponse:
    """One continuation at the caret; never voted on, since no two are the same."""
    body = await named(request, await read_body(request, InfillBody))
    options = body.options.alone
    asked = AnswerRequest(body.to_request(), options, 1, bool(body.stream), PlainForm(body.model))
    try:
        return await request.app[ANSWER_SERVICE].answer(request, asked)
    except BadRequest as error:
        raise error.renamed({"prompt": "input_prefix"}) from error


async def completion(request: web.Request) -> web.StreamResponse:
    """Plain text continuation in llama.cpp's own form: an object, or a list of them where there are several prompts."""
    body = await named(request, await read_body(request, PlainCompletionBody))
    options = body.options
    if not options.explicit and options.min_votes is None:
        options = options.alone
    service, form = request.app[ANSWER_SERVICE], PlainForm(body.model, tuple(body.response_fields or ()))
    asked = [AnswerRequest(each, options, 1, bool(body.stream), form) for each in body.requests()]
    try:
        if len(asked) == 1:
            return await service.answer(request, asked[0])
        contexts = [await service.planned(request, each) for each in asked]
        return await service.in_one_piece(request, contexts[0], _completions(contexts))
    except BadRequest as error:
        raise error.renamed({"max_tokens": "n_predict", "top_logprobs": "n_probs", "logprobs": "n_probs"}) from error


async def _completions(contexts: Sequence[RequestContext]) -> web.Response:
    answers = [{**answer, "index": index} for index, (answer, _) in enumerate(await whole_bodies(contexts))]
    return web.Response(text=compact(answers), content_type="application/json", headers=contexts[0].headers())


async def input_tokens(request: web.Request) -> web.Response:
    """{"input_tokens": number}: the tokens of a conversation as the model sees it."""
    body = await named(request, await read_body(request, TemplateBody))
    generation = await request.app[ANSWER_SERVICE].with_instructions(body.to_request())
    tokens, _ = await ask(request.app, body.model, utility_calls.count_tokens(generation))
    return json_response({"object": "response.input_tokens", "input_tokens": tokens})


def routes() -> list[web.RouteDef]:
    """llama.cpp's endpoints, under /v1 as the others."""
    return [
        web.post("/v1/tokenize", tokenize),
        web.post("/v1/detokenize", detokenize),
        web.post("/v1/apply-template", apply_template),
        web.post("/v1/rerank", rerank),
        web.post("/v1/reranking", rerank),
        web.get("/v1/props", props),
        web.post("/v1/props", change_props),
        web.post("/v1/infill", infill),
        web.post("/v1/completion", completion),
        web.post("/v1/embedding", embedding),
        web.post("/v1/chat/completions/input_tokens", input_tokens),
    ]
