"""Asking a running node, for the commands: plain blocking HTTP from the standard library."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from swarm.errors import SwarmError

TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 600.0  # between two pieces of an answer; heartbeats come every ten seconds


class NodeUnreachable(SwarmError):
    """Nobody answers at the node's URL."""


@dataclass(frozen=True, slots=True)
class NodeDoor:
    """Where a node answers, and the key it may want."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    def request(self, path: str, body: dict[str, Any] | None = None) -> urllib.request.Request:
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return urllib.request.Request(self.url.rstrip("/") + path, data=data, headers=headers)


def get_json(door: NodeDoor, path: str) -> dict[str, Any]:
    """The JSON object at `path` of a node. Raises SwarmError with the remedy."""
    with _open(door.request(path), TIMEOUT_S) as response:
        return json.load(response)


def post_stream(door: NodeDoor, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer. Raises SwarmError with the node's own words."""
    request = door.request(path, body)
    with _open(request, ANSWER_TIMEOUT_S) as response:
        for line in response:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise SwarmError(event["error"]["message"])
                yield event


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        raw = error.read()
        try:
            message = json.loads(raw)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{request.full_url} answered {error.code}"
        if error.code == 401:
            message += " (here: --api-key KEY, or SWARM_API_KEY in the environment)"
        raise SwarmError(message) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise NodeUnreachable(
            f"no node answers at {request.full_url} ({reason}): start one with `swarm`, or name one with --url"
        ) from error
