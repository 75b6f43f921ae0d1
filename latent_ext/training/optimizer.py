"""Muon for the matrices of the blocks, AdamW for the rest, in one optimizer that a Trainer can save and resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class MuonAdamW(torch.optim.Optimizer):
    """Two groups of parameters under one learning-rate schedule.

    Muon (Jordan et al., 2024) replaces the momentum of a matrix by a nearly orthogonal matrix of the same column
    space; it suits hidden layers, and neither embeddings nor heads.

    Args:
        matrices: parameters of two dimensions, for Muon.
        others: for AdamW.
        muon_lr, lr: learning rates.
        weight_decay: decoupled; of vectors none is taken.
        momentum: of Muon, with Nesterov's step.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        muon_lr: float,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": muon_lr, "muon": True},
            {"params": list(others), "lr": lr, "muon": False},
        ]
        settings = {"weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self._muon if group["muon"] else self._adam)(parameter, group)
        return loss

    def _muon(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].mul_(group["momentum"]).add_(grad)
        update = orthogonalised(grad.add(average, alpha=group["momentum"]))
        scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    def _adam(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if not state:
            state.update(step=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        state["step"] += 1
        first, second = group["betas"]
        state["first"].lerp_(grad, 1 - first)
        state["second"].mul_(second).addcmul_(grad, grad, value=1 - second)
        scale = math.sqrt(1 - second ** state["step"])
        if parameter.dim() > 1:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        denominator = (state["second"].sqrt() / scale).add_(group["eps"])
        parameter.addcdiv_(state["first"], denominator, value=-group["lr"] / (1 - first ** state["step"]))


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with its singular values pushed towards 1 by five Newton-Schulz steps, same shape and dtype."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).contiguous()
