"""Muon: momentum made orthogonal, in place of Adam for the weights that are matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.775, 2.0315)  # of Newton and Schulz's iteration, which take singular values into .7 to 1.2


class Muon(Optimizer):
    """Steps of nearly equal size along every singular direction of a weight's momentum; Adam for biases and slopes.

    Jordan et al. 2024, without weight decay and for the first and last convolution too. A convolution, grouped ones
    included, is a matrix with a row for each output channel (a transposed one, for each input channel); steps are
    scaled to the size of Adam's (Liu et al. 2025), so that learning rates are of that size. torch.optim.Muon takes
    nothing but matrices, and iterates in bfloat16, which is slow on processors that have none.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    step = self._orthogonal(p, p.grad) if _is_matrix(p) else self._adam(p, p.grad, *group["betas"])
                    p.sub_(step, alpha=group["lr"])

    def _orthogonal(self, p: Tensor, gradient: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["moment"] = torch.zeros_like(p)
        moment = state["moment"].lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp(moment, MOMENTUM).flatten(1)  # Nesterov's
        return orthogonal(matrix).view_as(p).mul_(0.2 * math.sqrt(max(matrix.shape)))

    def _adam(self, p: Tensor, gradient: Tensor, beta1: float, beta2: float) -> Tensor:
        state: dict[str, Any] = self.state[p]
        if not state:
            state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        mean: Tensor = state["mean"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
        square: Tensor = state["square"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2 ** state["step"])
        return mean / (square.sqrt() + 1e-8)


def _is_matrix(p: Tensor) -> bool:
    return p.ndim > 1 and 1 < p.shape[0] < p.numel()  # neither one row nor one column


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix ``(m, n)`` with its singular values brought near 1: five steps of Newton and Schulz's iteration."""
    a, b, c = QUINTIC
    x: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T
