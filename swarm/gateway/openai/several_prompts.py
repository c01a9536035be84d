"""Plain completions of several prompts in one request: each answered for itself, the choices numbered through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web
from pydantic import JsonValue

from swarm.gateway.answers.request_context import Answering
from swarm.gateway.answers.whole_answer import whole_candidates
from swarm.gateway.http.compact_json import compact
from swarm.gateway.openai.shapes import add_usage, usage_object
from swarm.generation import JsonObject, Usage

AT_ONCE = 4  # prompts in work: as many as a node has workers by default; the rest of a node is for others


async def answer_several(answerings: Sequence[Answering]) -> web.Response:
    """One response with all choices, in order of the prompts. The first failure ends all of them."""
    room = asyncio.Semaphore(AT_ONCE)

    async def answer(answering: Answering) -> tuple[JsonObject, Usage]:
        async with room:
            candidates, verdict = await whole_candidates(answering)
        usage = add_usage([candidate.usage for candidate in candidates])
        return answering.asked.form.whole(candidates, None if verdict is None else answering.extension(verdict)), usage

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(answering)) for answering in answerings]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    bodies, usages = zip(*(task.result() for task in tasks), strict=True)
    body = {**bodies[0], "choices": numbered(bodies), "usage": usage_object(summed(usages))}
    body.pop("swarm", None)
    return web.Response(text=compact(body), content_type="application/json", headers=answerings[0].headers())


def numbered(bodies: Sequence[JsonObject]) -> list[JsonValue]:
    """All choices, counted from 0. Each prompt was voted on for itself: its `swarm` object goes with its choice."""
    choices: list[JsonValue] = []
    for body in bodies:
        found, account = body["choices"], {name: body[name] for name in ("swarm",) if name in body}
        for choice in found if isinstance(found, list) else ():
            if isinstance(choice, dict):
                choices.append({**choice, "index": len(choices), **account})
    return choices


def summed(usages: Sequence[Usage]) -> Usage:
    """What different prompts cost together."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
    )
