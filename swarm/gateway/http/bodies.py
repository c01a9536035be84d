"""JSON bodies: requests are read within bounds, parsed, and refused in words that name the field; answers are written.

The bounds are of size, shape, time and memory. pydantic's parser holds the GIL until it is done: 16 MB of text take
90 ms, whichever thread does it. So a thread alone buys nothing. What bounds a single hold is the size and the number of
strings in a body; what keeps sixteen of them from being one long hold is that there is one thread for large bodies,
which the loop gives its next piece (`off_loop`). `BodyBudget` bounds the memory of all bodies together: each alone may
be large, and many may come at once.

What goes out has no spaces and non-ASCII as it is, and is always valid JSON, whatever an engine or peer put in.
"""

from __future__ import annotations

import asyncio
import codecs
import contextvars
import gc
import json
import math
import re
import reprlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar, cast

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    ValidationError,
)
from pydantic_core import ErrorDetails

from swarm.engines.free_memory import TRIM_EVERY_S, trim_where_worth_it
from swarm.errors import BadRequest, Unavailable, UnsupportedEncoding

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
CODINGS = frozenset({"gzip", "x-gzip", "deflate", "x-deflate"})
ACCEPTED_CODINGS = "gzip, deflate"
GZIP_BITS, ZLIB_BITS = 31, 15  # of zlib: with gzip's header, and with its own; without any for fewer than none
ZLIB_BYTE = 8  # how zlib's header begins, in its lower half
DECODED_BYTES = 64 * 1024  # of one piece: a few bytes may become a thousand times as many
MAX_MEMBERS = 64  # of one body; tools that write in pieces make a few
MAX_SHOWN_CODING_CHARS = 80
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\";]*)", re.IGNORECASE)
_READ_CHARSETS = re.compile(r"(us-)?ascii|(iso-?8859|latin|windows|cp)-?\d{1,4}(-\d{1,2})?")
_WIDE = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_quote = reprlib.Repr()  # of a bad value: enough to recognise it, whatever its size
_quote.maxstring = _quote.maxother = 80

ON_LOOP_BYTES: Final = 16 * 1024  # a body up to this size is parsed in less than a millisecond
SCHEMAS_ON_LOOP_BYTES: Final = 2 * 1024  # its schemas are looked at in Python: 25 us for each part
MOST_BYTES: Final = 256 * 2**20  # sixteen of the largest bodies; as text, and parsed, a few times as much
FREE_BYTES: Final = 64 * 1024  # of each: usual requests, and what nodes tell each other, are never turned away
LARGE_BYTES: Final = 2**20  # worth a look for what is left of it: 50 ms
COUNTED = web.RequestKey("counted", int)  # bytes of the request's body that count
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
MAX_WHOLE = int(sys.float_info.max)  # a whole number beyond it is read as a fraction, and that as infinite
_THREAD: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bodies")

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


class Part(BaseModel):
    """What is inside a body: strict types (no "0.5" for 0.5), finite numbers, unknown fields ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


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
        raise BadRequest("the body is not sent as its headers say: see Content-Length and Transfer-Encoding") from error
    raw = as_utf8(raw, request.headers.get("Content-Type", ""))
    request[BODY_BYTES] = len(raw)
    if request.app.get(KEEPS_BODIES):
        request[RAW_BODY] = raw
    return raw


async def _pieces(request: web.Request) -> bytes:
    raw = bytearray()
    decoder = decoder_of(request.headers.getall("Content-Encoding", ()))
    async for sent in request.content.iter_any():
        for piece in decoder.pieces(sent):
            size = len(raw) + len(piece)
            if size > request.client_max_size:
                raise web.HTTPRequestEntityTooLarge(request.client_max_size, size)
            request.app[BODIES].came(request, size)
            raw += piece
    decoder.end()
    return bytes(raw)  # pydantic would copy the other one, and keep both


# How a body is encoded: in which coding, and in which characters


class PlainDecoder:
    """A body that comes as it is."""

    def pieces(self, sent: bytes) -> Iterator[bytes]:
        """What `sent` amounts to, never more than some 64 KiB at once, however small it was made."""
        yield sent

    def end(self) -> None:
        """All has come. Raises BadRequest where something is missing."""


class Inflating(Protocol):
    """What `zlib.decompressobj` gives, whose own type has no name."""

    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class ZlibDecoder(PlainDecoder):
    """gzip, one member or several, or deflate, with its header or, as some send it, without."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._gzip = coding.removeprefix("x-") == "gzip"
        self._inflating: Inflating | None = None
        self._members = 0

    def pieces(self, sent: bytes) -> Iterator[bytes]:
        try:
            while sent:
                inflating = self._begun(sent)
                yield inflating.decompress(sent, DECODED_BYTES)
                sent = inflating.unconsumed_tail or inflating.unused_data
        except zlib.error as error:
            raise BadRequest(f"the body is not {self._coding}, as its Content-Encoding says: {error}") from error

    def _begun(self, sent: bytes) -> Inflating:
        """Who decompresses what comes next: a new one for the first byte of a member."""
        inflating = self._inflating
        if inflating is None or inflating.eof:
            bits = GZIP_BITS if self._gzip else ZLIB_BITS if sent[0] & 0xF == ZLIB_BYTE else -ZLIB_BITS
            inflating = self._inflating = zlib.decompressobj(bits)
            self._members += 1
            if self._members > MAX_MEMBERS:
                raise BadRequest(f"the body is {self._coding} of more than {MAX_MEMBERS} members")
        return inflating

    def end(self) -> None:
        if self._inflating is not None and not self._inflating.eof:
            raise BadRequest(f"the body is {self._coding} that ends too early")


def decoder_of(headers: Sequence[str]) -> PlainDecoder:
    """Who decodes a body with these Content-Encoding headers. Raises UnsupportedEncoding."""
    codings = [coding for header in headers for each in header.split(",") if (coding := each.strip().lower())]
    codings = [coding for coding in codings if coding != "identity"]
    if not codings:
        return PlainDecoder()
    if len(codings) == 1 and codings[0] in CODINGS:
        return ZlibDecoder(codings[0])
    raise UnsupportedEncoding(
        f"the Content-Encoding is {', '.join(codings)[:MAX_SHOWN_CODING_CHARS]!r}: "
        "send the body plain, or as gzip or deflate",
        ACCEPTED_CODINGS,
    )


def as_utf8(raw: bytes, content_type: str) -> bytes:
    """A body of JSON in UTF-8 and without a byte order mark, whatever Unicode it came in, or charset it names.

    Raises UnsupportedEncoding for a charset that is not among CHARSETS, BadRequest for bytes that are not of it.
    """
    found = _CHARSET.search(content_type)
    named = found[1].strip().lower().replace("_", "-") if found else ""
    charset = json.detect_encoding(raw)
    if charset == "utf-8" and named and not named.startswith("utf"):
        if not is_read_charset(named):
            raise UnsupportedEncoding(f"the charset is {named[:MAX_SHOWN_CODING_CHARS]!r}: send JSON in UTF-8")
        charset = named
    if charset == "utf-8":
        return raw  # what is not UTF-8 after all is no JSON, which is said with its place
    if charset == "utf-8-sig":
        return raw[len(codecs.BOM_UTF8) :]
    try:
        return raw.decode(charset).encode()
    except (UnicodeError, LookupError) as error:
        raise BadRequest(f"the body is not JSON: it is not in {charset}, as it seems: {error}") from error


def parse_body(raw: bytes, schema: type[M]) -> M:
    """`raw` as `schema`. Raises BadRequest where it is empty, has too many parts, or does not fit."""
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
        raise bad_request_of(error, raw) from error


def bad_request_of(error: ValidationError, raw: bytes) -> BadRequest:
    """What is wrong with a body, of several problems the most telling one.

    A union reports what each of its members finds: the one that was meant got furthest, or at least had the right type.
    """
    problems = error.errors(include_url=False)
    if problems[0]["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {problems[0]['msg']}")
    body: object = json.loads(raw) if len(raw) <= MAX_PLACED_BYTES else None
    places = [place_of(problem, body) for problem in problems]
    best = max(range(len(places)), key=lambda i: (len(places[i]), not problems[i]["type"].endswith("_type"), -i))
    where, problem = dotted(places[best]), problems[best]
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


# Off the event loop, and within the node's memory


async def off_loop(call: Callable[[], R]) -> R:
    """What `call` returns, or raises, when its turn has come."""
    context = contextvars.copy_context()  # the request's id, for the log
    return await asyncio.get_running_loop().run_in_executor(_THREAD, context.run, call)


def is_read_charset(name: str) -> bool:
    """Whether text in `name` is decoded: one byte a character, which is what clients name that do not say UTF-8."""
    if _READ_CHARSETS.fullmatch(name) is None:
        return False
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True


class BodyBudget:
    """Counts what has come of the bodies of requests in progress, from the first piece until the answer's end."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._will_trim = False
        self._were_large = False  # of the requests since the last trim

    def came(self, request: web.Request, body_bytes: int) -> None:
        """So much of the request's body is here. Raises Unavailable where there is no room for it."""
        more = max(0, body_bytes - FREE_BYTES) - request[COUNTED]
        if more > 0 and self._held_bytes + more > self._most_bytes:
            raise Unavailable(
                f"the requests in progress have {self._held_bytes / 2**20:.0f} MiB of text, and this node takes "
                f"{self._most_bytes / 2**20:.0f} MiB at once: try again later, or with a shorter one"
            )
        self._held_bytes += more
        request[COUNTED] += more

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Gives back what a request holds when it has ended."""
        request[COUNTED] = 0
        try:
            return await handler(request)
        finally:
            self._held_bytes -= request[COUNTED]
            self._were_large = self._were_large or request[COUNTED] > LARGE_BYTES
            if not self._will_trim:
                self._will_trim = True
                asyncio.get_running_loop().call_later(TRIM_EVERY_S, self._trim)

    def _trim(self) -> None:
        """What requests left behind is given back, once for all of them; an engine in this process has its part.

        Errors and the frames they came from are cycles, and few: the collector would come for them much later.
        """
        large, self._will_trim, self._were_large = self._were_large, False, False
        asyncio.get_running_loop().run_in_executor(None, collect_and_trim if large else trim_where_worth_it)


def collect_and_trim() -> None:
    """Collect cycles, then give free memory back to the system. Blocks: for a thread."""
    gc.collect()
    trim_where_worth_it()


BODIES = web.AppKey("bodies", BodyBudget)


# JSON as it goes out


def compact(value: object) -> str:
    """`value` as JSON. A lone surrogate (never valid UTF-8) becomes its escape, a number that is not finite null."""
    try:
        text = _encode(value)
    except ValueError:
        return compact(without_infinities(value))
    return text if text.isascii() or _encodable(text) else _encode_ascii(value)


def json_response(body: object) -> web.Response:
    """A 200 with `body` as compact JSON."""
    return web.Response(text=compact(body), content_type="application/json")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_infinities(value: object) -> object:
    """A copy with null for every infinity and NaN, which JSON does not have."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: without_infinities(member) for key, member in cast("dict[str, object]", value).items()}
        case list() | tuple():
            return [without_infinities(member) for member in cast("list[object]", value)]
        case _:
            return value


def is_finite(value: JsonValue) -> bool:
    """Whether every number in `value` can be written as JSON again: parsers read 1e999 and NaN, and none write them."""
    match value:
        case float():
            return math.isfinite(value)
        case int():
            return abs(value) <= MAX_WHOLE
        case dict():
            return all(map(is_finite, value.values()))
        case list():
            return all(map(is_finite, value))
        case _:
            return True
