"""Turns problems into padded batches: prompt, and the tails that follow k thoughts.

The tail after k thoughts is `<|end-latent|>`, the chain without its first k steps, `### ANSWER` and the end
of text. All tails of an example stand in one row, each seeing the prompt, its own k thoughts and itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from latent_ext.evaluation.arithmetic import Problem

IGNORED = -100
_PIECES = re.compile(r" ?[A-Za-z]+(?: (?=[0-9]))?|### (?=[0-9])|###|<<|>>|[^A-Za-z]")


@dataclass(frozen=True)
class Encoded:
    """Token ids of one problem: prompt up to `<|start-latent|>`, each chain step, and the answer with end
    of text.

    Ids are bytes (the vocabulary is smaller than 256), so that half a million problems fit in memory.
    """

    prompt: bytes
    steps: tuple[bytes, ...]
    answer: bytes


@dataclass(frozen=True)
class Batch:
    """Tensors of one batch; see `network.Network` for shapes.

    `stage_columns` gives each stage its slice of the tail columns.
    """

    prompt: Tensor
    lengths: Tensor
    prompt_bias: Tensor
    tail: Tensor
    tail_positions: Tensor
    tail_targets: Tensor
    tail_bias: Tensor
    stage_columns: list[slice]


class Encoder:
    """Encodes problems with the vocabulary of a tokenizer; a dictionary look-up per word, for speed."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.ids = tokenizer.get_vocab()
        self.start, self.end = self.ids["<|start-latent|>"], self.ids["<|end-latent|>"]
        self.stop = self.ids["<|endoftext|>"]

    def text(self, text: str) -> list[int]:
        """Token ids of text without added tokens."""
        return [self.ids[piece] for piece in _PIECES.findall(text)]

    def problem(self, problem: Problem) -> Encoded:
        """The parts of one problem."""
        prompt = bytes([*self.text(problem.question + "\n"), self.start])
        answer = bytes([*self.text(f"### {problem.answer}"), self.stop])
        return Encoded(prompt, tuple(bytes(self.text(step)) for step in problem.steps), answer)


def collate(
    examples: Sequence[Encoded],
    stages: Sequence[int],
    steps: int,
    end: int,
    dtype: torch.dtype,
    next_step_only: bool = False,
) -> Batch:
    """Pads examples into one batch.

    Args:
        examples: at least one.
        stages: the numbers k of thoughts after which a tail starts, each in [0, steps].
        steps: thoughts in a full roll-out.
        end: id of `<|end-latent|>`.
        dtype: of the attention biases.
        next_step_only: ends a tail after its first chain step, unless that is the last one. The first number
            of that step is the value the k-th thought must carry, so short tails teach the thoughts at little
            cost.
    """
    rows = len(examples)
    lengths = torch.tensor([len(e.prompt) for e in examples])
    longest = int(lengths.max())
    prompt = _pad([e.prompt for e in examples], longest, 0)
    prompt_bias = _bias(torch.arange(longest) < lengths[:, None], dtype)  # [rows, longest]
    ids, targets, positions, columns = [], [], [], []
    start = 0
    for k in stages:
        tails = [[end, *_tail(e, k, next_step_only)] for e in examples]
        width = max(len(t) for t in tails)
        padded = _pad(tails, width, 0)
        ids.append(padded[:, :-1])
        targets.append(_pad([t[1:] for t in tails], width - 1, IGNORED))
        positions.append(lengths[:, None] + k + torch.arange(width - 1))
        columns.append(slice(start, start + width - 1))
        start += width - 1
    own = torch.zeros(start, start, dtype=torch.bool)
    sees_thought = torch.zeros(start, steps, dtype=torch.bool)
    for k, column in zip(stages, columns, strict=True):
        width = column.stop - column.start
        own[column, column] = torch.ones(width, width, dtype=torch.bool).tril_()
        sees_thought[column, :k] = True
    shared = _bias(torch.cat([sees_thought, own], 1), dtype).expand(rows, 1, start, steps + start)
    tail_bias = torch.cat([prompt_bias[:, None, None, :].expand(rows, 1, start, longest), shared], 3)
    limit = torch.cat(positions, 1)
    return Batch(
        prompt,
        lengths,
        prompt_bias[:, None, :],
        torch.cat(ids, 1),
        limit,
        torch.cat(targets, 1),
        tail_bias,
        columns,
    )


def _tail(example: Encoded, k: int, next_step_only: bool) -> bytes:
    if next_step_only and len(example.steps) > k + 1:
        return example.steps[k]
    return b"".join(example.steps[k:]) + example.answer


def draw_stages(rng: random.Random, n_steps: int, steps: int) -> list[int]:
    """The full roll-out and two shorter ones, at least one of them with chain left to write."""
    first = rng.randrange(min(n_steps, steps))
    second = rng.choice([k for k in range(steps) if k != first])
    return [*sorted([first, second]), steps]


def bucketed(examples: Sequence[Encoded], batch_size: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Yields full batches of like number of steps and prompt length, in random order, each example at most
    once."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    chunk = batch_size * 64
    for begin in range(0, len(order), chunk):
        part = sorted(
            order[begin : begin + chunk], key=lambda i: (len(examples[i].steps), len(examples[i].prompt))
        )
        batches = [part[i : i + batch_size] for i in range(0, len(part) - batch_size + 1, batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            yield [examples[i] for i in batch]


def _pad(lists: Sequence[Sequence[int]], width: int, value: int) -> Tensor:
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in lists])


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf"))
