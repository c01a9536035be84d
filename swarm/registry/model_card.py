"""What a model's own files say of it, for those who show it: header, chat template and licence. Nothing is loaded.

The keys are those of GGUF, of MLX models too: `general.architecture`, `ARCHITECTURE.context_length`, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from swarm.errors import SetupError
from swarm.registry.gguf_bytes import GgufDefect, Header, read_header
from swarm.registry.gguf_header import GgufFacts

TEMPLATE_KEY, LICENSE_KEY = "tokenizer.chat_template", "general.license"
MAX_TEXT_BYTES: Final = 1 << 20  # of a template; real ones have up to 30 KB
MOST_SHOWN_ITEMS: Final = 64  # of an array: one for each layer, and not a vocabulary
_OWN_FIELDS: Final = frozenset({TEMPLATE_KEY, "general.name"})  # told apart from the rest, or nobody's business

CardValue = str | int | float | bool | tuple[int | float | bool, ...] | None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """`info` by key: arrays that are too long to show, and those of texts, are None. "" for what the files do not say.

    `template` is in Jinja, but of Ollama's models in Go's language, as it keeps them.
    """

    info: Mapping[str, CardValue] = field(default_factory=dict[str, CardValue])
    template: str = ""
    license: str = ""


def read_card(facts: GgufFacts, template: Path | None = None) -> ModelCard:
    """The card of the model with such `facts`; `template` is the file of its template, where it has one. Blocks.

    Raises SetupError where its files cannot be read any more.
    """
    first = facts.parts[0]
    try:
        own = "" if template is None else _text(template)
        if first.suffix == ".safetensors":
            return ModelCard(_counted(facts), own or _mlx_template(first.parent))
        with first.open("rb") as file:
            header = read_header(file, first.stat().st_size, lambda _: True, most_string_bytes=MAX_TEXT_BYTES)
    except OSError as error:
        raise SetupError(f"cannot read {first}: {error.strerror or error}") from error
    except GgufDefect as defect:
        raise SetupError(f"cannot use {first}: {defect}") from defect
    info = {**_values(header), **_counted(facts)}
    return ModelCard(info, own or _said(header, TEMPLATE_KEY), _said(header, LICENSE_KEY))


def _values(header: Header) -> dict[str, CardValue]:
    told: dict[str, CardValue] = {}
    for key in sorted(header.keys - _OWN_FIELDS):
        value = header.values.get(key)
        told[key] = None if isinstance(value, tuple) and len(value) > MOST_SHOWN_ITEMS else value
    return told


def _counted(facts: GgufFacts) -> dict[str, CardValue]:
    """What was worked out, or is in every header."""
    counts: dict[str, CardValue] = {
        "general.architecture": facts.architecture,
        "general.parameter_count": facts.params,
        f"{facts.architecture}.context_length": facts.context_tokens,
        f"{facts.architecture}.embedding_length": facts.embedding_length,
        f"{facts.architecture}.block_count": facts.layers,
    }
    return {key: value for key, value in counts.items() if value is not None}


def _said(header: Header, key: str) -> str:
    value = header.values.get(key)
    return value if isinstance(value, str) else ""


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")


def _mlx_template(folder: Path) -> str:
    """Of a folder of an MLX model: a file of its own, else what its tokenizer's configuration has."""
    if (own := folder / "chat_template.jinja").is_file():
        return _text(own)
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            found: object = json.loads(_text(folder / name))
        except (OSError, ValueError, RecursionError):
            continue
        template = cast("dict[str, Any]", found).get("chat_template") if isinstance(found, dict) else None
        if isinstance(template, str):
            return template
    return ""
