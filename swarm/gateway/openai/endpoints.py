"""OpenAI's endpoints: chat completions, completions, the list of models, and embeddings.

Of several prompts in one request each is answered for itself, and the choices are numbered through. The list has
everything that this node, a peer or an upstream serves, and the alias for all of it. The vectors of one request come
from one model, whoever runs it.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from aiohttp import web
from pydantic import JsonValue

from swarm.engines.engine import Embeddings
from swarm.errors import BadRequest
from swarm.gateway.answers.answer_service import ANSWER_SERVICE, whole_candidates
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.answers.request_context import AnswerRequest, RequestContext, may_leave
from swarm.gateway.http.bodies import RAW_BODY, compact, json_response, read_body
from swarm.gateway.http.keys import STARTED_AT
from swarm.gateway.observing.usage import spend
from swarm.gateway.openai import utility_calls
from swarm.gateway.openai.bodies import ChatCompletionBody, CompletionBody, EmbeddingBody, Sampling
from swarm.gateway.openai.listing import model_list, model_named, model_object
from swarm.gateway.openai.shapes import CompletionShape, OpenAIForm, add_usage, usage_object
from swarm.gateway.openai.utility_calls import BATCH, DetokenizeBody, ask, embed
from swarm.generation import GenerationRequest, JsonObject, Usage

B = TypeVar("B", bound=Sampling)
AT_ONCE = 4  # prompts in work: as many as a node has workers by default; the rest of a node is for others
VECTORS_AT_ONCE = 4  # encoded between two turns of the event loop: 16,384 numbers at 4,096 a vector, some 15 ms
OF_EACH = ("swarm", "timings")  # what is said of each prompt's answer, and not of all together
CODEX_VERSION = "client_version"  # the query by which Codex, and only Codex, asks for the list


async def answer_several(contexts: Sequence[RequestContext]) -> web.Response:
    """One response with all choices, in order of the prompts. The first failure ends all of them."""
    bodies, usages = zip(*await whole_bodies(contexts), strict=True)
    body = {**bodies[0], "choices": numbered(bodies), "usage": usage_object(summed(usages))}
    for name in OF_EACH:
        body.pop(name, None)
    return web.Response(text=compact(body), content_type="application/json", headers=contexts[0].headers())


async def whole_bodies(contexts: Sequence[RequestContext]) -> list[tuple[JsonObject, Usage]]:
    """The body of each answer, in its own form, and what it cost. The first failure ends all of them."""
    room = asyncio.Semaphore(AT_ONCE)

    async def answer(context: RequestContext) -> tuple[JsonObject, Usage]:
        async with room:
            candidates, verdict = await whole_candidates(context)
        usage = add_usage([candidate.usage for candidate in candidates])
        return context.asked.form.whole(candidates, context.extension(verdict, candidates)), usage

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(answering)) for answering in contexts]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def numbered(bodies: Sequence[JsonObject]) -> list[JsonValue]:
    """All choices, counted from 0. Each prompt was answered for itself: what is said of that goes with its choice."""
    choices: list[JsonValue] = []
    for body in bodies:
        found, account = body["choices"], {name: body[name] for name in OF_EACH if name in body}
        for choice in found if isinstance(found, list) else ():
            if isinstance(choice, dict):
                choices.append({**choice, "index": len(choices), **account})
    return choices


def summed(usages: Sequence[Usage]) -> Usage:
    """What different prompts cost together."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
    )


def openai_form(body: ChatCompletionBody) -> OpenAIForm:
    """The shapes in which `body` wants its answer."""
    shape = CompletionShape(
        "chat",
        body.model,
        body.include_usage,
        may_call=bool(body.specs()),
        custom=body.custom,
        functions=body.offers_functions,
    )
    return OpenAIForm(shape)


def as_asked(http: web.Request, body: ChatCompletionBody | CompletionBody) -> GenerationRequest:
    """The request of `body`, with the body as it came: an upstream, if any, gets every field that the client sent.

    But for tools that are no functions here: an upstream would call them in a form that is not read.
    """
    differs = isinstance(body, ChatCompletionBody) and (body.custom or body.offers_functions)
    return body.to_request().model_copy(update={"original": None if differs else http.get(RAW_BODY)})


async def named(http: web.Request, body: B) -> B:
    """`body` with the name of the model that answers."""
    name = await http.app[NAMES].answering(body.model, may_leave(http, body.options))
    return body if name == body.model else body.model_copy(update={"model": name})


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """A conversation's next turn, by a vote where one can be right."""
    body = await named(request, await read_body(request, ChatCompletionBody))
    return await request.app[ANSWER_SERVICE].answer(
        request,
        AnswerRequest(as_asked(request, body), body.options, body.choices, bool(body.stream), openai_form(body)),
    )


async def completions(request: web.Request) -> web.StreamResponse:
    """Plain text continuation: voted on only where the request says so."""
    body = await named(request, await read_body(request, CompletionBody))
    options = body.options
    if not options.explicit and options.min_votes is None:
        options = options.alone
    service = request.app[ANSWER_SERVICE]
    asked: list[AnswerRequest] = []
    for prompt in body.prompts:
        one = body.model_copy(update={"prompt": prompt})
        form = OpenAIForm(CompletionShape("text", body.model, body.include_usage, await echoed(request, one)))
        # Of several prompts each is a request of its own, and the body as it came is none of them.
        generation = one.to_request() if len(body.prompts) > 1 else as_asked(request, one)
        asked.append(AnswerRequest(generation, options, body.choices, bool(body.stream), form))
    if len(asked) == 1:
        return await service.answer(request, asked[0])
    contexts = [await service.planned(request, each) for each in asked]
    return await service.in_one_piece(request, contexts[0], answer_several(contexts))


async def echoed(request: web.Request, body: CompletionBody) -> str:
    """The text to repeat before the answer: that of its tokens, where it is tokens; "" where none is wanted."""
    prompt = body.prompts[0]
    if not body.echo or isinstance(prompt, str):
        return body.text if body.echo else ""
    call = utility_calls.detokenize(DetokenizeBody(model=body.model, tokens=list(prompt)))
    return (await ask(request.app, body.model, call))[0]


async def models(request: web.Request) -> web.Response:
    """{"object": "list", "data": [model, ...]}: every model of every node, after `swarm`, which is all of them."""
    created = request.app[STARTED_AT]
    listing: dict[str, object] = {
        "object": "list",
        "data": [model_object(model, created) for model in model_list(request)],
    }
    if CODEX_VERSION in request.query:
        # It reads `models`, whose entries hold its own prompts for its maker's models, and reports an error where there
        # is none. Nobody else is shown it: some clients would take an empty `models` for the whole list.
        listing["models"] = []
    return json_response(listing)


async def model(request: web.Request) -> web.Response:
    """One entry of the list. Raises UnknownModel."""
    return json_response(model_object(model_named(request, request.match_info["id"]), request.app[STARTED_AT]))


async def embeddings(request: web.Request) -> web.Response:
    """A vector for each text, in order, as a list of numbers or base64; all from one model, in batches."""
    body = await read_body(request, EmbeddingBody)
    as_base64 = body.encoding_format == "base64"
    model, tokens = body.model, 0
    rows: list[str] = []
    async with aclosing(embedded(request, body)) as batches:
        async for batch, computed_by in batches:
            model = computed_by
            tokens += batch.prompt_tokens
            for vector in batch.vectors:
                embedding = to_base64(vector) if as_base64 else vector
                rows.append(compact({"object": "embedding", "index": len(rows), "embedding": embedding}))
                if len(rows) % VECTORS_AT_ONCE == 0:
                    await asyncio.sleep(0)
    usage = compact({"prompt_tokens": tokens, "total_tokens": tokens})
    text = f'{{"object":"list","data":[{",".join(rows)}],"model":{compact(model)},"usage":{usage}}}'
    return web.Response(text=text, content_type="application/json")


async def embedded(request: web.Request, body: EmbeddingBody) -> AsyncGenerator[tuple[Embeddings, str]]:
    """The vectors of `body`, a batch at a time, and the one model that computes them; counted."""
    texts = [text if isinstance(text, str) else list(text) for text in body.texts]
    model, upstream = body.model, may_leave(request, body.options)
    for start in range(0, len(texts), BATCH):
        part = body.model_copy(update={"input": texts[start : start + BATCH]})
        batch, replica = await ask(request.app, model, embed(part), upstream)
        model = replica.model  # the next batch's too, whoever computes it
        check_dimensions(body, len(batch.vectors[0]))
        spend(request, batch.prompt_tokens)
        yield batch, model


def check_dimensions(body: EmbeddingBody, size: int) -> None:
    """Raises BadRequest where the client wants vectors of another size than the model's."""
    if body.dimensions not in (None, size):
        raise BadRequest(
            f"dimensions is {body.dimensions}; {body.model!r} gives vectors of {size} numbers and none shorter",
            param="dimensions",
        )


def to_base64(vector: tuple[float, ...]) -> str:
    """A vector as base64 of little-endian float32, which is what the OpenAI SDK asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def routes() -> list[web.RouteDef]:
    """OpenAI's endpoints, but for the list of models, whose path Anthropic's clients share."""
    return [
        web.post("/v1/chat/completions", chat_completions),
        web.post("/v1/completions", completions),
        web.post("/v1/embeddings", embeddings),
    ]
