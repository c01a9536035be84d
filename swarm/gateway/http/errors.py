"""The one place that turns failures into HTTP: status, error object, and whether a client should retry.

The object is OpenAI's; on the paths of Anthropic's API, and for who sends its version header, it is Anthropic's, and on
those of Ollama's API it is Ollama's.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from swarm.errors import (
    BadRequest,
    ContextExceeded,
    DeadlineExceeded,
    EngineDied,
    EngineFailed,
    Forbidden,
    LenderLost,
    LimitReached,
    ModelInUse,
    NoConsensus,
    NotInRegistry,
    NotServed,
    PeerFailed,
    RequestCancelled,
    SwarmError,
    ThreadsUnsupported,
    ToolsOff,
    Unauthorized,
    Unavailable,
    UnknownFile,
    UnknownModel,
    UnknownRequest,
    UnmetExpectation,
    UnsupportedEncoding,
    UpstreamFailed,
    UpstreamRefused,
)
from swarm.gateway.http.bodies import BODY_TIMEOUT_S, MAX_BODY_BYTES
from swarm.logs import current_request_id, kept_as, request_id_from
from swarm.routing.poison_pills import REFUSED_S

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
CLIENT_LEFT_STATUS = 499  # nginx's word; for the metrics, since nobody is left to read it

HTTP_REFUSALS = {
    404: (
        "not_found",
        "no such endpoint; there are /v1/models, /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, "
        "/v1/embeddings, /v1/rerank, /tokenize, /health; /docs has them all",
    ),
    405: ("method_not_allowed", "this endpoint does not take that method; the Allow header says which it takes"),
    408: ("body_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s"),
    416: ("range_not_satisfiable", "the range begins behind the end of the file, whose size is in Content-Range"),
    413: ("body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes"),
}
EXPECTED = web.RequestKey("expected", str)  # an Expect header that nobody here can meet
MAX_SHOWN_CHARS = 80  # of a header, in an error
MAX_NEAR = 3  # names that may have been meant
QUIET = {"members_only": logging.DEBUG}  # open nodes near a paired swarm ask each of its nodes every few seconds
SDK_WAITS_S = 60  # OpenAI's and Anthropic's SDKs take a longer Retry-After for none, and come back at once
INTERNAL_ERROR = "this node made an error; see its log"
ANTHROPIC_REQUEST_ID_HEADER = "request-id"  # Anthropic's name for it, without the X
ANTHROPIC_VERSION = "anthropic-version"  # a header that all of Anthropic's clients send, and nobody else
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True)
class HttpError:
    """What a client gets for one failure. `extra` holds fields beside OpenAI's four."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    extra: Mapping[str, object] | None = None
    retry_after_s: int | None = None
    more_headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def body(self) -> dict[str, object]:
        """{"error": {"message", "type", "code", "param"}}, and `extra` beside these four."""
        error = {"message": self.message, "type": self.type, "code": self.code, "param": self.param}
        return {"error": {**error, **(self.extra or {})}}

    def headers(self) -> dict[str, str]:
        """`x-should-retry` keeps SDKs from repeating a generation that would fail the same way."""
        if self.retry_after_s is not None:
            return {"Retry-After": str(self.retry_after_s), **self.more_headers}
        return {"x-should-retry": "false"} if self.status >= 500 else dict(self.more_headers)


def http_error(error: SwarmError) -> HttpError:
    """The mapping, most specific first."""
    message = str(error)
    match error:
        case ContextExceeded():
            sizes = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.context_tokens}
            return HttpError(
                400, "exceed_context_size_error", "context_length_exceeded", message, error.param, extra=sizes
            )
        case UnsupportedEncoding():
            accepted = {} if error.accepted is None else {"Accept-Encoding": error.accepted}
            code = "unsupported_media_type"
            return HttpError(415, "invalid_request_error", code, message, more_headers=accepted)
        case ThreadsUnsupported():
            # Anthropic's own code for it, which its SDKs look for; "thread" is the field that is not supported.
            details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
            extra = {"details": details}
            return HttpError(400, "invalid_request_error", "invalid_value", message, error.param, extra=extra)
        case UnmetExpectation():
            return HttpError(417, "invalid_request_error", "expectation_failed", message)
        case BadRequest():
            return HttpError(400, "invalid_request_error", "invalid_value", message, error.param)
        case Unauthorized():
            challenge = 'Bearer realm="local-swarm"' + (', error="invalid_token"' if error.given else "")
            asking = {"WWW-Authenticate": challenge}
            return HttpError(401, "invalid_request_error", "invalid_api_key", message, more_headers=asking)
        case Forbidden():
            return HttpError(403, "permission_error", error.code, message)
        case UnknownModel():
            return HttpError(404, "invalid_request_error", "model_not_found", message, "model")
        case NotInRegistry():
            return HttpError(404, "invalid_request_error", "model_not_found", message, "model")
        case UnknownFile():
            return HttpError(404, "invalid_request_error", "file_not_found", message)
        case UnknownRequest():
            return HttpError(404, "invalid_request_error", "request_not_found", message)
        case ToolsOff():
            return HttpError(404, "invalid_request_error", "tools_off", message)
        case NotServed():
            return HttpError(404, "invalid_request_error", "not_served", message)
        case RequestCancelled():
            once = {"x-should-retry": "false"}  # SDKs repeat a 409 by themselves
            return HttpError(409, "cancelled_error", "cancelled", message, more_headers=once)
        case ModelInUse():
            once = {"x-should-retry": "false"}
            return HttpError(409, "invalid_request_error", "model_in_use", message, "model", more_headers=once)
        case LimitReached():
            seconds = error.again_in_s
            # A day's end is no time for an SDK to wait for by itself.
            once = {"x-should-retry": "false"} if seconds > SDK_WAITS_S else {}
            return HttpError(429, error.what, "rate_limit_exceeded", message, retry_after_s=seconds, more_headers=once)
        case DeadlineExceeded():
            return HttpError(504, "timeout_error", "deadline_exceeded", message)
        case NoConsensus():
            return HttpError(503, "unavailable_error", "no_consensus", message)
        case Unavailable():
            seconds = error.retry_after_s
            extra = {"retry_after_s": seconds}  # for those who read no header: peers, and streams whose status is out
            return HttpError(503, "unavailable_error", "unavailable", message, extra=extra, retry_after_s=seconds)
        case PeerFailed():
            return HttpError(502, "server_error", "peer_failed", message)
        case UpstreamRefused():
            return _passed_on(error)
        case UpstreamFailed():
            return HttpError(502, "server_error", "upstream_failed", message)
        case EngineDied():
            # `died` tells peers that a node itself reports it; `refused_for_s`: for how long it refuses the request.
            extra = {"died": True, "refused_for_s": error.refused_for_s or REFUSED_S}
            return HttpError(502, "server_error", "engine_failed", message, extra=extra)
        case LenderLost():
            # Its own code: for peers it is no request over which an engine ended, and others may answer it.
            seconds = error.retry_after_s
            extra = {"lender": error.lender, "retry_after_s": seconds}
            return HttpError(503, "unavailable_error", "lender_lost", message, extra=extra, retry_after_s=seconds)
        case EngineFailed():
            return HttpError(500, "server_error", "engine_failed", message)
        case _:
            return HttpError(500, "server_error", "internal_error", message)


def _passed_on(error: UpstreamRefused) -> HttpError:
    """An upstream's own error: its status and words, in OpenAI's shape."""
    refusal = error.refusal
    return HttpError(
        refusal.status,
        refusal.type,
        refusal.code,
        str(error),
        refusal.param,
        extra=refusal.sizes,
        retry_after_s=refusal.retry_after_s,
    )


OLLAMAS = (
    "no such endpoint; there are /api/chat, /api/generate, /api/embed, /api/tags, /api/show, /api/ps, /api/version, "
    "/api/pull, /api/copy, /api/delete; /docs has them all"
)


def error_response(error: HttpError, request: web.BaseRequest, cause: SwarmError | None = None) -> web.Response:
    """`error` in the shape of the API that `request` speaks: OpenAI's, Anthropic's or Ollama's."""
    body, headers = error.body(), error.headers()
    if is_ollama(request):
        message = OLLAMAS if error.status == 404 and cause is None else error.message
        body = {"error": message} if cause is None else ollama_error_object(cause)
    elif is_anthropic(request):
        body = anthropic_error_object(error.status, error.message, error.extra)
        headers[ANTHROPIC_REQUEST_ID_HEADER] = current_request_id.get()
    return web.json_response(body, status=error.status, headers=headers)


def response_to_no_request(status: int, code: str, message: str) -> web.Response:
    """An error for what is no HTTP: whose client it was is not known, so both APIs' readers find their fields in it."""
    error = HttpError(status, "invalid_request_error", code, message)
    return web.json_response({"type": "error", **error.body()}, status=status)


def error_line(error: SwarmError) -> bytes:
    """The error object as one line, for streams whose status is out."""
    return json.dumps(http_error(error).body()).encode()


def from_http_exception(error: web.HTTPException) -> HttpError:
    """aiohttp's own refusals (no such route, wrong method, body too large) in the same shape."""
    code, message = HTTP_REFUSALS.get(error.status, ("http_error", error.reason))
    headers = {name: error.headers[name] for name in ("Allow", "Content-Range") if name in error.headers}
    return HttpError(error.status, "invalid_request_error", code, message, more_headers=headers)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request an id, and every failure its one shape."""
    request_id = request_id_from(request.headers.get(REQUEST_ID_HEADER))
    token = current_request_id.set(request_id)
    try:
        response = await _answer(request, handler)
        if not response.prepared:
            response.headers[REQUEST_ID_HEADER] = request_id
        return response
    finally:
        current_request_id.reset(token)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if EXPECTED in request:
            raise UnmetExpectation(
                f"the Expect header is {request[EXPECTED][:MAX_SHOWN_CHARS]!r}: send 100-continue, or none"
            )
        return await handler(request)
    except SwarmError as error:
        mapped = http_error(error)
        level = logging.WARNING if mapped.status >= 500 else QUIET.get(mapped.code, logging.INFO)
        resource = request.match_info.route.resource
        path = "no such path" if resource is None else resource.canonical
        kept = f"{path} {mapped.status} {mapped.code}"  # the message may be words of the request, or of an upstream
        log.log(level, "%s %s: %s", request.path, mapped.code, error, extra=kept_as(kept))
        return error_response(mapped, request, error)
    except web.HTTPException as error:
        mapped = from_http_exception(error)
        if mapped.status < 400:
            raise
        return error_response(mapped, request)
    except Exception as error:
        if isinstance(error, ConnectionError) and has_left(request):
            return web.Response(status=CLIENT_LEFT_STATUS)
        log.exception("%s %s failed", request.method, request.path, extra=kept_as("a request failed"))
        return error_response(HttpError(500, "server_error", "internal_error", INTERNAL_ERROR), request)


def has_left(request: web.Request) -> bool:
    """Whether the client of `request` has closed its connection: nobody reads what is answered."""
    return request.transport is None or request.transport.is_closing()


def is_anthropic(request: web.BaseRequest) -> bool:
    """Whether whoever sent `request` expects errors in Anthropic's shape."""
    endpoint = request.path.removeprefix("/v1")
    return endpoint == "/messages" or endpoint.startswith("/messages/") or ANTHROPIC_VERSION in request.headers


def is_ollama(request: web.BaseRequest) -> bool:
    """Whether whoever sent `request` expects errors in Ollama's shape."""
    return request.path.startswith("/api/")


def ollama_error_object(error: SwarmError) -> dict[str, object]:
    """{"error": message}: of an unknown model in Ollama's words, which clients look for, with the nearest names."""
    if not isinstance(error, UnknownModel):
        return {"error": http_error(error).message}
    wanted = error.name.removesuffix(":latest")
    known = {name.casefold(): name for name in error.known}
    near = [known[name] for name in difflib.get_close_matches(wanted.casefold(), known, n=MAX_NEAR)]
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    why = f" ({error.why})" if error.why else ""
    return {"error": f"model {error.name!r} not found{why}{meant}; GET /api/tags lists what there is"}


def anthropic_error_object(status: int, message: str, extra: Mapping[str, object] | None) -> dict[str, object]:
    """The body of an error. `extra` are fields beside its type and message."""
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = {"type": kind, "message": _told(message, extra or {}), **(extra or {})}
    return {"type": "error", "error": error, "request_id": current_request_id.get()}


def _told(message: str, extra: Mapping[str, object]) -> str:
    """`message`, but a prompt beyond the context in Anthropic's words: Claude Code compacts when it reads them."""
    if not {"n_prompt_tokens", "n_ctx"} <= extra.keys():
        return message
    return (
        f"prompt is too long: {extra['n_prompt_tokens']} tokens > {extra['n_ctx']} maximum: "
        "shorten it, or start the node with a larger --context"
    )
