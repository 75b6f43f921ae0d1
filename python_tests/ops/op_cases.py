"""Random calls of every op, on which the tests of single ops and of all ops together are built."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from latent_ext import ops
from latent_ext.ops import sites

DTYPES = (torch.float32, torch.bfloat16)
ROWS = (0, 1, 3, 17)
HIDDEN = (1, 7, 16, 63, 128, 768, 1023)
OP_NAMES = ("dropout_add_norm", "next_thought", "prefix_decode_attention", "score_and_prune", "next_token")
# Ops on packed models; their cases are those of packed_cases.py. Panels, prompts and answers have no CUDA kernels: there
# weights need no packing, and PyTorch's own products read prompts and decode answers.
CPU_ONLY_OPS = ("pack_linear", "read_prompts", "decode_answers")
PACKED_OPS = ("latent_rollout", *CPU_ONLY_OPS)


@dataclass
class OpCase:
    """One call: all arguments of the schema by name, which are written, which have rows as first axis."""

    name: str
    arguments: dict[str, Any]
    mutated: tuple[str, ...] = ()
    by_row: tuple[str, ...] = ()
    rows: int = 0

    def run(self, function: Callable[..., Any] | None = None) -> list[Tensor]:
        """Outputs, then written arguments, of the op or of `function`; works on copies of the latter."""
        function = function or getattr(ops, self.name)
        arguments = self.arguments | {name: self.arguments[name].clone() for name in self.written()}
        result = function(**arguments)
        outputs = [] if result is None else [result] if isinstance(result, Tensor) else list(result)
        return outputs + [arguments[name] for name in self.written()]

    def run_reference(self) -> list[Tensor]:
        return self.run(getattr(ops, self.name + "_reference"))

    def written(self) -> list[str]:
        return [name for name in self.mutated if self.arguments[name] is not None]

    def with_arguments(self, **changes: Any) -> OpCase:
        return replace(self, arguments=self.arguments | changes)

    def select(self, rows: Tensor) -> OpCase:
        """The same call for some of its rows, in the given order."""
        chosen = {
            n: self.arguments[n][rows].contiguous() for n in self.by_row if self.arguments[n] is not None
        }
        return replace(self.with_arguments(**chosen), rows=len(rows))

    def schema_arguments(self) -> tuple[Any, ...]:
        """The arguments of the registered op, in the order of its schema."""
        schema = getattr(torch.ops.latent_ext, self.name).default._schema
        return tuple(self.arguments[argument.name] for argument in schema.arguments)


def normal(generator: Generator, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def random_keys(generator: Generator, rows: int) -> Tensor:
    """Keys over all 64 bits, so half of them are negative as int64."""
    low = torch.randint(0, 1 << 32, (rows,), generator=generator)
    return torch.randint(-(1 << 31), 1 << 31, (rows,), generator=generator) << 32 | low


def randomness(generator: Generator, rows: int) -> dict[str, Any]:
    positions = torch.randint(0, sites.FIXED, (rows,), generator=generator)
    return {"keys": random_keys(generator, rows), "positions": positions, "seed": random_keys(generator, 1)}


def dropout_add_norm_case(
    generator: Generator,
    rows: int = 5,
    hidden: int = 63,
    dtype: torch.dtype = torch.float32,
    norm: str = "layer",
    p: float = 0.3,
    affine: bool = True,
) -> OpCase:
    arguments = {
        "branch": normal(generator, (rows, hidden), dtype),
        "residual": normal(generator, (rows, hidden), dtype, 3.0) + 0.5,
        "weight": normal(generator, (hidden,), dtype) if affine and norm != "none" else None,
        "bias": normal(generator, (hidden,), dtype) if affine and norm == "layer" else None,
        **randomness(generator, rows),
        "site": int(torch.randint(0, sites.SITE_COUNT, (), generator=generator)),
        "p": p,
        "eps": 1e-5,
        "norm": norm,
    }
    return OpCase("dropout_add_norm", arguments, (), ("branch", "residual", "keys", "positions"), rows)


def next_thought_case(
    generator: Generator,
    rows: int = 5,
    hidden: int = 63,
    dtype: torch.dtype = torch.float32,
    norm: str = "layer",
    noise: str = "relative",
    steps: int | None = 4,
    step: int = 2,
) -> OpCase:
    """`noise`: "none", "absolute", "relative" or "head" (with log_std). Written tensors start as NaN."""
    arguments = {
        "hidden": normal(generator, (rows, hidden), dtype, 3.0) + 0.5,
        "weight": normal(generator, (hidden,), dtype) if norm != "none" else None,
        "bias": normal(generator, (hidden,), dtype) if norm == "layer" else None,
        "log_std": normal(generator, (rows, hidden), dtype) - 1.0 if noise == "head" else None,
        **randomness(generator, rows),
        "eps": 1e-5,
        "norm": norm,
        "scale": 0.75,
        "sigma": 0.0 if noise == "none" else 0.6,
        "relative": noise == "relative",
        "step": step,
        "next_input": torch.full((rows, hidden), torch.nan, dtype=dtype),
        "thoughts": None if steps is None else torch.full((rows, steps, hidden), torch.nan, dtype=dtype),
    }
    by_row = ("hidden", "log_std", "keys", "positions", "next_input", "thoughts")
    return OpCase("next_thought", arguments, ("next_input", "thoughts"), by_row, rows)


def prefix_decode_attention_case(
    generator: Generator,
    rows: int = 5,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    prompts: int = 2,
    max_prompt: int = 9,
    max_suffix: int = 6,
    shared: bool = True,
) -> OpCase:
    """Ragged prompts and suffixes, prompts and ancestors in common if `shared`; unused cache is NaN."""
    prompts = prompts if shared else max(rows, 1)
    slots = rows + 2
    lengths = torch.randint(0, max_suffix, (rows,), generator=generator)
    prompt_len = torch.randint(0, max_prompt + 1, (prompts,), generator=generator)
    own = torch.randperm(slots, generator=generator)[:rows]
    ancestry = own.unsqueeze(1).repeat(1, max_suffix)
    if shared and rows > 0:
        ancestors = own[torch.randint(0, rows, (rows, max_suffix), generator=generator)]
        written = torch.full((slots,), -1)
        written[own] = lengths
        free = written[ancestors] != torch.arange(max_suffix)  # not what another row writes in this call
        ancestry = torch.where(free, ancestors, ancestry)
        ancestry[torch.arange(rows), lengths] = own
    ancestry[torch.arange(max_suffix) > lengths.unsqueeze(1)] = -7  # entries that must not be read

    prefix = normal(generator, (2, prompts, kv_heads, max_prompt, head_dim), dtype)
    for prompt, length in enumerate(prompt_len.tolist()):
        prefix[:, prompt, :, length:] = torch.nan
    suffix = torch.full((2, slots, kv_heads, max_suffix, head_dim), torch.nan, dtype=dtype)
    for row, length in enumerate(lengths.tolist()):
        for position in range(length):
            suffix[:, ancestry[row, position], :, position] = normal(
                generator, (2, kv_heads, head_dim), dtype
            )

    prompt_index = torch.randint(0, prompts, (rows,), generator=generator) if shared else torch.arange(rows)
    arguments = {
        "query": normal(generator, (rows, heads, head_dim), dtype),
        "key": normal(generator, (rows, kv_heads, head_dim), dtype),
        "value": normal(generator, (rows, kv_heads, head_dim), dtype),
        "prefix_key": prefix[0].clone(),
        "prefix_value": prefix[1].clone(),
        "prompt_index": prompt_index,
        "prompt_len": prompt_len,
        "suffix_key": suffix[0].clone(),
        "suffix_value": suffix[1].clone(),
        "ancestry": ancestry,
        "suffix_len": lengths,
        "scale": head_dim**-0.5,
    }
    by_row = ("query", "key", "value", "prompt_index", "ancestry", "suffix_len")
    return OpCase("prefix_decode_attention", arguments, ("suffix_key", "suffix_value"), by_row, rows)


def score_and_prune_case(
    generator: Generator,
    rows: int = 7,
    hidden: int = 63,
    dtype: torch.dtype = torch.float32,
    questions: int = 3,
    keep: int = 2,
    bias: bool = True,
) -> OpCase:
    cuts = torch.randint(0, rows + 1, (max(questions - 1, 0),), generator=generator).sort().values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), cuts, torch.tensor([rows])])
    arguments = {
        "hidden": normal(generator, (rows, hidden), dtype),
        "weight": normal(generator, (hidden,), dtype, hidden**-0.5),
        "bias": normal(generator, (1,), dtype) if bias else None,
        "cumulative": normal(generator, (rows,), torch.float32),
        "question_offsets": offsets,
        "keep": keep,
    }
    return OpCase("score_and_prune", arguments, (), ("hidden", "cumulative"), rows)


def next_token_case(
    generator: Generator,
    rows: int = 5,
    hidden: int = 63,
    dtype: torch.dtype = torch.float32,
    vocab: int = 101,
    norm: str = "layer",
    temperature: float = 0.8,
) -> OpCase:
    arguments = {
        "hidden": normal(generator, (rows, hidden), dtype),
        "norm_weight": normal(generator, (hidden,), dtype) if norm != "none" else None,
        "norm_bias": normal(generator, (hidden,), dtype) if norm == "layer" else None,
        "lm_head": normal(generator, (vocab, hidden), dtype, hidden**-0.5),
        **randomness(generator, rows),
        "eps": 1e-5,
        "norm": norm,
        "temperature": temperature,
    }
    return OpCase("next_token", arguments, (), ("hidden", "keys", "positions"), rows)


def random_case(name: str, generator: Generator, **options: Any) -> OpCase:
    """A random call of the op `name`; options that its builder does not know are left out."""
    builder = globals()[name + "_case"]
    known = inspect.signature(builder).parameters
    return builder(generator, **{option: value for option, value in options.items() if option in known})
