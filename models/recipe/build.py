"""Make the embedded models anew: tokenizer, training, export, evaluation, model card, for all siblings.

    python -m models.recipe.build --minutes 60              resumes from its checkpoints
    python -m models.recipe.build --smoke --out FOLDER      the same in two minutes; the models know nothing

The siblings are trained side by side, each in a process of its own: what one thread of Python and PyTorch leaves idle
the others use. A model that is there and evaluates better is left in place; --force replaces it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from models.recipe.abilities.facts import all_facts
from models.recipe.evaluation import Measured, as_json, measure, quality, report, siblings_together
from models.recipe.export_hugging_face import export_hugging_face
from models.recipe.model_card import model_card
from models.recipe.replacing import may_replace, shipped_quality
from models.recipe.siblings import MAIN, SEEDS
from models.recipe.tokenizer_check import different_strings
from models.recipe.tokenizer_training import cached_tokenizer
from models.recipe.train_one import TOKENIZER_FILE, Budget, add_budget, load_training
from models.recipe.training import Training
from models.recipe.training_record import TrainingRecord
from swarm.registry.embedded import CHECKSUMS_FILE, file_stem

SHIPPED = Path(__file__).parents[1] / "demo"
SMOKE_SCALE = 0.01


@dataclass(frozen=True, slots=True)
class Built:
    """One sibling as trained (`gguf` beside its checkpoint) and measured."""

    name: str
    training: Training
    gguf: Path
    measured: Measured

    def record(self) -> TrainingRecord:
        weights = sum(parameter.numel() for parameter in self.training.network.parameters())
        done = self.training.progress
        return TrainingRecord(self.name, self.training.plan.seed, weights, done.seconds, done.step, done.tokens)


def train_side_by_side(names: list[str], budget: Budget, checkpoints: Path, threads: int) -> None:
    """Train all `names` at the same time. Raises CalledProcessError when one fails, and stops the others."""
    cached_tokenizer(checkpoints / TOKENIZER_FILE)  # once, before all of them want it
    # Threads that wait for work must not spin: there are more of them than cores.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    shared = ["--checkpoints", str(checkpoints), "--threads", str(max(1, threads // len(names)))]
    command = [sys.executable, "-m", "models.recipe.train_one"]
    running = [
        subprocess.Popen([*command, name, *budget.options(), *shared], env=environment, cwd=SHIPPED.parents[1])
        for name in names
    ]
    try:
        for process in running:
            if process.wait() != 0:
                raise subprocess.CalledProcessError(process.returncode, process.args)
    finally:
        for process in running:
            process.terminate()
            process.wait()


def examine(name: str, budget: Budget, checkpoints: Path, threads: int, scale: float) -> Built:
    """The trained sibling, checked against the engine's tokenizer and measured."""
    training = load_training(name, checkpoints, budget)
    gguf = checkpoints / f"{file_stem(name)}.gguf"
    different = different_strings(gguf, training.tokenizer)
    if different:
        raise RuntimeError(f"{gguf}: the engine cuts {len(different)} strings differently, one is {different[0]!r}")
    return Built(name, training, gguf, asyncio.run(measure(gguf, threads, scale, with_votes=name == MAIN)))


def worse(built: list[Built], out: Path) -> list[str]:
    """What speaks against putting the models into `out`: those that are there and evaluate better."""
    reasons: list[str] = []
    for each in built:
        old, new = shipped_quality(out, each.name), quality(each.measured)
        if old is not None and not may_replace(old, new):
            reasons.append(f"{each.name}: the model in {out} evaluates better ({old:.3f} against {new:.3f})")
    return reasons


def install(built: list[Built], out: Path) -> None:
    """Put models, figures and card into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for each in built:
        stem = file_stem(each.name)
        shutil.copyfile(each.gguf, out / f"{stem}.gguf")
        _write_json(out / f"{stem}.figures.json", as_json(each.measured, {}))
        if each.name == MAIN:
            export_hugging_face(each.training.network, each.training.tokenizer, out / "hf")
    _write_checksums(out)
    if len(built) < len(SEEDS):
        return  # the tables are about all of them together
    together = siblings_together([each.measured for each in built])
    figures = report(built[0].measured, together)
    (out / "figures.md").write_text(figures, encoding="utf-8")
    _write_json(out / "figures.json", as_json(built[0].measured, together))
    card = model_card(
        figures,
        [each.record() for each in built],
        facts=len(all_facts()),
        size_bytes=built[0].gguf.stat().st_size,
        context=built[0].training.plan.shape.context_tokens,
        machine=f"{os.cpu_count()} cores of a {platform.machine()} processor, side by side",
    )
    (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_checksums(folder: Path) -> None:
    """What a node compares a model with before it loads it."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.gguf"))
    ]
    (folder / CHECKSUMS_FILE).write_text("".join(lines), encoding="ascii")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_budget(parser)
    parser.add_argument("--only", choices=list(SEEDS), action="append", help="not all three; may be given again")
    parser.add_argument("--checkpoints", type=Path, default=Path("recipe-checkpoints"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--force", action="store_true", help="replace models that evaluate better")
    arguments = parser.parse_args()
    budget = Budget(arguments.minutes, arguments.tokens, arguments.smoke)
    scale, checkpoints = 1.0, arguments.checkpoints.resolve()
    if arguments.smoke:
        if arguments.out == SHIPPED:
            parser.error("--smoke makes models that know nothing: name another folder with --out")
        scale, checkpoints = SMOKE_SCALE, arguments.out.resolve() / "checkpoints"
    names = arguments.only or list(SEEDS)
    train_side_by_side(names, budget, checkpoints, arguments.threads)
    built = [examine(name, budget, checkpoints, arguments.threads, scale) for name in names]
    reasons = [] if arguments.force else worse(built, arguments.out)
    if reasons:
        sys.stderr.write("\n".join([*reasons, "nothing was replaced; --force replaces them all"]) + "\n")
        return 1
    install(built, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
