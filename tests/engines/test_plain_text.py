"""Control tokens that clients spell are text to the model, and the answer says them as the client wrote them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.plain_text import DELETE, PlainText, Restored
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.generation import Delta, Finish, GenerationRequest, ToolCallDelta, Usage
from swarm.registry.gguf_header import control_texts
from tests.doubles.tiny_models import write_pieces_vocabulary, write_vocabulary

CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
MANY = (*(f"<|reserved_special_token_{n}|>" for n in range(250)), "<|eot_id|>", "<s>", "</s>", "[INST]", "[/INST]")
DEEPSEEK = ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜tool▁calls▁begin｜>")
OVERLAPPING = ("<|a|>", "|>b", "<|a", "aa", "aaa", "..")
REPEATING = ("<|<|z", "<|b", "|<|<")
VOCABULARIES = [CHATML, MANY, DEEPSEEK, OVERLAPPING, ("..", "!?"), REPEATING]
FINISH = Finish(0, "stop", Usage())


def spelt(text: str, controls: tuple[str, ...]) -> list[str]:
    return [control for control in controls if control in text]


def restored(plain: PlainText, *pieces: str) -> str:
    reader = Restored(plain)
    events = [shown for piece in pieces for shown in reader.read(Delta(0, piece))] + reader.read(FINISH)
    return "".join(event.text for event in events if isinstance(event, Delta))


def a_text(source: random.Random, controls: tuple[str, ...]) -> str:
    pieces = [*controls, "a", "<", "|", ">", " ", "b.", "é", "end"]
    texts = [source.choice(pieces) for _ in range(source.randint(0, 6))]
    return "".join(text[source.randint(0, len(text)) :] if source.random() < 0.3 else text for text in texts)


@pytest.mark.parametrize("controls", VOCABULARIES)
def test_no_text_spells_a_control_token_and_every_text_comes_back(controls: tuple[str, ...]) -> None:
    plain, source = PlainText(controls), random.Random(7)
    for _ in range(3000):
        text = a_text(source, controls)
        broken = plain.text(text)
        assert not spelt(broken, controls), text
        assert broken.replace(DELETE, "") == text
        cut = sorted(source.randint(0, len(broken)) for _ in range(3))
        pieces = [broken[i:j] for i, j in zip([0, *cut], [*cut, len(broken)], strict=True)]
        assert restored(plain, *pieces) == text


@pytest.mark.parametrize("controls", [CHATML, MANY, DEEPSEEK, REPEATING])
def test_two_texts_side_by_side_spell_none_either(controls: tuple[str, ...]) -> None:
    plain = PlainText(controls)
    for control in controls:
        for at in range(1, len(control)):
            assert not spelt(plain.text("x" + control[:at]) + plain.text(control[at:] + "x"), controls), (control, at)


def test_what_spells_none_stays_as_it_is() -> None:
    plain = PlainText(MANY)
    for text in ("", "<", "a < b", "<|", "x<y>", "[IN]", "<think>", '{"a": 1}', DELETE, f"a{DELETE}b"):
        assert plain.text(text).replace(DELETE, "") == text.replace(DELETE, "")
        if not text.endswith("<|"):
            assert plain.text(text) == text
    assert PlainText().text("<|im_end|>") == "<|im_end|>"


def test_a_joiner_that_the_model_wrote_for_itself_stays() -> None:
    plain = PlainText(CHATML)
    for text in (
        f"a{DELETE}b",
        DELETE,
        f"{DELETE}x",
        f"<{DELETE}x",
        f"{DELETE}{DELETE}",
        f"<{DELETE}{DELETE}|",
    ):
        assert restored(plain, text) == text
        assert restored(plain, *text) == text


def test_an_answer_that_is_cut_after_a_joiner_ends_before_it() -> None:
    assert restored(PlainText(CHATML), "a<", DELETE) == "a<"


def test_thoughts_and_calls_come_back_too() -> None:
    plain = PlainText(CHATML)
    reader = Restored(plain)
    name = plain.text("<|im_end|>")
    shown = [
        *reader.read(Delta(0, reasoning="<")),
        *reader.read(Delta(0, reasoning=f"{DELETE}")),
        *reader.read(Delta(0, tool_calls=(ToolCallDelta(0, "c", name, '{"a": "<'),))),
        *reader.read(Delta(0, reasoning="|im_end|>")),
        *reader.read(Delta(0, tool_calls=(ToolCallDelta(0, None, None, f'{DELETE}|im_end|>"}}'),))),
        *reader.read(FINISH),
    ]
    deltas = [event for event in shown if isinstance(event, Delta)]
    assert "".join(delta.reasoning for delta in deltas) == "<|im_end|>"
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert calls[0].name == "<|im_end|>"
    assert "".join(call.arguments for call in calls) == '{"a": "<|im_end|>"}'
    assert shown[-1] == FINISH


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": "<|im_end|>"}', '{"a": "\\u003c|im_end|>"}', '{"<|im_end|>": 1}',
        '{"a": ["x", {"b": "<|im\\u005fend|>"}]}',
        '{"a": "<\\u007cim_end|>"}',
    ],
)  # fmt: skip
def test_arguments_stay_json_and_spell_none_however_they_are_escaped(arguments: str) -> None:
    broken = PlainText(CHATML).json_text(arguments)
    assert not spelt(json.dumps(json.loads(broken), ensure_ascii=False), CHATML)
    assert json.loads(broken.replace(DELETE, "")) == json.loads(arguments)


def test_arguments_that_are_an_object_already_are_taken_too() -> None:
    """As templates take them, and as the recipe of the embedded models asks."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "<|im_end|>"}}}
    plain = PlainText(CHATML).message({"role": "assistant", "content": "", "tool_calls": [call]})
    assert plain["tool_calls"][0]["function"]["arguments"] == {"a": f"<{DELETE}|im_end|>"}


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": "x\\n\\u003e"}', "no json \\", "{", '  {"b":2}'])
def test_json_that_spells_none_keeps_its_form(text: str) -> None:
    assert PlainText(CHATML).json_text(text) == text


@pytest.mark.parametrize("text", ["no json <|im_end|>", "[" * 100_000 + "<|im_end|>", '{"a": "<|im_end|>'])
def test_what_is_no_json_is_broken_like_any_text(text: str) -> None:
    assert not spelt(PlainText(CHATML).json_text(text), CHATML)


def test_every_place_of_a_conversation_is_looked_at() -> None:
    end = "<|im_end|>"
    call = {"id": end, "type": "function", "function": {"name": end, "arguments": f'{{"{end}": "{end}"}}'}}
    schema = {
        "type": "object",
        "description": end,
        "properties": {end: {"enum": [end], "title": end}},
        "required": [end],
    }
    body = {
        "messages": [
            {"role": "system", "content": end, "name": end},
            {"role": "assistant", "content": end, "reasoning_content": end, "tool_calls": [call]},
            {"role": "tool", "content": '{"a": "\\u003c|im_end|>"}', "tool_call_id": end},
            {"role": "tool", "content": end, "tool_call_id": end},
        ],
        "tools": [{"type": "function", "function": {"name": end, "description": end, "parameters": schema}}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        "stop": [end],
        "model": end,
    }
    plain = PlainText(CHATML).body(body)
    assert plain["stop"] == [end], "compared with what the model writes, not shown to it"
    looked = {name: plain[name] for name in ("messages", "tools", "response_format")}
    assert not spelt(json.dumps(looked).replace("\\\\u003c", "<"), CHATML)
    assert "prompt" in PlainText(CHATML).body({"prompt": end})
    assert PlainText(CHATML).body({"prompt": end})["prompt"] == end


def test_a_megabyte_costs_little_whatever_it_is() -> None:
    """Not a measurement: what looked at the text once for each of 7,000 tokens would take minutes here."""
    plain = PlainText([f"<unused{n}>" for n in range(7000)])
    began = time.process_time()
    for text in ("<" * 2**20, "<unused" * 2**17, "words " * 2**17):
        assert plain.text(text).replace(DELETE, "") == text
    assert time.process_time() - began < 5


# With llama.cpp's own tokenizer


@pytest.fixture(params=["the embedded model", "no types", "texts of other models", "normal types", "pieces"])
async def engine(request: pytest.FixtureRequest, demo_model: Path, tmp_path: Path) -> AsyncIterator[LlamaServerEngine]:
    """The embedded model, and its weights under vocabularies that name their control tokens in other ways."""
    made = tmp_path / "made.gguf"
    match request.param:
        case "the embedded model":
            made = demo_model
        case "no types":
            write_vocabulary(made, types=None)
        case "texts of other models":
            write_vocabulary(
                made, renamed={300: "[INST]", 301: "</s>", 302: "<｜end▁of▁sentence｜>"}, controls=(300, 301, 302)
            )
        case "pieces":
            write_pieces_vocabulary(made)
        case _:
            write_vocabulary(made, types=1, renamed={300: "<|eot_id|>", 301: "<fim_prefix>"})
    loaded = await load_xllamacpp(EngineSpec("demo", made, 512, 2, threads=1), "always")
    yield loaded
    await loaded.aclose()


async def test_the_models_own_tokenizer_finds_none_of_its_control_tokens(engine: LlamaServerEngine) -> None:
    """Every token whose text `parse_special` alone makes one is known, and broken."""
    assert engine.spec.path is not None
    controls = control_texts(engine.spec.path)
    assert controls
    plain = engine.http.plain
    for text in sorted(controls):
        special = (await engine.tokenize(text, add_special=False, parse_special=True)).ids
        as_text = (await engine.tokenize(text, add_special=False, parse_special=False)).ids
        broken = (await engine.tokenize(plain.text(text), add_special=False, parse_special=True)).ids
        assert broken == (await engine.tokenize(plain.text(text), add_special=False, parse_special=False)).ids
        assert special == as_text or len(special) < len(broken)


async def test_no_other_token_is_special(engine: LlamaServerEngine) -> None:
    """What tokenizes otherwise with `parse_special` than without is in the list, for the whole vocabulary."""
    assert engine.spec.path is not None
    controls = control_texts(engine.spec.path)
    for start in range(0, 2048, 64):
        texts = [await engine.detokenize([number]) for number in range(start, start + 64)]
        text = "\n".join(text for text in texts if text not in controls and "\ufffd" not in text)
        special = await engine.tokenize(text, add_special=False, parse_special=True)
        assert special == await engine.tokenize(text, add_special=False, parse_special=False), text


async def test_a_conversation_has_the_control_tokens_of_its_template_only(engine: LlamaServerEngine) -> None:
    ends = sorted(control_texts(engine.spec.path or Path()))
    counts: list[int] = []
    for said in ("".join(ends), "words"):
        messages = [
            {"role": "user", "content": said},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "x"},
        ]
        prompt = await engine.prompt_text(GenerationRequest.model_validate({"model": "demo", "messages": messages}))
        with_specials = await engine.tokenize(prompt, add_special=False, parse_special=True)
        ids = {(await engine.tokenize(end, add_special=False, parse_special=True)).ids for end in ends}
        counts.append(sum((token,) in ids for token in with_specials.ids))
    assert counts[0] == counts[1]


async def test_a_prompt_of_a_completion_keeps_its_control_tokens(engine: LlamaServerEngine) -> None:
    counts: list[int] = []
    for prompt in ("a<|im_end|>b", f"a<{DELETE}|im_end|>b"):
        asked = GenerationRequest(model="demo", prompt=prompt, max_tokens=1)
        async with aclosing(engine.candidates(asked, 1)) as events:
            counts += [event.usage.prompt_tokens async for event in events if isinstance(event, Finish)]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("name", ["<|im_end|>", "x<|im_start|>", "|im_end|>", "<|im_"])
async def test_a_call_that_must_be_made_has_the_name_that_the_client_knows(demo_model: Path, name: str) -> None:
    """Wherever it is cut."""
    tool = {"type": "function", "function": {"name": name, "parameters": {"properties": {"a": {"const": name}}}}}
    asked = {
        "model": "demo",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [tool],
        "tool_choice": "required",
    }
    loaded = await load_xllamacpp(EngineSpec("demo", demo_model, 512, 2, threads=1), "always")
    try:
        for limit in (*range(1, 30), 60):
            request = GenerationRequest.model_validate({**asked, "max_tokens": limit, "temperature": 0})
            async with aclosing(loaded.candidates(request, 1)) as events:
                calls = [call async for event in events if isinstance(event, Delta) for call in event.tool_calls]
            assert all(call.name in (name, None) for call in calls)
            assert DELETE not in "".join(call.arguments for call in calls)
        assert calls
    finally:
        await loaded.aclose()
