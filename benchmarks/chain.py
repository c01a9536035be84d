"""Chains of voted tool calls: how many are right in a row, each a request of its own with a fresh context.

    swarm bench votes --embedded --models demo --questions tools --samples 40 --store tools.jsonl   # once, 15 minutes
    python benchmarks/chain.py --store tools.jsonl [--plot docs/figures/chain-length.svg] [--live 20]

A step is one question, drawn by chance; a chain is right where every step is. The votes of a step are held again over
samples drawn before, in orders drawn by chance, counted and ended by the product's own code: one vote; the majority of
5, which asks 3 first; and the first answer to be ahead by k, where a step that stays undecided is wrong. Twice: with
samples alone, and with the greedy answer in the first seat, as a node holds votes that nobody gave a temperature.

Over all questions, and over those whose commonest answer is right: these are chosen by one half of each question's
samples and measured on the other half, both ways round. No vote takes a sample twice, so a race has half of the
samples at most. Beside each stands the formula of arXiv 2511.09030 with the share of single answers that are right on
the same questions: the right share of votes that err independently, every question alike. Intervals are 95 %
bootstrap intervals over questions.

`--live N` asks a real node N chains of 10, ahead by 3, and shows the same questions replayed beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm.commands.bench_endpoint import WHOLE_DISTRIBUTION, embedded_endpoints
from swarm.consensus.options import Strategy
from swarm.errors import SwarmError
from swarm.evaluation.early_stop import stop_vote
from swarm.evaluation.intervals import Estimate, mean_difference, mean_of, ratio_of_sums
from swarm.evaluation.plots import STYLE, pyplot_or_refusal
from swarm.evaluation.questions import Problem, QuestionSet, shipped_questions
from swarm.evaluation.race import race_vote
from swarm.evaluation.replay import dice_for, vote
from swarm.evaluation.samples import Answered, DrawPlan, GradedAnswer, read_samples
from swarm.generation import Candidate, ToolCall
from tests.doubles.clients import Client, connect

ORDERS = 100  # of each question's samples, for every rule
MOST = 20  # votes of a race: half of 40 samples, so that none is drawn twice
SEED = 20_261_130
LENGTHS = {"all": (10,), "right": (10, 100, 1000)}
NAMES = {"all": "all questions", "right": "questions whose commonest answer is right"}
BANDS = ("one vote", "ahead by 3")  # whose intervals are drawn: more would hide each other
LIVE_STEPS, LIVE_AHEAD = 10, 3
COMMAND = "swarm bench votes --embedded --models demo --questions tools --samples 40 --store FILE"

Said = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a step is voted on: by so many `votes`, or until one answer is `ahead` by so many."""

    name: str
    votes: int = 1
    ahead: int | None = None

    def formula(self, right: float) -> float:
        """The share of right votes where each answer is with `right`, independently, and all wrong ones agree."""
        wrong = 1 - right
        if self.ahead is not None:
            return 0.0 if not right else 1 / (1 + (wrong / right) ** self.ahead)
        half = self.votes // 2
        return sum(
            math.comb(self.votes, k) * right**k * wrong ** (self.votes - k) for k in range(half + 1, self.votes + 1)
        )


RULES = (
    Rule("one vote"),
    Rule("majority of 5", votes=5),
    Rule("ahead by 2", ahead=2),
    Rule("ahead by 3", ahead=3),
    Rule("ahead by 5", ahead=5),
)
# Which share of chains is to be right at least: of which questions, by which rule, how long.
TARGETS = {("all", "ahead by 3", 10): 0.78, ("right", "ahead by 3", 100): 0.65, ("right", "ahead by 5", 100): 0.85}


@dataclass(frozen=True, slots=True)
class Step:
    """Means over votes on one question: right ones, those that ended undecided (and count as wrong), votes asked."""

    right: float
    undecided: float
    asked: float


def hold(
    rule: Rule, one: Answered, answers: Sequence[GradedAnswer], held: dict[tuple[Said, ...], Step] | None = None
) -> Step:
    """One vote on one question; `answers` in the order in which they are asked for, as many as it may take.

    `held` are the votes so far, by what those asked had said: another one that begins so ends so.
    """
    known = {} if held is None else held
    wave = rule.ahead or rule.votes // 2 + 1
    answers = [*sorted(answers[:wave], key=_said), *answers[wave:]]  # of who is asked together nobody is first
    said = tuple(map(_said, answers))
    for asked in range(rule.ahead or rule.votes, len(said) + 1):
        if (step := known.get(said[:asked])) is not None:
            return step
    if rule.ahead is None:
        seats = answers[: rule.votes]
        stopped = stop_vote(one.question, seats, range(len(seats)))
        step = Step(vote(one, seats).right, 0.0, len(seats) - stopped.never_asked)
        known[said[: rule.votes]] = step
    else:
        race = race_vote(one.question, answers, rule.ahead)
        step = Step(race.decided and vote(one, race.asked).right, not race.decided, len(race.asked))
        known[said[: len(race.asked)]] = step
    return step


def step_on(
    rule: Rule, one: Answered, pool: Sequence[GradedAnswer], first: GradedAnswer | None, most: int, orders: int
) -> Step:
    """The mean over so many `orders` of the samples in `pool`; `first` has the first seat, if it is given."""
    if rule.votes == 1 and rule.ahead is None:
        return Step(sum(answer.right for answer in pool) / len(pool) if first is None else first.right, 0.0, 1.0)
    lead = [] if first is None else [first]
    everybody = [*lead, *pool]
    if len({_said(answer) for answer in everybody}) == 1:  # every order is the same, and as short as it can be
        return hold(rule, one, everybody[:most])
    dice = dice_for(SEED, one.problem.key, rule.name, first is None)
    known: dict[tuple[Said, ...], Step] = {}
    seats = rule.votes if rule.ahead is None else most
    held = [hold(rule, one, [*lead, *dice.sample(pool, seats - len(lead))], known) for _ in range(orders)]
    return Step(*(sum(values) / len(held) for values in zip(*map(_figures, held), strict=True)))


def _said(answer: GradedAnswer) -> Said:
    candidate = answer.candidate
    return (candidate.text, *(part for call in candidate.tool_calls for part in (call.name, call.arguments)))


def _figures(step: Step) -> tuple[float, float, float]:
    return step.right, step.undecided, step.asked


@dataclass(frozen=True, slots=True)
class Row:
    """One rule over one choice of questions. `chains`: the share that is right, by length; `formula`: as it has it."""

    rule: str
    first_greedy: bool
    right: Estimate
    undecided: Estimate
    asked: Estimate
    chains: Mapping[int, Estimate]
    formula: Mapping[int, float] | None


@dataclass(frozen=True, slots=True)
class Chains:
    """Every rule over one choice of questions; `one`: the share of single samples that are right."""

    questions: str
    count: float
    one: float
    rows: tuple[Row, ...]


def halves_of(answers: Sequence[GradedAnswer]) -> tuple[Sequence[GradedAnswer], Sequence[GradedAnswer]]:
    """The samples in two halves, drawn alike."""
    half = len(answers) // 2
    return answers[:half], answers[half : 2 * half]


def measured_on(one: Answered, model: str, questions: str) -> list[Sequence[GradedAnswer]]:
    """The samples on which this question is measured; none where it is not among those `questions`."""
    answers = one.samples[model]
    if questions == "all":
        return [answers]
    one_half, other = halves_of(answers)
    return [pool for chosen_by, pool in ((one_half, other), (other, one_half)) if vote(one, chosen_by).right]


def chains_of(answered: Sequence[Answered], model: str, questions: str, most: int, orders: int) -> Chains:
    """Every rule over those of the questions ("all", or those whose commonest answer is "right")."""
    pools = [measured_on(one, model, questions) for one in answered]
    counts = [float(len(several)) for several in pools]
    single = [sum(sum(a.right for a in pool) / len(pool) for pool in several) for several in pools]
    p = sum(single) / sum(counts)
    rows: list[Row] = []
    for first_greedy in (False, True):
        for rule in RULES:
            steps = [
                [
                    step_on(rule, one, pool, one.greedy[model] if first_greedy else None, most, orders)
                    for pool in several
                ]
                for one, several in zip(answered, pools, strict=True)
            ]
            right, undecided, asked = (
                ratio_of_sums([sum(_figures(step)[at] for step in several) for several in steps], counts)
                for at in range(3)
            )
            lengths = LENGTHS[questions]
            rows.append(
                Row(
                    rule="the greedy answer" if first_greedy and rule.votes == 1 and rule.ahead is None else rule.name,
                    first_greedy=first_greedy,
                    right=right,
                    undecided=undecided,
                    asked=asked,
                    chains={length: in_a_row(right, length) for length in lengths},
                    formula=None if first_greedy else {length: rule.formula(p) ** length for length in lengths},
                )
            )
    return Chains(questions, sum(counts) / (1 if questions == "all" else 2), p, tuple(rows))


def in_a_row(right: Estimate, length: int) -> Estimate:
    """The share of chains of that length whose steps, each drawn by chance, are all right."""
    return Estimate(right.value**length, right.low**length, right.high**length)


def stored(path: Path, questions: QuestionSet, model: str) -> list[Answered]:
    """The questions with all their samples of `model`. Raises SwarmError where there are none, or several draws."""
    drawn = {key: sample for key, sample in read_samples(path).items() if key.model == model}
    wanted = {problem.key for problem in questions.problems}
    sampled = [key for key in drawn if key.problem in wanted and key.temperature]
    draws = {(key.source, key.temperature, key.max_tokens, key.seed) for key in sampled}
    if len(draws) != 1:
        raise SwarmError(f"{path} has {len(draws)} draws of {model} on {questions.name}, not one: {COMMAND}")
    [(source, temperature, max_tokens, seed)] = draws
    asked = QuestionSet(questions.name, questions.problems, temperature, max_tokens, 0)
    samples = max(key.index for key in sampled) + 1
    found = DrawPlan(asked, source, (model,), samples, seed).answered(drawn, Strategy.MAJORITY)
    if not found:
        raise SwarmError(f"{path} has no question with all of its {samples} samples: let the drawing go on")
    return found


def table(chains: Chains) -> list[str]:
    """Every rule, a row each, as Markdown."""
    lengths = LENGTHS[chains.questions]
    heads = ["rule", "first seat", "right a call", "wrong", "undecided", "votes a call"]
    heads += [head for length in lengths for head in (f"{length:,} in a row", "formula")]
    lines = [
        f"{NAMES[chains.questions]}: {chains.count:g}; one sample is right {100 * chains.one:.1f} times in 100",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in chains.rows:
        cells = [row.rule, "greedy" if row.first_greedy else "sample", percent(row.right, 2)]
        wrong = max(0.0, 1 - row.right.value - row.undecided.value)
        cells += [f"{100 * wrong:.2f} %", f"{100 * row.undecided.value:.2f} %", f"{row.asked.value:.2f}"]
        for length in lengths:
            cells += [percent(row.chains[length]), "" if row.formula is None else f"{100 * row.formula[length]:.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def percent(share: Estimate, digits: int = 1) -> str:
    low, high = (f"{100 * end:.{digits}f}" for end in (share.low, share.high))
    return f"{100 * share.value:.{digits}f} % ({low} to {high})"


def verdicts(measured: Sequence[Chains]) -> list[tuple[str, bool]]:
    """Each target in words, and whether it is met, with samples alone and with the greedy answer first."""
    found: list[tuple[str, bool]] = []
    for chains in measured:
        for row in chains.rows:
            for length in LENGTHS[chains.questions]:
                target = TARGETS.get((chains.questions, row.rule, length))
                if target is not None:
                    got, first = row.chains[length], "greedy" if row.first_greedy else "sample"
                    met = got.value >= target
                    words = f"{length} in a row, {row.rule}, first seat {first}, {NAMES[chains.questions]}"
                    found.append(
                        (f"{words}: {percent(got)}, at least {100 * target:.0f} %: {'met' if met else 'MISSED'}", met)
                    )
    return found


def draw(measured: Sequence[Chains], path: Path) -> None:
    """The share of right chains against their length, the formula's line dashed, a panel for each choice of questions.

    Raises SwarmError without matplotlib.
    """
    pyplot = pyplot_or_refusal()
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(1, len(measured), figsize=(5.2 * len(measured), 4.0), layout="constrained")
        for panel, chains in zip(axes, measured, strict=True):
            longest = 100 if chains.questions == "all" else 1000
            lengths = sorted({round(10 ** (exponent / 12)) for exponent in range(round(12 * math.log10(longest)) + 1)})
            for rule, row in zip(RULES, chains.rows, strict=False):  # samples alone: what the formula speaks of
                right = [100 * row.right.value**length for length in lengths]
                [line] = panel.plot(lengths, right, label=rule.name)
                if rule.name in BANDS:
                    low, high = ([100 * end**length for length in lengths] for end in (row.right.low, row.right.high))
                    panel.fill_between(lengths, low, high, alpha=0.12, color=line.get_color(), linewidth=0)
                formula = [100 * rule.formula(chains.one) ** length for length in lengths]
                panel.plot(lengths, formula, "--", linewidth=1, color=line.get_color())
            panel.set_xscale("log")
            ticks = [10**exponent for exponent in range(round(math.log10(longest)) + 1)]
            panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            panel.set_ylim(0, 102)
            panel.set_xlabel("calls in a row (dashed: the formula)")
            panel.set_ylabel("chains right, %")
            panel.set_title(
                "all questions" if chains.questions == "all" else "questions whose commonest answer is right"
            )
            panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


@dataclass(frozen=True, slots=True)
class Call:
    """One step as a node answered it."""

    right: bool
    undecided: bool
    asked: int


@dataclass(frozen=True, slots=True)
class Live:
    """Real chains beside the replay of the same questions: right steps, votes a call, and by how much they differ."""

    chains: int
    chains_right: int
    undecided: int
    right: Estimate
    replayed_right: Estimate
    right_difference: Estimate
    asked: Estimate
    replayed_asked: Estimate
    asked_difference: Estimate


async def live_chains(
    answered: Sequence[Answered], model: str, chains: int, most: int, orders: int, steps_each: int = LIVE_STEPS
) -> Live:
    """So many chains of so many calls each, asked of a node of this process, with the sampling of the samples.

    Raises SwarmError.
    """
    dice = random.Random(SEED)
    dealt = [dice.choices(answered, k=steps_each) for _ in range(chains)]
    calls: list[list[Call]] = []
    async with embedded_endpoints([model]) as endpoints, connect(endpoints[model].base) as client:
        for number, steps in enumerate(dealt):
            asked = [
                await ask(client, one.problem, model, SEED + number * steps_each + at, most)
                for at, one in enumerate(steps)
            ]
            calls.append(asked)
            said = "".join("." if call.right else "u" if call.undecided else "x" for call in asked)
            print(
                f"  chain {number + 1}: {said}  {sum(call.asked for call in asked) / steps_each:.1f} votes a call",
                file=sys.stderr,
            )
    rule = next(rule for rule in RULES if rule.ahead == LIVE_AHEAD)
    known = {one.problem.key: step_on(rule, one, one.samples[model], None, most, orders) for one in answered}
    flat = [call for asked in calls for call in asked]
    replayed = [known[one.problem.key] for steps in dealt for one in steps]
    right, asked = [float(call.right) for call in flat], [float(call.asked) for call in flat]
    return Live(
        chains=chains,
        chains_right=sum(all(call.right for call in asked) for asked in calls),
        undecided=sum(call.undecided for call in flat),
        right=mean_of(right),
        replayed_right=mean_of([step.right for step in replayed]),
        right_difference=mean_difference(right, [step.right for step in replayed]),
        asked=mean_of(asked),
        replayed_asked=mean_of([step.asked for step in replayed]),
        asked_difference=mean_difference(asked, [step.asked for step in replayed]),
    )


async def ask(client: Client, problem: Problem, model: str, seed: int, most: int) -> Call:
    """One step, a request of its own: a vote until one answer is ahead. Raises SwarmError where it is refused."""
    body: dict[str, Any] = {
        "model": model,
        "messages": problem.messages,
        "tools": [tool.model_dump(exclude_none=True) for tool in problem.asked.tools],
        "temperature": 1.0,
        "max_tokens": 256,
        "seed": seed,
        "swarm": {"stop": {"ahead": LIVE_AHEAD, "max_votes": most}},
        **WHOLE_DISTRIBUTION,
    }
    if problem.asked.tool_choice is not None:
        body["tool_choice"] = problem.asked.tool_choice
    reply = await client.post("/chat/completions", body)
    if reply.status != 200:
        raise SwarmError(reply.text)
    message, account = reply.json["choices"][0]["message"], reply.json["swarm"]
    calls = enumerate(message.get("tool_calls") or ())
    answer = Candidate(
        voter="asked",
        text=message["content"] or "",
        tool_calls=tuple(
            ToolCall(id=str(at), name=call["function"]["name"], arguments=call["function"]["arguments"])
            for at, call in calls
        ),
        finish_reason=reply.json["choices"][0]["finish_reason"],
    )
    undecided = account["outcome"] == "undecided"
    return Call(not undecided and problem.is_right(answer), undecided, account["asked"])


def live_lines(live: Live) -> list[str]:
    def beside(got: Estimate, replayed: Estimate, difference: Estimate, scale: float, unit: str) -> str:
        low, high = scale * difference.low, scale * difference.high
        return (
            f"{scale * got.value:.2f}{unit}, replayed {scale * replayed.value:.2f}{unit}: "
            f"{scale * difference.value:+.2f} ({low:+.2f} to {high:+.2f})"
        )

    return [
        f"{live.chains} chains of {LIVE_STEPS} asked of a node, ahead by {LIVE_AHEAD}: {live.chains_right} right, "
        f"{live.undecided} calls undecided",
        f"  right a call: {beside(live.right, live.replayed_right, live.right_difference, 100, ' %')}",
        f"  votes a call: {beside(live.asked, live.replayed_asked, live.asked_difference, 1, '')}",
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True, metavar="FILE", help=f"samples: {COMMAND}")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--max-votes", type=int, default=MOST, metavar="N", help=f"of a race (default {MOST})")
    parser.add_argument(
        "--orders", type=int, default=ORDERS, metavar="N", help=f"of each question's samples ({ORDERS})"
    )
    parser.add_argument("--live", type=int, default=0, metavar="N", help=f"ask a node N chains of {LIVE_STEPS}, too")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    try:
        answered = stored(options.store, shipped_questions("tools"), options.model)
        samples = len(answered[0].samples[options.model])
        if not max(rule.votes for rule in RULES) <= options.max_votes <= samples // 2:
            parser.error(f"--max-votes {options.max_votes}: use 5 to {samples // 2}, half of the {samples} samples")
        measured = [chains_of(answered, options.model, name, options.max_votes, options.orders) for name in NAMES]
        for chains in measured:
            print(*table(chains), sep="\n")
        told = verdicts(measured)
        print(*(words for words, _ in told), sep="\n")
        if options.plot is not None:
            draw(measured, options.plot)
        live = None
        if options.live:
            live = asyncio.run(live_chains(answered, options.model, options.live, options.max_votes, options.orders))
            print("", *live_lines(live), sep="\n")
    except SwarmError as error:
        parser.error(str(error))
    if options.json is not None:
        figures = {"questions": len(answered), "samples": samples, "max_votes": options.max_votes}
        rows = {"chains": [asdict(chains) for chains in measured], "live": None if live is None else asdict(live)}
        options.json.write_text(json.dumps({**figures, **rows}, indent=1) + "\n", encoding="utf-8")
    return int(not all(met for _, met in told))


if __name__ == "__main__":
    sys.exit(main())
