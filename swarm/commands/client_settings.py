"""The programs that are known to work with a node, from `clients.toml`: what each needs to be told, and what it lacks.

`swarm launch` starts those that have a `launch` table; docs/clients/ and docs/compatibility.md are made from the rest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

CLIENTS_FILE: Final = Path(__file__).with_name("clients.toml")
CELLS: Final = ("text", "stream", "tools", "structured", "cancel", "errors")  # what each client is tried for
ClientKind = Literal["agent", "application", "command", "sdk", "framework"]


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """One client. `packages` are `npm:NAME` or `pypi:NAME`, of which the first is the client itself.

    `settings` are lines of text with {url}, {key}, {model} and {context} in them, to be written where `where` says.
    `lacks` has the cells that it cannot have, each with whose limit that is and why.
    """

    id: str
    title: str
    kind: ClientKind
    api: str  # which of a node's APIs it speaks: "chat", "responses", "messages", "ollama", or several with commas
    packages: Sequence[str]
    install: str
    where: str
    settings: Sequence[str]
    notes: Sequence[str] = ()
    phones_home: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict[str, str])
    prompt_tokens: int | None = None  # what it says before its user does, as measured


def client_entries(file: Path = CLIENTS_FILE) -> tuple[ClientEntry, ...]:
    """Every client of the file, in its order."""
    tables = cast("dict[str, dict[str, Any]]", tomllib.loads(file.read_text(encoding="utf-8")))
    return tuple(ClientEntry(name, **table) for name, table in tables.items())
