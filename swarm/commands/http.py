"""Asking a running node, for the commands: plain blocking HTTP from the standard library."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from swarm.errors import SetupError, SwarmError

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


def post_stream(door: NodeDoor, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
    """The events of a streamed answer; closing it cuts the connection, so the node stops. Raises as `get_json`."""
    request = door.request(path, body)
    with _open(request, ANSWER_TIMEOUT_S) as response:
        for line in _lines(response, request.full_url):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise _refusal(event["error"]["message"], event["error"].get("type") == "invalid_request_error")
                yield event


def _lines(response: Any, url: str) -> Iterator[bytes]:
    try:
        yield from response
    except (OSError, http.client.HTTPException) as error:
        raise NodeUnreachable(f"{url} broke off before the answer was complete ({error})") from error


def _refusal(message: str, callers_fault: bool) -> SwarmError:
    """What a node said: wrong usage of the command where the request can never work."""
    return SetupError(message) if callers_fault else SwarmError(message)


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
        raise _refusal(message, error.code in (400, 404)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise NodeUnreachable(
            f"no node answers at {request.full_url} ({reason}): "
            "start one with `swarm` (`swarm --model demo` needs no download), or name one with --url"
        ) from error
