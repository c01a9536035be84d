"""Request bodies: read within bounds of size, shape and time, parsed, and refused in words that name the field.

Work on large bodies, off the event loop and one piece at a time, so that the loop has its turn between two of them.

pydantic's parser holds the GIL until it is done: 16 MB of text take 90 ms, whichever thread does it. So a thread alone
buys nothing; what bounds a single hold is the size and the number of strings in a body (`bodies.py`), and what keeps
sixteen of them from being one long hold is that there is one thread, which is given its next piece by the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import reprlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

from aiohttp import web
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)
from pydantic_core import ErrorDetails

from swarm.errors import BadRequest
from swarm.gateway.http.body_budget import BODIES

ON_LOOP_BYTES: Final = 16 * 1024  # a body up to this size is parsed in less than a millisecond
SCHEMAS_ON_LOOP_BYTES: Final = 2 * 1024  # its schemas are looked at in Python: 25 us for each part
_THREAD: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bodies")

R = TypeVar("R")


async def off_loop(call: Callable[[], R]) -> R:
    """What `call` returns, or raises, when its turn has come."""
    context = contextvars.copy_context()  # the request's id, for the log
    return await asyncio.get_running_loop().run_in_executor(_THREAD, context.run, call)


MAX_BODY_BYTES = 16 * 2**20  # a million tokens of context as JSON; anything larger is no prompt
MAX_MARKS = 500_000  # brackets and commas, those in texts included (a token each): bounds how long parsing blocks
MAX_QUOTES = 200_000  # two for each string that is no part of another: 100,000 of them are parsed in some 100 ms
# Python holds a text with one emoji in it at four bytes a character: this much is 60 MB, the body included.
MAX_WIDE_BODY_BYTES = 12 * 2**20
MAX_PLACED_BYTES = 2**20  # a bad body up to this size is parsed once more to say where its problem is
BODY_TIMEOUT_S = 15.0  # for the whole body: 16 MB take 13 s at 10 Mbit/s
# What a web page's form sends without asking first, and no API client does. The third of these types is what `curl -d`
# says of any body (application/x-www-form-urlencoded); a form's own body of it is escaped and so never JSON.
FORM_TYPES = frozenset({"text/plain", "multipart/form-data"})
RAW_BODY = web.RequestKey("raw_body", bytes)  # as it came, once it was read, where `KEEPS_BODIES`
BODY_TIMEOUT = web.AppKey("body_timeout", float)  # seconds, where it is another than BODY_TIMEOUT_S
KEEPS_BODIES = web.AppKey("keeps_bodies", bool)  # an upstream is sent the body itself
BODY_BYTES = web.RequestKey("body_bytes", int)  # how large it was, once it was read
_WIDE = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_quote = reprlib.Repr()  # of a bad value: enough to recognise it, whatever its size
_quote.maxstring = _quote.maxother = 80

M = TypeVar("M", bound=BaseModel)


async def read_body(request: web.Request, schema: type[M]) -> M:
    """The body as `schema`. Raises BadRequest, or HTTP 408 and 413."""
    raw = await read_bytes(request)
    if len(raw) <= ON_LOOP_BYTES:
        return parse_body(raw, schema)
    return await off_loop(lambda: parse_body(raw, schema))


async def read_bytes(request: web.Request) -> bytes:
    """The body, at most as much as its application takes and in time. Raises as `read_body` does.

    And Unavailable, where this node holds too much text already.
    """
    if request.content_type in FORM_TYPES:
        raise BadRequest(f"the Content-Type is {request.content_type}: send JSON as application/json")
    length = request.content_length
    if length is not None and length > request.client_max_size:  # before any of it is read
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, length)
    try:
        async with asyncio.timeout(request.app.get(BODY_TIMEOUT, BODY_TIMEOUT_S)):
            raw = await _pieces(request)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError as error:
        raise BadRequest("the body is not encoded as its headers say: send it plain, or as gzip or deflate") from error
    request[BODY_BYTES] = len(raw)
    if request.app.get(KEEPS_BODIES):
        request[RAW_BODY] = raw
    return raw


async def _pieces(request: web.Request) -> bytes:
    raw = bytearray()
    async for piece in request.content.iter_any():
        size = len(raw) + len(piece)
        if size > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, size)
        request.app[BODIES].came(request, size)
        raw += piece
    return bytes(raw)  # pydantic would copy the other one, and keep both


def parse_body(raw: bytes, schema: type[M]) -> M:
    if not raw:
        raise BadRequest("the body is empty: send a JSON object")
    marks = raw.count(b"{") + raw.count(b"[") + raw.count(b",")
    if marks > MAX_MARKS:
        raise BadRequest(f"the body has {marks} commas and opening brackets; at most {MAX_MARKS} are read")
    if len(raw) > MAX_WIDE_BODY_BYTES and _WIDE.search(raw) is not None:
        raise BadRequest(
            f"the body has {len(raw)} bytes and characters that take four of them (emoji, rare scripts); "
            f"at most {MAX_WIDE_BODY_BYTES} are read of such a one"
        )
    quotes = raw.count(b'"') - raw.count(b'\\"')
    if quotes > MAX_QUOTES:
        raise BadRequest(f"the body has {quotes} quotes around strings; at most {MAX_QUOTES} are read")
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        raise first_problem(error, raw) from error


def first_problem(error: ValidationError, raw: bytes) -> BadRequest:
    """What is wrong with a body, of several problems the most telling one.

    A union reports what each of its members finds: the one that was meant got furthest, or at least had the right type.
    """
    problems = error.errors(include_url=False)
    if problems[0]["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {problems[0]['msg']}")
    body: object = json.loads(raw) if len(raw) <= MAX_PLACED_BYTES else None
    places = [place_of(problem, body) for problem in problems]
    told = max(range(len(places)), key=lambda i: (len(places[i]), not problems[i]["type"].endswith("_type"), -i))
    where, problem = dotted(places[told]), problems[told]
    if problem["type"] == "missing":
        return BadRequest(f"{where}: this field is required", param=where)
    reason = problem["msg"].removeprefix("Value error, ")
    value = "" if isinstance(problem["input"], dict) else f" (got {_quote.repr(problem['input'])})"
    return BadRequest(f"{where or 'body'}: {reason}{value}", param=where or None)


def place_of(problem: ErrorDetails, body: object) -> list[str | int]:
    """Where in `body` the problem is: its location without the names that pydantic gives the members of a union.

    Without a `body`, the location as it is.
    """
    if body is None:
        return list(problem["loc"])
    place: list[str | int] = []
    for part in problem["loc"]:
        if isinstance(body, dict) and part in body:
            place.append(part)
            body = cast("dict[str | int, object]", body)[part]
        elif isinstance(body, list) and isinstance(part, int):
            place.append(part)
            body = cast("list[object]", body)[part]
    return [*place, problem["loc"][-1]] if problem["type"] == "missing" else place


def dotted(place: list[str | int]) -> str:
    """A place in OpenAI's notation: messages[0].content."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


class Part(BaseModel):
    """What is inside a body: strict types (no "0.5" for 0.5), finite numbers, unknown fields ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)
