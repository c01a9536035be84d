"""The keywords of JSON Schema as this engine's modules tell them apart, and what follows for any reader. Pure.

`conjunction` makes one schema of two that must hold at once, keyword by keyword.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from urllib.parse import unquote

from pydantic import JsonValue

from swarm.generation import JsonObject

SchemaPath = tuple[str, ...]  # from a schema's root: keywords and names
NO_BOUND = 1e300  # what generators of schemas write for "any number"

DATA_KEYWORDS = frozenset({"const", "enum", "default", "example", "examples", "required"})  # values, not schemas
NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
NUMBER_KEYWORDS = frozenset({*BOUNDS, "multipleOf"})
STRING_KEYWORDS = frozenset({"minLength", "maxLength", "pattern", "format"})
ARRAY_KEYWORDS = frozenset(
    {
        "items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains",
        "maxContains", "unevaluatedItems",
    }
)  # fmt: skip
OBJECT_KEYWORDS = frozenset(
    {
        "properties", "patternProperties", "additionalProperties", "propertyNames", "required", "minProperties",
        "maxProperties", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
    }
)  # fmt: skip
UNSAYABLE = ("not", "if", "$dynamicRef", "$recursiveRef")  # whatever the type
ASSERTING = frozenset(
    {"type", "const", "enum", "allOf", "anyOf", "oneOf", "$ref", "then", "else", *UNSAYABLE}
    | NUMBER_KEYWORDS | STRING_KEYWORDS | ARRAY_KEYWORDS | OBJECT_KEYWORDS
)  # fmt: skip
LEFT_BEHIND = frozenset({"$defs", "definitions", "$schema", "$id", "$anchor"})
LARGER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"})
SMALLER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"})
ALL_OF_BOTH = frozenset({"additionalProperties", "items", "additionalItems", "propertyNames"})
# Formats that llama.cpp knows, and how many characters they have.
FORMATS = {"date": 10, "uuid": 36, **{f"uuid{version}": 36 for version in range(1, 6)}, "time": None, "date-time": None}
ALSO = "allOf"  # what a merge could not merge, one keyword each


def pointer_steps(reference: str) -> list[str]:
    """The steps of a JSON pointer in a fragment (RFC 6901): `#/a~1b/c%20d` leads to "a/b", "c d"."""
    steps = unquote(reference.removeprefix("#")).split("/")[1:]
    return [step.replace("~1", "/").replace("~0", "~") for step in steps]


def led_to(root: JsonValue, reference: str) -> JsonValue:
    """What a reference leads to, schema or not; None where it leads nowhere."""
    target = root
    for step in pointer_steps(reference):
        if isinstance(target, dict) and step in target:
            target = target[step]
        elif isinstance(target, list) and step.isdecimal() and len(step) < 6 and int(step) < len(target):
            target = target[int(step)]
        else:
            return None
    return target


def target_of(root: JsonValue, reference: str) -> JsonValue:
    """The schema that a reference leads to; `{}`, nothing in particular, where it leads to none."""
    target = led_to(root, reference)
    return target if isinstance(target, dict | bool) else {}


def is_integer(schema: JsonObject) -> bool:
    """Whether a number that keeps `schema` must be an integer, whatever else it may be."""
    given = schema.get("type")
    types = given if isinstance(given, list) else [given]
    return "integer" in types and "number" not in types


def bound(schema: JsonObject, keyword: str) -> int | float | None:
    """A bound of `schema`; None for none. Draft 4 has `exclusiveMinimum: true`, which makes `minimum` exclusive."""
    plain = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
    value = schema.get(keyword)
    if plain is not None and value is True:
        value = schema.get(plain)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= NO_BOUND:
        return None
    return value


def integer_bounds(schema: JsonObject) -> tuple[int | None, int | None]:
    """The least and the largest integer that the bounds of `schema` allow; None for no bound."""
    low, high, over, under = (bound(schema, keyword) for keyword in BOUNDS)
    least = [math.ceil(low)] if low is not None else []
    least += [math.floor(over) + 1] if over is not None else []
    most = [math.floor(high)] if high is not None else []
    most += [math.ceil(under) - 1] if under is not None else []
    return max(least, default=None), min(most, default=None)


def conjunction(one: JsonObject, other: JsonObject) -> JsonObject | None:
    """One schema for what keeps both; None where nothing does. What cannot be one stays in `allOf`, each by itself."""
    made = dict(one)
    also: list[JsonValue] = list_of(other.get(ALSO)).copy()
    for keyword, value in other.items():
        if keyword == ALSO:
            continue
        if keyword not in made or keyword not in ASSERTING or is_same(made[keyword], value):
            made.setdefault(keyword, value)
            continue
        own = made[keyword]
        joined = _joined(keyword, own, value)
        if joined is None:
            also.append({keyword: value})
        elif joined == []:
            return None
        else:
            made[keyword] = joined
    for schema, beside in ((one, other), (other, one)):
        _hold_additional(made, schema, beside)
        _hold_items(made, schema, beside)
    if also:
        made[ALSO] = [*list_of(made.get(ALSO)), *also]
    return made


def _joined(keyword: str, own: JsonValue, value: JsonValue) -> JsonValue:
    """Two demands of one keyword as one; None where they are none, [] where nothing keeps both."""
    if keyword == "type":
        return _common_types(own, value)
    if keyword == "const":
        return []
    if keyword == "enum":
        return [each for each in list_of(own) if any(is_same(each, beside) for beside in list_of(value))]
    if keyword == "required":
        return list[JsonValue](dict.fromkeys([*map(str, list_of(own)), *map(str, list_of(value))])) or None
    if keyword in LARGER | SMALLER and isinstance(own, int | float) and isinstance(value, int | float):
        return max(own, value) if keyword in LARGER else min(own, value)
    if keyword in ALL_OF_BOTH and not (isinstance(own, list) or isinstance(value, list)):
        return {"allOf": [own, value]}
    if keyword in NAMED_SCHEMAS and isinstance(own, dict) and isinstance(value, dict):
        shared: JsonObject = {name: {"allOf": [own[name], value[name]]} for name in own.keys() & value.keys()}
        return {**own, **value, **{name: shared[name] for name in own if name in shared}}
    if keyword == "prefixItems":
        first, second = list_of(own), list_of(value)
        longer = first if len(first) > len(second) else second
        both: list[JsonValue] = [{"allOf": [a, b]} for a, b in zip(first, second, strict=False)]
        return [*both, *longer[len(both) :]] or None
    if keyword == "uniqueItems":
        return own is True or value is True
    if keyword == "multipleOf" and isinstance(own, int) and isinstance(value, int) and own > 0 and value > 0:
        return math.lcm(own, value)
    return None


def _common_types(own: JsonValue, value: JsonValue) -> JsonValue:
    first = [str(name) for name in (own if isinstance(own, list) else [own])]
    second = {str(name) for name in (value if isinstance(value, list) else [value])}
    kept: list[JsonValue] = []
    for name in first:
        if name in second or (name == "integer" and "number" in second):
            kept.append(name)
        elif name == "number" and "integer" in second:
            kept.append("integer")
    return kept[0] if len(kept) == 1 else kept


def _hold_additional(made: JsonObject, schema: JsonObject, beside: JsonObject) -> None:
    """What `beside` names and `schema` does not is one of the additional properties of `schema`."""
    additional = schema.get("additionalProperties", True)
    merged, own, others = (part.get("properties") for part in (made, schema, beside))
    if additional in (True, {}) or not isinstance(merged, dict) or not isinstance(others, dict):
        return
    held: JsonObject = dict(merged)
    for name in others:
        if not (isinstance(own, dict) and name in own):
            held[name] = False if additional is False else {"allOf": [others[name], additional]}
    made["properties"] = held


ALL_TYPES = frozenset({"object", "array", "string", "number", "boolean", "null"})  # an integer is a number


def _hold_items(made: JsonObject, schema: JsonObject, beside: JsonObject) -> None:
    """The first items that `beside` has alone are items of `schema` like all others."""
    items, own, others = schema.get("items", True), list_of(schema.get("prefixItems")), beside.get("prefixItems")
    if items is True or isinstance(items, list) or not isinstance(others, list):
        return
    made["prefixItems"] = [
        {"allOf": [item, items]} if number >= len(own) else item
        for number, item in enumerate(list_of(made.get("prefixItems")))
    ]


def implied_type(node: JsonObject) -> str | None:
    """The type that a schema without one is about, in llama.cpp's order; None for any."""
    if (OBJECT_KEYWORDS & node.keys()) - {"additionalProperties"} or node.get("additionalProperties", True) is not True:
        return "object"
    if ARRAY_KEYWORDS & node.keys():
        return "array"
    return "string" if {"pattern", "minLength", "maxLength"} & node.keys() or node.get("format") in FORMATS else None


def constants_of(schema: JsonObject) -> list[JsonValue] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def types_of(value: JsonValue) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("integer", "number") if value.is_integer() else ("number",)
        case str():
            return ("string",)
        case list():
            return ("array",)
        case _:
            return ("object",)


def key_of(value: JsonValue) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def is_same(one: JsonValue, other: JsonValue) -> bool:
    return key_of(one) == key_of(other)


def are_disjoint(sets: list[frozenset[str]]) -> bool:
    return sum(map(len, sets)) == len(frozenset[str]().union(*sets))


def list_of(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def dict_of(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def objects_of(value: JsonValue) -> Iterator[JsonObject]:
    for member in list_of(value):
        if isinstance(member, dict):
            yield member
