"""llama.cpp's own HTTP dialect, spoken to a server on loopback: requests out, typed events in.

Why HTTP and not the library's blocking calls: those have no tokenizer and no template, need one Python thread per
stream, and take the GIL twice a token. Over the listener a stream is one socket of our loop, closing it cancels, and a
listener in another process looks the same (`host.py`). The listener is given a random key.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp

from swarm.engines.engine import Capabilities, Embeddings, Ranking, Tokens
from swarm.engines.forced_call import CallGrammar, CallReader, call_grammar, demanded_schema
from swarm.engines.grammar_schema import grammar_schema, whole_document
from swarm.engines.infill import InfillReader, infill_body
from swarm.engines.leading_thought import ThoughtReader
from swarm.engines.prefill import SlicedPrefill, is_long
from swarm.engines.sse import EventTooLargeError, sse_data
from swarm.errors import BadRequest, ContextExceeded, EngineFailed, SwarmError
from swarm.generation import Delta, EventStream, Finish, FinishReason, GenerationRequest, Prompt, ToolCallDelta, Usage

Wire = Mapping[str, Any]  # parsed JSON from the engine, turned into typed objects in this file and nowhere else

READ_BUFFER_BYTES = 2**18  # one slow consumer may hold this much before the engine's socket is paused
CONNECT_TIMEOUT_S = 5.0  # loopback: anything longer means the engine is gone
SCHEMA_COMPLAINT = "Unable to generate parser for this template. Automatic parser generation failed: "
SCHEMA_WORDS = re.compile("schema|grammar", re.IGNORECASE)
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process\D+(\d+)")
NO_TOKENS = (
    "these numbers are not tokens of this model: send text, or what its own /tokenize gives "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


def request_body(request: GenerationRequest, n: int) -> dict[str, Any]:
    """OpenAI's JSON for `n` streamed answers to `request`: what peers take."""
    body = request.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"logprobs", "top_logprobs", "tool_choice", "tools"}
    )
    if request.tools:
        body["tools"] = [tool.model_dump(mode="json", exclude_none=True) for tool in request.tools]
        choice = request.tool_choice
        body["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump(mode="json")
    else:
        body.pop("parallel_tool_calls", None)
    if not request.input_extra:
        body.pop("input_extra")
    if request.logprobs:
        if request.messages is None:
            body["logprobs"] = max(request.top_logprobs, 1)
        else:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
    body["n"] = n
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    return body


def engine_body(request: GenerationRequest, n: int, calls: CallGrammar | None) -> dict[str, Any]:
    """The same as llama.cpp takes it: its schemas in terms of grammars, enforced calls as a schema of the answer."""
    body = request_body(request, n)
    for tool in body.get("tools", ()):
        tool["function"]["parameters"] = grammar_schema(tool["function"]["parameters"])
    if calls is not None:
        body["tool_choice"] = "none"  # to its own parser: the prompt shows the tools all the same
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": calls.schema}}
    elif (schema := demanded_schema(request.response_format)) is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": whole_document(schema)}}
    return body


def translate_error(status: int, body: Wire) -> SwarmError:
    """llama.cpp's error object as one of ours."""
    detail = _object(body.get("error"))
    message = str(detail.get("message") or f"the engine answered {status}")
    if detail.get("type") == "exceed_context_size_error":
        return ContextExceeded(int(detail.get("n_prompt_tokens", 0)), int(detail.get("n_ctx", 0)))
    if too_large := _TOO_LARGE.match(message):  # a text that must be pooled at once; llama.cpp calls it a server error
        had, most = too_large.groups()
        return BadRequest(f"a text has {had} tokens, and this model takes {most} at once here: split it", param="input")
    if "invalid tokens" in message or "_M_range_check" in message:
        return BadRequest(NO_TOKENS, param="tokens")
    if status in (400, 404, 422, 501):
        return BadRequest(message.removeprefix(SCHEMA_COMPLAINT))
    return EngineFailed(f"the engine failed: {message}")


@asynccontextmanager
async def blaming_schemas(request: GenerationRequest) -> AsyncGenerator[None]:
    """Names the field in a refusal of a schema that only llama.cpp could see is wrong."""
    try:
        yield
    except BadRequest as error:
        if error.param is not None or not SCHEMA_WORDS.search(str(error)):
            raise
        field = "tools" if demanded_schema(request.response_format) is None else "response_format"
        raise BadRequest(f"{field}: {error}", param=field) from error


class ChunkReader:
    """Turns one response's chunks into events. A choice's usage comes right after its last chunk.

    `cached` is how much of the prompt was in the cache, where the response itself no longer tells.
    """

    def __init__(self, chat: bool, cached: int | None = None) -> None:
        self._chat = chat
        self._cached = cached
        self._finished: tuple[int, FinishReason] | None = None

    def events(self, chunk: Wire) -> list[Delta | Finish]:
        """The events in one chunk, in order. Raises the chunk's error if it is one."""
        if "error" in chunk:
            raise translate_error(int(chunk["error"].get("code", 500)), chunk)
        events: list[Delta | Finish] = []
        for choice in chunk["choices"]:
            delta = self._delta(choice)
            if delta is not None:
                events.append(delta)
            reason = choice.get("finish_reason")
            if reason:
                self._finished = (choice["index"], FINISH_REASONS.get(reason, "stop"))
        usage = chunk.get("usage")
        if usage is not None and self._finished is not None:
            index, reason = self._finished
            self._finished = None
            cached = _object(usage.get("prompt_tokens_details")).get("cached_tokens", 0)
            cached = cached if self._cached is None else self._cached
            events.append(Finish(index, reason, Usage(
                prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"], cached_tokens=cached
            )))  # fmt: skip
        return events

    def _delta(self, choice: Wire) -> Delta | None:
        if not self._chat:
            text, logprobs = choice.get("text") or "", choice.get("logprobs")
            return Delta(choice["index"], text, logprobs=logprobs) if text or logprobs else None
        delta = choice["delta"]
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        calls, logprobs = delta.get("tool_calls"), choice.get("logprobs")
        if not (content or reasoning or calls or logprobs):
            return None
        return Delta(
            choice["index"], content or "", reasoning or "", tuple(map(_tool_call, calls)) if calls else (), logprobs
        )


def _tool_call(call: Wire) -> ToolCallDelta:
    function = _object(call.get("function"))
    return ToolCallDelta(call.get("index", 0), call.get("id"), function.get("name"), function.get("arguments") or "")


class AnswerReader:
    """What llama.cpp's own parsers leave in one answer's text: thoughts of a model whose template hides them, calls."""

    def __init__(self, chat: bool, calls: CallGrammar | None) -> None:
        self._thoughts = ThoughtReader() if chat else None
        self._calls = None if calls is None else CallReader(calls)

    def read(self, event: Delta | Finish) -> list[Delta | Finish]:
        events = [event] if self._thoughts is None else self._thoughts.read(event)
        if self._calls is None:
            return events
        return [shown for event in events if (shown := self._calls.read(event)) is not None]


class LlamaHttp:
    """A llama.cpp server at `address` as an event source. Owns one client session; use `aclose()`."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        # A fresh connection per request: cpp-httplib closes kept-alive ones unannounced, and the next request fails.
        connector = aiohttp.TCPConnector(force_close=True, limit=0, happy_eyeballs_delay=None)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            read_bufsize=READ_BUFFER_BYTES,
        )
        self._prefill = SlicedPrefill(self._json)

    async def stream(self, request: GenerationRequest, n: int) -> EventStream:
        """Events of `n` answers; closing the iterator closes the socket, which stops the engine."""
        chat = request.messages is not None
        path = "/v1/chat/completions" if chat else "/v1/completions"
        calls = call_grammar(request)
        body = engine_body(request, n, calls)
        cached = await self._prefill.warm(body) if is_long(request) else None
        reader = ChunkReader(chat, cached)
        if request.suffix is not None:
            path, body, reader = "/infill", infill_body(body), InfillReader()
        answers = [AnswerReader(chat, calls) for _ in range(n)]
        unfinished = n
        async with blaming_schemas(request), self._post(path, body) as response:
            try:
                async for data in sse_data(response.content.iter_any()):
                    if data == b"[DONE]":
                        break
                    for raw in reader.events(json.loads(data)):
                        for event in answers[raw.choice].read(raw):
                            unfinished -= isinstance(event, Finish)
                            yield event
            except (ValueError, KeyError, TypeError, EventTooLargeError) as error:
                raise EngineFailed(f"the engine sent an unreadable chunk: {error!r}") from error
        if unfinished:
            raise EngineFailed("the engine ended the stream before the answer was complete")

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        body = await self._json("/v1/embeddings", {"input": list(texts), "encoding_format": "float"})
        rows = sorted(body["data"], key=lambda row: row["index"])
        return Embeddings(tuple(tuple(row["embedding"]) for row in rows), int(body["usage"]["prompt_tokens"]))

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        body = await self._json("/v1/rerank", {"query": query, "documents": list(documents)})
        rows = sorted(body["results"], key=lambda row: row["index"])
        return Ranking(tuple(float(row["relevance_score"]) for row in rows), int(body["usage"]["prompt_tokens"]))

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special, "with_pieces": pieces}
        found: list[Any] = (await self._json("/tokenize", body))["tokens"]
        if not pieces:
            return Tokens(tuple(found))
        return Tokens(tuple(token["id"] for token in found), tuple(_piece(token["piece"]) for token in found))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return str((await self._json("/detokenize", {"tokens": list(tokens)}))["content"])

    async def prompt_text(self, request: GenerationRequest) -> str:
        wanted = {k: v for k, v in request_body(request, 1).items() if k in ("messages", "tools", "tool_choice")}
        return str((await self._json("/apply-template", wanted))["prompt"])

    async def count_tokens(self, request: GenerationRequest) -> int:
        text = await self.prompt_text(request) if request.prompt is None else request.prompt
        if not isinstance(text, str):
            return len(text)
        return len((await self.tokenize(text, add_special=True, parse_special=True)).ids)

    async def capabilities(self) -> Capabilities:
        """What the server says of its model and slots."""
        props: Wire = await self._json("/props", None)
        template = _object(props.get("chat_template_caps"))
        self._prefill.context_tokens = int(props["default_generation_settings"]["n_ctx"])
        return Capabilities(
            slots=int(props["total_slots"]),
            context_tokens=int(props["default_generation_settings"]["n_ctx"]),
            tools=bool(template.get("supports_tools", True)),
            grammar=True,
            logprobs=True,
            embeddings=True,
            reasoning="<think>" in str(props.get("chat_template", "")),
            infill=await self._can_infill(),
            chat_template=str(props.get("chat_template", "")),
            bos_token=str(props.get("bos_token", "")),
            eos_token=str(props.get("eos_token", "")),
        )

    async def _can_infill(self) -> bool:
        """Whether the vocabulary has the tokens for it: looked at before the body, which is empty here."""
        try:
            await self._json("/infill", {})
        except BadRequest as error:
            return "not supported" not in str(error)
        return True

    async def busy_slots(self) -> int:
        """Slots that are prefilling or decoding at this moment."""
        return sum(1 for slot in cast("list[Wire]", await self._json("/slots", None)) if slot["is_processing"])

    async def prompt_tokens_evaluated(self) -> int:
        """Prompt tokens prefilled since the model was loaded; those taken from a cache are not in it."""
        async with self._post("/metrics", None) as response:
            text = await response.text()
        line = next(line for line in text.splitlines() if line.startswith("llamacpp:prompt_tokens_total"))
        return int(float(line.rsplit(" ", 1)[1]))

    async def aclose(self) -> None:
        await self._session.close()

    async def _json(self, path: str, body: Wire | None) -> Any:
        async with self._post(path, body) as response:
            return await response.json()

    @asynccontextmanager
    async def _post(self, path: str, body: Wire | None) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An open response with status 200 (GET where `body` is None); anything else is raised as one of our errors."""
        if self._session.closed:
            raise EngineFailed("the engine is closed")
        try:
            method = "GET" if body is None else "POST"
            data = None if body is None else io.BytesIO(json.dumps(body).encode())  # sent in pieces, however large
            async with self._session.request(method, self._address + path, data=data) as response:
                if response.status != 200:
                    raise translate_error(response.status, await _error_body(response))
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise EngineFailed(f"the engine's listener does not answer: {error or type(error).__name__}") from error


def _piece(piece: str | list[int]) -> str | tuple[int, ...]:
    return piece if isinstance(piece, str) else tuple(piece)


async def _error_body(response: aiohttp.ClientResponse) -> Wire:
    try:
        body = json.loads(await response.read())
    except ValueError:
        return {}
    return _object(body)


def _object(value: object) -> Wire:
    """`value` if it is a JSON object, else an empty one."""
    return cast("Wire", value) if isinstance(value, dict) else {}
