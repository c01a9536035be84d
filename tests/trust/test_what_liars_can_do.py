"""The section of docs/trust.md on liars: every sentence of a table names a test, and every test named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_FILE = "hostile/test_one_liar.py"
_NAMED = re.compile(r"`([\w/]*\.py)?(?:::(test_\w+))?`")


def section() -> str:
    text = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    return text.partition("## What liars can do")[2].partition("\n## ")[0]


def rows() -> list[str]:
    """The lines of its tables that are claims."""
    return [line for line in section().splitlines() if line.startswith("| ") and not line.startswith("| | test")]


def named(text: str) -> list[tuple[str, str | None]]:
    found = [(match[1] or DEFAULT_FILE, match[2]) for match in _NAMED.finditer(text) if match[1] or match[2]]
    return [(file, test) for file, test in found if file != "benchmarks/liars.py"]


def test_there_is_a_section_with_claims() -> None:
    assert len(rows()) > 10


@pytest.mark.parametrize("row", rows())
def test_every_sentence_of_a_table_has_its_test(row: str) -> None:
    *_, last, _ = row.split("|")
    assert named(last), row


@pytest.mark.parametrize(("file", "test"), named(section()))
def test_every_test_named_is_there(file: str, test: str | None) -> None:
    path = ROOT / "tests" / file
    assert path.is_file(), file
    assert test is None or re.search(rf"^(async )?def {test}\b", path.read_text(encoding="utf-8"), re.MULTILINE), test
