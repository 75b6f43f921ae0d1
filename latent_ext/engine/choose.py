"""engine="auto": the fastest engine that supports the model on its device, and why it was taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from latent_ext.engine.base import Engine
from latent_ext.engine.cuda import (
    NO_CONTINUATIONS,
    NO_NUCLEUS,
    NO_REPLAY,
    NO_STEPS,
    NO_VALUE_NOISE,
    CudaEngine,
)
from latent_ext.engine.cuda_blocks import DTYPES
from latent_ext.engine.cuda_rungs import SMALL_OPS, RungChoice, asked_rung, choose_rung, has_kernel
from latent_ext.engine.depth_modules import DepthModulesEngine
from latent_ext.engine.depth_reference import DepthReferenceEngine
from latent_ext.engine.modules import ModulesEngine
from latent_ext.engine.native import NO_DENSE_NOISE, NativeEngine
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.engine.rule_modules import RuleModulesEngine
from latent_ext.engine.rule_reference import RuleReferenceEngine
from latent_ext.models.depth import DepthSteps
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.packed import WEIGHTS, why_not_packable
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

_PACKED_OPS = ("pack_linear", "read_prompts", "latent_rollout", "decode_answers")

# Fastest first, each with the ops that it runs on, by type of device. On CUDA the ops on packed models are one rung of
# several (`latent_ext.engine.cuda_rungs`).
ENGINES: dict[str, dict[str, tuple[str, ...]]] = {
    "native": {"cpu": _PACKED_OPS, "cuda": SMALL_OPS},
    "modules": {"cpu": SMALL_OPS, "cuda": SMALL_OPS},
    "reference": {},
}
_NATIVE = {
    "cpu": "packed weights, each phase one call of a compiled op",
    "cuda": "prompts and answers in CUDA graphs, the latent phase by a rung of its own",
}
_WHAT = {
    "modules": "Hugging Face linears with fused {device} ops between them",
    "reference": "plain PyTorch; slow, for comparison",
}


@dataclass(frozen=True)
class EngineChoice:
    """An engine's name and what says why it was taken (and, of a choice, why faster ones were not), or why not.

    Attributes:
        name: "native", "modules" or "reference".
        usable: whether it can run.
        why: one sentence; behind it, of a choice, why faster engines were not taken.
        rung: how the native engine runs the latent phase on a CUDA device; None elsewhere.
    """

    name: str
    usable: bool
    why: str
    rung: str | None = None


def engine_report(device: torch.device | str = "cpu") -> list[EngineChoice]:
    """Every engine, fastest first, and whether it can run on `device`."""
    kind = torch.device(device).type
    report = []
    for name, ops in ENGINES.items():
        # A device that no engine was written for lacks what the CPU has.
        wanted = ops.get(kind, ops.get("cpu", ()))
        missing = [op for op in wanted if not has_kernel(op, kind)]
        what = _NATIVE.get(kind, "") if name == "native" else _WHAT[name].format(device=kind)
        why = f"no {kind} kernel for {', '.join(missing)}" if missing else what
        report.append(EngineChoice(name, not missing, why))
    return report


def choose_engine(
    model: LatentModel,
    engine: str = "auto",
    *,
    max_answer_tokens: int = 64,
    weights: str | None = None,
    reward: LatentRM | None = None,
    rung: str | None = None,
    samplers: Sequence[Sampler] = (),
    top_p: float = 1.0,
    by_steps: bool = False,
    continues: bool = False,
    replay: bool = False,
) -> tuple[Engine, EngineChoice]:
    """The engine that will run `model`.

    Args:
        model: a loaded generator.
        engine: "auto", "native", "modules" or "reference".
        max_answer_tokens: the longest answer that will be asked for.
        weights: number format of the native engine, "fp32", "bf16" or (CPU) "int8"; None: the model's own.
        reward: the LatentRM that the engine will have to run, if any.
        rung: how the native engine runs the latent phase on a CUDA device: "auto", "persistent", "stream" or "graph";
            None: what the variable LATENT_EXT_RUNG asks for, else "auto".
        samplers: those that the engine will have to draw by; not every engine draws by every one.
        top_p: of the answer tokens.
        by_steps: whether a beam search will look ahead or keep a trace.
        continues: whether trajectories will be continued from one of their thoughts.
        replay: whether thoughts will be read again (`latent_ext.engine.replay`), of a model that `check_replay` passed.

    Raises:
        ValueError: for an unknown engine, format or rung, or a format or rung that only the native engine has.
        RuntimeError: when the named engine or rung cannot run the model and the samplers on the model's device.
    """
    asked_rung(rung)
    forced = rung not in (None, "auto")
    if forced and model.device.type != "cuda":
        raise ValueError(f"rung: got {rung!r}; rungs are of CUDA devices, and the model is on {model.device}")
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"engine: got {engine!r}; allowed are auto, {', '.join(ENGINES)}")
    if weights is not None and weights not in WEIGHTS:
        raise ValueError(f"weights: got {weights!r}; allowed are {', '.join(WEIGHTS)}")
    reasons: list[str] = []
    for choice in engine_report(model.device):
        if engine not in ("auto", choice.name):
            continue
        reason = _why_not(choice, model, reward, weights) or _why_not_drawn(
            choice, model, samplers, top_p, by_steps, continues, replay
        )
        if reason is None:
            if forced and choice.name != "native":
                raise ValueError(f"rung: {rung!r} needs the native engine, and {choice.name!r} was taken")
            taken = replace(choice, why="; ".join([choice.why, *reasons]))
            return _make(taken, model, max_answer_tokens, weights, rung)
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
    if model.device.type == "cuda" and model.family.latent_length == 0:
        return "it has no latent phase, which the rungs are for"
    if model.device.type == "cuda" and weights is not None and weights not in DTYPES:
        return f"on CUDA it computes in {' or '.join(DTYPES)}, not in {weights}"
    if model.semantics.stop != "fixed":
        return "its rows stop by themselves, and the compiled latent phase has one number of thoughts for all"
    reason = why_not_packable(model.body, feedback)
    if reason is None and reward is not None:
        reason = why_not_packable(reward.module.body)
        if reason is None and reward.stages:
            reason = "it projects hidden states before it scores them"
        reason = None if reason is None else f"of its LatentRM: {reason}"
    return reason


def _why_not_drawn(
    choice: EngineChoice,
    model: LatentModel,
    samplers: Sequence[Sampler],
    top_p: float,
    by_steps: bool,
    continues: bool,
    replay: bool,
) -> str | None:
    if choice.name != "native":
        return None
    if model.device.type == "cuda":
        if any(sampler.svp > 0.0 or sampler.wv > 0.0 for sampler in samplers):
            return NO_VALUE_NOISE
        if by_steps:
            return NO_STEPS
        if continues:
            return NO_CONTINUATIONS
        if replay:
            return NO_REPLAY
        return NO_NUCLEUS if top_p != 1.0 else None
    return NO_DENSE_NOISE if any(sampler.wv > 0.0 for sampler in samplers) else None


def _make(
    choice: EngineChoice, model: LatentModel, max_answer_tokens: int, weights: str | None, rung: str | None
) -> tuple[Engine, EngineChoice]:
    if choice.name != "native":
        return _in_pytorch(choice.name, model, max_answer_tokens), choice
    own = weights or ("bf16" if model.dtype == torch.bfloat16 else "fp32")
    if model.device.type != "cuda":
        return NativeEngine(model, max_answer_tokens, own), choice
    taken: RungChoice = choose_rung(rung, model.device)
    engine = CudaEngine(model, max_answer_tokens, own, taken.name)
    return engine, replace(choice, why=f"{choice.why}, {taken.name!r}: {taken.why}", rung=taken.name)


def _in_pytorch(name: str, model: LatentModel, max_answer_tokens: int) -> Engine:
    """The engine "modules" or "reference" of the model's kind of feedback."""
    feedback, semantics = model.feedback, model.semantics
    if isinstance(feedback, ThoughtHead):
        return (ModulesEngine if name == "modules" else ReferenceEngine)(model, max_answer_tokens)
    if (semantics.stop, semantics.pads) != ("fixed", "masked"):
        raise ValueError(
            f"family: {model.family.name!r} has semantics stop={semantics.stop!r} and pads={semantics.pads!r}; "
            "where its thoughts are formed by a rule or by depth steps, only 'fixed' and 'masked' are allowed"
        )
    if isinstance(feedback, DepthSteps):
        return (DepthModulesEngine if name == "modules" else DepthReferenceEngine)(model, max_answer_tokens)
    return (RuleModulesEngine if name == "modules" else RuleReferenceEngine)(model, max_answer_tokens)
