"""The engine mlx beside `mlx_lm` itself: decode of one answer, in turn, and five answers to one prompt.

    python benchmarks/mlx_engine.py --engines-dir DIR [--rounds 10] [--tokens 128] [--model FOLDER] [--json FILE]

Both sides have a process of their own with the same library, model and prompt; the engine's answers come through it and
this process, as a node's do. Decode is from the first token to the last, without the prompt. On the CPU of Linux the
library is for tests: the ratio is what counts there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from measure import Figure, Target, interleaved, ratios
from report import parser, publish, read_environment

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.installed import installed_engines
from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.engines.registry import load_engine
from swarm.generation import Delta, GenerationRequest
from swarm.registry.embedded import embedded_folder

PROMPT_TOKENS = 300
ANSWERS = 5
# The library's own side: a line with the prompt's tokens in, seconds and tokens of its decode out.
ITS_OWN = """
import json, sys, time
from mlx_lm.generate import stream_generate
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.utils import load
model, tokenizer = load(sys.argv[1])
bent = make_logits_processors({token: -100.0 for token in tokenizer.eos_token_ids})
for line in sys.stdin:
    prompt, most = json.loads(line)
    times = []
    for _ in stream_generate(model, tokenizer, prompt, max_tokens=most, logits_processors=bent):
        times.append(time.perf_counter())
    print(json.dumps([times[-1] - times[0], len(times) - 1]), flush=True)
"""


class ItsOwn:
    """`mlx_lm` in a process of its own."""

    def __init__(self, model: Path, packages: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", ITS_OWN, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=host_environment(packages),
        )

    def rate(self, prompt: list[int], tokens: int) -> float:
        """Tokens a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([prompt, tokens]) + "\n")
        self._process.stdin.flush()
        took_s, made = json.loads(self._process.stdout.readline())
        return made / took_s

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def decode(
    engine: Engine, prompt: list[int], tokens: int, never: dict[str, float], n: int = 1
) -> tuple[float, float]:
    """(tokens a second from the first to the last, of all answers together; seconds in all)."""
    request = GenerationRequest(model="m", prompt=tuple(prompt), max_tokens=tokens, temperature=0.0, logit_bias=never)
    begun, times = time.perf_counter(), list[float]()
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            if isinstance(event, Delta):
                times.append(time.perf_counter())
    made = n * tokens - 1
    return made / (times[-1] - times[0]), times[-1] - begun


async def figures(options: argparse.Namespace) -> list[Figure]:
    found_builds = installed_engines(options.engines_dir, "mlx")
    if not found_builds:
        raise SystemExit(
            f"no engine mlx in {options.engines_dir}: SWARM_ENGINES_DIR={options.engines_dir} swarm engines install mlx"
        )
    build = found_builds[0].build()
    engine = await load_engine("mlx", EngineSpec("m", options.model, 1024, ANSWERS, threads=1, build=build))
    its_own = ItsOwn(options.model, build.packages)
    loop = asyncio.get_running_loop()
    prompt = list((await engine.tokenize("word " * PROMPT_TOKENS, add_special=False, parse_special=False)).ids)
    prompt = prompt[:PROMPT_TOKENS]
    config: dict[str, Any] = json.loads((options.model / "generation_config.json").read_text())
    ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    never = {str(token): -100.0 for token in ends}

    def wait(n: int = 1) -> tuple[float, float]:
        return asyncio.run_coroutine_threadsafe(decode(engine, prompt, options.tokens, never, n), loop).result()

    sides = {
        "engine": lambda: wait()[0],
        "mlx_lm": lambda: its_own.rate(prompt, options.tokens),
        "one": lambda: wait()[1],
        "five": lambda: wait(ANSWERS)[1],
    }
    try:
        found = await asyncio.to_thread(interleaved, sides, options.rounds)
    finally:
        its_own.close()
        await engine.aclose()
    return [
        Figure("mlx: decode of the engine", "tokens/s", tuple(found["engine"])),
        Figure("mlx: decode of mlx_lm", "tokens/s", tuple(found["mlx_lm"])),
        Figure("mlx: engine / mlx_lm", "x", ratios(found["engine"], found["mlx_lm"]), Target("at least", 0.95)),
        Figure("mlx: five answers / one, kept prompt", "x", ratios(found["five"], found["one"])),
    ]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--engines-dir", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--tokens", type=int, default=128)
    arguments.add_argument("--model", type=Path, default=embedded_folder() / "hf")
    options = arguments.parse_args()
    environment = read_environment()
    if options.quick:
        options.rounds, options.tokens = 2, 32
    publish(environment, asyncio.run(figures(options)), options.json)


if __name__ == "__main__":
    main()
