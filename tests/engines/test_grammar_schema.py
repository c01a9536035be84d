"""Schemas in the words of llama.cpp's grammars, and what these words cannot say."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.engines.llama_cpp.grammar import TooLarge, definition, hoisted, whole_document
from swarm.engines.llama_cpp.schema_words import ASSERTING, pointer_steps
from tests.doubles.schemas import record

TEXT = {"type": "string"}


def written(schema: Any, strict: bool = False) -> Any:
    return whole_document(schema, strict).schema


def unkept(schema: Any) -> list[str]:
    return ["/".join((*each.path, each.keyword)) for each in whole_document(schema, strict=True).unkept]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": "array", "items": True}, {"type": "array"}),
        ({"type": "array", "items": False}, {"type": "array", "const": []}),
        (
            {"properties": {"a": False, "b": {}}},
            {"type": "object", "properties": {"b": {}}, "additionalProperties": False},
        ),
        ({"anyOf": [False, TEXT]}, TEXT),
        ({"const": {"$ref": "#", "pattern": "x"}}, {"const": {"$ref": "#", "pattern": "x"}}),
        (
            {"properties": {"pattern": TEXT}, "required": ["pattern"]},
            {"type": "object", "properties": {"pattern": TEXT}, "required": ["pattern"]},
        ),
        ({"allOf": [{"type": "integer", "minimum": 3}]}, {"type": "integer", "minimum": 3}),
        ({"allOf": [TEXT, {"minLength": 3}]}, {"type": "string", "minLength": 3}),
        ({"allOf": [{"minLength": 2}, {"minLength": 3}]}, {"type": "string", "minLength": 3}),
        ({"allOf": [{"type": ["string", "null"]}, TEXT]}, TEXT),
        (
            {"allOf": [record(a=TEXT), {"properties": {"a": {"maxLength": 3}, "b": {}}}]},
            {
                "type": "object",
                "properties": {"a": {"type": "string", "maxLength": 3}, "b": {}},
                "required": ["a"],
            },
        ),
        ({"allOf": [{"const": 1}, {"const": True}]}, None),
        ({"allOf": [{"minLength": 3}, {"maxLength": 2}], "type": "string"}, None),
        (
            {"allOf": [{"items": {"maxLength": 2}}, {"prefixItems": [TEXT]}], "type": "array"},
            {"type": "array", "prefixItems": [{"type": "string", "maxLength": 2}]},
        ),
        (
            {"properties": {"b": {}}, "required": ["a"], "patternProperties": {"^a": TEXT}},
            {"type": "object", "properties": {"b": {}, "a": TEXT}, "required": ["a"]},
        ),
        (
            {"allOf": [{"properties": {"a": TEXT}}, {"unevaluatedProperties": False}]},
            {"type": "object", "properties": {}, "additionalProperties": False, "const": {}},
        ),
        ({"type": ["integer", "number", "null"]}, {"type": ["number", "null"]}),
        ({"type": "integer", "enum": [1, "x", 2.0, 2.5]}, {"type": "integer", "enum": [1, 2.0]}),
        ({"enum": ["ab", "abc"], "maxLength": 2}, {"enum": ["ab"]}),
        ({"type": ["string", "null"], "pattern": r"^\d$"}, {"type": ["string", "null"], "pattern": "^[0-9]$"}),
        (
            {"type": "object", "required": ["a"], "additionalProperties": TEXT},
            {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": TEXT},
        ),
        ({"type": "array", "prefixItems": [TEXT], "items": False}, {"type": "array", "prefixItems": [TEXT]}),
        ({"items": [TEXT], "minItems": 2}, {"type": "array", "prefixItems": [TEXT, {}]}),
        ({"type": "integer", "minimum": 0, "maximum": 9, "multipleOf": 4}, {"enum": [0, 4, 8]}),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, {"type": "integer", "minimum": 4}),
        ({"type": "integer", "minimum": -1e308, "maximum": 1e25}, {"type": "integer"}),
        (
            {"propertyNames": {"enum": ["p"]}, "additionalProperties": TEXT},
            {"type": "object", "properties": {"p": TEXT}, "additionalProperties": False},
        ),
        ({"type": "string", "format": "made up"}, {"type": "string", "format": "made up"}),
        ({"type": "number", "minimum": 0.5, "multipleOf": 0.1}, {"type": "number", "minimum": 0.5, "multipleOf": 0.1}),
    ],
)
def test_what_llama_cpp_would_refuse_or_misread_is_said_in_its_words(schema: Any, said: Any) -> None:
    assert written(schema) == said


def test_what_stands_beside_alternatives_and_references_holds_in_each() -> None:
    schema = {**record(a=TEXT, b=TEXT), "required": [], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert [member["required"] for member in written(schema)["anyOf"]] == [["a"], ["b"]]
    beside = {**record(a={"$ref": "#/$defs/N", "maxLength": 3}), "$defs": {"N": {"type": "string", "minLength": 2}}}
    assert written(beside)["properties"]["a"] == {"type": "string", "minLength": 2, "maxLength": 3}


def test_alternatives_of_what_is_required_are_let_go_where_they_would_cost_too_much() -> None:
    names = [f"p{number}" for number in range(60)]
    schema: Any = {"properties": {name: {} for name in names}, "anyOf": [{"required": [name]} for name in names]}
    assert "anyOf" not in written(schema)
    assert unkept(schema) == ["anyOf"]


def test_a_schema_that_refers_to_itself_keeps_its_shape_for_the_reader() -> None:
    node: Any = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    moved = written(node)
    assert moved["properties"]["next"] == {"anyOf": [{"$ref": "#/$defs/root"}, {"type": "null"}]}
    assert moved["$defs"]["root"]["properties"] == moved["properties"]


@pytest.mark.parametrize(
    ("reference", "steps"),
    [
        ("#", []),
        ("#/a/b", ["a", "b"]),
        ("#/a~1b", ["a/b"]),
        ("#/c~0d", ["c~d"]),
        ("#/~01", ["~1"]),
        ("#/e%20f/%25", ["e f", "%"]),
        ("#/", [""]),
    ],
)
def test_references_are_json_pointers(reference: str, steps: list[str]) -> None:
    assert pointer_steps(reference) == steps


def test_every_definition_has_a_name_of_its_own_whatever_llama_cpp_makes_of_it() -> None:
    defs = {"N": record(x=TEXT), "N-x": {"type": "null"}, "N_x": {"type": "boolean"}, "a/b": {"const": 1}}
    schema = {
        **record(**{f"p{i}": {"$ref": f"#/$defs/{n.replace('/', '~1')}"} for i, n in enumerate(defs)}),
        "$defs": defs,
    }
    made = written(schema)
    led = [made["$defs"][each["$ref"].removeprefix("#/$defs/")] for each in made["properties"].values()]
    assert [each.get("type", "const") for each in led] == ["object", "null", "boolean", "const"]
    assert all(name.isalnum() for name in made["$defs"])


def test_parts_of_one_grammar_keep_their_definitions_apart() -> None:
    parts = {f"arguments{n}": {**record(v={"$ref": "#/$defs/V"}), "$defs": {"V": {"type": kind}}} for n, kind in
             enumerate(("string", "integer"))}  # fmt: skip
    made: Any = hoisted({name: (part, False) for name, part in parts.items()}, {"$ref": definition("arguments0")})[
        "$defs"
    ]
    for number, kind in enumerate(("string", "integer")):
        reference = made[f"arguments{number}"]["properties"]["v"]["$ref"]
        assert made[reference.removeprefix("#/$defs/")] == {"type": kind}


# Every keyword of 2020-12 by which a value can be refused, and of older drafts, where llama.cpp cannot keep it.
UNKEPT: dict[str, Any] = {
    "a/minimum": {"type": "number", "minimum": 0},
    "a/maximum": {"type": "number", "maximum": 100.5},
    "a/exclusiveMinimum": {"type": "number", "exclusiveMinimum": 0},
    "a/exclusiveMaximum": {"type": ["number", "null"], "exclusiveMaximum": 5.5},
    "a/multipleOf": {"type": "integer", "multipleOf": 5},
    "a/uniqueItems": {"type": "array", "items": TEXT, "uniqueItems": True},
    "a/contains": {"type": "array", "contains": {"const": 1}},
    "a/maxItems": {"type": "array", "items": TEXT, "maxItems": 1999},
    "a/maxLength": {"type": "string", "maxLength": 2001},
    "a/minLength": {"type": "string", "pattern": "^(ab|c)+$", "minLength": 3},
    "a/pattern": {"type": "string", "pattern": r"^(?=a)\w+$"},
    "a/format": {"type": "string", "format": "duration"},
    "a/minProperties": {"type": "object", "additionalProperties": TEXT, "minProperties": 1},
    "a/maxProperties": {"type": "object", "additionalProperties": TEXT, "maxProperties": 3},
    "a/patternProperties": {"type": "object", "patternProperties": {"^x": TEXT}},
    "a/propertyNames": {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}},
    "a/dependentRequired": {"properties": {"b": {}, "c": {}}, "dependentRequired": {"b": ["c"]}},
    "a/dependentSchemas": {"properties": {"b": {}, "c": {}}, "dependentSchemas": {"b": {"required": ["c"]}}},
    "a/dependencies": {"properties": {"b": {}, "c": {}}, "dependencies": {"b": ["c"]}},
    "a/not": {"type": "string", "not": {"const": "x"}},
    "a/if": {"type": "string", "if": {"minLength": 3}, "then": {"pattern": "x"}},
    "a/oneOf": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]},
    "a/$dynamicRef": {"$dynamicRef": "#node"},
}
KEPT: dict[str, Any] = {
    "numbers within a narrow span": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "bounds that every double keeps": {"type": "number", "minimum": -1.7976931348623157e308},
    "tenths within bounds": {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.1},
    "multiples of one": {"type": "integer", "multipleOf": 1},
    "one unique item": {"type": "array", "items": TEXT, "uniqueItems": True, "maxItems": 1},
    "as many as there are": {"properties": {"b": {}, "c": {}}, "minProperties": 2, "maxProperties": 2},
    "a format of a pattern": {"type": "string", "format": "ipv4"},
    "a date of ten characters": {"type": "string", "format": "date", "maxLength": 10},
    "a condition that says nothing": {"type": "string", "if": {"minLength": 3}},
    "constants held against the rest": {"enum": [1, 2, 3], "not": {"const": 2}, "minimum": 2},
    "alternatives of another type": {"oneOf": [TEXT, {"type": "integer"}, {"type": "null"}]},
    "alternatives told apart by a constant": {"oneOf": [record(k={"const": "a"}), record(k={"enum": ["b", "c"]})]},
    "names of properties that are there": {"properties": {"b": {}}, "propertyNames": {"pattern": "^[a-z]$"}},
    "demands on what is required anyway": {**record(b={}, c={}), "dependentRequired": {"b": ["c"]}},
    "nothing unevaluated": {"allOf": [record(b={})], "unevaluatedProperties": False},
    "notes": {"title": "t", "default": 5, "examples": [1], "deprecated": True, "$comment": "c", "x-mine": {"a": 1}},
}  # fmt: skip


@pytest.mark.parametrize("place", UNKEPT)
def test_a_keyword_that_no_grammar_says_is_told_with_its_place(place: str) -> None:
    assert unkept(record(a=UNKEPT[place])) == [f"properties/{place}"]
    assert place.rpartition("/")[2] in ASSERTING


@pytest.mark.parametrize("name", KEPT)
def test_a_keyword_that_is_kept_is_not_told(name: str) -> None:
    assert unkept(record(a=KEPT[name])) == []


def test_numbers_are_counted_out_only_where_the_bounds_must_hold() -> None:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    assert written(share) == share
    assert len(written(share, strict=True)["enum"]) == 101


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [TEXT, {"type": "integer"}]},
        {"anyOf": [False, False]},
        {"enum": ["a"], "type": "integer"},
        {"type": "array", "items": False, "minItems": 1},
        {**record(a={}), "properties": {"a": False}},
        {"const": 1, "allOf": [{"const": 2}]},
    ],
)
def test_what_nothing_keeps_is_known(schema: Any) -> None:
    assert written(schema) is None


def test_what_never_ends_is_cut() -> None:
    many = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}", "title": "x"}]} for i in
            range(40)}  # fmt: skip
    with pytest.raises(TooLarge):
        whole_document({"$ref": "#/$defs/d0", "$defs": {**many, "d40": record(a=TEXT)}})
    inside: Any = {"A": record(a={"allOf": [{"$ref": "#/$defs/A"}, {"required": ["b"]}]})}
    whole_document({"$ref": "#/$defs/A", "$defs": inside})
