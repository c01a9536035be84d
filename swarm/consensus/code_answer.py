"""Answers that are code: equal where the programs are, whatever their comments and layout; otherwise alike by token.

Nothing is run. Python is compared by its syntax tree; other languages by their tokens, in those that give layout no
meaning, and by their lines in the rest.

Fenced code blocks in Markdown, found line by line.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from swarm.consensus.text_answer import Bag, bag_of, overlap

_FENCES = ("```", "~~~")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language tag in lower case ("" without one) and the dedented code."""

    language: str
    code: str


def fenced_blocks(text: str) -> tuple[Block, ...]:
    """The fenced blocks of `text` in order; one that never closes runs to the end."""
    return _split(text)[0]


def is_one_block(text: str) -> bool:
    """`text` is a single fenced block and nothing else."""
    blocks, outside = _split(text)
    return len(blocks) == 1 and not outside


def _split(text: str) -> tuple[tuple[Block, ...], bool]:
    """The blocks, and whether anything but white space stands outside of them."""
    blocks: list[Block] = []
    outside = False
    fence, language, inside = "", "", list[str]()
    for line in text.splitlines():
        stripped = line.strip()
        if not fence:
            fence = _opening(stripped)
            language = _language(stripped[len(fence) :]) if fence else ""
            outside = outside or (not fence and bool(stripped))
        elif stripped.startswith(fence) and not stripped.strip(fence[0]):
            blocks.append(_block(language, inside))
            fence, inside = "", []
        else:
            inside.append(line)
    if fence:
        blocks.append(_block(language, inside))
    return tuple(blocks), outside


def _opening(line: str) -> str:
    """The fence that `line` opens with, at its full length; empty if none (an info string holds no backtick)."""
    for fence in _FENCES:
        if line.startswith(fence):
            run = line[: len(line) - len(line.lstrip(fence[0]))]
            return "" if "`" in line[len(run) :] else run
    return ""


def _language(info: str) -> str:
    words = info.replace("{", " ").replace(",", " ").split()
    return words[0].lstrip(".").lower() if words else ""


def _block(language: str, lines: list[str]) -> Block:
    return Block(language, textwrap.dedent("\n".join(lines)))


MAX_BLOCKS = 32
MAX_CODE_CHARS = 50_000  # of one block; a syntax tree takes about 100 times its source in memory

_PYTHON = frozenset({"python", "py", "python3", "py3"})
_SLASH_COMMENTS = frozenset(
    {"c", "h", "cc", "cpp", "c++", "cs", "csharp", "css", "d", "dart", "go", "golang", "java", "javascript", "js"}
    | {"jsx", "kotlin", "kt", "objc", "php", "proto", "rust", "rs", "scala", "solidity", "swift", "ts", "tsx"}
    | {"typescript", "zig"}
)
_DASH_COMMENTS = frozenset({"lua", "sql", "postgresql", "mysql", "sqlite"})
_NOT_CODE = frozenset(
    {"text", "txt", "plain", "plaintext", "output", "log", "markdown", "md", "mermaid", "latex", "tex", "math", "csv"}
)

# Strings may stay open to the end of the line: an alternative that always matches keeps the scan linear.
_STRING = r"\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?"
_REST = r"(?P<space>\s+)|\w+|[^\w\s]"
_SLASH_TOKENS = re.compile(rf"(?P<comment>//[^\n]*|/\*(?s:.*?)(?:\*/|\Z))|{_STRING}|{_REST}")
_DASH_TOKENS = re.compile(rf"(?P<comment>--[^\n]*|/\*(?s:.*?)(?:\*/|\Z))|{_STRING}|{_REST}")
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, eq=False)
class CodeAnswer:
    """`key` is every block in comment-free form; `tokens` all blocks' tokens together."""

    key: tuple[tuple[str, str], ...]
    tokens: Bag

    def likeness(self, other: CodeAnswer) -> float:
        """The overlap of the tokens, 0..1; 1 for the same program."""
        return 1.0 if self.key == other.key else overlap(self.tokens, other.tokens)


def read_code(text: str) -> CodeAnswer | None:
    """The code in `text`'s fenced blocks, or None: there is none, too much, or Python that does not parse."""
    blocks = [block for block in fenced_blocks(text) if block.language not in _NOT_CODE and block.code.strip()]
    if not blocks or len(blocks) > MAX_BLOCKS or any(len(block.code) > MAX_CODE_CHARS for block in blocks):
        return None
    forms: list[tuple[str, str]] = []
    for block in blocks:
        form = _form(block)
        if form is None:
            return None
        forms.append(form)
    return CodeAnswer(tuple(forms), bag_of(token for block in blocks for token in _WORDS.findall(block.code)))


def _form(block: Block) -> tuple[str, str] | None:
    """How the block is compared, and its comparable form; None for Python that does not parse."""
    if block.language in _PYTHON or not block.language:
        tree = _syntax_tree(block.code)
        if tree is not None or block.language:
            return None if tree is None else ("python", tree)
    if block.language in _SLASH_COMMENTS:
        return block.language, "\n".join(_tokens(_SLASH_TOKENS, block.code))
    if block.language in _DASH_COMMENTS:
        return block.language, "\n".join(_tokens(_DASH_TOKENS, block.code))
    lines = (line.expandtabs().rstrip() for line in block.code.splitlines())
    return block.language, "\n".join(line for line in lines if line)


def _tokens(pattern: re.Pattern[str], code: str) -> Iterator[str]:
    for match in pattern.finditer(code):
        if match.lastgroup not in ("comment", "space"):
            yield match.group()


def _syntax_tree(code: str) -> str | None:
    """The tree of Python source without comments and docstrings, as text; None if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's "\d" is none of this process's business
            tree = ast.parse(code)
        for node in ast.walk(tree):
            _drop_docstring(node)
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested beyond the parser's stack
        return None


def _drop_docstring(node: ast.AST) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                node.body = rest
            case _:
                pass
