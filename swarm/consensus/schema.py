"""JSON as a vote compares it: read and brought to one form, and held to a client's schema, in bounded time.

The canonical text is equal exactly where the values are equal: RFC 8785 (JCS), extended to integers beyond 2^53.

The schema is a client's and the value a model's, so neither may hang the node or make it fetch anything: regular
expressions are not run (Python's can backtrack for ever), references outside the document are not followed, and the
number of keyword checks is capped. What cannot be judged within these bounds counts as kept: the engine's grammar has
enforced it, or nobody can. A schema also says which type to read a scalar as, and which members are defaults.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import rfc8785
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import UnknownType
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from swarm.generation import JsonObject

MAX_JSON_CHARS = 262_144  # an answer of about 65,000 tokens; parsing stays within milliseconds
MAX_JSON_DEPTH = 64  # real answers nest a dozen levels; keeps every recursion far from the interpreter's limit
MAX_JSON_NODES = 10_000  # values in one answer
MAX_NUMBER_CHARS = 400  # a double needs 24; longer ones are an attack on quadratic integer parsing

_MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8785's limit, after which doubles skip integers
_TAG = "\0"  # marks an integer written as a string; true strings that begin with it are given a second one
_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_CHECKS = 20_000  # keyword evaluations for one value, about 0.1 s; `$ref` and `anyOf` can multiply without end
MAX_SCHEMA_DEPTH = 100
Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]


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
