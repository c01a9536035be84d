"""Muon: momentum whose matrices are made orthogonal before they are applied.

For matrices inside a network it needs about half the tokens of AdamW. Embeddings, norms and biases stay with AdamW.
Source: https://kellerjordan.github.io/posts/muon/ (coefficients and Nesterov form are from there).
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (PyTorch declares its types only in part)

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from models.recipe.precision import PRODUCT

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonal(batch: Tensor) -> Tensor:
    """Each matrix of `batch` (n, rows >= columns) with its singular values brought near one."""
    a, b, c = COEFFICIENTS
    x = batch.to(PRODUCT)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x.mT @ x
        x = a * x + x @ (b * square + c * (square @ square))
    return x.float()


class Muon(torch.optim.Optimizer):
    """`parameters` are 2-D; `splits` says of how many equal matrices, one below the other, each one is made."""

    def __init__(
        self, parameters: list[Tensor], splits: list[int], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._splits = splits

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        group = self.param_groups[0]
        rate, momentum = group["lr"], group["momentum"]
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, split in zip(group["params"], self._splits, strict=True):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            buffer = state.setdefault("momentum", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - momentum)
            update = parameter.grad.lerp(buffer, momentum)
            parameter.mul_(1 - rate * group["weight_decay"])
            for part, change in zip(parameter.chunk(split), update.chunk(split), strict=True):
                rows, columns = part.shape
                by_shape[max(rows, columns), min(rows, columns)].append((part, change))
        for pairs in by_shape.values():
            tall = torch.stack([change if change.shape[0] >= change.shape[1] else change.mT for _, change in pairs])
            for (part, change), update in zip(pairs, orthogonal(tall), strict=True):
                rows, columns = part.shape
                scale = max(1.0, rows / columns) ** 0.5
                part.add_(update if change.shape[0] >= change.shape[1] else update.mT, alpha=-rate * scale)
