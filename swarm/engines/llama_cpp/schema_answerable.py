"""Whether any value of finite size can keep a schema, as far as its types and references say.

A list node whose `next` must be another such node has no end: an answer would run into its length limit. `allOf` of a
string and a number has no value. Pure; everything that is not understood counts as answerable.
"""

from __future__ import annotations

from pydantic import JsonValue

from swarm.generation import JsonObject

MAX_STEPS = 10_000  # visits of schemas, some 20 ms; a schema that needs more is taken as it is
ALL_TYPES = frozenset({"object", "array", "string", "number", "boolean", "null"})  # an integer is a number
MAX_FOLLOWED = 32  # references in a row while types are compared


def is_answerable(schema: JsonObject) -> bool:
    """False if every value that keeps `schema` would be endless, or none has the right type."""
    search = _Search(schema)
    while True:
        before = len(search.finite)
        search.pending.clear()
        answerable = search.has_value(schema)
        if answerable or len(search.finite) == before or search.steps > MAX_STEPS:
            return answerable or search.steps > MAX_STEPS


class _Search:
    """The references that are known to have a value; found in rounds, until a round finds no more."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self.finite: set[str] = set()
        self.pending: set[str] = set()  # looked at in this round, without a value so far
        self.steps = 0

    def has_value(self, schema: JsonValue) -> bool:
        self.steps += 1
        if self.steps > MAX_STEPS or not isinstance(schema, dict):
            return True
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._referred_has_value(reference)
        for keyword in ("oneOf", "anyOf"):
            members = schema.get(keyword)
            if isinstance(members, list) and not any(map(self.has_value, members)):
                return False
        every = schema.get("allOf")
        if isinstance(every, list) and not (self._types(schema, 0) and all(map(self.has_value, every))):
            return False
        return self._required_have_values(schema)

    def _referred_has_value(self, reference: str) -> bool:
        if reference in self.finite:
            return True
        if reference in self.pending:
            return False
        self.pending.add(reference)
        if self.has_value(self._target(reference)):
            self.finite.add(reference)
            return True
        return False

    def _required_have_values(self, schema: JsonObject) -> bool:
        may_be_other = "type" in schema and schema["type"] not in ("object", "array")
        if may_be_other:
            return True
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, dict) and isinstance(required, list):
            members = [properties.get(name) for name in required if isinstance(name, str)]
            if not all(map(self.has_value, members)):
                return False
        least = schema.get("minItems", 0)
        return not (isinstance(least, int) and least > 0) or self.has_value(schema.get("items"))

    def _target(self, reference: str) -> JsonValue:
        target: JsonValue = self._root
        for step in reference.split("/")[1:]:
            if isinstance(target, dict):
                target = target.get(step)
            elif isinstance(target, list) and step.isdecimal() and len(step) < 6 and int(step) < len(target):
                target = target[int(step)]
        return target

    def _types(self, schema: JsonValue, followed: int) -> frozenset[str]:
        """The types that a value of `schema` may have."""
        if not isinstance(schema, dict) or followed > MAX_FOLLOWED:
            return ALL_TYPES
        reference, every, given = schema.get("$ref"), schema.get("allOf"), schema.get("type")
        if isinstance(reference, str):
            return self._types(self._target(reference), followed + 1)
        types = ALL_TYPES
        if given is not None:
            names = given if isinstance(given, list) else [given]
            types = frozenset("number" if name == "integer" else str(name) for name in names)
        for member in every if isinstance(every, list) else ():
            self.steps += 1
            if self.steps > MAX_STEPS:
                break
            types &= self._types(member, followed + 1)
        return types
