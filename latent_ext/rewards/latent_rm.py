"""LatentRM: a copy of the backbone with a scalar head that scores every thought (LatentTTS, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from latent_ext.models.blocks import Blocks, blocks_of
from latent_ext.models.family import HeadStage
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_heads import projector_stages
from latent_ext.rewards.answers import ANSWER_ROOM, EVIDENCE, score_answers
from latent_ext.rewards.branches import branches, read_together, trajectory_layout
from latent_ext.rewards.reward import Need, Scored, Seen, trained_elsewhere

Positions = Literal["real", "published"]

REFERENCES = ("none", "answer")


class LatentRMModule(nn.Module):
    """Parameters in the LatentTTS layout: the body's, ``classifier.{weight [1, d], bias [1]}`` and, for CODI,
    ``projector.{1,3,4}.*`` between the two.

    Args:
        body: a ``GPT2Model``, whose parameters are named ``transformer.*``, or a ``LlamaModel``: ``model.*``.
        reliable: with a second head, ``concentration.{weight [1, d], bias [1]}``, which the published layout does
            not have: how sure the first one is (Beta-Binomial, arXiv 2605.15529).
        answers: with ``evidence.weight`` [1, 3], of a LatentRM that reads answers (`latent_ext.rewards.answers`).
        vocabulary: with answers, rows of an output embedding of its own, ``lm_head.weight`` [vocabulary, d]; None (default)
            where the body's input embedding is the output embedding, too.
    """

    def __init__(
        self,
        body: PreTrainedModel,
        *,
        reliable: bool = False,
        answers: bool = False,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        self._body_name = body.base_model_prefix
        self.add_module(self._body_name, body)
        self.classifier = nn.Linear(body.config.hidden_size, 1)
        self.concentration = nn.Linear(body.config.hidden_size, 1) if reliable else None
        self.evidence = nn.Linear(len(EVIDENCE), 1, bias=False) if answers else None
        own_head = answers and vocabulary is not None
        self.lm_head = nn.Linear(body.config.hidden_size, vocabulary or 0, bias=False) if own_head else None

    @property
    def body(self) -> PreTrainedModel:
        """What reads prompt and thoughts."""
        body = self.get_submodule(self._body_name)
        assert isinstance(body, PreTrainedModel)
        return body

    @property
    def applied_projector(self) -> nn.Module | None:
        """CODI's projector; None where the score is read off the hidden state itself."""
        return dict(self.named_children()).get("projector")

    def score(self, hidden: Tensor) -> Tensor:
        """Final-norm hidden states (..., d) -> scores (...)."""
        projector = self.applied_projector
        return self.classifier(hidden if projector is None else projector(hidden)).squeeze(-1)

    def next_token_logits(self, hidden: Tensor) -> Tensor:
        """Final-norm hidden states (..., d) -> (..., vocabulary)."""
        embedding: Any = self.body.get_input_embeddings() if self.lm_head is None else self.lm_head
        return nn.functional.linear(hidden, embedding.weight)


@dataclass
class LatentRM:
    """A reward on thoughts: the score of step t is the head's output at the position of z_t.

    The prompt is read with its real positions; the thoughts follow as they were fed to the generator. A
    trajectory's score is the sum of its step scores, as published.

    Attributes:
        module: in eval mode.
        name: what `load_reward` was given.
        trained_on: sampler, scope, sites and generator hash of the trajectories it was trained on (empty if
            not recorded).
        positions: "real": a thought's own, whatever runs beside it. "published": LatentTTS gives no position ids, so
            the pads to the left of a shorter sequence are counted; `latent_ext.solve` then decodes every answer and
            scores a question's trajectories as one padded batch.
        reference: "none", or "answer": it reads the noise-free answer of the generator between question and
            thoughts, see `prompt`.
        answer_format: None: it reads thoughts alone. A text with ``{answer}``: it reads the answer behind them, too, and
            gives one score for the whole trajectory, see `latent_ext.rewards.answers`.
    """

    module: LatentRMModule
    name: str
    trained_on: dict[str, Any] = field(default_factory=dict)
    positions: Positions = "real"
    reference: str = "none"
    answer_format: str | None = None

    @property
    def by_step(self) -> bool:
        """Whether engines can score it while thoughts are formed, so that it can guide beams."""
        return self.positions == "real" and self.answer_format is None

    @property
    def by_trajectory(self) -> bool:
        """Whether a score does not depend on the trajectories beside it; see `Reward`."""
        return self.positions == "real"

    def prompt(self, prompt: Tensor, noise_free_answer: Sequence[int], steps: int) -> Tensor:
        """What this LatentRM reads before the thoughts.

        Args:
            prompt: int64 [length], the generator's prompt ids.
            noise_free_answer: tokens of the generator's answer without any randomness; only read with
                ``reference="answer"``, where they stand before the prompt's last token. Of an answer for which there
                are too few positions the end is read.
            steps: T thoughts that will follow; where answers are read, `ANSWER_ROOM` positions more are left for them.
        """
        if self.reference == "none":
            return prompt
        behind = steps + (0 if self.answer_format is None else ANSWER_ROOM)
        room = max(0, self.blocks.max_positions - len(prompt) - behind)
        tokens = list(noise_free_answer)[-room:] if room else []
        return torch.cat(
            [prompt[:-1], torch.tensor(tokens, dtype=torch.int64, device=prompt.device), prompt[-1:]]
        )

    @property
    def needs(self) -> frozenset[Need]:
        """Thoughts; with a reference the noise-free answer, too; where answers are read, all three."""
        if self.answer_format is not None:
            return frozenset({"thoughts", "answers", "noise_free"})
        return frozenset({"thoughts"} if self.reference == "none" else {"thoughts", "noise_free"})

    def concerns(self, sampler: Mapping[str, Any], generator_hash: str) -> list[str]:
        """How the trajectories to be scored differ from those this LatentRM was trained on; see `Reward`."""
        return trained_elsewhere(self.name, self.trained_on, sampler, generator_hash)

    @torch.no_grad()
    def score(self, model: LatentModel, seen: Seen) -> Sequence[Scored]:
        """Scores of one question's trajectories in plain PyTorch; engines compute step scores at real positions faster."""
        from latent_ext.rewards.published_positions import score_as_published

        assert seen.thoughts is not None
        if self.answer_format is not None:
            return score_answers(self, model, seen)
        if self.positions == "published":
            scores = score_as_published(self, seen.prompt, seen.thoughts, seen.tokens)
            return [own.tolist() for own in scores]
        body, place = self.module.body, self.head_weight
        scored: list[Scored] = [None] * len(seen.thoughts)
        for steps, part in read_together(seen.thoughts, range(len(seen.thoughts))):
            read = self.prompt(seen.prompt, seen.noise_free_tokens, steps)
            positions, mask = branches(torch.tensor([len(read)]), len(part), trajectory_layout(steps))
            own = torch.cat([seen.thoughts[n] for n in part]).to(place.device, place.dtype)
            embedded = body.get_input_embeddings()(read.to(place.device))
            hidden = body(
                inputs_embeds=torch.cat([embedded, own]).unsqueeze(0),
                position_ids=positions.to(place.device),
                attention_mask=mask.to(place.device, place.dtype),
                use_cache=False,
            ).last_hidden_state
            by_row = self.module.score(hidden[0, len(read) :]).float().reshape(len(part), steps)
            for n, by_step in zip(part, by_row.tolist(), strict=True):
                scored[n] = by_step
        return scored

    @property
    def blocks(self) -> Blocks:
        return blocks_of(self.module.body)

    @property
    def stages(self) -> tuple[HeadStage, ...]:
        """What stands between the hidden state and the scalar head: CODI's projector, or nothing."""
        return (
            () if self.module.applied_projector is None else projector_stages(self.module.applied_projector)
        )

    @property
    def head_weight(self) -> Tensor:
        """(hidden,)"""
        return self.module.classifier.weight[0]

    @property
    def head_bias(self) -> Tensor:
        """(1,)"""
        return self.module.classifier.bias
