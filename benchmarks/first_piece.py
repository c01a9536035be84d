"""How much later the first piece of an answer comes through Ollama's API than through OpenAI's, at a node that runs.

    python -m benchmarks.first_piece --url http://127.0.0.1:17615 --model demo --rounds 200

The same question in turn through both, streamed, over one connection each; the medians, and their difference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Final

import aiohttp

QUESTION: Final = [{"role": "user", "content": "Tell me of Paris."}]
TOKENS: Final = 4


def has_words(line: bytes) -> bool:
    """Whether a line of a stream has a piece of the answer, in either API's form."""
    text = line.removeprefix(b"data: ").strip()
    if not text.startswith(b"{"):
        return False
    found = json.loads(text)
    if "message" in found:
        return bool(found["message"]["content"])
    return any(choice["delta"].get("content") for choice in found.get("choices", ()))


async def first_piece_ms(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> float:
    """From the request to the first line with words; the rest is read, too."""
    began, first = time.perf_counter(), None
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if first is None and has_words(line):
                first = time.perf_counter()
    if first is None:
        raise SystemExit(f"{url} answered without a word")
    return (first - began) * 1000


async def measure(url: str, model: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds by path."""
    common = {"model": model, "messages": QUESTION, "stream": True}
    asked: dict[str, dict[str, object]] = {
        "/v1/chat/completions": {**common, "max_tokens": TOKENS, "temperature": 0},
        "/api/chat": {**common, "options": {"num_predict": TOKENS, "temperature": 0}},
    }
    found: dict[str, list[float]] = {path: [] for path in asked}
    async with aiohttp.ClientSession() as session:
        for turn in range(rounds + 1):
            for path, body in sorted(asked.items(), reverse=turn % 2 == 0):
                found[path].append(await first_piece_ms(session, url + path, body))
    return {path: times[1:] for path, times in found.items()}  # the first reads the prompt anew


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:17615")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    found = asyncio.run(measure(options.url, options.model, options.rounds))
    medians = {path: statistics.median(times) for path, times in found.items()}
    for path, median in medians.items():
        print(f"{path}: {median:.2f} ms")
    print(f"difference: {medians['/api/chat'] - medians['/v1/chat/completions']:+.2f} ms")


if __name__ == "__main__":
    main()
