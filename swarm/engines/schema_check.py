"""What in a value breaks a JSON schema, in bounded time.

The schema is a client's and the value a model's, so neither may hang the node or make it fetch anything: expressions
run in linear time (`patterns.py`), references outside the document are not followed, and the number of keyword checks
is capped. What cannot be judged within these bounds counts as kept. `format` is a note, as in the standard. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import UnknownType
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from swarm.engines.patterns import is_matched
from swarm.generation import JsonObject

MAX_CHECKS = 20_000  # keyword evaluations for one value, about 0.1 s; `$ref` and `anyOf` can multiply without end
MAX_SCHEMA_DEPTH = 100
MAX_NESTED = 100  # keywords within keywords: four frames each, of the thousand that Python has
MAX_VIOLATIONS = 16  # of one value: who breaks a schema in more places is told of these
MAX_MESSAGE_CHARS = 200
Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]


@dataclass(frozen=True, slots=True)
class Violation:
    """`path` in the value, as JSONPath; the `keyword` that is broken there, and how, in words."""

    path: str
    keyword: str
    message: str


class _OutOfChecks(Exception):
    """The schema asks for more work than an answer is worth."""


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


class _Checks(FormatChecker):
    """Counts down. It rides in `format_checker`, the one object jsonschema hands on to every sub-validator."""

    def __init__(self) -> None:
        super().__init__(formats=())
        self._left = MAX_CHECKS
        self._nested = 0

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _OutOfChecks

    @contextmanager
    def nested(self) -> Generator[None]:
        """One keyword within others. Python's own limit must not be reached: jsonschema's Rust parts panic there."""
        self.spend()
        self._nested += 1
        try:
            if self._nested > MAX_NESTED:
                raise _OutOfChecks
            yield
        finally:
            self._nested -= 1


def violations(schema: JsonObject, value: JsonValue) -> tuple[Violation, ...]:
    """What in `value` breaks `schema`, at most MAX_VIOLATIONS; none where it keeps it or cannot be judged."""
    found: list[Violation] = []
    try:
        for error in islice(_validator(schema).iter_errors(value), MAX_VIOLATIONS):
            message = error.message
            if len(message) > MAX_MESSAGE_CHARS:
                message = f"{message[: MAX_MESSAGE_CHARS - 1]}…"
            found.append(Violation(error.json_path, str(error.validator or "false"), message))
    except _UNJUDGEABLE:
        pass
    return tuple(found)


class Judge:
    """Says of constants whether they keep parts of the schema `root`, all together within MAX_CHECKS."""

    def __init__(self, root: JsonObject) -> None:
        try:
            self._validator: Any = _validator(root)
        except _UNJUDGEABLE:
            self._validator = None

    def kept(self, part: JsonValue, values: Iterable[JsonValue]) -> tuple[list[JsonValue], bool]:
        """Those of `values` that keep `part`, or cannot be judged; and whether all could be judged."""
        values = list(values)
        try:
            validator = self._validator and self._validator.evolve(schema=_modern(part, MAX_SCHEMA_DEPTH))
        except _UNJUDGEABLE:
            validator = None
        broken = [None if validator is None else _breaks(validator, value) for value in values]
        kept = [value for value, breaks in zip(values, broken, strict=True) if not breaks]
        return kept, None not in broken


def _breaks(validator: Any, value: JsonValue) -> bool | None:
    try:
        return next(iter(validator.iter_errors(value)), None) is not None
    except _UNJUDGEABLE:
        return None


def _validator(schema: JsonObject) -> Any:
    return _BoundedValidator(_modern(schema, MAX_SCHEMA_DEPTH), registry=Registry[Any](), format_checker=_Checks())


def _modern(schema: JsonValue, depth_left: int) -> Any:
    """`schema` in the words of 2020-12: what older drafts called otherwise, and no `$schema`.

    For that jsonschema would leave the bounded validator.
    """
    if depth_left == 0:
        raise _OutOfChecks
    if isinstance(schema, list):
        return [_modern(item, depth_left - 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _modern(member, depth_left - 1)
        for key, member in schema.items()
        if not (key == "$schema" and isinstance(member, str))
    }
    if isinstance(made.get("items"), list):
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in made:
            made["items"] = made.pop("additionalItems")
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(made.get(exclusive), bool):
            strict = made.pop(exclusive)
            if strict and isinstance(made.get(bound), int | float):
                made[exclusive] = made[bound]
    return made


def _counted(check: Keyword) -> Keyword:
    def counted(validator: Any, argument: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        with validator.format_checker.nested():
            yield from check(validator, argument, instance, schema) or ()

    return counted


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and isinstance(pattern, str) and not is_matched(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, part in patterns.items():
            for name, value in cast("dict[str, Any]", instance).items():
                validator.format_checker.spend()
                if is_matched(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        patterns, declared = schema.get("patternProperties", {}), schema.get("properties", {})
        for name, value in cast("dict[str, Any]", instance).items():
            validator.format_checker.spend()
            if name in declared or any(is_matched(pattern, name) for pattern in patterns):
                continue
            if allowed is False:
                yield ValidationError(f"{name!r} is no property that is allowed")
            elif isinstance(allowed, dict):
                yield from validator.descend(value, allowed, path=name)


def _unevaluated_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterable[ValidationError] | None:
    """jsonschema's own runs the expressions of `patternProperties` by Python's engine, wherever they are nested."""
    if "patternProperties" in json.dumps(schema):
        return None
    return _STANDARD["unevaluatedProperties"](validator, allowed, instance, schema)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """jsonschema's own compares all pairs where items cannot be sorted."""
    if unique and isinstance(instance, list):
        items = [json.dumps(_comparable(item), sort_keys=True) for item in cast("list[JsonValue]", instance)]
        if len(set(items)) < len(items):
            yield ValidationError("items repeat")


def _comparable(value: JsonValue) -> JsonValue:
    """`value` with 1.0 as 1: they are equal in JSON."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return {key: _comparable(member) for key, member in value.items()} if isinstance(value, dict) else value


_STANDARD: Mapping[str, Keyword] = dict(Draft202012Validator.VALIDATORS)
_OWN: Mapping[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
_BoundedValidator: Any = cast("Any", validators).extend(
    Draft202012Validator, {name: _counted(check) for name, check in (_STANDARD | dict(_OWN)).items()}
)
