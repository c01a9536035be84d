"""Tool calls are compared by name and by what their arguments mean to the tool's schema."""

import pytest

from swarm.consensus.answers import AbstainReason, Flaw
from swarm.consensus.json_answer import ToolCallAnswer, read_tool_calls
from swarm.generation import FunctionSpec, JsonObject, ToolCall, ToolSpec

WEATHER: JsonObject = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "default": 1},
        "share": {"type": "number"},
        "hourly": {"type": "boolean"},
        "zip": {"type": ["string", "null"]},
        "points": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["city"],
}
TOOLS = (
    ToolSpec(function=FunctionSpec(name="weather", parameters=WEATHER)),
    ToolSpec(function=FunctionSpec(name="now")),
)


def read(*calls: tuple[str, str], parallel: bool = True) -> ToolCallAnswer | Flaw:
    made = [ToolCall(id=f"call_{n}", name=name, arguments=arguments) for n, (name, arguments) in enumerate(calls)]
    return read_tool_calls(made, TOOLS, parallel)


def key(*calls: tuple[str, str], parallel: bool = True) -> object:
    answer = read(*calls, parallel=parallel)
    assert isinstance(answer, ToolCallAnswer), answer
    return answer.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"city": "Bern", "days": 5}', '{"days":5,"city":"Bern"}'),
        ('{"city": "Bern", "days": 5}', '{"city": "Bern", "days": "5"}'),
        ('{"city": "Bern", "days": 5}', '{"city": "Bern", "days": 5.0}'),
        ('{"city": "Bern", "days": 1}', '{"city": "Bern"}'),
        ('{"city": "Bern", "share": 0.5}', '{"city": "Bern", "share": "0.5"}'),
        ('{"city": "Bern", "share": 2}', '{"city": "Bern", "share": "2.0"}'),
        ('{"city": "Bern", "hourly": true}', '{"city": "Bern", "hourly": "True"}'),
        ('{"city": "Bern", "zip": "3000"}', '{"city": "Bern", "zip": 3000}'),
        ('{"city": "Bern", "points": [1, 2]}', '{"city": "Bern", "points": ["1", 2.0]}'),
        ('{"city": "Z\u00fcrich"}', '{"city": "Zu\u0308rich"}'),
    ],
)
def test_arguments_that_mean_the_same_are_the_same(one: str, other: str) -> None:
    assert key(("weather", one)) == key(("weather", other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"city": "Bern"}', '{"city": "Basel"}'),
        ('{"city": "Bern", "days": 5}', '{"city": "Bern", "days": 6}'),
        ('{"city": "Bern", "zip": null}', '{"city": "Bern", "zip": "null"}'),
        ('{"city": "Bern", "points": [1, 2]}', '{"city": "Bern", "points": [2, 1]}'),
    ],
)
def test_arguments_that_differ_are_different(one: str, other: str) -> None:
    assert key(("weather", one)) != key(("weather", other))


def test_no_arguments_are_an_empty_object() -> None:
    assert key(("now", "")) == key(("now", "{}")) == key(("now", " { } "))


def test_order_counts_only_where_calls_do_not_run_in_parallel() -> None:
    first, second = ("now", "{}"), ("weather", '{"city": "Bern"}')
    assert key(first, second) == key(second, first)
    assert key(first, second, parallel=False) != key(second, first, parallel=False)


def test_a_call_made_twice_is_not_a_call_made_once() -> None:
    assert key(("now", "{}"), ("now", "{}")) != key(("now", "{}"))


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("wether", "{}", AbstainReason.UNKNOWN_TOOL),
        ("weather", '{"city": ', AbstainReason.MALFORMED_ARGUMENTS),
        ("weather", "[]", AbstainReason.MALFORMED_ARGUMENTS),
        ("weather", "[" * 100_000, AbstainReason.MALFORMED_ARGUMENTS),
        ("weather", '{"days": 1e999999}', AbstainReason.MALFORMED_ARGUMENTS),
        ("weather", '{"days": 5}', AbstainReason.BREAKS_SCHEMA),
        ("weather", '{"city": "Bern", "days": "soon"}', AbstainReason.BREAKS_SCHEMA),
        ("weather", '{"city": "Bern", "days": "' + "9" * 5000 + '"}', AbstainReason.BREAKS_SCHEMA),
    ],
)
def test_a_call_that_the_tool_would_not_take_abstains(name: str, arguments: str, reason: AbstainReason) -> None:
    read_as = read((name, arguments))
    assert isinstance(read_as, Flaw)
    assert read_as.reason is reason


def test_a_flood_of_calls_abstains() -> None:
    read_as = read(*[("now", "{}")] * 1000)
    assert isinstance(read_as, Flaw)
    assert read_as.reason is AbstainReason.TOO_LARGE


REMARKED: JsonObject = {
    "type": "object",
    "$defs": {"Note": {"type": "string", "x-swarm-remark": True}},
    "properties": {
        "path": {"type": "string"},
        "why": {"type": "string", "x-swarm-remark": True},
        "note": {"$ref": "#/$defs/Note"},
        "beside": {"$ref": "#/$defs/Text", "x-swarm-remark": True},
        "edits": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"line": {"type": "integer"}, "reason": {"type": "string", "x-swarm-remark": True}},
                "required": ["line", "reason"],
            },
        },
        "author": {
            "anyOf": [
                {"type": "object", "properties": {"id": {"type": "integer"}, "mood": {"x-swarm-remark": True}}},
                {"type": "null"},
            ],
            "default": None,
        },
        "title": {"type": "string", "x-swarm-remark": False},
        "description": {"type": "string"},
    },
    "required": ["path", "why"],
}
SHELL: JsonObject = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "description": {"type": "string"}},
    "required": ["command", "description"],
}
REMARKING = tuple(
    ToolSpec(function=FunctionSpec(name=name, parameters=schema))
    for name, schema in (("edit", REMARKED), ("bash", SHELL), ("Bash", SHELL), ("shell", SHELL), ("issue", SHELL))
)


def remarked(name: str, arguments: str) -> object:
    answer = read_tool_calls([ToolCall(id="call_1", name=name, arguments=arguments)], REMARKING, True)
    assert isinstance(answer, ToolCallAnswer), answer
    return answer.key


@pytest.mark.parametrize(
    ("tool", "one", "other", "same"),
    [
        ("edit", '{"path": "a", "why": "for the test"}', '{"path": "a", "why": "as it was asked"}', True),
        ("edit", '{"path": "a", "why": "x"}', '{"path": "b", "why": "x"}', False),
        ("edit", '{"path": "a", "why": "x", "note": "one"}', '{"path": "a", "why": "x", "note": "two"}', True),
        ("edit", '{"path": "a", "why": "x", "note": "one"}', '{"path": "a", "why": "x"}', True),
        ("edit", '{"path": "a", "why": "x", "beside": "1"}', '{"path": "a", "why": "x", "beside": "2"}', True),
        ("edit", '{"path": "a", "why": "x", "title": "one"}', '{"path": "a", "why": "x", "title": "two"}', False),
        ("edit", '{"path":"a","why":"x","description":"1"}', '{"path":"a","why":"x","description":"2"}', False),
        (
            "edit",
            '{"path": "a", "why": "x", "author": {"id": 1, "mood": "glad"}}',
            '{"path": "a", "why": "x", "author": {"id": "1", "mood": "sad"}}',
            True,
        ),
        ("edit", '{"path": "a", "why": "x", "author": {"id": 1}}', '{"path": "a", "why": "x", "author": null}', False),
        ("edit", '{"path": "a", "why": "x", "author": null}', '{"path": "a", "why": "x"}', True),
        (
            "edit",
            '{"path": "a", "why": "x", "edits": [{"line": 1, "reason": "this"}]}',
            '{"path": "a", "why": "x", "edits": [{"line": 1, "reason": "that"}]}',
            True,
        ),
        (
            "edit",
            '{"path": "a", "why": "x", "edits": [{"line": 1, "reason": "x"}]}',
            '{"path": "a", "why": "x", "edits": [{"line": 2, "reason": "x"}]}',
            False,
        ),
        *(
            (tool, '{"command": "date", "description": "Show the date"}', '{"command":"date","description":"x"}', True)
            for tool in ("bash", "Bash", "shell")
        ),
        ("bash", '{"command": "date", "description": "x"}', '{"command": "whoami", "description": "x"}', False),
        ("issue", '{"command": "add", "description": "x"}', '{"command": "add", "description": "y"}', False),
    ],
)
def test_remarks_do_not_part_calls(tool: str, one: str, other: str, same: bool) -> None:
    assert (remarked(tool, one) == remarked(tool, other)) == same


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("edit", '{"path": "a"}'), ("edit", '{"path": "a", "why": 5.5}'), ("bash", '{"command": "date"}')],
)
def test_a_remark_keeps_its_schema_all_the_same(tool: str, arguments: str) -> None:
    """5.5 is read as the text that it should be; nothing else is made up."""
    answer = read_tool_calls([ToolCall(id="call_1", name=tool, arguments=arguments)], REMARKING, True)
    assert isinstance(answer, Flaw) == ("why" not in arguments), answer


def test_a_shell_tool_whose_only_argument_is_a_description_is_told_apart_by_it() -> None:
    alone = ToolSpec(function=FunctionSpec(name="shell", parameters={"type": "object"}))
    keys = {
        answer.key
        for text in ("one", "two")
        for answer in [
            read_tool_calls([ToolCall(id="1", name="shell", arguments=f'{{"description": "{text}"}}')], [alone], True)
        ]
        if isinstance(answer, ToolCallAnswer)
    }
    assert len(keys) == 2
