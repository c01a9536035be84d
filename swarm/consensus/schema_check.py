"""Does a value keep a JSON schema, answered in bounded time whatever the schema is.

The schema is a client's and the value a model's, so neither may hang the node or make it fetch anything: regular
expressions are not run (Python's can backtrack for ever), references outside the document are not followed, and the
number of keyword checks is capped. What cannot be judged within these bounds counts as kept: the engine's grammar has
enforced it, or nobody can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import UnknownType
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from swarm.consensus.canonical_json import canonical_json
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
