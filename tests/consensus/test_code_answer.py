"""Code is the same where the program is, and only real code votes."""

import pytest

from swarm.consensus.code_answer import CodeAnswer, read_code


def fenced(code: str, language: str = "python") -> str:
    return f"Here:\n\n```{language}\n{code}\n```\n\nDone."


def answer(text: str) -> CodeAnswer:
    read = read_code(text)
    assert read is not None, text
    return read


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("def f(a):\n    return a+1", 'def f( a ):  # adds\n\n    """Doc."""\n    return (a + 1)', "python"),
        ("x = 'a'", 'x = "a"', "py"),
        ("  x = 1\n  y = 2", "x = 1\ny = 2", "python"),
        ("x = '\\d'", "x = '\\\\d'", "python"),
        ("let x = 1; // one", "let x=1; /* two\n */", "js"),
        ('s = "// kept"', 's  =  "// kept"', "java"),
        ("SELECT 1 -- why", "SELECT\n  1", "sql"),
        ("a: 1\n\nb: 2  ", "a: 1\nb: 2", "yaml"),
    ],
)
def test_comments_and_layout_split_no_vote(one: str, other: str, language: str) -> None:
    assert answer(fenced(one, language)).key == answer(fenced(other, language)).key


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("x = 1", "x = 2", "python"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()", "python"),
        ('s = "// one"', 's = "// two"', "js"),
        ('s = "a b"', 's = "a  b"', "js"),
        ("a:\n  b: 1\nc: 2", "a:\n  b: 1\n  c: 2", "yaml"),
        ("x = 1", "x = 1", "python|rust"),
    ],
)
def test_different_programs_stay_apart(one: str, other: str, language: str) -> None:
    first, _, second = language.partition("|")
    assert answer(fenced(one, first)).key != answer(fenced(other, second or first)).key


def test_an_untagged_block_of_python_is_python() -> None:
    assert answer(fenced("x=1", "")).key == answer(fenced("x = 1")).key


def test_every_block_counts_in_order() -> None:
    one, two = fenced("x = 1"), fenced("y = 2")
    assert answer(one + two).key != answer(two + one).key
    assert answer(one + two).key != answer(one).key


def test_a_fence_may_be_long_to_hold_a_short_one() -> None:
    assert answer("````python\ns = '''\n```\n'''\n````").key == answer("~~~python\ns = '\\n```\\n'\n~~~").key


@pytest.mark.parametrize(
    "text",
    [
        "no code at all",
        "inline `x = 1` only",
        fenced("x = = 1"),
        fenced("", "python"),
        fenced("just words", "text"),
        fenced("(" * 20_000),
        fenced("-" * 40_000 + "1"),
        fenced("1" + "+1" * 20_000),
        fenced("x" + ".a" * 20_000),
        fenced("0x" + "f" * 20_000),
        fenced("x = " + "9" * 20_000),
        fenced("x\0 = 1"),
        fenced("'\ud800'"),
        fenced("x = 1\n" * 20_000),
        "```python\nx = 1\n```\n" * 100,
    ],
)
def test_what_does_not_parse_or_is_too_much_is_no_code_answer(text: str) -> None:
    assert read_code(text) is None


def test_likeness_follows_shared_tokens() -> None:
    base = answer(fenced("def f(a, b):\n    return a + b"))
    close, far = answer(fenced("def f(a, b):\n    return a - b")), answer(fenced("print('hello')"))
    assert 1 == base.likeness(base) > base.likeness(close) > base.likeness(far)
    assert base.likeness(close) == close.likeness(base)
