"""llama.cpp's own HTTP dialect, spoken to a server on loopback: requests out, typed events in.

Why HTTP and not the library's blocking calls: those have no tokenizer and no template, need one Python thread per
stream, and take the GIL twice a token. Over the listener a stream is one socket of our loop, closing it cancels, and a
listener in another process looks the same (`xllamacpp_host.py`). The listener is given a random key.

What llama.cpp's own parsers leave in an answer's text is moved out of it, and tried again, by `answers.py`.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from typing import Any, cast

import aiohttp

from swarm.engines.assembly import numbered, timed, together
from swarm.engines.chat_turns import CAN_SAY_ALL, TEMPLATE_PROBES, TemplateAbilities, abilities, said_by
from swarm.engines.engine import Capabilities, Embeddings, LoadedModel, Ranking, Tokens
from swarm.engines.llama_cpp.answers import AnswerReader, ReadableAnswers, is_unreadable
from swarm.engines.llama_cpp.demanded_answer import (
    CallGrammar,
    arguments_schema,
    begun_turn,
    call_grammar,
    continuing,
    demanded_schema,
    is_quoted,
    is_strict,
    refuse_impossible_turns,
)
from swarm.engines.llama_cpp.grammar import whole_document
from swarm.engines.llama_cpp.plain_text import PlainText, Restored
from swarm.engines.llama_cpp.prefill import PromptReading, SlicedPrefill, is_long
from swarm.engines.llama_cpp.progress import LoopCounts, SilentCall
from swarm.engines.llama_cpp.prompt_slots import FEW_TOKENS, TEXT_CHARS, PromptSlots
from swarm.engines.openai_dialect import (
    STOPPING_WORD,
    ChunkReader,
    EventTooLargeError,
    ParsedJson,
    TemplateRefused,
    as_object,
    request_body,
    sse_data,
    timings_of,
    translate_error,
)
from swarm.engines.thoughts import may_think
from swarm.errors import BadRequest, EngineDied, EngineFailed, SwarmError, Unavailable
from swarm.generation import (
    MIN_REPEAT_PENALTY,
    Delta,
    EventStream,
    Finish,
    FinishReason,
    GenerationRequest,
    JsonObject,
    Prompt,
    Usage,
    has_images,
    is_greedy,
    prompt_chars,
    steady_temperature,
    texts_of,
)

READ_BUFFER_BYTES = 2**18  # one slow consumer may hold this much before the engine's socket is paused
PROMPT_PARTS = (
    "messages", "tools", "tool_choice", "chat_template_kwargs", "continue_final_message", "add_generation_prompt"
)  # fmt: skip
PROMPT_FIELDS = {
    "messages": "messages", "prompt": "prompt", "input_prefix": "prompt", "input": "input", "documents": "documents",
}  # fmt: skip
CONNECT_TIMEOUT_S = 5.0  # loopback: anything longer means the engine is gone
COUNT_PATH = "/v1/chat/completions/input_tokens"
WITHOUT_A_SLOT = frozenset(
    {"/tokenize", "/detokenize", "/apply-template", COUNT_PATH}
)  # each holds a thread of the listener
WITHOUT_A_SLOT_AT_ONCE = 4  # of its HTTP_THREADS_SPARE: the watcher's question always finds one
SCHEMA_WORDS = re.compile("schema|grammar", re.IGNORECASE)
MEDIA_MARK = re.compile(r"<__media_\w*__>")  # where an image stands in a prompt; another word in every process
QUOTES_TOKENS = 4  # of the quotes around a text that the grammar has as JSON, and white space before them

log = logging.getLogger(__name__)


@asynccontextmanager
async def naming_the_field(request: GenerationRequest) -> AsyncGenerator[None]:
    """Names the field in a refusal that only llama.cpp could find a reason for: of a schema, or of a begun turn."""
    try:
        yield
    except BadRequest as error:
        if error.param is not None or not SCHEMA_WORDS.search(str(error)):
            raise
        field = "tools" if demanded_schema(request.response_format) is None else "response_format"
        raise BadRequest(f"{field}: {error}", param=field) from error
    except EngineFailed as error:
        if not is_unreadable(error) or begun_turn(request.messages) is None:
            raise
        raise BadRequest(
            "messages: the last one is an assistant's and begins something that this model cannot go on with, "
            "such as half of a call: leave the turn out",
            param="messages",
        ) from error


def infill_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """A completion's body with a `suffix`, as `/infill` takes it."""
    wire = {key: value for key, value in body.items() if key not in ("prompt", "suffix", "logprobs", "stream_options")}
    return {**wire, "input_prefix": body["prompt"], "input_suffix": body["suffix"]}


class InfillReader:
    """Turns one response's chunks into events; the last chunk of each choice carries its counts."""

    def events(self, chunk: Mapping[str, Any]) -> list[Delta | Finish]:
        index = int(chunk["index"])
        events: list[Delta | Finish] = [Delta(index, chunk["content"])] if chunk["content"] else []
        if chunk["stop"]:
            reason: FinishReason = "length" if chunk["stop_type"] == "limit" else "stop"
            cached = int(chunk["timings"]["cache_n"])
            usage = Usage(
                prompt_tokens=int(chunk["tokens_evaluated"]),
                completion_tokens=int(chunk["tokens_predicted"]),
                cached_tokens=cached,
            )
            events.append(Finish(index, reason, usage, chunk.get(STOPPING_WORD) or None, timings=timings_of(chunk)))
        return events


def engine_body(
    request: GenerationRequest, n: int, calls: CallGrammar | None, shows_tools: bool = True
) -> dict[str, Any]:
    """OpenAI's JSON as llama.cpp takes it: schemas in terms of grammars, enforced calls as a schema of the answer.

    Tools go along where the chat template `shows_tools`; else they are in the turns already.
    """
    body = request_body(request, n)
    if request.messages is not None:
        body |= continuing(request)
        if request.stop:  # which of them was hit is in no field of OpenAI's
            body |= {"verbose": True, "response_fields": [STOPPING_WORD]}
    if not shows_tools:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
    if request.logprobs:  # by its own name: it refuses the other one in streams with tools
        body = {name: value for name, value in body.items() if name not in ("logprobs", "top_logprobs")}
        body["n_probs"] = max(request.top_logprobs, 1)
        if is_whole(request, shows_tools):
            body["stream"] = False
            del body["stream_options"]
    if calls is not None or request.tools or demanded_schema(request.response_format) is not None:
        body.pop("ignore_eos", None)  # a form ends, and llama.cpp's process with it where nothing may follow
    if is_greedy(request):  # which is to leave nothing to chance
        for name in ("xtc_probability", "xtc_threshold"):
            body.pop(name, None)
    body |= within_bounds(body)
    name_parameters(body, request)
    if calls is not None:
        if shows_tools:
            body["tool_choice"] = "none"  # to its own parser: the prompt shows the tools all the same
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": calls.schema}}
    elif (schema := demanded_schema(request.response_format)) is not None:
        written = whole_document(schema, is_strict(request.response_format)).schema or {}
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": written}}
        if is_quoted(request) and request.max_tokens:
            body["max_tokens"] = request.max_tokens + QUOTES_TOKENS
    return body


def name_parameters(body: Mapping[str, Any], request: GenerationRequest) -> None:
    """The parameters of the tools in `body` in llama.cpp's words: it compiles them wherever it shows them."""
    for tool, spec in zip(body.get("tools", ()), request.tools, strict=False):
        tool["function"]["parameters"] = (
            whole_document(arguments_schema(spec.function), bool(spec.function.strict)).schema or {}
        )


def is_whole(request: GenerationRequest, shows_tools: bool) -> bool:
    """Whether llama.cpp is to answer in one piece: its parser of calls holds text back, and drops what goes with it."""
    return request.logprobs and bool(request.tools) and shows_tools


def within_bounds(body: ParsedJson) -> dict[str, Any]:
    """The sampling parameters of `body` that llama.cpp would choke on, as it can bear them."""
    bounds: dict[str, Callable[[float], float]] = {
        "temperature": steady_temperature,
        "repeat_penalty": lambda penalty: max(penalty, MIN_REPEAT_PENALTY),
    }
    return {name: bounded(body[name]) for name, bounded in bounds.items() if name in body}


def may_be_empty(request: GenerationRequest) -> bool:
    """Whether the prompt may have no token at all: some templates make nothing of turns that say nothing."""
    if request.messages is None:
        return not request.prompt
    said = ("content", "reasoning_content", "tool_calls")
    return not request.tools and not any(message.get(part) for message in request.messages for part in said)


class LlamaHttp:
    """A llama.cpp server at `address` as an event source. Owns one client session; use `aclose()`.

    `several`: one request can have several answers there. `socket` is the Unix socket at which it listens, too: a
    connection there takes less of the time to a first token.
    """

    def __init__(self, address: str, key: str, several: bool = True, socket: str | None = None) -> None:
        self._address = address
        self._several = several
        self.plain = PlainText()  # of the model's vocabulary, once that is read
        self.template = CAN_SAY_ALL  # what the model's chat template can say, once it was tried
        self.call_form: None = None  # its server reads calls
        self._readable = ReadableAnswers(self)
        # A fresh connection per request: cpp-httplib closes kept-alive ones unannounced, and the next request fails.
        # While it keeps one, a thread of its looks at it a hundred times a second; with a Unix socket it saves nothing.
        connector: aiohttp.BaseConnector
        if socket is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=0, happy_eyeballs_delay=None)
        else:
            connector = aiohttp.UnixConnector(socket, force_close=True, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            read_bufsize=READ_BUFFER_BYTES,
        )
        self.prefill = SlicedPrefill(self.ask)
        self._without_a_slot = asyncio.Semaphore(WITHOUT_A_SLOT_AT_ONCE)
        self.silent: set[SilentCall] = set()  # the requests that wait for a byte, for the watcher
        self._unloaded = False
        self._arriving_bodies: set[aiohttp.StreamReader] = set()

    def stream(self, request: GenerationRequest, n: int) -> EventStream:
        """Events of `n` answers; closing the iterator closes the socket, which stops the engine."""
        parts = self._parts(request, n)
        events = self._readable.stream(*parts[0]) if len(parts) == 1 else self._apart(request, parts)
        return timed(events) if request.tools else events  # a call that words began is a second answer of llama.cpp's

    def _parts(self, request: GenerationRequest, n: int) -> list[tuple[GenerationRequest, int]]:
        """The requests to llama.cpp that `n` answers take, and how many answers each has: the last may have several."""
        if not self._several or may_be_empty(request) or is_whole(request, self.template.tools):
            # llama.cpp ends one answer to an empty prompt at once, and the others wait for that one's prefill for ever.
            # Of several whole answers it counts only one.
            return [(numbered(request, choice), 1) for choice in range(n)]
        if n == 1 or request.first_temperature is not None:  # answers to one request are sampled alike
            return [(numbered(request, 0), 1), (numbered(request, 1), n - 1)][:n]
        return [(request, n)]

    async def _apart(self, request: GenerationRequest, parts: Sequence[tuple[GenerationRequest, int]]) -> EventStream:
        """Answers that take several requests, beside each other: they share the reading of their prompt where they can.

        Where llama.cpp makes the prompt itself its tokens are not known here, and the shortest are not counted.
        """
        counts = [count for _, count in parts]
        short = not request.tools and prompt_chars(request) < FEW_TOKENS
        apart = short or request.suffix is not None or has_images(request)
        async with nullcontext() if apart else self._read_once(request, counts) as read:
            sources = (
                [self._readable] * len(parts)
                if read is None
                else [self._readable.over(ReadBefore(self, each)) for each in read]
            )
            streams = [source.stream(*part) for source, part in zip(sources, parts, strict=True)]
            async with aclosing(together(streams, counts)) as events:
                async for event in events:
                    yield event

    def _read_once(
        self, request: GenerationRequest, counts: Sequence[int]
    ) -> AbstractAsyncContextManager[list[PromptReading] | None]:
        refuse_impossible_turns(request)
        can = self._readable.can_say(request)
        said = said_by(can, request)
        body = self.plain.body(engine_body(said, 1, call_grammar(said), can.tools))
        return self.prefill.shared(body, counts, prompt_begins(said))

    async def answers(
        self, request: GenerationRequest, n: int, can: TemplateAbilities, read: PromptReading | None = None
    ) -> EventStream:
        """See `AnswerSource`. The prompt was `read` already, or not."""
        refuse_impossible_turns(request)
        request = said_by(can, request)
        chat = request.messages is not None
        path = "/v1/chat/completions" if chat else "/v1/completions"
        calls = call_grammar(request)
        body = self.plain.body(engine_body(request, n, calls, can.tools))
        text = prompt_begins(request)
        prefill = self.prefill
        async with prefill.going_on(read) if read else prefill.reading(body, text, n, is_long(request)) as reading:
            reader: ChunkReader | InfillReader = ChunkReader(chat, reading.cached)
            if request.suffix is not None:
                path, body, reader = "/infill", infill_body(body), InfillReader()
            if reading.id_slot >= 0:
                body["id_slot"] = reading.id_slot
            if "cache_prompt" in body:
                body["cache_prompt"] = not reading.anew
            answers = [AnswerReader(request, calls, Restored(self.plain)) for _ in range(n)]
            unfinished, thought = n, False
            async with naming_the_field(request), self._post(path, body) as response:
                try:
                    arriving = self._arriving(response.content.iter_any())
                    async for data in sse_data(arriving) if body["stream"] else in_one(arriving):
                        if data == b"[DONE]":
                            break
                        for raw in map(reading.timed, reader.events(json.loads(data))):
                            for event in answers[raw.choice].read(raw):
                                if isinstance(event, Finish):
                                    unfinished -= 1
                                    # Of an answer with thoughts a template leaves most out.
                                    stays = event.choice == 0 and not thought
                                    written = event.usage.completion_tokens
                                    filled = event.usage.prompt_tokens + written
                                    reading.finished(event.choice, written if stays else 0, filled)
                                else:
                                    thought = thought or bool(event.reasoning)
                                yield event
                except (ValueError, KeyError, TypeError, EventTooLargeError) as error:
                    raise EngineFailed(f"the engine sent an unreadable chunk: {error!r}") from error
            if unfinished:
                raise EngineFailed("the engine ended the stream before the answer was complete")

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        self.prefill.slots.doubted = True  # llama.cpp reads a text in the slot that was used the longest time ago
        body = await self.ask("/v1/embeddings", {"input": list(texts), "encoding_format": "float"})
        rows = sorted(body["data"], key=lambda row: row["index"])
        return Embeddings(tuple(tuple(row["embedding"]) for row in rows), int(body["usage"]["prompt_tokens"]))

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        asked = {"query": self.plain.text(query), "documents": list(map(self.plain.text, documents))}
        body = await self.ask("/v1/rerank", asked)
        rows = sorted(body["results"], key=lambda row: row["index"])
        return Ranking(tuple(float(row["relevance_score"]) for row in rows), int(body["usage"]["prompt_tokens"]))

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special, "with_pieces": pieces}
        found: list[Any] = (await self.ask("/tokenize", body))["tokens"]
        if not pieces:
            return Tokens(tuple(found))
        return Tokens(tuple(token["id"] for token in found), tuple(_piece(token["piece"]) for token in found))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return str((await self.ask("/detokenize", {"tokens": list(tokens)}))["content"])

    async def prompt_text(self, request: GenerationRequest) -> str:
        text = await self._rendered(request, "/apply-template", "prompt")
        return re.sub(MEDIA_MARK, "<image>", text) if has_images(request) else text

    async def _rendered(self, request: GenerationRequest, path: str, field: str) -> str:
        """What llama.cpp answers at `path` to the prompt of a chat, as its template takes it."""
        refuse_impossible_turns(request)
        while True:
            can = self._readable.can_say(request)
            said = said_by(can, request)
            whole = request_body(said, 1) | continuing(said)
            name_parameters(whole, said)
            parts = [part for part in PROMPT_PARTS if can.tools or part not in ("tools", "tool_choice")]
            wanted = self.plain.body({part: whole[part] for part in parts if part in whole})
            try:
                return str((await self.ask(path, wanted))[field])
            except TemplateRefused:
                if not self._readable.note_refusal(request, can):
                    raise

    async def count_tokens(self, request: GenerationRequest) -> int:
        if has_images(request):  # what one takes depends on its size and on the model
            return int(await self._rendered(request, COUNT_PATH, "input_tokens"))
        text = await self.prompt_text(request) if request.prompt is None else request.prompt
        if not isinstance(text, str):
            return len(text)
        asked = {"content": text, "add_special": True, "parse_special": True}
        async with self._post("/tokenize", asked) as response:
            return tokens_in(await response.read())

    async def loop_counts(self) -> LoopCounts:
        """Asked of the main loop, which answers between two steps: not while one lasts."""
        counted = await self._metrics()
        busy = counted["requests_processing"] + counted["requests_deferred"]
        return LoopCounts(int(counted["n_decode_total"]), int(busy))

    async def slot_states(self) -> list[JsonObject]:
        """See `TellsSlots`. Older builds tell prompts there."""
        found = await self.ask("/slots", None)
        slots = cast("list[object]", found) if isinstance(found, list) else []
        return [{**without_texts(slot), "n_ctx": self.prefill.context_tokens} for slot in slots]

    async def prompt_pace(self, text: str) -> tuple[int, float]:
        """How many tokens `text` has, and the seconds that reading it takes: nothing of it is kept."""
        asked = {"prompt": text, "n_predict": 0, "cache_prompt": False}
        timings = (await self.ask("/completion", asked))["timings"]
        return int(timings["prompt_n"]), float(timings["prompt_ms"]) / 1000

    async def loaded(self) -> tuple[LoadedModel, Capabilities]:
        """What the server says of its model and slots, and what can be asked of them."""
        props: ParsedJson = await self.ask("/props", None)
        self.template = await self._tried_template()
        self.prefill.slots = PromptSlots(int(props["total_slots"]))
        self.prefill.context_tokens = int(props["default_generation_settings"]["n_ctx"])
        model = LoadedModel(
            slots=len(self.prefill.slots.slots),
            context_tokens=self.prefill.context_tokens,
            chat_template=str(props.get("chat_template", "")),
            bos_token=str(props.get("bos_token", "")),
            eos_token=str(props.get("eos_token", "")),
        )
        capabilities = Capabilities(
            tools=self.template.tools,
            grammar=True,
            logprobs=True,
            embeddings=True,
            reasoning=may_think(model.chat_template),
            infill=await self._can_infill(),
            vision=as_object(props.get("modalities")).get("vision") is True,
            first_temperature=True,
        )
        return model, capabilities

    async def _tried_template(self) -> TemplateAbilities:
        """What the chat template can say, by letting it: its own words for that it has none."""
        rendered: dict[str, str | None] = {}
        for name, probe in TEMPLATE_PROBES.items():
            body = {"messages": probe.messages, **({"tools": probe.tools} if probe.tools else {})}
            try:
                rendered[name] = str((await self.ask("/apply-template", body))["prompt"])
            except EngineDied:
                raise
            except (BadRequest, EngineFailed):
                rendered[name] = None
        return abilities(rendered)

    async def _can_infill(self) -> bool:
        """Whether the vocabulary has the tokens for it: looked at before the body, which is empty here."""
        try:
            await self.ask("/infill", {})
        except BadRequest as error:
            return "not supported" not in str(error)
        return True

    async def _metrics(self) -> dict[str, float]:
        async with self._post("/metrics", None) as response:
            text = await response.text()
        lines = (line.removeprefix("llamacpp:").split(" ") for line in text.splitlines() if not line.startswith("#"))
        return {line[0]: float(line[1]) for line in lines if len(line) == 2}

    @contextmanager
    def _waiting(self, most_tokens: int, begun: bool = False) -> Generator[None]:
        """A block that waits for a byte of the engine."""
        call = SilentCall(most_tokens, begun)
        self.silent.add(call)
        try:
            yield
        finally:
            self.silent.discard(call)

    async def _arriving(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """`chunks`, each of which is waited for: not so the time that whoever reads them takes."""
        source = aiter(chunks)
        while True:
            with self._waiting(0, begun=True):
                chunk = await anext(source, None)
            if chunk is None:
                return
            yield chunk

    async def aclose(self, died: bool = False) -> None:
        """Cut what is under way; `died`: because the engine has ended, and not because it is unloaded."""
        await self.prefill.aclose()
        self._unloaded = not died
        for body in self._arriving_bodies:  # aiohttp forgets who reads one, who would wait for ever
            body.set_exception(aiohttp.ClientPayloadError("the connection was closed"))
        await self._session.close()

    async def ask(self, path: str, body: ParsedJson | None) -> Any:
        async with self._post(path, body) as response:
            return await response.json()

    @asynccontextmanager
    async def _post(self, path: str, body: ParsedJson | None) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An open response with status 200 (GET where `body` is None); anything else is raised as one of our errors."""
        if self._session.closed:
            raise Unavailable("the engine is closed: ask again, or another node")
        try:
            method = "GET" if body is None else "POST"
            text = b"" if body is None else json.dumps(body).encode()
            data = io.BytesIO(text) if text else None  # sent in pieces, however large
            async with self._without_a_slot if path in WITHOUT_A_SLOT else nullcontext():
                whole = body is not None and body.get("stream") is False
                with self._waiting(len(text), begun=whole):
                    response = await self._session.request(method, self._address + path, data=data)
                async with response:
                    if response.status != 200:
                        raise translate_error(response.status, await _error_body(response), prompt_field(body))
                    self._arriving_bodies.add(response.content)
                    try:
                        yield response
                    finally:
                        self._arriving_bodies.discard(response.content)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # It never had the request, so that this says nothing against it.
            why = f"the engine is gone, and is about to be loaded again: {error or type(error).__name__}"
            raise Unavailable(why) from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:  # it had the request by then
            raise self._cut_off(error) from error
        except RuntimeError as error:  # aiohttp's for a read after this side has closed the connection
            if not self._session.closed:
                raise
            raise self._cut_off(error) from error

    def _cut_off(self, error: Exception) -> SwarmError:
        """What it means for a request that the connection broke off which it had gone out on."""
        if self._unloaded:
            return Unavailable("the engine was unloaded meanwhile: ask again, or another node")
        return EngineDied(f"the engine ended over this request: {error or type(error).__name__}")


class ReadBefore:
    """The answers of one `http` to a prompt that was read: the first request goes on there, others read it anew."""

    def __init__(self, http: LlamaHttp, reading: PromptReading) -> None:
        self._http = http
        self._reading: PromptReading | None = reading
        self.template = http.template
        self.call_form = http.call_form

    def answers(self, request: GenerationRequest, n: int, can: TemplateAbilities) -> EventStream:
        reading, self._reading = self._reading, None
        return self._http.answers(request, n, can, reading)

    async def count_tokens(self, request: GenerationRequest) -> int:
        return await self._http.count_tokens(request)


def prompt_begins(request: GenerationRequest) -> str:
    """By which a short prompt is known again."""
    return "\0".join(texts_of(request))[:TEXT_CHARS]


def prompt_field(body: ParsedJson | None) -> str | None:
    """Which field of a request to llama.cpp has the prompt, by its name in the client's; None where none has."""
    return next((name for key, name in PROMPT_FIELDS.items() if key in (body or ())), None)


async def in_one(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """All of `chunks` as one."""
    yield b"".join([chunk async for chunk in chunks])


def without_texts(slot: object) -> JsonObject:
    """The numbers and switches of what llama.cpp tells of a slot; of what is in them only these two parts."""
    told = as_object(slot)
    steps = told.get("next_token")  # a list in newer builds
    step = next(iter(cast("list[object]", steps)), None) if isinstance(steps, list) else steps
    parts: dict[str, JsonObject] = {"params": _numbers(as_object(told.get("params")))}
    parts["next_token"] = _numbers(as_object(step))
    kept: JsonObject = {**_numbers(told), "params": parts["params"], "next_token": [parts["next_token"]]}
    return {name: value for name, value in kept.items() if parts.get(name) != {}}


def _numbers(told: ParsedJson) -> JsonObject:
    return {name: value for name, value in told.items() if isinstance(value, bool | int | float)}


def tokens_in(answer: bytes) -> int:
    """How many tokens `/tokenize` lists, unparsed: a body of 16 MB has millions, half a second of the event loop."""
    listed = answer.partition(b"[")[2].partition(b"]")[0].strip()
    return listed.count(b",") + 1 if listed else 0


def _piece(piece: str | list[int]) -> str | tuple[int, ...]:
    return piece if isinstance(piece, str) else tuple(piece)


async def _error_body(response: aiohttp.ClientResponse) -> ParsedJson:
    try:
        body = json.loads(await response.read())
    except ValueError:
        return {}
    return as_object(body)
