"""engine="auto": the fastest engine that supports the model on its device, and why it was taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from latent_ext.engine.base import Engine
from latent_ext.engine.modules import ModulesEngine
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.models.latent_model import LatentModel

# Fastest first.
ENGINES: dict[str, type] = {"modules": ModulesEngine, "reference": ReferenceEngine}
_MODULES_OPS = (
    "dropout_add_norm",
    "next_thought",
    "prefix_decode_attention",
    "score_and_prune",
    "next_token",
)


@dataclass(frozen=True)
class EngineChoice:
    """An engine's name and the sentence that says why it was taken, or why not."""

    name: str
    usable: bool
    why: str


def engine_report(device: torch.device | str = "cpu") -> list[EngineChoice]:
    """Every engine, fastest first, and whether it can run on `device`."""
    kind = torch.device(device).type
    missing = [name for name in _MODULES_OPS if not _has_kernel(name, kind)]
    modules = (
        EngineChoice("modules", False, f"no {kind} kernel for {', '.join(missing)}")
        if missing
        else EngineChoice("modules", True, f"Hugging Face linears with fused {kind} ops between them")
    )
    return [modules, EngineChoice("reference", True, "plain PyTorch; slow, for comparison")]


def choose_engine(
    model: LatentModel, engine: str = "auto", *, max_answer_tokens: int = 64
) -> tuple[Engine, EngineChoice]:
    """The engine that will run `model`.

    Args:
        model: a loaded generator.
        engine: "auto", "modules" or "reference".
        max_answer_tokens: the longest answer that will be asked for.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: when the named engine cannot run on the model's device.
    """
    report = engine_report(model.device)
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine: got {engine!r}; allowed are auto, {', '.join(ENGINES)}")
    for choice in report:
        if engine in ("auto", choice.name):
            if choice.usable:
                return ENGINES[choice.name](model, max_answer_tokens), choice
            if engine == choice.name:
                raise RuntimeError(f"engine: {engine!r} cannot run on {model.device}: {choice.why}")
    raise AssertionError("the reference engine is always usable")


def _has_kernel(op: str, device_type: str) -> bool:
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"latent_ext::{op}", key)
