"""Answers that llama.cpp's own parser cannot read: another sample, else what there is, and never an error for good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from swarm.engines.llama_cpp.answers import SAMPLES
from swarm.engines.llama_cpp.http import LlamaHttp
from swarm.errors import EngineDied, EngineFailed, Unavailable
from swarm.generation import Delta, Finish, GenerationRequest

TOLD = "The model produced output that does not match the expected peg-native format"
UNREADABLE = {"error": {"code": 500, "message": TOLD, "type": "server_error"}}
BROKEN = {"error": {"code": 500, "message": "the GPU is gone", "type": "server_error"}}
CALL = '{"name": "f", "arguments": {"n": -'


def saying(text: str, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}]}


def ended(index: int = 0) -> list[dict[str, Any]]:
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    return [
        {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]


class Scripted:
    """A server that gives each generation the next of `answers`: chunks; one that begins with an error is a 500."""

    def __init__(self) -> None:
        self.answers: list[Sequence[dict[str, Any]]] = []
        self.asked: list[dict[str, Any]] = []
        self.stays = False  # it says no more, and ends nothing

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        chunks = self.answers.pop(0)
        if "error" in chunks[0]:
            return web.json_response(chunks[0], status=500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        if self.stays:
            await asyncio.Event().wait()
        return response

    async def template(self, _: web.Request) -> web.Response:
        return web.json_response({"prompt": "the prompt"})

    async def tokenize(self, _: web.Request) -> web.Response:
        return web.json_response({"tokens": [1, 2, 3, 4]})


@pytest.fixture
def script() -> Scripted:
    return Scripted()


@pytest_asyncio.fixture
async def engine(script: Scripted) -> AsyncIterator[LlamaHttp]:
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/chat/completions", script.chat),
            web.post("/apply-template", script.template),
            web.post("/tokenize", script.tokenize),
        ]
    )
    async with TestServer(app) as server:
        http = LlamaHttp(str(server.make_url("")).rstrip("/"), "key")
        yield http
        await http.aclose()


def request(choice: Any = "required", **fields: Any) -> GenerationRequest:
    tools = ({"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}},)
    given = {"model": "m", "messages": ({"role": "user", "content": "x"},), "tools": tools, "tool_choice": choice}
    return GenerationRequest.model_validate({**given, "seed": 5, **fields})


async def answer(engine: LlamaHttp, asked: GenerationRequest, n: int = 1) -> tuple[list[str], dict[int, str]]:
    """Text and arguments of each choice, and how it ended."""
    said, ends = [""] * n, dict[int, str]()
    async with aclosing(engine.stream(asked, n)) as events:
        async for event in events:
            if isinstance(event, Finish):
                ends[event.choice] = event.reason
            else:
                assert isinstance(event, Delta)
                said[event.choice] += event.text + "".join(call.arguments for call in event.tool_calls)
    return said, ends


WHOLE = [saying('{"name": "f", "arguments": {"n": 1}}'), *ended()]


async def test_an_answer_that_cannot_be_read_is_sampled_again(engine: LlamaHttp, script: Scripted) -> None:
    script.answers = [[UNREADABLE], [saying('{"na'), UNREADABLE], WHOLE]
    assert await answer(engine, request()) == (['{"n": 1}'], {0: "tool_calls"})
    assert [asked["seed"] for asked in script.asked] == [5, 6, 7]


async def test_what_was_shown_stands_and_is_cut(engine: LlamaHttp, script: Scripted) -> None:
    script.answers = [[saying(CALL), UNREADABLE]]
    assert await answer(engine, request()) == (['{"n": -'], {0: "length"})
    script.answers = [[saying("Well, "), UNREADABLE]]
    assert await answer(engine, request("auto")) == (["Well, "], {0: "length"})


async def test_of_several_answers_the_others_stand(engine: LlamaHttp, script: Scripted) -> None:
    script.answers = [[saying("a", 0), *ended(0), saying("b", 1), UNREADABLE], [saying("c"), *ended()]]
    assert await answer(engine, request("auto"), 3) == (["a", "b", "c"], {0: "stop", 1: "length", 2: "stop"})


async def test_the_last_sample_of_a_free_choice_is_text(engine: LlamaHttp, script: Scripted) -> None:
    script.answers = [*[[UNREADABLE]] * (SAMPLES - 1), [saying("<call"), *ended()]]
    assert await answer(engine, request("auto")) == (["<call"], {0: "stop"})
    assert [asked["tool_choice"] for asked in script.asked] == ["auto", "auto", "none"]


@pytest.mark.parametrize("unreadable", [[UNREADABLE], [saying("Well"), *ended()]], ids=["no form", "no call"])
async def test_a_call_that_never_comes_is_to_be_asked_for_again(
    engine: LlamaHttp, script: Scripted, unreadable: list[dict[str, Any]]
) -> None:
    script.answers = [unreadable] * SAMPLES
    with pytest.raises(Unavailable, match="ask again"):
        await answer(engine, request())


async def test_what_has_few_tokens_may_be_cut_before_its_first_word(engine: LlamaHttp, script: Scripted) -> None:
    script.answers = [[UNREADABLE]] * SAMPLES
    assert await answer(engine, request(max_tokens=1)) == ([""], {0: "length"})


async def test_other_failures_are_no_matter_of_the_sample(engine: LlamaHttp, script: Scripted) -> None:
    script.answers = [[BROKEN]]
    with pytest.raises(EngineFailed, match="GPU"):
        await answer(engine, request())
    assert len(script.asked) == 1


@pytest.mark.parametrize(("died", "error"), [(True, EngineDied), (False, Unavailable)])
async def test_an_answer_that_waits_for_its_next_word_ends_when_the_engine_is_given_up(
    engine: LlamaHttp, script: Scripted, died: bool, error: type[Exception]
) -> None:
    """Its process may be gone before the system tells of its sockets: aiohttp drops such a reader without a word."""
    script.answers, script.stays = [[saying("Once")]], True
    async with aclosing(engine.stream(request("none"), 1)) as events:
        assert isinstance(await anext(events), Delta)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await engine.aclose(died)
        with pytest.raises(error):
            await asyncio.wait_for(waiting, 60.0)
