"""Schemas that tests throw at a node: impossible ones with the words of their refusal, and odd but possible ones."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def record(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(levels: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        schema = record(a=schema)
    return schema


def chain(links: int) -> Schema:
    """Definitions of which each needs the next twice."""
    defs: Schema = {
        f"D{i}": record(a={"$ref": f"#/$defs/D{i + 1}"}, b={"$ref": f"#/$defs/D{i + 1}"}) for i in range(links)
    }
    return {**record(a={"$ref": "#/$defs/D0"}), "$defs": {**defs, f"D{links}": {"type": "string"}}}


def with_definition(definition: Any) -> Schema:
    return {**record(a={"$ref": "#/$defs/A"}), "$defs": {"A": definition}}


SELF = {"$ref": "#/$defs/A"}

IMPOSSIBLE: dict[str, tuple[Schema, str]] = {
    "unknown type": (record(a={"type": "wat"}), "unknown type 'wat'"),
    "a number as type": (record(a={"type": 5}), "unknown type 5"),
    "no type at all": (record(a={"type": []}), "empty list"),
    "an unknown type among others": (record(a={"type": ["string", "wat"]}), "unknown type 'wat'"),
    "a reference to nothing": (record(a={"$ref": "#/$defs/B"}), "leads nowhere"),
    "a reference to another host": (record(a={"$ref": "https://example.com/a.json"}), "within the schema"),
    "a reference to a file": (record(a={"$ref": "other.json#/a"}), "within the schema"),
    "a number as reference": (record(a={"$ref": 5}), "within the schema"),
    "a reference to itself": (with_definition(SELF), "no value of finite size"),
    "references in a circle": (
        {**record(a={"$ref": "#/$defs/A"}), "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        "no value of finite size",
    ),
    "a list without an end": (with_definition(record(next=SELF)), "no value of finite size"),
    "an array that holds itself": (
        with_definition({"type": "array", "items": SELF, "minItems": 1}),
        "no value of finite",
    ),
    "a hundred thousand references deep": (chain(400), "too deep"),
    "a text that is a number": (record(a={"allOf": [{"type": "string"}, {"type": "integer"}]}), "no value of finite"),
    "a text that is a number, by reference": (
        {**record(a={"allOf": [{"$ref": "#/$defs/A"}, {"type": "integer"}]}), "$defs": {"A": {"type": "string"}}},
        "no value of finite",
    ),
    "allOf no list": (record(a={"allOf": 5}), "list of schemas"),
    "allOf empty": (record(a={"allOf": []}), "list of schemas"),
    "anyOf empty": (record(a={"anyOf": []}), "list of schemas"),
    "oneOf of words": (record(a={"oneOf": ["x"]}), r"oneOf\[0\]: a schema is an object"),
    "nothing to choose from": (record(a={"enum": []}), "enum must be a list"),
    "an enum that is no list": (record(a={"enum": "x"}), "enum must be a list"),
    "twenty thousand values": (record(a={"enum": [f"v{i}" for i in range(20_000)]}), "more than 1000"),
    "thousands of alternatives": (
        record(**{f"p{i}": {"anyOf": [{"const": j} for j in range(100)]} for i in range(20)}),
        "more than 1000",
    ),
    "a thousand optional properties": (
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}},
        "more than 256 optional",
    ),
    "ninety levels": (nested(80), "64 levels"),
    "six thousand properties": (record(**{f"p{i}": {} for i in range(6000)}), "more than 5000 parts"),
    "an endless name": (record(**{"a" * 100_000: {}}), "name is longer"),
    "an endless constant": (record(a={"const": "a" * 100_000}), "const is longer"),
    "open brackets as pattern": (record(a={"type": "string", "pattern": "^(((($"}), "no regular expression"),
    "an open class as pattern": (record(a={"type": "string", "pattern": "^[$"}), "no regular expression"),
    "nothing to repeat": (record(a={"type": "string", "pattern": "^*$"}), "no regular expression"),
    "a number as pattern": (record(a={"type": "string", "pattern": 5}), "pattern is 5"),
    "a minimum above the maximum length": (
        record(a={"type": "string", "minLength": 9, "maxLength": 3}),
        "is more than",
    ),
    "a minimum above the maximum of items": (
        record(a={"type": "array", "items": {}, "minItems": 5, "maxItems": 2}),
        "is more than",
    ),
    "a minimum above the maximum": (record(a={"type": "integer", "minimum": 10, "maximum": 5}), "is more than"),
    "a whole number of seventeen digits or more": (
        record(a={"type": "integer", "minimum": 10**16}),
        "cannot be enforced",
    ),
    "a whole number at the end of 64 bits": (record(a={"type": "integer", "minimum": 2**63 - 1}), "cannot be enforced"),
    "a whole number far below zero": (
        record(a={"type": "integer", "exclusiveMaximum": -(10**16)}),
        "cannot be enforced",
    ),
    "the lowest whole number of all": (
        record(a={"type": "integer", "minimum": -(2**63) + 1, "maximum": -(2**63) + 1}),
        "cannot be enforced",
    ),
    "a whole number between two fractions of one": (
        record(a={"type": ["null", "integer"], "minimum": 4.2, "maximum": 4.8}),
        "no integer is between",
    ),
    "a thousand million characters": (record(a={"type": "string", "minLength": 10**9}), "at most 2000"),
    "a thousand million items": (record(a={"type": "array", "items": {}, "minItems": 10**9}), "at most 2000"),
    "a negative length": (record(a={"type": "string", "maxLength": -1}), "maxLength is -1"),
    "half a character": (record(a={"type": "string", "maxLength": 2.5}), "maxLength is 2.5"),
    "a word as minimum": (record(a={"type": "integer", "minimum": "x"}), "minimum is 'x'"),
    "no integer in between": (record(a={"type": "integer", "minimum": 4.1, "maximum": 4.9}), "no integer is between"),
    "no integer strictly in between": (
        record(a={"type": ["integer", "null"], "exclusiveMinimum": 4, "exclusiveMaximum": 5}),
        "no integer is between",
    ),
    "nothing below what is least": (record(a={"type": "number", "minimum": 4, "exclusiveMaximum": 4}), "no number is"),
    "an exclusive minimum above the maximum": (
        record(a={"type": "integer", "exclusiveMinimum": 9, "maximum": 5}),
        "exclusiveMinimum 9 is more than maximum 5",
    ),
    "items that two members of an allOf contradict": (
        record(a={"allOf": [{"type": "array", "maxItems": 5}, {"type": "array", "minItems": 2000}]}),
        "minItems 2000 is more than maxItems 5",
    ),
    "bounds that two members of an allOf contradict": (
        record(a={"allOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 6}]}),
        "is more than",
    ),
    "one type twice": (record(a={"type": ["object", "object"]}), "one type twice"),
    "a reference into a constant": (
        {**record(a={"$ref": "#/const/x"}), "const": {"x": {"type": "string"}}},
        "leads into const",
    ),
    "a bad schema where none is looked for": (
        {**record(a={"$ref": "#/x/y"}), "x": {"y": {"type": "string", "minLength": 9, "maxLength": 3}}},
        "is more than",
    ),
    "a minimum beyond 64 bits": (record(a={"type": "integer", "minimum": 10**30}), "cannot be enforced"),
    "a fraction beyond 64 bits": (
        record(a={"type": "integer", "minimum": 1e30, "maximum": 1e31}),
        "cannot be enforced",
    ),
    "a remark that is neither true nor false": (
        record(a={"type": "string", "x-swarm-remark": "yes"}),
        r"(schema|parameters)\.properties\.a: x-swarm-remark is 'yes': it is true",
    ),
    "a remark of null": (record(a={"items": {"x-swarm-remark": None}}), r"\.a\.items: x-swarm-remark is None"),
    "a reference to what is no remark": (
        {**record(a={"$ref": "#/$defs/A"}), "$defs": {"A": {"type": "string", "x-swarm-remark": 1}}},
        r"A: x-swarm-remark is 1",
    ),
    "properties in a list": ({"type": "object", "properties": [1]}, "object of schemas"),
    "a property that is a number": (record(a=5), "a schema is an object, not 5"),
    "a property that must not be and is required": (record(a=False), "no value of finite size"),
    "items that must not be and are required": (
        record(a={"type": "array", "items": False, "minItems": 1}),
        "no value of finite size",
    ),
    "items that are a number": (record(a={"type": "array", "items": 5}), "a schema is an object, not 5"),
    "required as a word": ({"type": "object", "properties": {"a": {}}, "required": "a"}, "required must be a list"),
    "a required property that is not allowed": (
        {"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False},
        "required names 'b'",
    ),
}

POSSIBLE: dict[str, Schema] = {
    "empty": {},
    "only described": {"description": "anything"},
    "a tree": with_definition(record(v={"type": "integer"}, next={"anyOf": [SELF, {"type": "null"}]})),
    "a tree of the whole": record(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
    "an array of itself": with_definition({"type": "array", "items": SELF}),
    "optional": record(a={"type": ["string", "null"]}),
    "any property": record(a=True),
    "remarks, and a property of that name": record(
        a={"type": "string", "x-swarm-remark": True},
        **{"b": {"type": "string", "x-swarm-remark": False}, "x-swarm-remark": {"type": "string"}},
    ),
    "a property that must not be": {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
    "no items": record(a={"type": "array", "items": False}),
    "a pair and no more": record(a={"type": "array", "prefixItems": [{"type": "null"}], "items": False}),
    "bounds that every double keeps": record(
        a={"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1e300}
    ),
    "bounds that every integer keeps": record(a={"type": "integer", "minimum": -1e308, "maximum": 1e30}),
    "an exclusive bound of draft 4": record(a={"type": "integer", "minimum": 3, "exclusiveMinimum": True}),
    "references that need escapes": {
        **record(a={"$ref": "#/$defs/a~1b"}, b={"$ref": "#/$defs/c~0d"}, c={"$ref": "#/$defs/e%20f"}),
        "$defs": {"a/b": {"type": "null"}, "c~d": {"type": "boolean"}, "e f": {"enum": [1]}},
    },
    "a dash behind a class": record(a={"type": "string", "pattern": r"^[\w-\.]{1,3}$"}),
    "more repeats than llama.cpp has": record(a={"type": "string", "pattern": "^a{2001}$"}),
    "escapes that are none": record(a={"type": "string", "pattern": r"^\/api\/[a-z]$"}),
    "forty levels": nested(40),
    "twelve doublings": chain(12),
    "all of two objects": record(a={"allOf": [record(x={"type": "boolean"}), record(y={"type": "boolean"})]}),
    "all of one number": record(a={"allOf": [{"type": "integer", "minimum": 3}]}),
    "two hundred optional properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "null"} for i in range(200)},
    },
    "five hundred values": record(a={"enum": [f"v{i}" for i in range(500)]}),
    "values of all types": record(a={"enum": [1, None, 'a"b\\c\n€', {"x": [1]}]}),
    "a pattern with a quote": record(a={"type": "string", "pattern": '^a"b$'}),
    "a pattern of anything": record(a={"type": "string", "pattern": "^.{0,9}$"}),
    "a pattern of JavaScript": record(a={"type": "string", "pattern": r"^\p{L}+$"}),
    "a lookahead": record(a={"type": "string", "pattern": "^(?=a)b$"}),
    "an endless pattern": record(a={"type": "string", "pattern": f"^{'(' * 20_000}a{')' * 20_000}$"}),
    "repeated repeats": record(a={"type": "string", "pattern": "^((a{100}){100}){100}$"}),
    "a long maximum": record(a={"type": "string", "maxLength": 10**9}),
    "many items": record(a={"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}),
    "a pair": record(a={"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]}),
    "bounds at the ends of 64 bits": record(a={"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
    "a bound of 64 bits above": record(a={"type": "integer", "minimum": 0, "maximum": 2**63 - 1}),
    "far bounds on both sides": record(a={"type": "integer", "minimum": 10**17, "maximum": 10**18}),
    "fifteen digits": record(a={"type": "integer", "minimum": 10**15 - 1}),
    "bounds": record(a={"type": "integer", "minimum": 5, "maximum": 10}),
    "a date": record(a={"type": "string", "format": "date"}),
    "names that need escapes": record(
        **{'a"b\\c\n ::= x': {"type": "null"}, "größe €": {"type": "null"}, "": {"type": "null"}}
    ),
    "names that collide": record(**{"a b": {"type": "boolean"}, "a-b": {"type": "integer"}}),
    "data that looks like a schema": record(a={"const": {"$ref": 5, "type": "wat"}}),
}
