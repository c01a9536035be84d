"""The programs that are known to work with a node, from `clients.toml`: what each needs to be told, and what it lacks.

`swarm launch` starts those that have a `launch` table; docs/clients/ and docs/compatibility.md are made from the rest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

CLIENTS_FILE: Final = Path(__file__).with_name("clients.toml")
CELLS: Final = ("text", "stream", "tools", "structured", "cancel", "errors")  # what each client is tried for
ClientKind = Literal["agent", "application", "command", "sdk", "framework"]
KINDS: Final[Mapping[ClientKind, str]] = {
    "agent": "Agents",
    "application": "Applications",
    "command": "Commands",
    "sdk": "SDKs",
    "framework": "Frameworks",
}  # in the order of every list, with their headings
USUAL_CONTEXT_TOKENS: Final = 32_768  # stands for {context} where a node's is not known


@dataclass(frozen=True, slots=True)
class LaunchTable:
    """How `swarm launch` starts a client: a program's name, words after it, variables to set, and others to remove.

    `words` and the values of `environment` have {url}, {key} and {model} in them; a word never has {key}, since the
    command line is for every user of the machine to see. Some clients are told more: `swarm/commands/launch.py`.
    """

    command: str
    words: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """One client. `packages` are `npm:NAME` or `pypi:NAME`, of which the first is the client itself.

    `settings` are lines of text with {url}, {key}, {model} and {context} in them, to be written where `where` says;
    those of `only_with_key` are for nodes that want a key.
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
    only_with_key: Sequence[str] = ()
    notes: Sequence[str] = ()
    phones_home: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict[str, str])
    prompt_tokens: int | None = None  # what it says before its user does, as measured
    launch: LaunchTable | None = None

    @property
    def name(self) -> str:
        """What `swarm launch` calls it: its program where it starts one, else its id."""
        return self.id if self.launch is None else self.launch.command

    def lines(self, url: str, key: str, model: str, context_tokens: int | None, *, keyless: bool = False) -> list[str]:
        """Its settings for a node at `url` (without /v1); `keyless`: one that wants no key, for which any stands."""
        context = USUAL_CONTEXT_TOKENS if context_tokens is None else context_tokens
        told = [line for line in self.settings if not (keyless and line in self.only_with_key)]
        return [line.format(url=url, key=key, model=model, context=context) for line in told]


def client_entries(file: Path = CLIENTS_FILE) -> tuple[ClientEntry, ...]:
    """Every client of the file, in its order."""
    tables = cast("dict[str, dict[str, Any]]", tomllib.loads(file.read_text(encoding="utf-8")))
    return tuple(_entry(name, table) for name, table in tables.items())


def _entry(name: str, table: Mapping[str, Any]) -> ClientEntry:
    said = dict(table)
    launch = said.pop("launch", None)
    return ClientEntry(name, **said, launch=None if launch is None else LaunchTable(**launch))


def by_kind(entries: Iterable[ClientEntry]) -> dict[str, list[ClientEntry]]:
    """The clients under their headings, agents first; each in the order of its title."""
    found = sorted(entries, key=lambda entry: entry.title.lower())
    grouped = {heading: [entry for entry in found if entry.kind == kind] for kind, heading in KINDS.items()}
    return {heading: of_kind for heading, of_kind in grouped.items() if of_kind}
