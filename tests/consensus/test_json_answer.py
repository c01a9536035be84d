"""JSON answers: one key per value, schemas kept, and likeness leaf by leaf."""

import pytest
from pydantic import JsonValue

from swarm.consensus.answers import AbstainReason, Flaw
from swarm.consensus.json_answer import JsonAnswer, read_demanded_json, read_volunteered_json
from swarm.generation import JsonObject, JsonSchemaFormat, ResponseFormat

ANY_OBJECT = ResponseFormat(type="json_object")


def by_schema(schema: JsonObject) -> ResponseFormat:
    return ResponseFormat(type="json_schema", json_schema=JsonSchemaFormat(schema=schema))


def answer(text: str, form: ResponseFormat = ANY_OBJECT) -> JsonAnswer:
    read = read_demanded_json(text, form)
    assert isinstance(read, JsonAnswer), read
    return read


def flaw(text: str, form: ResponseFormat = ANY_OBJECT) -> AbstainReason:
    read = read_demanded_json(text, form)
    assert isinstance(read, Flaw), read
    return read.reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ('{"a": 1}', '{"a": 1.0}'),
        ('{"a": 100}', '{"a": 1e2}'),
        ('{"a": 0}', '{"a": -0.0}'),
        ('{"a": 100000000000000000000}', '{"a": 1e20}'),
        ('{"a": "\u00e9"}', '{"a": "e\u0301"}'),
        ('{"a": "\u00e9"}', '{"a": "\\u00e9"}'),
        ('{"a": 1}', 'Here you are:\n```json\n{"a": 1}\n```\nBye.'),
        ('{"a": 1}', '```\n{"a": 1}\n```'),
    ],
)
def test_equal_values_have_one_key(one: str, other: str) -> None:
    assert answer(one).key == answer(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 0}', '{"a": null}'),
        ('{"a": []}', '{"a": {}}'),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}'),
        ('{"a": 9007199254740993}', '{"a": "9007199254740993"}'),
        ('{"a": 9007199254740993}', '{"a": "\\u00009007199254740993"}'),
    ],
)
def test_different_values_have_different_keys(one: str, other: str) -> None:
    assert answer(one).key != answer(other).key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        '{"a": 1',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999999}',
        '{"a": ' + "9" * 100_000 + "}",
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        "[" * 100_000,
        '{"a":' * 500 + "1" + "}" * 500,
        '{"a": [' + "1," * 20_000 + "1]}",
        '{"a": "' + "x" * 300_000 + '"}',
    ],
)
def test_what_two_machines_would_not_read_alike_is_no_json(text: str) -> None:
    assert flaw(text) is AbstainReason.NOT_JSON


SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer", "default": 3},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "object", "properties": {"hot": {"type": "boolean", "default": False}}}},
}


@pytest.mark.parametrize(
    "text", ['{"count": 1}', '{"name": 5}', '{"name": "x", "count": 1.5}', '{"name": "x", "extra": 1}', "[]", "null"]
)
def test_what_breaks_the_schema_abstains(text: str) -> None:
    assert flaw(text, by_schema(SCHEMA)) is AbstainReason.BREAKS_SCHEMA


def test_json_object_means_an_object() -> None:
    assert flaw("[1]") is AbstainReason.BREAKS_SCHEMA


@pytest.mark.parametrize(
    ("spelled_out", "short"),
    [
        ('{"name": "x", "count": 3}', '{"name": "x"}'),
        ('{"name": "x", "count": 3.0}', '{"name": "x"}'),
        ('{"name": "x", "tags": [{"hot": false}]}', '{"name": "x", "tags": [{}]}'),
    ],
)
def test_a_default_that_is_spelled_out_splits_no_vote(spelled_out: str, short: str) -> None:
    assert answer(spelled_out, by_schema(SCHEMA)).key == answer(short, by_schema(SCHEMA)).key


def test_a_value_other_than_the_default_counts() -> None:
    form = by_schema(SCHEMA)
    assert answer('{"name": "x", "count": 4}', form).key != answer('{"name": "x"}', form).key


def test_a_remark_that_is_required_is_validated_and_not_compared() -> None:
    properties: JsonObject = {
        "verdict": {"type": "string"},
        "why": {"type": "string", "minLength": 3, "x-swarm-remark": True},
    }
    form = by_schema({"type": "object", "properties": properties, "required": ["verdict", "why"]})
    for broken in ('{"verdict": "yes"}', '{"verdict": "yes", "why": 5}', '{"verdict": "yes", "why": "no"}'):
        assert flaw(broken, form) is AbstainReason.BREAKS_SCHEMA
    one, other, no = (
        answer(f'{{"verdict": "{verdict}", "why": "{why}"}}', form).key
        for verdict, why in (("yes", "it fits"), ("yes", "as asked"), ("no", "it fits"))
    )
    assert (one == other, one == no) == (True, False)


def fork(n: int) -> JsonObject:
    twice: list[JsonValue] = [{"$ref": f"#/$defs/d{n + 1}"}] * 2
    return {"anyOf": twice}


ENDLESS: JsonObject = {
    "$defs": {**{f"d{n}": fork(n) for n in range(60)}, "d60": {"type": "string"}},
    "$ref": "#/$defs/d0",
}


UNJUDGEABLE: list[JsonObject] = [
    ENDLESS,
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
    {"not": {"$ref": "#"}},
    {"$defs": {"a": {"not": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "$ref": "#/$defs/a"},
    {"$ref": "https://example.invalid/schema.json"},
    {"$ref": "file:///etc/passwd"},
    {"type": "nonsense"},
    {"properties": 5},
    {"properties": {"a": {"$ref": 5}}},
    {"properties": {"a": {"multipleOf": 0}}},
    {"required": 5},
    {"allOf": [{"patternProperties": {"(x+x+)+y": {}}}], "unevaluatedProperties": False},
    {"properties": {"a": {"pattern": r"^(x+)\1$"}}},
    {"properties": {"a": {"pattern": "(?=y)"}}},
]
JUDGED: list[JsonObject] = [  # in linear time
    {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"pattern": "(x+x+)+y"}}},
    {"properties": {"a": {"pattern": "(x+x+)+y"}}},
    {"patternProperties": {"(x+x+)+y": {"type": "string"}}, "additionalProperties": False},
    {"patternProperties": {"^(x+x+)+$": {"type": "string"}}},
    {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "(x+x+)+y"}}},
]


@pytest.mark.parametrize("schema", UNJUDGEABLE)
def test_a_schema_that_cannot_be_judged_in_bounded_time_refuses_nobody(schema: JsonObject) -> None:
    hostile = "x" * 60
    assert answer(f'{{"a": "{hostile}", "{hostile}": 1}}', by_schema(schema)).key


@pytest.mark.parametrize("schema", JUDGED)
def test_an_expression_is_judged_however_python_would_read_it(schema: JsonObject) -> None:
    hostile = "x" * 60
    assert flaw(f'{{"a": "{hostile}", "{hostile}": 1}}', by_schema(schema)) is AbstainReason.BREAKS_SCHEMA


def test_unique_items_are_told_apart_by_value() -> None:
    form = by_schema({"type": "array", "uniqueItems": True})
    assert flaw('[{"a": 1}, {"a": 1.0}]', form) is AbstainReason.BREAKS_SCHEMA
    assert answer('[1, "1", true, [1], {"a": 1}]', form).key


def test_likeness_is_the_share_of_equal_leaves() -> None:
    one, other = answer('{"a": 1, "b": 2, "c": {"d": [1, 2]}}'), answer('{"a": 1, "b": 3, "c": {"d": [1]}}')
    assert one.likeness(other) == other.likeness(one) == 2 / 4


def test_pointers_keep_keys_with_slashes_apart() -> None:
    assert answer('{"a/b": 1}').likeness(answer('{"a": {"b": 1}}')) == 0


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("The parcel was delivered on time.", "The parcel was delivered on-time.", True),
        ("The total comes to 42 euros in all.", "The total comes to 43 euros in all.", False),
        ("The parcel was delivered on time.", "Nobody ever saw the parcel again.", False),
        ("delivered", "delivere", False),
    ],
)
def test_only_long_strings_agree_by_resemblance(one: str, other: str, agree: bool) -> None:
    assert answer(f'{{"a": "{one}"}}').likeness(answer(f'{{"a": "{other}"}}')) == float(agree)


@pytest.mark.parametrize("text", ['{"a": 1}', " [1, 2] ", '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```'])
def test_json_that_is_the_whole_reply_is_a_json_answer(text: str) -> None:
    assert read_volunteered_json(text) is not None


@pytest.mark.parametrize("text", ["", "42", '"x"', "null", 'So:\n```json\n{"a": 1}\n```', "```python\n[1]\n```", "[1"])
def test_json_within_a_reply_is_no_json_answer_unless_demanded(text: str) -> None:
    assert read_volunteered_json(text) is None
