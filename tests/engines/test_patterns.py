"""Regular expressions of schemas: read, said in the words of llama.cpp's grammars, and run."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.engines.llama_cpp.grammar_pattern import MAX_PATTERN_CHARS, grammar_pattern, said_cost
from swarm.engines.patterns import InvalidPattern, UnsupportedPattern, is_matched, read_pattern

RAW = r"\x00-\x1F\x22\x5C\x7F"  # what JSON text must escape
MAX_S = 1.0  # of processor time: a hang is for ever


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"^[a-z]+$", r"^[a-z]+$"),
        (r"^\d{3}-\w+$", r"^[0-9]{3}-[0-9A-Z_a-z]+$"),
        (r"^\/api\/[a-z]+$", r"^/api/[a-z]+$"),
        (r"^[\w-\.]+$", r"^[\x2D-.0-9A-Z_a-z]+$"),
        (r"^.*$", rf"^[^{RAW}\u2028-\u2029]*$"),
        (r"^[^@]+@x$", r"^[^\x00-\x1F\x22@\x5C\x7F]+@x$"),
        (r"^(?:a|b)c??$", r"^(a|b)[c]?$"),
        (r"^(?<x>a)$|^b$", r"^(a|b)$"),
        (r"^\(\d+\)$", r"^\([0-9]+\)$"),
        (r"^a\.*$", r"^a[.]*$"),
        (r"^\u0041\x42$", "^AB$"),
        ('^"$', r'^\\"$'),
        (r"^[\\]{2}$", r"^(\\\\){2}$"),
        (r"^\n$", r"^\\n$"),
        (r"^[ -~]$", r"^[ -!#-\x5B\x5D-~]$"),
        ("^abc", rf"^abc[^{RAW}]*$"),
        ("a$", rf"^[^{RAW}]*a$"),
        ("^(a|)$", "^(a)?$"),
        ("^$", "^$"),
        ("^é+$", "^[é]+$"),
    ],
)
def test_a_pattern_says_only_what_json_text_may_hold(pattern: str, said: str) -> None:
    found = grammar_pattern(pattern)
    assert found is not None
    assert found.text == said
    assert said_cost(said) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(?=a)b$",
        r"^(?!a)b$",
        r"^(a)\1$",
        r"^a\b$",
        r"^\p{L}$",
        r"^(?i)a$",
        r"\Aa\Z",
        "^a{,3}$",
        "^a$b$",
        "^a{2001}$",
        r"^\x01$",
        "^" + "a" * MAX_PATTERN_CHARS + "$",
    ],
)
def test_what_cannot_be_said_is_left_out(pattern: str) -> None:
    assert grammar_pattern(pattern) is None


@pytest.mark.parametrize("pattern", ["^[$", "^*$", "(", ")", "a{2,1}", "a**", "[z-a]", "a\\"])
def test_what_is_no_expression_is_told_apart(pattern: str) -> None:
    with pytest.raises(InvalidPattern):
        read_pattern(pattern)


def test_lengths_are_known_and_held_where_one_class_is_repeated() -> None:
    found = grammar_pattern("^[a-z]+$", 3, 5)
    assert found is not None
    assert (found.text, found.keeps(3, 5)) == ("^[a-z]{3,5}$", True)
    other = grammar_pattern(r"^(ab|c)\d{2}$", 0, 3)
    assert other is not None
    assert (other.least, other.most, other.keeps(3, 4), other.keeps(0, 3)) == (3, 4, True, False)


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", r"\d", ".", r"\.", "[^a]", "x-"]),
    lambda inside: st.one_of(
        st.lists(inside, min_size=1, max_size=3).map("".join),
        st.lists(inside, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inside, st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map(lambda part: f"({part[0]}){part[1]}"),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, st.text("ab1.x-é", max_size=6), st.booleans(), st.booleans())
def test_it_is_found_where_python_finds_it(expression: str, text: str, begins: bool, ends: bool) -> None:
    pattern = f"{'^' * begins}(?:{expression}){'$' * ends}"
    assert is_matched(pattern, text) == (re.search(pattern, text) is not None)
    said = grammar_pattern(pattern)
    if said is not None:
        assert is_matched(said.text, text) == is_matched(pattern, text)
        assert not is_matched(pattern, text) or (len(text) >= said.least and len(text) <= (said.most or len(text)))


@pytest.mark.parametrize(
    "pattern", ["(x+x+)+y", "^(a|a)*$", "^((a{0,40}){0,40}){0,40}$", "a?" * 300, "(.*)*z", "(?=a)"]
)
def test_no_expression_takes_long(pattern: str) -> None:
    started = time.thread_time()
    is_matched(pattern, "x" * 20_000)
    assert time.thread_time() - started < MAX_S


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)b", "[$", "a" * 1001])
def test_what_cannot_be_run_refuses_nobody(pattern: str) -> None:
    assert is_matched(pattern, "anything")


def test_a_lookaround_is_told_apart_from_what_is_none() -> None:
    with pytest.raises(UnsupportedPattern):
        read_pattern("(?<!a)b")
