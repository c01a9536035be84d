"""An engine in a process of its own: its answers, its faults, its end; with a generator that does what it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from swarm.engines.engine import EngineSpec
from swarm.engines.hosted.connection import Connection, start_process
from swarm.engines.hosted.generator import LoadOrder
from swarm.engines.hosted.host import GeneratorHost
from swarm.engines.hosted.hosted_engine import HostedEngine, HostedLibrary, load_hosted
from swarm.engines.hosted.wire import HostMessage
from swarm.engines.llama_cpp.begun_call import CallForm, call_form
from swarm.engines.llama_cpp.server_host import LOAD_BYTES_PER_S, load_limit_s
from swarm.engines.openai_dialect import TemplateRefused
from swarm.errors import BadRequest, ContextExceeded, EngineDied, EngineFailed, Unavailable, UnknownArchitecture
from swarm.generation import Delta, Finish, GenerationRequest, JsonObject
from tests.doubles.scripted_generator import ScriptedGenerator, model_file
from tests.doubles.waiting import eventually
from tests.doubles.wedges import QUICK

MODULE = "tests.doubles.scripted_generator"
LIBRARY = HostedLibrary("scripted", MODULE)
SLOTS, CONTEXT_TOKENS = 3, 4000
LOOK: JsonObject = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}},
}


def chat(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
    )


def spec_of(path: Path) -> EngineSpec:
    return EngineSpec("scripted", path, CONTEXT_TOKENS, SLOTS, threads=1)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[HostedEngine]:
    loaded = await load_hosted(LIBRARY, spec_of(model_file(tmp_path)), limits=QUICK)
    yield loaded
    await loaded.aclose()


async def read(engine: HostedEngine, request: GenerationRequest, n: int = 1) -> list[Delta | Finish]:
    async with aclosing(engine.candidates(request, n)) as events:
        return [event async for event in events]


def text_of(events: list[Delta | Finish], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.choice == choice)


def finish_of(events: list[Delta | Finish], choice: int = 0) -> Finish:
    [finish] = [event for event in events if isinstance(event, Finish) and event.choice == choice]
    return finish


def connection_of(engine: HostedEngine) -> Connection:
    return engine._connection  # pyright: ignore[reportPrivateUsage]


async def until_idle(engine: HostedEngine) -> None:
    while (await connection_of(engine).loop_counts()).busy:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)


async def test_characters_that_are_cut_into_tokens_come_whole(engine: HostedEngine) -> None:
    events = await read(engine, chat("say é日本 🙂"))
    assert text_of(events) == "é日本 🙂"
    assert all("\ufffd" not in event.text for event in events if isinstance(event, Delta))
    assert finish_of(events).usage.completion_tokens == len("é日本 🙂".encode()) + 1
    assert finish_of(events).usage.cached_tokens == 3


async def test_a_stop_string_that_is_cut_into_tokens_ends_its_answer_alone(engine: HostedEngine) -> None:
    events = await read(engine, chat("say one two", stop=["wo 1", "never"]), n=2)
    assert [text_of(events, choice) for choice in range(2)] == ["one two 0", "one t"]
    assert [finish_of(events, choice).stop_sequence for choice in range(2)] == [None, "wo 1"]
    assert finish_of(events, 1).usage.completion_tokens == len("one two 1")
    await until_idle(engine)


async def test_what_may_become_a_stop_string_waits_and_nothing_else(engine: HostedEngine) -> None:
    events = await read(engine, chat("say abcabd", stop=["abcx"]))
    assert text_of(events) == "abcabd"
    assert [event.text for event in events if isinstance(event, Delta)] == ["abc", "abd"]


async def test_log_probabilities_go_with_their_tokens_and_not_with_a_stop_string(engine: HostedEngine) -> None:
    events = await read(engine, chat("say one", stop=["ne"], logprobs=True, top_logprobs=1))
    logprobs = [event.logprobs for event in events if isinstance(event, Delta)]
    entry = {"token": "o", "logprob": -0.5, "bytes": [111]}
    assert logprobs == [{"content": [{**entry, "top_logprobs": [entry]}]}]


async def test_closing_the_stream_stops_the_process_from_computing(engine: HostedEngine) -> None:
    async with aclosing(engine.candidates(chat("endless"), SLOTS)) as events:
        await anext(events)
        assert (await connection_of(engine).loop_counts()).busy == 1
    await until_idle(engine)
    assert text_of(await read(engine, chat("say still there"))) == "still there"


async def test_requests_wait_for_slots_in_order_and_one_that_leaves_is_no_hindrance(engine: HostedEngine) -> None:
    running = engine.candidates(chat("endless"), SLOTS)
    await anext(running)
    waiting = asyncio.create_task(read(engine, chat("say all"), n=SLOTS))
    left = asyncio.create_task(read(engine, chat("say left")))
    behind = asyncio.create_task(read(engine, chat("say behind")))
    for _ in range(20):
        await connection_of(engine).loop_counts()
    assert not any(each.done() for each in (waiting, left, behind))
    left.cancel()
    await running.aclose()
    assert text_of(await waiting, 2) == "all 2"
    assert text_of(await behind) == "behind"
    with pytest.raises(asyncio.CancelledError):
        await left


async def test_a_job_is_stopped_before_its_slots_are_another_ones(
    engine: HostedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator has no more sequences than answers that may run."""
    connection, said = connection_of(engine), list[str]()

    def say(message: dict[str, object]) -> None:
        if message["do"] in ("begin", "stop"):
            said.append(str(message["do"]))
        say_it(message)

    say_it = connection._say  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(connection, "_say", say)
    running = engine.candidates(chat("endless"), SLOTS)
    await anext(running)
    waiting = asyncio.create_task(read(engine, chat("say all"), n=SLOTS))
    for _ in range(20):
        await connection.loop_counts()
    await running.aclose()
    assert text_of(await waiting, 2) == "all 2"
    assert said == ["begin", "stop", "begin"]


def test_a_call_that_was_forgotten_is_not_made_and_leaves_nothing(tmp_path: Path) -> None:
    order = LoadOrder(model_file(tmp_path), CONTEXT_TOKENS, SLOTS, threads=1, reading_threads=1)
    told = list[HostMessage]()
    host = GeneratorHost(ScriptedGenerator(order), told.append)
    for call in (1, 2):
        host.hear({"do": "embed", "call": call, "tokens": [1]})
    host.hear({"do": "forget", "call": 1})
    host.advance()
    host.advance()
    host.hear({"do": "forget", "call": 2})  # which crossed its answer
    assert [message["call"] for message in told] == [2]
    assert not host._wanted  # pyright: ignore[reportPrivateUsage]


def test_a_text_that_the_library_fails_at_ends_its_call_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenize(text: str, add_special: bool, parse_special: bool) -> list[int]:
        raise TypeError("what a tokenizer raises")

    generator = ScriptedGenerator(LoadOrder(model_file(tmp_path), CONTEXT_TOKENS, SLOTS, 1, 1))
    monkeypatch.setattr(generator, "tokenize", tokenize)
    told = list[HostMessage]()
    host = GeneratorHost(generator, told.append)
    host.hear({"do": "tokenize", "call": 1, "text": "x", "add_special": False, "parse_special": False})
    host.make_text()
    assert told[0]["error"]["kind"] == "failed"
    assert "could not tokenize this: what a tokenizer raises" in told[0]["error"]["message"]


async def test_arguments_are_shown_or_refused_however_deep_they_are(tmp_path: Path) -> None:
    """Some are shallow enough to be read, and too deep to be written within their turn."""
    facts = {"call_opening": "<call> "}
    async with aclosing(await load_hosted(LIBRARY, spec_of(model_file(tmp_path, facts=facts)), limits=QUICK)) as engine:
        for depth in range(940, 1000, 2):
            function: JsonObject = {"name": "look", "arguments": '{"a":' * depth + "1" + "}" * depth}
            turn: JsonObject = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
            with suppress(BadRequest):
                await engine._render([turn], [], {})  # pyright: ignore[reportPrivateUsage]


def test_a_folder_may_take_as_long_to_load_as_its_files(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    os.truncate(file, 10 * LOAD_BYTES_PER_S)
    assert load_limit_s(tmp_path, 60.0) == load_limit_s(file, 60.0) == 70.0


async def test_a_process_that_ends_fails_what_it_worked_on_and_says_so(engine: HostedEngine) -> None:
    other = engine.candidates(chat("endless"), 1)
    await anext(other)
    with pytest.raises(EngineDied, match="ended over this request"):
        await read(engine, chat("die"))
    with pytest.raises(EngineDied):
        async for _ in other:
            pass
    assert "ended with 9" in await engine.failed
    with pytest.raises(Unavailable, match="is about to be loaded again"):
        await read(engine, chat("say hello"))


async def test_a_process_that_makes_no_step_is_doubted_and_then_ended(engine: HostedEngine) -> None:
    asked = asyncio.create_task(read(engine, chat("freeze")))
    await eventually(lambda: engine.stalled is not None)
    assert "made no step" in str(engine.stalled)
    with pytest.raises(EngineDied):
        await asked
    assert "made no step" in await engine.failed


async def test_a_template_that_never_ends_is_doubted_and_then_ended(engine: HostedEngine) -> None:
    """It is rendered beside what computes, which goes on; and so it is the request that is missed."""
    with pytest.raises(EngineDied):
        await read(engine, chat("hang in the template"))
    assert "has kept a request without an answer" in await engine.failed


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ("break bad request", BadRequest, "it broke"),
        ("break failed", EngineFailed, "it broke"),
        ("refuse this", TemplateRefused, "does not take this conversation"),
        ("recurse here", BadRequest, "too deep"),
        ("say " + "word " * 1000, ContextExceeded, "the prompt has 5004 tokens and the context holds 4000"),
    ],
)
async def test_what_goes_wrong_with_a_request_ends_that_alone(
    engine: HostedEngine, prompt: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await read(engine, chat(prompt))
    assert text_of(await read(engine, chat("say fine"))) == "fine"


async def test_a_call_that_cannot_be_read_is_sampled_again(engine: HostedEngine) -> None:
    events = await read(engine, chat("unreadable 1", tools=[LOOK]))
    assert text_of(events) == "words"


async def test_a_demanded_call_is_made_under_its_schema(engine: HostedEngine) -> None:
    events = await read(engine, chat("say no", tools=[LOOK], tool_choice="required"))
    [call, *rest] = [call for event in events if isinstance(event, Delta) for call in event.tool_calls]
    assert call.name == "look"
    assert call.arguments + "".join(more.arguments for more in rest) == '{"at": 1}'
    assert finish_of(events).reason == "tool_calls"


async def test_a_call_that_words_begin_is_made_under_its_schema(engine: HostedEngine) -> None:
    events = await read(engine, chat('say {"name": "look", "arguments": {"at": "nonsense"}}', tools=[LOOK]))
    calls = [call for event in events if isinstance(event, Delta) for call in event.tool_calls]
    assert "".join(call.arguments for call in calls) == '{"at": 1}'


@pytest.mark.parametrize("several", [True, False])
async def test_calls_that_the_library_reads_come_as_they_are(tmp_path: Path, several: bool) -> None:
    engine = await load_hosted(LIBRARY, spec_of(model_file(tmp_path, facts={"reads_calls": True})))
    try:
        assert engine.capabilities.tools
        events = await read(engine, chat("call it", tools=[LOOK], parallel_tool_calls=several))
        answer = await read(engine, chat("call it", tools=[LOOK]))
    finally:
        await engine.aclose()
    assert finish_of(answer).reason == "tool_calls"
    [call] = [call for event in events if isinstance(event, Delta) for call in event.tool_calls]
    assert (call.name, call.arguments) == ("look", '{"at": 1}')
    assert text_of(events) == ""
    assert finish_of(events).reason == "tool_calls"


@pytest.mark.parametrize(
    ("facts", "fields", "words"),
    [
        ({"logprobs": False}, {"logprobs": True}, "engine scripted tells no log-probabilities"),
        ({"forms": False}, {"response_format": {"type": "json_object"}}, "engine scripted cannot hold an answer"),
        ({"generates": False}, {}, "writes no text"),
    ],
)
async def test_what_a_library_cannot_do_is_refused_in_its_name(
    tmp_path: Path, facts: dict[str, object], fields: dict[str, object], words: str
) -> None:
    engine = await load_hosted(LIBRARY, spec_of(model_file(tmp_path, facts=facts)))
    try:
        with pytest.raises(BadRequest, match=words):
            await read(engine, chat("say it", **fields))
    finally:
        await engine.aclose()


async def test_embeddings_are_made_between_steps(engine: HostedEngine) -> None:
    async with aclosing(engine.candidates(chat("endless"), 1)) as events:
        await anext(events)
        made = await engine.embed(["abc", (1, 2)])
    assert made.vectors == ((1.0, 3.0), (1.0, 2.0))
    assert made.prompt_tokens == 5
    with pytest.raises(BadRequest, match="too many tokens"):
        await engine.embed(["a" * 65])


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("broken", EngineFailed, "no such luck"),
        ("unknown", UnknownArchitecture, "unknown model architecture"),
        ("ends", EngineFailed, "ended while loading"),
        ("hangs", EngineFailed, "given up|ended while loading"),
    ],
)
async def test_a_model_that_is_not_loaded_says_why(
    tmp_path: Path, name: str, error: type[Exception], words: str
) -> None:
    path = model_file(tmp_path, name)
    with pytest.raises(error, match=words):
        await load_hosted(LIBRARY, spec_of(path), load_least_s=2.0)


async def test_a_process_ends_with_its_standard_input() -> None:
    process = await start_process(MODULE, None)
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() != 0  # it was given no order


async def test_a_loaded_process_ends_with_the_node(engine: HostedEngine) -> None:
    process = engine._home._process  # pyright: ignore[reportPrivateUsage]
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0
    await engine.failed


async def test_closing_ends_what_runs_and_the_process(engine: HostedEngine) -> None:
    running = engine.candidates(chat("endless"), 1)
    await anext(running)
    await engine.aclose()
    with pytest.raises(Unavailable, match="unloaded meanwhile"):
        async for _ in running:
            pass
    assert not engine.failed.done()


async def test_calls_in_the_forms_that_templates_write_are_seen_and_made(tmp_path: Path) -> None:
    """The stand-in's template writes OpenAI's calls, and so does its model."""
    engine = await load_hosted(LIBRARY, spec_of(model_file(tmp_path, facts={"call_opening": "<call>"})))
    try:
        assert engine.capabilities.tools
        assert engine.call_form is not None
        events = await read(engine, chat('say Now <call>look with {"at": 5}', tools=[LOOK]))
        begun = await read(engine, chat('say <call>look with {"at": 5}', tools=[LOOK]))
    finally:
        await engine.aclose()
    assert text_of(events) == 'Now <call>look with {"at": 5}', "a call begins a line"
    assert not text_of(begun)
    calls = [call for event in begun if isinstance(event, Delta) for call in event.tool_calls]
    assert "".join(call.arguments for call in calls) == '{"at": 1}'


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
            ('<tool_call>\n{"name": "', '", "arguments": '),
        ),
        ('{"name": "f", "parameters": {"a": 1}}<|eot|>', ('{"name": "', '", "parameters": ')),
        ('[TOOL_CALLS]f[ARGS]{"a": 1}', ("[TOOL_CALLS]", "[ARGS]")),
        ("<function=f><parameter=a>1</parameter>", None),
        ('{"arguments": {"a": 1}, "name": "f"}', None),
        ("", None),
    ],
)
def test_the_form_of_a_call_is_seen_in_what_a_template_writes(answer: str, form: tuple[str, str] | None) -> None:
    found = call_form("question: ", f"question: {answer}", "f", {"a": 1})
    assert found == (None if form is None else CallForm(*form))
    assert call_form("another: ", f"question: {answer}", "f", {"a": 1}) is None
