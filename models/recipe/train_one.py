"""Train one sibling from its checkpoint or from the start, then export it. `build` does this for all of them at once.

python -m models.recipe.train_one demo --minutes 60 --checkpoints FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from models.recipe.export_gguf import export_gguf
from models.recipe.network import Shape
from models.recipe.siblings import SEEDS
from models.recipe.tokenizer_training import cached_tokenizer
from models.recipe.training import Plan, Training
from swarm.registry.embedded import file_stem

SMOKE_TOKENS = 60_000  # ten steps: a few seconds
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: minutes by the clock, or tokens where the same result is wanted again; or hardly at all."""

    minutes: float
    tokens: int | None = None
    smoke: bool = False

    def plan(self, name: str) -> Plan:
        """What that means for the sibling `name`."""
        if self.smoke:
            return Plan(SEEDS[name], self.minutes, SMOKE_TOKENS, compiled=False, shape=Shape(layers=2))
        return Plan(SEEDS[name], self.minutes, self.tokens)

    def options(self) -> list[str]:
        """The same on a command line."""
        options = ["--minutes", str(self.minutes)]
        options += [] if self.tokens is None else ["--tokens", str(self.tokens)]
        return [*options, "--smoke"] if self.smoke else options


def load_training(name: str, checkpoints: Path, budget: Budget) -> Training:
    """The sibling `name` as far as its checkpoint in `checkpoints` has come."""
    tokenizer = cached_tokenizer(checkpoints / TOKENIZER_FILE)
    return Training(budget.plan(name), tokenizer, checkpoints / f"{file_stem(name)}.pt")


def train_one(name: str, checkpoints: Path, budget: Budget) -> Training:
    """The sibling `name`, trained until the budget is used up; exported beside its checkpoint."""
    training = load_training(name, checkpoints, budget)
    training.run()
    export_gguf(training.network, training.tokenizer, checkpoints / f"{file_stem(name)}.gguf", name)
    return training


def add_budget(parser: argparse.ArgumentParser) -> None:
    """The options that `Budget` is made from."""
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, earlier runs included")
    parser.add_argument("--tokens", type=int, help="a budget in tokens instead: repeatable on any machine")
    parser.add_argument("--smoke", action="store_true", help="the whole way with almost no training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SEEDS))
    add_budget(parser)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # tiny numbers cost a hundred times as much
    budget = Budget(arguments.minutes, arguments.tokens, arguments.smoke)
    progress = train_one(arguments.name, arguments.checkpoints, budget).progress
    sys.stdout.write(json.dumps({"name": arguments.name, "steps": progress.step, "tokens": progress.tokens}) + "\n")


if __name__ == "__main__":
    main()
