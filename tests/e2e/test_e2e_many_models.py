"""One real node with more models on its disk than memory for them: everybody is answered by the model that it named."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from openai import APIError, AsyncOpenAI

from tests.e2e.asking import federation_view, metrics_of
from tests.e2e.load import sdk_client
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually

SMOLLM2: Final = "smollm2:135m:q4_1"
MODELS: Final = (SMOLLM2, "demo", "demo:b", "demo:c")
MEMORY_MIB: Final = 600  # by what they were measured to take, for SmolLM2 and one more, or for the three small ones
CLIENTS: Final = 8
IN_A_ROW: Final = 6  # questions of a client to one model, before it takes another
QUESTION: Final = "Why is the sky blue?"  # to which each of them says something else
TOKENS: Final = 16
VOTES: Final = 2
LEFT_S: Final = 10.0
LOADING_S: Final = 30.0  # far above what it takes on a busy machine
HOSTS_GONE_S: Final = 20.0  # they see that their node is gone when they have read what they were to load


@dataclass(frozen=True, slots=True)
class Way:
    """How something is asked."""

    streamed: bool
    voted: bool


WAYS: Final = (Way(False, False), Way(True, False), Way(False, True), Way(True, False), Way(True, True))


@dataclass(slots=True)
class Answers:
    """What became of all requests: `wrong` and `failed` in words."""

    right: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    most_loaded: int = 0
    most_taken_bytes: int = 0

    async def look(self, node: NodeProcess) -> None:
        """Note how many models are loaded at this moment, and what they take together."""
        view = await federation_view(node)
        loaded = [
            model for model in (view or {"own_models": ()})["own_models"] if model["state"] in ("ready", "draining")
        ]
        self.most_loaded = max(self.most_loaded, len(loaded))
        self.most_taken_bytes = max(self.most_taken_bytes, sum(model["taken_bytes"] or 0 for model in loaded))


async def answer(client: AsyncOpenAI, model: str, way: Way) -> tuple[str, dict[str, Any]]:
    """The text and the swarm object. Raises APIError; EOFError for a stream that ends without saying so."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "extra_body": {"swarm": {"votes": VOTES} if way.voted else {"strategy": "single"}},
    }
    if not way.streamed:
        completion = await client.chat.completions.create(**body)
        assert completion.model_extra is not None
        return completion.choices[0].message.content or "", completion.model_extra["swarm"]
    text, swarm = "", None
    async with await client.chat.completions.create(stream=True, **body) as chunks:
        async for chunk in chunks:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            swarm = (chunk.model_extra or {}).get("swarm") or swarm
    if swarm is None:
        raise EOFError(f"the stream ended after {text!r}, without its swarm object")
    return text, swarm


def told_by(text: str, references: dict[str, str]) -> str:
    """The model whose own words `text` begins with for longest: a batch of other answers may round differently."""

    def in_common(model: str) -> int:
        pairs = zip(text, references[model], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    return max(references, key=in_common)


async def ask_all(node: NodeProcess, requests: int, references: dict[str, str]) -> Answers:
    answers, numbers = Answers(), itertools.count()

    async def one(seed: int) -> None:
        chance, ways = random.Random(seed), itertools.islice(itertools.cycle(WAYS), seed, None)
        async with sdk_client(node.url, retries=0) as client:
            while True:
                model = chance.choice(MODELS)
                for way in itertools.islice(ways, IN_A_ROW):
                    if next(numbers) >= requests:
                        return
                    try:
                        text, swarm = await answer(client, model, way)
                    except (APIError, EOFError) as error:
                        answers.failed.append(f"{model} {way}: {error} ({error.__cause__!r})")
                        continue
                    await answers.look(node)
                    voters = {candidate["model"] for candidate in swarm["candidates"]}
                    if voters == {model} and (way.voted or told_by(text, references) == model):
                        answers.right[model] += 1
                    else:
                        answers.wrong.append(f"{model} {way}: {voters} said {text!r}")

    async with asyncio.TaskGroup() as clients:
        for seed in range(CLIENTS):
            clients.create_task(one(seed))
    return answers


async def own_words(node: NodeProcess) -> dict[str, str]:
    """What each model says, from a run of the node without bounds, which measures what they take."""
    with node:
        await node.ready()
        async with sdk_client(node.url, retries=0) as client:
            words = {model: (await answer(client, model, WAYS[0]))[0] for model in MODELS}
        node.send(signal.SIGTERM)
        assert await node.ended(LEFT_S) == 0
    assert len(set(words.values())) == len(words), words
    return words


async def answers_under_memory(node: NodeProcess, requests: int, references: dict[str, str]) -> None:
    """All `requests` are answered, each by the model that it names, within the memory that the node has for models."""
    await node.ready()
    answers = await ask_all(node, requests, references)
    metrics = await metrics_of(node)
    assert answers.failed == [], node.logs()
    assert answers.wrong == []
    assert answers.right.total() == requests
    assert set(answers.right) == set(MODELS)
    assert 0 < answers.most_loaded < len(MODELS), "there is no memory for all"
    assert answers.most_taken_bytes <= MEMORY_MIB << 20
    assert metrics['swarm_model_loads_total{to="ready"}'] > len(MODELS), "models came again"
    assert 'swarm_model_loads_total{to="failed"}' not in metrics
    assert node.exit_code is None
    assert "Traceback" not in node.errors
    assert "ended with" not in node.errors, "no engine was killed"


@pytest.mark.parametrize(
    "requests", [pytest.param(100, id="short"), pytest.param(1000, id="long", marks=pytest.mark.slow)]
)
async def test_who_asks_is_answered_by_the_model_it_names_while_there_is_no_memory_for_all(
    tmp_path: Path, smollm2: Path, requests: int
) -> None:
    arguments = ("--isolate", "--models-dir", str(smollm2.parent), "--context", "512", "--workers", "2")
    references = await own_words(NodeProcess("kitchen", tmp_path, arguments=arguments, model=None))
    bounded = (*arguments, "--memory", f"{MEMORY_MIB}M")
    with NodeProcess("kitchen", tmp_path, arguments=bounded, model=None) as node:
        await answers_under_memory(node, requests, references)


async def test_a_node_that_is_killed_while_it_loads_leaves_nothing_behind_and_starts_again(
    tmp_path: Path, smollm2: Path
) -> None:
    arguments = ("--isolate", "--models-dir", str(smollm2.parent), "--context", "512", "--workers", "1")
    with NodeProcess("kitchen", tmp_path, arguments=arguments) as node:
        await node.ready()
        async with sdk_client(node.url, retries=0) as client:

            async def hosts_now() -> list[psutil.Process]:
                """The engines' processes; one that begins is still a copy of the node's."""
                children = psutil.Process(node.pid).children()
                return [child for child in children if any("host" in word for word in child.cmdline())]

            running = await hosts_now()
            asking = asyncio.create_task(answer(client, SMOLLM2, WAYS[0]))

            async def loading() -> bool:
                assert not asking.done(), f"answered, or refused, before anybody saw it load: {asking}"
                view = await federation_view(node)
                return view is not None and (SMOLLM2, "loading") in [
                    (model["id"], model["state"]) for model in view["own_models"]
                ]

            two = "one engine runs, one is being started"
            hosts = await eventually(hosts_now, LOADING_S, two, until=lambda found: len(found) == 2)
            (starting,) = (host for host in hosts if host not in running)
            starting.suspend()  # a machine with the file in its memory would have loaded it before anybody looks
            await eventually(loading, LOADING_S, f"{SMOLLM2} is loaded")
            node.kill()
            starting.resume()
            with pytest.raises(APIError):
                await asking
        gone, alive = await asyncio.to_thread(psutil.wait_procs, hosts, HOSTS_GONE_S)
        assert (len(gone), alive) == (2, [])
        assert "Traceback" not in node.errors, "an engine's process ends quietly when its node is gone"
        node.start()
        await node.ready()
        async with sdk_client(node.url, retries=0) as client:
            text, swarm = await answer(client, SMOLLM2, WAYS[0])
        assert text
        assert swarm["loaded"]["model"] == SMOLLM2
