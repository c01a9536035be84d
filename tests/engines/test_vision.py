"""A model that sees, behind the real engine: the embedded one with a random image part."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.engines.chat_turns import CAN_SAY_ALL, said_by
from swarm.engines.engine import Engine, EngineSpec, LoadedModel, may_be_too_long, prompt_bytes
from swarm.engines.llama_cpp.plain_text import PlainText
from swarm.engines.llama_cpp.prefill import LONG_TOKENS, is_long
from swarm.engines.llama_cpp.server_engine import check
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.engines.registry import load_engine
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import Delta, Finish, GenerationRequest, JsonObject, JsonValue
from swarm.images import joined
from tests.doubles.images import BLUE, RED, png, shown, webp
from tests.doubles.made_engines import made_engine
from tests.doubles.tiny_models import IMAGE_TOKENS, write_projector

QUESTION = "What is the colour of the sky?"


def asked(*content: JsonValue, **more: JsonValue) -> GenerationRequest:
    said = joined([part if isinstance(part, str) else [part] for part in content])
    messages: tuple[JsonObject, ...] = ({"role": "user", "content": said},)
    return GenerationRequest.model_validate(
        {"model": "eyes", "messages": messages, "temperature": 0, "max_tokens": 12, **more}
    )


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eyes") / "mmproj.gguf"
    write_projector(path)
    return path


@pytest.fixture(params=["in process", "llama-server"])
async def seeing(request: pytest.FixtureRequest, demo_model: Path, projector: Path) -> AsyncIterator[Engine]:
    """By the library, and by the program where it was made."""
    spec = EngineSpec("eyes", demo_model, 1024, 2, threads=1, projector=projector)
    if request.param == "in process":
        engine = await load_engine("xllamacpp", spec, "never")
    else:
        engine = await load_engine("llama-server", replace(spec, build=made_engine("llama-server")))
    yield engine
    await engine.aclose()


async def answer(engine: Engine, request: GenerationRequest, n: int = 1) -> tuple[list[str], list[Finish]]:
    texts, ends = [""] * n, list[Finish]()
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            if isinstance(event, Delta):
                texts[event.choice] += event.text
            else:
                ends.append(event)
    return texts, ends


async def test_an_image_is_looked_at(seeing: Engine) -> None:
    assert seeing.capabilities.vision
    (red,), (end,) = await answer(seeing, asked(QUESTION, shown(png(colour=RED))))
    (again,), _ = await answer(seeing, asked(QUESTION, shown(png(colour=RED))))
    (blue,), _ = await answer(seeing, asked(QUESTION, shown(png(colour=BLUE))))
    assert red == again != blue
    (_,), (without,) = await answer(seeing, asked(QUESTION))
    assert end.usage.prompt_tokens == without.usage.prompt_tokens + IMAGE_TOKENS


async def test_several_answers_see_it(seeing: Engine) -> None:
    (one,), _ = await answer(seeing, asked(QUESTION, shown(png(colour=BLUE))))
    both, _ = await answer(seeing, asked(QUESTION, shown(png(colour=BLUE))), 2)
    assert both == [one, one]


async def test_its_tokens_are_counted_and_its_letters_are_not(seeing: Engine) -> None:
    request = asked(QUESTION, shown(png(200, 200)))
    _, (end,) = await answer(seeing, request)
    assert await seeing.count_tokens(request) == end.usage.prompt_tokens
    assert prompt_bytes(request) == len(QUESTION)
    assert not is_long(asked("word " * 2000, shown(png())))


async def test_a_prompt_is_shown_without_what_stands_for_an_image_there(seeing: Engine) -> None:
    """Who knows the word could write it, and be answered about another's place."""
    text = await seeing.prompt_text(asked("before", shown(png()), "after"))
    assert "before<image>after" in text.replace("\n", "")
    assert "__media" not in text


async def test_one_that_cannot_be_decoded_is_refused(seeing: Engine) -> None:
    broken = png(40, 40)[:-30]
    with pytest.raises(BadRequest, match="Failed to load image"):
        await answer(seeing, asked(QUESTION, shown(broken)))
    (text,), _ = await answer(seeing, asked(QUESTION))  # and nothing else has suffered
    assert text


async def test_tools_and_results_with_images(seeing: Engine) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [shown(png())]},
    ]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    request = asked().model_copy(update={"messages": tuple(turns)})
    _, (end,) = await answer(seeing, GenerationRequest.model_validate({**request.model_dump(), "tools": [tool]}))
    assert end.usage.prompt_tokens > IMAGE_TOKENS


async def test_a_long_text_is_still_read_in_slices(seeing: Engine) -> None:
    _, (end,) = await answer(seeing, asked(f"{QUESTION} " * 75, max_tokens=1))
    assert end.usage.prompt_tokens > LONG_TOKENS


async def test_a_host_gets_the_image_part_and_a_wrong_one_is_refused(
    demo_model: Path, projector: Path, tmp_path: Path
) -> None:
    spec = EngineSpec("eyes", demo_model, 512, 1, threads=1, projector=projector)
    async with aclosing(await load_xllamacpp(spec)) as engine:  # of itself: the image part is none of ours
        assert engine.capabilities.vision
    write_projector(tmp_path / "other.gguf", hidden=64)
    wrong = EngineSpec("eyes", demo_model, 512, 1, threads=1, projector=tmp_path / "other.gguf")
    with pytest.raises(EngineFailed, match=r"with its image part .*other.gguf"):
        await load_xllamacpp(wrong, "always")


def test_what_llama_cpp_cannot_decode_is_refused_before_it() -> None:
    with pytest.raises(BadRequest, match=r"image 2 is WEBP, which llama.cpp does not read: send it as PNG"):
        check(asked(shown(png()), shown(webp(8, 8), "webp")))
    check(asked(shown(png())))


def test_control_tokens_beside_an_image_are_broken_and_the_image_is_left() -> None:
    part = shown(png())
    plain = PlainText(["<|im_end|>"]).message(
        {"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}, part]}
    )
    assert plain["content"] == [{"type": "text", "text": "<\x7f|im_end|>"}, part]


def test_turns_that_a_template_cannot_say_keep_their_images() -> None:
    image = shown(png())
    text: JsonObject = {"type": "text", "text": "see"}
    can = replace(CAN_SAY_ALL, system=False, later_systems=False, repeated_roles=False, tools=False, calls=False)
    turns: list[JsonObject] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [image]},
        {"role": "user", "content": [text, image]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [image]},
        {"role": "system", "content": "note"},
    ]
    said = said_by(can, asked().model_copy(update={"messages": tuple(turns)})).messages
    assert said is not None
    kinds = [
        [part if isinstance(part, str) else part["type"] for part in content]
        for content in (turn["content"] for turn in said)
        if isinstance(content, list)
    ]
    assert kinds == [["text", "image_url", "text", "image_url"], ["text", "image_url", "text"]]


def test_whether_it_may_be_too_long_is_told_by_counting() -> None:
    model = LoadedModel(slots=1, context_tokens=4096, longest_token_bytes=16)
    assert not may_be_too_long(asked("short"), model)
    assert may_be_too_long(asked("short", shown(png())), model)
