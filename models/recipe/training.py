"""Training one model: seeded, by the clock or by tokens, resumable from its checkpoint.

The learning rate stays level and then falls in a line to zero at the end of the budget; copying settles in that fall.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (PyTorch declares its types only in part)

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from models.recipe.batches import Batch, batches_from
from models.recipe.muon import Muon
from models.recipe.network import Layer, Network, Shape

CHECKPOINT_EVERY_S = 60.0
REPORT_EVERY_STEPS = 50
GRADIENT_LIMIT = 1.0
MATRIX_RATE, OTHER_RATE = 0.02, 4e-3  # for Muon and for AdamW


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train and for how long: `minutes` of this machine, or `tokens` where that is set (then repeatable)."""

    seed: int
    minutes: float
    tokens: int | None = None
    row_tokens: int = 6144
    matrix_rate: float = MATRIX_RATE
    other_rate: float = OTHER_RATE
    weight_decay: float = 0.05
    warm_up: float = 0.01
    level_until: float = 0.35
    compiled: bool = True
    shape: Shape = field(default_factory=Shape)


@dataclass(slots=True)
class Progress:
    """How far training has come. `seconds` count training alone, over all its runs."""

    step: int = 0
    block: int = 0
    in_block: int = 0
    seconds: float = 0.0
    tokens: int = 0

    def share(self, plan: Plan) -> float:
        """0 at the start, 1 when the budget is used up."""
        done = self.seconds / (60 * plan.minutes) if plan.tokens is None else self.tokens / plan.tokens
        return min(1.0, done)


def rate_factor(share: float, plan: Plan) -> float:
    """The learning rate at this share of the budget, relative to its level."""
    if share < plan.warm_up:
        return share / plan.warm_up + 0.02
    return 1.0 if share < plan.level_until else max(0.0, (1.0 - share) / (1.0 - plan.level_until))


def optimizers_of(network: Network, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for embeddings, norms and biases."""
    matrices: list[Tensor] = []
    splits: list[int] = []
    for layer in network.layers:
        assert isinstance(layer, Layer)
        matrices += [layer.qkv, layer.out, layer.gate_up, layer.down]
        splits += [3, 1, 2, 1]
    inside = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in network.parameters() if id(parameter) not in inside]
    return [
        Muon(matrices, splits, lr=plan.matrix_rate, weight_decay=plan.weight_decay),
        torch.optim.AdamW(others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


class Training:
    """One model on its way. `checkpoint` is read when it exists and written every minute."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer, checkpoint: Path) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.tokenizer, self.checkpoint = plan, tokenizer, checkpoint
        self.network = Network(plan.shape)
        self.optimizers = optimizers_of(self.network, plan)
        self.base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.progress = Progress()
        if checkpoint.is_file():
            self._load()
        if plan.compiled:
            self.network.compile_parts()

    def _load(self) -> None:
        saved: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        if saved["seed"] != self.plan.seed:
            raise ValueError(
                f"{self.checkpoint} was trained with seed {saved['seed']}, not {self.plan.seed}: name another folder"
            )
        self.network.load_state_dict(saved["network"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.progress = Progress(**saved["progress"])

    def save(self) -> None:
        """Write the checkpoint in one move: a stop in between leaves the last one whole."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.checkpoint.with_suffix(".partial")
        state = {
            "seed": self.plan.seed,
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def step(self, batch: Batch) -> float:
        """One step; the mean loss of its targets."""
        factor = rate_factor(self.progress.share(self.plan), self.plan)
        for optimizer, rate in zip(self.optimizers, self.base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        logits = self.network(batch.tokens, batch.positions, batch.groups, batch.wanted)
        loss = functional.cross_entropy(logits, batch.answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_LIMIT)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def run(self) -> None:
        """Train until the budget is used up, reporting as JSON lines beside the checkpoint."""
        progress = self.progress
        source = batches_from(self.tokenizer, self.plan.seed, self.plan.row_tokens, progress.block, progress.in_block)
        saved_s = last_s = time.monotonic()
        losses: list[float] = []
        while progress.share(self.plan) < 1.0:
            block, at, batch = next(source)
            losses.append(self.step(batch))
            now_s = time.monotonic()
            progress.seconds += now_s - last_s
            last_s = now_s
            progress.step, progress.block, progress.in_block = progress.step + 1, block, at + 1
            progress.tokens += sum(group.rows * group.length for group in batch.groups)
            if progress.step % REPORT_EVERY_STEPS == 0:
                self._report(sum(losses) / len(losses))
                losses.clear()
            if now_s - saved_s > CHECKPOINT_EVERY_S:
                self.save()
                saved_s = now_s
        self.save()

    def _report(self, loss: float) -> None:
        line = {**asdict(self.progress), "loss": round(loss, 4), "share": round(self.progress.share(self.plan), 4)}
        with self.checkpoint.with_suffix(".jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
