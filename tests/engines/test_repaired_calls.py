"""Calls that are not quite JSON: those of public reports, whole and in pieces, and whatever else comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.engines.assembly import AnswerBuilder
from swarm.engines.upstream.repaired_calls import (
    MAX_CHARS,
    NAMESPACES,
    REPAIRS,
    RepairedCall,
    put_right,
    repaired_candidate,
    tool_meant,
    with_repaired_calls,
)
from swarm.generation import (
    REMARK,
    Candidate,
    Delta,
    EventStream,
    Finish,
    FinishReason,
    FunctionSpec,
    GenerationRequest,
    JsonObject,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)
from tests.engines.broken_calls import REPORTS, TOOLS, WHOLE, BrokenCall

REQUEST: Final = GenerationRequest(model="big", messages=({"role": "user", "content": "go"},), tools=TOOLS)
LEAST_FIXED: Final = 0.9  # of the reports whose meaning is plain


def whole(*calls: tuple[str, str], reason: FinishReason = "tool_calls") -> Candidate:
    made = tuple(ToolCall(id=f"c{index}", name=name, arguments=text) for index, (name, text) in enumerate(calls))
    return repaired_candidate(Candidate(voter="v", tool_calls=made, finish_reason=reason), REQUEST)


async def streamed(*calls: tuple[str, Sequence[str]], reason: FinishReason = "tool_calls") -> tuple[Candidate, str]:
    """The answer whose calls come in these pieces, and what of the arguments was given before the end was known."""
    builder, early = AnswerBuilder(), ""

    async def coming() -> EventStream:
        for index, (name, pieces) in enumerate(calls):
            for place, piece in enumerate(pieces or [""]):
                first = place == 0
                if place % 1000 == 999:
                    await asyncio.sleep(0)  # as a socket would
                yield Delta(
                    0,
                    tool_calls=(ToolCallDelta(index, f"c{index}" if first else None, name if first else None, piece),),
                )
        nonlocal early
        early = given_so_far()
        yield Finish(0, reason, Usage())

    def given_so_far() -> str:
        return "".join(call.arguments for call in builder.candidate("v", "", "", 0).tool_calls)

    async for event in with_repaired_calls(coming(), REQUEST):
        builder.add(event)
    return builder.candidate("v", "", "", 0), early


def told(candidate: Candidate) -> tuple[str, JsonObject]:
    (call,) = candidate.tool_calls
    return call.name, json.loads(call.arguments)


IDS = [f"{number}-{report.source}" for number, report in enumerate(REPORTS)]


@pytest.mark.parametrize("report", REPORTS, ids=IDS)
async def test_a_reported_call_means_what_it_says_or_stays_as_it_came(report: BrokenCall) -> None:
    at_once = whole((report.name, report.arguments), reason=report.reason)
    in_pieces, _ = await streamed((report.name, list(report.arguments)), reason=report.reason)
    for answer in (at_once, in_pieces):
        assert answer.tool_calls[0].id == "c0"
        if report.meant is None or report.left:
            assert (answer.tool_calls[0].name, answer.tool_calls[0].arguments) == (report.name, report.arguments)
            assert answer.repaired == ()
        else:
            assert told(answer) == report.meant
            assert answer.repaired
            assert set(answer.repaired) <= set(REPAIRS)
    assert at_once == in_pieces.model_copy(update={"finish_reason": report.reason, "usage": at_once.usage})


def test_of_what_can_be_known_nearly_all_is_put_right_and_nothing_wrongly() -> None:
    plain = [report for report in REPORTS if report.meant is not None]
    fixed = [report for report in plain if whole((report.name, report.arguments), reason=report.reason).repaired]
    assert len(REPORTS) >= 60
    assert len(fixed) >= LEAST_FIXED * len(plain)
    assert all(told(whole((report.name, report.arguments))) == report.meant for report in fixed)


def test_every_rule_is_of_some_report() -> None:
    used = {
        word for report in REPORTS for word in whole((report.name, report.arguments), reason=report.reason).repaired
    }
    assert used == set(REPAIRS)


@pytest.mark.parametrize("call", WHOLE, ids=[call.source for call in WHOLE])
async def test_a_call_that_is_whole_is_not_touched_and_goes_on_as_it_comes(call: BrokenCall) -> None:
    assert put_right(call.name, call.arguments, TOOLS) is None
    answer, early = await streamed((call.name, list(call.arguments)))
    assert told(answer) == call.meant
    assert answer.repaired == ()
    held_at = min((at for at in (call.arguments.find(': "['), call.arguments.find(': "{')) if at >= 0), default=None)
    assert early == (call.arguments[:-1] if held_at is None else call.arguments[: held_at + 2]), (
        "all but the last brace"
    )


# What must never be


STRINGS = st.text(st.characters(codec="utf-8"), max_size=20)
COMMANDS = st.fixed_dictionaries({"command": STRINGS, "description": STRINGS}, optional={"timeout": st.integers(0, 99)})


@settings(deadline=None, max_examples=300)
@given(COMMANDS, st.data())
def test_a_call_that_is_cut_off_anywhere_is_left_as_it_is(arguments: dict[str, Any], data: st.DataObject) -> None:
    written = data.draw(
        st.sampled_from([json.dumps(arguments), json.dumps(arguments, ensure_ascii=False), repr(arguments)])
    )
    cut = data.draw(st.integers(0, len(written) - 1))
    assert put_right("bash", written[:cut], TOOLS) is None
    assert put_right("bash", f"```json\n{written[:cut]}\n```", TOOLS) is None


@settings(deadline=None, max_examples=300)
@given(COMMANDS)
def test_python_is_read_as_python_or_not_at_all(arguments: dict[str, Any]) -> None:
    right = put_right("bash", repr(arguments), TOOLS)
    if right is not None:
        assert json.loads(right.arguments) == arguments


@settings(deadline=None, max_examples=500)
@given(st.text(st.sampled_from(list("{}[]:,'\"\\ \n`ntjsonTrueFalseNone0-1.5edscripmad")), max_size=60))
def test_whatever_is_made_of_a_text_is_strict_json_that_keeps_the_schema(text: str) -> None:
    for tool in TOOLS:
        right = put_right(tool.function.name, text, TOOLS)
        if right is not None:
            value = json.loads(right.arguments)
            assert set(value) <= set(tool.function.parameters.get("properties", {}))  # type: ignore[arg-type]
            assert right.repairs


PIECES = st.lists(st.integers(1, 9), min_size=1, max_size=40)
SHAPES = [report.arguments for report in (*REPORTS, *WHOLE)]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from((*REPORTS, *WHOLE)), PIECES, st.sampled_from(["tool_calls", "stop", "length"]))
async def test_pieces_of_any_size_come_to_what_the_whole_does(
    report: BrokenCall, sizes: list[int], reason: FinishReason
) -> None:
    pieces, rest = list[str](), report.arguments
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    answer, _ = await streamed((report.name, [*pieces, rest]), reason=reason)
    expected = whole((report.name, report.arguments), reason=reason)
    assert (answer.tool_calls, answer.repaired) == (expected.tool_calls, expected.repaired)


# Names


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_namespace_is_no_part_of_a_name(namespace: str) -> None:
    tool = tool_meant(f"{namespace}read", TOOLS)
    assert tool is not None
    assert tool.function.name == "read"


@pytest.mark.parametrize(
    "name", ["", "reed", "read file", "mcp.read", "functions.functions.read", "functions.", "glob2", "r" * 600]
)
def test_a_name_that_can_be_none_of_the_tools_stays(name: str) -> None:
    assert put_right(name, '{"filePath": "a"}', TOOLS) is None


def named(*names: str) -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(function=FunctionSpec(name=name)) for name in names)


def test_a_name_that_can_be_two_tools_is_neither() -> None:
    assert tool_meant("READ", named("read", "Read")) is None
    assert tool_meant("Read", named("read", "Read")) == named("Read")[0]
    assert tool_meant("functions.read", named("functions.read", "read")) == named("functions.read")[0]


# Remarks


def test_only_what_comments_is_filled_in() -> None:
    text: JsonObject = {"type": "string"}
    properties: JsonObject = {"to": text, "why": {**text, REMARK: True}, "description": text}
    schema: JsonObject = {"type": "object", "properties": properties, "required": ["to", "why"]}
    tools = (ToolSpec(function=FunctionSpec(name="send", parameters=schema)),)
    right = put_right("send", '{"to": "x"}', tools)
    assert right is not None
    assert json.loads(right.arguments) == {"to": "x", "why": ""}
    assert put_right("send", "{}", tools) is None, "what matters is missing, too"
    strict: JsonObject = {**schema, "required": ["to", "description"]}
    assert put_right("send", '{"to": "x"}', (ToolSpec(function=FunctionSpec(name="send", parameters=strict)),)) is None
    lengthy: JsonObject = {**properties, "why": {**text, REMARK: True, "minLength": 1}}
    tools = (ToolSpec(function=FunctionSpec(name="send", parameters={**schema, "properties": lengthy})),)
    assert put_right("send", '{"to": "x"}', tools) is None, "an empty one would break the schema"


# Bounds, and several calls


def test_a_huge_or_deep_call_is_left_alone() -> None:
    assert put_right("search", "{'query': '" + "x" * MAX_CHARS + "'}", TOOLS) is None
    assert put_right("read_many", '{"paths": ' + "[" * 5000 + "]" * 5000 + ",}", TOOLS) is None
    assert put_right("search", '{"query": "x", "query": "y",}', TOOLS) is None
    assert put_right("search", '{"query": NaN,}', TOOLS) is None
    assert put_right("search", "```" + " " * 200_000, TOOLS) is None


@pytest.mark.parametrize(
    ("name", "begin"),
    [("search", '{"query": "x",'), ("search", ""), ("functions.search", '{"query": "x"'), ("search", '{"query": "')],
)
async def test_pieces_without_end_cost_no_more_each(name: str, begin: str) -> None:
    """A hundred thousand pieces, of which a second look at all that came before would take minutes."""
    answer, _ = await streamed((name, [begin, *[" "] * 100_000]), reason="length")
    assert answer.tool_calls[0].arguments == begin + " " * 100_000


async def test_of_an_answer_that_was_cut_off_only_the_last_call_may_be_half() -> None:
    broken = ("search", "{'query': 'x'}")
    right = RepairedCall("search", '{"query": "x"}', frozenset({"python"}))
    expected = [right.arguments, broken[1]]
    at_once = whole(broken, broken, reason="length")
    in_pieces, _ = await streamed((broken[0], [broken[1]]), (broken[0], [broken[1]]), reason="length")
    for answer in (at_once, in_pieces):
        assert [call.arguments for call in answer.tool_calls] == expected
        assert answer.repaired == ("python",)


async def test_a_call_is_given_whole_before_the_next_one_begins() -> None:
    """Anthropic's streams close a block before they open another."""
    seen: list[int] = []

    async def coming() -> EventStream:
        yield Delta(0, "Let me see.")
        yield Delta(0, tool_calls=(ToolCallDelta(0, "a", "functions.read", '{"filePath"'),))
        yield Delta(0, tool_calls=(ToolCallDelta(0, None, None, ': "a.txt"}'), ToolCallDelta(1, "b", "health", "")))
        yield Delta(0, reasoning="Hm.")
        yield Finish(0, "tool_calls", Usage())

    builder, texts = AnswerBuilder(), ""
    async for event in with_repaired_calls(coming(), REQUEST):
        builder.add(event)
        if isinstance(event, Delta):
            seen += [call.index for call in event.tool_calls]
            texts += event.text + event.reasoning
    assert seen == sorted(seen)
    assert texts == "Let me see.Hm."
    answer = builder.candidate("v", "", "", 0)
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("a", "read", '{"filePath": "a.txt"}'), ("b", "health", "{}"),
    ]  # fmt: skip
    assert answer.repaired == ("name", "no_arguments")


def test_an_answer_that_failed_or_has_no_end_stays() -> None:
    broken = Candidate(voter="v", tool_calls=(ToolCall(id="c", name="search", arguments="{'query': 'x'}"),))
    done = broken.model_copy(update={"finish_reason": "tool_calls"})
    assert repaired_candidate(done, REQUEST).repaired == ("python",)
    failed = done.model_copy(update={"error": "broke off"})
    assert repaired_candidate(failed, REQUEST) is failed
    assert repaired_candidate(broken, REQUEST) is broken
    assert repaired_candidate(done, REQUEST.model_copy(update={"tools": ()})) is done
