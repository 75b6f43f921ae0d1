"""Whether a latent phase is right, before any of its times is printed.

Every thought is computed again from the thoughts before it, by Hugging Face's own forward over prompt and thoughts in
float64 (float32 for the 1B shape) and the noise that its key, position and seed stand for; every score again by the
LatentRM over the same thoughts. So no error is carried from step to step, and beams are checked like plain runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpu_cells.setting import Setting
from latent_ext.ops import philox, sites
from latent_ext.ops.keys import child_key
from latent_ext.ops.tolerances import tolerance

# Rows of one forward: the 1B shape in float32 over 79 positions.
_ROWS = 64
# Ours may be off by so many times what Hugging Face's own forward in the same format is off by.
_TIMES_HUGGING_FACE = 2.0


@dataclass(frozen=True)
class Verdict:
    """Root-mean-square errors in units of the reference's root mean square.

    Attributes:
        right: within what is allowed.
        thoughts, scores: of what is checked; `scores` is None without a LatentRM.
        allowed_thoughts, allowed_scores: twice Hugging Face's own error in the same format, plus the float32 tolerance of
            ``latent_ext.ops.tolerances`` for a latent phase.
        why: what is wrong, or "".
    """

    right: bool
    thoughts: float
    scores: float | None
    allowed_thoughts: float
    allowed_scores: float | None
    why: str = ""


@torch.no_grad()
def check(
    setting: Setting,
    keys: Tensor,
    seed: int,
    sigma: float,
    thoughts: Tensor,
    scores: Tensor | None,
    *,
    question: Tensor,
    lineage: Tensor | None = None,
    keep: tuple[int, ...] = (),
    candidates: int = 1,
) -> Verdict:
    """Checks thoughts [rows, T, hidden] and scores [rows, T] drawn with noise of deviation `sigma`.

    Args:
        setting: the models.
        keys: int64 [first rows], the keys at the start.
        seed: run seed.
        question: int64 [rows], of the rows at the end.
        lineage, keep, candidates: of a beam search, as in `latent_ext.ops.latent_rollout`.
    """
    noise = _noise(setting, keys, seed, thoughts.shape, question, lineage, keep, candidates)
    wanted, wanted_scores = _again(setting, thoughts, question, exact=True)
    same, same_scores = _again(setting, thoughts, question, exact=False)
    slack = tolerance("latent_phase", torch.float32).atol
    drawn = sigma * noise.to(wanted.dtype)
    error = _relative(thoughts, wanted + drawn)
    # Hugging Face's thought with its noise is rounded to the format once more, as ours is.
    rounded = (same + sigma * noise).to(setting.model.dtype)
    allowed = _TIMES_HUGGING_FACE * _relative(rounded, wanted + drawn) + slack
    finite = bool(thoughts.isfinite().all())
    why = "" if finite and error <= allowed else f"thoughts are off by {error:.2e}, allowed {allowed:.2e}"
    score_error = allowed_scores = None
    if scores is not None:
        score_error = _relative(scores, wanted_scores)
        allowed_scores = _TIMES_HUGGING_FACE * _relative(same_scores, wanted_scores) + slack
        if not score_error <= allowed_scores:
            why = why or f"scores are off by {score_error:.2e}, allowed {allowed_scores:.2e}"
    return Verdict(not why, error, score_error, allowed, allowed_scores, why)


def _relative(values: Tensor, reference: Tensor) -> float:
    reference = reference.double()
    difference = values.double() - reference
    return float(difference.square().mean().sqrt() / reference.square().mean().sqrt())


def _again(setting: Setting, thoughts: Tensor, question: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """Noise-free thoughts [rows, T, hidden] and scores [rows, T], each from the thoughts before it."""
    model = setting.exact_model if exact else setting.model
    reward = setting.exact_reward if exact else setting.reward
    formed, scored = [], []
    for start in range(0, len(thoughts), _ROWS):
        rows = slice(start, start + _ROWS)
        prompts = torch.stack([setting.prompts[b] for b in question[rows].tolist()])
        part = thoughts[rows].to(model.dtype)
        formed.append(_read(model.body, prompts, part[:, :-1])[:, prompts.shape[1] - 1 :])
        hidden = _read(reward.module.body, prompts, part)[:, prompts.shape[1] :]
        scored.append(reward.module.classifier(hidden).squeeze(-1))
    return torch.cat(formed), torch.cat(scored)


def _read(body: Any, prompts: Tensor, thoughts: Tensor) -> Tensor:
    inputs = torch.cat([body.get_input_embeddings()(prompts), thoughts], dim=1)
    return body(inputs_embeds=inputs, use_cache=False).last_hidden_state


def _noise(
    setting: Setting,
    keys: Tensor,
    seed: int,
    shape: torch.Size,
    question: Tensor,
    lineage: Tensor | None,
    keep: tuple[int, ...],
    candidates: int,
) -> Tensor:
    """float32 [rows, T, hidden]: what the keys along each row's path draw."""
    rows, steps, hidden = shape
    own = keys if lineage is None else keys[lineage[:, 0]]
    lengths = torch.tensor([len(prompt) for prompt in setting.prompts], device=keys.device)[question]
    drawn = []
    for t in range(steps):
        if t > 0 and keep and keep[t - 1] > 0:
            assert lineage is not None
            own = child_key(own, torch.full_like(own, t), lineage[:, t] % candidates)
        drawn.append(philox.normals(seed, own, lengths + t, sites.NOISE, hidden))
    return torch.stack(drawn, dim=1).reshape(rows, steps, hidden)


@torch.no_grad()
def check_answers(
    setting: Setting, question: int, thoughts: Tensor, tokens: list[list[int]], *, finished: list[bool]
) -> str:
    """What is wrong with greedy answers of a question's trajectories, or "".

    Every token must be the best one of the exact model behind the same thoughts and tokens, but for what the format's own
    rounding may decide: twice the largest logit error of Hugging Face's forward in that format, on both of the two tokens.

    Args:
        thoughts: [rows, T, hidden] of the answered trajectories.
        tokens: their answers, without the end of sequence.
        finished: whether the end of sequence was drawn.
    """
    ids, prompt = setting.model.ids, setting.prompts[question]
    slack = tolerance("logit_gap", torch.float32).atol
    for row, (written, ended) in enumerate(zip(tokens, finished, strict=True)):
        drawn = [*written, ids.eos] if ended else written
        if not drawn:
            return f"trajectory {row} drew nothing"
        read = torch.tensor([ids.end, *drawn[:-1]], device=prompt.device)
        logits = []
        for model in (setting.exact_model, setting.model):
            embed = model.hf.get_input_embeddings()
            inputs = torch.cat([embed(prompt), thoughts[row].to(model.dtype), embed(read)]).unsqueeze(0)
            logits.append(model.hf(inputs_embeds=inputs).logits[0, -len(drawn) :].double())
        exact, same = logits
        error = _TIMES_HUGGING_FACE * float((exact - same).abs().max())
        chosen = exact.gather(1, torch.tensor(drawn, device=prompt.device).unsqueeze(1)).squeeze(1)
        gap = float((exact.amax(dim=1) - chosen).max())
        if not gap <= 2.0 * error + slack:
            return f"trajectory {row}: a token is {gap:.2e} below the best, allowed {2.0 * error + slack:.2e}"
    return ""
