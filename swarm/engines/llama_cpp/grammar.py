"""A client's JSON schema as llama.cpp's grammar takes it: the same demand, in the words that it understands.

What it does not understand it either refuses (a schema that is `true`, a `$ref` to the whole document) or enforces in
a way that breaks the JSON (a pattern whose `.` may be a quote). Pure; what can never work is refused before, see
`schema_refusal.py`.

Regular expressions (`grammar_pattern`) are such that what they match is always the inside of JSON text: llama.cpp
writes a class as it stands, so `.` and `[^@]` would match a quote, and the JSON would be broken. It has no classes for
digits, words and spaces: it takes any text instead, with a line in its log. Both are put right here, without a parser
of expressions: what is not certain to be safe is left out, and then the text is free, as in other servers. So is what
would take llama.cpp seconds for a token: a pattern is one demand of many, and a client checks it anyway.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from pydantic import JsonValue

from swarm.engines.llama_cpp.pattern_cost import pattern_cost
from swarm.generation import JsonObject

MAX_PATTERN_CHARS = 1000  # longer ones are left out: each character is a rule that every token is held against

_NOT_IN_JSON = r'"\\\x00-\x1F'  # what JSON text must escape
_INSIDE_CLASS = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_CLASSES = {
    "d": "[0-9]",
    "w": "[A-Za-z0-9_]",
    "s": "[ ]",
    "D": f"[^{_NOT_IN_JSON}0-9]",
    "W": f"[^{_NOT_IN_JSON}A-Za-z0-9_]",
    "S": r'[^"\\\x00-\x20]',
}
_PUNCTUATION = frozenset(".-/()[]{}+*?|^$@#%&=:;,!~<>_' ")

# One step through an expression: a class, an escape, a lookaround or named group, or one character.
_TOKEN = re.compile(
    r"\[(?P<negated>\^?)(?P<members>\]?(?:\\.|[^\]\\])*)\]|\\(?P<escape>.)|(?P<group>\(\?(?!:))|(?P<one>.)", re.DOTALL
)


@lru_cache(maxsize=256)  # a schema is looked at before a vote, and made a grammar by each of its voters
def grammar_pattern(pattern: str) -> str | None:
    """`pattern` for a grammar; None where that cannot be said with certainty, costs too much, or not at all."""
    if len(pattern) > MAX_PATTERN_CHARS or not (pattern.startswith("^") and pattern.endswith("$")):
        return None
    made: list[str] = []
    for token in _TOKEN.finditer(pattern, 1, len(pattern) - 1):
        piece = _piece(token)
        if piece is None:
            return None
        made.append(piece)
    said = f"^{''.join(made)}$"
    return said if pattern_cost(said) is not None else None


def _piece(token: re.Match[str]) -> str | None:
    if token["members"] is not None:
        return _class(bool(token["negated"]), token["members"])
    if token["escape"] is not None:
        escape = token["escape"]
        return _CLASSES.get(escape) or (f"\\{escape}" if escape in _PUNCTUATION else None)
    if token["group"] is not None:
        return None
    one = token["one"]
    if one == ".":
        return f"[^{_NOT_IN_JSON}]"
    return one if one.isprintable() and one not in '"\\^$' else None


def _class(negated: bool, members: str) -> str | None:
    """A class of characters that JSON text may hold as they are."""
    made: list[str] = []
    position = 0
    while position < len(members):
        char = members[position]
        position += 1
        if char == "\\":
            escape = members[position]
            position += 1
            if escape in _INSIDE_CLASS:
                made.append(_INSIDE_CLASS[escape])
            elif escape in "-]^./":
                made.append(f"\\x{ord(escape):02X}")
            else:
                return None
        elif char.isprintable() and char not in '"[':
            made.append(char)
        else:
            return None
    text = "".join(made)
    if negated:
        return f"[^{_NOT_IN_JSON}{text}]"
    return f"[{text}]" if text and not _spans_escapes(text) else None


def _spans_escapes(members: str) -> bool:
    """Whether a range such as ` -~` takes in a quote or a backslash."""
    return any(low <= mark <= high for low, high in re.findall(r"(.)-(.)", members) for mark in '"\\')


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
