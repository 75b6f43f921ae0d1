"""Random calls of the ops on packed models, built on small random bodies of awkward sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import OpCase, normal, random_keys
from torch import Generator, Tensor
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel, PreTrainedModel

from latent_ext.models.family import HeadStage, ThoughtHead
from latent_ext.models.packed import WEIGHTS, PackedModel, pack
from latent_ext.ops import read_prompts_reference

# By body: a hidden size that is no multiple of 16; the inner sizes are no multiples of 4 and 2.
BODIES = {"gpt2": 51, "llama": 54}
VOCABULARY = 131
POSITIONS = 40
STEPS = 4
# What limits the agreement of two implementations, by weight format.
STORAGE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def _body(name: str, hidden: int, layers: int, inner: int | None) -> PreTrainedModel:
    if name == "gpt2":
        return GPT2Model(
            GPT2Config(
                vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=hidden, n_inner=inner or 70, n_layer=layers,
                n_head=3, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
    return LlamaModel(
        LlamaConfig(
            vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, hidden_size=hidden,
            intermediate_size=inner or 55, num_hidden_layers=layers, num_attention_heads=6, num_key_value_heads=2,
            head_dim=10, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def _head(generator: Generator, hidden: int) -> ThoughtHead:
    inner = hidden + 5

    def linear(outputs: int, inputs: int) -> HeadStage:
        weight = normal(generator, (outputs, inputs), torch.float32, inputs**-0.5)
        return HeadStage("linear", weight, normal(generator, (outputs,), torch.float32, 0.1))

    norm = HeadStage("layer", 1.0 + normal(generator, (inner,), torch.float32, 0.1), None)
    return ThoughtHead(
        stages=(linear(inner, hidden), HeadStage("gelu"), norm, linear(hidden, inner)),
        norm="layer",
        weight=1.0 + normal(generator, (hidden,), torch.float32, 0.1),
        bias=normal(generator, (hidden,), torch.float32, 0.1),
        scale=0.7,
    )


def packed_model(
    generator: Generator, body: str = "gpt2", weights: str = "fp32", **sizes: Any
) -> PackedModel:
    """`random_parts`, packed for the CPU, with the spectra of W_V."""
    return pack(**random_parts(generator, body, **sizes), weights=weights, spectra=True)


@torch.no_grad()
def random_parts(
    generator: Generator,
    body: str = "gpt2",
    *,
    hidden: int | None = None,
    layers: int = 2,
    inner: int | None = None,
    heads: bool = True,
) -> dict[str, Any]:
    """What `pack` packs: a body with LM head, thought head and score head; without any of them if `heads` is False."""
    hidden = hidden or BODIES[body]
    model = _body(body, hidden, layers, inner)
    # Wider bodies have smaller weights: rounding must not grow from layer to layer.
    deviation = 0.12 * min(1.0, (max(BODIES.values()) / hidden) ** 0.5)
    for name, parameter in model.named_parameters():
        noise = normal(generator, tuple(parameter.shape), torch.float32, deviation)
        parameter.copy_(1.0 + noise if parameter.dim() == 1 and name.endswith("weight") else noise)
    model.eval().requires_grad_(False)
    if not heads:
        return {"body": model}
    score = normal(generator, (hidden,), torch.float32, hidden**-0.5), normal(generator, (1,), torch.float32)
    return {
        "body": model,
        "lm_head": normal(generator, (VOCABULARY, hidden), torch.float32, 3 * hidden**-0.5),
        "head": _head(generator, hidden),
        "score": score,
    }


def read_prompts_case(
    generator: Generator,
    packed: PackedModel,
    lengths: tuple[int, ...] = (5, 1, 9, 3),
    p: float = 0.0,
    per_trajectory: bool = False,
    embedding: bool = False,
    svp: float = 0.0,
    last_hidden: bool = True,
) -> OpCase:
    """Caches start as NaN: what is not written must not be read."""
    tokens = torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator)
    cache = packed.new_cache(len(lengths), max(lengths, default=0) + 1).fill_(torch.nan)
    arguments = {
        "model": packed.data,
        "position_embedding": packed.position_embedding,
        "token_embedding": packed.token_embedding,
        "tokens": tokens,
        "offsets": torch.tensor([0, *lengths]).cumsum(0),
        "keys": random_keys(generator, len(lengths)),
        "seed": random_keys(generator, 1),
        "p": p,
        "per_trajectory": per_trajectory,
        "embedding": embedding,
        "svp": svp,
        "last_hidden": last_hidden,
        "prefix_key": cache,
        "prefix_value": cache.clone(),
    }
    return OpCase("read_prompts", arguments, ("prefix_key", "prefix_value"), ("keys",), len(lengths))


def select_prompts(case: OpCase, prompts: Tensor) -> OpCase:
    """The same call of ``read_prompts`` for some of its prompts, in the given order."""
    a = case.arguments
    pieces = [a["tokens"][a["offsets"][b] : a["offsets"][b + 1]] for b in prompts.tolist()]
    return case.with_arguments(
        tokens=torch.cat(pieces),
        offsets=torch.tensor([0, *map(len, pieces)]).cumsum(0),
        keys=a["keys"][prompts],
        prefix_key=a["prefix_key"][:, prompts].contiguous(),
        prefix_value=a["prefix_value"][:, prompts].contiguous(),
    )


def _prompts(generator: Generator, packed: PackedModel) -> dict[str, Tensor]:
    """Three ragged prompts, one of them empty, in caches that are NaN behind them."""
    lengths = torch.tensor([6, 0, 3])
    case = read_prompts_case(generator, packed, tuple(lengths.tolist()), last_hidden=False)
    read_prompts_reference(**case.arguments)
    cache = {name: case.arguments[name] for name in case.mutated}
    return {"prompt_len": lengths, **cache}


def _pages(
    generator: Generator, packed: PackedModel, rows: int, slots: int, read: int, room: int
) -> dict[str, Tensor]:
    """Rows whose first `read` positions stand in any slots, and whose next `room` ones are their own."""
    pages = packed.new_cache(slots, read + room).fill_(torch.nan)
    pages[:, :, :, :read] = normal(generator, tuple(pages[:, :, :, :read].shape), torch.float32)
    past = torch.randint(0, slots, (rows, read), generator=generator)
    own = torch.arange(rows).unsqueeze(1).expand(rows, room)
    return {
        "suffix_key": pages,
        "suffix_value": pages.clone(),
        "ancestry": torch.cat([past, own], dim=1).contiguous(),
    }


def latent_rollout_case(
    generator: Generator,
    packed: PackedModel,
    reward: PackedModel | None = None,
    *,
    rows: int = 6,
    questions: int = 1,
    first_is_hidden: bool = False,
    read: int = 2,
    p: float = 0.0,
    per_trajectory: bool = False,
    embedding: bool = False,
    svp: float = 0.0,
    sigma: float = 0.0,
    relative: bool = False,
    keep: tuple[int, ...] = (),
    candidates: int = 1,
) -> OpCase:
    hidden = packed.token_embedding.shape[1]
    widths = rows_of_steps(rows, questions, keep, candidates)
    capacity = max(widths)
    passes = STEPS - int(first_is_hidden)
    arguments: dict[str, Any] = {
        "model": packed.data,
        "position_embedding": packed.position_embedding,
        "first": normal(generator, (rows, hidden), torch.float32),
        "first_is_hidden": first_is_hidden,
        "keys": random_keys(generator, rows),
        "seed": random_keys(generator, 1),
        "prompt_index": torch.randint(0, 3, (rows,), generator=generator),
        **_prompts(generator, packed),
        **_pages(generator, packed, capacity, capacity, read, passes + 1),
        "suffix_len": read,
        "p": p,
        "per_trajectory": per_trajectory,
        "embedding": embedding,
        "svp": svp,
        "sigma": sigma,
        "relative": relative,
        "questions": questions,
        "keep": list(keep),
        "candidates": candidates,
        "thoughts": torch.full((capacity, STEPS, hidden), torch.nan),
        "step_scores": None if reward is None else torch.full((capacity, STEPS), torch.nan),
        "lineage": torch.full((capacity, STEPS), -1),
        "final_keys": torch.zeros(capacity, dtype=torch.int64),
        "final_prompts": torch.full((capacity,), -1),
        "model_header": None,
        "reward_header": None,
        "rung": "auto",
    }
    for name in (
        "model",
        "position_embedding",
        "prompt_index",
        "prompt_len",
        "prefix_key",
        "prefix_value",
    ):
        arguments["reward_" + name] = None
    if reward is not None:
        prompts = _prompts(generator, reward)
        arguments |= {
            "reward_model": reward.data,
            "reward_position_embedding": reward.position_embedding,
            "reward_prompt_index": torch.randint(0, 3, (rows,), generator=generator),
            **{"reward_" + name: value for name, value in prompts.items()},
        }
    written = (
        "thoughts", "step_scores", "lineage", "final_keys", "final_prompts", "ancestry", "suffix_key",
        "suffix_value",
    )  # fmt: skip
    by_row = ("first", "keys", "prompt_index", "reward_prompt_index", *written[:6])
    return OpCase("latent_rollout", arguments, written, by_row, rows)


def rows_of_steps(rows: int, questions: int, keep: tuple[int, ...], candidates: int) -> list[int]:
    """How many rows there are at each step, and at the end."""
    counts = [rows]
    for t, kept in enumerate(keep):
        width = counts[-1] // questions
        children = candidates if t + 1 < len(keep) else 1
        counts.append(counts[-1] if kept == 0 else questions * min(width, kept) * children)
    return counts


def rollout_results(case: OpCase, written: list[Tensor]) -> dict[str, Tensor]:
    """What ``latent_rollout`` says of the rows at the end: `written` as `OpCase.run` returns it, pages row by row."""
    a = case.arguments
    count = rows_of_steps(case.rows, a["questions"], tuple(a["keep"]), a["candidates"])[-1]
    named = dict(zip(case.written(), written, strict=True))
    read = a["suffix_len"] + STEPS - int(a["first_is_hidden"])
    slots = named["ancestry"][:count, :read]
    for name in ("suffix_key", "suffix_value"):
        named[name] = rows_of_pages(named[name], slots)
    named["ancestry"] = slots
    return {name: value if name.startswith("suffix") else value[:count] for name, value in named.items()}


def rows_of_pages(pages: Tensor, slots: Tensor) -> Tensor:
    """pages [layers, slots, kv_heads, max_suffix, head_dim], slots [rows, positions] -> [rows, positions, ...]."""
    return pages.permute(1, 3, 0, 2, 4)[slots, torch.arange(slots.shape[1])]


def decode_answers_case(
    generator: Generator,
    packed: PackedModel,
    *,
    rows: int = 6,
    thought: bool = True,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 6,
    end_of_sequence: int = -1,
) -> OpCase:
    """Rows that have read one, two or three suffix positions; one slot more than rows."""
    pages = _pages(generator, packed, rows, rows + 1, 3, max_tokens + 1)
    own = torch.randperm(rows + 1, generator=generator)[:rows]
    suffix_len = 1 + torch.arange(rows) % 3
    places = torch.arange(pages["ancestry"].shape[1])
    pages["ancestry"] = torch.where(places >= suffix_len[:, None], own[:, None], pages["ancestry"])
    # Ragged rows write where others' pasts begin; each reads its past from slots that nobody writes to there.
    for row, length in enumerate(suffix_len.tolist()):
        for place in range(length):
            free = [
                slot for slot in range(rows + 1) if not ((own == slot) & (suffix_len <= place)).any().item()
            ]
            pages["ancestry"][row, place] = free[int(pages["ancestry"][row, place]) % len(free)]
    hidden = packed.token_embedding.shape[1]
    arguments = {
        "model": packed.data,
        "position_embedding": packed.position_embedding,
        "token_embedding": packed.token_embedding,
        "thought": normal(generator, (rows, hidden), torch.float32) if thought else None,
        "first_token": torch.randint(0, VOCABULARY, (rows,), generator=generator),
        "keys": random_keys(generator, rows),
        "seed": random_keys(generator, 1),
        "prompt_index": torch.randint(0, 3, (rows,), generator=generator),
        **_prompts(generator, packed),
        **pages,
        "suffix_len": suffix_len,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "end_of_sequence": end_of_sequence,
    }
    by_row = ("thought", "first_token", "keys", "prompt_index", "ancestry", "suffix_len")
    return OpCase("decode_answers", arguments, ("suffix_key", "suffix_value", "suffix_len"), by_row, rows)


def pack_linear_case(generator: Generator, format: str, outputs: int, inputs: int) -> OpCase:
    """Written tensors start with other values."""
    per_word = {"fp32": 1, "bf16": 2, "int8": 4}[format]
    packed = -(-outputs // 16) * 16
    int8 = format == "int8"
    arguments = {
        "weight": normal(generator, (outputs, inputs), torch.float32),
        "format": format,
        "panels": torch.full((packed * -(-inputs // per_word),), -1, dtype=torch.int32),
        "scales": torch.full((packed,), torch.nan) if int8 else None,
        "sums": torch.full((packed,), -1, dtype=torch.int32) if int8 else None,
    }
    return OpCase("pack_linear", arguments, ("panels", "scales", "sums"), (), outputs)


def cases_of_every_op(
    generator: Generator, packed: PackedModel, reward: PackedModel, rows: int
) -> dict[str, OpCase]:
    lengths = tuple(1 + 3 * b % 17 for b in range(rows))
    return {
        "read_prompts": read_prompts_case(generator, packed, lengths, p=0.2, embedding=True, svp=0.4),
        "latent_rollout": latent_rollout_case(
            generator, packed, reward, rows=rows, sigma=0.4, relative=True, p=0.2, svp=0.4, keep=(0, 3, 2, 1), candidates=2
        ),
        "decode_answers": decode_answers_case(
            generator, packed, rows=rows, temperature=1.0, top_p=0.8, end_of_sequence=5, max_tokens=4
        ),
    }  # fmt: skip


def on_every_format_and_body(test: Any) -> Any:
    for name, values in (("weights", WEIGHTS), ("body", BODIES)):
        test = pytest.mark.parametrize(name, list(values))(test)
    return test
