"""`swarm bench votes`: draw the samples that are missing, count every vote over them, report.

Samples are drawn many at once, and kept in a file if one is given, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from federation.printable_text import clean_line, one_line
from swarm import program_version
from swarm.commands.bench_endpoint import MeasuredEndpoint, embedded_endpoints
from swarm.commands.bench_options import BenchOptions
from swarm.commands.output import complain, interrupted, is_terminal, say
from swarm.commands.terminal import show_share
from swarm.consensus.waves import DIVERSE_TEMPERATURE, SAMPLED_AT
from swarm.errors import SetupError, SwarmError, UnknownModel
from swarm.evaluation.cascade import kept
from swarm.evaluation.findings import Findings, measure
from swarm.evaluation.plots import check_plots_possible, draw_plots, plots_are_possible
from swarm.evaluation.public_sets import PUBLIC_SETS, public_questions
from swarm.evaluation.questions import SHIPPED, Problem, QuestionSet, read_questions, shipped_questions
from swarm.evaluation.report import Provenance, link_from, render_report, write_report
from swarm.evaluation.samples import DrawPlan, SampleKey, SampleStore
from swarm.registry.names import EMBEDDED_NAMES
from swarm.registry.weights_file import (
    WEIGHTS_FILE,
    Measurements,
    NodeMeasurements,
    add_weights,
    merged,
    merged_nodes,
)

REDRAW_S = 0.5  # of the progress line in a terminal
LOG_EVERY_S = 10.0  # between two lines of progress in a file or pipe
MAX_TOKENS, SAMPLES = 1024, 15  # for questions whose file does not set them
MAX_UNNAMED_MODELS = 8  # of an endpoint that lists hundreds, nobody means all


@dataclass(frozen=True, slots=True)
class MissingSamples:
    """Samples of one problem, of one model at one temperature, which can be drawn together: they share a prompt."""

    problem: Problem
    model: str
    keys: tuple[SampleKey, ...]


def missing(plans: Sequence[DrawPlan], store: SampleStore) -> list[MissingSamples]:
    """What is still to be drawn, problem by problem, so that an interrupted run has some problems complete."""
    found: list[MissingSamples] = []
    for plan in plans:
        for problem in plan.questions.problems:
            wanted = [key for key in plan.keys(problem) if key not in store.samples]
            for (model, _), keys in itertools.groupby(wanted, key=lambda key: (key.model, key.temperature)):
                found.append(MissingSamples(problem, model, tuple(keys)))
    return found


async def draw_samples(
    wanted: Sequence[MissingSamples], endpoints: Mapping[str, MeasuredEndpoint], parallel: int, store: SampleStore
) -> None:
    """Draw all that is `wanted`, with at most `parallel` requests at once to each of `endpoints` (by model).

    An error ends it.
    """
    progress = DrawingProgress(sum(len(entry.keys) for entry in wanted))

    async def work(endpoint: MeasuredEndpoint, queue: Iterator[MissingSamples]) -> None:
        for entry in queue:
            async for sample in endpoint.samples(entry.problem, entry.keys):
                store.add(sample)
                progress.step()

    try:
        async with asyncio.TaskGroup() as group:
            for endpoint in set(endpoints.values()):
                queue = iter([entry for entry in wanted if endpoints[entry.model] is endpoint])
                for _ in range(parallel):
                    group.create_task(work(endpoint, queue))
    except* SwarmError as errors:
        raise errors.exceptions[0] from None
    finally:
        progress.end()


class DrawingProgress:
    """How many samples are drawn, on standard error."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._live = is_terminal(sys.stderr)
        self._began = time.monotonic()
        self._said_at = self._began

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said_at >= (REDRAW_S if self._live else LOG_EVERY_S):
            self._said_at = now
            self._say(now)

    def end(self) -> None:
        if self._total:
            self._say(time.monotonic())

    def _say(self, now: float) -> None:
        rate = self._done / max(now - self._began, 1e-3)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        line = f"{self._done} of {self._total} samples, {rate:.1f}/s{left}"
        if self._live:
            show_share(sys.stderr, line, self._done / self._total)
        else:
            complain(f"  {line}")


def bench_votes(options: BenchOptions) -> int:
    """0 when everything was measured; 1 after an interruption or a failure, with a report on what there is."""
    if options.plot_asked:
        check_plots_possible()
    sets = [_question_set(name, options) for name in options.questions]
    store = SampleStore(options.store)
    run = VotesBenchmark(options, sets, store)
    problem: str | None = None
    try:
        asyncio.run(run.draw())
    except KeyboardInterrupt:
        interrupted()
        problem = "interrupted"
    except SwarmError as error:
        if not run.plans:
            raise
        problem = str(error)
    if problem is not None:
        kept = f" The same command continues from them ({options.store})." if options.store else ""
        complain(f"swarm: {one_line(problem)}; {len(store.samples)} samples were drawn.{kept}")
    findings = run.findings()
    if not findings:
        complain("swarm: no question has all of its samples yet: nothing to report")
        return 1
    publish(options, findings, run.notes, run.nodes)
    return 0 if problem is None else 1


class VotesBenchmark:
    """One run: the plans, once the endpoint has said which models it has, and notes on how it was asked."""

    def __init__(self, options: BenchOptions, sets: Sequence[QuestionSet], store: SampleStore) -> None:
        self._options = options
        self._sets = sets
        self._store = store
        self.plans: list[DrawPlan] = []
        self.notes: list[str] = []
        self.nodes: dict[str, tuple[str, str]] = {}  # by model of a node (MODEL@NODE) the node's id, and its content

    async def draw(self) -> None:
        """Plan, and draw what is missing. Raises SwarmError: a model is unknown, the endpoint went away, ..."""
        async with self._endpoints() as endpoints:
            source = "embedded" if self._options.embedded else next(iter(endpoints.values())).base
            plans = [
                DrawPlan(questions, source, tuple(endpoints), questions.samples, self._options.seed)
                for questions in self._sets
            ]
            first = plans[0].questions
            for model, endpoint in endpoints.items():
                note = await endpoint.settle(first.problems[0], model, first.max_tokens)
                self.notes += [note] if note not in self.notes else []
                if endpoint.node is not None:
                    self.nodes[model] = await endpoint.identity(model)
            self.plans = plans
            wanted = missing(plans, self._store)
            complain(
                clean_line(f"{sum(len(entry.keys) for entry in wanted)} samples of {', '.join(endpoints)} to draw")
            )
            with self._store.recording():
                await draw_samples(wanted, endpoints, self._options.parallel, self._store)
            for model, known in self.nodes.items():
                if await endpoints[model].identity(model) != known:
                    del self.nodes[model]
                    raise SwarmError(f"{model} is another model, or another node, than when this began: ask again")

    def findings(self) -> list[Findings]:
        """What the samples drawn so far say, one entry for each set of questions with a complete problem."""
        found: list[Findings] = []
        for plan in self.plans:
            answered = plan.answered(self._store.samples, self._options.strategy)
            if answered:
                complain(f"counting votes: {plan.questions.name}")
                found.append(measure(plan.questions, answered, plan.models, self._options.seed))
        return found

    @asynccontextmanager
    async def _endpoints(self) -> AsyncGenerator[dict[str, MeasuredEndpoint]]:
        """The endpoint to ask for each model, in the order of the models."""
        options = self._options
        async with AsyncExitStack() as stack:
            if options.embedded:
                models = _chosen(options.models, EMBEDDED_NAMES)
                yield await stack.enter_async_context(embedded_endpoints(models))
            elif options.nodes:
                found: dict[str, MeasuredEndpoint] = {}
                for node in options.nodes:
                    one = await stack.enter_async_context(MeasuredEndpoint(options.url, options.api_key, node))
                    wanted = [f"{model}@{node}" for model in options.models]
                    found |= dict.fromkeys(_chosen(wanted, await one.models_of_its_node()), one)
                yield found
            else:
                endpoint = await stack.enter_async_context(MeasuredEndpoint(options.url, options.api_key))
                yield dict.fromkeys(_chosen(options.models, await endpoint.models()), endpoint)


def _chosen(wanted: Sequence[str], offered: Sequence[str]) -> list[str]:
    """The models to ask. Raises UnknownModel for one that is not offered, SetupError for too many or none."""
    for model in wanted:
        if model not in offered:
            raise UnknownModel(model, tuple(offered))
    if not wanted and len(offered) > MAX_UNNAMED_MODELS:
        raise SetupError(f"the endpoint has {len(offered)} models: name those to ask with --models")
    if not wanted and not offered:
        raise SetupError("the endpoint has no model to ask")
    chosen = list(dict.fromkeys(wanted or offered))
    for model in chosen:
        if one_line(model) != model:  # the report is text, and what stands in it is to mean nothing else
            raise SetupError(
                f"the name of a model there is no plain text ({one_line(model)}): name others with --models"
            )
    return chosen


def _question_set(name: str, options: BenchOptions) -> QuestionSet:
    """The set called `name`, or in the file of that name, as the options want it asked."""
    if name in SHIPPED:
        questions = shipped_questions(name)
    elif name in PUBLIC_SETS:
        questions = public_questions(name)
    else:
        problems = read_questions(Path(name))
        questions = QuestionSet(Path(name).stem, problems, as_voted_on(problems), MAX_TOKENS, SAMPLES)
    return replace(
        questions,
        problems=questions.problems[: options.limit],
        temperature=questions.temperature if options.temperature is None else options.temperature,
        max_tokens=options.max_tokens or questions.max_tokens,
        samples=options.samples or questions.samples,
    )


def as_voted_on(problems: Sequence[Problem]) -> float:
    """The temperature that the seats behind the first have in votes on such questions; a middle one for a mixture."""
    by_kind = {SAMPLED_AT.get(problem.kind, DIVERSE_TEMPERATURE) for problem in problems}
    return by_kind.pop() if len(by_kind) == 1 else DIVERSE_TEMPERATURE


def publish(
    options: BenchOptions,
    findings: Sequence[Findings],
    notes: Sequence[str],
    nodes: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> None:
    """Write what the options ask for: the report (to standard output without a file), plots, JSON, weights.

    `nodes` has the id and the content of each model that one node alone was asked for.
    """
    at = f", asked of {' and '.join(options.nodes)} alone" if options.nodes else ""
    provenance = Provenance(
        command=options.command,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=program_version(),
        source="embedded models, each behind a node" if options.embedded else options.url + at,
        strategy=options.strategy,
        seed=options.seed,
        notes=tuple(notes),
    )
    plots: dict[str, str] = {}
    if options.plot is not None and (options.plot_asked or plots_are_possible()):
        plots = {title: link_from(options.report, path) for title, path in draw_plots(findings, options.plot).items()}
        complain(f"plots: {options.plot}")
    report = render_report(provenance, findings, plots)
    if options.report is None:
        say(report, end="")
    else:
        write_report(options.report, report)
    if options.json_file is not None:
        _write_json(options.json_file, provenance, findings)
    if options.weights_dir is not None:
        _save_weights(options.weights_dir, findings, nodes if options.nodes else None)


def _save_weights(
    folder: Path, findings: Sequence[Findings], nodes: Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Add what every model got right to the weights file, which a node reads when it starts.

    Where `nodes` alone were asked, it is theirs, and says nothing of their models elsewhere.
    """
    path = folder / WEIGHTS_FILE
    new: Measurements = {}
    for one in findings:
        new = merged(new, one.measured)
    of_nodes: NodeMeasurements = {}
    for model, (node_id, content) in (nodes or {}).items():
        of_nodes = merged_nodes(of_nodes, {node_id: {content: new.get(model, {})}})
    found: Sequence[Findings] = [] if nodes is not None else findings  # a cascade is of models
    cascades = {kind: one for each in found for kind, one in kept(each.cascades).items()}
    weights = add_weights(path, new if nodes is None else {}, of_nodes, cascade=cascades)
    for model, kinds in new.items():
        node_id, content = (nodes or {}).get(model, ("", ""))
        total = weights.models.get(model, {}) if nodes is None else weights.nodes.get(node_id, {}).get(content, {})
        counts = ", ".join(f"{kind} {total[kind].correct} of {total[kind].asked}" for kind in kinds if kind in total)
        complain(f"{path}: {model}: {counts}")
    for kind, one in cascades.items():
        agree = f"{100 * one.agreement:.0f} % of {one.votes} votes of {', '.join(one.small)}"
        complain(f"{path}: cascade, {kind}: {agree} stand, else {one.strong} answers")


def _write_json(path: Path, provenance: Provenance, findings: Sequence[Findings]) -> None:
    figures = {"provenance": asdict(provenance), "sets": [asdict(one) for one in findings]}
    try:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write --json {path}: {error.strerror}") from error
