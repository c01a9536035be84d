"""Anthropic's Messages API, for Claude Code and Anthropic's SDKs: messages and the counting of their tokens."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from swarm.errors import Unavailable, UnknownModel
from swarm.gateway.answering import Asked
from swarm.gateway.answers import LOADING_RETRY_AFTER_S
from swarm.gateway.anthropic.bodies import MessagesBody, PromptBody
from swarm.gateway.anthropic.errors import REQUEST_ID_HEADER
from swarm.gateway.anthropic.form import MessageForm
from swarm.gateway.anthropic.shapes import Shape
from swarm.gateway.bodies import read_body
from swarm.gateway.compact_json import json_response
from swarm.gateway.keys import ANSWERER, CONDITION, DISPATCHER
from swarm.routing.dispatcher import DEFAULT_DEADLINE_S, Dispatcher
from swarm.routing.replicas import SWARM_ALIAS, model_names
from swarm.tracing import current_request_id

COUNT_DEADLINE_S = 30.0  # a megabyte of prompt on a busy small machine takes seconds


def model_for(name: str, dispatcher: Dispatcher) -> str:
    """The model that answers for `name`: itself where it is served, else whatever this swarm does best.

    Anthropic's clients ask for claude-..., several in one session, and most cannot be told otherwise.
    """
    return name if name in model_names(dispatcher.replicas()) else SWARM_ALIAS


async def messages(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, MessagesBody)
    dispatcher = request.app[DISPATCHER]
    generation = body.to_request(model_for(body.model, dispatcher))
    counting = None
    if body.stream:
        deadline = time.monotonic() + (body.options.deadline_s or DEFAULT_DEADLINE_S)
        counting = asyncio.create_task(dispatcher.count_tokens(generation, deadline), name="prompt tokens")
    form = MessageForm(Shape(body.model), counting)
    asked = Asked(generation, body.options, choices=1, stream=bool(body.stream), form=form)
    try:
        response = await request.app[ANSWERER].answer(request, asked)
    finally:
        if counting is not None:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
    if not response.prepared:
        response.headers[REQUEST_ID_HEADER] = current_request_id.get()
    return response


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """The prompt's tokens as the model would see it, chat template and tools included."""
    body = await read_body(request, PromptBody)
    dispatcher = request.app[DISPATCHER]
    generation = body.to_request(model_for(body.model, dispatcher))
    try:
        tokens = await dispatcher.count_tokens(generation, time.monotonic() + COUNT_DEADLINE_S)
    except UnknownModel as error:
        if not request.app[CONDITION].loading:
            raise
        raise Unavailable(f"{error}; this node is still loading its own", LOADING_RETRY_AFTER_S) from error
    return json_response({"input_tokens": tokens})


def routes() -> list[web.RouteDef]:
    return [
        web.post(prefix + path, handler)
        for prefix in ("/v1", "")
        for path, handler in (("/messages", messages), ("/messages/count_tokens", count_tokens))
    ]
