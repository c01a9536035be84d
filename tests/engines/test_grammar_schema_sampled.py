"""Whatever a grammar lets through keeps the client's schema, but for what it is told that it does not keep.

Values are drawn from schemas in llama.cpp's words as its converter reads them (first what it looks at first; whatever
stands beside it is ignored), thousands in the time that the engine takes for one, and held against the client's own.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from swarm.engines.llama_cpp.grammar import GrammarSchema, TooLarge, whole_document
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible_schemas
from swarm.engines.schema_check import violations
from swarm.errors import BadRequest
from tests.engines.test_schema_refusal import for_answer

SCHEMAS, VALUES = 400, 12  # of each seed
NAMES = ("a", "b", "c")
MAX_DRAWN = 200  # parts of one value: the rest is cut, and the value is not used


class Endless(Exception):
    """A value that has no end within bounds."""


class Drawing:
    """Draws values of `root`, a schema in llama.cpp's words, as `common/json-schema.cpp` reads it."""

    def __init__(self, root: Any, r: random.Random) -> None:
        self._root, self._r, self._left = root, r, MAX_DRAWN

    def value(self, schema: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0 or depth > 12:
            raise Endless
        r = self._r
        assert isinstance(schema, dict)
        if "$ref" in schema:
            steps = schema["$ref"].removeprefix("#/").split("/")
            assert steps[0] == "$defs"
            return self.value(self._root["$defs"][steps[1]], depth + 1)
        for keyword in ("oneOf", "anyOf"):
            if keyword in schema:
                return self.value(r.choice(schema[keyword]), depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            return self.value({**schema, "type": r.choice(kind)}, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return r.choice(schema["enum"])
        assert "allOf" not in schema
        if kind is None and ("properties" in schema or schema.get("additionalProperties", True) is not True):
            kind = "object"
        elif kind is None and ("items" in schema or "prefixItems" in schema):
            kind = "array"
        elif kind is None and ({"pattern", "minLength", "maxLength"} & schema.keys()):
            kind = "string"
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                assert "pattern" not in schema
                least = schema.get("minLength", 0)
                most = schema.get("maxLength", least + 4)
                return "".join(r.choice("abx1") for _ in range(r.randint(least, most)))
            case "integer":
                least, most = schema.get("minimum"), schema.get("maximum")
                low = least if least is not None else (0 if most is None else most) - 9
                return r.randint(low, most if most is not None else low + 9)
            case "number":
                return r.choice([r.randint(-9, 9), round(r.uniform(-9, 9), 2)])
            case "boolean":
                return r.random() < 0.5
            case "null":
                return None
            case _:
                return r.choice([None, True, 3, -2.5, "ab", [], [1, "x"], {}, {"a": 1}, {"d": "x"}])

    def _object(self, schema: Any, depth: int) -> Any:
        properties = schema.get("properties", {})
        additional = schema.get("additionalProperties", "properties" not in schema)
        made = {
            name: self.value(part, depth + 1)
            for name, part in properties.items()
            if name in schema.get("required", []) or self._r.random() < 0.5
        }
        if additional is not False and self._r.random() < 0.5:
            for name in self._r.sample(["a", "b", "d", "e1"], 2):
                if name not in properties:
                    made[name] = self.value({} if additional is True else additional, depth + 1)
        return made

    def _array(self, schema: Any, depth: int) -> Any:
        assert not ("items" in schema and "prefixItems" in schema)
        if "prefixItems" in schema:
            return [self.value(part, depth + 1) for part in schema["prefixItems"]]
        least = schema.get("minItems", 0)
        size = self._r.randint(least, min(schema.get("maxItems", least + 3), least + 3))
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(size)]


class Making:
    """Makes schemas of all keywords but `pattern`, small and often contradictory."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)

    def document(self) -> Any:
        schema = self.schema(3)
        if not isinstance(schema, dict):
            return {}
        return {**schema, "$defs": {name: self.schema(2) for name in ("p", "q/r")}}

    def schema(self, depth: int) -> Any:
        r = self.r
        if r.random() < 0.08:
            return r.random() < 0.6
        made: dict[str, Any] = {}
        for _ in range(r.choice([1, 1, 2, 2, 3])):
            made |= self.keywords(depth)
        return made

    def several(self, depth: int) -> list[Any]:
        return [self.schema(depth - 1) for _ in range(self.r.randint(1, 3))]

    def keywords(self, depth: int) -> dict[str, Any]:
        r = self.r
        flat = [self.typed, self.typed, self.text, self.number, self.constants]
        deep = [self.object, self.object, self.array, self.combined, self.combined, self.odd, self.reference]
        return r.choice(flat + deep if depth > 0 else flat)(depth)

    def typed(self, _: int) -> Any:
        names = ["object", "array", "string", "integer", "number", "boolean", "null"]
        return {"type": self.r.choice([*names, self.r.sample(names, 2)])}

    def text(self, _: int) -> Any:
        return {"type": "string", **self.some({"minLength": self.r.randint(0, 2), "maxLength": self.r.randint(2, 4)})}

    def number(self, _: int) -> Any:
        r = self.r
        bounds = {"minimum": r.randint(-5, 2), "maximum": r.randint(2, 9), "exclusiveMinimum": r.randint(-5, 2) + 0.5,
                  "exclusiveMaximum": r.randint(2, 9), "multipleOf": r.choice([1, 2, 0.5])}  # fmt: skip
        return {"type": r.choice(["integer", "number", ["integer", "null"]]), **self.some(bounds)}

    def constants(self, _: int) -> Any:
        values = [1, 2.5, "ab", "abc", None, True, [1], {"a": 1}]
        return {"const": self.r.choice(values)} if self.r.random() < 0.3 else {"enum": self.r.sample(values, 3)}

    def object(self, depth: int) -> Any:
        r = self.r
        return {
            **self.some({"type": "object"}),
            "properties": {name: self.schema(depth - 1) for name in r.sample(NAMES, r.randint(1, 3))},
            **self.some(
                {
                    "required": r.sample(NAMES, r.randint(1, 2)),
                    "additionalProperties": self.schema(depth - 1) if r.random() < 0.5 else False,
                    "minProperties": r.randint(0, 2),
                    "maxProperties": r.randint(1, 4),
                    "propertyNames": r.choice([{"enum": ["a", "b"]}, {"maxLength": 1}]),
                    "patternProperties": {"^a": self.schema(depth - 1)},
                    "dependentRequired": {"a": ["b"]},
                },
                0.25,
            ),
        }

    def array(self, depth: int) -> Any:
        return {
            **self.some({"type": "array"}),
            **self.some(
                {
                    "items": self.schema(depth - 1),
                    "prefixItems": self.several(depth),
                    "minItems": self.r.randint(0, 2),
                    "maxItems": self.r.randint(2, 4),
                    "uniqueItems": True,
                    "contains": self.schema(depth - 1),
                }
            ),
        }

    def combined(self, depth: int) -> Any:
        return {self.r.choice(["allOf", "anyOf", "oneOf", "allOf"]): self.several(depth)}

    def odd(self, depth: int) -> Any:
        return self.r.choice(
            [
                {"not": self.schema(depth - 1)},
                {"if": self.schema(depth - 1), "then": self.schema(depth - 1)},
                {"dependentSchemas": {"a": self.schema(depth - 1)}},
                {"unevaluatedProperties": False},
            ]
        )

    def reference(self, _: int) -> Any:
        return {"$ref": self.r.choice(["#/$defs/p", "#/$defs/q~1r", "#"])}

    def some(self, keywords: dict[str, Any], share: float = 0.5) -> dict[str, Any]:
        return {name: value for name, value in keywords.items() if self.r.random() < share}


def checked(schema: Any, strict: bool) -> GrammarSchema | None:
    """The schema in llama.cpp's words; None where it is refused."""
    try:
        refuse_impossible_schemas(for_answer(schema))
        written = whole_document(schema, strict)
    except (BadRequest, TooLarge):
        return None
    return None if written.schema is None else written


@pytest.mark.parametrize("seed", range(3))
def test_what_a_grammar_lets_through_breaks_nothing_but_what_it_is_said_not_to_keep(seed: int) -> None:
    making, used = Making(seed), 0
    for number in range(SCHEMAS):
        schema = making.document()
        strict = number % 2 == 0
        written = checked(schema, strict)
        if written is None:
            continue
        excused = {each.keyword for each in written.unkept}
        for _ in range(VALUES):
            try:
                value = Drawing(written.schema, making.r).value(written.schema)
            except Endless:
                continue
            broken = violations(schema, value)
            used += 1
            assert excused or not broken, (seed, number, schema, written.schema, value, broken)
    assert used > SCHEMAS, "nearly everything was refused"
