"""The client of an upstream: lists its models, streams its answers, passes its refusals on. The key goes nowhere else.

Redirects are not followed: the key, and what people ask, go to the configured host alone.

An upstream's list of models, in each form that servers give it: wrapped, under another name, or bare. Pure.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import aiohttp
from pydantic import JsonValue

from swarm.engines.engine import Embeddings
from swarm.engines.openai_dialect import EventTooLargeError, request_body, sse_data
from swarm.engines.thoughts import ThoughtReader
from swarm.engines.upstream.address import KEY_VARIABLE, UpstreamAddress
from swarm.engines.upstream.reader import UpstreamReader, error_object, read_embeddings, refused
from swarm.errors import Unavailable, UpstreamFailed
from swarm.generation import SEED_MASK, EventStream, GenerationRequest, Prompt
from swarm.providers import ProviderRequest

MAX_MODELS = 2000  # the largest public catalogues list some 500
MAX_NAME_CHARS = 512  # what the gateway takes as a model's name


def model_names(listing: object) -> tuple[str, ...] | None:
    """The ids in `{"data": [...]}`, `{"models": [...]}` or `[...]`, each once, in their order; None if it is no list.

    Entries are objects with an `id` (OpenAI), a `name` or a `model` (Ollama), or plain strings.
    """
    if _entries(listing) is None:
        return None
    return tuple(dict.fromkeys(name for name, _ in model_entries(listing)))[:MAX_MODELS]


def model_entries(listing: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Each id in a list of models with what else the list says of it; nothing where it is no list."""
    for entry in _entries(listing) or ():
        name = _name(entry)
        if name and len(name) <= MAX_NAME_CHARS and name.isprintable():
            yield name, cast("Mapping[str, object]", entry) if isinstance(entry, dict) else {}


def _entries(listing: object) -> list[object] | None:
    if isinstance(listing, dict):
        wrapped = cast("Mapping[str, object]", listing)
        listing = next((wrapped[key] for key in ("data", "models") if isinstance(wrapped.get(key), list)), None)
    return cast("list[object]", listing) if isinstance(listing, list) else None


def read_listing(body: bytes) -> object:
    """A list's body, parsed; None where it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _name(entry: object) -> str | None:
    if isinstance(entry, dict):
        fields = cast("Mapping[str, object]", entry)
        entry = next((fields[key] for key in ("id", "name", "model") if fields.get(key)), None)
        if isinstance(entry, str) and "supportedGenerationMethods" in fields:  # Google's, whose names are paths
            entry = entry.removeprefix("models/")
    return entry if isinstance(entry, str) else None


VIA_HEADER = "X-Swarm-Upstream"  # tells a node that is somebody's upstream not to ask its own: nothing goes round
CONNECT_TIMEOUT_S = 10.0  # across the internet, with TLS
LIST_TIMEOUT_S = 10.0  # for a whole list of models
READ_BUFFER_BYTES = 2**18
MAX_LIST_BYTES = 8 * 2**20  # the largest public catalogue is about 1 MB
MAX_ERROR_BYTES = 64 * 2**10
MAX_ANSWER_BYTES = 64 * 2**20  # a hundred thousand tokens with log-probabilities; bounds what is kept of an answer
UNREACHABLE_RETRY_AFTER_S = 5  # told to clients


class UpstreamHttp:
    """One OpenAI-compatible server. Make it inside a running event loop; owns a session, closed by `aclose()`.

    `headers` go along with every request. `listing` is what its models are asked for by, where that is not the usual.
    `key_variable` is named to whoever may set another key.
    """

    def __init__(
        self,
        address: UpstreamAddress,
        key: str | None,
        headers: Mapping[str, str] | None = None,
        listing: ProviderRequest | None = None,
        key_variable: str = KEY_VARIABLE,
    ) -> None:
        self.address = address
        self.requests = 0  # answers asked for since the start: what has left this node
        self._base = address.bases[0]
        self._key = key
        self._listing = listing
        self._key_variable = key_variable
        self._authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(
            # llama.cpp's server closes kept-alive connections unannounced; with TLS a new one costs two round trips.
            connector=aiohttp.TCPConnector(force_close=not address.encrypted, limit=0),
            headers={**(headers or {}), "Content-Type": "application/json", VIA_HEADER: "1"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            read_bufsize=READ_BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @property
    def host(self) -> str:
        return self.address.host

    async def models(self) -> tuple[str, ...] | None:
        """The names it lists, found under the first base that has a list; None where there is none to be had.

        Raises Unavailable, UpstreamRefused or UpstreamFailed.
        """
        return model_names(await self.listing())

    async def listing(self) -> object:
        """Its list of models as it came; None where there is none. Raises as `models` does."""
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                return await self._listed()
        except TimeoutError as error:
            raise Unavailable(
                f"upstream {self.host} does not answer: no list of models within {LIST_TIMEOUT_S:.0f} s",
                UNREACHABLE_RETRY_AFTER_S,
            ) from error

    async def _listed(self) -> object:
        if (own := self._listing) is not None:
            async with self._open("GET", own.url, None, own.headers) as response:
                await self._check(response)
                return read_listing(await self._all(response, MAX_LIST_BYTES))
        for base in self.address.bases:
            async with self._open("GET", f"{base}/models", None) as response:
                if response.status in (404, 405, 501):
                    continue
                await self._check(response)
                found = read_listing(await self._all(response, MAX_LIST_BYTES))
                if model_names(found) is None:
                    continue  # a web page, or some other service's JSON
                self._base = base
                return found
        return None

    async def ask(self, request: ProviderRequest) -> object:
        """The JSON that answers a request of any protocol. Raises Unavailable, UpstreamRefused or UpstreamFailed."""
        self.requests += 1
        data = io.BytesIO(json.dumps(request.body).encode())
        async with self._open("POST", request.url, data, request.headers) as response:
            await self._check(response)
            return self._json(await self._all(response, MAX_ANSWER_BYTES))

    async def stream(self, request: GenerationRequest) -> EventStream:
        """One answer's events. Closing the iterator closes the connection, which stops the work."""
        chat = request.messages is not None
        reader, thoughts = UpstreamReader(chat), ThoughtReader()
        async with (
            self._post("/chat/completions" if chat else "/completions", upstream_body(request)) as response,
            aclosing(self._chunks(response)) as chunks,
        ):
            async for chunk in chunks:
                if chunk is None:
                    reader.ended = True
                elif (delta := reader.delta(chunk)) is not None:
                    for event in thoughts.read(delta) if chat else (delta,):
                        yield event
        if not reader.ended:
            raise UpstreamFailed(self.host, "it ended the stream before the answer was complete")
        for event in thoughts.read(reader.finish()):
            yield event

    async def embed(
        self, model: str, texts: Sequence[Prompt], more: Mapping[str, JsonValue] | None = None
    ) -> Embeddings:
        """Vectors of `texts`, in order. `more` is what else the client's body says."""
        body = {**(more or {}), "model": model, "input": list(texts), "encoding_format": "float"}
        async with self._post("/embeddings", body) as response:
            answer = self._json(await self._all(response, MAX_ANSWER_BYTES))
        try:
            vectors, tokens = read_embeddings(answer)
        except (LookupError, TypeError, ValueError) as error:
            raise UpstreamFailed(self.host, f"it sent unreadable embeddings: {error!r}") from error
        if len(vectors) != len(texts):
            raise UpstreamFailed(self.host, f"it sent {len(vectors)} vectors for {len(texts)} texts")
        return Embeddings(vectors, tokens)

    async def aclose(self) -> None:
        await self._session.close()

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Mapping[str, Any] | None, None]:
        """The JSON objects of a streamed answer, or the one of a whole answer; None where it says that is all."""
        if response.content_type == "application/json":  # some servers do not stream, or not with tools
            yield self._chunk(await self._all(response, MAX_ANSWER_BYTES))
            yield None
            return
        try:
            async for data in sse_data(self._bounded(response)):
                if data == b"[DONE]":
                    yield None
                    return
                if data:
                    yield self._chunk(data)
        except EventTooLargeError as error:
            raise UpstreamFailed(self.host, f"it sent {error}") from error

    async def _bounded(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        read = 0
        async for piece in response.content.iter_any():
            read += len(piece)
            if read > MAX_ANSWER_BYTES:
                raise UpstreamFailed(self.host, f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
            yield piece

    def _chunk(self, data: bytes) -> Mapping[str, Any]:
        """One object of an answer. Raises the error that it carries."""
        chunk = self._json(data)
        if not isinstance(chunk, dict):
            raise UpstreamFailed(self.host, "it sent a chunk that is no JSON object")
        found = cast("Mapping[str, Any]", chunk)
        if found.get("error"):
            code = error_object(data).get("code")
            status = code if isinstance(code, int) else 502
            raise refused(self.host, status, data, None, self._key, self._key_variable)
        return found

    def _json(self, data: bytes) -> object:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UpstreamFailed(
                self.host, "it sent something that is not JSON: is --upstream an API's base?"
            ) from error

    @asynccontextmanager
    async def _post(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An open response with status 200."""
        self.requests += 1
        data = io.BytesIO(json.dumps(body).encode())  # sent in pieces, however large
        async with self._open("POST", self._base + path, data) as response:
            await self._check(response)
            yield response

    @asynccontextmanager
    async def _open(
        self, method: str, url: str, data: io.BytesIO | None, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A response of any status. Raises Unavailable where nobody answers, UpstreamFailed where it breaks off."""
        if self._session.closed:
            raise UpstreamFailed(self.host, "this node is closing")
        answered = False
        headers = self._authorization if headers is None else headers
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False, proxy=self.address.proxy
            ) as response:
                answered = True
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            reason = reason_of(error)
            if answered:
                raise UpstreamFailed(self.host, f"it broke off: {reason}") from error
            message = f"upstream {self.host} does not answer: {reason}"
            raise Unavailable(message, UNREACHABLE_RETRY_AFTER_S) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raises UpstreamRefused or UpstreamFailed for every status but 200."""
        if response.status == 200:
            return
        if 300 <= response.status < 400:
            raise UpstreamFailed(self.host, "it redirects elsewhere, which is not followed: give the final URL")
        body = await self._all(response, MAX_ERROR_BYTES, cut=True)
        retry_after = response.headers.get("Retry-After")
        raise refused(self.host, response.status, body, retry_after, self._key, self._key_variable)

    async def _all(self, response: aiohttp.ClientResponse, most: int, cut: bool = False) -> bytes:
        """The whole body; beyond `most` bytes it is cut, or refused."""
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > most:
                if cut:
                    break
                raise UpstreamFailed(self.host, f"its answer is larger than {most} bytes")
        return bytes(body[:most])


def reason_of(error: Exception) -> str:
    """Why a connection failed, in the system's own words where it has some."""
    if isinstance(error, aiohttp.ClientConnectorError):
        code, words = error.os_error.errno, error.os_error.strerror
        return os.strerror(code) if code is not None and code in errno.errorcode else words or str(error.os_error)
    return str(error) or type(error).__name__


def upstream_body(request: GenerationRequest) -> dict[str, Any]:
    """What the upstream is asked: the client's own body where there is one, with all its unknown fields.

    Changed are the model's name, streaming (so that a client that leaves is noticed, and usage comes along), `n` (each
    choice is a request of its own: many servers ignore it), and what a vote varies; `echo`, which the gateway does, and
    our own `swarm` field stay here.
    """
    if request.original is None:
        body = request_body(request, 1)
        for name in ("chat_template_kwargs", *request.llama_options):  # clouds refuse what they do not know
            body.pop(name, None)
        if not request.stop:
            del body["stop"]  # an empty list is refused by some
    else:
        body = cast("dict[str, Any]", json.loads(request.original))
        body.pop("swarm", None)
        body.pop("echo", None)
        if request.temperature is not None:
            body["temperature"] = request.temperature
    seed, own = request.seed, body.get("seed")
    if seed is not None and (not isinstance(own, int) or own & SEED_MASK != seed):
        body["seed"] = seed
    body.pop("n", None)
    options = body.get("stream_options")
    asked = cast("dict[str, Any]", options) if isinstance(options, dict) else {}
    return {**body, "model": request.model, "stream": True, "stream_options": {**asked, "include_usage": True}}
