"""OpenAI's Responses API, without state: `POST /v1/responses`, and the form of its answers (see `AnswerForm`)."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from swarm.errors import BadRequest
from swarm.gateway.answers.answer_form import SSE, Dialect, OpenStream
from swarm.gateway.answers.answer_service import ANSWER_SERVICE
from swarm.gateway.answers.request_context import AnswerRequest
from swarm.gateway.http.bodies import read_body
from swarm.gateway.openai.endpoints import named
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.gateway.responses.events import ResponseEvents
from swarm.gateway.responses.response_object import ResponseObject
from swarm.generation import Candidate, Delta, Finish, JsonObject, Usage


class ResponsesForm:
    """One response, whole or as its events. A failure is one of its events, so the stream's dialect is its own."""

    def __init__(self, body: ResponsesBody) -> None:
        self._response = ResponseObject(body)
        self._events = ResponseEvents(self._response)

    @property
    def dialect(self) -> Dialect:
        return replace(SSE, failure=self._events.failed)

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        return self._response.whole(candidates[0], extension)

    def writer(self, out: OpenStream, choices: int) -> ResponseWriter:
        return ResponseWriter(out, self._events)


class ResponseWriter:
    """Writes one response's events; the items end with the choice, the response when its usage is known."""

    def __init__(self, out: OpenStream, events: ResponseEvents) -> None:
        self._out = out
        self._events = events
        out.on_silence = self._stay
        self._finish: Finish | None = None
        self._extension: JsonObject | None = None

    async def begin(self) -> None:
        await self._out.write(self._events.begin().encode())

    async def _stay(self) -> None:
        """An event: Codex takes a stream of comments alone for one that hangs."""
        await self._out.write(self._events.still().encode())

    async def delta(self, event: Delta) -> None:
        await self._out.write(self._events.delta(event).encode())

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        self._finish, self._extension = event, extension
        await self._out.write(self._events.finish(event.reason).encode())

    async def end(self, usages: list[Usage]) -> None:
        reason = self._finish.reason if self._finish else "stop"
        usage = usages[0] if usages else Usage()
        await self._out.write(self._events.end(reason, usage, self._extension).encode())


async def responses(request: web.Request) -> web.StreamResponse:
    """A Response, whole or as events."""
    body = await named(request, await read_body(request, ResponsesBody))
    asked = AnswerRequest(
        body.to_request(), body.options, choices=1, stream=bool(body.stream), form=ResponsesForm(body)
    )
    try:
        return await request.app[ANSWER_SERVICE].answer(request, asked)
    except BadRequest as error:
        raise error.renamed({"messages": "input"}) from error


def routes() -> list[web.RouteDef]:
    """This API's endpoint."""
    return [web.post("/v1/responses", responses)]
