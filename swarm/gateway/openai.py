"""OpenAI's generating endpoints: chat completions and completions."""

from __future__ import annotations

from aiohttp import web

from swarm.gateway.answering import Asked
from swarm.gateway.bodies import read_body
from swarm.gateway.keys import ANSWERER
from swarm.gateway.schemas import ChatCompletionBody, CompletionBody
from swarm.routing.policy import VoteOptions


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, ChatCompletionBody)
    return await request.app[ANSWERER].answer(
        request,
        Asked(body.to_request(), body.options, body.choices, bool(body.stream), body.include_usage),
    )


async def completions(request: web.Request) -> web.StreamResponse:
    """Plain text continuation: voted on only where the request says so."""
    body = await read_body(request, CompletionBody)
    options = body.options
    if not options.explicit and options.min_votes is None:
        options = VoteOptions("single", deadline_s=options.deadline_s)
    return await request.app[ANSWERER].answer(
        request,
        Asked(body.to_request(), options, body.choices, bool(body.stream), body.include_usage, echo=bool(body.echo)),
    )


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", chat_completions),
        web.post("/v1/completions", completions),
    ]
