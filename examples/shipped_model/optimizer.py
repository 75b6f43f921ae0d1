"""Muon for matrices, AdamW for the rest, on bf16 weights with fp32 master copies.

Muon (Jordan et al., 2024) replaces each momentum matrix by its nearest semi-orthogonal matrix, found by a few
Newton-Schulz steps. Matrices of one shape are stacked and go through one batched product.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Pushes the singular values of each matrix towards 1.

    Args:
        matrices: (count, rows, columns), float32.
        iterations: Newton-Schulz steps.

    Returns:
        (count, rows, columns), float32.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16()
    transposed = x.shape[1] > x.shape[2]
    if transposed:
        x = x.transpose(1, 2).contiguous()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.transpose(1, 2) if transposed else x).float()


class MuonAdamW:
    """Optimises a dict of leaf parameters in place.

    Args:
        parameters: name -> leaf tensor, bf16 or float32; the fp32 master copy is kept here.
        muon: names that Muon updates, each with the number of equal column blocks it is split into
            (3 for the fused query, key and value); every other name goes to AdamW.
        muon_lr, adam_lr, weight_decay, momentum: hyper-parameters; weight decay acts on matrices only.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        muon: dict[str, int],
        muon_lr: float,
        adam_lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        self.parameters, self.muon = parameters, muon
        self.muon_lr, self.adam_lr, self.weight_decay = muon_lr, adam_lr, weight_decay
        self.momentum, self.betas = momentum, betas
        self.step_count = 0
        self.master = {name: p.detach().float().clone() for name, p in parameters.items()}
        self.first = {name: torch.zeros_like(p) for name, p in self.master.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.master.items() if name not in muon}

    @torch.no_grad()
    def step(self, scale: float, clip: float) -> float:
        """One update with learning rates times `scale`; gradients are clipped to norm `clip` and cleared.

        Returns:
            The norm of the gradient before clipping; a norm that is not finite skips the update.
        """
        grads = {name: p.grad.float() for name, p in self.parameters.items() if p.grad is not None}
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        for p in self.parameters.values():
            p.grad = None
        if not math.isfinite(norm):
            return norm
        self.step_count += 1
        shrink = min(1.0, clip / (norm + 1e-6))
        stacks: dict[tuple[int, ...], list[tuple[str, int, Tensor]]] = {}
        for name, grad in grads.items():
            grad.mul_(shrink)
            if name in self.muon:
                average = self.first[name].mul_(self.momentum).add_(grad)
                direction = grad.add_(average, alpha=self.momentum)
                for index, block in enumerate(direction.chunk(self.muon[name], dim=1)):
                    stacks.setdefault(tuple(block.shape), []).append((name, index, block))
            else:
                self._adam(name, grad, self.adam_lr * scale)
        for shape, entries in stacks.items():
            updates = orthogonalize(torch.stack([block for _, _, block in entries]))
            lr = self.muon_lr * scale * max(1.0, shape[1] / shape[0]) ** 0.5
            for (name, index, _), update in zip(entries, updates, strict=True):
                block = self.master[name].chunk(self.muon[name], dim=1)[index]
                block.mul_(1 - self.muon_lr * scale * self.weight_decay).add_(update, alpha=-lr)
        for name, p in self.parameters.items():
            p.copy_(self.master[name])
        return norm

    def _adam(self, name: str, grad: Tensor, lr: float) -> None:
        first, second = self.first[name], self.second[name]
        beta1, beta2 = self.betas
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        corrected = (second / (1 - beta2**self.step_count)).sqrt_().add_(1e-8)
        if grad.dim() == 2:
            self.master[name].mul_(1 - lr * self.weight_decay)
        self.master[name].addcdiv_(first, corrected, value=-lr / (1 - beta1**self.step_count))

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to continue."""
        return {"step": self.step_count, "master": self.master, "first": self.first, "second": self.second}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict` and writes the weights into the parameters."""
        self.step_count = state["step"]
        self.master, self.first, self.second = state["master"], state["first"], state["second"]
        for name, p in self.parameters.items():
            p.copy_(self.master[name])
