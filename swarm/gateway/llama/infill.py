"""llama.cpp's `/infill`, in its own shapes: editors' completion at the caret, by any model of the swarm that can."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from swarm.gateway.answers.request_context import Asked
from swarm.gateway.answers.streams import SSE, Dialect, OpenStream
from swarm.gateway.http.bodies import read_body
from swarm.gateway.http.compact_json import compact
from swarm.gateway.http.keys import ANSWERER
from swarm.gateway.llama.bodies import InfillBody
from swarm.generation import Candidate, Delta, Finish, FinishReason, JsonObject, Usage
from swarm.routing.policy import VoteOptions


@dataclass(frozen=True, slots=True)
class InfillForm:
    """See `AnswerForm`. One choice: what several editors' ghost texts would be, nobody shows."""

    model: str

    @property
    def dialect(self) -> Dialect:
        return SSE

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        candidate = candidates[0]
        return final(self.model, candidate.text, candidate.finish_reason or "stop", candidate.usage, extension)

    def writer(self, out: OpenStream, choices: int) -> InfillWriter:
        return InfillWriter(out, self.model)


class InfillWriter:
    """One event for each piece, the last one with the counts; llama.cpp sends no end mark here."""

    def __init__(self, out: OpenStream, model: str) -> None:
        self._out = out
        self._model = model

    async def begin(self) -> None:
        """There is nothing to say before the first piece."""

    async def delta(self, event: Delta) -> None:
        await self._event({"index": 0, "content": event.text, "stop": False})

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        await self._event(final(self._model, "", event.reason, event.usage, extension))

    async def end(self, usages: list[Usage]) -> None:
        """The last event has said everything."""

    async def _event(self, body: JsonObject) -> None:
        await self._out.write(f"data: {compact(body)}\n\n".encode())


def final(model: str, content: str, reason: FinishReason, usage: Usage, extension: JsonObject | None) -> JsonObject:
    """The object that ends an answer."""
    body: JsonObject = {
        "index": 0,
        "content": content,
        "stop": True,
        "stop_type": "limit" if reason == "length" else "eos",
        "model": model,
        "tokens_predicted": usage.completion_tokens,
        "tokens_evaluated": usage.prompt_tokens,
        "tokens_cached": usage.cached_tokens,
        "truncated": False,
    }
    return body if extension is None else {**body, "swarm": extension}


async def infill(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, InfillBody)
    options = VoteOptions("single", deadline_s=body.options.deadline_s, upstream=body.options.upstream)
    asked = Asked(body.to_request(), options, 1, bool(body.stream), InfillForm(body.model))
    return await request.app[ANSWERER].answer(request, asked)


def routes() -> list[web.RouteDef]:
    return [web.post("/v1/infill", infill)]
