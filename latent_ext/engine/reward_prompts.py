"""What a LatentRM reads before the thoughts, with the noise-free answer where it wants one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_ext.engine.base import Engine, LatentRequest
from latent_ext.ops.arguments import to_signed
from latent_ext.ops.keys import question_key
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler


def reward_prompts(
    engine: Engine, reward: LatentRM, prompts: Sequence[Tensor], *, steps: int, max_tokens: int
) -> list[Tensor]:
    """Prompts for `Engine.read_reward_prompts`.

    With ``reward.reference == "answer"`` the generator first answers every question once without randomness: one
    trajectory more per question, whatever N is.

    Args:
        engine: of the generator.
        reward: a LatentRM.
        prompts: int64 [length] prompt ids of each question.
        steps: T thoughts that will follow.
        max_tokens: longest noise-free answer.
    """
    if reward.reference == "none":
        return list(prompts)
    noise_free = Sampler()
    names = [[to_signed(question_key(prompt))] for prompt in prompts]
    keys = torch.tensor(names, dtype=torch.int64, device=prompts[0].device)
    request = LatentRequest(prompts, keys, noise_free, 0)
    run = engine.sample(request, engine.read_prompts(prompts, noise_free))
    rows = torch.arange(run.rows, device=run.thoughts.device)
    answers = engine.answer(run, rows, max_tokens=max_tokens).tokens
    return [reward.prompt(prompt, answer, steps) for prompt, answer in zip(prompts, answers, strict=True)]
