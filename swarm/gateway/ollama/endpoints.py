"""Ollama's API: conversations, texts, vectors, and the models, for programs that were told of no other.

What a name means is as everywhere; `NAME:latest` is NAME, too, where nothing is called so. Models are not made here:
`/api/create` and blobs say what to do instead. What changes the models of a node is in `page/ollama_management.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from typing import Final, NoReturn

from aiohttp import web

from federation.printable_text import clean_line
from swarm import program_version
from swarm.errors import BadRequest, NotServed, SetupError, UnknownModel
from swarm.gateway.answers.answer_service import ANSWER_SERVICE
from swarm.gateway.answers.model_names import LATEST, NAMES
from swarm.gateway.answers.request_context import AnswerRequest, may_leave
from swarm.gateway.answers.swarm_options import SwarmOptions
from swarm.gateway.http.bodies import json_response, read_body
from swarm.gateway.http.keys import POOL, STARTED_AT
from swarm.gateway.ollama.bodies import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaMessage,
    OllamaNamedBody,
    engine_turns,
)
from swarm.gateway.ollama.form import AnswerClock, OllamaForm
from swarm.gateway.ollama.keep_alive import KeepAlive, keep_alive_object
from swarm.gateway.ollama.listing import running, shown, tag
from swarm.gateway.ollama.modelfiles import NO_BLOBS, NO_PUSH, OllamaCreateBody, why_not_made
from swarm.gateway.openai.bodies import EmbeddingBody
from swarm.gateway.openai.endpoints import embedded
from swarm.gateway.openai.listing import model_list, model_named, models_given_names
from swarm.gateway.openai.utility_calls import PropsBody, ask, props
from swarm.generation import GenerationRequest, JsonObject
from swarm.registry.model_card import ModelCard, read_card
from swarm.routing.policy import VoteOptions
from swarm.routing.replicas import SWARM_ALIAS

log = logging.getLogger(__name__)

# Clients look whether a server is new enough for what they send. This is the API that is kept to; what serves it is
# told beside it.
API_VERSION: Final = "0.12.6"


async def answering(request: web.Request, name: str, options: VoteOptions | None = None) -> str:
    """The model that answers for `name`. Raises AmbiguousModel."""
    return await request.app[NAMES].answering(name, may_leave(request, options))


def untagged(request: web.Request, name: str) -> str:
    """`name` without `:latest`, which clients add, where no model is called so."""
    if not name.endswith(LATEST) or request.app[NAMES].meant(name, may_leave(request)) is not None:
        return name
    return name.removesuffix(LATEST) or name


async def chat(request: web.Request) -> web.StreamResponse:
    """A conversation's next turn, by a vote where one can be right."""
    body = await read_body(request, OllamaChatBody)
    options = body.vote_options
    name = await answering(request, body.model, options)
    keep = KeepAlive(request, name, body.idle_s)
    form = OllamaForm("chat", body.model, body.loads, keep.told)
    if body.loads:
        return await _loaded(request, name, form, keep)
    asked = AnswerRequest(body.to_request(name), options, choices=1, stream=body.streams, form=form)
    return await _answered(request, asked, keep)


async def generate(request: web.Request) -> web.StreamResponse:
    """A prompt's answer, or the continuation of a text (`raw`, `suffix`), which is voted on only if asked."""
    body = await read_body(request, OllamaGenerateBody)
    options = body.vote_options
    name = await answering(request, body.model, options)
    keep = KeepAlive(request, name, body.idle_s)
    form = OllamaForm("generate", body.model, body.loads, keep.told)
    if body.loads:
        return await _loaded(request, name, form, keep)
    generation = body.to_request(name)
    if generation.messages is None and not options.explicit and options.min_votes is None:
        options = options.alone
    asked = AnswerRequest(generation, options, choices=1, stream=body.streams, form=form)
    return await _answered(request, asked, keep)


async def _answered(request: web.Request, asked: AnswerRequest, keep: KeepAlive) -> web.StreamResponse:
    """The answer; how long its model stays is settled at its end, whatever end that is."""
    try:
        return await request.app[ANSWER_SERVICE].answer(request, asked)
    finally:
        keep.settle()


async def _unloaded(request: web.Request, name: str, form: OllamaForm, keep: KeepAlive) -> web.Response:
    """One object, when the model is gone from this node, where the request may say so; else nothing is done.

    What runs on it ends first. `done_reason` says how it is then: `unload` where no node has it loaded.
    """
    if request.app[NAMES].meant(name, may_leave(request)) is None:
        raise request.app[NAMES].unknown(name)
    if keep.why_not() is None:
        log.warning("%s has %s unloaded by Ollama's API", request.remote, clean_line(name))
        with suppress(UnknownModel):  # it is not loaded
            await request.app[POOL].unload(name)
        gone = OllamaForm(form.kind, form.model, told=lambda: keep_alive_object(None))
        return json_response(gone.done("unload"))
    return json_response(form.done("load" if model_named(request, name).state == "ready" else "unload"))


async def _loaded(request: web.Request, name: str, form: OllamaForm, keep: KeepAlive) -> web.StreamResponse:
    """One object, when the model is loaded on a node: it reads an empty turn there, and writes nothing.

    One that writes no text is asked what it is, for which it is loaded as well.
    """
    if keep.unloads:
        return await _unloaded(request, name, form, keep)
    if name != SWARM_ALIAS and not model_named(request, name).writing:
        try:
            return json_response(form.done("load", await _described(request, name)))
        finally:
            keep.settle()
    turns = engine_turns([OllamaMessage(role="user")])
    generation = GenerationRequest(model=name, messages=turns, max_tokens=0)
    asked = AnswerRequest(generation, VoteOptions().alone, choices=1, stream=False, form=form)
    return await _answered(request, asked, keep)


async def _described(request: web.Request, name: str) -> JsonObject:
    """What it took until a node had the model loaded, and told what it is."""
    model, clock = model_named(request, name), AnswerClock()
    if all(replica.upstream for replica in model.replicas):  # which loads what it likes
        return {}
    runs = model.state == "ready"
    await ask(request.app, name, props(PropsBody(model=name)), may_leave(request))
    ended_ns = time.monotonic_ns()
    return clock.durations(0 if runs else ended_ns - clock.began_ns, ended_ns)


async def embed_texts(request: web.Request) -> web.Response:
    """{"model", "embeddings": [vector, ...], ...}: a vector for each text, in order, all from one model."""
    body = await read_body(request, OllamaEmbedBody)
    began_ns = time.monotonic_ns()
    model = await answering(request, body.model, None if body.swarm is None else body.swarm.options())
    keep = KeepAlive(request, model, body.idle_s)
    try:
        load = await _load_told(request, model)
        vectors, tokens = await _vectors(request, model, body.texts, body.dimensions, body.swarm)
    finally:
        keep.settle()
    return json_response(
        {
            "model": body.model,
            "embeddings": vectors,
            "total_duration": time.monotonic_ns() - began_ns,
            **load,
            "prompt_eval_count": tokens,
            **_swarm(keep),
        }
    )


async def _load_told(request: web.Request, name: str) -> JsonObject:
    """{"load_duration"} of a model that makes vectors, which is loaded now where it does not run.

    {} where it is not known which model that is (`swarm`), or who loads it (an upstream).
    """
    if name == SWARM_ALIAS:
        return {}
    if request.app[POOL].get(name) is not None:
        return {"load_duration": 0}
    model = model_named(request, name)
    if all(replica.upstream for replica in model.replicas):
        return {}
    if model.state == "ready":
        return {"load_duration": 0}
    if not any(replica.capabilities.embeddings for replica in model.replicas):
        return {}  # it is refused
    costs = await _described(request, name)
    return {"load_duration": costs["load_duration"]} if "load_duration" in costs else {}


def _swarm(keep: KeepAlive) -> JsonObject:
    """The `swarm` object of vectors, where there is something to tell."""
    told = keep.told()
    return {"swarm": told} if told else {}


async def embed_prompt(request: web.Request) -> web.Response:
    """{"embedding": vector}, of one text."""
    body = await read_body(request, OllamaEmbeddingsBody)
    model = await answering(request, body.model)
    keep = KeepAlive(request, model, body.idle_s)
    try:
        vectors, _ = await _vectors(request, model, [body.prompt] if body.prompt else [])
    finally:
        keep.settle()
    return json_response({"embedding": vectors[0] if vectors else [], **_swarm(keep)})


async def _vectors(
    request: web.Request,
    model: str,
    texts: list[str],
    dimensions: int | None = None,
    options: SwarmOptions | None = None,
) -> tuple[list[tuple[float, ...]], int]:
    """A vector for each text, and the tokens of all."""
    vectors: list[tuple[float, ...]] = []
    tokens = 0
    if not texts:
        return vectors, tokens
    body = EmbeddingBody(model=model, input=[*texts], dimensions=dimensions, swarm=options)
    async with aclosing(embedded(request, body)) as batches:
        async for batch, _ in batches:
            tokens += batch.prompt_tokens
            vectors.extend(batch.vectors)
    return vectors, tokens


async def tags(request: web.Request) -> web.Response:
    """{"models": [...]}: every model of every node, after `swarm`, which is all of them; then copies."""
    created_s = request.app[STARTED_AT]
    tagged = [tag(model, created_s) for model in model_list(request)]
    copies = models_given_names(request)
    tagged += [{**tag(model, created_s), "name": name, "model": name} for name, model in copies.items()]
    return json_response({"models": tagged})


async def show(request: web.Request) -> web.Response:
    """What is known of a model; the header of its file is read for it, nothing is loaded. Raises UnknownModel."""
    body = await read_body(request, OllamaNamedBody)
    model = model_named(request, body.wanted)
    stored = model.stored
    card = ModelCard()
    if stored is not None and stored.facts is not None:
        try:
            card = await asyncio.to_thread(read_card, stored.facts, stored.template)
        except SetupError as error:  # it went meanwhile
            log.info("%s is shown without what its file says: %s", model.name, error)
    sampling = request.app[NAMES].sampling_of(model.name)
    return json_response(shown(model, request.app[STARTED_AT], card, sampling))


async def processes(request: web.Request) -> web.Response:
    """{"models": [...]}: those that are loaded on a node."""
    loaded = [model for model in model_list(request) if model.state == "ready" and model.name != SWARM_ALIAS]
    now_s = time.time()
    return json_response({"models": [running(model, now_s) for model in loaded]})


async def version(_: web.Request) -> web.Response:
    """{"version"}: the API's; and the program's."""
    answer: JsonObject = {"version": API_VERSION, "local_swarm": program_version()}
    return json_response(answer)


async def create(request: web.Request) -> web.Response:
    """Always a 400, which says where a node has what is asked for."""
    raise BadRequest(why_not_made(await read_body(request, OllamaCreateBody)))


async def no_blobs(_: web.Request) -> web.Response:
    """Always a 400."""
    raise BadRequest(NO_BLOBS)


async def no_blob(_: web.Request) -> NoReturn:
    """Always a 404: clients ask whether a file is there before they send it."""
    raise NotServed(NO_BLOBS)


async def no_push(_: web.Request) -> web.Response:
    """Always a 400."""
    raise BadRequest(NO_PUSH)


def routes() -> list[web.RouteDef]:
    """Ollama's endpoints."""
    return [
        web.post("/api/chat", chat),
        web.post("/api/generate", generate),
        web.post("/api/embed", embed_texts),
        web.post("/api/embeddings", embed_prompt),
        web.get("/api/tags", tags),
        web.post("/api/show", show),
        web.get("/api/ps", processes),
        web.get("/api/version", version),
        web.post("/api/create", create),
        web.get("/api/blobs/{digest}", no_blob),
        web.post("/api/blobs/{digest}", no_blobs),
        web.post("/api/push", no_push),
    ]
