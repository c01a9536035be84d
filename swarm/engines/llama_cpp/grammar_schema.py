"""A client's JSON schema as llama.cpp's grammar takes it: the same demand, in the words that it understands.

What it does not understand it either refuses (a schema that is `true`, a `$ref` to the whole document) or enforces in
a way that breaks the JSON (a pattern whose `.` may be a quote). Pure; what can never work is refused before, see
`schema_refusal.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from swarm.engines.llama_cpp.grammar_pattern import grammar_pattern
from swarm.generation import JsonObject

DATA_KEYWORDS = frozenset({"const", "enum", "default", "example", "examples", "required"})  # values, not schemas
NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
OBJECT_KEYWORDS = frozenset({"properties", "$ref", "anyOf", "oneOf", "allOf"})  # what llama.cpp merges itself
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
MAX_MOST_ITEMS = 1998  # above 2,000 llama.cpp leaves `maxItems` out by itself; these two more it cannot parse again
# For the least above it, or the most below its negative, `schema_refusal.py` wants the other bound: `minimum` 10**16
# and no maximum never returns.
MOST_DIGITS = 10**15  # llama.cpp writes integers of 16 digits at most: a bound beyond that says nothing, and costs most
NOTES = frozenset({"title", "description"})
FLAGS = frozenset(
    {"additionalProperties", "unevaluatedProperties", "uniqueItems", "deprecated", "readOnly", "nullable"}
)


def hoisted(parts: Mapping[str, JsonObject], root: JsonObject) -> JsonObject:
    """`root` with each part under `$defs`, where it is referred to as `definition(name)`."""
    definitions: JsonObject = {name: grammar_schema(part, definition(name)) for name, part in parts.items()}
    return {"$defs": definitions, **root}


def definition(name: str) -> str:
    """The reference to a part of `hoisted`."""
    return f"#/$defs/{name}"


def grammar_schema(schema: JsonObject, base: str = "#") -> JsonObject:
    """`schema` for a grammar, its references turned to `base`, the place where it will stand."""
    made: JsonObject = {}
    for keyword, value in merged(schema).items():
        if keyword in DATA_KEYWORDS:
            made[keyword] = value
        elif keyword in NAMED_SCHEMAS and isinstance(value, dict):
            made[keyword] = {name: _part(member, base) for name, member in value.items()}
        elif keyword == "$ref" and isinstance(value, str) and value.startswith("#"):
            made[keyword] = base + value[1:]
        elif keyword == "pattern" and isinstance(value, str):
            pattern = grammar_pattern(value)
            if pattern is not None:
                made[keyword] = pattern
        elif keyword == "type" and isinstance(value, list) and "number" in value:
            made[keyword] = [name for name in value if name != "integer"]  # which is one, and would get bounds
        elif keyword == "maxItems" and value != schema.get("minItems") and _is_above(value, MAX_MOST_ITEMS):
            continue
        elif keyword in FLAGS and isinstance(value, bool):
            made[keyword] = value
        else:
            made[keyword] = _part(value, base) if isinstance(value, dict | list) or value is True else value
    return _with_whole_bounds(made) if is_integer(made) and BOUNDS & made.keys() else made


def _is_above(value: JsonValue, bound: int) -> bool:
    return isinstance(value, int) and value > bound


def is_integer(schema: JsonObject) -> bool:
    """Whether a number that keeps `schema` must be an integer, whatever else it may be."""
    given = schema.get("type")
    types = given if isinstance(given, list) else [given]
    return "integer" in types and "number" not in types


def integer_bounds(schema: JsonObject) -> tuple[int | None, int | None]:
    """The least and the largest integer that the bounds of `schema` allow; None for no bound."""
    low, over, high, under = (
        value if isinstance(value := schema.get(keyword), int | float) else None
        for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    )
    least = [math.ceil(low)] if low is not None else []
    least += [math.floor(over) + 1] if over is not None else []
    most = [math.floor(high)] if high is not None else []
    most += [math.ceil(under) - 1] if under is not None else []
    return max(least, default=None), min(most, default=None)


def _with_whole_bounds(schema: JsonObject) -> JsonObject:
    """Bounds of an integer as llama.cpp can keep them: it cuts 4.1 down to 4."""
    kept: JsonObject = {keyword: value for keyword, value in schema.items() if keyword not in BOUNDS}
    least, most = integer_bounds(schema)
    if least is not None and (least > -MOST_DIGITS or (most or 0) < -MOST_DIGITS):
        kept["minimum"] = least
    if most is not None and (most < MOST_DIGITS or (least or 0) > MOST_DIGITS):
        kept["maximum"] = most
    return kept


def merged(schema: JsonObject) -> JsonObject:
    """`schema` without an `allOf` that says nothing of objects: llama.cpp would make an empty object of it."""
    members = schema.get("allOf")
    if not isinstance(members, list) or not members:
        return schema
    made: JsonObject = {keyword: value for keyword, value in schema.items() if keyword != "allOf"}
    for member in members:
        if not isinstance(member, dict) or (len(members) > 1 and OBJECT_KEYWORDS & member.keys()):
            return schema
        if any(made.get(keyword, value) != value for keyword, value in member.items() if keyword not in NOTES):
            return schema
        made = {**member, **made}
    return made


def _part(value: JsonValue, base: str) -> JsonValue:
    """A schema below another one, or a list of them; `true`, which allows anything, as llama.cpp writes it."""
    if value is True:
        return {}
    if isinstance(value, dict):
        return grammar_schema(value, base)
    return [_part(member, base) for member in value] if isinstance(value, list) else value


def whole_document(schema: JsonObject) -> JsonObject:
    """`schema` as a document of its own. Where it refers to its own root, which llama.cpp refuses, it is moved."""
    if "#" in references(schema):
        return hoisted({"root": schema}, {"$ref": definition("root")})
    return grammar_schema(schema)


def references(schema: JsonValue) -> Iterator[str]:
    """Every `$ref` in `schema`."""
    if isinstance(schema, list):
        for member in schema:
            yield from references(member)
    elif isinstance(schema, dict):
        for keyword, value in schema.items():
            if keyword == "$ref" and isinstance(value, str):
                yield value
            elif keyword not in DATA_KEYWORDS:
                yield from references(value)
