"""Failures in Anthropic's shape, for the paths where its clients ask."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.tracing import current_request_id

REQUEST_ID_HEADER = "request-id"  # Anthropic's name for it, without the X
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_anthropic(path: str) -> bool:
    """Whether a request to `path` expects answers in Anthropic's shape."""
    endpoint = path.removeprefix("/v1")
    return endpoint == "/messages" or endpoint.startswith("/messages/")


def error_object(status: int, message: str, extra: Mapping[str, int] | None) -> dict[str, object]:
    """The body of an error. `extra` are fields beside its type and message."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = {"type": kind, "message": _told(message, extra or {}), **(extra or {})}
    return {"type": "error", "error": error, "request_id": current_request_id.get()}


def _told(message: str, extra: Mapping[str, int]) -> str:
    """`message`, but a prompt beyond the context in Anthropic's words: Claude Code compacts when it reads them."""
    if not {"n_prompt_tokens", "n_ctx"} <= extra.keys():
        return message
    return (
        f"prompt is too long: {extra['n_prompt_tokens']} tokens > {extra['n_ctx']} maximum: "
        "shorten it, or start the node with a larger --context"
    )
