"""What a JSON schema says about the form of a value: which type to read a scalar as, and which members are defaults."""

from __future__ import annotations

import re

from pydantic import JsonValue

from swarm.consensus.canonical_json import canonical_json, normalised
from swarm.generation import JsonObject

MAX_REFERENCE_HOPS = 8  # a reference to a reference is rare; a ring of them must end

_INTEGER = re.compile(r"[+-]?\d{1,15}")
_DECIMAL = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?")


def coerced(root: JsonObject, value: JsonValue) -> JsonValue:
    """`value` with each scalar read as the type `root` wants where that is unambiguous: "5" as 5 for an integer."""
    return _coerced(root, root, value)


def without_defaults(root: JsonObject, value: JsonValue) -> JsonValue:
    """`value` without the members that only repeat the schema's `default`."""
    return _without_defaults(root, root, value)


def _coerced(root: JsonObject, schema: JsonValue, value: JsonValue) -> JsonValue:
    resolved = _resolve(root, schema)
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


def _without_defaults(root: JsonObject, schema: JsonValue, value: JsonValue) -> JsonValue:
    resolved = _resolve(root, schema)
    if isinstance(value, list):
        return [_without_defaults(root, _item(resolved, index), item) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept: JsonObject = {}
    for key, member in value.items():
        member_schema = _resolve(root, _member(resolved, key))
        if "default" not in member_schema or not _same(member_schema["default"], member):
            kept[key] = _without_defaults(root, member_schema, member)
    return kept


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


def _pointed(root: JsonObject, reference: str) -> JsonValue:
    """What the fragment `reference` (`#/$defs/name`) points at; None if nothing."""
    if not reference.startswith("#"):
        return None
    found: JsonValue = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found
