"""One GGUF model behind a llama.cpp server, driven over its loopback listener, wherever that server runs.

`LlamaServerEngine` is the engine; `ServerProcess` what it asks of the place where its server runs. `load_in_host`
starts an engine host (`server_host.py`), which loads the model, and connects to it. Which library or program has the
server is `xllamacpp.py`'s and `llama_server.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol, cast

from federation.tasks import cancel_and_wait, finished, report_crash
from hardware.memory import resident_bytes
from swarm.engines.engine import (
    Capabilities,
    Computation,
    Embeddings,
    EngineSpec,
    LoadedModel,
    Ranking,
    Tokens,
    longest_token_bytes,
    refuse_unable,
    refuse_unseen,
)
from swarm.engines.llama_cpp.demanded_answer import refuse_impossible_turns
from swarm.engines.llama_cpp.http import LlamaHttp
from swarm.engines.llama_cpp.llama_program import reason_in
from swarm.engines.llama_cpp.plain_text import PlainText
from swarm.engines.llama_cpp.progress import UNMEASURED, EngineHealth, EnginePace, EngineProgress, Limits, until_wedged
from swarm.engines.llama_cpp.prompt_copies import PromptCopies, with_copies
from swarm.engines.llama_cpp.prompt_slots import PromptSlots
from swarm.engines.llama_cpp.saved_prompts import NoDiskRoom, SavedPrompts, key_of, make_folder
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible
from swarm.engines.llama_cpp.server_host import (
    LOAD_LEAST_S,
    PROMPT_CACHE_MIB,
    WAIT_POLICY,
    Batching,
    Pooling,
    Serving,
    files_words,
    load_limit_s,
    log_end,
    order_to_json,
    passed_on,
)
from swarm.engines.openai_dialect import as_object
from swarm.errors import BadRequest, EngineDied, EngineFailed, SetupError, SwarmError, Unavailable, UnknownArchitecture
from swarm.generation import EventStream, GenerationRequest, JsonObject, Prompt
from swarm.images import refuse_images
from swarm.registry.gguf_header import GgufModel, control_texts, read_model
from swarm.registry.model_memory import Load, memory_needed

log = logging.getLogger(__name__)

PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])  # so that a host started from anywhere finds this package
HOST_EXIT_TIMEOUT_S = 3.0  # a host ends within milliseconds of its pipe closing; a hung one is killed
MEASURED_AGE_S = 1.0  # of what a host takes: it is asked for with each request, and read from the system
LOG_BYTES = 32 * 1024  # of a host's log, from its end
UNLOAD_ANSWER_S = 1.0  # what an engine in this process may take to show that it can be unloaded
READ_IMAGES = frozenset({"png", "jpeg", "gif"})  # WebP it has another program decode, where that is installed
NOT_SAVED = "%s: prompts are not saved in %s: %s; make it a folder that this user can write, or leave out --kv-disk"
PROBE_TEXT = "one two three four five six seven eight"  # read once after loading: 70 B on a CPU take seconds for it


class ServerProcess(Protocol):
    """Where one llama.cpp server runs."""

    where: str
    given_up: str  # what `end` does, in words

    @property
    def taken_bytes(self) -> int | None:
        """See `Engine`."""
        ...

    async def ended(self) -> str:
        """Return, with words for it, when it has ended by itself."""
        ...

    async def unload(self) -> None:
        """End it, which works."""
        ...

    async def end(self) -> None:
        """End it, whatever it does. Idempotent."""
        ...


class EngineHost:
    """A child process; `log` is the file that its standard error goes to, whose last words are told."""

    given_up = "was ended"

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes] | None = None) -> None:
        self._process = process
        self._log = log
        self._last_lines: list[str] = []
        self._killed = False
        self._taken_bytes: int | None = None
        self._measured_at = -math.inf
        self._server_pid = process.pid
        self._on_gpu = False
        self.where = f"engine host (pid {process.pid})"

    def serves(self, serving: Serving) -> None:
        """Note what its host says once the model is loaded."""
        self._on_gpu, self._server_pid = serving.gpu, serving.pid or self._process.pid

    @property
    def taken_bytes(self) -> int | None:
        """The most that it was seen to have: under pressure the system drops weights, which come back as they are used.

        The library and Python are among it.
        """
        if self._on_gpu:
            return None
        now = time.monotonic()
        if now - self._measured_at < MEASURED_AGE_S:
            return self._taken_bytes
        self._measured_at = now
        seen = resident_bytes(self._server_pid) if self._process.returncode is None else None
        if seen is not None:
            self._taken_bytes = max(seen, self._taken_bytes or 0)
        return self._taken_bytes

    async def ended(self) -> str:
        code = await self._process.wait()
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(HOST_EXIT_TIMEOUT_S):  # a child of its own might hold the pipe
                last: object = json.loads(await self._process.stdout.readline() or b"{}")
        except (TimeoutError, ValueError):
            last = None
        why = as_object(last).get("ended") or reason_in(self.last_lines(), "its llama.cpp", None)
        return f"ended with {code}" + (f": {why}" if why else "")

    def last_lines(self) -> list[str]:
        """Of its log, which may be closed."""
        if self._log is not None and not self._log.closed:
            self._last_lines = log_end(self._log.fileno(), LOG_BYTES).splitlines()
        return self._last_lines

    async def unload(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(HOST_EXIT_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            log.debug("the %s does not end by itself", self.where)
        await self.end()  # and the program that a host which broke off has left

    async def end(self) -> None:
        if not self._killed:  # a second signal would reap the process behind asyncio's back
            self._killed = True
            with contextlib.suppress(
                ProcessLookupError, PermissionError
            ):  # it has ended, and nobody of its group is left
                if os.name == "nt":
                    self._process.kill()
                else:
                    os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group, with the program that it runs
        await self._process.wait()
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self.last_lines()
            self._log.close()


class LlamaServerEngine:
    """One GGUF model behind llama.cpp's server. Build it with `connect`.

    `home` is where llama.cpp runs: in this process, or in one of its own.
    """

    def __init__(
        self,
        computation: Computation,
        spec: EngineSpec,
        http: LlamaHttp,
        loaded: LoadedModel,
        capabilities: Capabilities,
        home: ServerProcess,
        pace: EnginePace = UNMEASURED,
        limits: Limits | None = None,
    ) -> None:
        self.name = computation.engine
        self.computation = computation
        self.spec = spec
        self.http = http
        self._loaded = loaded
        self._capabilities = capabilities
        self._home = home
        self._closing: asyncio.Task[None] | None = None
        self._stalled: str | None = None
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        steps = until_wedged(http.loop_counts, lambda: http.silent, EngineProgress(pace, limits), self._note_health)
        self._wedged = asyncio.create_task(steps, name=f"steps of the {home.where}")
        self._ended = asyncio.create_task(home.ended(), name=f"end of the {home.where}")
        self._watcher = asyncio.create_task(self._watch(), name=f"watcher of the {home.where}")
        report_crash(self._watcher, log, f"{self._watcher.get_name()} ended")  # nobody watches that engine any more

    @property
    def model_id(self) -> str:
        return self.spec.model_id

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def loaded(self) -> LoadedModel:
        return self._loaded

    @property
    def stalled(self) -> str | None:
        return self._stalled

    @property
    def taken_bytes(self) -> int | None:
        return self._home.taken_bytes

    def check(self, request: GenerationRequest) -> None:
        check(request)

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        if not 1 <= n <= self._loaded.slots:
            raise BadRequest(f"n is {n}; this model runs 1 to {self._loaded.slots} answers at once", param="n")
        if request.suffix is not None and not self._capabilities.infill:
            raise BadRequest(f"model {self.model_id!r} cannot fill in the middle: it has no tokens for it", "suffix")
        refuse_unable(self)
        refuse_unseen(self, request)
        return self.http.stream(request, n)

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        if not self._capabilities.embeddings and not self._capabilities.rerank:
            raise BadRequest(f"this {self.computation} does not embed texts while it writes: a newer one does", "model")
        if not self._capabilities.embeddings:
            raise BadRequest(f"model {self.model_id!r} ranks and does not embed: use /v1/rerank", "model")
        return await self.http.embed(texts)

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        if not self._capabilities.rerank:
            raise BadRequest(f"model {self.model_id!r} cannot rerank: that takes a reranking model", "model")
        return await self.http.rerank(query, documents)

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        return await self.http.tokenize(text, add_special=add_special, parse_special=parse_special, pieces=pieces)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return await self.http.detokenize(tokens)

    async def prompt_text(self, request: GenerationRequest) -> str:
        refuse_unseen(self, request)
        return await self.http.prompt_text(request)

    async def count_tokens(self, request: GenerationRequest) -> int:
        refuse_unseen(self, request)
        return await self.http.count_tokens(request)

    async def slot_states(self) -> Sequence[JsonObject]:
        return await self.http.slot_states()

    async def end(self) -> None:
        """End its server at once, whatever it does: what it needs to go on is gone. `failed` completes then."""
        await self._home.end()

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close of the {self._home.where}")
        await finished(self._closing)

    async def _close(self) -> None:
        watching = (self._watcher, self._wedged, self._ended)
        await cancel_and_wait(*watching)
        works = not self.failed.done() and await _answers(self.http)
        if works:
            await self.http.prefill.save_all()
        await self.http.aclose(died=self.failed.done())
        await (self._home.unload() if works else self._home.end())

    async def _watch(self) -> None:
        """Complete `failed` when the engine makes no step any more, or ends by itself."""
        home = self._home
        await asyncio.wait({self._wedged, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        words = self._ended.result() if self._ended.done() else f"{self._wedged.result()} and {home.given_up}"
        self._stalled = words = f"the {home.where} {words}"
        log.error("%s: %s", self.model_id, words)
        self._wedged.cancel()
        await home.end()
        await self.http.aclose(died=True)  # whoever waits for an answer of it is told
        self.failed.set_result(words)

    def _note_health(self, verdict: EngineHealth) -> None:
        words = f"the engine {verdict.words}" if verdict.state == "stalled" else None
        if (words is None) != (self._stalled is None):
            log.warning("%s: %s", self.model_id, words or "the engine makes steps again")
        self._stalled = words


def check(request: GenerationRequest) -> None:
    """See `EngineModule`: what no llama.cpp can answer."""
    refuse_images(request, "llama.cpp", READ_IMAGES)
    refuse_impossible(request)
    refuse_impossible_turns(request)


async def model_of(spec: EngineSpec) -> GgufModel | None:
    """What its file says; None for one that cannot be read: llama.cpp, which is to load it, says so in its own way.

    Raises EngineFailed where there is no file.
    """
    if spec.path is None or not spec.path.is_file():
        raise EngineFailed(f"no model file at {spec.path}")
    if spec.projector is not None and not spec.projector.is_file():
        raise EngineFailed(f"no image part at {spec.projector}")
    if spec.draft is not None and not spec.draft.is_file():
        raise EngineFailed(f"no draft model at {spec.draft}: `swarm models pull` fetches it again, or leave it out")
    return await asyncio.to_thread(_read, spec.path)


def _read(path: Path) -> GgufModel | None:
    try:
        return read_model(path)
    except SetupError:
        return None


def host_environment(packages: Path | None) -> dict[str, str]:
    """Of an engine host: it finds this package from anywhere, and the libraries in `packages` first."""
    path = (None if packages is None else str(packages), PACKAGE_ROOT, os.environ.get("PYTHONPATH"))
    return {
        "OMP_WAIT_POLICY": WAIT_POLICY,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "GGML_NO_BACKTRACE": "1",  # else llama.cpp starts gdb when it aborts, which takes its time and prints pages
    }


async def load_in_host(
    name: str,
    module: str,
    spec: EngineSpec,
    model: GgufModel | None,
    limits: Limits | None = None,
    load_least_s: float = LOAD_LEAST_S,
) -> LlamaServerEngine:
    """The engine called `name`, ready, with its server in a host: `module` run as a program.

    A small model may take `load_least_s` to load, and does not get stuck beyond `limits`. Raises EngineFailed with the
    reason and a remedy.
    """
    with with_copies(spec, model) as spec:
        return await _load_in_host(name, module, spec, model, limits, load_limit_s(spec.path, load_least_s))


async def _load_in_host(
    name: str, module: str, spec: EngineSpec, model: GgufModel | None, limits: Limits | None, limit_s: float
) -> LlamaServerEngine:
    said = await asyncio.to_thread(tempfile.TemporaryFile, buffering=0)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,
            env=host_environment(spec.build and spec.build.packages),
            pass_fds=passed_on(spec),
        )
    except BaseException:
        said.close()
        raise
    assert process.stdin is not None
    assert process.stdout is not None
    home = EngineHost(process, said)
    try:
        async with asyncio.timeout(limit_s):
            process.stdin.write(order_to_json(spec, Batching.of(spec, model and model.facts)).encode() + b"\n")
            with contextlib.suppress(ConnectionError):  # it has ended already, and what it says is nothing
                await process.stdin.drain()
            answer = host_answer(await process.stdout.readline(), files_words(spec))
            if "error" in answer and (reason := reason_in(home.last_lines(), name, files_words(spec))):
                raise reason
            if "error" in answer:
                kind = UnknownArchitecture if answer.get("unknown_architecture") is True else EngineFailed
                raise kind(str(answer["error"]))
            serving = Serving.of(answer)
            home.serves(serving)
            try:
                return await connect(name, spec, model, serving, home, limits)
            except (EngineDied, Unavailable) as error:  # a GPU's memory may run out as it computes for the first time
                raise reason_in(home.last_lines(), name, files_words(spec)) or EngineFailed(
                    f"{name} ended as {files_words(spec)} was tried once it was loaded: {error}"
                ) from error
    except TimeoutError:
        await home.end()
        raise EngineFailed(
            f"{spec.path} was not loaded within {limit_s:.0f} s and was given up: its chat template may never end, or "
            "the disk is very slow"
        ) from None
    except BaseException:
        await home.unload()
        raise


def host_answer(line: bytes, path: Path | str | None) -> dict[str, object]:
    """What the host says once the model is loaded, or is not: anything but a JSON object are its last words."""
    try:
        answer: object = json.loads(line)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return cast("dict[str, object]", answer)
    return {"error": f"the engine host ended while loading {path}: its log says why, or its chat template ends it"}


async def _answers(http: LlamaHttp) -> bool:
    """Whether the engine's main loop answers within a moment."""
    try:
        async with asyncio.timeout(UNLOAD_ANSWER_S):
            await http.loop_counts()
    except (SwarmError, TimeoutError):
        return False
    return True


async def connect(
    name: str,
    spec: EngineSpec,
    model: GgufModel | None,
    serving: Serving,
    home: ServerProcess,
    limits: Limits | None = None,
) -> LlamaServerEngine:
    """The engine called `name` over a server that has its model loaded, and runs at `home`, which is ended on errors.

    Raises EngineFailed, or another SwarmError, where the server does not answer as llama.cpp does.
    """
    http = LlamaHttp(serving.address, serving.key, several=serving.several, socket=serving.socket)
    facts = model and model.facts
    batching = Batching.of(spec, facts)
    try:
        http.plain = await asyncio.to_thread(_plain_text, spec.path, model)
        loaded, capabilities = await http.loaded()
        pace = await _measured_pace(http, batching)
        http.prefill.slots = _prompt_slots(loaded, spec, _token_bytes(spec, model))
        http.prefill.saved = await asyncio.to_thread(_saved_prompts, name, serving.version, spec, model)
    except BaseException:
        await http.aclose()
        await home.end()
        raise
    granted = min(loaded.context_tokens, spec.context_tokens)
    longest = longest_token_bytes(facts and facts.tokenizer, facts and facts.longest_token_bytes)
    slots = min(loaded.slots, spec.slots)  # the others only keep what was read
    loaded = replace(loaded, slots=slots, context_tokens=granted, longest_token_bytes=longest)
    is_ranker = batching.pooling is Pooling.RANK
    capabilities = replace(
        capabilities,
        embeddings=serving.embeds and not is_ranker,
        rerank=is_ranker,
        generates=batching.pooling is None,
        grammar=serving.grammar,
    )
    computation = Computation(name, serving.version, serving.devices, serving.gpu_layers, serving.layers, spec.nodes)
    http.prefill.copies = PromptCopies(http.ask, spec.copies, _token_bytes(spec, model))  # once nothing fails any more
    return LlamaServerEngine(computation, spec, http, loaded, capabilities, home, pace, limits)


def with_saves(spec: EngineSpec) -> EngineSpec:
    """`spec`, and its folder for prompts is there; without one where nothing can be saved, which is told. Blocks."""
    if spec.saves is None:
        return spec
    if spec.draft is not None:
        log.warning("%s: prompts are not saved: llama.cpp writes no state of a draft model", spec.model_id)
        return replace(spec, saves=None)
    try:
        make_folder(spec.saves)
    except OSError as error:
        log.warning(NOT_SAVED, spec.model_id, spec.saves, error.strerror)
        return replace(spec, saves=None)
    return spec


def _token_bytes(spec: EngineSpec, model: GgufModel | None) -> int:
    """What a token is expected to take in a cache; 0 where that is not known."""
    if model is None:
        return 0
    load = Load(spec.context_tokens, 1, spec.cache_type)
    return memory_needed(model.facts.shape, load).kv_bytes // spec.context_tokens


def _prompt_slots(loaded: LoadedModel, spec: EngineSpec, token_bytes: int) -> PromptSlots:
    """The slots of a server. Where there are more than answer at once, these have cells for them all."""
    cells = spec.context_tokens * spec.slots if loaded.slots > spec.slots else 0
    keeps_tokens = PROMPT_CACHE_MIB * 2**20 // token_bytes if token_bytes else None
    return PromptSlots(loaded.slots, loaded.context_tokens, cells, keeps_tokens)


def _saved_prompts(name: str, version: str, spec: EngineSpec, model: GgufModel | None) -> SavedPrompts | None:
    """What was read of prompts by this engine with this model, on the disk. Blocks."""
    if spec.saves is None or spec.path is None or model is None:
        return None
    try:
        key = key_of(spec.path, model.fingerprint, name, version, spec.context_tokens, spec.cache_type)
        return SavedPrompts.open(spec.saves, spec.saves_bytes, key, _token_bytes(spec, model))
    except (OSError, NoDiskRoom) as error:
        why = error.strerror if isinstance(error, OSError) else error
        log.warning(NOT_SAVED, spec.model_id, spec.saves, why)
        return None


def _plain_text(path: Path | None, model: GgufModel | None) -> PlainText:
    """Raises EngineFailed where the control tokens of a model cannot be read: it would be unsafe. Blocks."""
    if path is None:
        return PlainText()
    try:
        return PlainText(control_texts(path) if model is None else model.control_texts)
    except SetupError as error:
        raise EngineFailed(str(error)) from error


async def _measured_pace(http: LlamaHttp, batching: Batching) -> EnginePace:
    """How fast the model reads, by a prompt of some words: with it the slowest step is known before it is made."""
    begun = time.perf_counter()
    match batching.pooling:
        case None:
            tokens, seconds = await http.prompt_pace(PROBE_TEXT)
        case Pooling.RANK:
            tokens = (await http.rerank(PROBE_TEXT, [PROBE_TEXT])).prompt_tokens
            seconds = time.perf_counter() - begun
        case _:
            tokens = (await http.embed([PROBE_TEXT])).prompt_tokens
            seconds = time.perf_counter() - begun
    token_s = seconds / max(tokens, 1)
    return EnginePace(token_s, token_s * batching.step_tokens)
