"""`train_rm`: from a recipe and labels to a LatentRM on disk."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from latent_ext.hints import did_you_mean
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.load import load
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.latent_rm_files import save_reward
from latent_ext.training.fit_answer_reading import fit_answer_reading
from latent_ext.training.labelled import LabelledQuestion
from latent_ext.training.measures import measure
from latent_ext.training.reading import from_generator
from latent_ext.training.recipe import Recipe
from latent_ext.training.shards import read_labels, read_settings
from latent_ext.training.trainer import LatentRMTrainer

# Of run.json, what a LatentRM carries with it: the distribution of the trajectories, and how they were labelled.
_CARRIED = (
    "generator_hash", "sampler", "p", "per", "sites", "sigma", "relative", "scope", "trajectories", "rollouts", "policy",
)  # fmt: skip


def train_rm(recipe: Recipe, *, resume: bool = False) -> dict[str, float]:
    """Trains a LatentRM (LatentTTS, section 3.2, and what came after it).

    Writes to the recipe's `output`: checkpoints that `latent_ext.load_reward` reads, log_history.json, TensorBoard
    logs where tensorboard is installed, ``best`` (the best LatentRM), where the published layout can hold it
    ``best_latenttts``, and answer_reading.json, an `AnswerReading` fitted on the same labels.

    Args:
        recipe: see `Recipe`.
        resume: go on from the last checkpoint in `output`.

    Returns:
        The validation figures of the best LatentRM, see `latent_ext.training.measures.measure`.

    Raises:
        ValueError: if labels or recipe do not fit the generator or each other, naming the key.
        LabelError: for a label directory that cannot be used.
    """
    torch.set_num_threads(recipe.threads)
    transformers.set_seed(recipe.seed)
    model = load(recipe.generator)
    settings = _settings(recipe, model)
    training = _questions("labels", recipe.labels)
    validation = _questions("validation", recipe.validation)
    used = [q for q in training if q.flag == "mixed" or not recipe.mixed_only]
    if not used:
        raise ValueError(f"labels: none of the {len(training)} questions of {recipe.labels} is mixed")
    _check_size(model, training[0])
    defined = {"loss", *measure(validation, torch.zeros(len(validation), validation[0].counts.shape[0]))}
    if recipe.loss != "contrastive":
        defined.add("calibration_error")
    if recipe.metric == "auc" and "auc" not in defined:
        raise ValueError(
            f"validation: none of the {len(validation)} questions of {recipe.validation} has right and wrong trajectories, "
            "without which there is no auc; label more questions, or take another metric"
        )
    if recipe.metric not in defined:
        hint = did_you_mean(recipe.metric, defined)
        raise ValueError(
            f"metric: got {recipe.metric!r}{hint}; of these {len(validation)} validation questions there are "
            f"{', '.join(sorted(defined))}"
        )

    trained_on = {name: settings[name] for name in _CARRIED} | {
        "loss": recipe.loss,
        "running": recipe.running,
        "questions": len(training),
        "mixed_questions": len(used),
    }
    ranked = [q for q in used if bool(q.correct.any()) and not bool(q.correct.all())]
    known_answers = fit_answer_reading(ranked, dict(trained_on)) if ranked else None
    reads_answers = recipe.reads == "answer"
    if reads_answers:
        if known_answers is None:
            raise ValueError(
                f"labels: none of the {len(training)} questions of {recipe.labels} has right and wrong answers, from which "
                "a LatentRM that reads answers could learn"
            )
        trained_on |= {"reads": recipe.reads, "gold_answer": recipe.gold_answer}
    module = from_generator(
        model,
        reliable=recipe.loss == "beta_binomial",
        dropout=recipe.dropout,
        known_answers=known_answers if reads_answers else None,
    )
    answer_format = recipe.answer_format if reads_answers else None
    reward = LatentRM(
        module, recipe.output, trained_on, reference=recipe.reference, answer_format=answer_format
    )
    updates = max(1, math.ceil(recipe.epochs * len(used) / recipe.batch_size))
    trainer = LatentRMTrainer(
        reward,
        recipe,
        _arguments(recipe, updates),
        used,
        validation,
        model,
        [EarlyStoppingCallback(early_stopping_patience=recipe.patience)],
    )
    trainer.remove_callback(PrinterCallback)  # standard output belongs to the caller
    output = Path(recipe.output)
    last = get_last_checkpoint(output) if resume and output.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    # It looks for figures named eval_*, and would warn of the last ones.
    trainer.remove_callback(EarlyStoppingCallback)
    module.eval()
    figures = trainer.evaluate(metric_key_prefix="best")
    figures.pop("epoch", None)
    dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[recipe.stored_as]
    save_reward(reward, output / "best", dtype=dtype)
    if recipe.reference == "none" and not reads_answers:
        save_reward(reward, output / "best_latenttts", dtype=dtype, layout="latenttts")
    if known_answers is not None:
        known_answers.save(output / "answer_reading.json")
    history = json.dumps(trainer.state.log_history, indent=2) + "\n"
    (output / "log_history.json").write_text(history, encoding="utf-8")
    return {name.removeprefix("best_"): value for name, value in figures.items()}


def _settings(recipe: Recipe, model: LatentModel) -> dict[str, Any]:
    settings = read_settings(recipe.labels)
    other = read_settings(recipe.validation)
    for name in ("generator_hash", "sampler", "scope", "sites"):
        if settings.get(name) != other.get(name):
            raise ValueError(
                f"validation: {recipe.validation} has {name} {other.get(name)!r}; the labels have {settings.get(name)!r}"
            )
    if settings.get("generator_hash") != model.weights_hash:
        raise ValueError(
            f"labels: {recipe.labels} are of the generator {settings.get('generator_hash')}; "
            f"{recipe.generator} is {model.weights_hash}"
        )
    return settings


def _questions(key: str, directory: str) -> list[LabelledQuestion]:
    questions = read_labels(directory)
    shapes = {tuple(question.counts.shape) for question in questions}
    if len(shapes) != 1:
        raise ValueError(
            f"{key}: {directory} holds questions of (trajectories, thoughts) {sorted(shapes)}; one is needed"
        )
    return questions


def _check_size(model: LatentModel, question: LabelledQuestion) -> None:
    hidden = question.thoughts.shape[2]
    if hidden != model.blocks.hidden_size:
        raise ValueError(
            f"labels: thoughts of size {hidden}; the generator's have {model.blocks.hidden_size}"
        )


def _arguments(recipe: Recipe, updates: int) -> TrainingArguments:
    every = max(1, updates // recipe.evaluations)
    return TrainingArguments(
        output_dir=recipe.output,
        max_steps=updates,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.eval_batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(recipe.warmup_steps, updates // 2),
        max_grad_norm=recipe.clip,
        bf16=recipe.bf16,
        seed=recipe.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=recipe.metric,
        greater_is_better=not recipe.metric.endswith(("loss", "error")),
        logging_steps=max(1, every // 4),
        report_to=["tensorboard"] if _has_tensorboard() else [],
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=False,
    )


def _has_tensorboard() -> bool:
    from transformers.integrations import is_tensorboard_available

    return bool(is_tensorboard_available())
