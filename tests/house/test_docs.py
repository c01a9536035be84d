"""What documents and docstrings say of files: each named file exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
NAMED: Final = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|json|sh))`")
MADE: Final = {
    "config.toml",
    "control.json",
    "engine.json",
    "engines.json",
    "opencode.json",
    "trail-1.json",
    "uv.toml",
    "given_names.json",
    "usage.json",
    "weights.json",
}  # that a user or a run makes


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_every_file_that_is_named_exists() -> None:
    files = tracked()
    endings = {"/".join(parts[start:]) for file in files for parts in [file.split("/")] for start in range(len(parts))}
    readers = [file for file in files if (file.endswith(".md") and file != "CHANGELOG.md") or file.endswith(".py")]
    missing = {
        f"{reader}: {name}"
        for reader in readers
        for name in NAMED.findall((ROOT / reader).read_text(encoding="utf-8"))
        if name not in endings and name not in MADE
    }
    assert not missing, "\n".join(sorted(missing))


LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
HEADING: Final = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, spaces to hyphens, without other punctuation."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_within_the_documents_leads_somewhere() -> None:
    broken: list[str] = []
    for reader in (file for file in tracked() if file.endswith(".md")):
        for target in LINK.findall((ROOT / reader).read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            page = (ROOT / reader).parent / name if name else ROOT / reader
            if not page.exists() or (anchor and page.suffix == ".md" and anchor not in anchors_of(page)):
                broken.append(f"{reader}: {target}")
    assert not broken, "\n".join(broken)


EXAMPLE: Final = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_example_in_python_is_a_program_as_it_stands() -> None:
    examples = [
        (file, example)
        for file in tracked()
        if file.endswith(".md")
        for example in EXAMPLE.findall((ROOT / file).read_text(encoding="utf-8"))
    ]
    assert examples
    for file, example in examples:
        compile(example, file, "exec")  # without flags: `await` outside of a function is no program
