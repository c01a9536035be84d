"""What a schema costs llama.cpp, which makes a grammar of it for every request and holds each token against it.

Three numbers, in the order of what goes wrong when they are large:

* paths: the ways into a schema before its first character. llama.cpp follows each of them, one after the other, without
  a note of where it has been: forty definitions, each a choice between two references to the next, are 2^40.
* alike: the places where an answer may stand at the same time, because alternatives begin alike. Each token is held
  against each of them, and each pair is compared: a thousand took 7 ms a token, ten thousand never ended.
* rules: the size of the grammar. A repetition is written out, `maxLength: 1000` as a thousand rules.

The sums are of upper bounds and saturate. Linear in the schema, but for a few rounds where definitions refer to
themselves. Pure; works on schemas in llama.cpp's words, as `grammar.py` writes them: all merged, one name a reference.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from swarm.engines.llama_cpp.grammar_pattern import said_cost
from swarm.engines.llama_cpp.schema_words import is_integer, target_of
from swarm.generation import JsonObject

MAX_PATHS = 2000  # a thousand enum values are a thousand
MAX_ALIKE = 1000  # as many enum values as OpenAI takes, all with one beginning: 0.1 s for a hundred tokens
MAX_RULES = 64_000  # 35 MB in llama.cpp at 550 bytes (measured: 172 to 550); twenty texts of up to 2,000 characters fit
MAX_TEXT_CHARS = 120_000  # of names and constants together, as at OpenAI
MAX_WRITTEN_REPEATS = 2000  # llama.cpp leaves out a longer maxLength or maxItems by itself

ENDLESS = 10**9  # where counting stops
ROUNDS = 12  # of definitions that refer to themselves: what doubles in each is beyond every bound by then
RULES_OF_A_SCHEMA = 4  # an object's property, its name and its comma
OPTIONAL_SHARE = 8  # optional properties are written out by their square: 256 of one object took 0.1 s and 1 MB

Head = tuple[str, ...]  # a type, and of an object its first name and that one's constant
Heads = frozenset[Head]


@dataclass(frozen=True, slots=True)
class Cost:
    """See above; `texts` are the characters of names and constants."""

    paths: int = 1
    alike: int = 1
    rules: int = 0
    texts: int = 0

    def beyond(self) -> str | None:
        """Which bound this exceeds, in words; None where it keeps all."""
        for cost, bound, what in (
            (self.paths, MAX_PATHS, "ways to begin (alternatives within alternatives multiply): nest fewer"),
            (
                self.alike,
                MAX_ALIKE,
                "places where an answer may stand at once (alternatives that begin alike multiply): "
                "put a property with its own const first in each, or nest fewer",
            ),
            (
                self.rules,
                MAX_RULES,
                "rules of grammar (the sum of maxLength, maxItems and other repeats, and of parts): lower the maxima, "
                f"or leave them out (above {MAX_WRITTEN_REPEATS} they are not enforced)",
            ),
            (self.texts, MAX_TEXT_CHARS, "characters of names and constants: shorten them"),
        ):
            if cost > bound:
                count = "endless" if cost >= ENDLESS else str(cost)
                return f"costs too much: {count} of at most {bound} {what}"
        return None


def together(costs: Iterable[Cost]) -> Cost:
    """What schemas cost that are alternatives in one grammar, each with a beginning of its own: tools."""
    found = list(costs)
    return Cost(
        paths=sum(cost.paths for cost in found),
        alike=max((cost.alike for cost in found), default=1),
        rules=sum(cost.rules for cost in found),
        texts=sum(cost.texts for cost in found),
    )


def schema_cost(schema: JsonObject) -> Cost:
    """What `schema` costs as a grammar of its own. May raise RecursionError where references lead too deep."""
    return _Meter(schema).cost()


class _Meter:
    """One document's costs. Paths and places are searched through references, sizes are a plain walk."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._parts = list(parts_of(root))
        self._round: dict[str, int] = {}  # places of each reference, as the round before found them
        self._known: dict[str, int] = {}  # and as this one does
        self._open: set[str] = set()  # references that are being followed
        self._refers_to_itself = False
        self._paths_of: dict[int, int] = {}
        self._heads_of: dict[int, Heads | None] = {}

    def cost(self) -> Cost:
        return Cost(
            paths=max(map(self._paths, self._parts)),
            alike=self._settled_places(),
            rules=min(sum(map(_own_rules, self._parts)), ENDLESS),
            texts=sum(map(_own_texts, self._parts)),
        )

    def _paths(self, schema: JsonValue) -> int:
        """Ways to begin."""
        if not isinstance(schema, dict):
            return 1
        if id(schema) not in self._paths_of:
            self._paths_of[id(schema)] = ENDLESS  # for what begins with itself
            reference, members = schema.get("$ref"), _members(schema, "anyOf", "oneOf")
            if isinstance(reference, str):
                paths = self._paths(target_of(self._root, reference))
            else:
                paths = sum(map(self._paths, members)) if members else _own_alternatives(schema)
            self._paths_of[id(schema)] = min(paths, ENDLESS)
        return self._paths_of[id(schema)]

    def _settled_places(self) -> int:
        """Places at once, when another round finds no more."""
        for _ in range(ROUNDS):
            self._known, self._refers_to_itself = {}, False
            found = self._places(self._root)
            if not self._refers_to_itself or self._known == self._round or found >= ENDLESS:
                return found
            self._round = self._known
        return ENDLESS

    def _places(self, schema: JsonValue) -> int:
        """The most places where an answer to `schema` may stand at once."""
        if not isinstance(schema, dict):
            return 1
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._referred_places(reference)
        members = _members(schema, "anyOf", "oneOf")
        if members:
            return self._places_beside(members)
        return min(max([_own_alternatives(schema), *map(self._places, _inside(schema))]), ENDLESS)

    def _referred_places(self, reference: str) -> int:
        if reference in self._open:
            self._refers_to_itself = True
            return self._round.get(reference, 1)
        if reference not in self._known:
            self._open.add(reference)
            self._known[reference] = self._places(target_of(self._root, reference))
            self._open.discard(reference)
        return self._known[reference]

    def _places_beside(self, members: list[JsonValue]) -> int:
        """Alternatives are places beside each other for as long as they are alike."""
        beginning: Counter[Head] = Counter()
        for member in members:
            places = self._places(member)
            for head in self._heads(member) or ((),):
                beginning[head] += places
        # Whoever begins with less that is known may begin like any of those that go on from there.
        alike = max(sum(beginning[head[:length]] for length in range(len(head) + 1)) for head in beginning)
        return min(max(len(members), alike), ENDLESS)

    def _heads(self, schema: JsonValue) -> Heads | None:
        """How values of `schema` may begin; None for anything."""
        if not isinstance(schema, dict):
            return None
        if id(schema) not in self._heads_of:
            self._heads_of[id(schema)] = None
            self._heads_of[id(schema)] = self._found_heads(schema)
        return self._heads_of[id(schema)]

    def _found_heads(self, schema: JsonObject) -> Heads | None:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._heads(target_of(self._root, reference))
        if members := _members(schema, "anyOf", "oneOf"):
            found = [self._heads(member) for member in members]
            return None if None in found else frozenset[Head]().union(*filter(None, found))
        constants = _constants(schema)
        if constants is not None:
            return frozenset((_type_of(value),) for value in constants)
        given = schema.get("type", "object" if "properties" in schema else None)
        if given is None:
            return None
        heads: set[Head] = set()
        for name in given if isinstance(given, list) else [given]:
            plain = "number" if name == "integer" else str(name)
            heads |= self._object_heads(schema) if name == "object" else {(plain,)}
        return frozenset(heads)

    def _object_heads(self, schema: JsonObject) -> set[Head]:
        """llama.cpp writes what is required first, in the order of the properties."""
        properties, required = schema.get("properties"), schema.get("required")
        if not isinstance(properties, dict) or not isinstance(required, list):
            return {("object",)}
        names = set(map(str, required))
        first = next((name for name in properties if name in names), None)
        if first is None:
            return {("object",)}
        value = properties[first]
        if isinstance(value, dict) and isinstance(reference := value.get("$ref"), str):
            value = target_of(self._root, reference)
        constants = _constants(value) if isinstance(value, dict) else None
        if constants is None:
            return {("object", first)}
        return {("object", first, json.dumps(constant)) for constant in constants}


def parts_of(root: JsonObject) -> Iterator[JsonObject]:
    """`root` and every schema in it or referred to, each once."""
    waiting: list[JsonValue] = [root]
    seen: set[int] = set()
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        yield schema
        waiting.extend(_inside(schema))
        waiting.extend(_members(schema, "anyOf", "oneOf"))
        if isinstance(reference := schema.get("$ref"), str):
            waiting.append(target_of(root, reference))


def _members(schema: JsonObject, *keywords: str) -> list[JsonValue]:
    found: list[JsonValue] = []
    for keyword in keywords:
        members = schema.get(keyword)
        found.extend(members if isinstance(members, list) else ())
    return found


def _inside(schema: JsonObject) -> list[JsonValue]:
    """The schemas of what is in a value of `schema`."""
    found = _members(schema, "prefixItems", "items")
    properties = schema.get("properties")
    found.extend(properties.values() if isinstance(properties, dict) else ())
    found.extend(value for name in ("items", "additionalProperties") if isinstance(value := schema.get(name), dict))
    return found


def _constants(schema: JsonObject) -> list[JsonValue] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _type_of(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _own_alternatives(schema: JsonObject) -> int:
    """Among how many things a value of `schema` is chosen, without what is in it."""
    constants, given, pattern = _constants(schema), schema.get("type"), schema.get("pattern")
    found = [1, _optional(schema)]
    if constants is not None:
        found.append(len(constants))
    if isinstance(given, list):
        found.append(len(given))
    if isinstance(pattern, str) and (cost := said_cost(pattern)) is not None:
        found.append(cost.most_places)
    return max(found)


def _optional(schema: JsonObject) -> int:
    properties, required = schema.get("properties"), schema.get("required")
    names = set(map(str, required)) if isinstance(required, list) else set[str]()
    return len(properties.keys() - names) if isinstance(properties, dict) else 0


def _own_rules(schema: JsonObject) -> int:
    rules = RULES_OF_A_SCHEMA + len(_constants(schema) or ()) + _optional(schema) ** 2 // OPTIONAL_SHARE
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and (cost := said_cost(pattern)) is not None:
        rules += cost.rules
    else:
        rules += _repeats(schema, "minLength", "maxLength")
    rules += _repeats(schema, "minItems", "maxItems")
    for keyword in ("minimum", "maximum") if is_integer(schema) else ():  # of other numbers they are not written
        bound = schema.get(keyword)
        if isinstance(bound, int | float):
            digits = len(str(int(bound)))
            rules += digits * (digits + 1) // 2
    return rules


def _repeats(schema: JsonObject, low: str, high: str) -> int:
    least, most = schema.get(low, 0), schema.get(high, 0)
    written = [count for count in (least, most) if isinstance(count, int) and count <= MAX_WRITTEN_REPEATS]
    return max(written, default=0)


def _own_texts(schema: JsonObject) -> int:
    properties, pattern = schema.get("properties"), schema.get("pattern")
    names = sum(map(len, properties)) if isinstance(properties, dict) else 0
    constants = sum(
        len(value) if isinstance(value, str) else len(json.dumps(value)) for value in _constants(schema) or ()
    )
    return names + constants + (len(pattern) if isinstance(pattern, str) else 0)
