"""A generator in its process, spoken to line by line: what it makes before the engine reads anything in it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm.engines.hosted.generator import Broke, Ended, GeneratorEvent, Job, JobSampling, LoadOrder, Piece
from swarm.engines.hosted.wire import error_in, event_in, facts_in, job_message, line_of, order_message, pieces_in
from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.errors import EngineFailed, UnknownArchitecture

LOAD_LIMIT_S = 120.0
GREEDY = JobSampling(0.0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, seed=7)


class GeneratorProcess:
    """The host of `module` with a model. Raises EngineFailed where it cannot load it."""

    def __init__(self, module: str, packages: Path | None, order: LoadOrder) -> None:
        self._numbers = itertools.count(1)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "swarm.engines.hosted.host", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=host_environment(packages),
        )
        self._say(order_message(order, LOAD_LIMIT_S))
        answer = self._hear()
        if "facts" not in answer:
            self.close()
            kind = UnknownArchitecture if answer.get("unknown_architecture") else EngineFailed
            raise kind(answer["error"])
        self.facts = facts_in(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def ask(self, do: str, **fields: Any) -> Any:
        """The result of a call. Raises its error."""
        call = next(self._numbers)
        self._say({"do": do, "call": call, **fields})
        while (answer := self._hear()).get("call") != call:
            assert "events" in answer, answer
        if "error" in answer:
            raise error_in(answer["error"])
        return answer["result"]

    def tokens(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        return tuple(self.ask("tokenize", text=text, add_special=False, parse_special=special))

    def chat(self, text: str, tools: Sequence[Any] = ()) -> tuple[int, ...]:
        """The tokens of a conversation with one turn."""
        turns = [{"role": "user", "content": text}]
        prompt = self.ask("render", messages=turns, tools=list(tools), variables={"add_generation_prompt": True})
        return self.tokens(prompt, special=True)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return pieces_in(self.ask("pieces", tokens=list(tokens)))

    def job(
        self, prompt: Sequence[int], n: int = 1, sampling: JobSampling = GREEDY, max_tokens: int = 48, **more: Any
    ) -> Job:
        return Job(next(self._numbers), tuple(prompt), n, sampling, max_tokens, **more)

    def run(self, *jobs: Job) -> list[list[GeneratorEvent]]:
        """The events of each of `jobs`, which run at the same time, until all have ended."""
        for job in jobs:
            self._say(job_message(job))
        told: dict[int, list[GeneratorEvent]] = {job.id: [] for job in jobs}
        unfinished = {job.id: job.n for job in jobs}
        while any(unfinished.values()):
            for event in map(event_in, self._hear().get("events", ())):
                told[event.job].append(event)
                if isinstance(event, Ended):
                    unfinished[event.job] -= 1
                elif isinstance(event, Broke):
                    unfinished[event.job] = 0
        return [told[job.id] for job in jobs]

    def stopped(self, job: Job, after: int, choice: int | None = None) -> list[GeneratorEvent]:
        """The events of `job`, of which one answer, or all, is stopped after so many of them."""
        self._say(job_message(job))
        told: list[GeneratorEvent] = []
        while len(told) < after:
            told += map(event_in, self._hear()["events"])
        self._say({"do": "stop", "job": job.id, "choice": choice})
        if choice is not None:
            while sum(isinstance(event, Ended) for event in told) < job.n - 1:
                told += map(event_in, self._hear()["events"])
        return told

    def busy(self) -> int:
        """How many jobs are in progress."""
        return self.ask("steps")[1]

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line_of(message))
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def text_of(events: Sequence[GeneratorEvent], choice: int = 0) -> bytes:
    """What one answer says."""
    return b"".join(each.text for each in events if isinstance(each, Piece) and each.choice == choice)


def tokens_of(events: Sequence[GeneratorEvent], choice: int = 0) -> tuple[int, ...]:
    return tuple(each.token for each in events if isinstance(each, Piece) and each.choice == choice)


def end_of(events: Sequence[GeneratorEvent], choice: int = 0) -> Ended:
    return next(each for each in events if isinstance(each, Ended) and each.choice == choice)
