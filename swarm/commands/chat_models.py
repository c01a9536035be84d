"""What a conversation knows of the models that could answer it, as the node tells it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote

from federation.printable_text import clean_line
from swarm.commands.chat_commands import nearest
from swarm.commands.node_client import NodeApi, get_json
from swarm.errors import SwarmError


class KnownModels:
    """What the node says of its models: by id, as `/v1/models` has them. Empty where it does not answer."""

    def __init__(self, api: NodeApi) -> None:
        self._api = api
        self._known: dict[str, Mapping[str, Any]] = {}
        self._looked = False

    def look(self) -> None:
        """Ask the node; what was known stays where it does not answer."""
        self._looked = True
        with suppress(SwarmError):
            data: object = get_json(self._api, "/v1/models").get("data")
            entries = cast("list[object]", data) if isinstance(data, list) else []
            found = [cast("Mapping[str, Any]", entry) for entry in entries if isinstance(entry, dict)]
            self._known = {str(entry["id"]): entry for entry in found if _is_name(entry.get("id"))}

    def names(self) -> list[str]:
        """Their ids; the node is asked once."""
        if not self._looked:
            self.look()
        return list(self._known)

    def lines(self) -> list[str]:
        return [f"{name}  {self._known[name].get('state', '')}" for name in self.names()]

    def named(self, name: str) -> Mapping[str, Any]:
        """What the node says of one, by any of its names. Raises SwarmError as it refuses it, with the nearest."""
        try:
            entry = get_json(self._api, f"/v1/models/{quote(name, safe='')}")
        except SwarmError as error:
            self.look()
            near = nearest(name, self.names())
            raise SwarmError(f"{error}" + (f" (did you mean {near}?)" if near else "")) from error
        if _is_name(entry.get("id")):
            self._known[name] = entry
        return entry

    def context_tokens(self, name: str) -> int | None:
        tokens = self._known.get(name, {}).get("context_tokens")
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    def seeing(self) -> list[str]:
        """Those that see pictures."""
        return [name for name in self.names() if sees(self._known[name])]


def _is_name(name: object) -> bool:
    """Whether it can be shown and typed as it is."""
    return isinstance(name, str) and bool(name) and clean_line(name) == name


def sees(entry: Mapping[str, Any]) -> bool:
    modalities: object = entry.get("modalities")
    kinds: object = cast("Mapping[str, object]", modalities).get("input") if isinstance(modalities, dict) else None
    return isinstance(kinds, list) and "image" in cast("list[object]", kinds)
