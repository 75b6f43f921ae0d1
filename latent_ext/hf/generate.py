"""`generate`: a decoding method for ``model.generate(custom_generate=latent_ext.generate)`` on stock models."""

from __future__ import annotations

import inspect
import sys
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper

from latent_ext.hf.generation_config import asked_length, check_latent_fields, latent_field
from latent_ext.hf.live_model import (
    check_live,
    family_name,
    latent_tokens,
    live_family,
    live_latent_model,
    live_reward,
)
from latent_ext.hf.output import LatentGenerateOutput
from latent_ext.hf.paths import asked_beam, check_beam, chosen_paths, number_of_paths
from latent_ext.hf.prompts import check_frames, split_batch
from latent_ext.hf.rollout import Rollout, drawn_seed, stack_scores, stack_thoughts
from latent_ext.hf.sampling import check_supported, latent_sampler
from latent_ext.hf.stopping import StopRules
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import GaussianNoise, MCDropout, Sampler, Scope, as_sampler

_GENERATE = inspect.unwrap(GenerationMixin.generate).__code__
# Arguments of model.generate that never reach a callable; given, they would be silently without effect.
_NOT_HANDED_ON = ("streamer", "synced_gpus", "assistant_model", "prefix_allowed_tokens_fn")


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: Any = None,
    generation_config: GenerationConfig | None = None,
    *,
    num_paths: int | None = None,
    return_paths: int | None = None,
    sampler: Sampler | MCDropout | GaussianNoise | str | None = None,
    scope: Scope | None = None,
    reward: LatentRM | torch.nn.Module | None = None,
    select: str | None = None,
    beams: int | None = None,
    candidates: int | None = None,
    latent_length: int | None = None,
    family: str | None = None,
    engine: str = "auto",
    weights: str | None = None,
    seed: int | None = None,
    latent_tokenizer: Any = None,
    latent_stop_strings: str | list[str] | None = None,
    **model_kwargs: Any,
) -> Tensor | LatentGenerateOutput:
    """Parallel latent trajectories of every prompt, and one that is chosen, on an unmodified Hugging Face model.

    Not called by itself but as ``model.generate(**inputs, custom_generate=latent_ext.generate, num_paths=64, ...)``,
    also through ``pipeline("text-generation")``. Arguments that are None are taken from the generation config
    (`LatentGenerationConfig`), which is saved with the model. Prompts end with the start token of the latent phase;
    ``max_new_tokens`` counts thoughts, the end token and the answer. Padding is on the left.

    Args:
        model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs: from
            ``model.generate``. ``do_sample=True`` draws the answer tokens at ``temperature``; it takes ``top_k=0``,
            since answers are drawn from the whole distribution. Criteria are asked after every answer token.
        num_paths: trajectories per prompt; `return_paths` by default.
        return_paths: how many of them come back; ``num_return_sequences`` by default, which is 1 and which Hugging Face
            allows to be more with ``do_sample=True`` only.
        sampler: as in `latent_ext.solve`, but no mixture; default: by `latent_do_sample`, `latent_do_sample_by`,
            `dropout_p` and `noise_std` of the config.
        scope: "latent" by default, or "prompt+latent".
        reward: a `LatentRM` or a token classifier of LatentTTS.
        select: "best_of_n", "majority", "weighted_vote", "weighted_vote_raw" or "beam"; default: best_of_n with a reward,
            else majority.
        beams, candidates: with "beam", instead of `num_paths`; see `latent_ext.solve`.
        latent_length: number of thoughts; 6 by default. CoLaR: the most; the config's `max_latent_length`, 64 by default.
        family: "coconut", "codi" or "colar"; default: told by the model's submodules.
        engine, weights: see `latent_ext.solve`.
        seed: default: drawn from PyTorch's global generator.
        latent_tokenizer: where latent ids come from and with which votes compare answers as text; without one, latent
            ids come from the config, and votes compare the token ids of answers that ended.
        latent_stop_strings: strings that end an answer; they need `latent_tokenizer` (``stop_strings`` cannot reach a
            callable).

    Returns:
        int64 (batch, length), the chosen path of each prompt; with ``return_paths=R`` the R best-scored paths of each,
        or all of them in their own order. `LatentGenerateOutput` with ``return_dict_in_generate=True``.

    Raises:
        ValueError, TypeError: naming the argument that is wrong or that the engines cannot follow, such as a streamer,
            ``inputs_embeds``, a logits processor, or a cache that already holds something.

    Source: You et al., "Parallel test-time scaling for latent reasoning models" (LatentTTS, arXiv 2510.07745).

    Example:
        >>> import latent_ext
        >>> loaded = latent_ext.load()
        >>> text = loaded.family.prompt("Anna has 3 eggs. She wins 2.")
        >>> inputs = loaded.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        >>> written = loaded.hf.generate(
        ...     **inputs, custom_generate=latent_ext.generate, latent_tokenizer=loaded.tokenizer, max_new_tokens=16
        ... )
    """
    _refuse_what_is_not_handed_on()
    live = check_live(model)
    config = GenerationConfig() if generation_config is None else generation_config
    check_latent_fields(config)
    drawn = _draws_tokens(config)
    check_supported(config, drawn=drawn)
    _check_processors(logits_processor, drawn)
    if int(config.num_beams or 1) > 1:
        raise ValueError(
            f"num_beams: got {config.num_beams}; give select='beam' with beams= and candidates= instead"
        )
    repeats = int(config.num_return_sequences or 1)
    returned = repeats if return_paths is None else return_paths
    if not isinstance(returned, int) or returned < 1 or (repeats > 1 and returned != repeats):
        raise ValueError(
            f"return_paths: got {return_paths!r}; a whole number >= 1 is needed, and none beside num_return_sequences"
        )

    def chosen(value: Any, name: str) -> Any:
        return latent_field(config, name) if value is None else value

    eos = _ids(config.eos_token_id) or _ids(live.config.eos_token_id)
    if not eos:
        raise ValueError("eos_token_id: neither the generation config nor the model's config has one")
    pad = (_ids(config.pad_token_id) or _ids(live.config.pad_token_id) or eos)[0]
    name = family_name(live, chosen(family, "family"))
    tokens = latent_tokens(live, name, latent_tokenizer, config)
    # Hugging Face repeats every prompt ``num_return_sequences`` times before it hands the batch on.
    batch = slice(None, None, repeats)
    mask = model_kwargs.pop("attention_mask", None)
    prompts = split_batch(input_ids[batch], None if mask is None else mask[batch])
    _check_model_kwargs(model_kwargs, prompts, batch)
    check_frames(prompts, tokens)
    length = asked_length(config, name, None) if latent_length is None else latent_length
    known = live_family(live, name, length)
    seen = live_latent_model(live, tokens, family=known, eos=eos[0], pad=pad)
    latent_rm = live_reward(reward, int(live.config.hidden_size))
    rule = chosen(select, "select") or ("best_of_n" if latent_rm is not None else "majority")
    beam = asked_beam(rule, beams, candidates, num_paths, latent_rm)
    check_beam(beam, seen, "select")
    paths = number_of_paths(chosen(num_paths, "num_paths"), returned, beam, ranked=latent_rm is not None)
    where: Scope = chosen(scope, "scope") or "latent"
    named = chosen(sampler, "sampler")
    thoughts = latent_sampler(config, seen.body, where) if named is None else as_sampler(named, where)
    random = drawn or not thoughts.deterministic
    if paths > 1 and not random:
        raise ValueError(
            f"sampler: none given, so that all {paths} paths would be the same; for example 'dropout:0.2'"
        )
    rollout = Rollout(
        model=seen,
        tokens=tokens,
        sampler=thoughts,
        paths=paths,
        max_new_tokens=int(config.max_length) - input_ids.shape[1],
        seed=drawn_seed(seed) if random or seed is not None else 0,
        temperature=(1.0 if config.temperature is None else float(config.temperature)) if drawn else 0.0,
        reward=latent_rm,
        beam=beam,
        eos=tuple(eos),
        rules=StopRules.of(stopping_criteria, latent_stop_strings, latent_tokenizer),
        engine=engine,
        weights=weights,
    )
    full = bool(config.return_dict_in_generate)
    # A selection by score needs the winner's answer alone.
    every = full or returned > 1 or rule not in ("best_of_n", "beam")
    found = rollout.run(prompts, decode_all=every)
    places = [chosen_paths(listed, rule, returned, known, latent_tokenizer) for listed in found]
    picked = [[listed[n] for n in order] for listed, order in zip(found, places, strict=True)]
    sequences = rollout.sequences(input_ids[batch], picked)
    if not full:
        return sequences
    device = input_ids.device
    return LatentGenerateOutput(
        sequences=sequences,
        latent_thoughts=stack_thoughts(picked, device),
        reward_scores=stack_scores(picked, device),
        path_sequences=rollout.sequences(input_ids[batch], found),
        selected_index=torch.tensor([n for order in places for n in order], device=device),
    )


def _refuse_what_is_not_handed_on() -> None:
    """Reads the arguments of the ``model.generate`` call around this one: it drops some without a word."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not _GENERATE:
        frame = cast(Any, frame.f_back)
    if frame is None:
        return
    for name in _NOT_HANDED_ON:
        if frame.f_locals.get(name):
            raise ValueError(f"{name}: is not supported with custom_generate=latent_ext.generate")


def _draws_tokens(config: GenerationConfig) -> bool:
    """Whether answer tokens are sampled; LatentTTS's configs set do_sample for sampled thoughts, too."""
    if latent_field(config, "latent_do_sample") or latent_field(config, "explicit_do_sample"):
        return bool(latent_field(config, "explicit_do_sample"))
    return bool(config.do_sample)


def _check_processors(processors: LogitsProcessorList | None, drawn: bool) -> None:
    for processor in processors or ():
        # A warper never changes an argmax.
        neutral = (
            isinstance(processor, TemperatureLogitsWarper) if drawn else "Warper" in type(processor).__name__
        )
        if neutral:
            continue
        raise ValueError(
            f"logits_processor: got {type(processor).__name__}; answers are drawn from the whole distribution "
            "(give do_sample=False, or top_k=0)"
        )


def _check_model_kwargs(given: dict[str, Any], prompts: list[Tensor], batch: slice) -> None:
    if given.get("inputs_embeds") is not None:
        raise ValueError("inputs_embeds: is not supported; prompts are read by their token ids")
    cache = given.get("past_key_values", given.get("cache"))
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError("past_key_values: already holds positions; prompts are read from their first token")
    positions = given.get("position_ids")
    if positions is not None:
        for row, (prompt, at) in enumerate(zip(prompts, positions[batch], strict=False)):
            if at[-len(prompt) :].tolist() != list(range(len(prompt))):
                raise ValueError(f"position_ids: row {row} does not count its tokens from 0")
    for name in given:
        if name not in _HANDLED:
            raise ValueError(f"{name}: is not supported with custom_generate=latent_ext.generate")


# Of how a model would be called, which changes nothing here.
_HANDLED = (
    "inputs_embeds",
    "past_key_values",
    "cache",
    "position_ids",
    "use_cache",
    "logits_to_keep",
    "cache_position",
)


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token) for token in (value if isinstance(value, (list, tuple)) else [value])]
