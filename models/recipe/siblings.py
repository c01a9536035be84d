"""The three models that one recipe makes: same tokenizer and mixture, other weights and other documents."""

from __future__ import annotations

SEEDS = {"demo": 1, "demo:b": 2, "demo:c": 3}
MAIN = "demo"


def file_stem(name: str) -> str:
    """How the sibling's files are called: `demo:b` is in `demo-b.gguf`."""
    return name.replace(":", "-")
