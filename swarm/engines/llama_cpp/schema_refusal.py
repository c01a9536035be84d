"""Schemas that can never work, refused by name before anything is generated.

llama.cpp compiles a schema to a grammar for each request. It refuses most nonsense itself, but some it does not: a
length whose minimum is above its maximum never returns, thousands of alternatives take seconds of every other
request's time, a contradiction is answered with something that breaks the schema. What a well-formed schema may cost
is in `schema_cost.py`; all schemas of a request are one grammar, and are bounded together. Pure.

Where a schema is `strict`, it is refused for a keyword that the grammar cannot hold an answer to (`grammar.py`). Else
the answer is checked when it is there, and says what it breaks.

`is_answerable` says whether any value of finite size can keep a schema, as far as its types and references say: a list
node whose `next` must be another such node has no end, and `allOf` of a string and a number has no value. What is not
understood counts as answerable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import JsonValue

from swarm.engines.llama_cpp.demanded_answer import (
    arguments_schema,
    demanded_schema,
    is_strict,
    refuse_impossible_turns,
)
from swarm.engines.llama_cpp.grammar import MAX_INTEGER, MOST_DIGITS, TooLarge, Unkept, whole_document
from swarm.engines.llama_cpp.grammar_pattern import MAX_PATTERN_CHARS, grammar_pattern
from swarm.engines.llama_cpp.schema_cost import Cost, schema_cost, together
from swarm.engines.llama_cpp.schema_words import (
    DATA_KEYWORDS,
    NAMED_SCHEMAS,
    SchemaPath,
    bound,
    integer_bounds,
    is_integer,
    led_to,
    pointer_steps,
    target_of,
)
from swarm.engines.patterns import InvalidPattern, UnsupportedPattern, read_pattern
from swarm.errors import BadRequest
from swarm.generation import REMARK, GenerationRequest, JsonObject

MAX_STEPS = 10_000  # visits of schemas, some 20 ms; a schema that needs more is taken as it is
ALL_TYPES = frozenset({"object", "array", "string", "number", "boolean", "null"})  # an integer is a number
MAX_FOLLOWED = 32  # references in a row while types are compared

MAX_DEPTH = 64  # OpenAI allows 10; llama.cpp recurses
MAX_PARTS = 5000  # schemas within one, as at OpenAI: bounds the time of looking at it
MAX_ALTERNATIVES = (
    1000  # enum values and `anyOf` members in all, as at OpenAI: each is tried for every token (20,000: 16 s)
)
MAX_OPTIONAL = (
    256  # properties of one object: llama.cpp's grammar of optional ones grows with their square; 1,000 took 6 s
)
MAX_REPEATS = 2000  # llama.cpp's own limit for what a grammar may repeat
MAX_PATTERNS_CHARS = 10_000  # in one schema: 13 us a character to look at; those that are left out do not count
MAX_TEXT_CHARS = 20_000  # of a name, a constant or one enum value: it is written into the grammar

TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"))
LEAST, MOST = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
MEASURES = frozenset({*LEAST, *MOST, *(keyword for pair in COUNTS for keyword in pair)})


def refuse_impossible(request: GenerationRequest) -> None:
    """Raises BadRequest for what llama.cpp could answer with no model: schemas, and turns that cannot be continued."""
    refuse_foreign(request)
    refuse_impossible_schemas(request)
    refuse_impossible_turns(request)


def refuse_foreign(request: GenerationRequest) -> None:
    """Raises BadRequest for a demand on the answer's form that this engine has no way to meet."""
    name, form = request.foreign, request.response_format
    if name is not None:
        why = (
            f"{name} would constrain the answer, and cannot be enforced here: use response_format with a json_schema, "
        )
        raise BadRequest(request.foreign_why or f"{why}guided_choice or guided_regex, or leave it out", param=name)
    if form is not None and form.type != "text" and request.messages is None:
        name = form.field or "response_format"
        raise BadRequest(f"{name}: a completion cannot be held to a form here: ask /v1/chat/completions", param=name)
    if form is not None and form.type == "regex" and grammar_pattern(f"^(?:{form.regex})$") is None:
        name = form.field or "response_format.regex"
        raise BadRequest(
            f"{name}: {form.regex!r:.100} cannot be enforced: it has a lookaround, a reference, an inner anchor, a "
            "count above 2000, or could be matched in too many ways: write it without",
            param=name,
        )


def refuse_impossible_schemas(request: GenerationRequest, every_keyword: bool = True) -> None:
    """Raises BadRequest naming the field of the first schema in `request` that no answer could be held to.

    Or that costs too much to be held to, or, with `every_keyword`, that is strict and says what no grammar can keep.
    For schemas as large as they may be this takes some 100 ms.
    """
    costs: list[Cost] = []
    for number, tool in enumerate(request.tools):
        where = f"tools[{number}].function.parameters"
        parameters = tool.function.parameters
        if parameters.get("type", "object") != "object":
            raise BadRequest(f"{where}.type is {parameters['type']!r:.100}: arguments are an object", param=where)
        costs.append(
            _refuse(parameters, where, every_keyword and bool(tool.function.strict), arguments_schema(tool.function))
        )
    wanted = demanded_schema(request.response_format)
    if wanted is not None and request.response_format is not None:
        where = request.response_format.field or "response_format.json_schema.schema"
        costs.append(_refuse(wanted, where, every_keyword and is_strict(request.response_format), wanted))
    if len(costs) > 1 and (excess := together(costs).beyond()) is not None:
        raise BadRequest(f"tools: all schemas of the request together: {excess}", param="tools")


def _refuse(schema: JsonObject, where: str, strict: bool, used: JsonObject) -> Cost:
    """What `used`, the schema that is made of `schema`, costs. Raises BadRequest where no answer can be held to it."""
    look = _Look(schema)
    for path, problem in look.everywhere():
        raise BadRequest(f"{where}{_place(path)}: {problem}", param=where)
    try:
        answerable = is_answerable(schema)
        written = whole_document(used, strict)
        cost = Cost() if written.schema is None else schema_cost(written.schema)
    except RecursionError:
        raise BadRequest(f"{where}: references lead too deep to be followed", param=where) from None
    except TooLarge:
        raise BadRequest(
            f"{where}: costs too much: what `allOf`, `$ref` and alternatives put together is endless, or too large: "
            "nest fewer",
            param=where,
        ) from None
    if written.schema is None or not answerable:
        raise BadRequest(f"{where}: no value of finite size can keep this schema", param=where)
    if (excess := cost.beyond()) is not None:
        raise BadRequest(f"{where}: {excess}", param=where)
    if strict and written.unkept:
        raise BadRequest(_not_kept(where, written.unkept), param=where)
    return cost


def _place(path: SchemaPath) -> str:
    return "".join(f".{name}" if name.isidentifier() else f"[{name}]" for name in path)[:300]


def _not_kept(where: str, unkept: tuple[Unkept, ...]) -> str:
    first = unkept[0]
    others = len({each.keyword for each in unkept} - {first.keyword})
    more = f" (and {others} more keywords)" if others > 1 else " (and another keyword)" if others else ""
    return (
        f"{where}{_place(first.path)}.{first.keyword}: with strict: true, every keyword is enforced or refused, and "
        f"{first.keyword} cannot be enforced here{more}: leave it out, or leave strict out, and the answer is "
        "checked and says in swarm.schema_violations what it breaks"
    )


@dataclass(slots=True)
class _Look:
    """One walk over a schema, and what it has counted."""

    root: JsonObject
    parts: int = 0
    alternatives: int = 0
    patterns_chars: int = 0
    resolved: set[str] = field(default_factory=set[str])
    seen: set[int] = field(default_factory=set[int])  # ids of the parts that were looked at
    referred: list[tuple[JsonObject, SchemaPath]] = field(default_factory=list[tuple[JsonObject, SchemaPath]])

    def everywhere(self) -> Iterator[tuple[SchemaPath, str]]:
        """What is wrong with the whole, with its place. One is enough: the walk may be left."""
        yield from self.problems(self.root, ())
        while self.referred:  # to where nobody looks for schemas, perhaps
            yield from self.problems(*self.referred.pop())

    def problems(self, schema: JsonValue, path: SchemaPath) -> Iterator[tuple[SchemaPath, str]]:
        """What is wrong with `schema` and what is in it, with its place."""
        self.parts += 1
        if self.parts > MAX_PARTS or len(path) > 2 * MAX_DEPTH:
            yield (), f"a schema of more than {MAX_PARTS} parts or {MAX_DEPTH} levels: make it smaller"
            return
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            yield path, f"a schema is an object, not {schema!r:.60}"
            return
        if id(schema) in self.seen:
            return
        self.seen.add(id(schema))
        for problem in self._own(schema):
            yield path, problem
        for problem in _range_problems(_with_members(schema)):
            yield path, problem
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in self.resolved:
            yield from self._reference_problems(reference, path)
        for keyword, value in schema.items():
            if keyword not in DATA_KEYWORDS:
                yield from self._below(keyword, value, (*path, keyword))

    def _below(self, keyword: str, value: JsonValue, path: SchemaPath) -> Iterator[tuple[SchemaPath, str]]:
        if keyword in NAMED_SCHEMAS:
            if not isinstance(value, dict):
                yield path, "must be an object of schemas"
                return
            for name, member in value.items():
                yield from self.problems(member, (*path, name))
        elif keyword in ("anyOf", "oneOf", "allOf", "prefixItems") or (keyword == "items" and isinstance(value, list)):
            if not isinstance(value, list) or (not value and keyword != "items"):
                yield path, "must be a list of schemas, and not an empty one"
                return
            if keyword in ("anyOf", "oneOf"):
                for problem in self._count_alternatives(len(value)):
                    yield path, problem
            for number, member in enumerate(value):
                yield from self.problems(member, (*path, str(number)))
        elif keyword in ("items", "additionalProperties"):
            yield from self.problems(value, path)

    def _count_alternatives(self, more: int) -> Iterator[str]:
        self.alternatives += more
        if self.alternatives > MAX_ALTERNATIVES:
            yield f"more than {MAX_ALTERNATIVES} enum values and alternatives in one schema"

    def _own(self, schema: JsonObject) -> Iterator[str]:
        """What is wrong with a schema's own keywords."""
        yield from _type_problems(schema.get("type"))
        if not isinstance(reference := schema.get("$ref", "#"), str):
            yield f"$ref {reference!r:.100}: only references within the schema (#/$defs/...) can be followed"
        if "enum" in schema:
            yield from self._enum_problems(schema["enum"])
        yield from _range_problems(schema)
        if "pattern" in schema:
            yield from self._pattern_problems(schema["pattern"])
        yield from _property_problems(schema)
        if not isinstance(remark := schema.get(REMARK, False), bool):
            yield f"{REMARK} is {remark!r:.60}: it is true for a property that only comments on the others, or false"
        if len(str(schema.get("const", ""))) > MAX_TEXT_CHARS:
            yield f"const is longer than {MAX_TEXT_CHARS} characters"

    def _reference_problems(self, reference: str, path: SchemaPath) -> Iterator[tuple[SchemaPath, str]]:
        self.resolved.add(reference)
        if not (reference == "#" or reference.startswith("#/")):
            yield path, f"$ref {reference!r:.100}: only references within the schema (#/$defs/...) can be followed"
            return
        names = False  # whether what a step leads from has names, not keywords
        for step in pointer_steps(reference):
            if step in DATA_KEYWORDS and not names:
                yield path, f"$ref {reference!r:.100} leads into {step}, which holds values"
                return
            names = step in NAMED_SCHEMAS and not names
        target = led_to(self.root, reference)
        if target is None:
            yield path, f"$ref {reference!r:.100} leads nowhere"
        elif not isinstance(target, dict | bool):
            yield path, f"$ref {reference!r:.100} leads to no schema"
        elif isinstance(target, dict):
            self.referred.append((target, path))

    def _enum_problems(self, values: JsonValue) -> Iterator[str]:
        if not isinstance(values, list) or not values:
            yield "enum must be a list of values, and not an empty one"
            return
        yield from self._count_alternatives(len(values))
        if any(len(str(value)) > MAX_TEXT_CHARS for value in values):
            yield f"an enum value is longer than {MAX_TEXT_CHARS} characters"

    def _pattern_problems(self, pattern: JsonValue) -> Iterator[str]:
        if not isinstance(pattern, str):
            yield f"pattern is {pattern!r:.60}: it must be a regular expression"
            return
        if len(pattern) > MAX_PATTERN_CHARS:  # it is not enforced, nor looked at
            return
        self.patterns_chars += len(pattern)
        if self.patterns_chars > MAX_PATTERNS_CHARS:
            yield f"more than {MAX_PATTERNS_CHARS} characters of patterns in one schema"
            return
        try:
            read_pattern(pattern)
        except InvalidPattern as error:
            yield f"pattern {pattern!r:.100} is no regular expression: {error}"
        except (UnsupportedPattern, RecursionError):
            pass


def _type_problems(given: JsonValue) -> Iterator[str]:
    if given is None:
        return
    names = given if isinstance(given, list) else [given]
    if not names:
        yield "type is an empty list: no value has it"
    for name in names:
        if not (isinstance(name, str) and name in TYPES):
            yield f"unknown type {name!r:.60}: use {', '.join(sorted(TYPES))}"
            return
    if len(set(map(str, names))) < len(names):
        yield "type names one type twice"


def _with_members(schema: JsonObject) -> JsonObject:
    """`schema` with the counts and bounds of the members of its `allOf`, the narrowest of each."""
    members = schema.get("allOf")
    made = dict(schema)
    for member in members if isinstance(members, list) else ():
        for keyword, value in member.items() if isinstance(member, dict) else ():
            own = made.get(keyword)
            if keyword == "type" and own is None:
                made[keyword] = value
            elif keyword in MEASURES and isinstance(value, int | float) and not isinstance(value, bool):
                narrower = min if keyword.startswith(("max", "exclusiveMax")) else max
                made[keyword] = narrower(own, value) if isinstance(own, int | float) else value
    return made


def _range_problems(schema: JsonObject) -> Iterator[str]:
    for low, high in COUNTS:
        yield from _count_problems(schema, low, high)
    yield from _bound_problems(schema)


def _count_problems(schema: JsonObject, low: str, high: str) -> Iterator[str]:
    for keyword in (low, high):
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**31 - 1:
            yield f"{keyword} is {value!r:.60}: it must be a number from 0 to {2**31 - 1}"
            return
    least, most = schema.get(low, 0), schema.get(high)
    assert isinstance(least, int)
    if least > MAX_REPEATS:
        yield f"{low} is {least}: at most {MAX_REPEATS} can be enforced"
    if isinstance(most, int) and most < least:
        yield f"{low} {least} is more than {high} {most}"


def _bound_problems(schema: JsonObject) -> Iterator[str]:
    for keyword in LEAST + MOST:
        value = schema.get(keyword, 0)
        draft_4 = isinstance(value, bool) and keyword.startswith("exclusive")
        if not draft_4 and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{keyword} is {value!r:.60}: it must be a number"
            return
    for low in LEAST:
        for high in MOST:
            least, most = bound(schema, low), bound(schema, high)
            if least is None or most is None:
                continue
            if least > most:
                yield f"{low} {least} is more than {high} {most}"
            elif least == most and (low, high) != ("minimum", "maximum"):
                yield f"no number is between {low} {least} and {high} {most}"
    if is_integer(schema):
        yield from _integer_problems(*integer_bounds(schema))


def _integer_problems(least: int | None, most: int | None) -> Iterator[str]:
    """Bounds that no integer keeps, and far ones without a far one on the other side: llama.cpp never ends these."""
    if least is not None and most is not None and least > most:
        yield f"no integer is between its bounds: {least} would be the least, and {most} the most"
    elif least is not None and least > MOST_DIGITS and (most is None or most > MAX_INTEGER):
        yield f"integers of {least} or more cannot be enforced: set a maximum of at most {MAX_INTEGER}, too"
    elif most is not None and most < -MOST_DIGITS and (least is None or least < -MAX_INTEGER):
        yield f"integers of {most} or less cannot be enforced: set a minimum of at least -{MAX_INTEGER}, too"


def _property_problems(schema: JsonObject) -> Iterator[str]:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield "required must be a list of property names"
        return
    if not isinstance(properties, dict):
        return
    if any(len(name) > MAX_TEXT_CHARS for name in properties):
        yield f"a property's name is longer than {MAX_TEXT_CHARS} characters"
    if len(properties.keys() - set(map(str, required))) > MAX_OPTIONAL:
        yield f"more than {MAX_OPTIONAL} optional properties in one object"
    missing = [name for name in map(str, required) if name not in properties]
    if missing and schema.get("additionalProperties") is False:
        yield f"required names {missing[0]!r:.60}, which is no property, and no others are allowed"


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
            return schema is not False
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
        return not (isinstance(least, int) and least > 0) or self._item_has_value(schema, least)

    def _item_has_value(self, schema: JsonObject, least: int) -> bool:
        """Whether there are items enough, as far as the first that must be there says."""
        items, prefix = schema.get("items", True), schema.get("prefixItems")
        if isinstance(items, list):
            prefix, items = items, True
        if isinstance(prefix, list) and prefix:
            return all(map(self.has_value, prefix[:least])) and (least <= len(prefix) or self.has_value(items))
        return self.has_value(items)

    def _target(self, reference: str) -> JsonValue:
        return target_of(self._root, reference)

    def _types(self, schema: JsonValue, followed: int) -> frozenset[str]:
        """The types that a value of `schema` may have."""
        if not isinstance(schema, dict) or followed > MAX_FOLLOWED:
            return frozenset() if schema is False else ALL_TYPES
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
