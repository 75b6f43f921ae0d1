"""Prompts that were read once, for some of their questions: what a search reads once and uses round after round."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from latent_ext.engine.base import PromptCache


def select_prompts(cache: PromptCache, questions: Sequence[int]) -> PromptCache:
    """The cache of an engine's `read_prompts` or `read_reward_prompts`, as if it had read those questions alone.

    Args:
        cache: of any engine; None where it keeps nothing.
        questions: numbers of the questions that stay, in order.
    """
    if cache is None:
        return None
    if isinstance(cache, list):
        return [cache[b] for b in questions]
    return cache.select(torch.tensor(list(questions), dtype=torch.int64))
