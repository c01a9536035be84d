"""Tool calls: one or two of one to four offered tools, none where none is needed, and the answer after a result."""

from __future__ import annotations

import json
import random
from typing import Any

from models.recipe.abilities.arithmetic import arithmetic
from models.recipe.abilities.chat import chat
from models.recipe.abilities.facts import fact
from models.recipe.abilities.known_tools import draw_known
from models.recipe.abilities.synthetic_tools import SyntheticTool, arguments_of, draw_tool, request_for
from models.recipe.abilities.values import integer_value, string_value
from models.recipe.document import Document, Tool, assistant, assistant_calls, tool_result, user
from models.recipe.splits import Split

Call = tuple[str, dict[str, Any]]
KNOWN_SHARE = 0.2  # of training requests; held-out ones use invented tools alone
NO_TOOL_REPLY = "I have no tool for that."


def _arguments_count(source: random.Random) -> int:
    return source.choices((0, 1, 2, 3), (3, 45, 34, 18))[0]


def _with_others(source: random.Random, split: Split, tools: list[Tool], offered: int) -> tuple[Tool, ...]:
    """`tools` among others, `offered` in all, in any order and with different names."""
    offers = {tool["function"]["name"]: tool for tool in tools}
    while len(offers) < offered:
        known = split is Split.TRAIN and source.random() < KNOWN_SHARE
        other = (
            draw_known(source, split).schema if known else draw_tool(source, split, _arguments_count(source)).schema()
        )
        offers.setdefault(other["function"]["name"], other)
    order = list(offers.values())
    source.shuffle(order)
    return tuple(order)


def _call_of(source: random.Random, split: Split, arguments: int | None) -> tuple[Tool, str, Call]:
    """A tool, a request for it, and the call."""
    if split is Split.TRAIN and arguments is None and source.random() < KNOWN_SHARE:
        use = draw_known(source, split)
        return use.schema, use.request, (use.name, use.arguments)
    tool: SyntheticTool = draw_tool(source, split, _arguments_count(source) if arguments is None else arguments)
    given = arguments_of(source, tool)
    return tool.schema(), request_for(source, tool, given), (tool.name, {p.name: p.value for p in given})


def one_call(source: random.Random, split: Split, offered: int | None = None, arguments: int | None = None) -> Document:
    """A request for one of the offered tools."""
    schema, request, call = _call_of(source, split, arguments)
    tools = _with_others(source, split, [schema], offered or source.choices((1, 2, 3, 4), (52, 26, 14, 8))[0])
    messages = (user(request), assistant_calls([call]))
    return Document("one_call", messages, tools, expected=[list(call)])


def two_calls(source: random.Random, split: Split) -> Document:
    """Two requests in one message: two calls in one turn, of two tools or of the same one twice."""
    first_schema, first_request, first_call = _call_of(source, split, None)
    schemas = [first_schema]
    second_schema, second_request, second_call = _call_of(source, split, None)
    if second_call[0] != first_call[0]:
        schemas.append(second_schema)
    joint = source.choice((" Also ", " And ", " Then ", " and then ", " and also "))
    request = first_request.rstrip(".!?") + ("." if joint[1].isupper() else "") + joint
    request += second_request[0].lower() + second_request[1:] if second_request[1:2].islower() else second_request
    tools = _with_others(source, split, schemas, max(len(schemas), source.choice((1, 2, 2, 3))))
    calls = [first_call, second_call]
    messages = (user(request), assistant_calls(calls))
    return Document("two_calls", messages, tools, expected=[list(call) for call in calls])


def no_call(source: random.Random, split: Split) -> Document:
    """Tools are offered, but the question needs none of them, or one that is not there."""
    tools = _with_others(source, split, [], source.choices((1, 2, 3, 4), (55, 26, 12, 7))[0])
    offered = {tool["function"]["name"] for tool in tools}
    kind = source.random()
    if kind < 0.07 and split is Split.TRAIN:
        messages, tools = (user(_call_of(source, split, None)[1]), assistant(NO_TOOL_REPLY)), ()
    elif kind < 0.35:
        while True:
            _, request, call = _call_of(source, split, None)
            words = set(call[0].replace("_", " ").split())
            if not any(words & set(name.replace("_", " ").split()) for name in offered):
                break
        messages = (user(request), assistant(NO_TOOL_REPLY))
    else:
        make = fact if kind < 0.55 else chat if kind < 0.82 else arithmetic
        messages = make(source, split).messages
    return Document("no_call", tuple(messages), tools)


_CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear")


def _result(source: random.Random, split: Split) -> tuple[str, str]:
    """What a tool returned, and what to say of it."""
    kind = source.random()
    if kind < 0.25:
        text = string_value(source, split)
        return text, f"The result is: {text}"
    if kind < 0.4:
        number = integer_value(source, split)
        return str(number), f"The result is: {number}"
    if kind < 0.5:
        return json.dumps({"error": "not found"}), "The tool failed: not found"
    if kind < 0.6:
        return source.choice(('{"ok": true}', '{"status": "ok"}', "ok", "done", '{"success": true}')), "Done."
    fields: dict[str, Any] = {}
    for _ in range(source.randint(1, 3)):
        key = source.choice(("name", "price", "time", "city", "status", "count", "title", "date", "temperature", "id"))
        fields[key] = integer_value(source, split) if source.random() < 0.4 else string_value(source, split)
    if source.random() < 0.3:
        fields = {"temperature": source.randint(-9, 38), "condition": source.choice(_CONDITIONS)}
    return json.dumps(fields, ensure_ascii=False), "The result is: " + ", ".join(
        f"{key} {value}" for key, value in fields.items()
    )


def after_result(source: random.Random, split: Split) -> Document:
    """The turn after a tool has answered: say what came back."""
    schema, request, call = _call_of(source, split, None)
    tools = _with_others(source, split, [schema], source.choice((1, 1, 2)))
    returned, said = _result(source, split)
    messages = (user(request), assistant_calls([call]), tool_result(returned), assistant(said))
    return Document("after_result", messages, tools, expected=said)
