"""The packages of OpenAI and Anthropic at a node that wants a key: what they do when they leave, and when they err.

What else they do is in test_openai_sdk.py and tests/gateway/, with the embedded model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from swarm.commands.client_settings import client_entries
from tests.doubles.played_node import (
    BUSY_TASK,
    CONTEXT_TOKENS,
    ENDLESS_TASK,
    KEY,
    MODEL,
    TEXT,
    TEXT_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


@pytest_asyncio.fixture
async def gpt(played: PlayedNode) -> AsyncIterator[openai.AsyncOpenAI]:
    """As users have it, with its two retries."""
    plain = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(base_url=f"{played.url}/v1", api_key=KEY, http_client=plain) as client:
        yield client


@pytest_asyncio.fixture
async def claude(played: PlayedNode) -> AsyncIterator[anthropic.AsyncAnthropic]:
    plain = anthropic.DefaultAsyncHttpxClient(verify=False)
    async with anthropic.AsyncAnthropic(base_url=played.url, api_key=KEY, http_client=plain) as client:
        yield client


def turns(text: str) -> Any:
    return [{"role": "user", "content": text}]


Ask = Callable[..., Any]  # of a task, and of a stream or not


@pytest.fixture
def chat(gpt: openai.AsyncOpenAI) -> Ask:
    return lambda task, model=MODEL, **more: gpt.chat.completions.create(model=model, messages=turns(task), **more)


@pytest.fixture
def responses(gpt: openai.AsyncOpenAI) -> Ask:
    return lambda task, model=MODEL, **more: gpt.responses.create(model=model, input=task, **more)


@pytest.fixture
def messages(claude: anthropic.AsyncAnthropic) -> Ask:
    most = 900
    return lambda task, model=MODEL, **more: claude.messages.create(
        model=model, max_tokens=most, messages=turns(task), **more
    )


@pytest.fixture
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.getfixturevalue(request.param)


def every_api(*cells: str) -> Any:
    """A test of each of the packages' APIs, which proves those cells of whoever made it."""
    made = {"chat": "openai-python", "responses": "openai-python", "messages": "anthropic-python"}
    cases = [pytest.param(api, id=api, marks=pytest.mark.client(client, *cells)) for api, client in made.items()]
    return pytest.mark.parametrize("ask", cases, indirect=True)


def words(answer: Any) -> str:
    if hasattr(answer, "output_text"):
        return answer.output_text
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content
    return answer.content[0].text


@pytest.mark.client("openai-python", "text")
@pytest.mark.client("anthropic-python", "text")
def test_what_users_are_told_to_write_reaches_the_node(played: PlayedNode) -> None:
    told = {entry.id: entry.lines(played.url, KEY, MODEL, CONTEXT_TOKENS) for entry in client_entries()}
    (line,) = told["openai-python"]
    with eval(line, {"OpenAI": openai.OpenAI}) as gpt:
        assert words(gpt.chat.completions.create(model=MODEL, messages=turns(TEXT_TASK))) == TEXT
    (line,) = told["anthropic-python"]
    with eval(line, {"Anthropic": anthropic.Anthropic}) as claude:
        assert words(claude.messages.create(model=MODEL, max_tokens=900, messages=turns(TEXT_TASK))) == TEXT


@every_api("text")
async def test_a_question_is_answered(ask: Ask) -> None:
    assert words(await ask(TEXT_TASK)) == TEXT


@every_api("cancel")
async def test_a_stream_that_is_left_frees_its_slot(ask: Ask, played: PlayedNode) -> None:
    stream = await ask(ENDLESS_TASK, stream=True)
    await anext(aiter(stream))
    await asyncio.to_thread(played.until_busy)
    await stream.close()
    await asyncio.to_thread(played.until_idle)


@every_api("cancel")
async def test_an_answer_that_is_no_longer_awaited_frees_its_slot(ask: Ask, played: PlayedNode) -> None:
    asking = asyncio.ensure_future(ask(ENDLESS_TASK))
    await asyncio.to_thread(played.until_busy)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.to_thread(played.until_idle)


@every_api("errors")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_unknown_model_is_the_packages_own_error_and_asked_for_once(
    ask: Ask, played: PlayedNode, stream: bool
) -> None:
    before = await asyncio.to_thread(played.answered, 404)
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as caught:
        await ask(TEXT_TASK, model=UNKNOWN_MODEL, stream=stream)
    assert UNKNOWN_MODEL in caught.value.message
    assert MODEL in caught.value.message, "those there are"
    assert await asyncio.to_thread(played.answered, 404) == before + 1


@every_api("errors")
async def test_a_wrong_key_is_the_packages_own_error(
    ask: Ask, gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    gpt.api_key = claude.api_key = "wrong"
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError), match="API key"):
        await ask(TEXT_TASK)


@every_api("errors")
async def test_a_node_without_a_free_slot_is_asked_again(ask: Ask, played: PlayedNode) -> None:
    before = await asyncio.to_thread(played.answered, 503)
    assert words(await ask(BUSY_TASK)) == "Hello."
    assert await asyncio.to_thread(played.answered, 503) == before + 1
