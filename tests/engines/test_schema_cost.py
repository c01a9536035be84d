"""What schemas cost: real ones of every size are let through, what would take for ever is refused with its bound."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from swarm.engines.llama_cpp.grammar import whole_document
from swarm.engines.llama_cpp.grammar_pattern import grammar_pattern
from swarm.engines.llama_cpp.schema_cost import MAX_ALIKE, MAX_PATHS, MAX_RULES, MAX_TEXT_CHARS, schema_cost
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible_schemas
from swarm.errors import BadRequest
from tests.doubles.hostile_schemas import (
    KEPT_PATTERNS,
    LEFT_OUT_PATTERNS,
    REAL,
    REAL_TOOLS,
    hostile_schemas,
    reference,
    referring,
)
from tests.doubles.schemas import Schema, record
from tests.engines.test_schema_refusal import asking, for_answer, for_tool

TEXT: Schema = {"type": "string"}
NEXT = reference("e")


def own(schema: Schema) -> Any:
    """`schema` with no part shared, as from a parser."""
    return json.loads(json.dumps(schema))


def of_tools(schemas: list[Schema]) -> Any:
    tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": own(s)}} for i, s in enumerate(schemas)]
    return asking(tools=tools)


def choices(links: int) -> Schema:
    definitions = {f"d{i}": {"anyOf": [reference(f"d{i + 1}")] * 2} for i in range(links)}
    return referring("d0", {**definitions, f"d{links}": TEXT})


def alike(levels: int, width: int) -> Schema:
    schema = TEXT
    for _ in range(levels):
        schema = {"anyOf": [record(a=schema)] * width}
    return schema


TOO_COSTLY: dict[str, tuple[Schema, str]] = {
    "two to the fortieth paths": (choices(40), f"endless of at most {MAX_PATHS} ways to begin"),
    "two thousand alternatives at once": (
        referring(
            "d0",
            {**{f"d{i}": {"anyOf": [record(a=reference(f"d{i + 1}"))] * 3} for i in range(7)}, "d7": TEXT},
        ),
        f"2187 of at most {MAX_ALIKE} places",
    ),
    "alternatives that hold themselves": (
        referring("e", {"e": {"anyOf": [record(a=NEXT, b=TEXT), record(a=NEXT), TEXT]}}),
        f"endless of at most {MAX_ALIKE} places",
    ),
    "a choice of itself": (referring("e", {"e": {"anyOf": [NEXT, TEXT]}}), "endless"),
    "what is merged, merged twice": (
        referring(
            "d0",
            {**{f"d{i}": {"allOf": [reference(f"d{i + 1}")] * 2} for i in range(40)}, "d40": record(a=TEXT)},
        ),
        "endless, or too large",
    ),
    "a thousand long texts": (
        record(**{f"p{i}": {"type": "string", "maxLength": 2000} for i in range(1000)}),
        f"2004004 of at most {MAX_RULES} rules",
    ),
    "a thousand bounds": (
        record(**{f"p{i}": {"type": "integer", "minimum": 1, "maximum": 987654321098765} for i in range(1000)}),
        f"of at most {MAX_RULES} rules",
    ),
    "a book of constants": (
        {"enum": [f"{i}{'x' * 1000}" for i in range(200)]},
        f"of at most {MAX_TEXT_CHARS} characters of names and constants",
    ),
    "a book of patterns": (
        record(**{f"p{i}": {"type": "string", "pattern": f"^{'ab' * 100}{i}$"} for i in range(99)}),
        "more than 10000 characters of patterns",
    ),
}


@pytest.mark.parametrize("name", TOO_COSTLY)
def test_what_costs_too_much_is_refused_with_the_bound(name: str) -> None:
    schema, words = TOO_COSTLY[name]
    for request, field in (
        (for_answer(own(schema)), "response_format.json_schema.schema"),
        (for_tool(own({**record(a=schema), "$defs": schema.get("$defs", {})})), "tools[1].function.parameters"),
    ):
        with pytest.raises(BadRequest, match=re.escape(words.split(" of at most")[-1])) as caught:
            refuse_impossible_schemas(request)
        assert caught.value.param == field
        assert len(str(caught.value)) < 600
    with pytest.raises(BadRequest, match=re.escape(words)):
        refuse_impossible_schemas(for_answer(own(schema)))


@pytest.mark.parametrize("name", REAL)
def test_real_schemas_are_let_through(name: str) -> None:
    refuse_impossible_schemas(for_answer(own(REAL[name])))
    if "object" in (REAL[name].get("type"), "object"):
        refuse_impossible_schemas(for_tool(own(record(a=REAL[name]) | {"$defs": REAL[name].get("$defs", {})})))


@pytest.mark.parametrize("name", REAL_TOOLS)
def test_real_lists_of_tools_are_let_through(name: str) -> None:
    refuse_impossible_schemas(of_tools(REAL_TOOLS[name]))


def test_all_schemas_of_a_request_are_bounded_together() -> None:
    half = record(**{f"p{i}": {"type": "string", "maxLength": 2000} for i in range(16)})
    refuse_impossible_schemas(of_tools([half]))
    with pytest.raises(BadRequest, match="together: costs too much: 96204 of at most 64000 rules") as caught:
        refuse_impossible_schemas(of_tools([half] * 3))
    assert caught.value.param == "tools"


def test_alternatives_that_tell_themselves_apart_are_not_multiplied() -> None:
    apart = {"anyOf": [record(kind={"const": i}, body=alike(2, 10)) for i in range(50)]}
    same = {"anyOf": [record(kind=TEXT, body=alike(2, 10)) for _ in range(50)]}
    assert schema_cost(own(apart)).alike == 100
    assert schema_cost(own(same)).alike == 5000
    either = {"anyOf": [record(kind={"const": "a"}, b=alike(1, 9)), record(kind=TEXT), {"type": "object"}, TEXT]}
    assert schema_cost(own(either)).alike == 9 + 1 + 1


@pytest.mark.parametrize("pattern", KEPT_PATTERNS)
def test_real_patterns_are_enforced(pattern: str) -> None:
    assert grammar_pattern(pattern) is not None


@pytest.mark.parametrize("pattern", LEFT_OUT_PATTERNS)
def test_patterns_of_too_many_ways_are_left_out(pattern: str) -> None:
    assert grammar_pattern(pattern) is None


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"minimum": 4.1, "maximum": 6.9}, {"minimum": 5, "maximum": 6}),
        ({"exclusiveMinimum": 4, "exclusiveMaximum": 7}, {"minimum": 5, "maximum": 6}),
        ({"exclusiveMinimum": -4.5, "minimum": -9}, {"minimum": -4}),
        ({"minimum": -(2**63), "maximum": 2**63 - 1}, {}),
        ({"minimum": 0, "maximum": 2**53 - 1}, {"minimum": 0}),
    ],
)
def test_bounds_of_integers_are_written_as_integers(bounds: Schema, kept: Schema) -> None:
    kinds: list[Any] = ["integer", ["integer", "null"]]
    for kind in kinds:
        assert whole_document({"type": kind, **bounds}).schema == {"type": kind, **kept}
    assert whole_document({"type": "number", **bounds}).schema == {"type": "number", **bounds}


def test_an_integer_that_may_be_a_number_is_one() -> None:
    written = whole_document({"type": ["number", "integer", "null"], "minimum": 10**16}).schema
    assert written is not None
    assert written["type"] == ["number", "null"]


def test_what_llama_cpp_cannot_count_is_not_counted() -> None:
    assert whole_document({"type": "array", "maxItems": 1999}).schema == {"type": "array"}
    assert whole_document({"type": "array", "maxItems": 1998}).schema == {"type": "array", "maxItems": 1998}


@pytest.mark.parametrize("seed", range(3))
def test_looking_at_any_schema_ends(seed: int) -> None:
    """No schema may make the look itself endless: its work is bounded by its parts, which are counted."""
    for name, schema in hostile_schemas(seed, 100):
        problem: BadRequest | None = None
        try:
            refuse_impossible_schemas(for_answer(schema))
        except BadRequest as error:
            problem = error
        assert problem is None or problem.param, name
