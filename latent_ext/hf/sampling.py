"""From the fields of a generation config to a sampler, and the fields that no engine can follow."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import GenerationConfig, GPT2Model, PreTrainedModel

from latent_ext.hf.generation_config import latent_field
from latent_ext.samplers import GaussianNoise, MCDropout, Sampler, Scope

# Fields that change which tokens come out, with the values that change nothing. Anything else is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "force_words_ids": (None,),
    "constraints": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1.0),
    "penalty_alpha": (None, 0, 0.0),
    "exponential_decay_length_penalty": (None,),
    "num_beam_groups": (None, 1),
    "dola_layers": (None,),
    "prompt_lookup_num_tokens": (None,),
    "token_healing": (None, False),
    "watermarking_config": (None,),
    "max_time": (None,),
    "output_scores": (None, False),
    "output_logits": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
}
# With sampled answer tokens only.
_NEUTRAL_DRAWN: dict[str, tuple[Any, ...]] = {
    "top_k": (None, 0),
    "top_p": (None, 1.0),
    "top_h": (None,),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}


def check_supported(config: GenerationConfig, *, drawn: bool) -> None:
    """Refuses fields that would have to be ignored.

    Args:
        drawn: whether answer tokens are sampled.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    for name, neutral in {**_NEUTRAL, **(_NEUTRAL_DRAWN if drawn else {})}.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ValueError(
                f"{name}: got {value!r}; the engines do not follow it, only {neutral[-1]!r} is supported"
            )


def latent_sampler(config: GenerationConfig, body: PreTrainedModel, scope: Scope) -> Sampler:
    """The sampler that ``latent_do_sample``, ``latent_do_sample_by``, ``dropout_p`` and ``noise_std`` ask for.

    Dropout acts where the model's own dropout layers do, as published: with a live ``drop`` layer (``embd_pdrop`` > 0) at
    the embedding, too.

    Raises:
        ValueError: for "dropout" without `dropout_p` on a model whose dropout layers do not say one probability.
    """
    if not latent_field(config, "latent_do_sample"):
        return Sampler(scope=scope)
    if latent_field(config, "latent_do_sample_by") == "noise":
        return Sampler(noise=GaussianNoise(float(latent_field(config, "noise_std"))), scope=scope)
    residual, embedding = _own_dropout(body)
    given = latent_field(config, "dropout_p")
    if given is None and (len(residual) != 1 or (embedding > 0.0 and {embedding} != residual)):
        found = sorted(residual | ({embedding} if embedding > 0.0 else set()))
        raise ValueError(
            f"dropout_p: not given, and the model's dropout layers have the probabilities {found}; give one"
        )
    p = float(given) if given is not None else next(iter(residual))
    sites = "residual+embedding" if embedding > 0.0 else "residual"
    return Sampler(dropout=MCDropout(p, sites=sites), scope=scope)  # type: ignore[arg-type]


def _own_dropout(body: PreTrainedModel) -> tuple[set[float], float]:
    """Probabilities of the layers on branch outputs, and of the one at the embedding."""
    if isinstance(body, GPT2Model):
        blocks: Any = body.h
        return {float(m.p) for block in blocks for m in (block.attn.resid_dropout, block.mlp.dropout)}, float(
            body.drop.p
        )
    # On Llama there are none unless a wrapper around down_proj brings one.
    inside = {
        float(module.p)
        for name, module in body.named_modules()
        if isinstance(module, nn.Dropout) and ".down_proj." in name
    }
    return inside, 0.0
