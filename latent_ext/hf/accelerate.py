"""`accelerate`: a live model keeps its class, weights and call signature; its ``generate`` is served by the engines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from latent_ext.engine.base import Beam
from latent_ext.hf.generation_config import LATENT_FIELDS, asked_length, check_latent_fields, latent_field
from latent_ext.hf.live_model import (
    check_live,
    family_name,
    latent_tokens,
    live_family,
    live_latent_model,
    live_reward,
)
from latent_ext.hf.output import LatentGenerateOutput
from latent_ext.hf.paths import check_beam
from latent_ext.hf.prompts import check_frames, split_batch
from latent_ext.hf.rollout import Rollout, drawn_seed, stack_scores, stack_thoughts
from latent_ext.hf.sampling import check_supported, latent_sampler
from latent_ext.hf.stopping import StopRules
from latent_ext.models.colar import Colar
from latent_ext.models.latent_model import LatentModel
from latent_ext.samplers import Scope

Model = TypeVar("Model", bound=PreTrainedModel)
# Instance attributes that accelerate() sets, and restore() takes away again.
_SET = ("generate", "restore")


def accelerate(
    model: Model | LatentModel,
    *,
    family: str | Colar | None = None,
    tokenizer: Any = None,
    latent_length: int | None = None,
    scope: Scope = "prompt+latent",
    engine: str = "auto",
    weights: str | None = None,
    seed: int | None = None,
) -> Model:
    """Serves the ``generate`` of a live model by the engines, with the call signature and fields of LatentTTS.

    ``generate(input_ids, attention_mask, generation_config, num_return_sequences=N, ...)`` reads `latent_length` (CoLaR:
    `max_latent_length`), `latent_do_sample`, `latent_do_sample_by`, `dropout_p`, `noise_std`, `num_return_sequences`,
    `num_beams`, `num_beam_candidates`, `process_reward_model` and `return_dict_in_generate` as LatentTTS does.
    Sequences have its form: prompt, latent tokens, end token, answer. Rows of CoLaR have numbers of thoughts of their
    own, see `LatentGenerateOutput`; its separator always follows the last one. What the engines cannot follow is
    refused by a ValueError that names it. The model object stays as it is but for two attributes; ``model.restore()``
    takes them away.

    Args:
        model: LatentTTS's COCONUT or CODI classes on GPT-2 or Llama, its ``ColarLlama``, a plain ``GPT2LMHeadModel`` or
            ``LlamaForCausalLM`` with COCONUT's weights, or a `LatentModel`. In eval mode.
        family: "coconut", "codi" or "colar"; default: told by the model's submodules ``projector`` and ``lt_head``.
        tokenizer: where the latent ids come from; default: `latent_id`, `latent_start_id` and `latent_end_id` of the
            model's config (CoLaR: its separator is `latent_end_id`, and there is no start).
        latent_length: number of thoughts where a generation config does not say it; 6 by default. CoLaR: the most; 64.
        scope: "prompt+latent" (default), dropout also while the prompt is read, as published; or "latent", which
            reads each prompt once for all of its trajectories.
        engine, weights: see `latent_ext.solve`.
        seed: run seed of every call; default: drawn at every call from PyTorch's global generator, so that
            ``torch.manual_seed`` (``transformers.set_seed``) fixes a run.

    Returns:
        The same object.

    Raises:
        TypeError: for a model that no engine can run.
        ValueError: naming the argument at fault.

    Source: call signature and fields of LatentTTS (You et al., arXiv 2510.07745).

    Example:
        >>> import latent_ext
        >>> model = latent_ext.accelerate(latent_ext.load())
        >>> model.restore().generate == model.generate
        True
    """
    if isinstance(model, LatentModel):
        loaded = model
        tokenizer = loaded.tokenizer if tokenizer is None else tokenizer
        if family is None:
            family = loaded.family if isinstance(loaded.family, Colar) else loaded.family.name
        latent_length = loaded.family.latent_length if latent_length is None else latent_length
        model = cast(Model, loaded.hf)
    live = check_live(model)
    if "restore" in vars(live):
        cast(Any, live).restore()
    known = live_family(live, family, latent_length)
    latent_tokens(live, known.name, tokenizer)
    served = _Generate(live, family, tokenizer, latent_length, scope, engine, weights, seed)
    before = {name: vars(live)[name] for name in _SET if name in vars(live)}
    vars(live).update(generate=served, restore=_Restore(live, before))
    return cast(Model, live)


@dataclass
class _Restore:
    """``model.restore()``: the untouched model."""

    model: Any
    before: dict[str, Any]

    def __call__(self) -> Any:
        """Takes away what `accelerate` set; returns the model."""
        for name in _SET:
            vars(self.model).pop(name, None)
        vars(self.model).update(self.before)
        return self.model


@dataclass
class _Generate:
    """``model.generate`` of an accelerated model."""

    model: Any
    family: str | Colar | None
    tokenizer: Any
    latent_length: int | None
    scope: Scope
    engine: str
    weights: str | None
    seed: int | None

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Callable | None = None,
        synced_gpus: bool | None = None,
        streamer: Any = None,
        process_reward_model: Any = None,
        **kwargs: Any,
    ) -> Tensor | LatentGenerateOutput:
        """The parameters of LatentTTS's ``generate``; see `accelerate`."""
        refused = {
            "logits_processor": logits_processor,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "synced_gpus": synced_gpus,
            "streamer": streamer,
            "inputs_embeds": kwargs.pop("inputs_embeds", None),
            "past_key_values": kwargs.pop("past_key_values", None),
            "custom_generate": kwargs.pop("custom_generate", None),
        }
        for name, value in refused.items():
            # An empty list of processors asks for nothing.
            if value is not None and value is not False and (name != "logits_processor" or len(value)):
                raise ValueError(
                    f"{name}: is not supported by an accelerated model; model.restore() brings back its own"
                )
        model = check_live(self.model)
        input_ids = _input_ids(inputs, kwargs.pop("input_ids", None))
        attention_mask = kwargs.pop("attention_mask", None)
        tokenizer = kwargs.pop("tokenizer", None) or self.tokenizer
        config = _merged(generation_config or model.generation_config, kwargs)
        check_latent_fields(config)

        name = family_name(model, self.family)
        tokens = latent_tokens(model, name, self.tokenizer, config)
        eos = _token_list(config.eos_token_id, model.config.eos_token_id)
        if not eos:
            raise ValueError("eos_token_id: neither the generation config nor the model's config has one")
        pad = _token_list(config.pad_token_id, model.config.pad_token_id)
        prompts = split_batch(input_ids, attention_mask, pad=pad[0] if pad else None, eos=tuple(eos))
        check_frames(prompts, tokens)
        family = live_family(model, self.family, asked_length(config, name, self.latent_length))
        seen = live_latent_model(model, tokens, family=family, eos=eos[0], pad=pad[0] if pad else eos[0])
        reward = live_reward(process_reward_model, int(model.config.hidden_size))
        drawn = bool(latent_field(config, "explicit_do_sample"))
        check_supported(config, drawn=drawn)
        beam, returned = _beam(config, reward)
        check_beam(beam, seen, "num_beams")
        sampler = latent_sampler(config, seen.body, self.scope)
        random = drawn or not sampler.deterministic
        rollout = Rollout(
            model=seen,
            tokens=tokens,
            sampler=sampler,
            paths=returned if beam is None else beam.keep * beam.candidates,
            max_new_tokens=_max_new_tokens(config, input_ids.shape[1]),
            # Without sampling the global generator is left alone.
            seed=drawn_seed(self.seed) if random else 0,
            temperature=(1.0 if config.temperature is None else float(config.temperature)) if drawn else 0.0,
            reward=reward,
            beam=beam,
            eos=tuple(eos),
            rules=StopRules.of(stopping_criteria, config.stop_strings, tokenizer),
            engine=self.engine,
            weights=self.weights,
        )
        trajectories = rollout.run(prompts, decode_all=beam is None or returned > 1)
        if beam is not None:
            best_first = [sorted(listed, key=_rank)[:returned] for listed in trajectories]
            trajectories = best_first
        sequences = rollout.sequences(input_ids, trajectories)
        if not config.return_dict_in_generate:
            return sequences
        return LatentGenerateOutput(
            sequences=sequences,
            latent_thoughts=stack_thoughts(trajectories, input_ids.device),
            reward_scores=stack_scores(trajectories, input_ids.device),
        )


def _input_ids(inputs: Tensor | None, input_ids: Tensor | None) -> Tensor:
    if (inputs is None) == (input_ids is None):
        given = "both inputs and input_ids" if inputs is not None else "neither inputs nor input_ids"
        raise ValueError(f"input_ids: got {given}; one of them is needed")
    return cast(Tensor, input_ids if inputs is None else inputs)


def _merged(base: GenerationConfig, changes: dict[str, Any]) -> GenerationConfig:
    """A copy of `base` with `changes`; what is no field of it is refused."""
    config = copy.deepcopy(base)
    for name in [name for name in changes if name in LATENT_FIELDS]:
        setattr(config, name, changes.pop(name))
    known = set(vars(GenerationConfig()))
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"{name}: is no argument of generate, nor a field of a generation config")
        setattr(config, name, value)
    return config


def _token_list(*candidates: Any) -> list[int]:
    for value in candidates:
        if value is not None:
            return [int(token) for token in (value if isinstance(value, (list, tuple)) else [value])]
    return []


def _max_new_tokens(config: GenerationConfig, prompt_length: int) -> int:
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens)
    if config.max_length is not None:
        return int(config.max_length) - prompt_length
    raise ValueError("max_new_tokens: not given; it counts thoughts, the end token and the answer")


def _beam(config: GenerationConfig, reward: Any) -> tuple[Beam | None, int]:
    """Pruning between thoughts, if it is asked for, and how many rows come back per prompt."""
    candidates = latent_field(config, "num_beam_candidates")
    counts = []
    for name in ("num_beams", "num_return_sequences"):
        value = getattr(config, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: got {value!r}; a whole number >= 1 is needed")
        counts.append(1 if value is None else value)
    beams, returned = counts
    if beams == 1 and candidates is None:
        return None, returned
    if reward is None:
        raise ValueError("process_reward_model: not given; beams are pruned by the scores of a reward model")
    if candidates is None:
        raise ValueError(
            f"num_beam_candidates: not given with num_beams={beams}; it says how many thoughts each tries"
        )
    if returned > beams:
        raise ValueError(
            f"num_return_sequences: got {returned}; with num_beams={beams} at most that many are left"
        )
    return Beam(beams, candidates), returned


def _rank(trajectory: Any) -> tuple[float, int]:
    """Best score first, unusable ones last, ties in order."""
    return (float("inf") if trajectory.score is None else -trajectory.score, trajectory.index)
