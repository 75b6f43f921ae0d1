"""Recipes of `latent-ext train-rm`: one YAML file of flat settings, each of which the command line can replace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from latent_ext.recipes import check_keys, read_mapping, shown
from latent_ext.rewards.answers import check_answer_format
from latent_ext.rewards.latent_rm import REFERENCES
from latent_ext.training.losses import FORMS

LOSSES = ("contrastive", "bce", "beta_binomial")
OPTIMIZERS = ("muon", "adamw")
READS = ("thoughts", "answer")
_ALLOWED = {
    "loss": LOSSES,
    "form": FORMS,
    "reference": REFERENCES,
    "reads": READS,
    "optimizer": OPTIMIZERS,
    "stored_as": ("float32", "float16", "bfloat16"),
}
_AT_LEAST = {
    "batch_size": 1,
    "eval_batch_size": 1,
    "evaluations": 1,
    "patience": 1,
    "threads": 1,
    "warmup_steps": 0,
}


@dataclass(frozen=True)
class Recipe:
    """Everything that a trained LatentRM depends on.

    Attributes:
        labels: directory that `latent-ext annotate` wrote.
        validation: another one; its questions choose the checkpoint and stop the training.
        output: checkpoints, logs, and the best LatentRM in `output`/best.
        generator: directory or Hub id of the generator that was labelled.
        loss: "contrastive", "bce" or "beta_binomial", see `latent_ext.training.losses`.
        form: of the contrastive loss: "normalised" or "published".
        running: the loss sees the running sum of step scores, which pruning and the choice compare, instead of each
            step's score alone (published).
        order_preference: weight of the order preference beside the loss; 0 for none.
        margin: of the order preference.
        reference: "none", or "answer": the LatentRM reads the noise-free answer, too.
        reads: "thoughts", or "answer": the LatentRM reads each trajectory's answer behind its thoughts, and gives one score
            for the whole, see `latent_ext.rewards.answers`; such a one cannot guide a beam.
        answer_format: with ``reads: answer``, how an answer is written; ``{answer}`` stands for the number.
        gold_answer: with ``reads: answer``, weight of the log probability of the gold answer behind every trajectory's
            thoughts, beside the loss; 0 for none.
        mixed_only: leave out questions on which all trajectories agree; in a contrastive loss they say nothing.
        dropout: in every dropout layer of the LatentRM while it trains.
        optimizer: "muon" for the matrices of the blocks and AdamW for the rest, or "adamw" for all.
        learning_rate: of AdamW.
        muon_learning_rate: of Muon.
        weight_decay, clip: as usual; the clip is that of the gradient's norm.
        batch_size: questions per update.
        eval_batch_size: questions per pass of the validation.
        epochs: over the labels; may be a fraction.
        warmup_steps: updates until the full learning rate, after which it falls along a cosine to 0.
        evaluations: how often the validation is measured, evenly spaced.
        patience: evaluations without a better one after which training ends.
        metric: of `latent_ext.training.measures.measure`, that names the best checkpoint.
        bf16: products in bfloat16.
        stored_as: dtype of the best LatentRM on disk.
        seed: of the order of questions and of everything drawn.
        threads: CPU threads.
    """

    labels: str
    validation: str
    output: str
    generator: str = "shipped"
    loss: str = "contrastive"
    form: str = "normalised"
    running: bool = True
    order_preference: float = 0.0
    margin: float = 0.05
    reference: str = "none"
    reads: str = "thoughts"
    answer_format: str = "### {answer}"
    gold_answer: float = 1.0
    mixed_only: bool = True
    dropout: float = 0.0
    optimizer: str = "muon"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 1e-2
    weight_decay: float = 0.05
    clip: float = 1.0
    batch_size: int = 32
    eval_batch_size: int = 16
    epochs: float = 1.0
    warmup_steps: int = 30
    evaluations: int = 8
    patience: int = 4
    metric: str = "auc"
    bf16: bool = False
    stored_as: str = "float32"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # Under `from __future__ import annotations` a field's type is its text.
            kind: Any = {"str": str, "bool": bool, "int": int, "float": (int, float)}[str(field.type)]
            if not isinstance(value, kind) or (isinstance(value, bool) and field.type != "bool"):
                raise ValueError(f"{field.name}: got {shown(value)}; a {field.type} is needed")
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}; a whole number >= {least} is needed")
        for name in ("learning_rate", "muon_learning_rate", "epochs", "clip"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}; a finite number > 0 is needed")
        for name in ("order_preference", "margin", "gold_answer", "weight_decay"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}; a finite number >= 0 is needed")
        check_answer_format(self.answer_format)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: got {self.dropout}; a probability in [0, 1) is needed")


def read_recipe(path: str | Path, replaced: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file.

    Args:
        path: a file of ``key: value`` lines; keys are the attributes of `Recipe`.
        replaced: "key=value" texts, values in YAML, that come after the file.

    Raises:
        ValueError: naming the file, key or value at fault.
    """
    settings = read_mapping(path, replaced)
    known = {field.name: field for field in fields(Recipe)}
    check_keys(settings, known, "recipe")
    for key in ("labels", "validation", "output"):
        if key not in settings:
            raise ValueError(f"recipe: the key {key!r} is missing; give it in {path} or with --set {key}=...")
    # YAML reads 1e-3 as text: a number needs its point there.
    for key, value in settings.items():
        if known[key].type == "float" and isinstance(value, str):
            try:
                settings[key] = float(value)
            except ValueError:
                raise ValueError(f"{key}: got {shown(value)}; a float is needed") from None
    return Recipe(**settings)
