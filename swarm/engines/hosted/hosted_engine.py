"""An engine whose library runs in a process of its own: everything that it takes to make answers of its tokens.

A generator makes tokens (`generator.py`). Here a conversation becomes a prompt of as many as fit, in turns that the
model's template has shown to say; tokens become text, up to a stop string; answers that must be calls or JSON get their
schema, and are read by `answers.py` as those of any library. Requests wait here for a slot, in order of arrival. The
process is watched as every engine is (`progress.py`): one that makes no step is doubted, then ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from federation.tasks import cancel_and_wait, finished, report_crash
from swarm.engines.assembly import timed
from swarm.engines.chat_turns import (
    CAN_SAY_ALL,
    PROBED_ARGUMENTS,
    PROBED_CALL,
    TEMPLATE_PROBES,
    TemplateAbilities,
    abilities,
    said_by,
)
from swarm.engines.engine import (
    Capabilities,
    Computation,
    Embeddings,
    EngineSpec,
    LoadedModel,
    Ranking,
    Tokens,
    refuse_unable,
    refuse_unseen,
)
from swarm.engines.hosted.answer_text import ShownText, sampling_of
from swarm.engines.hosted.connection import AnswerSlots, Connection, start_process
from swarm.engines.hosted.generator import Called, Ended, GeneratorFacts, Job, LoadOrder, Piece, Read
from swarm.engines.hosted.wire import pieces_in
from swarm.engines.llama_cpp.answers import AnswerReader, ReadableAnswers
from swarm.engines.llama_cpp.begun_call import CallForm, call_form
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
from swarm.engines.llama_cpp.http import QUOTES_TOKENS, naming_the_field
from swarm.engines.llama_cpp.plain_text import PlainText, Restored
from swarm.engines.llama_cpp.progress import EngineHealth, EnginePace, EngineProgress, Limits, until_wedged
from swarm.engines.llama_cpp.server_engine import PROBE_TEXT, EngineHost
from swarm.engines.llama_cpp.server_host import LOAD_LEAST_S, Serving, load_limit_s
from swarm.engines.openai_dialect import TemplateRefused
from swarm.engines.thoughts import OPENING, may_think
from swarm.errors import BadRequest, ContextExceeded, EngineDied, EngineFailed, Unavailable
from swarm.generation import (
    SEED_MASK,
    Delta,
    EventStream,
    GenerationRequest,
    JsonObject,
    Prompt,
    ToolCallDelta,
    new_call_id,
)

STEPS_ANSWER_S = 1.0  # what a process may take to show that it can be unloaded in peace
_PROBED_TOKENS = 1  # of the answer to the prompt that the pace is measured by

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostedLibrary:
    """A library as an engine: `name` in the words of `--engine`, and the `module` with its generator."""

    name: str
    module: str


class HostedEngine:
    """One model behind a generator in a process of its own. Build it with `load_hosted`."""

    def __init__(
        self, library: HostedLibrary, spec: EngineSpec, connection: Connection, facts: GeneratorFacts, home: EngineHost
    ) -> None:
        self.name = library.name
        self.spec = spec
        self.template = CAN_SAY_ALL
        self.call_form: CallForm | None = None
        self._facts = facts
        self._connection = connection
        self._home = home
        self._plain = PlainText(facts.controls)
        self._slots = AnswerSlots(facts.slots)
        self._readable = ReadableAnswers(self)
        self._takes_objects = True
        self._adds_bos = False
        self._closing: asyncio.Task[None] | None = None
        self._watching: tuple[asyncio.Task[Any], ...] = ()
        self._stalled: str | None = None
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        home.serves(Serving("", "", gpu=bool(facts.devices)))

    @property
    def model_id(self) -> str:
        return self.spec.model_id

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            tools=self.template.tools,
            grammar=self._facts.forms,
            logprobs=self._facts.logprobs,
            embeddings=self._facts.embeds,
            reasoning=may_think(self._facts.chat_template),
            generates=self._facts.generates,
            first_temperature=True,
        )

    @property
    def loaded(self) -> LoadedModel:
        facts = self._facts
        return LoadedModel(
            slots=facts.slots,
            context_tokens=min(facts.context_tokens, self.spec.context_tokens),
            chat_template=facts.chat_template,
            bos_token=facts.bos_token,
            eos_token=facts.eos_token,
            longest_token_bytes=facts.longest_token_bytes,
        )

    @property
    def stalled(self) -> str | None:
        return self._stalled

    @property
    def taken_bytes(self) -> int | None:
        return self._home.taken_bytes

    @property
    def computation(self) -> Computation:
        facts = self._facts
        return Computation(self.name, facts.version, facts.devices, facts.gpu_layers, facts.layers)

    def check(self, request: GenerationRequest) -> None:
        refuse_impossible_turns(request)

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        if not 1 <= n <= self.loaded.slots:
            raise BadRequest(f"n is {n}; this model runs 1 to {self.loaded.slots} answers at once", param="n")
        self._refuse_unable(request)
        return timed(self._readable.stream(request, n))

    def _refuse_unable(self, request: GenerationRequest) -> None:
        if request.suffix is not None:
            raise BadRequest(f"model {self.model_id!r} cannot fill in the middle with engine {self.name}", "suffix")
        refuse_unable(self)
        refuse_unseen(self, request)
        if request.logprobs and not self._facts.logprobs:
            raise BadRequest(f"engine {self.name} tells no log-probabilities", "logprobs")
        if not self._facts.forms and (call_grammar(request) or demanded_schema(request.response_format) is not None):
            raise BadRequest(f"engine {self.name} cannot hold an answer to a form", "response_format")

    async def answers(self, request: GenerationRequest, n: int, can: TemplateAbilities) -> EventStream:
        """See `AnswerSource`."""
        refuse_impossible_turns(request)
        request = said_by(can, request)
        prompt, opens_thought = await self._prompt(request, can)
        context = self.loaded.context_tokens
        if len(prompt) >= context:
            raise ContextExceeded(len(prompt), context, param=request.prompt_field)
        calls = call_grammar(request)
        room = context - len(prompt)
        job = Job(
            id=self._connection.new_job(),
            prompt=tuple(prompt),
            n=n,
            sampling=sampling_of(request, random.getrandbits(31) & SEED_MASK),
            max_tokens=most_tokens(request, room),
            schema=answer_schema(request, calls),
            tools=self._offered(request) if can.tools and self._facts.reads_calls and calls is None else (),
            chat=request.messages is not None,
        )
        readers = [AnswerReader(request, calls, Restored(self._plain)) for _ in range(n)]
        if opens_thought and job.schema is None and not self._facts.parts_thoughts:
            for choice, reader in enumerate(readers):
                reader.read(Delta(choice, OPENING))
        told = self._events(job, request.stop, one_call=not request.parallel_tool_calls)
        # Closed, and the job stopped with it, before the slots are somebody else's.
        async with self._slots.taken(n), naming_the_field(request), contextlib.aclosing(told) as events:
            async for event in events:
                for shown in readers[event.choice].read(event):
                    yield shown

    async def _events(self, job: Job, stops: Sequence[str], *, one_call: bool) -> EventStream:
        """What the answers of `job` say, before anything in them is read. `one_call` ends an answer, if asked for."""
        texts = [ShownText(choice, stops) for choice in range(job.n)]
        called: set[int] = set()
        ended: set[int] = set()  # by us: what is still on its way of them is not shown
        cached = 0
        async with contextlib.aclosing(self._connection.events(job)) as events:
            async for event in events:
                match event:
                    case Read():
                        cached = event.cached_tokens
                    case Piece():
                        text = texts[event.choice]
                        if event.choice in ended:
                            continue
                        for delta in text.read(event):
                            yield delta
                        if text.stop is not None:
                            ended.add(event.choice)
                            self._connection.stop(job.id, event.choice)
                            yield text.stopped(len(job.prompt), cached)
                    case Called():
                        if event.choice in ended:
                            continue
                        called.add(event.choice)
                        call = ToolCallDelta(event.index, new_call_id(), event.name, event.arguments)
                        yield Delta(event.choice, tool_calls=(call,))
                        if one_call:
                            ended.add(event.choice)
                            self._connection.stop(job.id, event.choice)
                            yield texts[event.choice].stopped(len(job.prompt), cached, "tool_calls")
                    case Ended():
                        text = texts[event.choice]
                        if event.choice in ended:
                            continue
                        for delta in text.rest():
                            yield delta
                        yield text.finish(event, event.choice in called)
                    case _:
                        pass

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        if not self._facts.embeds:
            raise BadRequest(f"model {self.model_id!r} cannot embed with engine {self.name}", "model")
        vectors: list[tuple[float, ...]] = []
        total = 0
        for text in texts:
            tokens = await self._tokens(text) if isinstance(text, str) else list(text)
            total += len(tokens)
            vectors.append(tuple(await self._connection.ask("embed", len(tokens), tokens=tokens)))
        return Embeddings(tuple(vectors), total)

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        raise BadRequest(f"model {self.model_id!r} cannot rerank with engine {self.name}", "model")

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        ids = await self._tokens(text, add_special=add_special, parse_special=parse_special)
        return Tokens(tuple(ids), tuple(map(_piece, await self._pieces(ids))) if pieces else None)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(await self._pieces(tokens)).decode("utf-8", "replace")

    async def prompt_text(self, request: GenerationRequest) -> str:
        refuse_impossible_turns(request)
        while True:
            can = self._readable.can_say(request)
            try:
                return await self._rendered(said_by(can, request), can)
            except TemplateRefused:
                if not self._readable.note_refusal(request, can):
                    raise

    async def count_tokens(self, request: GenerationRequest) -> int:
        text = await self.prompt_text(request) if request.prompt is None else request.prompt
        return len(await self._tokens(text)) if isinstance(text, str) else len(text)

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close of the {self._home.where}")
        await finished(self._closing)

    async def begin(self, limits: Limits | None = None) -> None:
        """Learn what the template can say and how fast the model is, and watch it from then on."""
        await self._try_template()
        pace = await self._measured_pace()
        home, connection = self._home, self._connection
        steps = until_wedged(
            connection.loop_counts, lambda: connection.silent, EngineProgress(pace, limits), self._note_health
        )
        wedged = asyncio.create_task(steps, name=f"steps of the {home.where}")
        ended = asyncio.create_task(home.ended(), name=f"end of the {home.where}")
        watcher = asyncio.create_task(self._watch(wedged, ended), name=f"watcher of the {home.where}")
        report_crash(watcher, log, f"{watcher.get_name()} ended")
        self._watching = (watcher, wedged, ended)

    async def _try_template(self) -> None:
        """What the chat template can say, by letting it, and whether it wants the arguments of calls as objects."""
        self._adds_bos = await self._begins_with_bos()
        rendered = await self._probed()
        if (call := rendered["calls"]) is None or '"argumentmark"' not in call:  # objects are refused, or Python's
            self._takes_objects = False
            as_text = await self._probed()
            if abilities(as_text).calls or not abilities(rendered).calls:
                rendered = as_text
            else:
                self._takes_objects = True
        can = abilities(rendered)
        if not self._facts.reads_calls:
            self.call_form = call_form(rendered["tools"], rendered["calls"], PROBED_CALL, PROBED_ARGUMENTS)
            # Calls in a form that nobody reads are no calls: then tools are shown, and called, in the general form.
            can = replace(can, tools=can.tools and can.calls and self.call_form is not None)
        self.template = can

    async def _probed(self) -> dict[str, str | None]:
        rendered: dict[str, str | None] = {}
        for name, probe in TEMPLATE_PROBES.items():
            try:
                rendered[name] = await self._render(probe.messages, probe.tools, {"add_generation_prompt": True})
            except EngineDied:
                raise
            except (BadRequest, EngineFailed):
                rendered[name] = None
        return rendered

    async def _begins_with_bos(self) -> bool:
        """Whether a beginning token comes to every prompt, so that the template's own would be a second."""
        tokens = await self._tokens("")
        bos = self._facts.bos_token.encode()
        return bool(tokens and bos) and (await self._pieces(tokens[:1]))[0] == bos

    async def _measured_pace(self) -> EnginePace:
        tokens = await self._tokens(PROBE_TEXT)
        begun = time.perf_counter()
        if self._facts.generates:
            request = GenerationRequest(model=self.model_id, prompt=tuple(tokens), temperature=0.0)
            job = Job(self._connection.new_job(), tuple(tokens), 1, sampling_of(request, 0), _PROBED_TOKENS)
            async for _ in self._connection.events(job):
                pass
        else:
            await self._connection.ask("embed", len(tokens), tokens=tokens)
        token_s = (time.perf_counter() - begun) / max(len(tokens), 1)
        return EnginePace(token_s, token_s * self._facts.step_tokens)

    async def _prompt(self, request: GenerationRequest, can: TemplateAbilities) -> tuple[list[int], bool]:
        """The prompt's tokens, and whether the template has begun a thought at its end."""
        if request.prompt is None:
            text = await self._rendered(request, can)
            return await self._tokens(text), text.rstrip().endswith(OPENING)
        given = request.prompt
        return (await self._tokens(given) if isinstance(given, str) else list(given)), False

    async def _rendered(self, request: GenerationRequest, can: TemplateAbilities) -> str:
        """The turns of `request` as the model sees them, which its template `can` say."""
        turns = continuing(request)
        tools = self._offered(request) if can.tools else ()
        plain = self._plain.body({"messages": turns["messages"], "tools": list(tools)})
        variables: dict[str, object] = {"add_generation_prompt": turns.get("add_generation_prompt", True)}
        if request.thinking is not None:
            variables["enable_thinking"] = request.thinking
        text = await self._render(plain["messages"], plain["tools"], variables)
        if begun_turn(request.messages) is not None:
            text = without_end(text, plain["messages"][-1])
        return text

    async def _render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, object]
    ) -> str:
        turns = list(map(with_objects, messages)) if self._takes_objects else list(messages)
        size = sum(len(str(message.get("content"))) for message in messages)
        try:
            text: str = await self._connection.ask(
                "render", size, messages=turns, tools=list(tools), variables=dict(variables)
            )
        except RecursionError:  # arguments that could just be read, and are deeper within their turn
            raise BadRequest(
                "messages: the arguments of a call are nested too deep: make them flatter", "messages"
            ) from None
        return text.removeprefix(self._facts.bos_token) if self._adds_bos else text

    def _offered(self, request: GenerationRequest) -> tuple[JsonObject, ...]:
        """The tools in OpenAI's form, their parameters in the words of the grammar that holds a call to them."""
        offered: list[JsonObject] = []
        for tool in request.tools:
            made = cast("JsonObject", tool.model_dump(mode="json", exclude_none=True))
            parameters = whole_document(arguments_schema(tool.function), bool(tool.function.strict)).schema or {}
            offered.append({**made, "function": {**cast("JsonObject", made["function"]), "parameters": parameters}})
        return tuple(offered)

    async def _tokens(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return await self._connection.ask(
            "tokenize", len(text), text=text, add_special=add_special, parse_special=parse_special
        )

    async def _pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return pieces_in(await self._connection.ask("pieces", len(tokens), tokens=list(tokens)))

    async def _close(self) -> None:
        await cancel_and_wait(*self._watching)
        works = not self.failed.done() and await self._answers()
        await self._connection.close(Unavailable("the engine was unloaded meanwhile: ask again, or another node"))
        await (self._home.unload() if works else self._home.end())

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(STEPS_ANSWER_S):
                await self._connection.loop_counts()
        except (EngineFailed, Unavailable, TimeoutError):
            return False
        return True

    async def _watch(self, wedged: asyncio.Task[str], ended: asyncio.Task[str]) -> None:
        """Complete `failed` when the process makes no step any more, or ends by itself."""
        home = self._home
        await asyncio.wait({wedged, ended}, return_when=asyncio.FIRST_COMPLETED)
        words = ended.result() if ended.done() else f"{wedged.result()} and {home.given_up}"
        self._stalled = words = f"the {home.where} {words}"
        log.error("%s: %s", self.model_id, words)
        wedged.cancel()
        await home.end()
        await self._connection.close(EngineDied("the engine ended over this request"))
        self.failed.set_result(words)

    def _note_health(self, verdict: EngineHealth) -> None:
        words = f"the engine {verdict.words}" if verdict.state == "stalled" else None
        if (words is None) != (self._stalled is None):
            log.warning("%s: %s", self.model_id, words or "the engine makes steps again")
        self._stalled = words


async def load_hosted(
    library: HostedLibrary,
    spec: EngineSpec,
    packages: Path | None = None,
    limits: Limits | None = None,
    load_least_s: float = LOAD_LEAST_S,
) -> HostedEngine:
    """Load `spec` in a process of its own. Raises EngineFailed with the reason and a remedy.

    The process looks for the library in the folder `packages` before this environment.
    """
    if spec.path is None:
        raise EngineFailed(f"engine {library.name} needs a model")
    limit_s = load_limit_s(spec.path, load_least_s)
    process = await start_process(library.module, packages)
    home, connection = EngineHost(process), Connection(process)
    try:
        async with asyncio.timeout(limit_s):
            facts = await connection.load(load_order(spec, spec.path), limit_s)
            engine = HostedEngine(library, spec, connection, facts, home)
            await engine.begin(limits)
            return engine
    except TimeoutError:
        await connection.close(EngineDied("the engine was given up while it was loaded"))
        await home.end()
        raise EngineFailed(
            f"{spec.path} was not loaded within {limit_s:.0f} s and was given up: its chat template may never end, or "
            "the disk is very slow"
        ) from None
    except BaseException:
        await connection.close(EngineDied("the engine was given up while it was loaded"))
        await home.unload()
        raise


def load_order(spec: EngineSpec, path: Path) -> LoadOrder:
    """What a process is to load for `spec`."""
    return LoadOrder(
        path=path,
        context_tokens=spec.context_tokens,
        slots=spec.slots,
        threads=spec.threads,
        reading_threads=spec.reading_threads or spec.threads,
        gpu_layers=spec.gpu_layers,
        cache_type=spec.cache_type,
    )


def most_tokens(request: GenerationRequest, room: int) -> int:
    """How many tokens an answer may have, one at least: what is not to have any shows none (`AnswerReader`)."""
    if request.max_tokens is None:
        return room
    quotes = QUOTES_TOKENS if is_quoted(request) and request.max_tokens else 0
    return max(1, min(request.max_tokens + quotes, room))


def answer_schema(request: GenerationRequest, calls: CallGrammar | None) -> JsonObject | None:
    """The schema that the whole answer must keep, in words that a grammar can be made of."""
    if calls is not None:
        return calls.schema
    schema = demanded_schema(request.response_format)
    return None if schema is None else whole_document(schema, is_strict(request.response_format)).schema or {}


def with_objects(message: JsonObject) -> JsonObject:
    """One turn with the arguments of its calls as objects, as most templates take them; what is none stays text."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_object(call) if isinstance(call, dict) else call for call in calls]}


def _with_object(call: JsonObject) -> JsonObject:
    function = call.get("function")
    given = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(given, str):
        return call
    try:
        arguments: JsonValue = json.loads(given or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def without_end(text: str, turn: JsonObject) -> str:
    """A prompt up to the end of what its last turn says, so that the answer goes on from there."""
    said = str(turn.get("content") or turn.get("reasoning_content") or "")
    for needle in (said, said.strip()):
        at = text.rfind(needle)
        if needle and at >= 0:
            return text[: at + len(needle)]
    raise TemplateRefused(
        "messages: the last one is an assistant's, and this model's chat template does not show what it says, so that "
        "no answer can go on from there: leave the turn out",
        param="messages",
    )


def _piece(piece: bytes) -> str | tuple[int, ...]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return tuple(piece)
