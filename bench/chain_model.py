"""A model of the shipped generator's size that writes its chain out: the baseline that latent thoughts are compared with.

The shipped generator itself no longer writes whole chains (examples/shipped_model/README.md), so its weights are trained
on: question, no thoughts, then the whole chain and the answer, loss on everything behind ``<|end-latent|>``. It is of the
same shape, starts from the same weights, and has had that much more training, which is in its favour.

    python bench/chain_model.py --out build/chain_model --minutes 8

Run it with ``Coconut(latent_length=0)`` (`bench/equal_compute.py` does).
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import latent_ext
from latent_ext.evaluation.arithmetic import Problem, generate, stream
from latent_ext.models.latent_model import LatentModel

_IGNORED = -100
_STEPS = (1, 6)  # as the shipped generator was trained


def example(model: LatentModel, problem: Problem) -> tuple[Tensor, Tensor]:
    """int64 (length,): token ids, and what is to be written at each of them."""
    prompt = model.encode(problem.question)
    tail = model.tokenizer(f"{''.join(problem.steps)}### {problem.answer}")["input_ids"]
    ids = torch.cat([prompt, torch.tensor([model.ids.end, *tail, model.ids.eos])])
    targets = ids.clone()
    targets[: len(prompt) + 1] = _IGNORED
    return ids[:-1], targets[1:]


def collate(model: LatentModel, problems: Sequence[Problem]) -> tuple[Tensor, Tensor]:
    """int64 (problems, longest), padded on the right."""
    examples = [example(model, problem) for problem in problems]
    ids = torch.nn.utils.rnn.pad_sequence([one for one, _ in examples], True, model.ids.pad)
    return ids, torch.nn.utils.rnn.pad_sequence([one for _, one in examples], True, _IGNORED)


@torch.no_grad()
def exact(model: LatentModel, problems: Sequence[Problem]) -> float:
    """Share of problems whose whole chain and answer greedy decoding would write."""
    ids, targets = collate(model, problems)
    right = (model.hf(ids).logits.argmax(-1) == targets) | (targets == _IGNORED)
    return float(right.all(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = latent_ext.load()
    # In eval mode: no problem is seen twice, so dropout has nothing to prevent.
    module = model.hf.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    valid = generate(300, split="valid", steps=_STEPS, seed=0)
    drawn = stream(split="train", steps=_STEPS, seed=1)
    start, reported = time.monotonic(), 0.0
    for step in itertools.count():
        progress = (time.monotonic() - start) / (60 * arguments.minutes)
        if progress >= 1:
            break
        rate = min(1.0, (step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * rate
        # Batches of like length: four are drawn, sorted and cut.
        pool = sorted(
            itertools.islice(drawn, 4 * arguments.batch), key=lambda one: (one.n_steps, len(one.question))
        )
        for first in range(0, len(pool), arguments.batch):
            ids, targets = collate(model, pool[first : first + arguments.batch])
            loss = functional.cross_entropy(
                module(ids).logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
        if time.monotonic() - reported > 45:
            reported = time.monotonic()
            print(
                f"{progress:.0%} batch {4 * (step + 1)} loss {loss.item():.4f} exact {exact(model, valid):.1%}",
                flush=True,
            )
    print(f"{exact(model, valid):.1%} of {len(valid)} validation chains are written without a mistake")
    module.save_pretrained(arguments.out)
    model.tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
