"""An engine that says what a test tells it to say, when it is told, and fails where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from swarm.engines.assembly import together
from swarm.engines.engine import Capabilities, Computation, Embeddings, LoadedModel, Ranking, Tokens
from swarm.engines.registry import engine_of_replica
from swarm.errors import BadRequest, SwarmError, Unavailable
from swarm.generation import Delta, EventStream, Finish, FinishReason, GenerationRequest, Prompt, Usage

WAIT_S = 5.0  # far above what any condition here takes; only a defect reaches it
PROMPT_TOKENS = 7  # of every prompt: a fixed figure that tests can recognise

# A piece of text, a whole event, a gate to wait at, the reason of the end (else "stop"), or a failure.
Step = str | Delta | asyncio.Event | Finish | Exception
Script = Callable[[GenerationRequest, int], Sequence[Step]]


def ending(reason: FinishReason, stop_sequence: str | None = None) -> Finish:
    """A last step that ends an answer for another reason than "stop", or by a stop sequence."""
    return Finish(0, reason, Usage(), stop_sequence)


def saying(*texts: str) -> Script:
    """Voter 0 says the first text, voter 1 the second, ...; the last one is said by all further ones."""
    return lambda _, voter: [texts[min(voter, len(texts) - 1)]]


class ScriptedEngine:
    """`script(request, voter)` gives the steps of each answer; voters are counted over the engine's life.

    `running` answers are being played; `cancelled` were closed before their end; `requests` came in, one per call.
    """

    name = "scripted"

    def __init__(self, script: Script, *, model_id: str = "scripted", slots: int = 4) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.cancelled = 0
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stalled: str | None = None
        self.taken_bytes: int | None = None
        self.computation = Computation(self.name, "1")
        self.closed = False
        self.utility_error: SwarmError | None = None  # raised by everything that is no generation
        self.utility_gate = asyncio.Event()  # they wait for it; open unless a test closes it
        self.utility_gate.set()
        self.prompt_tokens = PROMPT_TOKENS  # of every prompt that is counted
        self.counted = 0  # prompts, so far
        self.can: dict[str, bool] = {}  # capabilities other than the usual
        self.has: dict[str, int] = {}  # sizes other than the usual
        self._model_id = model_id
        self._slots = slots
        self._voters = 0
        self._changed = asyncio.Event()  # another one for each change

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def capabilities(self) -> Capabilities:
        usual = Capabilities(tools=True, grammar=True, logprobs=True, embeddings=True, rerank=True, infill=True)
        return replace(usual, **self.can)

    @property
    def loaded(self) -> LoadedModel:
        usual = LoadedModel(self._slots, context_tokens=1024, chat_template=f"template of {self._model_id}")
        return replace(usual, **self.has)

    def check(self, request: GenerationRequest) -> None:
        """It stands for llama.cpp, which is what engines are taken for that are not known."""
        engine_of_replica(self.name).check(request)

    async def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        if not 1 <= n <= self._slots:
            raise BadRequest(f"n is {n}", param="n")
        if self.closed:
            raise Unavailable("the engine is closed")
        self.requests.append(request)
        scripts = [self.script(request, self._voters + choice) for choice in range(n)]
        self._voters += n
        left = n
        self._count(running=n)
        try:
            async with aclosing(together([_play(steps) for steps in scripts])) as events:
                async for event in events:
                    left -= isinstance(event, Finish)
                    yield event
        finally:
            self._count(running=-n, cancelled=left)

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        await self._utility()
        return Embeddings(tuple((float(len(text)), 0.5) for text in texts), len(texts))

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        await self._utility()
        return Ranking(tuple(float(len(document)) for document in documents), len(documents))

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        """A token for each character: its number in Unicode."""
        await self._utility()
        return Tokens(tuple(map(ord, text)), tuple(text) if pieces else None)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        await self._utility()
        return "".join(map(chr, tokens))

    async def prompt_text(self, request: GenerationRequest) -> str:
        await self._utility()
        return f"{len(request.messages or ())} messages"

    async def _utility(self) -> None:
        if self.utility_error is not None:
            raise self.utility_error
        self._count(running=1)
        try:
            await self.utility_gate.wait()
        finally:
            self._count(running=-1)

    async def count_tokens(self, request: GenerationRequest) -> int:
        self.counted += 1
        return self.prompt_tokens

    async def aclose(self) -> None:
        self.closed = True

    async def until(self, condition: Callable[[ScriptedEngine], bool]) -> None:
        """Return when `condition` holds; looks again whenever an answer begins or ends."""
        async with asyncio.timeout(WAIT_S):
            while not condition(self):
                await self._changed.wait()

    def _count(self, running: int = 0, cancelled: int = 0) -> None:
        self.running += running
        self.cancelled += cancelled
        self._changed.set()  # at once: whoever runs this may be about to be cancelled
        self._changed = asyncio.Event()


async def _play(steps: Sequence[Step]) -> EventStream:
    end = ending("stop")
    tokens = 0
    for step in steps:
        match step:
            case str():
                tokens += 1
                yield Delta(0, step)
            case Delta():
                tokens += 1
                yield step
            case asyncio.Event():
                await step.wait()
            case Finish():
                end = step
            case _:
                raise step
    yield replace(end, usage=Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=tokens))
