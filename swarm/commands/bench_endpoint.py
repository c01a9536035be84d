"""The OpenAI endpoint that `swarm bench` asks for samples: any server, or nodes here with the embedded models."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import aiohttp
from pydantic import Field, JsonValue, ValidationError

from federation.printable_text import clean_line
from swarm.commands.node_client import NodeUnreachable
from swarm.engines.assembly import drawn_logprobs, lowest_window
from swarm.errors import SwarmError
from swarm.evaluation.questions import Problem
from swarm.evaluation.samples import Sample, SampleKey, sampling_seed
from swarm.generation import FinishReason, Frozen, ToolCall, Usage
from swarm.node.console import NodeNow
from swarm.node.node import Node
from swarm.node.settings import make_settings

TIMEOUT_S = 600.0  # of one answer, queueing included
ATTEMPTS = 6  # of one sample, where the endpoint is busy or broke off
MAX_PAUSE_S = 30.0  # between two attempts
FIRST_PAUSE_S = 0.5
MAX_SAID_CHARS = 300  # of what an endpoint says is wrong
MOST_AT_ONCE = 32  # samples of one request: what a node takes with as many slots; whoever takes fewer says so
ALIAS = "swarm"  # a node's name for all of its models at once
SLOTS = 16  # of each embedded model: a few megabytes each, and no answer waits for another
CONTEXT_TOKENS = 1024  # the longest shipped question takes 500 tokens with its tools, an answer at most 256

# Samples are to come from the model's own distribution: top_p is OpenAI's, the others llama.cpp's, Ollama's and vLLM's.
WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
ONLY_OPENAI = {"top_p": 1.0}
LOGPROBS = {"logprobs": True}
ONE_VOTER = {"swarm": {"strategy": "single"}}  # a node is asked for samples, not for votes
# Whether `n` gives answers of their own is asked hot, where two texts are hardly ever the same: a server that draws
# all of them with one seed is found out.
HOT = {"messages": [{"role": "user", "content": "Name ten animals in any order."}], "temperature": 2.0, "n": 2}
SHORT_TOKENS = 16


class _Function(Frozen):
    name: str
    arguments: str | None = None


class _ReplyCall(Frozen):
    id: str | None = None
    function: _Function


class _Message(Frozen):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[_ReplyCall, ...] | None = None


class _Choice(Frozen):
    message: _Message
    logprobs: JsonValue = None
    finish_reason: FinishReason | None = None


class _Answer(Frozen):
    choices: Annotated[tuple[_Choice, ...], Field(min_length=1)]
    usage: Usage | None = None


class _Model(Frozen):
    id: str


class _Models(Frozen):
    data: tuple[_Model, ...] = ()


def base_url(url: str) -> str:
    """Where an endpoint's API begins, however its address was given: with `/v1`."""
    base = url.rstrip("/")
    return base if base.endswith("/v1") else base + "/v1"


class _Route(Frozen):
    node_id: str
    content: str


class _Told(Frozen):
    routed: _Route


class _Routed(Frozen):
    swarm: _Told


class _NodeEntry(Frozen):
    id: str
    name: str


class _Health(Frozen):
    node: _NodeEntry
    peers: tuple[_NodeEntry, ...] = ()
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])


class MeasuredEndpoint:
    """An OpenAI API; use as `async with`. `base` ends in `/v1`; `extra` are the fields that every request carries.

    With `node` only this one of a swarm's nodes answers, and its models are called MODEL@NODE.

    `at_once` is how many samples of a model one request may ask for (`n`), where that is less than MOST_AT_ONCE.
    """

    def __init__(self, url: str, api_key: str | None, node: str | None = None) -> None:
        self.base = base_url(url)
        self.extra: dict[str, Any] = dict(ONLY_OPENAI)
        self.at_once: dict[str, int] = {}
        self._api_key = api_key
        self.node = node

    async def __aenter__(self) -> Self:
        headers = {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """The ids of its models, without a node's alias for all of them. Raises SwarmError."""
        status, body = await self._send("GET", "/models", None)
        if status != 200:
            raise self._refusal(status, body)
        try:
            return [model.id for model in _Models.model_validate_json(body).data if model.id != ALIAS]
        except ValidationError as error:
            raise SwarmError(
                f"{self.base}/models does not answer with a list of models: is that an OpenAI endpoint?"
            ) from error

    def _there(self, model: str) -> str:
        """The name of `model` in a request."""
        return model if self.node is None else model.removesuffix(f"@{self.node}")

    async def models_of_its_node(self) -> list[str]:
        """The models that its node runs. Raises SwarmError: no node answers here, or none of this name is known."""
        status, body = await self._send("GET", "/federation/health", None)
        try:
            health = _Health.model_validate_json(body if status == 200 else b"")
        except ValidationError as error:
            raise SwarmError(f"--node {self.node}: {self.base} is no node, so that it has no other nodes") from error
        names = {each.name for each in (health.node, *health.peers) if self.node in (each.id, each.name)}
        if not names:
            there = ", ".join(sorted(each.name for each in (health.node, *health.peers)))
            raise SwarmError(clean_line(f"--node {self.node}: no node is called so; there are: {there}"))
        return [f"{model}@{self.node}" for model, nodes in health.models.items() if names & set(nodes)]

    async def identity(self, model: str) -> tuple[str, str]:
        """The id of its node and what that says is the content of `model`, as an answer tells. Raises SwarmError."""
        body = {"model": self._there(model), "messages": HOT["messages"], "max_tokens": 1, **self.extra}
        status, said, _ = await self._answer(body)
        if status != 200:
            raise self._refusal(status, said)
        try:
            told = _Routed.model_validate_json(said).swarm.routed
        except ValidationError as error:
            raise SwarmError(f"{self.base} does not say which node answers: is it an older one?") from error
        return told.node_id, told.content

    async def settle(self, problem: Problem, model: str, max_tokens: int) -> str:
        """Find out which fields it takes, and whether `n`, by two short answers; a note for the report.

        Raises SwarmError.
        """
        status, _ = await self._send("GET", "/federation/health", None)
        node: dict[str, Any] = ONE_VOTER if status == 200 else {}
        if self.node is not None:
            node = {"swarm": {**ONE_VOTER["swarm"], "node": self.node}}
        short = min(max_tokens, SHORT_TOKENS)
        for sampling in (WHOLE_DISTRIBUTION | LOGPROBS, WHOLE_DISTRIBUTION, ONLY_OPENAI):
            self.extra = {**sampling, **node}
            body = self._body(problem, model, temperature=1.0, max_tokens=short, seed=1)
            status, said = await self._send("POST", "/chat/completions", body)
            if status != 400:
                break
        if status not in (200, 429, 503):  # a busy one is asked again when it matters
            raise self._refusal(status, said)
        notes = [
            "Sampled from the whole distribution (top_p 1, top_k 0, min_p 0)"
            if "top_k" in self.extra
            else "Sampled with top_p 1; top_k and min_p as the endpoint has them, since it takes no such fields"
        ]
        if "logprobs" not in self.extra:
            notes.append("without log-probabilities, which it does not give")
        if not await self._gives_several(
            {"model": self._there(model), "max_tokens": short, "seed": 1, **self.extra, **HOT}
        ):
            self.at_once[model] = 1
            notes.append("one sample a request")
        elif "logprobs" not in self.extra:
            notes.append("tokens of each answer are its share of its request's, which counts those of all together")
        return "; ".join(notes) + "."

    async def _gives_several(self, body: dict[str, Any]) -> bool:
        """Whether it gives as many answers as `n`, and no answer twice. Raises SwarmError where none comes at all."""
        status, said, _ = await self._answer(body)
        if status != 200:
            return False
        choices = self._read(said).choices
        given = [(choice.message, [round(drawn, 1) for drawn in drawn_logprobs(choice.logprobs)]) for choice in choices]
        return len(given) == body["n"] and all(one != other for one, other in itertools.combinations(given, 2))

    async def samples(self, problem: Problem, keys: Sequence[SampleKey]) -> AsyncGenerator[Sample]:
        """Draw the samples of one problem, model and temperature, as many with one request as the endpoint gives.

        A request has the seed of its first sample. A busy endpoint is asked again for a while. Raises SwarmError where
        it stays so.
        """
        model, left = keys[0].model, list(keys)
        while left:
            asked = left[: self.at_once.get(model, MOST_AT_ONCE)]
            body = self._body(problem, model, asked[0].temperature, asked[0].max_tokens, sampling_seed(asked[0]))
            status, said, elapsed_ms = await self._answer(body if len(asked) == 1 else body | {"n": len(asked)})
            if status == 400 and len(asked) > 1:  # too many at once, for what it says; if not, it says so for one, too
                self._ask_fewer(model, len(asked) // 2)
                continue
            if status != 200:
                raise self._refusal(status, said)
            given = self._samples(asked, self._read(said), elapsed_ms)
            if len(given) < len(asked):
                self._ask_fewer(model, len(given))
            for sample in given:
                yield sample
            left = left[len(given) :]

    def _ask_fewer(self, model: str, most: int) -> None:
        """Of requests beside each other the one that was given least counts."""
        self.at_once[model] = min(most, self.at_once.get(model, most))

    async def _answer(self, body: dict[str, Any]) -> tuple[int, bytes, int]:
        """Status, body and milliseconds of a chat completion; who is busy or breaks off is asked again for a while.

        Raises NodeUnreachable.
        """
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            try:
                status, said = await self._send("POST", "/chat/completions", body)
            except NodeUnreachable:
                if attempt == ATTEMPTS:
                    raise
            else:
                if status not in (429, 500, 502, 503, 504) or attempt == ATTEMPTS:
                    return status, said, round((time.monotonic() - began) * 1000)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _body(self, problem: Problem, model: str, temperature: float, max_tokens: int, seed: int) -> dict[str, Any]:
        asked = problem.asked
        body: dict[str, Any] = {"model": self._there(model), "messages": problem.messages, "temperature": temperature}
        body |= {"max_tokens": max_tokens, "seed": seed, **self.extra}
        if asked.tools:
            body["tools"] = [tool.model_dump(exclude_none=True) for tool in asked.tools]
        if asked.tool_choice is not None:
            body["tool_choice"] = asked.tool_choice
        if asked.response_format is not None:
            body["response_format"] = asked.response_format.model_dump(by_alias=True, exclude_none=True)
        return body

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        try:
            async with self._session.request(method, self.base + path, json=body) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NodeUnreachable(
                f"no endpoint answers at {self.base} ({error or type(error).__name__}): start a node with `swarm`, "
                "name another endpoint with --url, or let this command start the embedded models with --embedded"
            ) from error

    def _read(self, said: bytes) -> _Answer:
        try:
            return _Answer.model_validate_json(said)
        except ValidationError as error:
            raise SwarmError(f"{self.base} answered something other than a chat completion: {_shown(said)}") from error

    def _samples(self, keys: Sequence[SampleKey], answer: _Answer, elapsed_ms: int) -> list[Sample]:
        """A sample for each key, in the order of the choices, as far as there are any."""
        usage = answer.usage or Usage()
        tokens = _tokens_of_each([drawn_logprobs(choice.logprobs) for choice in answer.choices], usage)
        return [
            Sample(
                key=key,
                text=choice.message.content or "",
                tool_calls=tuple(
                    ToolCall(
                        id=call.id or f"call_{at}", name=call.function.name, arguments=call.function.arguments or ""
                    )
                    for at, call in enumerate(choice.message.tool_calls or ())
                ),
                finish_reason=choice.finish_reason,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=drawn,
                elapsed_ms=elapsed_ms,
                confidence=lowest_window(drawn_logprobs(choice.logprobs)),
            )
            for key, choice, drawn in zip(keys, answer.choices, tokens, strict=False)
        ]

    def _refusal(self, status: int, said: bytes) -> SwarmError:
        hint = " (here: --api-key KEY, or SWARM_API_KEY in the environment)" if status == 401 else ""
        return SwarmError(f"{self.base} answered {status}: {_shown(said)}{hint}")


def _tokens_of_each(drawn: Sequence[Sequence[float]], usage: Usage) -> list[int]:
    """How many tokens each choice took: `usage` counts those of all, the log-probabilities (`drawn`) those of each.

    Without log-probabilities each took the same share.
    """
    if len(drawn) > 1 and all(drawn):
        return [len(logprobs) for logprobs in drawn]
    share, rest = divmod(usage.completion_tokens, len(drawn))
    return [share + (at < rest) for at in range(len(drawn))]


def _shown(said: bytes) -> str:
    """The message in an error body in OpenAI's form, else its beginning."""
    try:
        return clean_line(str(json.loads(said)["error"]["message"])[:MAX_SAID_CHARS])
    except (ValueError, KeyError, TypeError):
        return repr(said[:MAX_SAID_CHARS].decode(errors="replace"))


class Silent:
    """The console of a node without a user: shows nothing, chooses the first."""

    can_ask = False
    can_show = False

    def show(self, now: NodeNow) -> None:
        """Shows nothing."""

    def ends(self) -> None:
        """Shows nothing."""

    def say(self, line: str) -> None:
        """Shows nothing."""

    def loading(self, line: str) -> None:
        """Shows nothing."""

    def interrupted(self) -> None:
        """Shows nothing."""

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """Shows nothing."""

    def choose(self, question: str, options: Sequence[str], stop: threading.Event | None = None) -> int:
        """The first."""
        return 0


@asynccontextmanager
async def embedded_endpoints(models: Sequence[str]) -> AsyncGenerator[dict[str, MeasuredEndpoint]]:
    """An endpoint for each of `models`, on loopback ports of this process."""
    async with AsyncExitStack() as stack:
        endpoints: dict[str, MeasuredEndpoint] = {}
        for model in models:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-bench-"))
            settings = {"model": model, "workers": SLOTS, "context": CONTEXT_TOKENS, "port": 0, "host": "127.0.0.1"}
            node = await stack.enter_async_context(
                Node(make_settings({**settings, "data_dir": Path(folder)}), Silent())
            )
            endpoints[model] = await stack.enter_async_context(MeasuredEndpoint(node.setup.announced.url, None))
        # llama.cpp's server installs handlers of its own while it loads: Ctrl-C is to end this run, not the process.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        yield endpoints
