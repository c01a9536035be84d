"""Thousands of odd but well formed requests of every API against real engines, each in a process of its own.

No request ends one, leaves a slot behind, changes what others are answered or gets an error nobody can explain; and
nothing that a client writes becomes a token of special meaning.

The seed is printed. `SWARM_FUZZ_SEED=N` replays a run, `SWARM_FUZZ_ONE=M` the one request that a failure names.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import BadRequest
from swarm.gateway.anthropic.bodies import MessagesBody, PromptBody
from swarm.gateway.openai.bodies import ChatCompletionBody
from swarm.gateway.openai.utility_calls import TemplateBody
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.generation import GenerationRequest
from swarm.images import in_words
from swarm.registry.gguf_header import control_texts
from tests.doubles.inside_llama import busy_slots
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.tiny_models import write_end_token_last, write_infill_model, write_reranker
from tests.hostile.request_grammar import Grammar, Sent

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS, REQUESTS_SLOW = 2_000, 20_000
AT_ONCE = 8  # twice the slots, so that some wait
SLOTS, CONTEXT_TOKENS = 4, 1024
ROUND = 200  # requests between two looks at the canary and the slots
MODELS = ("demo", "infill", "rank", "last")
EVERY_TWIN = 4  # of so many prompts one is compared with its twin
COMPARED_WAYS = 40  # answers that are asked for again, here and in a host
SAID_EVERY = 2_000  # requests, in a run that shows its output (-s)
SHOWN = 5  # problems of one round
IDLE_S = 60.0  # a slot that is lost stays so; on a busy machine the last answers may take seconds
CANARY = {
    "model": "demo", "max_tokens": 8, "temperature": 0, "seed": 1, "swarm": {"strategy": "single"},
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}  # fmt: skip
NEUTRAL = ("alpha", "bravo", "delta")

BROKEN = re.compile(r'"(server_error|api_error|internal_error|engine_failed)"|engine (ended|failed|sent|did not)')
# Errors of 500 and above that a request may rightly get, with the reason.
EXPLAINED: dict[str, re.Pattern[str]] = {
    "the model wrote bytes that are no text, of which llama.cpp's parser of calls makes nothing": re.compile(
        "does not match the expected"
    ),
}


def fuzz_seed() -> int:
    return int(os.environ.get("SWARM_FUZZ_SEED") or random.SystemRandom().randrange(2**32))


@dataclass
class Loaded:
    """Every engine that was ever loaded: one more than there are models, and one has died."""

    engines: list[LlamaServerEngine] = field(default_factory=list)

    def loader(self, model: str, path: Path) -> Callable[[], Awaitable[LlamaServerEngine]]:
        async def load() -> LlamaServerEngine:
            engine = await load_xllamacpp(EngineSpec(model, path, CONTEXT_TOKENS, SLOTS, threads=1), "always")
            self.engines.append(engine)
            return engine

        return load

    def serving(self, model: str) -> LlamaServerEngine:
        return next(engine for engine in self.engines if engine.model_id == model)

    async def idle(self) -> list[str]:
        """What the slots say that are still busy after IDLE_S; nothing where all are idle."""
        try:
            async with asyncio.timeout(IDLE_S):
                while any([await busy_slots(engine.http) for engine in self.engines]):
                    pass  # each look is a request of its own
        except TimeoutError:
            return [json.dumps(slot) for slot in await self._slots() if slot["is_processing"]]
        return []

    async def _slots(self) -> list[Any]:
        answers = [await engine.http.ask("/slots", None) for engine in self.engines]
        return [slot for answer in answers for slot in answer]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loaded() -> Loaded:
    return Loaded()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    loaded: Loaded, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningNode]:
    folder = tmp_path_factory.mktemp("models")
    write_infill_model(folder / "infill.gguf")
    write_reranker(folder / "rank.gguf")
    write_end_token_last(folder / "last.gguf")
    made = [loaded.loader(model, folder / f"{model}.gguf") for model in MODELS[1:]]
    loaders = [loaded.loader("demo", demo_model), *made]
    async with RunningNode("kitchen", *loaders, options=NodeOptions(queue=64)) as running:
        yield running


@pytest.fixture(scope="module")
def controls(demo_model: Path) -> tuple[str, ...]:
    return tuple(sorted(control_texts(demo_model)))


def as_request(sent: Sent) -> GenerationRequest | None:
    """The chat that a request means to an engine; None where it is none, or no valid one."""
    kinds: dict[str, Callable[[str], GenerationRequest]] = {
        "/v1/chat/completions": lambda raw: ChatCompletionBody.model_validate_json(raw).to_request(),
        "/apply-template": lambda raw: TemplateBody.model_validate_json(raw).to_request(),
        "/v1/messages": lambda raw: MessagesBody.model_validate_json(raw).to_request("demo"),
        "/v1/messages/count_tokens": lambda raw: PromptBody.model_validate_json(raw).to_request("demo"),
        "/v1/responses": lambda raw: ResponsesBody.model_validate_json(raw).to_request(),
        "/federation/v1/generate": lambda raw: ChatCompletionBody.model_validate_json(raw).to_request(),
    }
    if sent.path not in kinds:
        return None
    try:
        return in_words(kinds[sent.path](json.dumps(sent.body)))  # as models are asked that cannot see
    except (ValueError, BadRequest):
        return None


async def specials(engine: LlamaServerEngine, request: GenerationRequest, ids: frozenset[int]) -> int | str:
    """How many tokens of special meaning the prompt of a chat has; the refusal where it has no prompt."""
    try:
        prompt = await engine.prompt_text(request)
    except BadRequest as error:
        return f"refused: {error.param}"
    tokens = await engine.tokenize(prompt, add_special=True, parse_special=True)
    return sum(token in ids for token in tokens.ids)


class Run:
    """Sends requests and notes what is wrong with their answers."""

    def __init__(self, node: RunningNode, loaded: Loaded, controls: tuple[str, ...], seed: int) -> None:
        self._node, self._loaded, self._controls, self._seed = node, loaded, controls, seed
        self._ways = asyncio.Semaphore(AT_ONCE)
        self.problems: list[str] = []
        self.statuses: dict[int, int] = {}
        self.answered: list[int] = []  # which chats were answered, and would be the same again

    def sent(self, number: int, controls: tuple[str, ...] | None = None) -> Sent:
        return Grammar(self._seed * 1_000_003 + number, controls or self._controls).request()

    async def one(self, session: aiohttp.ClientSession, number: int) -> None:
        async with self._ways:
            sent = self.sent(number)
            try:
                async with session.post(self._node.url + sent.path, json=sent.body) as response:
                    status, text = response.status, await response.text()
            except aiohttp.ClientError as error:
                self._blame(number, sent, repr(error))
                return
            self.statuses[status] = self.statuses.get(status, 0) + 1
            wrong = status >= 500 or (status < 400 and BROKEN.search(text))
            if wrong and not any(known.search(text) for known in EXPLAINED.values()):
                self._blame(number, sent, f"{status}: {text[-600:]}")
            compared = sent.path == "/v1/chat/completions" and sent.body["model"] == "demo"
            if compared and status == 200 and sent.body.get("temperature") == 0:
                self.answered.append(number)
            if number % EVERY_TWIN == 0:
                await self._compare_with_twin(number, sent)

    async def _compare_with_twin(self, number: int, sent: Sent) -> None:
        request, twin = as_request(sent), as_request(self.sent(number, NEUTRAL))
        if request is None or twin is None:
            return
        engine = self._loaded.serving(request.model)
        ids = frozenset(
            [(await engine.tokenize(c, add_special=False, parse_special=True)).ids[0] for c in self._controls]
        )
        found, expected = await specials(engine, request, ids), await specials(engine, twin, ids)
        if found != expected:
            self._blame(number, sent, f"{found} special tokens, and {expected} in a neutral twin")

    def _blame(self, number: int, sent: Sent, what: str) -> None:
        replay = f"SWARM_FUZZ_SEED={self._seed} SWARM_FUZZ_ONE={number}"
        self.problems.append(f"{replay}: {what}\n    {sent.path} {json.dumps(sent.body)[:2000]}")

    async def canary(self, session: aiohttp.ClientSession) -> str:
        async with session.post(self._node.url + "/v1/chat/completions", json=CANARY) as response:
            return str((await response.json())["choices"][0]["message"]["content"])

    async def all_of(self, numbers: range) -> None:
        connector = aiohttp.TCPConnector(limit=AT_ONCE + 1)
        async with aiohttp.ClientSession(connector=connector) as session:
            expected = await self.canary(session)
            for start in range(numbers.start, numbers.stop, ROUND):
                batch = range(start, min(start + ROUND, numbers.stop))
                await asyncio.gather(*(self.one(session, number) for number in batch))
                self.problems += [
                    f"up to request {batch.stop}, still busy: {slot}" for slot in await self._loaded.idle()
                ]
                said = await self.canary(session)
                if said != expected:
                    self.problems.append(f"after request {batch.stop} the canary says {said!r}, not {expected!r}")
                if batch.stop % SAID_EVERY == 0:
                    print(f"{batch.stop} requests: {self.statuses}", flush=True)  # noqa: T201
                assert not self.problems, "\n".join(self.problems[:SHOWN])


async def fuzz(node: RunningNode, loaded: Loaded, controls: tuple[str, ...], count: int) -> Run:
    seed = fuzz_seed()
    print(f"SWARM_FUZZ_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    run = Run(node, loaded, controls, seed)
    only = os.environ.get("SWARM_FUZZ_ONE")
    await run.all_of(range(count) if only is None else range(int(only), int(only) + 1))
    assert len(loaded.engines) == len(MODELS)
    assert not any(engine.failed.done() for engine in loaded.engines)
    print(run.statuses)  # noqa: T201
    return run


async def test_two_thousand_requests_end_nothing(
    node: RunningNode, loaded: Loaded, controls: tuple[str, ...], demo_model: Path
) -> None:
    run = await fuzz(node, loaded, controls, REQUESTS)
    spec = EngineSpec("demo", demo_model, CONTEXT_TOKENS, SLOTS, threads=1)
    here = await load_xllamacpp(spec, "never")
    there = await load_xllamacpp(spec, "always")  # a fresh one: what is in a cache changes the last bits of a logit
    try:
        for number in run.answered[:COMPARED_WAYS]:
            request = as_request(run.sent(number))
            assert request is not None
            assert await told(here, request) == await told(there, request), run.sent(number)
    finally:
        await there.aclose()
        await here.aclose()


@pytest.mark.slow
async def test_twenty_thousand_requests_end_nothing(
    node: RunningNode, loaded: Loaded, controls: tuple[str, ...]
) -> None:
    await fuzz(node, loaded, controls, REQUESTS_SLOW)


async def told(engine: LlamaServerEngine, request: GenerationRequest) -> Any:
    """One answer in all its parts."""
    parts: list[Any] = []
    async for event in engine.candidates(request, 1):
        calls = [(call.name, call.arguments) for call in getattr(event, "tool_calls", ())]
        parts.append((getattr(event, "text", ""), getattr(event, "reasoning", ""), calls, getattr(event, "reason", "")))
    return parts
