"""What clients and operators ask of a node over HTTP, as the official OpenAI client and plain GETs ask it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import aiohttp
from gguf import GGUFReader
from gguf.constants import TokenType
from openai import AsyncOpenAI

from swarm.registry.embedded import embedded_model_path
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually

GET_TIMEOUT_S: Final = 5.0  # far above what a living node takes; a frozen one never answers
ANSWER_TIMEOUT_S: Final = 20.0  # the embedded model takes a tenth of a second on an idle machine
VOTERS_S: Final = 60.0  # far above what it takes until all voters of a busy machine are in time
SLOTS: Final = 4  # --workers' default

QUESTION: Final = "What is the capital of France?"
SHORT_TOKENS: Final = 64  # enough for what the embedded models say; a real one may ramble on for minutes
LONG_TOKENS: Final = 1500  # seconds of generation, and within the embedded model's context of 2048

_SERIES = re.compile(r"^(?P<series>swarm_\S+) (?P<value>\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and the `swarm` object that came with it."""

    text: str
    swarm: dict[str, Any]

    @property
    def voting_nodes(self) -> set[str]:
        """The nodes whose candidates were counted; one that abstained was not."""
        counted = (candidate for candidate in self.swarm["candidates"] if candidate["group"] is not None)
        return {candidate["voter"].rpartition("@")[2] for candidate in counted}


async def ask(
    node: NodeProcess, question: str = QUESTION, model: str = "demo", max_tokens: int = SHORT_TOKENS, **swarm: object
) -> Answer:
    """The node's answer; `swarm` is the request extension. Raises openai.APIError."""
    async with AsyncOpenAI(
        base_url=f"{node.url}/v1",
        api_key="none",
        max_retries=0,  # a first answer that fails must fail the test
        timeout=ANSWER_TIMEOUT_S,
    ) as client:
        completion = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            extra_body={"swarm": swarm},
        )
    assert completion.model_extra is not None, "no extension fields"
    return Answer(completion.choices[0].message.content or "", completion.model_extra["swarm"])


async def voted_on(node: NodeProcess, voters: Collection[str], **swarm: object) -> Answer:
    """An answer of the node for which a vote of each of `voters` counted, and of nobody else.

    A slow voter comes too late to count where others are agreed; then it is asked again. Every answer is the right one.
    """

    async def answer() -> Answer:
        answer = await ask(node, **{"votes": 5, **swarm})
        assert "Paris" in answer.text
        assert answer.voting_nodes <= set(voters)
        return answer

    what = f"{', '.join(sorted(voters))} vote on what {node.name} is asked"
    return await eventually(answer, VOTERS_S, what, until=lambda answer: answer.voting_nodes == set(voters))


@cache
def rambling() -> dict[str, Any]:
    """Parameters that keep the embedded model talking for LONG_TOKENS: hot, and without the tokens that end a turn.

    The log-probabilities make megabytes of it: more than all buffers hold, so a stream that is not read cannot end.
    """
    tokens = GGUFReader(embedded_model_path()).fields["tokenizer.ggml.token_type"].contents()
    special = {str(token): -100 for token, kind in enumerate(tokens) if kind != TokenType.NORMAL}
    sampling = {"temperature": 1.5, "logit_bias": special, "max_tokens": LONG_TOKENS}
    return {**sampling, "logprobs": True, "top_logprobs": 20}


@asynccontextmanager
async def long_stream(
    node: NodeProcess,
    model: str = "demo",
    tokens: int = LONG_TOKENS,
    sampling: Mapping[str, Any] = MappingProxyType({}),
    **swarm: object,
) -> AsyncGenerator[aiohttp.ClientResponse]:
    """A streamed answer of so many tokens whose first event has been read. Leaving it early cuts the connection.

    It is drawn as `sampling` says, over what keeps the model talking.
    """
    question = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": True, "swarm": swarm}
    body = {**question, **await asyncio.to_thread(rambling), "max_tokens": tokens, **sampling}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=ANSWER_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{node.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        first = await response.content.readuntil(b"\n\n")
        assert first.startswith(b"data: "), first
        yield response


async def get_text(url: str) -> str | None:
    """The body of a GET, whatever its status; None where nobody answers."""
    timeout = aiohttp.ClientTimeout(total=GET_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return None


async def federation_view(node: NodeProcess) -> dict[str, Any] | None:
    """The node's `/v1/federation/health`; None where it does not answer."""
    text = await get_text(f"{node.url}/v1/federation/health")
    return None if text is None else json.loads(text)


async def replicas_seen(node: NodeProcess) -> list[str]:
    """The names of the nodes that this one would ask, itself among them, sorted; none where it does not answer."""
    view = await federation_view(node)
    return [] if view is None else sorted(view["models"].get("demo", []))


async def peer_seen(node: NodeProcess, name: str) -> dict[str, Any] | None:
    """What the node says of its peer `name`."""
    view = await federation_view(node)
    return None if view is None else next((peer for peer in view["peers"] if peer["name"] == name), None)


async def metrics_of(node: NodeProcess) -> dict[str, float]:
    """The node's own series by their full names; empty where it does not answer."""
    text = await get_text(f"{node.url}/metrics")
    return {match["series"]: float(match["value"]) for match in _SERIES.finditer(text or "")}


async def slots_free(node: NodeProcess) -> int | None:
    """Idle workers by the node's own count; None where it does not answer."""
    value = (await metrics_of(node)).get("swarm_slots_free")
    return None if value is None else int(value)
