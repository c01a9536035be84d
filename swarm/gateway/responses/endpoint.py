"""OpenAI's Responses API, without state: `POST /v1/responses`."""

from __future__ import annotations

from aiohttp import web

from swarm.errors import BadRequest
from swarm.gateway.answers.request_context import Asked
from swarm.gateway.http.bodies import read_body
from swarm.gateway.http.keys import ANSWERER
from swarm.gateway.responses.body import ResponsesBody
from swarm.gateway.responses.form import ResponsesForm


async def responses(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, ResponsesBody)
    asked = Asked(body.to_request(), body.options, choices=1, stream=bool(body.stream), form=ResponsesForm(body))
    try:
        return await request.app[ANSWERER].answer(request, asked)
    except BadRequest as error:
        if error.param == "messages":  # what engines call a conversation
            error.param = "input"
        raise


def routes() -> list[web.RouteDef]:
    return [web.post("/v1/responses", responses)]
