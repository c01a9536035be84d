"""One suite that every engine passes: the weightless ones, llama.cpp in this process and in a host process, and others.

Those that are made on a machine are taken from SWARM_TEST_ENGINES, see `tests/doubles/made_engines.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paced_engine import PacedEngine
from benchmarks.paced_time import Pace
from swarm.engines.echo import EchoEngine, message_text, tokens_of
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.hosted.hosted_engine import HostedEngine
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.engines.registry import load_engine
from swarm.errors import BadRequest, ContextExceeded, Unavailable
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.images import png, shown
from tests.doubles.inside_llama import busy_jobs, busy_slots
from tests.doubles.made_engines import made_engine
from tests.doubles.played_engine import Conversation, PlayedEngine, Say, Turn

SLOTS, CONTEXT_TOKENS = 4, 1024


def chat(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0.0, "seed": 7, **fields}
    )


def turned_about(conversation: Conversation) -> Turn:
    """What was asked, and for every voter but the first its words in another order."""
    words = tokens_of(message_text(conversation.messages[-1]))
    return Turn(tuple(Say("".join(words[voter:] + words[:voter])) for voter in range(SLOTS)))


@pytest.fixture(
    params=["echo", "paced", "played", "in process", "in a host", "llama-server", "llama-cpp-python", "mlx"]
)
async def engine(request: pytest.FixtureRequest, demo_model: Path) -> AsyncIterator[Engine]:
    spec = EngineSpec("demo", demo_model, CONTEXT_TOKENS, SLOTS, threads=1)
    loaded: Engine
    match request.param:
        case "echo":
            loaded = await load_engine("echo", spec)
        case "paced":
            loaded = PacedEngine(spec, Pace.simple(20_000, 2_000))
        case "played":
            loaded = PlayedEngine(spec, part=turned_about)
        case "in process":
            loaded = await load_xllamacpp(spec, "never")
        case "in a host":
            loaded = await load_xllamacpp(spec, "always")
        case made:
            path = demo_model.parent / "hf" if made == "mlx" else demo_model
            loaded = await load_engine(made, replace(spec, path=path, build=made_engine(made)))
    yield loaded
    await loaded.aclose()


def embedded_bytes(path: Path) -> int:
    return path.stat().st_size


async def read(engine: Engine, request: GenerationRequest, n: int = 1) -> tuple[dict[int, str], dict[int, Finish]]:
    texts: dict[int, str] = dict.fromkeys(range(n), "")
    finishes: dict[int, Finish] = {}
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            assert event.choice not in finishes, "an event after the choice's end"
            if isinstance(event, Delta):
                texts[event.choice] += event.text
            else:
                finishes[event.choice] = event
    return texts, finishes


async def still_generating(engine: Engine) -> bool:
    if isinstance(engine, HostedEngine):
        return bool(await busy_jobs(engine))
    return bool(await busy_slots(engine.http)) if isinstance(engine, LlamaServerEngine) else False


async def test_an_answer_is_deltas_then_one_finish_with_its_usage(engine: Engine) -> None:
    texts, finishes = await read(engine, chat("What is the capital of France?"))
    assert texts[0]
    assert finishes[0].reason == "stop"
    assert finishes[0].usage.completion_tokens > 0
    assert finishes[0].usage.prompt_tokens == await engine.count_tokens(chat("What is the capital of France?"))
    assert finishes[0].timings is not None


async def test_the_same_seed_gives_the_same_answer(engine: Engine) -> None:
    request = chat("Calculate 12 + 7 - 3", temperature=0.8)
    first, _ = await read(engine, request)
    second, _ = await read(engine, request)
    assert first == second


async def test_candidates_each_finish_once_and_count_their_own_tokens(engine: Engine) -> None:
    texts, finishes = await read(engine, chat("Calculate 12 + 7 - 3", temperature=0.8), n=SLOTS)
    assert sorted(finishes) == list(range(SLOTS))
    assert all(texts.values())
    assert all(finish.usage.completion_tokens > 0 for finish in finishes.values())


async def test_the_first_of_several_has_its_own_temperature(engine: Engine) -> None:
    """A vote's greedy answer is the greedy answer, whoever is drawn beside it."""
    assert engine.capabilities.first_temperature
    said = "What is the capital of France? " * 9  # whose greedy answer does not hang on the last bit of a sum
    greedy, _ = await read(engine, chat(said, max_tokens=12))
    varied = {"max_tokens": 12, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    request = chat(said, temperature=2.0, first_temperature=0.0, **varied)
    texts, finishes = await read(engine, request, n=SLOTS)
    assert sorted(finishes) == list(range(SLOTS))
    assert texts[0] == greedy[0]
    assert engine.name == "echo" or len(set(texts.values())) > 2
    turned, _ = await read(engine, chat(said, temperature=0.0, first_temperature=2.0, **varied), n=SLOTS)
    assert {turned[choice] for choice in range(1, SLOTS)} == {greedy[0]}
    assert await read(engine, request, n=1) == await read(engine, chat(said, **varied), n=1)


async def test_max_tokens_ends_with_length(engine: Engine) -> None:
    _, finishes = await read(engine, chat("Say one two three four five six", max_tokens=2))
    assert finishes[0].reason == "length"
    assert finishes[0].usage.completion_tokens == 2


async def test_a_stop_string_ends_the_answer_and_is_left_out(engine: Engine) -> None:
    texts, finishes = await read(engine, chat("What is the capital of France?", stop=["capital"]))
    assert "capital" not in texts[0]
    assert finishes[0].reason == "stop"


async def test_images_are_refused_by_a_model_that_cannot_see(engine: Engine) -> None:
    assert not engine.capabilities.vision
    request = chat("what?").model_copy(update={"messages": ({"role": "user", "content": [shown(png())]},)})
    with pytest.raises(BadRequest, match="cannot see images"):
        await read(engine, request)


async def test_a_completion_needs_no_messages(engine: Engine) -> None:
    request = GenerationRequest(model="demo", prompt="one two three", max_tokens=3, temperature=0.0)
    texts, finishes = await read(engine, request)
    assert texts[0]
    assert finishes[0].usage.prompt_tokens == await engine.count_tokens(request)


async def test_closing_the_stream_stops_the_engine(engine: Engine) -> None:
    """Four endless answers are cut after a few tokens; the engine must go idle, far from the end of its context."""
    request = chat("word " * 300, temperature=1.5, max_tokens=700, logit_bias={"1": -100.0, "0": -100.0, "2": -100.0})
    seen: Counter[int] = Counter()
    async with aclosing(engine.candidates(request, SLOTS)) as events:
        async for event in events:
            assert isinstance(event, Delta), "the answer was too short for this test"
            seen[event.choice] += 1
            if seen.total() >= 8:
                break
    async with asyncio.timeout(1):
        while await still_generating(engine):  # noqa: ASYNC110 - llama.cpp has no event for it
            await asyncio.sleep(0)
    if isinstance(engine, EchoEngine):
        assert engine.tokens_generated <= 8


async def test_a_prompt_beyond_the_context_names_both_numbers(engine: Engine) -> None:
    request = chat("word " * 3000)
    with pytest.raises(ContextExceeded) as caught:
        await read(engine, request)
    assert caught.value.context_tokens == CONTEXT_TOKENS
    assert caught.value.prompt_tokens == await engine.count_tokens(request)


async def test_more_candidates_than_slots_is_refused(engine: Engine) -> None:
    with pytest.raises(BadRequest, match=f"n is {SLOTS + 1}"):
        await read(engine, chat("hello"), n=SLOTS + 1)


async def test_more_requests_than_slots_wait_their_turn(engine: Engine) -> None:
    answers = await asyncio.gather(*(read(engine, chat("hello there")) for _ in range(3 * SLOTS)))
    assert all(finishes[0].reason in ("stop", "length") for _, finishes in answers)


async def test_embeddings_are_unit_vectors_and_tell_texts_apart(engine: Engine) -> None:
    if not engine.capabilities.embeddings:
        with pytest.raises(BadRequest, match=f"cannot embed with engine {engine.name}"):
            await engine.embed(["the cat"])
        return
    answer = await engine.embed(["the cat", "the cat", "something else"])
    same, again, other = answer.vectors
    assert answer.prompt_tokens > 0
    assert sum(value * value for value in same) == pytest.approx(1.0, abs=1e-3)
    assert same == pytest.approx(again, abs=1e-4)
    assert same != pytest.approx(other, abs=1e-3)


async def test_tokens_are_those_that_are_counted_and_give_the_text_again(engine: Engine) -> None:
    text = "one two  three é 日本"
    tokens = await engine.tokenize(text, add_special=True, parse_special=True)
    assert tokens.pieces is None
    assert len(tokens.ids) == await engine.count_tokens(GenerationRequest(model="demo", prompt=text))
    assert await engine.detokenize(tokens.ids) == text
    assert await engine.tokenize(text, add_special=True, parse_special=True) == tokens


async def test_the_pieces_of_tokens_add_up_to_the_text(engine: Engine) -> None:
    text = "one two é"
    tokens = await engine.tokenize(text, add_special=False, parse_special=False, pieces=True)
    assert tokens.pieces is not None
    assert len(tokens.pieces) == len(tokens.ids)
    raw = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in tokens.pieces)
    assert raw.decode() == text


async def test_nothing_has_no_tokens(engine: Engine) -> None:
    assert (await engine.tokenize("", add_special=False, parse_special=False)).ids == ()
    assert await engine.detokenize([]) == ""


@pytest.mark.parametrize("tokens", [(-1,), (2**31 - 1,)])
async def test_numbers_that_are_no_tokens_are_the_callers_mistake(engine: Engine, tokens: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest, match="not tokens of this model"):
        await engine.detokenize(tokens)
    with pytest.raises(BadRequest, match=r"not tokens of this model|cannot embed with engine"):
        await engine.embed([tokens])
    with pytest.raises(BadRequest, match="not tokens of this model"):
        await read(engine, GenerationRequest(model="demo", prompt=tokens))


async def test_a_prompt_may_be_tokens(engine: Engine) -> None:
    tokens = (await engine.tokenize("one two three", add_special=True, parse_special=True)).ids
    as_text = GenerationRequest(model="demo", prompt="one two three", max_tokens=3, temperature=0.0)
    as_tokens = as_text.model_copy(update={"prompt": tokens})
    assert (await read(engine, as_tokens))[0] == (await read(engine, as_text))[0]
    assert await engine.count_tokens(as_tokens) == len(tokens)


async def test_tokens_are_embedded_like_their_text(engine: Engine) -> None:
    if not engine.capabilities.embeddings:
        return
    tokens = (await engine.tokenize("the cat", add_special=True, parse_special=True)).ids
    of_tokens, of_text = (await engine.embed([tokens, "the cat"])).vectors
    assert of_tokens == pytest.approx(of_text, abs=1e-4)


async def test_the_prompt_of_a_chat_has_its_words(engine: Engine) -> None:
    request = chat("What is the capital of France?")
    text = await engine.prompt_text(request)
    assert "What is the capital of France?" in text
    if not isinstance(engine, EchoEngine):
        as_prompt = GenerationRequest(model="demo", prompt=text)
        assert await engine.count_tokens(as_prompt) == await engine.count_tokens(request)


async def test_what_a_model_cannot_do_is_refused_and_said_before(engine: Engine) -> None:
    filling = GenerationRequest(model="demo", prompt="a", suffix="b", max_tokens=2)
    if engine.capabilities.rerank:
        assert len((await engine.rerank("one", ["one", "two"])).scores) == 2
    else:
        with pytest.raises(BadRequest, match="cannot rerank"):
            await engine.rerank("one", ["two"])
    if engine.capabilities.infill:
        assert (await read(engine, filling))[1][0].usage.completion_tokens
    else:
        with pytest.raises(BadRequest, match="cannot fill in the middle"):
            await read(engine, filling)


async def test_after_closing_nothing_is_generated_and_nothing_hangs(engine: Engine) -> None:
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(Unavailable):
        await read(engine, chat("hello"))
    assert not engine.failed.done()


async def test_an_engine_that_works_is_not_doubted(engine: Engine) -> None:
    assert engine.stalled is None
    await read(engine, chat("hello"), n=SLOTS)
    assert engine.stalled is None
    await engine.aclose()
    assert engine.stalled is None
    assert not engine.failed.done()


async def test_capabilities_say_what_was_granted(engine: Engine) -> None:
    assert engine.loaded.slots == SLOTS
    assert engine.loaded.context_tokens == CONTEXT_TOKENS


async def test_what_it_takes_is_measured_where_that_can_be(engine: Engine, demo_model: Path) -> None:
    taken_bytes = engine.taken_bytes
    if isinstance(engine, EchoEngine):
        assert taken_bytes is None
        return
    assert taken_bytes is not None
    # Its cache and buffers come on top of the weights; a process of its own has Python and the library as well.
    assert embedded_bytes(demo_model) < taken_bytes < 2**30
    await engine.aclose()
    assert (engine.taken_bytes or 0) >= taken_bytes, "the most that was seen"
