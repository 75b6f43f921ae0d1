"""Calls of ``latent_rollout`` with models packed for the CPU, whose reference is known, and the same for CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from op_cases import OpCase
from packed_cases import STORAGE, latent_rollout_case, random_parts, rollout_results
from torch import Generator, Tensor

from latent_ext.models.packed import PackedModel, pack
from latent_ext.ops.tolerances import assert_close

WEIGHTS = ("fp32", "bf16")
# By name: what is unlike the other cases. Sizes: hidden and inner sizes that can be read 16 bytes at a time and
# layers whose inputs are split among blocks, beside the awkward ones.
CASES: dict[str, dict[str, Any]] = {
    "greedy, inputs first": {},
    "hidden states first": {"first_is_hidden": True, "reward": False},
    "noise and dropout": {"sigma": 0.5, "p": 0.2},
    "relative noise, first hidden": {"sigma": 0.4, "relative": True, "first_is_hidden": True},
    "dropout per trajectory, embedding": {"p": 0.3, "per_trajectory": True, "embedding": True},
    "a LatentRM with more layers": {"reward_layers": 3, "sigma": 0.3},
    "a LatentRM with fewer layers": {"reward_layers": 1, "sigma": 0.3},
    "no thought head": {"heads": False, "reward": False, "sigma": 0.3},
    "more rows than a block takes": {"rows": 66, "layers": 1, "reward": False, "first_is_hidden": True},
    "pruned": {"keep": (0, 3, 2, 1), "sigma": 0.3},
    "branched, one pass for all children": {"keep": (2, 3, 2, 1), "sigma": 0.3, "candidates": 2},
    "branched, a pass for each child": {"keep": (0, 3, 2, 1), "p": 0.3, "candidates": 2},
    "questions branched": {
        "keep": (2, 2, 2, 2),
        "p": 0.3,
        "candidates": 3,
        "questions": 2,
        "embedding": True,
    },
    "wide rows": {"hidden": 96, "inner": 160, "sigma": 0.3, "p": 0.1},
    "split inputs": {"hidden": 288, "inner": 1040, "layers": 1, "reward": False, "rows": 3, "sigma": 0.3},
}


@dataclass(frozen=True)
class RolloutCase:
    """One call twice.

    Attributes:
        cpu: with models in panels, for `ops.latent_rollout_reference`.
        cuda: with models in rows, caches in the dtype of the weights; still in host memory.
    """

    cpu: OpCase
    cuda: OpCase

    def with_arguments(self, **changed: Any) -> RolloutCase:
        return RolloutCase(self.cpu.with_arguments(**changed), self.cuda.with_arguments(**changed))

    def results(self, written: list[Tensor]) -> dict[str, Tensor]:
        return rollout_results(self.cpu, written)


def rollout_case(
    generator: Generator,
    body: str = "gpt2",
    weights: str = "fp32",
    *,
    reward: bool = True,
    reward_layers: int = 2,
    layers: int = 2,
    hidden: int | None = None,
    inner: int | None = None,
    heads: bool = True,
    **call: Any,
) -> RolloutCase:
    parts = random_parts(generator, body, hidden=hidden, layers=layers, inner=inner, heads=heads)
    panels, rows = _both(parts, weights)
    scorer_panels, scorer_rows = None, None
    if reward:
        of_reward = random_parts(generator, body, hidden=hidden, layers=reward_layers, inner=inner)
        scorer_panels, scorer_rows = _both(of_reward, weights)
    cpu = latent_rollout_case(generator, panels, scorer_panels, **call)
    changed: dict[str, Any] = {"model": rows.data, "model_header": rows.header}
    if scorer_rows is not None:
        changed |= {"reward_model": scorer_rows.data, "reward_header": scorer_rows.header}
    for name, value in cpu.arguments.items():
        if isinstance(value, Tensor) and name.endswith(("_key", "_value")):
            changed[name] = value.to(rows.cache_dtype)
    return RolloutCase(cpu, cpu.with_arguments(**changed))


def _both(parts: dict[str, Any], weights: str) -> tuple[PackedModel, PackedModel]:
    return pack(**parts, weights=weights), pack(**parts, weights=weights, layout="rows")


def assert_rollout_agrees(case: RolloutCase, written: list[Tensor], weights: str) -> None:
    """Numbers to the tolerance, decisions exactly; where positions lie may differ, what is there not."""
    expected, actual = case.results(case.cpu.run_reference()), case.results(written)
    for name, wanted in expected.items():
        if wanted is None:
            continue
        if name in ("lineage", "final_keys", "final_prompts"):
            assert torch.equal(actual[name], wanted), name
        elif name != "ancestry":
            assert_close(actual[name].float(), wanted, "packed_pass", storage=STORAGE[weights])
