"""A client's JSON schema as llama.cpp's grammar takes it: the same demand in the words that it obeys, and what is lost.

llama.cpp looks at a schema in one order and ignores whatever stands beside what it has chosen: beside `$ref`, `anyOf`,
`const`, `pattern` or `items` the other keywords say nothing, `allOf` keeps names of properties alone, and `true`, `#`
and escapes of a reference are errors. So a schema is written anew here: what must hold at once is merged into one
schema, alternatives get what stands beside them, constants are held against the rest, and each reference leads to a
definition of its own name. The new schema may allow less than the client's (no further properties where some are named,
an array of exactly its `prefixItems`), never more, but for what no grammar can say. That is told keyword by keyword
(`Unkept`): a strict request is refused for it, and other answers are checked (`schema_check.py`).

Pure. Bounded: MAX_MADE parts are written, MAX_MERGES merged; schemas were found well-formed before
(`schema_refusal.py`). Notes (titles, descriptions, bounds that only a reader obeys) stay: the model is shown them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from pydantic import JsonValue

from swarm.engines.llama_cpp.grammar_pattern import grammar_pattern
from swarm.engines.llama_cpp.schema_words import (
    ALL_TYPES,
    ALSO,
    ASSERTING,
    BOUNDS,
    FORMATS,
    LEFT_BEHIND,
    NO_BOUND,
    NUMBER_KEYWORDS,
    UNSAYABLE,
    SchemaPath,
    are_disjoint,
    bound,
    conjunction,
    constants_of,
    dict_of,
    implied_type,
    integer_bounds,
    is_same,
    key_of,
    list_of,
    objects_of,
    pointer_steps,
    target_of,
    types_of,
)
from swarm.engines.patterns import is_matched
from swarm.engines.schema_check import Judge
from swarm.generation import JsonObject

MAX_MADE = 20_000  # schemas written for one request's part: four times what a client may send
MAX_MERGES = 8000  # schemas merged into others, and their properties: 10 us each
MAX_FOLLOWED = 32  # references in a row
MAX_MOST_ITEMS = 1998  # above 2,000 llama.cpp leaves `maxItems` out by itself; these two more it cannot parse again
MAX_MOST_CHARS = 2000  # of `maxLength`: the same
MAX_NAMED_KEYS = 256  # of `propertyNames`, written as optional properties
MAX_CONDITIONS = 250  # properties that alternatives of what is required would write out in all
MAX_MULTIPLES = 256  # values that are written one by one
# A number between bounds at most this far apart is one of so many hundredths, where the bounds must be kept.
MAX_SPAN, STEP = 5, Fraction(1, 100)
# For the least above it, or the most below its negative, `schema_refusal.py` wants the other bound: `minimum` 10**16
# and no maximum never returns.
MAX_INTEGER = 2**63 - 2  # llama.cpp counts in 64 bits, and takes their ends for no bound
MOST_DIGITS = 10**15  # llama.cpp writes integers of 16 digits at most: a bound beyond that says nothing, and costs most

_LABEL = "[A-Za-z0-9]{1,30}(-[A-Za-z0-9]{1,30})?"  # bounded: a small model does not end by itself
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
FORMAT_PATTERNS = {
    "email": rf"^[A-Za-z0-9_+-]{{1,30}}(\.[A-Za-z0-9_+-]{{1,30}})?@{_LABEL}(\.{_LABEL})?\.[A-Za-z]{{2,12}}$",
    "hostname": rf"^{_LABEL}(\.{_LABEL}){{0,2}}$",
    "ipv4": rf"^{_BYTE}(\.{_BYTE}){{3}}$",
    "ipv6": "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$",
    "uri": r"^[a-z][a-z0-9+.-]{0,20}:[!#-\[\]-~]{1,500}$",
}
_RULE_NAME = re.compile("[^A-Za-z0-9]+")


class TooLarge(Exception):
    """What would be written exceeds MAX_MADE or MAX_MERGES."""


@dataclass(frozen=True, slots=True)
class Unkept:
    """A keyword at `path` of a client's schema that the grammar does not hold answers to."""

    path: SchemaPath
    keyword: str


@dataclass(frozen=True, slots=True)
class GrammarSchema:
    """`schema` for llama.cpp; None where no value keeps the client's. `unkept` is what it does not say."""

    schema: JsonObject | None
    unkept: tuple[Unkept, ...]


def whole_document(schema: JsonObject, strict: bool = False) -> GrammarSchema:
    """`schema` as a document of its own; its definitions are those that it refers to. Raises TooLarge."""
    writer = _Writer(schema, "", strict)
    made = writer.whole()
    if made is not None and writer.definitions:
        made["$defs"] = writer.definitions
    return GrammarSchema(made, tuple(writer.unkept))


def hoisted(parts: Mapping[str, tuple[JsonObject, bool]], root: JsonObject) -> JsonObject:
    """`root` with each part under `$defs`, where it is referred to as `definition(name)`. Raises TooLarge.

    A part is a schema, and whether it is strict.
    """
    definitions: JsonObject = {}
    for name, (part, strict) in parts.items():
        writer = _Writer(part, name, strict)
        made = writer.whole()
        definitions[name] = {} if made is None else made
        definitions |= writer.definitions
    return {"$defs": definitions, **root}


def definition(name: str) -> str:
    """The reference to a part of `hoisted`."""
    return f"#/$defs/{name}"


class _Writer:
    """One client's schema, written anew. Its definitions are named `prefix` and their own name."""

    def __init__(self, root: JsonObject, prefix: str, strict: bool) -> None:
        self._root = root
        self._prefix = prefix
        self._strict = strict
        self.definitions: JsonObject = {}
        self.unkept: dict[Unkept, None] = {}
        self._names: dict[str, str] = {}  # of references
        self._waiting: list[str] = []  # references whose definition is not written yet
        self._open: list[str] = []  # references whose target is part of what is being written, or merged
        self._taken: list[str] = []  # those whose target is merged into the schema that is looked at
        self._made = 0
        self._merges = 0

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._root)

    def whole(self) -> JsonObject | None:
        made = self._part(self._root, ())
        while self._waiting:
            reference = self._waiting.pop()
            found = self._part(target_of(self._root, reference), tuple(pointer_steps(reference)))
            if found is None:
                self._note(tuple(pointer_steps(reference)), "$ref")
            self.definitions[self._names[reference]] = {} if found is None else found
        return made

    def _note(self, path: SchemaPath, *keywords: str) -> None:
        for keyword in keywords:
            self.unkept[Unkept(path, keyword)] = None

    def _part(self, schema: JsonValue, path: SchemaPath) -> JsonObject | None:
        """`schema` in llama.cpp's words; None where no value keeps it."""
        self._made += 1
        if self._made > MAX_MADE:
            raise TooLarge
        if schema is False:
            return None
        if not isinstance(schema, dict):
            return {}
        opened, taken, self._taken = len(self._open), self._taken, []
        node = self._flat(schema, path)
        self._open += self._taken
        self._taken = taken
        made = None if node is None else self._written(node, path)
        del self._open[opened:]
        return made

    def _written(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        notes = {key: value for key, value in node.items() if key not in ASSERTING and key not in LEFT_BEHIND}
        if "$ref" in node:
            return {"$ref": self._reference(str(node["$ref"])), **notes}
        if "const" in node or "enum" in node:
            made = self._constants(node, path)
            return None if made is None else {**notes, **made}
        self._note(path, *(key for key in UNSAYABLE if self._says(node, key)))
        for rest in objects_of(node.get(ALSO)):
            self._note(path, *(key for key in rest if key not in ("anyOf", "oneOf")))
        is_choice = "anyOf" in node or "oneOf" in node
        made = self._alternatives(node, path) if is_choice else self._typed(node, path)
        return None if made is None else {**notes, **made}

    def _says(self, node: JsonObject, keyword: str) -> bool:
        """Whether an unsayable keyword demands anything."""
        if keyword == "if":
            return "if" in node and bool({"then", "else"} & node.keys())
        return keyword in node and not (keyword == "not" and node["not"] is False)

    def _reference(self, reference: str) -> str:
        """Where the definition will stand that `reference` leads to."""
        name = self._names.get(reference)
        if name is None:
            steps = pointer_steps(reference)
            # No dash: llama.cpp names the parts of a definition by one, and takes what has such a name for the part.
            base = (_RULE_NAME.sub("", steps[-1])[:60] if steps else "root") or "part"
            base = f"{self._prefix}x{base}" if self._prefix else base
            taken = set(self._names.values())
            name = next(each for number in range(len(taken) + 1) if (each := _numbered(base, number)) not in taken)
            self._names[reference] = name
            self._waiting.append(reference)
        return definition(name)

    # What must hold at once

    def _flat(self, schema: JsonObject, path: SchemaPath) -> JsonObject | None:
        """`schema` with what its `allOf`, and a `$ref` beside other demands, lead to merged into it."""
        members = schema.get("allOf")
        given = list(members) if isinstance(members, list) else []
        node: JsonObject = {key: value for key, value in schema.items() if key != "allOf"}
        if "$ref" in node and (given or len(ASSERTING & node.keys()) > 1):
            given.insert(0, {"$ref": node.pop("$ref")})
        if len(given) == 1 and not ASSERTING & node.keys() and isinstance(only := given[0], dict):
            merged: JsonObject = {**only, **node}
            return merged if "allOf" not in only and set(only) & ASSERTING == {"$ref"} else self._flat(merged, path)
        for member in given:
            found = self._merged(node, member, path)
            if found is None:
                return None
            node = found
        return node

    def _merged(self, node: JsonObject, member: JsonValue, path: SchemaPath) -> JsonObject | None:
        if member is False:
            return None
        if not isinstance(member, dict):
            return node
        opened = len(self._open)
        for _ in range(MAX_FOLLOWED):
            if set(member) & ASSERTING != {"$ref"}:
                break
            reference = str(member["$ref"])
            if reference in self._open:  # it holds what is being written: that never ends
                self._note(path, "$ref")
                del self._open[opened:]
                return node
            self._open.append(reference)
            target = target_of(self._root, reference)
            if target is False:
                return None
            member = target if isinstance(target, dict) else {}
        flat = self._flat(member, path)
        self._taken += self._open[opened:]
        del self._open[opened:]
        self._merges += 1 + len(dict_of(node.get("properties"))) + len(dict_of(member.get("properties")))
        if self._merges > MAX_MERGES:
            raise TooLarge
        return None if flat is None else conjunction(node, _with_own_scope(flat))

    # Constants and alternatives

    def _constants(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        """The constants that keep everything else. llama.cpp looks at nothing else."""
        given = node.get("enum")
        values = list(given) if isinstance(given, list) else [node["const"]]
        if "const" in node and "enum" in node:
            values = [value for value in values if is_same(value, node["const"])]
        rest: JsonObject = {key: value for key, value in node.items() if key in ASSERTING - {"const", "enum"}}
        kind = rest.pop("type", None)
        if kind is not None:
            names = {str(name) for name in (kind if isinstance(kind, list) else [kind])}
            values = [value for value in values if names & {*types_of(value)}]
        if rest:
            values, judged = self._judge.kept(rest, values)
            if not judged:
                self._note(path, "const" if "const" in node else "enum")
        if not values:
            return None
        typed: JsonObject = {"type": kind} if isinstance(kind, str) else {}
        return {**typed, "const": values[0]} if "enum" not in node else {**typed, "enum": values}

    def _alternatives(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        keyword = "anyOf" if "anyOf" in node else "oneOf"
        given = node[keyword]
        members = list(given) if isinstance(given, list) else []
        if keyword == "oneOf" and not self._are_apart(members):
            self._note(path, "oneOf")
        beside: JsonObject = {key: value for key, value in node.items() if key in ASSERTING and key != keyword}
        for key in UNSAYABLE:
            beside.pop(key, None)
        if _are_too_many_conditions(members, beside):
            self._note(path, keyword)
            return self._written(beside, path)
        made: list[JsonValue] = []
        for number, member in enumerate(members):
            place = (*path, keyword, str(number))
            whole = member if not beside or self._implies(member, beside) else _both(beside, member)
            written = self._part(whole, place)
            if written is not None:
                made.append(written)
        if not made:
            return None
        if len(made) == 1 and isinstance(only := made[0], dict):
            return only
        return {keyword: made}

    def _implies(self, member: JsonValue, beside: JsonObject) -> bool:
        """Whether `member` says already what stands beside it: a type."""
        target = self._followed(member)
        return isinstance(target, dict) and set(beside) == {"type"} and target.get("type") == beside["type"]

    def _followed(self, schema: JsonValue) -> JsonValue:
        for _ in range(MAX_FOLLOWED):
            if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
                return schema
            schema = target_of(self._root, reference)
        return True

    def _are_apart(self, members: list[JsonValue]) -> bool:
        """Whether it is certain that no value keeps two of `members`: by type, or by a constant that each requires."""
        kinds = [self._kind(member) for member in members]
        for types in {name for kind in kinds for name in kind[0]}:
            beside = [constants for names, constants in kinds if types in names]
            if len(beside) > 1 and not any(
                are_disjoint([constants[name] for constants in beside])
                for name in beside[0]
                if all(name in constants for constants in beside)
            ):
                return False
        return True

    def _kind(self, member: JsonValue) -> tuple[frozenset[str], dict[str, frozenset[str]]]:
        """The types of a schema's values, and the constants that its required properties ("": itself) are among."""
        schema = self._followed(member)
        if schema is False:
            return frozenset(), {}
        if not isinstance(schema, dict):
            return ALL_TYPES, {}
        constants: dict[str, frozenset[str]] = {}
        if (own := constants_of(schema)) is not None:
            names = frozenset(name for value in own for name in types_of(value) if name != "integer")
            return names, {"": frozenset(map(key_of, own))}
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, dict) and isinstance(required, list):
            for name in map(str, required):
                value = self._followed(properties.get(name))
                if isinstance(value, dict) and (found := constants_of(value)) is not None:
                    constants[f".{name}"] = frozenset(map(key_of, found))
        given = schema.get("type")
        named = [str(name) for name in (given if isinstance(given, list) else [given]) if name is not None]
        return frozenset("number" if name == "integer" else name for name in named) or ALL_TYPES, constants

    # One type

    def _typed(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        given = node.get("type")
        names = [str(name) for name in given] if isinstance(given, list) else [str(given)] if given else []
        if not names:
            names = [name] if (name := implied_type(node)) is not None else []
        if not names:
            self._note(path, *(key for key in node if key in NUMBER_KEYWORDS))
            return {key: value for key, value in node.items() if key in NUMBER_KEYWORDS}
        names = [name for name in names if not (name == "integer" and "number" in names)]
        made = [written for name in names if (written := self._of_type(name, node, path)) is not None]
        if len(made) < 2:
            return made[0] if made else None
        plain = [written.get("type") for written in made]
        if all(isinstance(name, str) for name in plain) and not any({"const", "enum"} & part.keys() for part in made):
            together: JsonObject = {key: value for written in made for key, value in written.items()}
            return {**together, "type": plain}
        return {"anyOf": list(made)}

    def _of_type(self, name: str, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        match name:
            case "object":
                return self._object(node, path)
            case "array":
                return self._array(node, path)
            case "string":
                return self._string(node, path)
            case "integer" | "number":
                return self._number(name, node, path)
            case _:
                return {"type": name}

    def _object(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        given = node.get("properties")
        properties: JsonObject = dict(given) if isinstance(given, dict) else {}
        required = list(dict.fromkeys(map(str, list_of(node.get("required")))))
        additional = node.get("additionalProperties", node.get("unevaluatedProperties"))
        if additional is None and "properties" not in node:
            additional = True
        patterns = dict_of(node.get("patternProperties"))
        for name in required:
            if name not in properties:
                matched = any(is_matched(pattern, name) for pattern in patterns)
                properties[name] = True if matched or additional is None else additional
        if patterns:
            additional = self._patterned(properties, patterns, additional, path)
        if (names := node.get("propertyNames", True)) not in (True, {}, {"type": "string"}):
            additional = self._named(properties, names, additional, path)
        written: JsonObject = {}
        for name, schema in properties.items():
            made = self._part(schema, (*path, "properties", name))
            if made is not None:
                written[name] = made
            elif name in required:
                return None
            else:
                additional = False  # else it would be allowed as one of the others
        free = additional is not None and additional is not False
        others = self._part(additional, (*path, "additionalProperties")) if free else None
        counted = self._counted(node, path, required, written, others is not None)
        if counted is None:
            return None
        self._note(path, *self._dependent(node, counted, written, others is not None))
        shape: JsonObject = {"type": "object"}
        if written or not free:
            shape["properties"] = written
        if not written and not free:
            shape["const"] = {}  # without the white space that it may have else
        if counted:
            shape["required"] = list[JsonValue](counted)
        if additional is not None and (written or additional is not True):
            shape["additionalProperties"] = False if others is None else True if others == {} else others
        return shape | _hints(node, "minProperties", "maxProperties")

    def _patterned(
        self, properties: JsonObject, patterns: JsonObject, additional: JsonValue, path: SchemaPath
    ) -> JsonValue:
        """What other properties may be, beside those whose names match; of those that are known it is made certain."""
        for name in properties:
            for pattern, schema in patterns.items():
                if is_matched(pattern, name):
                    properties[name] = {"allOf": [properties[name], schema]}
        if additional is None or (additional is False and properties):  # none but those that are named are written
            return additional
        self._note(path, "patternProperties")
        if additional is False:
            return {"anyOf": list(patterns.values())}
        return additional

    def _named(self, properties: JsonObject, names: JsonValue, additional: JsonValue, path: SchemaPath) -> JsonValue:
        """What other properties may be, where names must keep a schema: those it lists are written out."""
        found, judged = self._judge.kept(names, properties)
        kept = set(map(str, found))
        if not judged:
            self._note(path, "propertyNames")
        for name in properties:
            if name not in kept:
                properties[name] = False
        if additional is None or additional is False:
            return additional
        listed = constants_of(names) if isinstance(names := self._followed(names), dict) else None
        if listed is None or len(listed) > MAX_NAMED_KEYS:
            self._note(path, "propertyNames")
            return additional
        for name in listed:
            if isinstance(name, str):
                properties.setdefault(name, additional)
        return False

    def _counted(
        self, node: JsonObject, path: SchemaPath, required: list[str], written: JsonObject, free: bool
    ) -> list[str] | None:
        """What is required where properties are counted; None where that cannot be."""
        least, most = node.get("minProperties", 0), node.get("maxProperties")
        if isinstance(least, int) and least > len(required):
            if not free and least > len(written):
                return None
            if not free and least == len(written):
                required = list(written)
            else:
                self._note(path, "minProperties")
        if isinstance(most, int):
            if most < len(required):
                return None
            if free or most < len(written):
                self._note(path, "maxProperties")
        return required

    def _dependent(self, node: JsonObject, required: list[str], written: JsonObject, free: bool) -> Iterator[str]:
        """The keywords by which one property demands others, and that are not kept anyway."""
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, wanted in dict_of(node.get(keyword)).items():
                may_be = free or name in written
                if may_be and not (isinstance(wanted, list) and {str(each) for each in wanted} <= {*required}):
                    yield keyword
                    break

    def _array(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        items = node.get("items", node.get("unevaluatedItems", True))
        prefix = list_of(node.get("prefixItems"))
        if isinstance(items, list):  # as older drafts have it
            prefix, items = items, node.get("additionalItems", True)
        least, most = _count(node.get("minItems")) or 0, _count(node.get("maxItems"))
        if "contains" in node and (node.get("minContains") != 0 or "maxContains" in node):
            self._note(path, "contains")
        if most is not None and least > most:
            return None
        if prefix:
            return self._tuple(node, path, prefix, items, least, most)
        made = self._part(items, (*path, "items"))
        if made is None or most == 0:
            return None if least else {"type": "array", "const": []}
        if node.get("uniqueItems") is True and (most is None or most > 1):
            self._note(path, "uniqueItems")
        bounds: JsonObject = {"minItems": least} if least else {}
        if most is not None and most > MAX_MOST_ITEMS and most != least:
            self._note(path, "maxItems")
        elif most is not None:
            bounds["maxItems"] = most
        shown: JsonObject = {"items": made} if made else {}
        return {"type": "array", **shown, **bounds, **_hints(node, "uniqueItems")}

    def _tuple(
        self,
        node: JsonObject,
        path: SchemaPath,
        prefix: list[JsonValue],
        items: JsonValue,
        least: int,
        most: int | None,
    ) -> JsonObject | None:
        """An array of exactly its first items, and of as many more as there must be: llama.cpp has no others."""
        size = max(len(prefix), least)
        size = size if most is None else min(size, most)
        made: list[JsonValue] = []
        for number in range(size):
            place = (*path, "prefixItems", str(number)) if number < len(prefix) else (*path, "items")
            written = self._part(prefix[number] if number < len(prefix) else items, place)
            if written is None:
                break
            made.append(written)
        if len(made) < least:
            return None
        if node.get("uniqueItems") is True and len(made) > 1:
            self._note(path, "uniqueItems")
        return {"type": "array", "prefixItems": made} if made else {"type": "array", "const": []}

    def _string(self, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        least, most = _count(node.get("minLength")) or 0, _count(node.get("maxLength"))
        if most is not None and least > most:
            return None
        lengths = [key for key in ("minLength", "maxLength") if key in node and node[key] != 0]
        pattern, form = node.get("pattern"), node.get("format")
        form = form if isinstance(form, str) else None
        shown = _hints(node, "format")
        if isinstance(pattern, str):
            if form is not None:
                self._note(path, "format")
            found = grammar_pattern(pattern, least, most)
            if found is None:
                self._note(path, "pattern")
        else:
            known = FORMAT_PATTERNS.get(form or "")
            found = None if known is None else grammar_pattern(known, least, most)
            if form in FORMATS:
                size = FORMATS[form]
                if lengths and not (size is not None and least <= size and (most is None or size <= most)):
                    self._note(path, *lengths)
                return {"type": "string", **shown}
            if form is not None and found is None:
                self._note(path, "format")
        if found is not None:
            if not found.keeps(least, most):
                self._note(path, *lengths)
            return {"type": "string", "pattern": found.text, **shown}
        bounds: JsonObject = {"minLength": least} if least else {}
        if most is not None and most > MAX_MOST_CHARS:
            self._note(path, "maxLength")
        elif most is not None:
            bounds["maxLength"] = most
        return {"type": "string", **bounds, **shown}

    def _number(self, name: str, node: JsonObject, path: SchemaPath) -> JsonObject | None:
        step = _fraction(node.get("multipleOf")) or None  # 0 is none
        if name == "number" and step is not None and step.denominator == 1:
            name = "integer"
        bounds = _hints(node, *BOUNDS)
        if name == "integer":
            return self._integer(node, path, step)
        low, high, over, under = (_fraction(bound(node, keyword)) for keyword in BOUNDS)
        least = max((value for value in (low, over) if value is not None), default=None)
        most = min((value for value in (high, under) if value is not None), default=None)
        if least is not None and most is not None and (step is not None or self._strict):
            unit = step or (STEP if most - least <= MAX_SPAN else None)
            values = [] if unit is None else _multiples(least, most, unit, MAX_SPAN * 100 + 1)
            values = [value for value in values if value not in (over, under)]
            if values:
                return {"enum": [_json_number(value) for value in values]}
        self._note(path, *(key for key in BOUNDS if bound(node, key) is not None))
        if step is not None:
            self._note(path, "multipleOf")
        return {"type": "number", **bounds, **_hints(node, "multipleOf")}

    def _integer(self, node: JsonObject, path: SchemaPath, step: Fraction | None) -> JsonObject | None:
        least, most = integer_bounds(node)
        if least is not None and most is not None and least > most:
            return None
        if least is not None and least > MOST_DIGITS and (most is None or most > MAX_INTEGER):
            self._note(path, "minimum")  # no integer that llama.cpp writes, and it would never end to write the bound
            least = None
        if most is not None and most < -MOST_DIGITS and (least is None or least < -MAX_INTEGER):
            self._note(path, "maximum")
            most = None
        if step is not None and (1 / step).denominator != 1:  # else every integer is a multiple
            unit = Fraction(step.numerator)  # of integers these are the multiples: 3/2 has 3, 6, ...
            within = least is not None and most is not None
            values = _multiples(Fraction(least or 0), Fraction(most or 0), unit, MAX_MULTIPLES) if within else []
            if values:
                return {"enum": [int(value) for value in values]}
            if within and (most or 0) - (least or 0) < step:
                return None
            self._note(path, "multipleOf")
        made: JsonObject = {"type": "integer", **_hints(node, "multipleOf")}
        if least is not None and (least > -MOST_DIGITS or (most or 0) < -MOST_DIGITS):
            made["minimum"] = least
        if most is not None and (most < MOST_DIGITS or (least or 0) > MOST_DIGITS):
            made["maximum"] = most
        return made


def _are_too_many_conditions(members: list[JsonValue], beside: JsonObject) -> bool:
    """Whether alternatives only say which properties are required, and are not worth as many copies of the object."""
    conditions = all(isinstance(each, dict) and ASSERTING & each.keys() <= {"required", "type"} for each in members)
    return conditions and len(members) * len(dict_of(beside.get("properties"))) > MAX_CONDITIONS


def _with_own_scope(member: JsonObject) -> JsonObject:
    """A schema to be merged into another: what it calls unevaluated is what it does not name itself."""
    made = dict(member)
    for keyword, own in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if keyword in made:
            value = made.pop(keyword)
            made.setdefault(own, value)
    return made


def _both(beside: JsonObject, member: JsonValue) -> JsonValue:
    if member is False:
        return False
    return {**beside, ALSO: [*list_of(beside.get(ALSO)), member]}


def _count(value: JsonValue) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fraction(value: JsonValue) -> Fraction | None:
    """A number as it is written: 0.1 is a tenth."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= NO_BOUND:
        return None
    return Fraction(str(value))


def _multiples(least: Fraction, most: Fraction, step: Fraction, limit: int) -> list[Fraction]:
    """Every multiple of `step` between bounds; none where there are more than `limit`."""
    if step <= 0:
        return []
    first, last = math.ceil(least / step), math.floor(most / step)
    return [step * number for number in range(first, last + 1)] if last - first < limit else []


def _json_number(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _numbered(base: str, number: int) -> str:
    return base if number == 0 else f"{base}{number + 1}"


def _hints(node: JsonObject, *keywords: str) -> JsonObject:
    """Keywords that llama.cpp passes over, and that a model can read."""
    return {key: node[key] for key in keywords if key in node}
