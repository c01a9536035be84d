"""Files that run by themselves when somebody works in a folder: no tool changes them. Pure.

A person's shell, editor, version control or agent reads each of them outside of any sandbox, often without asking. What
is run on purpose (a Makefile, a script of package.json) is not among them: whoever runs it can read it first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ProtectedPath:
    """Names that follow each other somewhere in a path, and why nothing at or below them is changed."""

    parts: tuple[str, ...]
    why: str


PROTECTED: Final = (
    ProtectedPath((".git",), "git runs its hooks, and programs that its configuration names"),
    ProtectedPath((".hg",), "Mercurial runs hooks that its configuration names"),
    ProtectedPath((".svn",), "Subversion keeps the state of the working copy there"),
    ProtectedPath((".envrc",), "direnv runs it when somebody enters the folder"),
    ProtectedPath((".direnv",), "direnv runs what lies there when somebody enters the folder"),
    ProtectedPath(("node_modules", ".bin"), "npm and editors run programs from there by name"),
    ProtectedPath((".husky",), "git runs them as hooks"),
    ProtectedPath((".vscode",), "editors run its tasks, and programs that its settings name"),
    ProtectedPath((".idea",), "editors run its configurations"),
    ProtectedPath((".claude",), "an agent runs the hooks and commands that its settings name"),
    ProtectedPath((".cursor",), "an agent runs the commands that its settings name"),
    ProtectedPath((".gemini",), "an agent runs the commands and servers that its settings name"),
    ProtectedPath((".codex",), "an agent starts the servers that its settings name"),
    ProtectedPath((".opencode",), "an agent runs the programs that lie there"),
    ProtectedPath(("opencode.json",), "an agent starts the servers that it names"),
    ProtectedPath(("opencode.jsonc",), "an agent starts the servers that it names"),
    ProtectedPath((".mcp.json",), "agents start the servers that it names"),
)
FIRST_NAMES: Final = frozenset(rule.parts[0] for rule in PROTECTED)


def protection_of(parts: Sequence[str], rules: Sequence[ProtectedPath] = PROTECTED) -> ProtectedPath | None:
    """What protects the path of these components, counted from the root; None where nothing does.

    Names count as file systems that fold case, or take no notice of invisible characters, would read them.
    """
    plain = [_plain(part) for part in parts]
    for rule in rules:
        length = len(rule.parts)
        if any(tuple(plain[at : at + length]) == rule.parts for at in range(len(plain) - length + 1)):
            return rule
    return None


def _plain(name: str) -> str:
    if not name.isascii():
        name = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return name.casefold()
