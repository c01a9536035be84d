"""OpenAI's generating endpoints: chat completions and completions."""

from __future__ import annotations

from aiohttp import web

from swarm.gateway.answers import utility_calls
from swarm.gateway.answers.request_context import Asked
from swarm.gateway.http.bodies import RAW_BODY, read_body
from swarm.gateway.http.keys import ANSWERER
from swarm.gateway.llama.bodies import DetokenizeBody
from swarm.gateway.llama.endpoints import ask
from swarm.gateway.openai.chat_body import ChatCompletionBody
from swarm.gateway.openai.chunk_writer import OpenAIForm
from swarm.gateway.openai.completion_body import CompletionBody
from swarm.gateway.openai.several_prompts import answer_several
from swarm.gateway.openai.shapes import Shape
from swarm.generation import GenerationRequest
from swarm.routing.policy import VoteOptions


def openai_form(body: ChatCompletionBody) -> OpenAIForm:
    """The shapes in which `body` wants its answer."""
    return OpenAIForm(Shape("chat", body.model, body.include_usage))


def as_asked(http: web.Request, body: ChatCompletionBody | CompletionBody) -> GenerationRequest:
    """The request of `body`, with the body as it came: an upstream, if any, gets every field that the client sent."""
    return body.to_request().model_copy(update={"original": http.get(RAW_BODY)})


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, ChatCompletionBody)
    return await request.app[ANSWERER].answer(
        request,
        Asked(as_asked(request, body), body.options, body.choices, bool(body.stream), openai_form(body)),
    )


async def completions(request: web.Request) -> web.StreamResponse:
    """Plain text continuation: voted on only where the request says so."""
    body = await read_body(request, CompletionBody)
    options = body.options
    if not options.explicit and options.min_votes is None:
        options = VoteOptions("single", deadline_s=options.deadline_s, upstream=options.upstream)
    answerer = request.app[ANSWERER]
    asked: list[Asked] = []
    for prompt in body.prompts:
        one = body.model_copy(update={"prompt": prompt})
        form = OpenAIForm(Shape("text", body.model, body.include_usage, await echoed(request, one)))
        # Of several prompts each is a request of its own, and the body as it came is none of them.
        generation = one.to_request() if len(body.prompts) > 1 else as_asked(request, one)
        asked.append(Asked(generation, options, body.choices, bool(body.stream), form))
    if len(asked) == 1:
        return await answerer.answer(request, asked[0])
    return await answer_several([answerer.planned(request, each) for each in asked])


async def echoed(request: web.Request, body: CompletionBody) -> str:
    """The text to repeat before the answer: that of its tokens, where it is tokens; "" where none is wanted."""
    prompt = body.prompts[0]
    if not body.echo or isinstance(prompt, str):
        return body.text if body.echo else ""
    call = utility_calls.detokenize(DetokenizeBody(model=body.model, tokens=list(prompt)))
    return (await ask(request.app, body.model, call))[0]


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", chat_completions),
        web.post("/v1/completions", completions),
    ]
