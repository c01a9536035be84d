"""Schemas in the words of llama.cpp's grammars."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.engines.llama_cpp.grammar import MAX_PATTERN_CHARS, grammar_pattern, grammar_schema, whole_document

UNSAFE = r'"\\\x00-\x1F'


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"^[a-z]+$", r"^[a-z]+$"),
        (r"^\d{3}-\w+$", r"^[0-9]{3}-[A-Za-z0-9_]+$"),
        (r"^[\w.+-]+@[\w-]+\.[a-z]{2,}$", r"^[A-Za-z0-9_.+-]+@[A-Za-z0-9_-]+\.[a-z]{2,}$"),
        (r"^.*$", rf"^[^{UNSAFE}]*$"),
        (r"^[^@]+@[^@]+$", rf"^[^{UNSAFE}@]+@[^{UNSAFE}@]+$"),
        (r"^\S+\s$", r'^[^"\\\x00-\x20]+[ ]$'),
        (r"^(?:a|b)c?$", r"^(?:a|b)c?$"),
        (r"^\(\d+\)$", r"^\([0-9]+\)$"),
    ],
)
def test_a_pattern_matches_only_what_json_text_may_hold(pattern: str, written: str) -> None:
    assert grammar_pattern(pattern) == written


@pytest.mark.parametrize(
    "pattern",
    [
        "abc",  # anywhere in the text: no grammar says that
        r"^(?=a)b$",
        r"^(a)\1$",
        r"^(?P<x>a)$",
        r"^a\b$",
        r"^\u0041$",
        r"^\n$",
        '^"$',
        r"^[\\]$",
        '^["]$',
        "^[ -~]$",
        r"^[\S]$",
        r"^a\$",
        "^a$b$",
        "^" + "a" * MAX_PATTERN_CHARS + "$",
    ],
)
def test_a_pattern_that_is_not_certain_leaves_the_text_free(pattern: str) -> None:
    assert grammar_pattern(pattern) is None
    assert grammar_schema({"type": "string", "pattern": pattern}) == {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"properties": {"a": True}, "items": True}, {"properties": {"a": {}}, "items": {}}),
        ({"additionalProperties": True}, {"additionalProperties": True}),
        ({"const": {"$ref": "#", "pattern": "x"}}, {"const": {"$ref": "#", "pattern": "x"}}),
        ({"properties": {"pattern": {"type": "string"}}}, {"properties": {"pattern": {"type": "string"}}}),
        ({"allOf": [{"type": "integer", "minimum": 3}]}, {"type": "integer", "minimum": 3}),
        ({"title": "T", "allOf": [{"$ref": "#/$defs/A"}]}, {"title": "T", "$ref": "#/$defs/A"}),
        ({"allOf": [{"type": "string"}, {"minLength": 3}]}, {"type": "string", "minLength": 3}),
        ({"allOf": [{"minLength": 2}, {"minLength": 3}]}, {"allOf": [{"minLength": 2}, {"minLength": 3}]}),
        ({"allOf": [{"$ref": "#/a"}, {"$ref": "#/b"}]}, {"allOf": [{"$ref": "#/a"}, {"$ref": "#/b"}]}),
    ],
)
def test_what_llama_cpp_would_refuse_or_misread_is_said_in_its_words(schema: Any, written: Any) -> None:
    assert grammar_schema(schema) == written


def test_a_schema_that_refers_to_itself_is_moved_below_a_root() -> None:
    node: Any = {"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    moved = whole_document(node)
    assert moved["$ref"] == "#/$defs/root"
    assert moved["$defs"] == {"root": {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/root"}, {"type": "null"}]}}}}
    plain: Any = {"properties": {"v": {"$ref": "#/$defs/V"}}, "$defs": {"V": {"type": "string"}}}
    assert whole_document(plain) == plain
