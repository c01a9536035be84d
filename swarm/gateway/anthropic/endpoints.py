"""Anthropic's API, for Claude Code and Anthropic's SDKs: messages, the counting of their tokens, and the models.

`/v1/models` is OpenAI's path, too: who asks with Anthropic's version header has it in Anthropic's shape.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from federation.tasks import cancel_and_wait
from swarm.gateway.answers.answer_service import ANSWER_SERVICE
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.answers.request_context import AnswerRequest, may_leave
from swarm.gateway.anthropic.bodies import MessagesBody, PromptBody
from swarm.gateway.anthropic.form import MessageForm, MessageShape
from swarm.gateway.anthropic.listing import model_info, page_of
from swarm.gateway.http.bodies import json_response, read_body
from swarm.gateway.http.errors import ANTHROPIC_REQUEST_ID_HEADER, ANTHROPIC_VERSION
from swarm.gateway.http.keys import STARTED_AT
from swarm.gateway.openai import endpoints as openai
from swarm.gateway.openai import utility_calls
from swarm.gateway.openai.listing import model_list, model_named
from swarm.gateway.openai.utility_calls import ask
from swarm.generation import GenerationRequest
from swarm.logs import current_request_id


async def messages(request: web.Request) -> web.StreamResponse:
    """A Message, whole or as events. A stream begins with the prompt's tokens, which are counted beside it."""
    body = await read_body(request, MessagesBody)
    name = await request.app[NAMES].answering(body.model, may_leave(request, body.options))
    generation = body.to_request(name)
    service = request.app[ANSWER_SERVICE]
    generation = await service.with_images(request, generation, body.options)
    counting = None
    if body.stream:
        whole = await service.with_instructions(generation)
        counting = asyncio.create_task(prompt_tokens(request.app, whole), name="prompt tokens")
    form = MessageForm(MessageShape(generation.model, generation.stop), counting)
    asked = AnswerRequest(generation, body.options, choices=1, stream=bool(body.stream), form=form)
    try:
        response = await service.answer(request, asked)
    finally:
        await cancel_and_wait(counting)
    if not response.prepared:
        response.headers[ANTHROPIC_REQUEST_ID_HEADER] = current_request_id.get()
    return response


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """The prompt's tokens as the model would see it, chat template and tools included."""
    body = await read_body(request, PromptBody)
    generation = body.to_request(await request.app[NAMES].answering(body.model, may_leave(request)))
    service = request.app[ANSWER_SERVICE]
    generation = await service.with_instructions(await service.with_images(request, generation))
    return json_response({"input_tokens": await prompt_tokens(request.app, generation)})


async def prompt_tokens(app: web.Application, generation: GenerationRequest) -> int:
    """What the prompt costs, counted by whoever would be asked first."""
    tokens, _ = await ask(app, generation.model, utility_calls.count_tokens(generation))
    return tokens


async def models(request: web.Request) -> web.Response:
    """Every model that is served, in the shape of whoever asks; Anthropic's in pages, as large as is asked for."""
    if ANTHROPIC_VERSION not in request.headers:
        return await openai.models(request)
    created = request.app[STARTED_AT]
    return json_response(page_of([model_info(model, created) for model in model_list(request)], request.query))


async def model(request: web.Request) -> web.Response:
    """One entry of the list. Raises UnknownModel."""
    if ANTHROPIC_VERSION not in request.headers:
        return await openai.model(request)
    return json_response(model_info(model_named(request, request.match_info["id"]), request.app[STARTED_AT]))


def routes() -> list[web.RouteDef]:
    """This API's endpoints."""
    return [
        web.post("/v1/messages", messages),
        web.post("/v1/messages/count_tokens", count_tokens),
        web.get("/v1/models", models),
        web.get("/v1/models/{id:.+}", model),
    ]
