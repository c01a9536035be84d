"""Train one sibling from its checkpoint or from the start, then export it. `build` does this for all of them.

python -m models.recipe.train_one demo --minutes 60 --checkpoints FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from models.recipe.export_gguf import export_gguf
from models.recipe.siblings import SEEDS, file_stem
from models.recipe.tokenizer_training import cached_tokenizer
from models.recipe.training import MATRIX_RATE, OTHER_RATE, Plan, Training


def train_one(name: str, checkpoints: Path, plan: Plan) -> Training:
    """The sibling `name`, trained until the plan's budget is used up; exported beside its checkpoint."""
    tokenizer = cached_tokenizer(checkpoints / "tokenizer.json")
    stem = file_stem(name)
    training = Training(plan, tokenizer, checkpoints / f"{stem}.pt")
    training.run()
    export_gguf(training.network, tokenizer, checkpoints / f"{stem}.gguf", name)
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=60.0, help="training time in all, earlier runs included")
    parser.add_argument("--tokens", type=int, help="a budget in tokens instead: the same result everywhere")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matrix-rate", type=float, default=MATRIX_RATE)
    parser.add_argument("--other-rate", type=float, default=OTHER_RATE)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # tiny numbers cost a hundred times as much
    plan = Plan(
        seed=SEEDS[arguments.name],
        minutes=arguments.minutes,
        tokens=arguments.tokens,
        matrix_rate=arguments.matrix_rate,
        other_rate=arguments.other_rate,
    )
    training = train_one(arguments.name, arguments.checkpoints, plan)
    sys.stdout.write(json.dumps({"steps": training.progress.step, "tokens": training.progress.tokens}) + "\n")


if __name__ == "__main__":
    main()
