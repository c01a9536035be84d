"""Every protocol and every provider, asked through the SDKs that an agent uses, against servers that speak it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic_ai import Agent
from pydantic_ai.direct import model_request
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import Model, ModelRequestParameters

from swarm.agent import Agent as SwarmAgent
from swarm.agent import Tool
from swarm.agent.events import AgentEvent, RunFailed, TextPiece
from swarm.agent.models import base_as_given, checked_headers, make_model, provider_choice
from swarm.agent.provider_errors import SOON_S
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    Forbidden,
    LimitReached,
    NoSuchModel,
    SetupError,
    SwarmError,
    Unauthorized,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
)
from swarm.providers import PROVIDERS, THINKING_LEVELS, ApiProtocol, key_for, provider_at, thinking_fields
from tests.agent.fake_providers.chat import ChatWire
from tests.agent.fake_providers.google import GoogleWire
from tests.agent.fake_providers.replies import Called, GoesWrong, Hangs, Refusal, Rubbish, Trouble, Turn
from tests.agent.fake_providers.server import KEY, fake_provider
from tests.agent.provider_cases import CASES, PROTOCOLS, Asked, Case, asked, at, prefix_of, wire_of

HELLO = Turn(text=("Hel", "lo ", "there."))
THOUGHT = Turn(thinking=("Let me ", "think."), text=("Done.",))
FILES = {"a.txt": "alpha", "b.txt": "beta"}


@pytest.fixture(scope="module", autouse=True)
def sdks_are_imported() -> None:
    """They load at the first model of their protocol, which takes longer than a test may hold its loop up."""
    for row in PROTOCOLS:
        make_model(row.provider, row.model, KEY)


@pytest.fixture(params=PROTOCOLS, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """One of each protocol."""
    found: Case = request.param
    return found


async def streamed(model: Model, prompt: str = "Hi") -> tuple[list[str], ModelResponse]:
    """The pieces of text of one answer, and the whole of it."""
    pieces: list[str] = []
    async with model.request_stream([ModelRequest.user_text_prompt(prompt)], None, no_tools()) as stream:
        async for event in stream:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart) and event.part.content:
                pieces.append(event.part.content)
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                pieces.append(event.delta.content_delta)
        return pieces, stream.get()


def no_tools() -> Any:
    return ModelRequestParameters()


async def answered(model: Model, prompt: str = "Hi") -> ModelResponse:
    return await model_request(model, [ModelRequest.user_text_prompt(prompt)])


def thoughts(response: ModelResponse) -> str:
    return "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))


# Text, streams


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_every_provider_answers_in_text(row: Case) -> None:
    async with asked(row, HELLO) as there, there.model() as model:
        response = await answered(model)
        assert response.text == "Hello there."
        assert (response.usage.input_tokens, response.usage.output_tokens) == (12, 7)
        assert response.finish_reason == "stop"
        assert len(there.fake.bodies) == 1


async def test_answers_are_streamed_piece_by_piece(case: Case) -> None:
    async with asked(case, HELLO) as there, there.model() as model:
        pieces, response = await streamed(model)
        assert pieces == ["Hel", "lo ", "there."]
        assert response.text == "Hello there."
        assert response.finish_reason == "stop"


async def test_an_answer_that_was_cut_says_so(case: Case) -> None:
    async with asked(case, Turn(text=("Half of",), cut=True)) as there, there.model() as model:
        assert (await answered(model)).finish_reason == "length"
        _, response = await streamed(model)
        assert response.finish_reason == "length"


# Loops of tools


def reading_agent(model: Model, read: list[str]) -> Agent[None, str]:
    agent = Agent(model)

    @agent.tool_plain
    def read_file(path: str) -> str:
        """Read a file."""
        read.append(path)
        return FILES[path]

    return agent


@pytest.mark.parametrize("row", CASES, ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_tools_are_called_and_their_results_come_back(row: Case, stream: bool) -> None:
    """Two calls in one turn, a third in the next; the fake refuses a history whose pairs are not right."""
    replies = (
        Turn(
            thinking=("I read both.",),
            calls=(
                Called("read_file", '{"path": "a.txt"}', "call_1"),
                Called("read_file", '{"path": "b.txt"}', "call_2"),
            ),
        ),
        Turn(text=("Once more.",), calls=(Called("read_file", '{"path": "a.txt"}', "call_3"),)),
        Turn(text=("alpha and beta",)),
    )
    read: list[str] = []
    async with asked(row, *replies) as there, there.model() as model:
        agent = reading_agent(model, read)
        if stream:
            async with agent.run_stream_events("Read both files.") as events:
                results = [event async for event in events]
            output = results[-1].result.output  # type: ignore[union-attr]
        else:
            output = (await agent.run("Read both files.")).output
        assert output == "alpha and beta"
        assert sorted(read[:2]) == ["a.txt", "b.txt"]
        assert read[2:] == ["a.txt"]
        assert len(there.fake.bodies) == 3
        last = json.dumps(there.fake.bodies[-1])
        assert "alpha" in last
        assert "beta" in last


# Thoughts


SHOWS_THOUGHTS = [row for row in CASES if str(row) != "openai-chat-chat"]


@pytest.mark.parametrize("row", SHOWS_THOUGHTS, ids=str)
async def test_thoughts_are_told_apart_from_text(row: Case) -> None:
    async with asked(row, THOUGHT) as there, there.model() as model:
        whole = await answered(model)
        assert (thoughts(whole), whole.text) == ("Let me think.", "Done.")
        _, response = await streamed(model)
        assert (thoughts(response), response.text) == ("Let me think.", "Done.")


@pytest.mark.parametrize("row", SHOWS_THOUGHTS, ids=str)
async def test_thoughts_go_back_to_whoever_thought_them(row: Case) -> None:
    """Within a loop of tools providers want them, signed by themselves where they sign."""
    replies = (
        Turn(thinking=("The secret plan.",), calls=(Called("read_file", '{"path": "a.txt"}', "call_1"),)),
        Turn(text=("done",)),
    )
    async with asked(row, *replies) as there, there.model() as model:
        await reading_agent(model, []).run("Read it.")
        sent = json.dumps(there.fake.bodies[-1])
        assert "The secret plan." in sent
        assert "[Reasoning]" not in sent


def thinking_in(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that say how to think, wherever a protocol has them."""
    config = body.get("generationConfig", {})
    found = {"reasoning_effort", "reasoning", "thinking", "output_config"} & body.keys()
    thinking: dict[str, Any] = {}
    if "thinkingConfig" in config:  # Google's own SDK writes its fields either way, and Google takes both
        written = {"thinking_level": "thinkingLevel", "include_thoughts": "includeThoughts"}
        sent = config["thinkingConfig"]
        thinking = {"thinkingConfig": {written.get(name, name): value for name, value in sent.items()}}
    return {**{name: body[name] for name in sorted(found)}, **thinking}


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_levels_of_thought_arrive_in_the_words_of_the_table(row: Case) -> None:
    async with asked(row, HELLO) as there:
        for level in THINKING_LEVELS:
            async with there.model(thinking=level) as model:
                await answered(model)
            body = there.fake.bodies[-1]
            assert thinking_in(body) == thinking_fields(row.provider, row.model, level)
            if (budget := body.get("thinking", {}).get("budget_tokens")) is not None:
                assert body["max_tokens"] > budget


async def test_nothing_is_said_of_thinking_where_nothing_was_asked(case: Case) -> None:
    async with asked(case, HELLO) as there, there.model() as model:
        await answered(model)
        assert thinking_in(there.fake.bodies[0]) == {}


async def test_a_budget_of_thoughts_stays_below_the_limit_of_a_model() -> None:
    async with asked(Case("minimax", "MiniMax-M3"), HELLO) as there:
        async with there.model(thinking="xhigh", max_output_tokens=8192) as model:
            await answered(model)
        async with there.model(thinking="xhigh", max_output_tokens=64_000) as model:
            await answered(model)
        small, large = there.fake.bodies
        assert (small["thinking"]["budget_tokens"], small["max_tokens"]) == (4096, 8192)
        assert (large["thinking"]["budget_tokens"], large["max_tokens"]) == (32_768, 64_000)


# Errors


EXPECTED: dict[Trouble, type[SwarmError]] = {
    Trouble.WRONG_KEY: Unauthorized,
    Trouble.FORBIDDEN: Forbidden,
    Trouble.UNKNOWN_MODEL: NoSuchModel,
    Trouble.RATE_LIMIT: LimitReached,
    Trouble.NO_CREDIT: UpstreamRefused,
    Trouble.TOO_LONG: ContextExceeded,
    Trouble.OVERLOADED: Unavailable,
    Trouble.BROKEN: UpstreamFailed,
    Trouble.BAD_REQUEST: BadRequest,
}


@pytest.mark.parametrize("row", CASES, ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_every_error_of_every_provider_is_one_of_the_tree(row: Case, stream: bool) -> None:
    waits: list[float] = []
    async with asked(row, HELLO) as there, there.model(sleep=noting(waits)) as model:
        for trouble in Trouble:
            there.fake.tell(Refusal(trouble))
            there.fake.seen.clear()
            waits.clear()
            with pytest.raises(SwarmError) as caught:
                await (streamed(model) if stream else answered(model))
            assert type(caught.value) is EXPECTED[trouble], str(caught.value)
            again = trouble in (Trouble.OVERLOADED, Trouble.BROKEN)  # it may be better soon
            assert len(there.fake.bodies) == 1 + again
            assert waits == [SOON_S] * again
            assert KEY not in str(caught.value)
            assert str(caught.value).isprintable()


def noting(waits: list[float]) -> Callable[[float], Awaitable[None]]:
    """A sleep that takes no time and is written down."""

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)

    return sleep


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_a_refused_key_is_said_once_and_names_where_to_set_it(row: Case) -> None:
    wrong = "sk-wrong-0123456789abcdef"
    async with asked(row, HELLO) as there, there.model(wrong) as model:
        with pytest.raises(Unauthorized) as caught:
            await answered(model)
        assert caught.value.given
        assert row.provider.key_variables[0] in str(caught.value)
        assert wrong not in str(caught.value)
        assert len(there.fake.seen) == 1


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_a_model_that_there_is_not_is_answered_with_the_nearest(row: Case) -> None:
    known = (f"{row.model}-mini", "something-else", row.model)
    async with asked(row, HELLO) as there, there.model(name=f"{row.model}x", known=lambda: known) as model:
        with pytest.raises(NoSuchModel) as caught:
            await answered(model)
        assert caught.value.near[0] == row.model
        assert row.model in str(caught.value)
        assert f"swarm providers models {row.row}" in str(caught.value)


async def test_a_prompt_that_is_too_long_is_told_with_both_counts(case: Case) -> None:
    async with asked(case, Refusal(Trouble.TOO_LONG)) as there, there.model() as model:
        with pytest.raises(ContextExceeded) as caught:
            await answered(model)
        assert caught.value.prompt_tokens > caught.value.context_tokens > 4096
        assert "--context" not in str(caught.value)  # there is no node whose context could be larger


async def test_who_says_when_to_come_back_is_asked_once_more_then(case: Case) -> None:
    for trouble in (Trouble.RATE_LIMIT, Trouble.OVERLOADED):
        if case.protocol in ("google", "vertex") and trouble is Trouble.OVERLOADED:
            continue  # Google says it in no header, and not in this error's body
        waits: list[float] = []
        told: list[str] = []

        async with asked(case, Refusal(trouble, retry_after_s=7), HELLO) as there:
            async with there.model(sleep=noting(waits), tell=told.append) as model:
                assert (await answered(model)).text == "Hello there."
                there.fake.tell(Refusal(trouble, retry_after_s=3), HELLO)
                assert (await streamed(model))[1].text == "Hello there."
            assert waits == [7, 3]
            assert [line.rpartition(" in ")[2] for line in told] == ["7 s", "3 s"]
            assert len(there.fake.bodies) == 4


async def test_waiting_happens_once_and_not_for_long(case: Case) -> None:
    waits: list[float] = []
    limited = Refusal(Trouble.RATE_LIMIT, retry_after_s=7)
    async with asked(case, limited) as there, there.model(sleep=noting(waits)) as model:
        with pytest.raises(LimitReached) as caught:
            await answered(model)
        assert (waits, caught.value.again_in_s, len(there.fake.bodies)) == ([7], 7, 2)
        there.fake.tell(Refusal(Trouble.RATE_LIMIT, retry_after_s=3600))
        with pytest.raises(LimitReached) as caught:
            await streamed(model)
        assert (waits, caught.value.again_in_s, len(there.fake.bodies)) == ([7], 3600, 3)


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_an_error_in_a_stream_is_one_of_the_tree_and_nothing_is_asked_again(row: Case) -> None:
    async with asked(row, HELLO) as there, there.model() as model:
        for trouble in (Trouble.OVERLOADED, Trouble.BROKEN, Trouble.RATE_LIMIT):
            there.fake.tell(GoesWrong(HELLO, Refusal(trouble, retry_after_s=1)))
            there.fake.seen.clear()
            with pytest.raises(SwarmError) as caught:
                await streamed(model)
            allowed = {EXPECTED[trouble], UpstreamFailed}  # some say in a stream only that it failed
            assert type(caught.value) in allowed, str(caught.value)
            assert len(there.fake.bodies) == 1


async def test_a_stream_that_breaks_off_is_an_error(case: Case) -> None:
    async with asked(case, GoesWrong(HELLO)) as there, there.model() as model:
        with pytest.raises(UpstreamFailed, match="broke off"):
            await streamed(model)


@pytest.mark.parametrize(
    "rubbish",
    [Rubbish(), Rubbish(b'{"hello": 1}', "application/json"), Rubbish(b"[1, 2]", "application/json"), Rubbish(b"")],
    ids=["page", "object", "list", "nothing"],
)
async def test_an_answer_that_follows_no_protocol_is_an_error(case: Case, rubbish: Rubbish) -> None:
    async with asked(case, rubbish) as there, there.model() as model:
        with pytest.raises(SwarmError):
            await answered(model)
        with pytest.raises(SwarmError):
            await streamed(model)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_without_end_is_left(case: Case, stream: bool) -> None:
    flood = Rubbish(b"data: " + b"x" * (65 << 20), "text/event-stream" if stream else "application/json")
    async with asked(case, flood) as there, there.model() as model:
        with pytest.raises(UpstreamFailed, match="larger than 64 MiB"):
            await (streamed(model) if stream else answered(model))


async def test_an_answer_in_another_coding_is_refused(case: Case) -> None:
    """A few bytes of gzip may unpack to any number."""
    packed = Rubbish(gzip.compress(b"{}"), "application/json", {"Content-Encoding": "gzip"})
    async with asked(case, packed) as there, there.model() as model:
        with pytest.raises(UpstreamFailed, match="coding that was not asked for"):
            await answered(model)
        assert there.fake.seen[0].headers["accept-encoding"] == "identity"


async def test_nobody_there_is_said_with_the_address(case: Case) -> None:
    async with asked(case, HELLO) as there:
        model = there.model()
        host = there.fake.base.partition("://")[2]
    async with model:
        with pytest.raises(Unavailable, match=host) as caught:
            await answered(model)
    assert "Connection error" not in str(caught.value)  # which is all that the SDKs say


# Leaving


async def test_leaving_a_stream_closes_it_at_the_provider(case: Case) -> None:
    """Cancelling is how an agent aborts: the provider must not go on, for it is paid by the token."""
    async with asked(case, Hangs(HELLO)) as there, there.model() as model:
        begun = asyncio.Event()

        async def ask() -> None:
            async with model.request_stream([ModelRequest.user_text_prompt("Hi")], None, no_tools()) as stream:
                async for _ in stream:
                    begun.set()

        task = asyncio.create_task(ask())
        await asyncio.wait_for(begun.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(there.fake.left.wait(), 10)


async def test_leaving_a_whole_answer_closes_it_too(case: Case) -> None:
    async with asked(case, Hangs(HELLO)) as there, there.model() as model:
        task = asyncio.create_task(answered(model))
        await asyncio.wait_for(there.fake.reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(there.fake.left.wait(), 10)


async def test_aborting_a_session_leaves_the_provider(case: Case) -> None:
    async with asked(case, Hangs(HELLO)) as there:
        choice = provider_choice(there.provider, case.model, key=KEY)
        async with SwarmAgent(choice).session() as session:
            leave = session.subscribe(lambda event: session.abort() if isinstance(event, TextPiece) else None)
            ended = await session.run("Hi")
            leave()
            assert ended.reason == "aborted"
            await asyncio.wait_for(there.fake.left.wait(), 10)
            there.fake.tell(HELLO)
            assert (await session.run("Again")).output == "Hello there."


async def test_a_model_is_used_again_after_it_was_closed(case: Case) -> None:
    async with asked(case, HELLO) as there:
        model = there.model()
        for _ in range(2):
            async with model:
                assert (await answered(model)).text == "Hello there."


# Keys, headers


FOREIGN = {
    "OPENAI_API_KEY": "sk-environment-openai",
    "OPENAI_ORG_ID": "org-environment",
    "OPENAI_PROJECT_ID": "proj-environment",
    "OPENAI_BASE_URL": "http://192.0.2.1:9/v1",
    "ANTHROPIC_API_KEY": "sk-environment-anthropic",
    "ANTHROPIC_AUTH_TOKEN": "token-environment",
    "ANTHROPIC_BASE_URL": "http://192.0.2.1:9",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Environment: header-environment",
    "GOOGLE_API_KEY": "key-environment-google",
    "GEMINI_API_KEY": "key-environment-gemini",
    "GOOGLE_CLOUD_PROJECT": "project-environment",
    "GOOGLE_CLOUD_LOCATION": "location-environment",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "OPENROUTER_API_KEY": "sk-environment-openrouter",
    "HTTP_PROXY": "http://192.0.2.1:9",
    "HTTPS_PROXY": "http://192.0.2.1:9",
    "ALL_PROXY": "http://192.0.2.1:9",
}


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_the_key_goes_where_the_protocol_has_it_and_nothing_of_the_environment_goes_along(
    row: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in FOREIGN.items():
        monkeypatch.setenv(variable, value)
    async with asked(row, HELLO) as there, there.model() as model:
        await answered(model)
        await streamed(model)
        for seen in there.fake.seen:
            carrying = {name for name, value in seen.headers.items() if KEY in value}
            expected = {"anthropic": "x-api-key", "google": "x-goog-api-key", "vertex": "x-goog-api-key"}
            assert carrying == {expected.get(row.protocol, "authorization")}
            sent = f"{seen.path} {seen.headers} {seen.body}"
            assert "environment" not in sent
            assert KEY not in seen.path
            assert not [name for name in seen.headers if name.startswith(("x-stainless", "x-goog-api-client"))]
            assert seen.headers["user-agent"].startswith("local-swarm/")


async def test_no_key_is_sent_where_none_was_given(case: Case) -> None:
    async with asked(case, HELLO, key=None) as there:
        keyless = Asked(case, there.fake, provider=_keyless(there))
        async with keyless.model(key=None) as model:
            await answered(model)
        headers = there.fake.seen[0].headers
        assert not {"authorization", "x-api-key", "x-goog-api-key"} & headers.keys()


def _keyless(there: Asked) -> Any:
    return replace(there.provider, needs_key=False)


@pytest.mark.parametrize("row", CASES, ids=str)
def test_a_key_that_is_missing_is_said_before_anything_is_asked(row: Case) -> None:
    if not row.provider.needs_key:
        pytest.skip("this one may do without")
    with pytest.raises(SetupError, match=row.provider.key_variables[0]):
        make_model(row.provider, row.model, None)


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_the_option_comes_before_the_configuration_and_that_before_the_environment(row: Case) -> None:
    async with asked(row, HELLO) as there:
        environment = {name: f"{KEY}-of-{name}" for name in there.provider.key_variables}
        keys = [
            (f"{KEY}-option", f"{KEY}-configured"),
            (None, f"{KEY}-configured"),
            (None, None),
        ]
        expected = [f"{KEY}-option", f"{KEY}-configured", f"{KEY}-of-{there.provider.key_variables[0]}"]
        for (option, configured), best in zip(keys, expected, strict=True):
            there.fake.key = best
            async with there.model(key_for(there.provider, option, configured, environment)) as model:
                assert (await answered(model)).text == "Hello there."


async def test_custom_headers_go_along_and_come_before_ours(case: Case) -> None:
    headers = {"X-Team": "blue", "User-Agent": "mine/1", "Authorization": "Basic c2VjcmV0LXBhc3N3b3Jk"}
    async with asked(case, HELLO, key=None) as there, there.model(headers=headers) as model:
        await answered(model)
        seen = there.fake.seen[0].headers
        assert seen["x-team"] == "blue"
        assert seen["user-agent"] == "mine/1"
        assert seen["authorization"] == "Basic c2VjcmV0LXBhc3N3b3Jk"


@pytest.mark.parametrize(
    "headers",
    [{"Host": "x"}, {"content-length": "3"}, {"a b": "x"}, {"": "x"}, {"X-A": "secret\r\nX-B: 1"}, {"X-A": "sécret"}],
)
def test_headers_that_cannot_be_sent_are_refused_without_quoting_them(headers: dict[str, str]) -> None:
    with pytest.raises(SetupError) as caught:
        checked_headers(headers)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("row", CASES, ids=str)
async def test_no_log_and_no_error_has_the_key(row: Case, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the provider sends it back in its own words, and at the lowest level of every library's logger."""
    caplog.set_level(logging.DEBUG)
    echo = Refusal(Trouble.BAD_REQUEST, message=f"you sent {KEY} as your key, \x1b[31mreally\x1b[0m")
    async with asked(row, HELLO) as there, there.model() as model:
        await answered(model)
        there.fake.tell(echo)
        for ask in (answered, streamed):
            with pytest.raises(BadRequest) as caught:
                await ask(model)  # type: ignore[operator]
            assert "you sent [secret] as your key" in str(caught.value)
            assert "\x1b" not in str(caught.value)
    assert KEY not in caplog.text
    assert KEY not in f"{model!r} {model.place!r} {model.provider!r}"


# Addresses


async def test_a_base_url_without_a_row_is_asked_over_chat() -> None:
    async with (
        fake_provider(ChatWire("/v1"), HELLO, key=None, models=("llama",)) as fake,
        make_model(provider_at(f"{fake.base}/v1"), "llama") as model,
    ):
        assert (await answered(model)).text == "Hello there."
        assert fake.bodies[0]["model"] == "llama"


@pytest.mark.parametrize("row", ["openrouter", "openai", "xai", "deepseek", "zai", "groq", "ollama"])
async def test_another_address_of_a_provider_is_asked_as_any_compatible_server_is(row: str) -> None:
    """A proxy in front of it, say, which need not have what only the vendor's own server has."""
    replies = (Turn(calls=(Called("read_file", '{"path": "a.txt"}', "call_1"),)), HELLO)
    async with fake_provider(ChatWire(), *replies, models=("m",)) as fake:
        async with make_model(PROVIDERS[row], "m", KEY, base_url=fake.base) as model:
            assert (await reading_agent(model, []).run("Hi")).output == "Hello there."
        assert "max_completion_tokens" not in fake.bodies[0]
        assert "strict" not in fake.bodies[0]["tools"][0]["function"]


@pytest.mark.parametrize(
    ("base", "protocol", "fitting"),
    [
        ("http://box:11434", "chat", "http://box:11434/v1"),
        ("http://box:11434/", "chat", "http://box:11434/v1"),
        ("http://box:11434/v1", "chat", "http://box:11434/v1"),
        ("http://box/v1/chat/completions", "chat", "http://box/v1"),
        ("http://box/v1/responses", "responses", "http://box/v1"),
        ("http://box/api/paas/v4", "chat", "http://box/api/paas/v4"),
        ("https://box/anthropic/v1", "anthropic", "https://box/anthropic"),
        ("https://box/anthropic/v1/messages", "anthropic", "https://box/anthropic"),
        ("https://box", "anthropic", "https://box"),
        ("https://box/v1beta", "google", "https://box"),
        ("https://box/v1", "vertex", "https://box"),
        ("https://box/v1/projects/p/locations/l", "vertex", "https://box/v1/projects/p/locations/l"),
    ],
)
def test_a_base_url_may_be_typed_as_people_find_it(base: str, protocol: ApiProtocol, fitting: str) -> None:
    assert base_as_given(base, protocol) == fitting


async def test_a_model_that_a_base_url_has_not_is_told_with_what_lists_its_models() -> None:
    async with (
        fake_provider(ChatWire(), HELLO, key=None, models=("llama",)) as fake,
        make_model(provider_at(fake.base), "lama") as model,
    ):
        with pytest.raises(NoSuchModel, match=f"swarm providers models {fake.base}/v1"):
            await answered(model)


async def test_a_redirect_is_not_followed(case: Case) -> None:
    """It would take the key, and the conversation, to somebody else."""
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.path)
        raise web.HTTPTemporaryRedirect("/stolen")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", elsewhere)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]

        async with make_model(at(case.provider, f"http://{host}:{port}"), case.model, KEY) as model:
            with pytest.raises(SwarmError):
                await answered(model)
        assert "/stolen" not in reached
    finally:
        await runner.cleanup()


async def test_the_internet_is_asked_through_the_proxy_of_the_environment(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only the internet: the fakes on this machine are asked directly, whatever the environment says (above)."""
    async with asked(case, HELLO) as there:
        path = there.fake.wire.prefix  # type: ignore[attr-defined]
        monkeypatch.setenv("HTTP_PROXY", there.fake.base)  # it reads requests for other hosts as a proxy does
        elsewhere = at(case.provider, "http://provider.example")
        async with make_model(elsewhere, case.model, KEY) as model:
            assert (await answered(model)).text == "Hello there."
        assert there.fake.seen[0].headers["host"] == "provider.example"
        assert there.fake.seen[0].path.startswith(f"http://provider.example{path}/")


async def test_an_authority_that_the_environment_names_is_trusted_and_no_other(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a company's proxy has one. Whose certificate nobody vouches for gets neither the key nor a word."""
    words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=here",
    ]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    await asyncio.to_thread(subprocess.run, ["openssl", *words, *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with fake_provider(wire_of(case, prefix_of(case)), HELLO, models=(case.model,), tls=tls) as fake:
        row = at(case.provider, fake.base)
        async with make_model(row, case.model, KEY) as model:
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await answered(model)
        assert not fake.seen
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        async with make_model(row, case.model, KEY) as model:
            assert (await answered(model)).text == "Hello there."


async def test_a_project_of_google_cloud_is_asked_at_its_own_address() -> None:
    """With an access token as `gcloud auth print-access-token` has it, which is no API key."""
    token = "ya29.a0-token-of-an-account"
    base = "/v1/projects/my-project/locations/europe-west4"
    wire = GoogleWire(vertex=True)
    async with fake_provider(wire, HELLO, key=token, models=("gemini-3-flash",)) as fake:
        model = make_model(PROVIDERS["vertex"], "gemini-3-flash", token, base_url=fake.base + base)
        async with model:
            assert (await answered(model)).text == "Hello there."
        assert fake.seen[0].path == f"{base}/publishers/google/models/gemini-3-flash:generateContent"
        assert fake.seen[0].headers["authorization"] == f"Bearer {token}"


# For an agent


async def test_an_agent_works_with_a_model_of_any_provider(case: Case) -> None:
    """The product's own loop, its tools and its events, instead of votes the provider's own answers."""
    replies = (
        Turn(thinking=("Look.",), calls=(Called("read_file", '{"path": "a.txt"}', "call_1"),)),
        Turn(text=("It is ", "alpha.")),
    )

    def read_file(path: str) -> str:
        """Read a file."""
        return FILES[path]

    async with asked(case, *replies) as there:
        choice = provider_choice(there.provider, case.model, environment={case.provider.key_variables[0]: KEY})
        events: list[AgentEvent] = []
        made = SwarmAgent(choice, tools=[Tool(read_file, reads_only=True)])
        ended = await made.run("What is in a.txt?", events.append)
        assert (ended.reason, ended.output) == ("done", "It is alpha.")
        assert "".join(event.text for event in events if isinstance(event, TextPiece)) == "It is alpha."
        there.fake.tell(Refusal(Trouble.WRONG_KEY))
        with pytest.raises(Unauthorized):
            await made.run("Once more.", events.append)
        assert isinstance(events[-2], RunFailed)
        assert events[-2].kind == "Unauthorized"
        assert KEY not in str(events)


async def test_responses_are_not_kept_by_openai() -> None:
    async with asked(Case("openai", "gpt-5.2"), HELLO) as there, there.model() as model:
        await answered(model)
        assert there.fake.bodies[0]["store"] is False


async def test_calls_have_their_arguments_whole(case: Case) -> None:
    call = Called("read_file", '{"path": "a b\\n\\"c\\".txt", "lines": [1, 2]}', "call_1")
    async with asked(case, Turn(calls=(call,))) as there, there.model() as model:
        for response in (await answered(model), (await streamed(model))[1]):
            (part,) = [part for part in response.parts if isinstance(part, ToolCallPart)]
            assert part.args_as_dict() == {"path": 'a b\n"c".txt', "lines": [1, 2]}
            assert part.tool_call_id == "call_1"
