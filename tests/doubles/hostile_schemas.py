"""Schemas that would cost llama.cpp seconds, gigabytes or for ever, by the hundred; and real ones of every size."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tests.doubles.schemas import Schema, record

Family = Callable[[random.Random], Schema]
ALIKE = "a"  # what texts of hostile schemas are made of: a model that is steered to it stands in all places at once


def referring(name: str, definitions: Schema) -> Schema:
    return {"$ref": f"#/$defs/{name}", "$defs": definitions}


def reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def choices_of_the_next(r: random.Random) -> Schema:
    """d0 is a choice among references to d1, and so on."""
    links, width = r.randint(2, 60), r.randint(2, 4)
    last: Schema = r.choice([{"type": "string"}, record(a={"type": "string"}), {"type": "array", "items": {}}])
    of = [r.choice(["anyOf", "oneOf"]) for _ in range(links)]
    definitions = {f"d{i}": {of[i]: [reference(f"d{i + 1}") for _ in range(width)]} for i in range(links)}
    return referring("d0", {**definitions, f"d{links}": last})


def diamonds(r: random.Random) -> Schema:
    """Objects whose every property is an object of the next kind."""
    links = r.randint(2, 40)
    definitions = {
        f"d{i}": record(**{f"{ALIKE}{j}": reference(f"d{i + 1}") for j in range(r.randint(1, 3))}) for i in range(links)
    }
    return referring("d0", {**definitions, f"d{links}": {"type": "string"}})


def merged_twice(r: random.Random) -> Schema:
    """`allOf` of two references, each an `allOf` of two references."""
    links = r.randint(2, 50)
    definitions = {f"d{i}": {"allOf": [reference(f"d{i + 1}") for _ in range(2)]} for i in range(links)}
    return referring("d0", {**definitions, f"d{links}": record(a={"type": "string"})})


def alike_inside_alike(r: random.Random) -> Schema:
    """Alternatives with one beginning, within alternatives with one beginning."""
    schema: Schema = {"type": "string"}
    for _ in range(r.randint(1, 4)):
        schema = {"anyOf": [record(a=schema) for _ in range(r.randint(2, 12))]}
    return schema


def alike_for_ever(r: random.Random) -> Schema:
    """Alternatives that begin alike and hold themselves."""
    inside = r.choice([{"type": "array", "items": reference("e")}, record(a=reference("e"))])
    members = [inside for _ in range(r.randint(1, 4))]
    return referring("e", {"e": {"anyOf": [*members, {"type": r.choice(["string", "null", "array"])}]}})


def optional_properties(r: random.Random) -> Schema:
    def one() -> Schema:
        return {"type": "object", "properties": {f"{ALIKE * 5}{i}": {"type": "string"} for i in range(size)}}

    size = r.randint(20, 400)
    return r.choice([one(), {"anyOf": [one() for _ in range(r.randint(2, 20))]}])


def long_enums(r: random.Random) -> Schema:
    count, size = r.randint(100, 1100), r.choice([1, 20, 100, 2000])
    values = [ALIKE * size + str(i) for i in range(count)]
    return r.choice([{"enum": values}, {"anyOf": [{"const": value} for value in values]}])


def one_pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^{pattern}$"}


def nested_repeats(r: random.Random) -> Schema:
    text = ALIKE
    for _ in range(r.randint(1, 4)):
        text = f"({text}{{{r.randint(0, 1)},{r.randint(2, 60)}}})" + r.choice(["", "*", "+", "?"])
    return one_pattern(text)


def nullable_runs(r: random.Random) -> Schema:
    return one_pattern("".join(r.choice([f"{ALIKE}?", f"{ALIKE}*", f"({ALIKE}|)"]) for _ in range(r.randint(3, 330))))


def choices_under_a_star(r: random.Random) -> Schema:
    letters = r.choice([ALIKE, "ab", "abcdefghij"])
    branches = [r.choice(letters) * r.randint(1, 2) for _ in range(r.randint(2, 300))]
    return one_pattern(f"({'|'.join(branches)[:900].strip('|')}){r.choice(['*', '+', '{0,99}'])}")


def repeats(r: random.Random) -> Schema:
    most = r.randint(100, 2000)
    part: Schema = r.choice(
        [
            {"type": "string", "maxLength": most},
            {"type": "string", "minLength": most},
            {"type": "array", "items": {"type": "boolean"}, "maxItems": most},
            {"type": "array", "items": {"type": "boolean"}, "minItems": most},
            one_pattern(f"[ab]{{0,{most}}}"),
        ]
    )
    return record(**{f"p{i}": part for i in range(r.randint(1, 1500))})


def far_bounds(r: random.Random) -> Schema:
    def bound() -> float:
        return r.choice([-1, 1]) * r.choice([10 ** r.randint(0, 20), r.randint(0, 10**18), r.random() * 10])

    def part() -> Schema:
        names = r.sample(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], r.randint(1, 3))
        return {"type": r.choice(["integer", "number", ["integer", "null"]]), **{name: bound() for name in names}}

    one = part()
    return record(**{f"p{i}": one if r.random() < 0.9 else part() for i in range(r.choice([1, 1, 1, 50, 1500]))})


def deep(r: random.Random) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(r.randint(20, 70)):
        schema = r.choice([record(a=schema), {"type": "array", "items": schema}, {"anyOf": [{"type": "null"}, schema]}])
    return schema


def wide(r: random.Random) -> Schema:
    return record(
        **{
            f"{ALIKE * r.randint(1, 30)}{i}": {"type": r.choice(["string", "integer", "null"])}
            for i in range(r.randint(500, 4500))
        }
    )


def other_names(r: random.Random) -> Schema:
    """Further properties must have none of the names that are there."""
    named: Schema = {f"{ALIKE * r.randint(1, 40)}{i}": {"type": "null"} for i in range(r.randint(10, 1000))}
    further: Any = r.choice([True, {}, {"type": "string"}])
    return {"type": "object", "properties": named, "required": list(named), "additionalProperties": further}


def by_pattern(r: random.Random) -> Schema:
    inside = r.choice(FAMILIES[:6])(r)
    return {"type": "object", "patternProperties": {f"^({ALIKE}+)+$": inside}, "additionalProperties": False}


def hidden(r: random.Random) -> Schema:
    """Referred to where nobody looks for schemas."""
    worst = r.choice(
        [{"type": "string", "minLength": 9, "maxLength": 3}, repeats(r), {"type": "integer", "minimum": 10**16}]
    )
    place = r.choice(["x", "not", "default", "then", "const"])
    return {**record(a={"$ref": f"#/{place}/y"}), place: {"y": worst}}


def mixed(r: random.Random) -> Schema:
    parts = [r.choice(PLAIN)(r) for _ in range(r.randint(2, 6))]
    return r.choice([record(**{f"p{i}": part for i, part in enumerate(parts)}), {"anyOf": parts}])


PLAIN: list[Family] = [
    alike_inside_alike, optional_properties, long_enums, nested_repeats, nullable_runs, choices_under_a_star, repeats,
    far_bounds, deep, wide, other_names,
]  # fmt: skip
FAMILIES: list[Family] = [
    choices_of_the_next, diamonds, merged_twice, alike_for_ever, *PLAIN, by_pattern, hidden, mixed
]  # fmt: skip


def hostile_schemas(seed: int, count: int) -> list[tuple[str, Schema]]:
    """`count` schemas with a name to find them again by, each family in turn; parsed, so that no two share a part."""
    made: list[tuple[str, Schema]] = []
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        schema = family(random.Random(f"{seed} {number}"))
        made.append((f"{family.__name__} {number} of seed {seed}", json.loads(json.dumps(schema))))
    return made


def text(**more: Any) -> Schema:
    return {"type": "string", **more}


def variant(kind: str, **properties: Any) -> Schema:
    return record(type={"const": kind}, **properties)


def tool_parameters(size: int) -> Schema:
    """As tools of the Model Context Protocol and of coding agents have them: most is optional, all is described."""
    described = "What this is for, when to use it and when not, in several sentences. " * 4
    kinds: list[Schema] = [
        text(description=described),
        {"type": "integer", "minimum": 1, "maximum": 100, "default": 30},
        {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
        {"type": "boolean", "default": False},
        {"type": "array", "items": text(), "maxItems": 50},
        {"anyOf": [text(), {"type": "null"}], "default": None},
        text(enum=["open", "closed", "all"]),
        {"type": "object", "additionalProperties": text()},
        {"type": "array", "items": record(old=text(), new=text(), replace_all={"type": "boolean"}), "minItems": 1},
    ]
    properties = {f"parameter_{i}": kinds[i % len(kinds)] for i in range(size)}
    return {"type": "object", "properties": properties, "required": [*properties][:2], "additionalProperties": False}


NODE = reference("node")
REAL: dict[str, Schema] = {
    "a record": record(name=text(), age={"type": "integer", "minimum": 0, "maximum": 150}),
    "twenty fields of a thousand characters": record(**{f"f{i}": text(maxLength=1000) for i in range(20)}),
    "thirty texts of two thousand": record(**{f"f{i}": text(minLength=1, maxLength=2000) for i in range(30)}),
    "a recursive tree": referring(
        "node", {"node": record(value={"type": "number"}, children={"type": "array", "items": NODE})}
    ),
    "a binary tree": referring(
        "node",
        {"node": {"anyOf": [record(left=NODE, right=NODE), record(value={"type": "number"}), {"type": "null"}]}},
    ),
    "expressions": referring(
        "node",
        {
            "node": {
                "anyOf": [
                    *(record(op={"const": op}, left=NODE, right=NODE) for op in ("add", "sub", "mul", "div")),
                    record(op={"enum": ["neg", "abs"]}, of=NODE),
                    record(value={"type": "number"}),
                ]
            }
        },
    ),
    "a union of ten actions": record(
        steps={
            "type": "array",
            "items": {"anyOf": [variant(f"action_{i}", x={"type": "integer"}, y=text()) for i in range(10)]},
        }
    ),
    "a union without a sign": {
        "anyOf": [record(id=text(), **{f"kind_{i}": text()}) for i in range(10)],
    },
    "a union of unions": {
        "anyOf": [
            record(id=text(), body={"anyOf": [record(id=text(), **{f"k{j}": text()}) for j in range(8)]})
            for _ in range(8)
        ]
    },
    "everything OpenAI takes": {
        **record(**{f"p{i}": text() for i in range(4000)}, choice={"enum": [f"value {i}" for i in range(900)]}),
        "additionalProperties": False,
    },
    "dates and the like": record(
        day=text(format="date"),
        at=text(format="date-time"),
        id=text(format="uuid"),
        day_too=text(pattern=r"^\d{4}-\d{2}-\d{2}$"),
        id_too=text(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
        mail=text(pattern=r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$"),
        phone=text(pattern=r"^\+?[1-9]\d{1,14}$"),
        version=text(pattern=r"^v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$"),
    ),
    "bounds of any integer": record(
        a={"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        b={"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    ),
    "a tool of thirty parameters": tool_parameters(30),
}
REAL_TOOLS: dict[str, list[Schema]] = {
    "sixty tools of a coding agent": [tool_parameters(4 + number % 12) for number in range(60)],
    "twenty large tools": [tool_parameters(40) for _ in range(20)],
    "a hundred small tools": [tool_parameters(3) for _ in range(100)],
}
KEPT_PATTERNS = (
    r"^\d{3}-\d{4}$",
    r"^[\w.+-]{1,8}@[^@\s]{1,8}\.[a-z]{2,3}$",
    r"^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$",
    r"^(January|February|March|April|May|June|July|August|September|October|November|December)$",
    r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$",
    r"^https?://[^\s/$.?#].[^\s]*$",
    r"^#([A-Fa-f0-9]{6}|[A-Fa-f0-9]{3})$",
    r"^[a-z0-9]+(?:-[a-z0-9]+)*$",
    r"^[A-Z][a-z]+( [A-Z][a-z]+)*$",
    r"^\w+-?\w+$",
    r"^(\w+ )*\w+$",
    r"^([01]\d|2[0-3]):[0-5]\d$",
    r"^[^.]+\.(png|jpe?g|gif)$",
    r"^\$?\d{1,3}(,\d{3})*(\.\d{2})?$",
    r"^(read|write|execute)(,(read|write|execute))*$",
    "^[a-z]{1,1000}$",
    "^((a{100}){100}){100}$",
)
LEFT_OUT_PATTERNS = (
    "^((a{0,40}){0,40}){0,40}$",
    "^(a{1,20}){1,20}$",
    f"^{'a?' * 300}$",
    f"^{'a?' * 20}$",
    f"^({'|'.join('a' * 100)})*$",
    "^(a|a)*$",
    "^(a|ab|b)*$",
    "^((a|b)?(a|c)?)*$",
    r"^(\w+\s?)+$",
    "^(.*a){20}$",
    "^.*.*.*.*a$",
    f"^({'|'.join(chr(0x4E00 + i) for i in range(200))})*$",
    f"^{'(' * 400}a{')' * 400}$",
    "^a{2001}$",
)


def contradictions(seed: int, count: int) -> list[tuple[str, Schema]]:
    """Small schemas whose keywords are put together by chance: many say nothing, or the opposite of each other."""
    return [
        (
            f"contradiction {number} of seed {seed}",
            json.loads(json.dumps(_chance(random.Random(f"{seed} {number}"), 2))),
        )
        for number in range(count)
    ]


def _chance(r: random.Random, levels: int) -> Schema:
    def below() -> Schema:
        return _chance(r, levels - 1) if levels else {}

    def some(*names: str) -> list[str]:
        return [name for name in names if r.random() < 0.5]

    def bound() -> float:
        far = [2**31, 2**53, 2**62, 2**63 - 1, 2**64 - 1, 10**15, 10**16, 10**18, 1.5e18, 1e15]
        return r.choice([-1, 1]) * r.choice([0, 1, 4, 5, 4.1, 4.9, 9, 10, 99, 100, 0.5, *far])

    def count() -> int:
        return r.choice([0, 1, 2, 5, 1000, 1998, 1999, 2000])

    made: Schema = {}
    match r.choice(["number", "number", "array", "text", "const", "enum", "all", "object"]):
        case "number":
            made["type"] = r.choice(["integer", "integer", "number", ["integer", "null"], ["number", "integer"]])
            made |= {name: bound() for name in some("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")}
        case "array":
            made["type"] = r.choice(["array", ["array", "null"]])
            made |= {name: count() for name in some("minItems", "maxItems")}
            made |= {name: below() for name in some("items")}
            made |= {name: [below() for _ in range(r.randint(1, 3))] for name in some("prefixItems")}
        case "text":
            made["type"] = "string"
            made |= {name: count() for name in some("minLength", "maxLength")}
            made |= {name: r.choice(ODD_PATTERNS) for name in some("pattern")}
            made |= {name: r.choice(["date", "uuid", "email", "", "time", "uuid9"]) for name in some("format")}
        case "const":
            values: list[Any] = [1, None, "a", [], {}, True, 1.5, 1e300, ""]
            made["const"] = r.choice(values)
            made |= {name: r.choice(["string", "integer", "null", "object"]) for name in some("type")}
        case "enum":
            made["enum"] = [r.choice([1, None, "a", [1], {"a": 1}, True, 1.5]) for _ in range(r.randint(1, 3))]
            made |= {name: r.choice(["string", "integer", "null", "object"]) for name in some("type")}
        case "all":
            made["allOf"] = [below() for _ in range(r.randint(1, 2))]
        case _:
            kinds: list[Any] = ["object", ["object", "null"]]
            made["type"] = r.choice(kinds)
            made["properties"] = {name: below() for name in some("a", "b", "c")}
            made["required"] = some("a", "b", "d")
            others: list[Any] = [True, False, {}, {"type": "integer"}]
            made |= {name: r.choice(others) for name in some("additionalProperties")}
    if r.random() < 0.05:
        made["anyOf"] = [below() for _ in range(2)]
    return made


ODD_PATTERNS = (
    "^a$", "^$", "^()$", "^|a$", "^[a]{0}$", "^(a|)$", "^a{0,0}$", "^[^a]$", "a", "^a{,3}$", "^a{3,1}$", "^(?:a)$",
    "^a**$", "^a+?$", "^a{2}{3}$", "^[a-]$", "^[]a]$", "^]$", "^{$", "^a{$", "^a{x}$", "^a{2000}$", "^[ab]{0,2001}$",
)  # fmt: skip


def merged_tools(path: str) -> list[Any]:
    """A tool that no grammar can be made of, in the words of the API at `path`."""
    definitions = {f"d{i}": {"allOf": [reference(f"d{i + 1}"), reference(f"d{i + 1}")]} for i in range(40)}
    parameters = {**record(a={"allOf": [reference("d0")]}), "$defs": {**definitions, "d40": record(a=text())}}
    if "messages" in path:
        return [{"name": "f", "input_schema": parameters}]
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
