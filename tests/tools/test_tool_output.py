"""What tools say: bounded, clean, and what was cut is told. And what models are told of tools: few tokens."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest
from swarm.tools.bounded_output import OutputEnds, cut_in_the_middle
from swarm.tools.definitions import DEFINITIONS, check_arguments
from swarm.tools.plan import TOOL_NAMES
from swarm.tools.tool import MAX_OUTPUT_CHARS
from swarm.tools.web_fetch import WEBFETCH

ALL_TOOLS = [{**DEFINITIONS, WEBFETCH.name: WEBFETCH}[name] for name in TOOL_NAMES]


def fed(data: bytes, size: int = 1000) -> tuple[str, bool]:
    ends = OutputEnds()
    for at in range(0, len(data), size):
        ends.feed(data[at : at + size])
    return ends.text()


@settings(deadline=None)
@given(data=st.binary(max_size=4000), size=st.integers(1, 700))
def test_however_it_comes_in_pieces_the_text_is_the_same(data: bytes, size: int) -> None:
    assert fed(data, size) == fed(data, 4000)


@pytest.mark.parametrize("count", [3000, 3001, 16_384, 32_768, 32_769, 49_153, 65_536, 1_000_000])
@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀"])
def test_both_ends_are_kept_and_what_was_cut_is_counted(letter: str, count: int) -> None:
    text, truncated = fed(("<" + letter * (count - 2) + ">").encode(), 8191)
    assert truncated == (count > MAX_OUTPUT_CHARS)
    assert text.startswith("<" + letter)
    assert text.endswith(letter + ">")
    if truncated:
        head, note, tail = text.split("\n")
        assert (len(head), len(tail)) == (1500, 1500)
        told = int(note.split()[1])
        assert told == count - 3000


def test_memory_does_not_grow_with_what_is_said() -> None:
    ends = OutputEnds()
    piece = b"x" * 65_536
    tracemalloc.start()
    for _ in range(2000):  # 125 MiB
        ends.feed(piece)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000
    assert f"{2000 * 65_536 - 3000} characters cut" in ends.text()[0]


@settings(deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_nothing_acts_on_a_terminal(data: bytes) -> None:
    text, _ = fed(b"\x1b[31m\x1b]0;t\x07\xe2\x80\xae" + data)
    assert not any(ord(char) < 32 and char not in "\n\t" for char in text)
    assert not set(text) & set("\x7f\x9b\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069")


def test_a_text_of_just_the_size_stays() -> None:
    assert cut_in_the_middle("x" * 3000) == ("x" * 3000, False)
    assert cut_in_the_middle("a" * 1500 + "b" + "c" * 1500) == (
        "a" * 1500 + "\n[… 1 characters cut …]\n" + "c" * 1500,
        True,
    )


async def test_all_tools_together_are_told_in_less_than_a_thousand_tokens(demo_model: Path) -> None:
    """By the template and the tokenizer of the model that is part of this product."""
    hello = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    engine = await load_xllamacpp(EngineSpec("demo", demo_model, 4096, 1, threads=1), "never")
    try:
        without = await engine.count_tokens(GenerationRequest.model_validate(hello))
        tools = [tool.openai() for tool in ALL_TOOLS]
        told = await engine.count_tokens(GenerationRequest.model_validate(hello | {"tools": tools}))
    finally:
        await engine.aclose()
    assert 300 < told - without < 1000


@pytest.mark.parametrize("tool", ALL_TOOLS, ids=lambda tool: tool.name)
def test_a_schema_is_closed_and_says_what_it_needs(tool: Any) -> None:
    from jsonschema import Draft202012Validator

    schema = tool.parameters
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
    with pytest.raises(BadRequest) as caught:
        check_arguments(tool, {})
    assert caught.value.param == f"arguments.{schema['required'][0]}"
