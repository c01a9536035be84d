"""Does a value keep a JSON schema, answered in bounded time whatever the schema is.

The schema is a client's and the value a model's, so neither may hang the node or make it fetch anything: regular
expressions are not run (Python's can backtrack for ever), references outside the document are not followed, and the
number of keyword checks is capped. What cannot be judged within these bounds counts as kept: the engine's grammar has
enforced it, or nobody can.

What a JSON schema says about the form of a value: which type to read a scalar as, and which members are defaults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import UnknownType
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from swarm.consensus.canonical_json import canonical_json, normalised
from swarm.generation import JsonObject

MAX_CHECKS = 20_000  # keyword evaluations for one value, about 0.1 s; `$ref` and `anyOf` can multiply without end
MAX_SCHEMA_DEPTH = 100

Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]


class _OutOfChecks(Exception):
    """The schema asks for more work than an answer is worth."""


class _Checks(FormatChecker):
    """Counts down. It rides in `format_checker`, the one object jsonschema hands on to every sub-validator."""

    def __init__(self) -> None:
        super().__init__(formats=())
        self._left = MAX_CHECKS

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _OutOfChecks


def breach(schema: JsonObject, value: JsonValue) -> str | None:
    """The first thing in normalised `value` that breaks `schema`, in words; None if it keeps it or cannot be judged."""
    try:
        validator = _BoundedValidator(
            _without_dialects(schema, MAX_SCHEMA_DEPTH), registry=Registry[Any](), format_checker=_Checks()
        )
        error = next(iter(validator.iter_errors(value)), None)
    except _UNJUDGEABLE:
        return None
    return None if error is None else f"{error.json_path}: {error.validator}"


# What jsonschema raises for a schema that is itself malformed, unresolvable or endless.
_UNJUDGEABLE = (
    _OutOfChecks,
    Unresolvable,
    UnknownType,
    RecursionError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


def _without_dialects(schema: JsonValue, depth_left: int) -> Any:
    """`schema` without `$schema`: jsonschema would leave the bounded validator for the dialect named there."""
    if depth_left == 0:
        raise _OutOfChecks
    if isinstance(schema, dict):
        return {
            key: _without_dialects(member, depth_left - 1)
            for key, member in schema.items()
            if not (key == "$schema" and isinstance(member, str))
        }
    if isinstance(schema, list):
        return [_without_dialects(item, depth_left - 1) for item in schema]
    return schema


def _counted(check: Keyword) -> Keyword:
    def counted(validator: Any, argument: Any, instance: Any, schema: Any) -> Iterable[ValidationError] | None:
        validator.format_checker.spend()
        return check(validator, argument, instance, schema)

    return counted


def _not_run(validator: Any, argument: Any, instance: Any, schema: Any) -> Iterable[ValidationError] | None:
    return None


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """jsonschema's own compares all pairs where items cannot be sorted."""
    if unique and isinstance(instance, list):
        items = cast("list[JsonValue]", instance)
        if len({canonical_json(item) for item in items}) < len(items):
            yield ValidationError("items repeat")


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterable[ValidationError] | None:
    """Which properties are additional depends on `patternProperties`, whose expressions are not run."""
    return (
        None
        if "patternProperties" in schema
        else _STANDARD["additionalProperties"](validator, allowed, instance, schema)
    )


_STANDARD: Mapping[str, Keyword] = dict(Draft202012Validator.VALIDATORS)
_OWN: Mapping[str, Keyword] = {
    "pattern": _not_run,
    "patternProperties": _not_run,
    "unevaluatedProperties": _not_run,  # evaluates `patternProperties` wherever it is nested
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
_BoundedValidator: Any = cast("Any", validators).extend(
    Draft202012Validator, {name: _counted(check) for name, check in (_STANDARD | dict(_OWN)).items()}
)


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
