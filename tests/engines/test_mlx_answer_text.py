"""What an answer's text is read as, by mlx-lm's state machine and parsers: skipped where it was not made."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest

from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.engines.mlx.answer_text import UnreadableCall, called, transitions
from swarm.generation import JsonObject
from tests.doubles.made_engines import made_engine

THOUGHTS = ("<think>", "</think>")
CALL: Final = '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>'
LOOK: JsonObject = {"function": {"name": "look"}}
READ_CALL: Final = ["look", '{"at": "é"}']


def case(*tokens: str, **changed: Any) -> dict[str, Any]:
    usual = {"parser": "json_tools", "thoughts": THOUGHTS, "tools": ["look"], "state": "normal", "whole": True}
    return {**usual, "tokens": [token.encode().decode("latin-1") for token in tokens], **changed}


def letters(text: str) -> list[str]:
    return list(text)


# The texts of an answer, of its thoughts, and its calls; a string: why it cannot be read.
CASES: Final[dict[str, tuple[dict[str, Any], object]]] = {
    "plain": (case("Hello", " there"), ("Hello there", "", [])),
    "blanks stay": (case(" Hello", "\n", "\n", "there\n"), (" Hello\n\nthere\n", "", [])),
    "bytes of a character": (case(tokens=["\xc3", "\xa9!", "\xe6\x97"]), ("é!�", "", [])),
    "a call": (case(CALL), ("", "", [READ_CALL])),
    "letter by letter": (case(*letters(CALL)), ("", "", [READ_CALL])),
    "words around it": (case("I will.\n", CALL, "\n", "Done."), ("I will.\nDone.", "", [READ_CALL])),
    "two calls": (case(CALL, "\n", CALL, "\n"), ("", "", [READ_CALL, READ_CALL])),
    "a call that was cut": (case("Well", CALL[:30], whole=False), ("Well", "", [])),
    "a call without an end": (case(CALL.removesuffix("</tool_call>")), ("", "", [READ_CALL])),
    "no mark after all": (case("a <tool", "_box> b"), ("a <tool_box> b", "", [])),
    "a mark that was cut": (case("a <tool"), ("a <tool", "", [])),
    "a thought": (case("<think>\nHm.\n</think>\n\nYes."), ("Yes.", "Hm.", [])),
    "a thought that was begun": (case("Hm", ".\n", "</think>", "\n\n", "Yes.", state="reasoning"), ("Yes.", "Hm.", [])),
    "a thought, then a call": (case("<think>Hm.</think>\n", CALL), ("", "Hm.", [READ_CALL])),
    "a thought that was cut": (case("<think>Hm", whole=False), ("", "Hm", [])),
    "no tools": (case(CALL, parser=None), (CALL, "", [])),
    "several in one mark": (
        case('[TOOL_CALLS]look[ARGS]{"at": 1}look[ARGS]{"at": 2}', parser="mistral"),
        ("", "", [["look", '{"at": 1}'], ["look", '{"at": 2}']]),
    ),
    "python's form": (
        case("<|tool_call_start|>[look(at='x')]<|tool_call_end|>", parser="pythonic"),
        ("", "", [["look", '{"at": "x"}']]),
    ),
    "no json": (case("<tool_call>look at it</tool_call>"), "it does not match the expected form of a call"),
    "no object": (case("<tool_call>[]</tool_call>"), ("", "", [])),
    "another tool": (case(CALL.replace("look", "steal")), "'steal' is none of them"),
}


@pytest.fixture(scope="module")
def read() -> dict[str, Any]:
    """What came of each case: one process for all, since the library takes seconds to start."""
    lines = "".join(json.dumps(given) + "\n" for given, _ in CASES.values())
    ran = subprocess.run(
        [sys.executable, "-m", "tests.doubles.inside_mlx"],
        input=lines,
        text=True,
        capture_output=True,
        timeout=120,
        env=host_environment(made_engine("mlx").packages),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(zip(CASES, map(json.loads, ran.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_parted_into_text_thoughts_and_calls(read: dict[str, Any], name: str) -> None:
    (given, expected), told = CASES[name], read[name]
    if isinstance(expected, str):
        assert expected in told[-1]
        return
    texts = ["".join(text for text, kind, _ in told if kind == wanted) for wanted in ("answer", "thought")]
    calls = [call for _, _, calls in told for call in calls]
    assert (*texts, calls) == expected
    assert len(told) >= len(given["tokens"])  # at least one piece for each token
    assert all(not text for text, kind, _ in told if kind == "call")


def test_what_leads_where() -> None:
    assert transitions(None, None) == {"normal": []}
    assert transitions(("[C]", ""), None) == {"normal": [("[C]", "tool")], "tool": []}
    assert transitions(("<c>", "</c>"), THOUGHTS, ["<r>"]) == {
        "normal": [("<r>", "normal"), ("<think>", "reasoning"), ("<c>", "tool")],
        "reasoning": [("</think>", "normal"), ("<c>", "tool")],
        "tool": [("</c>", "normal")],
    }
    # A model's own marks may say themselves where calls begin; without tools those are text.
    own = {"normal": [("<invoke>", "tool"), ("<to>", "reasoning")], "tool": [("</invoke>", "normal")]}
    assert transitions(("<c>", "</c>"), None, (), own) == {
        "normal": [("<invoke>", "tool"), ("<to>", "reasoning")],
        "tool": [("</c>", "normal"), ("</invoke>", "normal")],
    }
    assert transitions(None, None, (), own) == {"normal": [("<to>", "reasoning")]}


@pytest.mark.parametrize(
    ("parsed", "words"),
    [
        (None, "no name with an object of arguments"),
        ({"name": "look", "arguments": [1]}, "no name with an object of arguments"),
        ({"name": "look", "arguments": "{"}, "no name with an object of arguments"),
        ({"arguments": {}}, "no name with an object of arguments"),
        ({"name": "other", "arguments": {}}, "'other' is none of them"),
        # What parsers that read Python's literals make, and what no JSON is.
        ({"name": "look", "arguments": {"at": {1, 2}}}, "expected form of a call .*set is not JSON"),
        ({"name": "look", "arguments": {"at": {(1, 2): 3}}}, "expected form of a call .*not tuple"),
        ({"name": "look", "arguments": {"at": float("nan")}}, "expected form of a call .*not JSON compliant"),
        ({"name": "look", "arguments": "[" * 100_000}, "expected form of a call"),
    ],
)
def test_what_is_no_call_of_a_tool_is_said(parsed: object, words: str) -> None:
    with pytest.raises(UnreadableCall, match=words):
        called("text", lambda text, tools: parsed, [LOOK])


def test_arguments_may_be_a_string_of_json_or_none() -> None:
    (call,) = called("", lambda text, tools: {"name": "look", "arguments": '{"a": 1}'}, [LOOK])
    assert call.arguments == '{"a": 1}'
    (call,) = called("", lambda text, tools: {"name": "look"}, [LOOK])
    assert call.arguments == "{}"


def test_half_a_surrogate_pair_in_arguments_is_written_as_an_escape() -> None:
    (call,) = called("", lambda text, tools: {"name": "look", "arguments": {"é": "\ud800"}}, [LOOK])
    assert call.arguments.encode() == b'{"\\u00e9": "\\ud800"}'
