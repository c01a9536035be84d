"""JSON as a vote compares it: read and brought to one form, in bounded time.

The canonical text is equal exactly where the values are equal: RFC 8785 (JCS), extended to integers beyond 2^53.

A schema says which type to read a scalar as, which members are defaults, and which are remarks; whether a value keeps
it, says `engines/schema_check.py`.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from urllib.parse import unquote

import rfc8785
from pydantic import JsonValue

from swarm.generation import REMARK, JsonObject

MAX_JSON_CHARS = 262_144  # an answer of about 65,000 tokens; parsing stays within milliseconds
MAX_JSON_DEPTH = 64  # real answers nest a dozen levels; keeps every recursion far from the interpreter's limit
MAX_JSON_NODES = 10_000  # values in one answer
MAX_NUMBER_CHARS = 400  # a double needs 24; longer ones are an attack on quadratic integer parsing

_MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8785's limit, after which doubles skip integers
_TAG = "\0"  # marks an integer written as a string; true strings that begin with it are given a second one
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str) -> JsonValue:
    """The value of `text`, in NFC and with 1.0 as 1. Raises ValueError if it is no JSON that two machines agree on.

    That excludes NaN and Infinity, numbers beyond a double, lone surrogates, and what breaks the limits above.
    """
    if len(text) > MAX_JSON_CHARS:
        raise ValueError(f"over {MAX_JSON_CHARS} characters")
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return normalised(value)


def normalised(value: JsonValue) -> JsonValue:
    """`value` with NFC strings and whole floats as integers. Raises ValueError as `parse_json` does."""
    return _Normaliser().value(value, MAX_JSON_DEPTH)


def canonical_json(value: JsonValue) -> str:
    """One text per value, for a value that `normalised` has passed."""
    return rfc8785.dumps(_tagged(value)).decode()


class _Normaliser:
    """Counts the nodes it has passed, so that one answer cannot be arbitrarily wide."""

    def __init__(self) -> None:
        self._nodes_left = MAX_JSON_NODES

    def value(self, value: JsonValue, depth_left: int) -> JsonValue:
        self._nodes_left -= 1
        if depth_left == 0 or self._nodes_left < 0:
            raise ValueError(f"more than {MAX_JSON_DEPTH} levels or {MAX_JSON_NODES} values")
        match value:
            case str():
                return _text(value)
            case float():
                return _whole(value)
            case list():
                return [self.value(item, depth_left - 1) for item in value]
            case dict():
                return {_text(key): self.value(member, depth_left - 1) for key, member in value.items()}
            case _:
                return value


def _text(text: str) -> str:
    if text.isascii():
        return text
    if _SURROGATE.search(text):
        raise ValueError("a lone surrogate is no character")
    return unicodedata.normalize("NFC", text)


def _whole(number: float) -> int | float:
    if not math.isfinite(number):
        raise ValueError("a number beyond the range of a double")
    return int(number) if number.is_integer() else number


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(digits)} characters")
    return float(digits)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _tagged(value: JsonValue) -> JsonValue:
    match value:
        case bool():
            return value
        case int():
            return value if abs(value) <= _MAX_SAFE_INTEGER else f"{_TAG}{value}"
        case str():
            return _TAG + value if value.startswith(_TAG) else value
        case list():
            return [_tagged(item) for item in value]
        case dict():
            return {key: _tagged(member) for key, member in value.items()}
        case _:
            return value


MAX_REFERENCE_HOPS = 8  # a reference to a reference is rare; a ring of them must end

_INTEGER = re.compile(r"[+-]?\d{1,15}")
_DECIMAL = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?")


def coerced(root: JsonObject, value: JsonValue) -> JsonValue:
    """`value` with each scalar read as the type `root` wants where that is unambiguous: "5" as 5 for an integer."""
    return _coerced(root, root, value)


def what_counts(root: JsonObject, value: JsonValue) -> JsonValue:
    """`value` without the members that only repeat the schema's `default`, and without remarks."""
    return _what_counts(root, root, value)


def _coerced(root: JsonObject, schema: JsonValue, value: JsonValue) -> JsonValue:
    resolved = _of_values(root, schema)
    if isinstance(value, dict):
        return {key: _coerced(root, _member(resolved, key), member) for key, member in value.items()}
    if isinstance(value, list):
        return [_coerced(root, _item(resolved, index), item) for index, item in enumerate(value)]
    wanted = resolved.get("type")
    types = wanted if isinstance(wanted, list) else [wanted]
    if any(_is(value, name) for name in types):
        return value
    for name in types:
        if (read := _read_as(value, name)) is not None:
            return read
    return value


def _is(value: JsonValue, name: JsonValue) -> bool:
    match name:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "null":
            return value is None
        case _:
            return False


def _read_as(value: JsonValue, name: JsonValue) -> JsonValue:
    """`value` as a `name`, or None where that would be a guess."""
    match name, value:
        case "integer", str() if _INTEGER.fullmatch(value.strip()):
            return int(value)
        case "number", str() if _DECIMAL.fullmatch(value.strip()):
            return normalised(float(value))
        case "boolean", str() if value.strip().casefold() in ("true", "false"):
            return value.strip().casefold() == "true"
        case "string", bool() | int() | float():
            return str(value).lower() if isinstance(value, bool) else str(value)
        case _:
            return None


def _what_counts(root: JsonObject, schema: JsonValue, value: JsonValue) -> JsonValue:
    resolved = _of_values(root, schema)
    if isinstance(value, list):
        return [_what_counts(root, _item(resolved, index), item) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept: JsonObject = {}
    for key, member in value.items():
        named = _member(resolved, key)
        member_schema = _resolve(root, named)
        repeats = "default" in member_schema and _same(member_schema["default"], member)
        if not (repeats or _is_remark(named) or _is_remark(member_schema)):
            kept[key] = _what_counts(root, member_schema, member)
    return kept


def _is_remark(schema: JsonValue) -> bool:
    """Whether a member only comments on the others, as its schema says itself; beside a `$ref`, too."""
    return isinstance(schema, dict) and schema.get(REMARK) is True


def _same(default: JsonValue, value: JsonValue) -> bool:
    try:
        return canonical_json(normalised(default)) == canonical_json(value)
    except ValueError:
        return False


def _member(schema: JsonObject, key: str) -> JsonValue:
    properties = schema.get("properties")
    if isinstance(properties, dict) and key in properties:
        return properties[key]
    return schema.get("additionalProperties")


def _item(schema: JsonObject, index: int) -> JsonValue:
    prefix = schema.get("prefixItems")
    if isinstance(prefix, list) and index < len(prefix):
        return prefix[index]
    return schema.get("items")


def _resolve(root: JsonObject, schema: JsonValue) -> JsonObject:
    """`schema` itself, or what its `$ref` into this document names; empty (anything goes) where that leads nowhere."""
    for _ in range(MAX_REFERENCE_HOPS):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        schema = _pointed(root, reference)
    return {}


def _of_values(root: JsonObject, schema: JsonValue) -> JsonObject:
    """What `schema` says of a value that is not null: where it is one alternative beside null (`anyOf`), that one."""
    resolved = _resolve(root, schema)
    for _ in range(MAX_REFERENCE_HOPS):
        members = resolved.get("anyOf", resolved.get("oneOf"))
        if not isinstance(members, list) or len(members) != 2 or "properties" in resolved or "type" in resolved:
            return resolved
        others = [member for each in members if (member := _resolve(root, each)).get("type") != "null"]
        if len(others) != 1:
            return resolved
        resolved = others[0]
    return {}


def _pointed(root: JsonObject, reference: str) -> JsonValue:
    """What the fragment `reference` (`#/$defs/name`) points at; None if nothing."""
    if not reference.startswith("#"):
        return None
    found: JsonValue = root
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and len(name) < 6 and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found
