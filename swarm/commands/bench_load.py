"""`swarm bench load`: ask an endpoint as so many clients at once, level by level, and say what it carries."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict
from typing import Any, cast

import aiohttp

from federation.printable_text import clean_line
from swarm import program_version
from swarm.commands.bench_endpoint import base_url
from swarm.commands.bench_options import LoadOptions
from swarm.commands.output import complain, interrupted, say, say_line
from swarm.errors import SwarmError
from swarm.evaluation.load import LoadAnswer, LoadLevel, draw_load, prompt_of, sum_up, verdict
from swarm.evaluation.plots import plots_are_possible

ANSWER_S = 600.0  # one answer may take so long; it then counts as failed
MAX_PAUSE_S = 1.0  # of a client that was refused, before it asks again
MAX_SAID_CHARS = 200
UNREACHABLE = "unreachable"
HEADER = "clients  answers  failed  tokens/s  each  first token ms (95 %)  answer ms (95 %)"


def bench_load(options: LoadOptions) -> int:
    """0 when each level had answers; 1 where one had none, or after an interruption, with what there is."""
    levels: list[LoadLevel] = []
    try:
        asyncio.run(LoadRun(options, levels).run())
        ended = all(level.answers for level in levels)
    except KeyboardInterrupt:
        interrupted()
        ended = False
    if not levels:
        return 1
    if options.json:
        report = {
            "url": options.url, "model": options.model, "version": program_version(), "max_tokens": options.max_tokens,
            "words": options.words, "seconds": options.seconds, "levels": [asdict(level) for level in levels],
        }  # fmt: skip
        say(json.dumps(report, indent=1))
    else:
        say_line(verdict(levels))
    if options.plot is not None and (options.plot_asked or plots_are_possible()):
        draw_load(levels, f"{options.model} at {options.url}, answers of {options.max_tokens} tokens", options.plot)
        complain(f"plot: {options.plot}")
    return 0 if ended else 1


def level_line(level: LoadLevel) -> str:
    """One level in the columns of HEADER."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    first = f"{shown(level.first_token_ms_p50)} ({shown(level.first_token_ms_p95)})"
    whole = f"{shown(level.answer_ms_p50)} ({shown(level.answer_ms_p95)})"
    counts = f"{level.clients:>7}  {level.answers:>7}  {sum(level.failed.values()):>6}  {level.tokens_per_s:>8.1f}"
    line = f"{counts}  {shown(level.tokens_per_s_each):>4}  {first:>21}  {whole:>16}"
    kinds = ", ".join(f"{count} × {clean_line(kind)}" for kind, count in level.failed.items())
    return f"{line}  ({kinds})" if kinds else line


class LoadRun:
    """One run against one endpoint; `levels` grows by each that ends."""

    def __init__(self, options: LoadOptions, levels: list[LoadLevel]) -> None:
        self._options = options
        self._levels = levels
        self._url = f"{base_url(options.url)}/chat/completions"
        self._numbers: Iterator[int] = itertools.count(time.time_ns() % 1_000_000)  # unlike those of an earlier run

    async def run(self) -> None:
        """Every level. Raises SwarmError where the endpoint refuses the first request."""
        headers = {} if self._options.api_key is None else {"Authorization": f"Bearer {self._options.api_key}"}
        async with aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=ANSWER_S)
        ) as session:
            await self._try(session)
            complain(HEADER)
            for clients in self._options.clients:
                level = await self._level(session, clients)
                self._levels.append(level)
                complain(level_line(level))

    async def _try(self, session: aiohttp.ClientSession) -> None:
        """One answer first: it loads the model, and says what is wrong before a thousand do."""
        problem = (await self._ask(session, time.monotonic(), explain=True)).problem
        if problem is not None:
            raise SwarmError(problem)

    async def _level(self, session: aiohttp.ClientSession, clients: int) -> LoadLevel:
        began = time.monotonic()
        answered: list[LoadAnswer] = []

        async def client() -> None:
            while time.monotonic() - began < self._options.seconds:
                one = await self._ask(session, began)
                answered.append(one)
                if one.problem is not None:
                    await asyncio.sleep(MAX_PAUSE_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return sum_up(clients, time.monotonic() - began, answered)

    async def _ask(self, session: aiohttp.ClientSession, since: float, explain: bool = False) -> LoadAnswer:
        began = time.monotonic()
        first: float | None = None
        pieces, counted = 0, None
        problem: str | None = None
        try:
            async with session.post(self._url, json=self._body()) as response:
                if response.status != 200:
                    problem = await _refusal(response, self._url) if explain else str(response.status)
                else:
                    async for event in _events(response):
                        if isinstance(event.get("error"), dict):
                            problem = f"{self._url}: {_message(event)}" if explain else "error in the stream"
                            break
                        if _has_words(event):
                            first = time.monotonic() - began if first is None else first
                            pieces += 1
                        counted = _completion_tokens(event) or counted
                    else:
                        problem = None if pieces else "no words"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            problem = f"no endpoint answers at {self._url} ({reason})" if explain else UNREACHABLE
        return LoadAnswer(began - since, first, time.monotonic() - began, counted or pieces, problem)

    def _body(self) -> dict[str, Any]:
        options = self._options
        body: dict[str, Any] = {
            "model": options.model,
            "messages": [{"role": "user", "content": prompt_of(next(self._numbers), options.words)}],
            "max_tokens": options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body if options.votes is None else {**body, "swarm": {"votes": options.votes}}


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def _has_words(event: dict[str, Any]) -> bool:
    choices: list[Any] = event.get("choices") or []
    deltas: list[Any] = [choice.get("delta") or {} for choice in choices]
    return any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)


def _completion_tokens(event: dict[str, Any]) -> int | None:
    usage = event.get("usage")
    found = cast("dict[str, Any]", usage).get("completion_tokens") if isinstance(usage, dict) else None
    return found if isinstance(found, int) else None


def _message(event: dict[str, Any]) -> str:
    return clean_line(str(event["error"].get("message"))[:MAX_SAID_CHARS])


async def _refusal(response: aiohttp.ClientResponse, url: str) -> str:
    try:
        said = _message(await response.json(content_type=None))
    except (ValueError, KeyError, TypeError, AttributeError):
        said = "nothing that says why"
    hint = " (here: --api-key KEY, or SWARM_API_KEY in the environment)" if response.status == 401 else ""
    return f"{url} answered {response.status}: {said}{hint}"
