"""A running node's HTTP API for the commands: blocking, and from the standard library alone, so that it loads fast."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from federation.printable_text import clean_line
from swarm.errors import SetupError, SwarmError

TIMEOUT_S = 5.0
MAX_JSON_BYTES = 4 << 20  # a view of a hundred nodes with 64 models each is under 2 MB
MAX_LINE_BYTES = 8 << 20  # of a streamed answer: the longest event is a whole vote's
MAX_ERROR_BYTES = 64 * 1024
MAX_MESSAGE_CHARS = 2000  # quoted of an error that the node answers
EVENT_TIMEOUT_S = 25.0  # without one: a node that is there says so every ten seconds
ANSWER_TIMEOUT_S = 600.0  # between two pieces of an answer; heartbeats come every ten seconds


EVENTS_PATH = "/v1/events"
DONE_LINE = b"data: [DONE]"


class NotForYou(SwarmError):
    """The node wants another API key for that, or to be asked from its own machine."""


class NodeUnreachable(SwarmError):
    """No node answers at the URL; `reason` is why, without the remedy."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = clean_line(reason)


@dataclass(frozen=True, slots=True)
class NodeApi:
    """A node's API: its base URL, and the API key to send, if any."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises SetupError for an address that is none, and for a key that no header can hold."""
        if not is_address(self.url):
            raise SetupError(f"{clean_line(self.url)!r} is no address of a node: use one like http://127.0.0.1:17615")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise SetupError("the API key has characters that no key has, like a line end or an accent: give it anew")

    def request(self, path: str, body: dict[str, Any] | None = None) -> urllib.request.Request:
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return urllib.request.Request(self.url.rstrip("/") + path, data=data, headers=headers)


def is_address(url: str) -> bool:
    """Whether `url` is an http or https address that can be asked at all."""
    try:
        parts = urlsplit(url)
        found = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number or above 65535
        return False
    return found and url.isprintable() and " " not in url


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A node never redirects; what does must not be sent the API key that was meant for the node."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


# Nodes are in this network: what is asked of them, and the API key, are no business of a proxy for the internet.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def get_json(api: NodeApi, path: str) -> dict[str, Any]:
    """The JSON object that the node answers at `path`.

    Raises NodeUnreachable where none answers, SetupError for a request that can never work, else SwarmError.
    """
    return _object(api, api.request(path), TIMEOUT_S)


def post_json(api: NodeApi, path: str, body: dict[str, Any], timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
    """The JSON object that the node answers to `body`, within `timeout_s`. Raises as `get_json` does."""
    return _object(api, api.request(path, body), timeout_s)


def _object(api: NodeApi, request: urllib.request.Request, timeout_s: float) -> dict[str, Any]:
    with _open(request, timeout_s) as response:
        try:
            raw = response.read(MAX_JSON_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _broke_off(request.full_url, error) from error
    try:
        found: object = json.loads(raw) if len(raw) <= MAX_JSON_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SwarmError(f"{api.url} does not answer as a node does: is it one? Give the node's address with --url")
    return cast("dict[str, Any]", found)


def post_stream(
    api: NodeApi, path: str, body: dict[str, Any], told: Callable[[str], None] | None = None
) -> Generator[dict[str, Any]]:
    """The events of a streamed answer as JSON objects. Closing it cuts the connection, so that the node stops.

    `told` gets the node's comments: how far the load of a model is. Raises as `get_json` does, and NodeUnreachable for
    an answer that ends too soon.
    """
    request = api.request(path, body)
    with _open(request, ANSWER_TIMEOUT_S) as response:
        for line in _lines(response, request.full_url):
            if line.rstrip() == DONE_LINE:
                return
            if line.startswith(b"data: {"):
                event = _event(line[6:], request.full_url)
                error: object = event.get("error")
                if isinstance(error, dict):
                    detail = cast("dict[str, object]", error)
                    raise _refusal(str(detail.get("message")), detail.get("type") == "invalid_request_error")
                yield event
            elif told is not None and line.startswith(b": "):
                told(line[2:MAX_MESSAGE_CHARS].decode("utf-8", "replace").strip())
    why = "the node may have ended"
    raise NodeUnreachable(f"{request.full_url} broke off before the answer was complete: {why}", why)


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """An event of `GET /v1/events`: a `snapshot`, or `changes`; `last_id` says what its reader has seen.

    `alive`: a comment, by which a node shows that it is there.
    """

    kind: Literal["snapshot", "changes", "alive"]
    last_id: str | None = None
    parts: dict[str, Any] = field(default_factory=dict[str, Any])


def get_events(api: NodeApi, parts: Sequence[str], last_id: str | None = None) -> Generator[NodeEvent]:
    """What changes on a node, until it ends the stream. Closing it cuts the connection.

    Raises as `get_json` does, `NotForYou` where a part is for those who manage the node, and NodeUnreachable for a node
    that goes silent.
    """
    request = api.request(f"{EVENTS_PATH}?parts={','.join(parts)}")
    if last_id is not None:
        request.add_header("Last-Event-ID", last_id)
    with _open(request, EVENT_TIMEOUT_S) as response:
        if response.headers.get_content_type() != "text/event-stream":
            raise SwarmError(f"{api.url} tells no events as a node does: is it one? Give its address with --url")
        kind, seen = "", last_id
        for line in _lines(response, request.full_url):
            name, _, value = line.rstrip(b"\r\n").partition(b": ")
            if not name and value:
                yield NodeEvent("alive")
            elif name == b"event":
                kind = value.decode(errors="replace")
            elif name == b"id":
                seen = value.decode(errors="replace")
            elif name == b"data" and kind in ("snapshot", "changes"):
                yield NodeEvent(kind, seen, _event(value, request.full_url))


def _event(raw: bytes, url: str) -> dict[str, Any]:
    try:
        return dict(cast("dict[str, Any]", json.loads(raw)))
    except (TypeError, ValueError, RecursionError) as error:
        raise SwarmError(f"{url} sent an event that is no JSON: is it a node?") from error


def _lines(response: Any, url: str) -> Iterator[bytes]:
    try:
        while line := response.readline(MAX_LINE_BYTES):
            yield line
    except (OSError, http.client.HTTPException) as error:
        raise _broke_off(url, error) from error


def _broke_off(url: str, error: Exception) -> NodeUnreachable:
    return NodeUnreachable(f"{url} broke off before the answer was complete ({error})", str(error))


def _refusal(message: str, callers_fault: bool) -> SwarmError:
    """The node's error message: SetupError (wrong usage) where the request can never work."""
    shown = clean_line(message[:MAX_MESSAGE_CHARS])
    return SetupError(shown) if callers_fault else SwarmError(shown)


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return _opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raw = error.read(MAX_ERROR_BYTES)
        try:
            message = str(json.loads(raw)["error"]["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = f"{request.full_url} answered {error.code}"
        if error.code == 405 or (error.code == 404 and EVENTS_PATH in request.full_url):
            message = f"the node at {request.full_url} is of an earlier version, which does not do this: update it"
        if error.code == 401:
            message += " (here: --api-key KEY, or SWARM_API_KEY in the environment)"
        if error.code in (401, 403):
            raise NotForYou(clean_line(message[:MAX_MESSAGE_CHARS])) from error
        raise _refusal(message, error.code in (400, 404)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NodeUnreachable(
            f"no node answers at {request.full_url} ({reason}): "
            "start one with `swarm` (`swarm --model demo` needs no download), or name one with --url",
            str(reason),
        ) from error
