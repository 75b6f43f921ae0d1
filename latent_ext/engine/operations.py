"""Operations per position: of transformer bodies, thought heads, LM heads and LatentRMs, from their tensors' shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from latent_ext.models.blocks import blocks_of
from latent_ext.models.depth import DepthSteps
from latent_ext.models.family import HeadStage, ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.reward import Reward


@dataclass(frozen=True)
class BodyOperations:
    """Operations of one position in a transformer body.

    Attributes:
        linear: of all linear layers.
        per_key: of attention, for each position that is seen.
        hidden: width of its output.
    """

    linear: int
    per_key: int
    hidden: int

    @classmethod
    def of(cls, body: Any) -> BodyOperations:
        """Counted from the matrices of a ``GPT2Model``, ``LlamaModel`` or ``Qwen2Model``, adapters included.

        Raises:
            TypeError: for another body.
        """
        blocks = blocks_of(body)
        matrices = [
            weight
            for module in body.modules()
            if not isinstance(module, nn.Embedding)
            for weight in module.parameters(recurse=False)
            if weight.dim() == 2
        ]
        linear = 2 * sum(weight.numel() for weight in matrices)
        return cls(linear, 4 * blocks.layers * blocks.heads * blocks.head_dim, blocks.hidden_size)

    def read(self, first: int, last: int) -> int:
        """Operations of reading positions first .. last - 1, each seeing itself and all before it."""
        seen = (last * (last + 1) - first * (first + 1)) // 2
        return (last - first) * self.linear + seen * self.per_key

    def head(self, outputs: int) -> int:
        """Operations of a linear head on one position."""
        return 2 * self.hidden * outputs


def why_uncounted(model: LatentModel, reward: Reward | None) -> str | None:
    """Why the operations of a run do not follow from shapes; None where they do."""
    feedback = model.feedback
    if isinstance(feedback, DepthSteps):
        return "thoughts are depth steps of one token"
    if not isinstance(feedback, ThoughtHead):
        return f"thoughts are formed by a rule in Python ({type(feedback).__name__})"
    if model.semantics.stop != "fixed":
        return "rows stop by themselves"
    if model.semantics.pads != "masked":
        return "questions are read with visible pads"
    if reward is None:
        return None
    if not isinstance(reward, LatentRM):
        own = sorted(reward.needs - {"answers"})
        return (
            f"the reward {reward.name} needs {' and '.join(own)}, which it computes by itself"
            if own
            else None
        )
    if reward.answer_format is not None:
        return "the LatentRM reads answers, of which results do not tell the length"
    if reward.reference != "none":
        return "the LatentRM reads a noise-free answer, of which results do not tell the length"
    return None


class Operations:
    """Operations of a generator and its LatentRM, of which `why_uncounted` has nothing to say.

    Attributes:
        generator, reward: their bodies; no `reward` without a LatentRM.
        token: of the LM head, for a token drawn.
        thought: of the thought head, for a thought formed; `deviation` those of its Gaussian deviation.
        score: of the LatentRM's head, for a thought scored.
        spectrum: of noise on the singular values of every layer's W_V, for a position that a row reads under it.
    """

    def __init__(self, model: LatentModel, reward: LatentRM | None) -> None:
        blocks = model.blocks
        values = blocks.kv_heads * blocks.head_dim
        rank = min(blocks.hidden_size, values)
        self.spectrum = 2 * blocks.layers * rank * (blocks.hidden_size + values)
        head = model.feedback
        assert isinstance(head, ThoughtHead)
        self.generator = BodyOperations.of(model.body)
        self.token = self.generator.head(len(model.answer_head))
        self.thought = _stages(head.stages)
        self.deviation = 0 if head.log_std is None else _stages((head.log_std,))
        self.reward = None if reward is None else BodyOperations.of(reward.module.body)
        self.score = 0 if reward is None else _stages(reward.stages) + 2 * len(reward.head_weight)


def _stages(stages: Sequence[HeadStage]) -> int:
    return sum(
        2 * stage.weight.numel() for stage in stages if stage.kind == "linear" and stage.weight is not None
    )
