"""An upstream's list of models, in each form that servers give it: wrapped, under another name, or bare. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

MAX_MODELS = 2000  # the largest public catalogues list some 500
MAX_NAME_CHARS = 512  # what the gateway takes as a model's name


def model_names(listing: object) -> tuple[str, ...] | None:
    """The ids in `{"data": [...]}`, `{"models": [...]}` or `[...]`, each once, in their order; None if it is no list.

    Entries are objects with an `id` (OpenAI), a `name` or a `model` (Ollama), or plain strings.
    """
    if isinstance(listing, dict):
        wrapped = cast("Mapping[str, Any]", listing)
        listing = next((wrapped[key] for key in ("data", "models") if isinstance(wrapped.get(key), list)), None)
    if not isinstance(listing, list):
        return None
    names = (_name(entry) for entry in cast("list[object]", listing))
    known = dict.fromkeys(name for name in names if name and len(name) <= MAX_NAME_CHARS and name.isprintable())
    return tuple(known)[:MAX_MODELS]


def read_names(body: bytes) -> tuple[str, ...] | None:
    """The ids in a list's body; None where it is no list."""
    try:
        return model_names(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _name(entry: object) -> str | None:
    if isinstance(entry, dict):
        fields = cast("Mapping[str, object]", entry)
        entry = next((fields[key] for key in ("id", "name", "model") if fields.get(key)), None)
    return entry if isinstance(entry, str) else None
