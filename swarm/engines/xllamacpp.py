"""The default engine: GGUF models through xllamacpp (llama.cpp's own server), driven over its loopback listener."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from swarm.engines.engine import Capabilities, Embeddings, EngineSpec, Ranking, Tokens
from swarm.engines.host import spec_to_json
from swarm.engines.llama_http import LlamaHttp
from swarm.engines.load import Isolation
from swarm.engines.silence import silence
from swarm.engines.xllamacpp_server import Pooling, RunningServer, model_pooling, start_server, token_bytes
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import EventStream, GenerationRequest, Prompt

IN_PROCESS_MAX_BYTES = 64 * 2**20  # loads in about 0.1 s; a larger file would freeze the node's loop for seconds (GIL)
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])  # so that a host started from anywhere finds this package
HOST_EXIT_TIMEOUT_S = 3.0  # a host ends within milliseconds of its pipe closing; a hung one is killed


class XllamacppEngine:
    """One GGUF model behind llama.cpp's server. Build it with `load_xllamacpp`."""

    name = "xllamacpp"

    def __init__(
        self, spec: EngineSpec, http: LlamaHttp, capabilities: Capabilities, close: Callable[[], Awaitable[None]]
    ) -> None:
        self.spec = spec
        self.http = http
        self._capabilities = capabilities
        self._close = close
        self._closed = False
        self._watcher: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def model_id(self) -> str:
        return self.spec.model_id

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        if not 1 <= n <= self._capabilities.slots:
            raise BadRequest(f"n is {n}; this model runs 1 to {self._capabilities.slots} answers at once", param="n")
        if request.suffix is not None and not self._capabilities.infill:
            raise BadRequest(f"model {self.model_id!r} cannot fill in the middle: it has no tokens for it", "suffix")
        if not self._capabilities.generates:
            raise BadRequest(f"model {self.model_id!r} writes no text: it is for embeddings or reranking", "model")
        return self.http.stream(request, n)

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
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
        return await self.http.prompt_text(request)

    async def count_tokens(self, request: GenerationRequest) -> int:
        return await self.http.count_tokens(request)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.http.aclose()
        await self._close()

    def watch(self, process: asyncio.subprocess.Process) -> None:
        """Complete `failed` when the host process ends without having been asked to, or when it does not answer."""

        async def wait() -> None:
            ended = asyncio.create_task(process.wait())
            silent = asyncio.create_task(silence(self.http.is_alive))
            try:
                await asyncio.wait({ended, silent}, return_when=asyncio.FIRST_COMPLETED)
                why = silent.result() if not ended.done() else None
                if why is not None:
                    process.kill()
                code = await ended
            finally:
                ended.cancel()
                silent.cancel()
                await asyncio.gather(ended, silent, return_exceptions=True)
            self.failed.set_result(f"the engine host (pid {process.pid}) {why or f'ended with {code}'}")

        self._watcher = asyncio.create_task(wait(), name=f"engine host {process.pid}")


def runs_in_process(spec: EngineSpec, isolation: Isolation) -> bool:
    """Whether to load into the node's own process; see IN_PROCESS_MAX_BYTES."""
    if isolation != "auto":
        return isolation == "never"
    return spec.path is not None and spec.path.stat().st_size <= IN_PROCESS_MAX_BYTES


async def load_xllamacpp(spec: EngineSpec, isolation: Isolation = "auto") -> XllamacppEngine:
    """Load `spec` and return it ready. Raises EngineFailed with the reason and a remedy."""
    if spec.path is None or not spec.path.is_file():
        raise EngineFailed(f"no model file at {spec.path}")
    if runs_in_process(spec, isolation):
        return await _load_in_process(spec)
    return await _load_in_host(spec)


async def _load_in_process(spec: EngineSpec) -> XllamacppEngine:
    running: list[RunningServer] = [await asyncio.to_thread(start_server, spec)]

    async def unload() -> None:
        await asyncio.to_thread(running.clear)  # the destructor joins llama.cpp's threads

    return await _connect(spec, running[0].address, running[0].key, unload)


async def _load_in_host(spec: EngineSpec) -> XllamacppEngine:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "swarm.engines.host",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (PACKAGE_ROOT, os.environ.get("PYTHONPATH")))),
            "GGML_NO_BACKTRACE": "1",  # else llama.cpp starts gdb when it aborts, which takes its time and prints pages
        },
    )

    async def stop() -> None:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(HOST_EXIT_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(spec_to_json(spec).encode() + b"\n")
        await process.stdin.drain()
        answer = host_answer(await process.stdout.readline(), spec.path)
        if "error" in answer:
            raise EngineFailed(answer["error"])
        engine = await _connect(spec, answer["address"], answer["key"], stop)
    except BaseException:
        await stop()
        raise
    engine.watch(process)
    return engine


def host_answer(line: bytes, path: Path | None) -> dict[str, str]:
    """What the host says once the model is loaded, or is not: anything but a JSON object are its last words."""
    try:
        answer: object = json.loads(line)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return cast("dict[str, str]", answer)
    return {"error": f"the engine host ended while loading {path}"}


async def _connect(spec: EngineSpec, address: str, key: str, close: Callable[[], Awaitable[None]]) -> XllamacppEngine:
    http = LlamaHttp(address, key)
    try:
        capabilities = await http.capabilities()
        pooling = await asyncio.to_thread(model_pooling, spec)
        longest = await asyncio.to_thread(token_bytes, spec)
    except BaseException:
        await http.aclose()
        await close()
        raise
    granted = replace(
        capabilities,
        context_tokens=min(capabilities.context_tokens, spec.context_tokens),
        embeddings=pooling is not Pooling.RANK,
        rerank=pooling is Pooling.RANK,
        generates=pooling is None,
        longest_token_bytes=longest,
    )
    return XllamacppEngine(spec, http, granted, close)
