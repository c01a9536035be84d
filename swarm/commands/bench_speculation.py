"""`swarm bench speculation`: what guessing the next tokens brings on this machine, for what kinds of text.

The same model is loaded without and with guesses, in turn, and asked for the same texts one at a time: edits of code
and of JSON, most of which stand in the question already, and prose, which does not repeat. A model that checks several
tokens in one step adds the same numbers up in another order than one that writes them one by one, so that of two tokens
which are about as likely the other may win: greedy texts that differ are counted, and how close those two tokens were
is measured.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from federation.printable_text import clean_line
from hardware.probe import probe_hardware
from swarm.commands.bench_options import SpeculationOptions
from swarm.commands.output import complain, interrupted, say
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import EngineEntry, chosen_engine
from swarm.errors import SetupError
from swarm.generation import Delta, Finish, GenerationRequest
from swarm.node.model_choice import model_store
from swarm.node.models import compute_threads, read_for_each_token
from swarm.node.settings import make_settings
from swarm.registry.embedded import embedded_model_path
from swarm.registry.gguf_header import GgufFacts, read_model, why_no_draft
from swarm.registry.names import EMBEDDED_NAMES

CONTEXT_TOKENS = 2048  # a question of some 500 tokens and its answer
CODE_CHARS = 1000  # of a piece of code that is to be edited
BEGUN_CHARS = 40  # of the text in question, with which the answer begins: small models would talk about it instead
NEAR_TIE = 0.5  # between the log-probabilities of two tokens: what the order of adding up can turn around (measured)
PACKAGE = Path(__file__).resolve().parents[1]
CODE_FILES = ("quantities.py", "registry/known_sizes.py", "environment.py", "doctor/finding.py")
CITIES = ("Springfield", "Riverside", "Salem", "Dover")
NAMES = ("Alice", "Bruno", "Carla", "David", "Emily", "Frank", "Grace", "Henry")
PROSE = (
    "Write a story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain how bread is made and why the dough rises.",
    "Describe a walk through an old town in autumn.",
    "Tell me about the history of the bicycle.",
)


@dataclass(frozen=True, slots=True)
class Task:
    """One text to ask for, whose answer begins by `begun`. Prose is sampled: greedy, small models repeat themselves."""

    kind: str
    question: str
    begun: str = ""
    temperature: float = 0.0

    def request(self, max_tokens: int, begun: str | None = None, **fields: object) -> GenerationRequest:
        """The request for it, after the beginning `begun` of its answer."""
        begun = self.begun if begun is None else begun
        turns = [{"role": "user", "content": self.question}]
        turns += [{"role": "assistant", "content": begun}] if begun else []
        asked = {"messages": turns, "max_tokens": max_tokens, "temperature": self.temperature, "seed": 1}
        return GenerationRequest.model_validate({"model": "bench", **asked, **fields})


def tasks() -> Iterator[Task]:
    """Four of each kind."""
    for name in CODE_FILES:
        code = (PACKAGE / name).read_text(encoding="utf-8")
        code = code[: code.rindex("\n", 0, CODE_CHARS) + 1]
        question = f"Add a comment above the last line of this file and return the whole file:\n\n```python\n{code}```"
        yield Task("code", question, f"```python\n{code[:BEGUN_CHARS]}")
    for number, city in enumerate(CITIES):
        people = [
            {
                "id": at,
                "name": name,
                "email": f"{name.lower()}@example.com",
                "active": at % 3 != number % 3,
                "city": city,
            }
            for at, name in enumerate(NAMES[number : number + 4], 10 * number)
        ]
        document = json.dumps(people, indent=2)
        question = f'Set "active" of everybody to true and return the whole document:\n\n```json\n{document}\n```'
        yield Task("JSON", question, f"```json\n{document[:BEGUN_CHARS]}")
    for question in PROSE:
        yield Task("prose", question, temperature=0.8)


@dataclass(frozen=True, slots=True)
class Written:
    """One answer: its text, its tokens, and how many of them came in a second once the first was there."""

    text: str
    tokens: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a guessed greedy text is another: after so many characters, at two tokens whose log-probabilities, as the
    model has them without guesses, differ by `gap`. None: asked once more without guesses, it wrote a third text.
    """

    kind: str
    after_chars: int
    gap: float | None

    @property
    def is_near_tie(self) -> bool:
        return self.gap is None or self.gap <= NEAR_TIE


@dataclass(frozen=True, slots=True)
class Gain:
    """Of one kind of text: tokens a second without and with guesses (medians), and the median of their ratios."""

    kind: str
    plain: float
    guessed: float
    ratio: float
    least: float
    most: float
    texts: int


def gains(plain: Sequence[tuple[Task, Written]], guessed: Sequence[tuple[Task, Written]]) -> list[Gain]:
    """What guesses bring, kind by kind; both have the same tasks in the same order."""
    found: list[Gain] = []
    for kind in dict.fromkeys(task.kind for task, _ in plain):
        pairs = [
            (one.tokens_per_s, other.tokens_per_s)
            for (task, one), (_, other) in zip(plain, guessed, strict=True)
            if task.kind == kind and one.tokens_per_s and other.tokens_per_s
        ]
        if pairs:
            ratios = [other / one for one, other in pairs]
            ones, others = (statistics.median(side) for side in zip(*pairs, strict=True))
            found.append(Gain(kind, ones, others, statistics.median(ratios), min(ratios), max(ratios), len(pairs)))
    return found


def common_chars(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def gap_at(pieces: Sequence[tuple[str, Sequence[float]]], plain: str, after_chars: int) -> float | None:
    """By how much the best token was likelier than the second where a text goes on after so many characters.

    `pieces` are its tokens' texts with the log-probabilities of the likeliest there; None where they are not `plain`.
    """
    at = 0
    for text, best in pieces:
        if not plain.startswith(text, at):
            return None
        if at + len(text) > after_chars:
            ordered = sorted(best, reverse=True)
            return ordered[0] - ordered[1] if len(ordered) > 1 else None
        at += len(text)
    return None


def bench_speculation(options: SpeculationOptions) -> int:
    """0 once it is measured, 1 after an interruption. Raises SetupError for what cannot be measured."""
    bench = SpeculationBenchmark.of(options)
    try:
        asyncio.run(bench.run())
    except KeyboardInterrupt:
        interrupted()
    if not bench.guessed:
        return 1
    bench.report()
    return 0 if bench.complete else 1


class SpeculationBenchmark:
    """One run. `plain` and `guessed` are what was written, task by task; `differences` of greedy texts."""

    def __init__(
        self, options: SpeculationOptions, entry: EngineEntry, plain: EngineSpec, guessing: EngineSpec
    ) -> None:
        self._options = options
        self._entry = entry
        self._specs = (plain, guessing)
        self.plain: list[tuple[Task, Written]] = []
        self.guessed: list[tuple[Task, Written]] = []
        self.differences: list[Difference] = []
        self.complete = False

    @staticmethod
    def of(options: SpeculationOptions) -> SpeculationBenchmark:
        """Finds the files, and says what is missing. Blocks."""
        entry = chosen_engine(options.engine)
        if not entry.guesses:
            raise SetupError(f"the engine {entry.name} does not guess tokens: give --engine xllamacpp")
        model, path = _file(options.model, options)
        draft: Path | None = None
        if options.draft is not None:
            small, draft = _file(options.draft, options)
            if (why := why_no_draft(model, small)) is not None:
                raise SetupError(f"--draft {options.draft}: {why}")
        threads, reading = compute_threads(options.threads, probe_hardware(), read_for_each_token(model))
        context_tokens = min(CONTEXT_TOKENS, model.context_tokens or CONTEXT_TOKENS)
        plain = EngineSpec(options.model, path, context_tokens, 1, threads, reading_threads=reading)
        guessing = EngineSpec(
            options.model, path, context_tokens, 1, threads, reading_threads=reading, draft=draft,
            ngram=draft is None or options.ngram,
        )  # fmt: skip
        return SpeculationBenchmark(options, entry, plain, guessing)

    async def run(self) -> None:
        """Each round loads the model twice; what one has guessed for a text, the next knows nothing of."""
        asked = list(tasks())
        for number in range(self._options.rounds):
            sides = [self._round(0, asked), self._round(1, asked)]
            if number % 2:
                sides.reverse()  # whatever else the machine does gets slower or faster for both
            written = [await side for side in sides]
            plain, guessed = reversed(written) if number % 2 else written
            self.plain += zip(asked, plain, strict=True)
            self.guessed += zip(asked, guessed, strict=True)
            if number == 0:
                self.differences = await self._compared(asked, plain, guessed)
        self.complete = True

    async def _round(self, side: int, asked: Sequence[Task]) -> list[Written]:
        async with self._engine(side) as engine:
            await write(engine, asked[0].request(1))  # memory is touched for the first time
            written: list[Written] = []
            for number, task in enumerate(asked, 1):
                written.append(await write(engine, task.request(self._options.tokens)))
                complain(f"  {('without', 'with')[side]} guesses: {number} of {len(asked)} texts")
            return written

    async def _compared(
        self, asked: Sequence[Task], plain: Sequence[Written], guessed: Sequence[Written]
    ) -> list[Difference]:
        """Greedy texts that are not the same, each looked at once more without guesses."""
        unlike = [
            (task, one.text, common_chars(one.text, other.text))
            for task, one, other in zip(asked, plain, guessed, strict=True)
            if not task.temperature and one.text != other.text
        ]
        found: list[Difference] = []
        if unlike:
            async with self._engine(0) as engine:
                for task, text, after_chars in unlike:
                    request = task.request(self._options.tokens, logprobs=True, top_logprobs=2)
                    found.append(
                        Difference(task.kind, after_chars, gap_at(await pieces(engine, request), text, after_chars))
                    )
        return found

    @asynccontextmanager
    async def _engine(self, side: int) -> AsyncGenerator[Engine]:
        engine = await self._entry.load(self._specs[side], "always")
        try:
            yield engine
        finally:
            await engine.aclose()

    def report(self) -> None:
        """The table, and what is to be made of texts that differ."""
        found, guessing = gains(self.plain, self.guessed), self._specs[1]
        how = [
            *(["what was written before"] if guessing.ngram else []),
            *([str(self._options.draft)] if guessing.draft else []),
        ]
        say(clean_line(f"{self._options.model}, {guessing.threads} threads, tokens guessed from {' and '.join(how)}"))
        say(f"{'':8}{'without':>10}{'with':>10}   {'ratio':<22}texts")
        for gain in found:
            between = f"{gain.ratio:.2f} ({gain.least:.2f}-{gain.most:.2f})"
            say(f"{gain.kind:8}{gain.plain:>10.1f}{gain.guessed:>10.1f}   {between:<22}{gain.texts}")
        greedy = sum(not task.temperature for task in tasks())
        say(f"tokens a second of one answer. {len(self.differences)} of {greedy} greedy texts differ")
        for difference in self.differences:
            say(f"  {difference.kind}, after {difference.after_chars} characters: {self._why(difference)}")
        if self._options.json_file is not None:
            self._write_json(self._options.json_file, found)

    def _why(self, difference: Difference) -> str:
        if difference.gap is None:
            return "asked once more without guesses, the model wrote a third text"
        words = f"the two likeliest tokens there were {difference.gap:.3f} apart (log-probability)"
        return words if difference.is_near_tie else f"{words}: more than rounding explains"

    def _write_json(self, path: Path, found: Sequence[Gain]) -> None:
        figures = {"gains": [asdict(gain) for gain in found], "differences": [asdict(one) for one in self.differences]}
        try:
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write --json {path}: {error.strerror}") from error


async def write(engine: Engine, request: GenerationRequest) -> Written:
    """One answer of `engine`, timed from its first token on."""
    texts: list[str] = []
    first_at: float | None = None
    tokens = 0
    async with aclosing(engine.candidates(request, 1)) as events:
        async for event in events:
            match event:
                case Delta():
                    first_at = first_at or time.perf_counter()
                    texts.append(event.text)
                case Finish():
                    tokens = event.usage.completion_tokens
                case _:
                    pass
    spent_s = time.perf_counter() - (first_at or time.perf_counter())
    return Written("".join(texts), tokens, (tokens - 1) / spent_s if tokens > 1 and spent_s > 0 else 0.0)


async def pieces(engine: Engine, request: GenerationRequest) -> list[tuple[str, list[float]]]:
    """An answer token by token, each with the log-probabilities of the likeliest ones there."""
    found: list[tuple[str, list[float]]] = []
    async with aclosing(engine.candidates(request, 1)) as events:
        async for event in events:
            if isinstance(event, Delta) and isinstance(event.logprobs, dict):
                for token in cast("list[dict[str, Any]]", event.logprobs.get("content") or []):
                    likeliest = cast("list[dict[str, Any]]", token.get("top_logprobs") or [])
                    best = [float(other["logprob"]) for other in likeliest]
                    found.append((str(token["token"]), best))
    return found


def _file(name: str, options: SpeculationOptions) -> tuple[GgufFacts, Path]:
    """What the model called `name` is, and where. Raises SetupError where it is not on this disk. Blocks."""
    if name in EMBEDDED_NAMES:
        path = embedded_model_path(name)
    elif Path(name).is_file():
        path = Path(name)
    else:
        stored = model_store(make_settings({"data_dir": options.data_dir})).look().named(name)
        if stored is None:
            raise SetupError(
                f"{name!r} is not on this disk: `swarm models list` says what is, `swarm models pull` fetches"
            )
        path = stored.path
    return read_model(path).facts, path
