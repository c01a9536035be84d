"""How much of two conversations is read again, whose turns come in turn; also after the node was started anew.

    python -m benchmarks.conversations MODEL.gguf [--tokens 6000] [--slots 1 2 4] [--saves] [--restart-at 5]

Both are an agent's: one system prompt with tools for both of them (`--own-prompts`: one each), then questions, answers
and what tools returned. A turn's prompt is all that was said before it, so a cache that holds the conversation leaves
only the new words to read. "Read again" is what llama.cpp evaluated beyond those, of all prompt tokens. The tokens are
counted by llama.cpp itself (`/metrics`); times are wall, and only worth comparing within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.generation import Delta, GenerationRequest
from swarm.registry.embedded import embedded_model_path

ANSWER_TOKENS = 48
SAVES_BYTES = 16 * 2**30
WORDS = ("file", "line", "error", "test", "build", "value", "list", "open", "read", "branch", "merge", "token", "model")


def words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(count))


def tools(dice: random.Random, count: int) -> list[dict[str, Any]]:
    """So many tools as an agent shows: a description and three parameters each."""
    return [
        {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "description": words(dice, 60),
                "parameters": {
                    "type": "object",
                    "properties": {
                        f"field_{place}": {"type": "string", "description": words(dice, 15)} for place in range(3)
                    },
                    "required": ["field_0"],
                },
            },
        }
        for number in range(count)
    ]


class Conversation:
    """An agent's: `turns` of messages that grow by a question or a tool's words, and the model's answer."""

    def __init__(self, seed: int, system: str, shown: list[dict[str, Any]], label: str, said: int) -> None:
        self.label, self._said = label, said
        self._dice = random.Random(seed)
        self._shown = shown
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        self.known_tokens = 0  # of the last prompt and its answer: what a perfect cache holds

    def request(self) -> GenerationRequest:
        self.messages.append({"role": "user", "content": f"{self.label}: " + words(self._dice, self._said)})
        fields = {"tools": self._shown, "tool_choice": "none"} if self._shown else {}
        return GenerationRequest.model_validate(
            {"model": "m", "messages": self.messages, "max_tokens": ANSWER_TOKENS, "temperature": 0.0, **fields}
        )


@dataclass
class Counts:
    """Of all turns: tokens of the prompts, those that were new in them, and those that llama.cpp evaluated."""

    prompt: int = 0
    new: int = 0
    evaluated: int = 0
    seconds: float = 0.0

    @property
    def again(self) -> float:
        return max(0, self.evaluated - self.new) / max(self.prompt, 1)


async def evaluated_tokens(engine: LlamaServerEngine) -> int:
    counts = await engine.http._metrics()  # pyright: ignore[reportPrivateUsage] - which the product has no use for
    return int(counts["prompt_tokens_total"])


async def turn(engine: LlamaServerEngine, conversation: Conversation, counts: Counts) -> None:
    before, begun = await evaluated_tokens(engine), time.perf_counter()
    text = ""
    async with aclosing(engine.candidates(conversation.request(), 1)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            else:
                usage = event.usage
                counts.prompt += usage.prompt_tokens
                counts.new += max(0, usage.prompt_tokens - conversation.known_tokens)
                conversation.known_tokens = usage.prompt_tokens + usage.completion_tokens
    counts.seconds += time.perf_counter() - begun
    counts.evaluated += await evaluated_tokens(engine) - before
    conversation.messages.append({"role": "assistant", "content": text or "."})


async def run(spec: EngineSpec, args: argparse.Namespace) -> Counts:
    engine = await load_xllamacpp(spec, "always")
    try:
        probe = random.Random(1)
        per_tool = (
            await engine.count_tokens(
                GenerationRequest.model_validate(
                    {"model": "m", "messages": [{"role": "user", "content": json.dumps(tools(probe, 4))}]}
                )
            )
            // 4
        )
        share = max(args.tokens - 200, 200)
        seeds = (11, 12 if args.own_prompts else 11)
        conversations = [
            Conversation(
                number, words(random.Random(seed), 100), tools(random.Random(seed), share // per_tool), name, args.words
            )
            for number, (seed, name) in enumerate(zip(seeds, ("Ann", "Bob"), strict=True))
        ]
        counts = Counts()
        for number in range(args.turns):
            if number == args.restart_at:
                await engine.aclose()
                engine = await load_xllamacpp(spec, "always")
            for conversation in conversations:
                await turn(engine, conversation, counts)
        print(f"  first prompt {conversations[0].known_tokens} tokens at the end", flush=True)
        return counts
    finally:
        await engine.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=embedded_model_path())
    parser.add_argument("--tokens", type=int, default=6000, help="of the system prompt with its tools")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--words", type=int, default=60, help="of each turn's question")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--own-prompts", action="store_true", help="a system prompt for each")
    parser.add_argument("--saves", action="store_true", help="on disk, too")
    parser.add_argument("--restart-at", type=int, help="the turn before which the engine is loaded anew")
    args = parser.parse_args()
    for slots in args.slots:
        saves = Path(tempfile.mkdtemp(prefix="saves-")) if args.saves else None
        spec = EngineSpec(
            "m", args.model, args.context, slots, threads=args.threads, saves=saves, saves_bytes=8 * 2**30
        )
        counts = asyncio.run(run(spec, args))
        print(
            f"{slots} slots: {counts.prompt} prompt tokens, {counts.new} new, {counts.evaluated} evaluated, "
            f"{counts.again:.1%} read again, {counts.seconds:.1f} s",
            flush=True,
        )
        if saves is not None:
            shutil.rmtree(saves)


if __name__ == "__main__":
    main()
