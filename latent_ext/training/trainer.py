"""A LatentRM under the Hugging Face `Trainer`: its loss, its validation, its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.answers import answer_ids, given_tokens
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.latent_rm_files import save_reward
from latent_ext.training import losses
from latent_ext.training.corruptions import corrupted_orders
from latent_ext.training.labelled import Batch, LabelledQuestion, collate
from latent_ext.training.measures import measure
from latent_ext.training.optimizer import MuonAdamW
from latent_ext.training.reading import Reading, TrainableLatentRM
from latent_ext.training.recipe import Recipe

# Of a batch, what all batches have in common and no Trainer moves to a device.
_COMMON = ("rollouts", "given")


class LatentRMTrainer(Trainer):
    """Trains a LatentRM on labelled questions; one example is a question with all its trajectories.

    Args:
        reward: the LatentRM, whose module is a `TrainableLatentRM`; trained in place, and written into every
            checkpoint in a form that `latent_ext.load_reward` reads.
        recipe: the loss and its settings.
        arguments: of the Trainer, with ``remove_unused_columns=False``.
        training, validation: labelled questions, each with equal N, T and M.
        generator: that formed the trajectories; its tokenizer reads answers.
        callbacks: of the Trainer.
    """

    # Set by the Trainer, whose own annotations differ between transformers releases.
    control: Any
    optimizer: Any

    def __init__(
        self,
        reward: LatentRM,
        recipe: Recipe,
        arguments: TrainingArguments,
        training: Sequence[LabelledQuestion],
        validation: Sequence[LabelledQuestion],
        generator: LatentModel,
        callbacks: list[Any] | None = None,
    ) -> None:
        assert isinstance(reward.module, TrainableLatentRM)
        self.reward, self.recipe, self.generator = reward, recipe, generator
        self._answer_ids: dict[str | None, list[int]] = {}
        self.rollouts = training[0].rollouts
        self.given = 1
        if reward.answer_format is not None:
            self.given = given_tokens(generator.tokenizer, generator.ids, reward.answer_format)
        self.corruptions = torch.Generator().manual_seed(recipe.seed)
        super().__init__(
            model=reward.module,
            args=arguments,
            data_collator=self._collate,
            train_dataset=list(training),
            eval_dataset=list(validation),
            callbacks=callbacks,
        )

    def prompt(self, question: LabelledQuestion) -> Tensor:
        """What the LatentRM reads of a question before the thoughts."""
        return self.reward.prompt(question.prompt, question.reference.tolist(), question.counts.shape[1])

    def answer_ids(self, answer: str | None) -> list[int]:
        """What a LatentRM that reads answers reads of one."""
        if answer not in self._answer_ids:
            answer_format = self.reward.answer_format
            assert answer_format is not None
            generator = self.generator
            self._answer_ids[answer] = answer_ids(generator.tokenizer, generator.ids, answer_format, answer)
        return self._answer_ids[answer]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The recipe's loss on one batch, with the order preference where it has a weight."""
        batch, recipe = self._batch(inputs), self.recipe
        reading: Reading = model(batch)
        loss = self._loss(reading, batch)
        if recipe.order_preference > 0.0:
            count, steps = batch.counts.shape[1:]
            thoughts = batch.thoughts.unflatten(1, (count, steps))
            orders = corrupted_orders(steps, self.corruptions).to(thoughts.device)
            totals = [model(batch, thoughts[:, :, order].flatten(1, 2)).scores.sum(dim=2) for order in orders]
            preference = losses.order_preference(
                reading.scores.sum(dim=2), torch.stack(totals), batch.usable, recipe.margin
            )
            loss = loss + recipe.order_preference * preference
        if reading.gold_likelihood is not None:
            loss = loss + recipe.gold_answer * losses.gold_answer(reading.gold_likelihood, batch.usable)
        return (loss, reading) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Figures of `latent_ext.training.measures.measure`, and the loss, on the validation questions."""
        questions: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        assert self.model is not None
        training, size = self.model.training, self.args.per_device_eval_batch_size
        self.model.eval()
        scores, summed = [], 0.0
        with torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(questions), size):
                part = questions[start : start + size]
                batch = self._batch(self._prepare_inputs(self._collate(part)))
                reading = self.model(batch)
                # What has no answer has no score.
                scores.append(reading.scores.sum(dim=2).masked_fill(~batch.answered, float("-inf")).cpu())
                summed += float(self._loss(reading, batch)) * len(part)
        self.model.train(training)
        total = torch.cat(scores)
        # A contrastive score says nothing of a trajectory by itself: it may be shifted for a whole question.
        probability = None if self.recipe.loss == "contrastive" else total.sigmoid()
        figures = {"loss": summed / len(questions), **measure(questions, total, probability)}
        named = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(named)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Muon with AdamW, or AdamW alone."""
        if self.optimizer is None:
            module: Any = self.model if model is None else model
            inner = {
                parameter
                for name, parameter in module.named_parameters()
                if parameter.dim() == 2 and (".h." in name or ".layers." in name)
            }
            matrices = inner if self.recipe.optimizer == "muon" else set()
            self.optimizer = MuonAdamW(
                [p for p in module.parameters() if p in matrices],
                [p for p in module.parameters() if p not in matrices],
                muon_lr=self.recipe.muon_learning_rate,
                lr=self.recipe.learning_rate,
                weight_decay=self.recipe.weight_decay,
            )
        return self.optimizer

    def _loss(self, reading: Reading, batch: Batch) -> Tensor:
        recipe = self.recipe
        # A score of the whole trajectory is held against what is known after its last thought.
        steps, usable = reading.scores.shape[2], batch.usable & batch.answered
        values, counts = batch.values[:, :, -steps:], batch.counts[:, :, -steps:]
        scores = reading.scores.cumsum(dim=2) if recipe.running else reading.scores
        if recipe.loss == "contrastive":
            return losses.contrastive(scores, values, usable, recipe.form)  # type: ignore[arg-type]
        if recipe.loss == "bce":
            return losses.binary(scores, values, usable)
        assert reading.concentration is not None
        return losses.beta_binomial(scores, reading.concentration, counts, batch.rollouts, usable)

    def _batch(self, tensors: dict[str, Tensor]) -> Batch:
        return Batch(**tensors, rollouts=self.rollouts, given=self.given)

    def _collate(self, questions: Sequence[LabelledQuestion]) -> dict[str, Tensor]:
        prompts = [self.prompt(question) for question in questions]
        reads = None if self.reward.answer_format is None else self.answer_ids
        batch = collate(
            questions,
            prompts,
            reads,
            with_gold=self.recipe.gold_answer > 0.0,
            max_positions=self.reward.blocks.max_positions,
        )
        return {
            field.name: getattr(batch, field.name) for field in fields(Batch) if field.name not in _COMMON
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        # Prompts of like length go together, so that little is padded; N * T places are the same for all.
        questions: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(question.prompt) for question in questions]
        generator = torch.Generator().manual_seed(self.recipe.seed)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths, generator=generator)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        save_reward(self.reward, Path(output_dir or str(self.args.output_dir)))
