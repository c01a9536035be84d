"""A node for the tests of clients: its model says what a good one would, so that every conversation comes to its end.

It runs in a thread with an event loop of its own, so that tests may start programs and wait for them.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from aiohttp import web

from swarm.engines.engine import EngineSpec
from swarm.errors import Unavailable
from swarm.gateway.http.access import AccessRules, digest
from swarm.generation import GenerationRequest
from tests.doubles.played_engine import Conversation, Part, PlayedEngine, Say, call
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.waiting import eventually

Value = TypeVar("Value")

MODEL = "played"
KEY = "sk-clients"  # what the node wants of everybody
CONTEXT_TOKENS = 262_144  # agents bring prompts of tens of thousands
SLOTS = 4
START_S = 60.0

# What a person says, and what the model does then; the words may lie anywhere in the conversation's last user turn.
TEXT_TASK = "What is the capital of France?"
TEXT = "The capital of France is Paris."
TOOL_TASK = "What is the weather in Paris?"  # calls the first tool with "weather" in its name, with {"city": "Paris"}
TOOL_ANSWER = "The tool says: "  # and then what it said
THOUGHT_TASK = "Is it Paris? Think first."
THOUGHT = "It is the capital."  # and then TEXT
OBJECT_TASK = "Describe Paris as an object."  # where the answer has a schema, it may have been said in any turn
OBJECT = '{"city": "Paris", "degrees": 21}'  # as text; where only tools may answer, as the arguments of the first one
ENDLESS_TASK = "Count for ever."
ENDLESS = "1 2 3"  # and then nothing, until the client leaves
BUSY_TASK = "Is there a slot for me?"  # every other time there is none: a 503 that says when to come back
UNKNOWN_MODEL = "no-such-model"  # which is a 404 that names those there are


def said_last(conversation: Conversation) -> str:
    """What a person said last, with all that the client put around it."""
    return conversation.said[-1] if conversation.said else ""


def usual(never: asyncio.Event) -> Part:
    """What the model does to the tasks above, and to any other: it says hello."""

    full = itertools.cycle((True, False))

    def play(conversation: Conversation) -> Say:
        said = said_last(conversation)
        if BUSY_TASK in said and next(full):
            raise Unavailable("every slot is taken")
        if ENDLESS_TASK in said:
            return Say(ENDLESS, gate=never)
        if TOOL_TASK in said:
            if conversation.results:
                return Say(TOOL_ANSWER + " ".join(conversation.results))
            weather = next((name for name in conversation.tools if "weather" in name.lower()), None)
            return Say("I have no tool for that.") if weather is None else call(weather, city="Paris")
        if THOUGHT_TASK in said:
            return Say(TEXT, THOUGHT)
        if OBJECT_TASK in said or (conversation.answer_schema and OBJECT_TASK in "".join(conversation.said)):
            if conversation.tools and (conversation.must_call or not conversation.answer_schema):
                return call(conversation.tools[0], city="Paris", degrees=21)
            return Say(OBJECT)
        return Say(TEXT if TEXT_TASK in said else "Hello.")

    return play


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the node as it began: the path that was asked, the status, and whether it was a stream."""

    path: str
    status: int
    streamed: bool


class PlayedNode:
    """Use `played_node`. `url` is the node's, without /v1; `engine` has everything that was asked.

    `replies` are how the node answered what was posted to it, also what it refused.
    """

    def __init__(self, part: Callable[[asyncio.Event], Part], options: Callable[[], NodeOptions]) -> None:
        self._part = part
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._ended: asyncio.Event
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self.engine: PlayedEngine
        self.node: RunningNode
        self.url = ""
        self.replies: list[Reply] = []

    def serve(self) -> None:
        """Run the node until `end`; the thread's whole life."""
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001  whoever started it is told
            self._failure = error
        finally:
            self._loop.close()
            self._started.set()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        spec = EngineSpec(MODEL, None, CONTEXT_TOKENS, SLOTS, threads=1)
        self.engine = PlayedEngine(spec, part=self._part(asyncio.Event()))
        options = replace(self._options(), watch=self._note)
        async with RunningNode("kitchen", ready(self.engine), options=options) as self.node:
            self.url = self.node.url
            self._started.set()
            await self._ended.wait()

    def _note(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.method == "POST":
            streamed = response.content_type in ("text/event-stream", "application/x-ndjson")
            self.replies.append(Reply(request.path, response.status, streamed))

    def wait_until_started(self) -> None:
        assert self._started.wait(START_S)
        self.raise_failure()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """What `coroutine` gives on the node's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @property
    def asked(self) -> list[GenerationRequest]:
        """Every generation that the engine was asked for, in order."""
        return list(self.engine.asked)

    def answered(self, status: int) -> int:
        """How many requests the node has answered with `status`, of every endpoint: whether a client repeats them."""
        asking = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(asking, timeout=START_S) as reply:
            metrics = reply.read().decode()
        counts = re.findall(rf'^swarm_requests_total{{endpoint="[^"]*",status="{status}"}} (\S+)$', metrics, re.M)
        return sum(int(float(count)) for count in counts)

    def until_busy(self, slots: int = 1) -> None:
        """Return when so many answers are being made, or more: of what is voted on there are several."""
        self.run(eventually(lambda: self.busy >= slots))

    def until_idle(self) -> None:
        """Return when every slot is free: those of a client that left, too."""
        self.run(eventually(lambda: self.busy == 0))

    @property
    def busy(self) -> int:
        """How many answers are being made."""
        workers = self.node.pool.get(MODEL)
        assert workers is not None
        return sum(SLOTS - state.slots_free for state in self.node.pool.states() if state.model_id == MODEL)


def with_key() -> NodeOptions:
    """A node that wants `KEY` of everybody."""
    return NodeOptions(access=AccessRules(key_digests=(digest(KEY),)))


@contextmanager
def played_node(
    part: Callable[[asyncio.Event], Part] = usual, options: Callable[[], NodeOptions] = with_key
) -> Iterator[PlayedNode]:
    """A node that runs until the block ends. `part` is given an event that never comes, for answers without an end."""
    node = PlayedNode(part, options)
    thread = threading.Thread(target=node.serve, name="played node", daemon=True)
    thread.start()
    try:
        node.wait_until_started()
        yield node
    finally:
        node.end()
        thread.join(START_S)
        assert not thread.is_alive()
        node.raise_failure()
