"""engine="auto": the fastest engine that supports the model on its device, and why it was taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from latent_ext.engine.base import Engine
from latent_ext.engine.depth_modules import DepthModulesEngine
from latent_ext.engine.depth_reference import DepthReferenceEngine
from latent_ext.engine.modules import ModulesEngine
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.engine.rule_modules import RuleModulesEngine
from latent_ext.engine.rule_reference import RuleReferenceEngine
from latent_ext.models.depth import DepthSteps
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import WEIGHTS, why_not_packable
from latent_ext.rewards.latent_rm import LatentRM

# Fastest first, each with the ops that it runs on.
ENGINES: dict[str, tuple[str, ...]] = {
    "native": ("pack_linear", "read_prompts", "latent_rollout", "decode_answers"),
    "modules": (
        "dropout_add_norm",
        "next_thought",
        "prefix_decode_attention",
        "score_and_prune",
        "next_token",
    ),
    "reference": (),
}
_WHAT = {
    "native": "packed weights, each phase one call of a compiled op; for GPT-2 and Llama bodies with a thought head",
    "modules": "Hugging Face linears with fused {device} ops between them",
    "reference": "plain PyTorch; slow, for comparison",
}


@dataclass(frozen=True)
class EngineChoice:
    """An engine's name and what says why it was taken (and, of a choice, why faster ones were not), or why not."""

    name: str
    usable: bool
    why: str


def engine_report(device: torch.device | str = "cpu") -> list[EngineChoice]:
    """Every engine, fastest first, and whether it can run on `device`."""
    kind = torch.device(device).type
    report = []
    for name, ops in ENGINES.items():
        missing = [op for op in ops if not _has_kernel(op, kind)]
        why = f"no {kind} kernel for {', '.join(missing)}" if missing else _WHAT[name].format(device=kind)
        report.append(EngineChoice(name, not missing, why))
    return report


def choose_engine(
    model: LatentModel,
    engine: str = "auto",
    *,
    max_answer_tokens: int = 64,
    weights: str | None = None,
    reward: LatentRM | None = None,
) -> tuple[Engine, EngineChoice]:
    """The engine that will run `model`.

    Args:
        model: a loaded generator.
        engine: "auto", "native", "modules" or "reference".
        max_answer_tokens: the longest answer that will be asked for.
        weights: number format of the native engine, "fp32", "bf16" or "int8"; None: the model's own.
        reward: the LatentRM that the engine will have to run, if any.

    Raises:
        ValueError: for an unknown engine or format, or a format that only the native engine has.
        RuntimeError: when the named engine cannot run the model on its device.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine: got {engine!r}; allowed are auto, {', '.join(ENGINES)}")
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"weights: got {weights!r}; allowed are {', '.join(WEIGHTS)}")
    reasons: list[str] = []
    for choice in engine_report(model.device):
        if engine not in ("auto", choice.name):
            continue
        reason = _why_not(choice, model, reward, weights)
        if reason is None:
            why = "; ".join([choice.why, *reasons])
            return _make(choice.name, model, max_answer_tokens, weights), replace(choice, why=why)
        reasons.append(f"{choice.name!r} cannot run this model on {model.device}: {reason}")
        if engine == choice.name:
            raise RuntimeError(f"engine: {reasons[-1]}")
        if weights is not None:
            raise ValueError(f"weights: {weights!r} needs the native engine, and {reasons[-1]}")
    raise AssertionError("the reference engine is always usable")


def _why_not(
    choice: EngineChoice, model: LatentModel, reward: LatentRM | None, weights: str | None
) -> str | None:
    if not choice.usable:
        return choice.why
    feedback = model.feedback
    if choice.name != "native":
        return None if weights is None else f"it computes in the model's own format, not in {weights!r}"
    if isinstance(feedback, DepthSteps):
        return "its thoughts are depth steps of one token"
    if not isinstance(feedback, ThoughtHead):
        return f"its thoughts are formed by a rule in Python ({type(feedback).__name__})"
    if model.ids.stops:
        return "several tokens end its answers"
    if model.semantics.stop != "fixed":
        return "its rows stop by themselves, and the compiled latent phase has one number of thoughts for all"
    reason = why_not_packable(model.body, feedback)
    if reason is None and reward is not None:
        reason = why_not_packable(reward.module.body)
        if reason is None and reward.stages:
            reason = "it projects hidden states before it scores them"
        reason = None if reason is None else f"of its LatentRM: {reason}"
    return reason


def _make(name: str, model: LatentModel, max_answer_tokens: int, weights: str | None) -> Engine:
    if name == "native":
        own = "bf16" if model.dtype == torch.bfloat16 else "fp32"
        return NativeEngine(model, max_answer_tokens, weights or own)
    semantics = model.semantics
    if not isinstance(model.feedback, ThoughtHead) and (semantics.stop, semantics.pads) != (
        "fixed",
        "masked",
    ):
        raise ValueError(
            f"family: {model.family.name!r} has semantics stop={semantics.stop!r} and pads={semantics.pads!r}; "
            "where its thoughts are formed by a rule or by depth steps, only 'fixed' and 'masked' are allowed"
        )
    kinds: tuple[type[Engine], type[Engine]] = (RuleModulesEngine, RuleReferenceEngine)
    if isinstance(model.feedback, ThoughtHead):
        kinds = (ModulesEngine, ReferenceEngine)
    elif isinstance(model.feedback, DepthSteps):
        kinds = (DepthModulesEngine, DepthReferenceEngine)
    return kinds[0 if name == "modules" else 1](model, max_answer_tokens)  # type: ignore[call-arg]


def _has_kernel(op: str, device_type: str) -> bool:
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"latent_ext::{op}", key)
