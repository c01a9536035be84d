"""Calls that generate nothing (tokens, templates, vectors, ranks): run on this node's engine, or asked of a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from federation.client import PeerClient
from federation.errors import PeerError
from federation.wire import UTILITIES_PATH
from swarm.engines.engine import (
    Capabilities,
    Engine,
    LoadedModel,
    Tokens,
    may_be_too_long,
    prompt_bytes,
    refuse_too_long,
    refuse_unable,
)
from swarm.engines.upstream.upstream_http import UpstreamHttp
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    DeadlineExceeded,
    EngineDied,
    EngineFailed,
    PeerFailed,
    PeerMalformed,
    Unavailable,
    UnknownModel,
)
from swarm.generation import GenerationRequest, JsonObject
from swarm.logs import current_request_id
from swarm.routing.peer_answers import HOPS, error_object, peer_failure, refusal, remaining_s
from swarm.routing.poison_pills import PoisonPills, RequestContent
from swarm.routing.replicas import SWARM_ALIAS, Replica, named
from swarm.workers.model_workers import ModelWorkers

A = TypeVar("A")
TOKENS = TypeAdapter(Tokens)

SMALL_BYTES = 64 * 1024  # what a chat's prompt has, to be counted beside it
SMALL_AT_ONCE = 2  # of the four threads that an engine has beside those of its answers
MOST_UTILITY_BYTES = 32 * 2**20  # waiting and running: some seconds of work
UTILITY_RETRY_AFTER_S = 2
COUNTED_BYTES = (
    4 * 2**20
)  # of prompts that wait to be refused; beyond it they are where their turn comes to be answered


@dataclass(frozen=True, slots=True)
class Skill:
    """What not every model can. `verb` completes "the model cannot ..."; `remedy` says which models can.

    `shown_loaded`: no file says so before its model is loaded, which then refuses by itself what it cannot.
    """

    verb: str
    remedy: str
    of: Callable[[Capabilities], bool]
    shown_loaded: bool = False


READ = Skill("read text", "any model", lambda can: True)
EMBED = Skill("embed", "an embedding model, or one that writes", lambda can: can.embeddings)
RERANK = Skill("rerank", "a reranking model such as bge-reranker-v2-m3", lambda can: can.rerank)
INFILL = Skill(
    "fill in the middle",
    "a code model with tokens for it, such as qwen2.5-coder",
    lambda can: can.infill,
    shown_loaded=True,
)


SEE = Skill("see images", "a vision model with its image part (mmproj) beside it", lambda can: can.vision)


@dataclass(frozen=True, slots=True)
class UtilityCall(Generic[A]):
    """One call. A peer is sent `body` under `name`, with its model put in; `run` is the same on an engine here.

    `fits` says whether another's answer, already of the right types, can be one to this call. A call that computes
    (`leases`) waits for a worker; one that does not waits for its turn, by `size_bytes`, those of its text. `check`
    raises BadRequest for what an engine with such a model need not be asked. `upstream` is the same asked of an
    upstream, which calls the model so; None for what OpenAI's API does not have.
    """

    name: str
    body: JsonObject
    answer: TypeAdapter[A]
    run: Callable[[Engine], Awaitable[A]]
    fits: Callable[[A], bool]
    skill: Skill = READ
    leases: bool = False
    size_bytes: int = 0
    check: Callable[[LoadedModel], None] = lambda _: None
    upstream: Callable[[UpstreamHttp, str], Awaitable[A]] | None = None

    @property
    def content(self) -> RequestContent:
        """What it asks, whatever the model."""
        return RequestContent.of_call(self.name, self.body)

    def of(self, http: UpstreamHttp, model: str) -> UtilityCall[A]:
        """The same call, run by the upstream behind `http` with its `model`."""
        ask = self.upstream
        if ask is None:
            raise BadRequest(f"upstream {http.host} is not asked for {self.name}", param="model")

        def run(_: Engine) -> Awaitable[A]:
            return ask(http, model)

        return replace(self, run=run)


def has_bytes(tokens: Tokens) -> bool:
    """Whether each piece is a text, or bytes."""
    return all(isinstance(piece, str) or all(0 <= byte <= 255 for byte in piece) for piece in tokens.pieces or ())


def cut_into_tokens(text: str) -> UtilityCall[Tokens]:
    """The tokens of `text`, as a part of a prompt, with their pieces."""
    body: JsonObject = {"content": text, "add_special": False, "parse_special": True, "with_pieces": True}
    return UtilityCall(
        "tokenize",
        body,
        TOKENS,
        lambda engine: engine.tokenize(text, add_special=False, parse_special=True, pieces=True),
        lambda tokens: tokens.pieces is not None and len(tokens.pieces) == len(tokens.ids) and has_bytes(tokens),
        size_bytes=len(text),
    )


def skilled(
    model: str, replicas: Sequence[Replica], skill: Skill, everything: Sequence[Replica]
) -> tuple[Replica, ...]:
    """Those of `replicas`, which serve `model`, that can; where none is known to, those of which nobody knows yet.

    Raises BadRequest naming those of `everything` that could.
    """
    found = tuple(replica for replica in replicas if skill.of(replica.capabilities))
    if not found and skill.shown_loaded and model != SWARM_ALIAS:
        rest = (replica for replica in replicas if replica.state != "ready")
        found = tuple(replica for replica in rest if replica.capabilities.generates)
    if not found:
        others = sorted({replica.model for replica in everything if skill.of(replica.capabilities)})
        hint = f"these can: {', '.join(others)}" if others else f"it takes {skill.remedy}"
        raise BadRequest(f"model {model!r} cannot {skill.verb}; {hint}", param="model")
    return found


def replicas_for(model: str, replicas: Sequence[Replica], skill: Skill) -> tuple[Replica, ...]:
    """Who is asked, in order: this node first. For the alias always of the same one model, whatever the load.

    Vectors and tokens of two models must never be mixed, so neither the order of models nor their choice may depend on
    who is idle.
    """
    if not replicas:
        raise UnknownModel(model, (), "no node has loaded a model yet")
    found = skilled(model, replicas if model == SWARM_ALIAS else named(model, replicas), skill, replicas)
    first = min(found, key=lambda replica: (not replica.local, -(replica.params or 0), replica.model))
    same = [replica for replica in found if replica.model == first.model]
    running = [replica for replica in same if replica.state == "ready"]

    def order(replica: Replica) -> tuple[bool, bool, bool, bool, int, str]:
        other = replica.pinned is False
        return replica.troubled, other, replica.weight <= 0, not replica.local, -replica.slots_free, replica.node_id

    return tuple(sorted(running, key=order) or same)  # what is not loaded comes in its own order


class UtilityRoom:
    """Turns for calls that lease no worker: they take an engine's time and threads from its answers all the same.

    A hundred texts of 1 MB to be counted at once held every chat up for 20 s. So large ones go one at a time, small
    ones a few at a time beside them; those of all together that are here are bounded by their bytes.
    """

    def __init__(self, most_bytes: int = MOST_UTILITY_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._small = asyncio.Semaphore(SMALL_AT_ONCE)
        self._large = asyncio.Semaphore(1)

    def has_room_to_count(self, size_bytes: int) -> bool:
        """Whether so much text is counted within about a second, those that are here included."""
        return self._held_bytes + size_bytes <= COUNTED_BYTES

    @asynccontextmanager
    async def turn(self, size_bytes: int) -> AsyncGenerator[None]:
        """Waits for the call's turn, and holds it. Raises Unavailable where too many bytes wait already."""
        if self._held_bytes and self._held_bytes + size_bytes > self._most_bytes:
            raise Unavailable(
                f"utilities with {self._held_bytes / 2**20:.0f} MiB of text are in progress, and this node takes "
                f"{self._most_bytes / 2**20:.0f} MiB at once: try again later",
                retry_after_s=UTILITY_RETRY_AFTER_S,
            )
        self._held_bytes += size_bytes
        try:
            async with self._small if size_bytes <= SMALL_BYTES else self._large:
                yield
        finally:
            self._held_bytes -= size_bytes


async def run_here(
    workers: ModelWorkers, call: UtilityCall[A], deadline: float, room: UtilityRoom, pills: PoisonPills, node: str
) -> A:
    """The answer of this node's own engine."""
    call.check(workers.engine.loaded)
    limit = asyncio.timeout(deadline - time.monotonic())
    try:
        async with limit:
            if not call.leases:
                async with room.turn(call.size_bytes):
                    with pills.guard(call.content, node):
                        return await call.run(workers.running)
            async with workers.lease(1, deadline) as lease:
                with pills.guard(call.content, node):
                    return await call.run(lease.engine)
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded("the answer was not complete by the request's deadline") from None


async def refuse_what_does_not_fit(
    workers: ModelWorkers, request: GenerationRequest, count: int, room: UtilityRoom, pills: PoisonPills, node: str
) -> None:
    """Raises BadRequest for what can never be answered, before it waits for `count` workers.

    Where it would be served at once, the engine itself refuses a prompt whose tokens are too many. Else they are
    counted here, which takes no worker and no place in the queue; not where too much is being counted already.
    """
    engine = workers.engine
    refuse_unable(engine)
    refuse_too_long(request, engine.loaded)
    if workers.state().slots_free >= count or not may_be_too_long(request, engine.loaded):
        return
    size_bytes = prompt_bytes(request)
    if not room.has_room_to_count(size_bytes):
        return
    try:
        async with room.turn(size_bytes):
            with pills.guard(RequestContent.of(request), node):
                tokens = await workers.running.count_tokens(request)
    except EngineDied:
        raise
    except (Unavailable, EngineFailed):  # whoever gives it a worker says what is wrong
        return
    if tokens >= engine.loaded.context_tokens:
        raise ContextExceeded(tokens, engine.loaded.context_tokens, param=request.prompt_field)


async def ask_peer(client: PeerClient, replica: Replica, call: UtilityCall[A], deadline: float) -> A:
    """A peer's answer. Raises its refusal of the request as BadRequest, being busy as Unavailable, or PeerFailed."""
    assert replica.url is not None
    try:
        stream = client.stream_lines(
            replica.url,
            f"{UTILITIES_PATH}/{call.name}",
            {**call.body, "model": replica.model_there},
            request_id=current_request_id.get(),
            hops=HOPS,
            deadline_s=remaining_s(deadline),
        )
        async with aclosing(stream) as lines:
            async for line in lines:
                return read_answer(line, replica, call)
    except PeerError as error:
        if error.status in (404, 405):  # no fault of its health
            raise Unavailable(f"{replica.node} does not know {call.name!r} yet: update it") from error
        raise peer_failure(replica, error) from error
    raise PeerFailed(replica.node, "ended without an answer")


def read_answer(line: bytes, replica: Replica, call: UtilityCall[A]) -> A:
    """A peer's line as the answer that was asked for. Raises the error that it carries, and PeerFailed for rubbish."""
    try:
        answer = call.answer.validate_json(line)
    except ValidationError as error:
        if detail := error_object(line):
            raise refusal(replica, detail) from error
        raise PeerMalformed(replica.node, f"sent an answer to {call.name} that is none") from error
    if not call.fits(answer):
        raise PeerMalformed(replica.node, f"sent an answer to {call.name} that does not fit the question")
    return answer
