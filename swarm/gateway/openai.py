"""OpenAI's generating endpoints: chat completions and completions."""

from __future__ import annotations

from aiohttp import web

from swarm.gateway.answering import Asked
from swarm.gateway.bodies import read_body
from swarm.gateway.chunk_writer import OpenAIForm
from swarm.gateway.keys import ANSWERER
from swarm.gateway.schemas import ChatCompletionBody, CompletionBody
from swarm.gateway.shapes import Shape
from swarm.generation import GenerationRequest
from swarm.routing.policy import VoteOptions


def openai_form(body: ChatCompletionBody | CompletionBody) -> OpenAIForm:
    """The shapes in which `body` wants its answer."""
    if isinstance(body, ChatCompletionBody):
        return OpenAIForm(Shape("chat", body.model, body.include_usage))
    return OpenAIForm(Shape("text", body.model, body.include_usage, body.text if body.echo else ""))


async def as_asked(http: web.Request, body: ChatCompletionBody | CompletionBody) -> GenerationRequest:
    """The request of `body`, with the body as it came: an upstream gets every field that the client sent."""
    return body.to_request().model_copy(update={"original": await http.read()})  # read already, and kept


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, ChatCompletionBody)
    return await request.app[ANSWERER].answer(
        request,
        Asked(await as_asked(request, body), body.options, body.choices, bool(body.stream), openai_form(body)),
    )


async def completions(request: web.Request) -> web.StreamResponse:
    """Plain text continuation: voted on only where the request says so."""
    body = await read_body(request, CompletionBody)
    options = body.options
    if not options.explicit and options.min_votes is None:
        options = VoteOptions("single", deadline_s=options.deadline_s, upstream=options.upstream)
    return await request.app[ANSWERER].answer(
        request,
        Asked(await as_asked(request, body), options, body.choices, bool(body.stream), openai_form(body)),
    )


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", chat_completions),
        web.post("/v1/completions", completions),
    ]
