"""Make the embedded models anew: tokenizer, training, export, evaluation, model card, for all siblings.

    python -m models.recipe.build --minutes 60              resumes from its checkpoints
    python -m models.recipe.build --smoke --out FOLDER      the same in two minutes; the models know nothing

A model that is there and evaluates better is left in place; --force replaces it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models.recipe.abilities.facts import all_facts
from models.recipe.evaluation import Measured, as_json, measure, quality, report, siblings_together
from models.recipe.export_hugging_face import export_hugging_face
from models.recipe.model_card import model_card
from models.recipe.network import Network, Shape
from models.recipe.replacing import may_replace, shipped_quality
from models.recipe.siblings import MAIN, SEEDS, file_stem
from models.recipe.tokenizer_check import different_strings
from models.recipe.tokenizer_training import cached_tokenizer
from models.recipe.train_one import train_one
from models.recipe.training import Plan
from models.recipe.training_record import TrainingRecord

SHIPPED = Path(__file__).parents[1] / "demo"
SMOKE_TOKENS = 60_000  # ten steps a sibling: a few seconds
SMOKE_SCALE = 0.01


@dataclass(frozen=True, slots=True)
class Built:
    """One sibling as trained (`gguf` beside its checkpoint) and measured."""

    record: TrainingRecord
    gguf: Path
    measured: Measured
    network: Network

    @property
    def name(self) -> str:
        return self.record.name


def build_one(name: str, plan: Plan, checkpoints: Path, threads: int, scale: float) -> Built:
    """Train and measure one sibling."""
    training = train_one(name, checkpoints, plan)
    gguf = checkpoints / f"{file_stem(name)}.gguf"
    different = different_strings(gguf, training.tokenizer)
    if different:
        raise RuntimeError(f"{gguf}: the engine cuts {len(different)} strings differently, one is {different[0]!r}")
    measured = asyncio.run(measure(gguf, threads, scale))
    weights = sum(parameter.numel() for parameter in training.network.parameters())
    done = training.progress
    record = TrainingRecord(name, plan.seed, weights, done.seconds, done.step, done.tokens)
    return Built(record, gguf, measured, training.network)


def install(built: Built, checkpoints: Path, out: Path, force: bool) -> bool:
    """Put the model into `out`; False where the one there is better."""
    old, new = shipped_quality(out, built.name), quality(built.measured)
    if not may_replace(old, new, force):
        sys.stderr.write(
            f"{built.name}: kept the model in {out}, it evaluates better ({old:.3f} against {new:.3f}); "
            "--force replaces it\n"
        )
        return False
    out.mkdir(parents=True, exist_ok=True)
    stem = file_stem(built.name)
    shutil.copyfile(built.gguf, out / f"{stem}.gguf")
    (out / f"{stem}.figures.json").write_text(
        json.dumps(as_json(built.measured, {}), indent=1) + "\n", encoding="utf-8"
    )
    if built.name == MAIN:
        export_hugging_face(built.network, cached_tokenizer(checkpoints / "tokenizer.json"), out / "hf")
    return True


def build(names: list[str], plan: Plan, checkpoints: Path, out: Path, threads: int, scale: float, force: bool) -> bool:
    """Everything, for all `names`. False where a better model was kept."""
    torch.set_num_threads(threads)
    made = [build_one(name, replace(plan, seed=SEEDS[name]), checkpoints, threads, scale) for name in names]
    installed = [install(built, checkpoints, out, force) for built in made]
    together = siblings_together([built.measured for built in made]) if len(made) > 1 else {}
    figures = report(made[0].measured, together)
    (out / "figures.md").write_text(figures, encoding="utf-8")
    machine = f"{threads} threads of a {platform.machine()} CPU"
    card = model_card(
        figures,
        [built.record for built in made],
        facts=len(all_facts()),
        size_bytes=made[0].gguf.stat().st_size,
        context=plan.shape.context_tokens,
        machine=machine,
    )
    (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    summary: dict[str, Any] = as_json(made[0].measured, together)
    (out / "figures.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return all(installed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="training time of each sibling")
    parser.add_argument("--tokens", type=int, help="tokens of each sibling instead: repeatable on any machine")
    parser.add_argument("--only", choices=list(SEEDS), action="append", help="not all three; may be given again")
    parser.add_argument("--checkpoints", type=Path, default=Path("recipe-checkpoints"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="the whole way with almost no training")
    parser.add_argument("--force", action="store_true", help="replace models that evaluate better")
    arguments = parser.parse_args()
    plan = Plan(seed=SEEDS[MAIN], minutes=arguments.minutes, tokens=arguments.tokens)
    scale, checkpoints = 1.0, arguments.checkpoints
    if arguments.smoke:
        if arguments.out == SHIPPED:
            parser.error("--smoke makes models that know nothing: name another folder with --out")
        plan = replace(plan, tokens=SMOKE_TOKENS, compiled=False, shape=Shape(layers=2))
        scale, checkpoints = SMOKE_SCALE, arguments.out / "checkpoints"
    names = arguments.only or list(SEEDS)
    done = build(names, plan, checkpoints, arguments.out, arguments.threads, scale, arguments.force)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
