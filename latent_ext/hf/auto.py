"""The saved format of this package behind ``AutoConfig`` and ``AutoModelForCausalLM``.

A checkpoint that says ``gpt2`` or ``llama`` stays what it is: `latent_ext.load` and `latent_ext.generate` take it. This
format is for models that should say themselves that they think in vectors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from latent_ext.hf.generate import generate
from latent_ext.hf.live_model import check_live, latent_tokens, live_family
from latent_ext.hf.model_card import write_model_card
from latent_ext.hf.output import LatentGenerateOutput
from latent_ext.models.latent_model import LatentModel

_CLASSES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}


class LatentConfig(PretrainedConfig):
    """Config of a `LatentForCausalLM`.

    Args:
        family: "coconut" or "codi".
        latent_length: number of thoughts T, 6 by default.
        projector_size: inner width of CODI's projector; None for a family without one.
        causal_lm: config of the stock model inside, with its ``model_type`` ("gpt2" or "llama") and the ids
            ``latent_id``, ``latent_start_id``, ``latent_end_id``.
    """

    model_type = "latent_ext"

    family: str = "coconut"
    latent_length: int = 6
    projector_size: int | None = None
    causal_lm: dict | None = None

    def causal_lm_config(self) -> PretrainedConfig:
        """The stock model's config.

        Raises:
            ValueError: for a ``model_type`` that no engine runs.
        """
        fields = dict(self.causal_lm or {})
        model_type = fields.pop("model_type", None)
        if model_type not in _CLASSES:
            raise ValueError(
                f"causal_lm: its model_type is {model_type!r}; allowed are {', '.join(_CLASSES)}"
            )
        return AutoConfig.for_model(model_type, **fields)

    @property
    def hidden_size(self) -> int:
        return int(self.causal_lm_config().hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.causal_lm_config().vocab_size)

    @property
    def max_position_embeddings(self) -> int:
        return int(self.causal_lm_config().max_position_embeddings)


class LatentForCausalLM(PreTrainedModel, GenerationMixin):
    """A stock model (``causal_lm``) whose ``generate`` is that of `latent_ext.generate`.

    Example:
        >>> import latent_ext
        >>> model = latent_ext.LatentForCausalLM.wrap(latent_ext.load())
        >>> model.config.family, model.config.latent_length
        ('coconut', 6)
    """

    config_class = LatentConfig
    base_model_prefix = "causal_lm"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: LatentConfig, causal_lm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if causal_lm is None:
            inner = config.causal_lm_config()
            causal_lm = _CLASSES[inner.model_type](inner)
            if config.projector_size is not None:
                causal_lm.projector = _projector(int(inner.hidden_size), config.projector_size)
        self.causal_lm: Any = causal_lm
        self.post_init()

    @classmethod
    def wrap(
        cls,
        model: PreTrainedModel | LatentModel,
        *,
        family: str | None = None,
        tokenizer: Any = None,
        latent_length: int | None = None,
    ) -> LatentForCausalLM:
        """A live model in this format; it shares the weights.

        Args:
            model: as in `latent_ext.accelerate`.
            family, tokenizer, latent_length: as in `latent_ext.accelerate`.

        Raises:
            TypeError, ValueError: as in `latent_ext.accelerate`.
        """
        if isinstance(model, LatentModel):
            loaded, model = model, model.hf
            tokenizer = loaded.tokenizer if tokenizer is None else tokenizer
            family = loaded.family.name if family is None else family
            latent_length = loaded.family.latent_length if latent_length is None else latent_length
        live = check_live(model)
        known = live_family(live, family, latent_length)
        if known.name == "colar":
            raise ValueError(
                "model: is one of family 'colar', for whose lt_head this format has no place; save it in its own layout"
            )
        tokens = latent_tokens(live, known.name, tokenizer)
        inner = live.config.to_dict() | {
            "latent_id": tokens.latent,
            "latent_start_id": tokens.start,
            "latent_end_id": tokens.end,
        }
        projector: Any = dict(live.named_children()).get("projector")
        size = None if projector is None else int(projector.get_submodule("1").weight.shape[0])
        for name, token in (
            ("latent_id", tokens.latent),
            ("latent_start_id", tokens.start),
            ("latent_end_id", tokens.end),
        ):
            setattr(live.config, name, token)
        config = LatentConfig(
            family=known.name, latent_length=known.latent_length, projector_size=size, causal_lm=inner
        )
        wrapped = cls(config, live)
        wrapped.generation_config = live.generation_config
        return wrapped.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.causal_lm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.causal_lm.get_output_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The stock model's forward."""
        return self.causal_lm(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor | LatentGenerateOutput:
        """``model.generate`` with `latent_ext.generate` as its decoding method, whose arguments it takes."""
        self.causal_lm.generation_config = self.generation_config
        defaults = {"custom_generate": generate, "family": self.config.family}
        given = getattr(kwargs.get("generation_config") or self.generation_config, "latent_length", None)
        if given is None:
            defaults["latent_length"] = self.config.latent_length
        return self.causal_lm.generate(*args, **(defaults | kwargs))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As usual; a model card is written where there is none."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_model_card(
            Path(save_directory), family=self.config.family, latent_length=self.config.latent_length
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload model",
        **save: Any,
    ) -> str:
        """Uploads what `save_pretrained` writes; the inherited method would replace the model card by an empty one.

        Args:
            repo_id: created if it does not exist; a card that it already has stays.
            private, token, revision, create_pr, commit_message: as everywhere in ``huggingface_hub``.
            save: for `save_pretrained`.

        Returns:
            Address of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        has_card = api.file_exists(repo_id, "README.md", revision=revision)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, **save)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=directory,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                ignore_patterns=["README.md"] if has_card else None,
            )
        return str(commit.commit_url)


def _projector(hidden: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden), nn.LayerNorm(hidden)
    )


def register() -> None:
    """Makes ``AutoConfig`` and ``AutoModelForCausalLM`` know the format; any number of times."""
    AutoConfig.register(LatentConfig.model_type, LatentConfig, exist_ok=True)
    AutoModelForCausalLM.register(LatentConfig, LatentForCausalLM, exist_ok=True)
