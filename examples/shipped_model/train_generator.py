"""Trains the shipped COCONUT model from scratch, all curriculum stages at once.

Every batch reads the question once, rolls six thoughts out with back-propagation through all of them, and
writes three tails from the same cache: one after six thoughts, two after fewer. A tail holds the chain steps
that the thoughts have not replaced yet (Hao et al., 2024, stage k with c = 1), so each thought is told what
it must carry. Once the chain is learned, the tails become short and many instead: one after every thought,
with the next chain step only.

    python examples/shipped_model/train_generator.py --work build/shipped_model

A run that was cut off continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
import yaml
from batches import IGNORED, Batch, Encoded, Encoder, bucketed, collate, draw_stages
from network import MaskPool, Network, Shape, initial_weights
from optimizer import MuonAdamW
from tokenizer import build_tokenizer
from torch import Tensor

from latent_ext.evaluation.arithmetic import generate

_POOL = 24_000_000
_VALID_PROBLEMS = 500
_MATRICES = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 1, "mlp.c_proj": 1}


def forward(network: Network, batch: Batch, thoughts: int) -> Tensor:
    """Logits of all tails of a batch, [rows, tail columns, vocabulary]."""
    first, cache = network.prompt(batch.prompt, batch.lengths)
    _, thought_cache = network.think(first, cache, batch.lengths, batch.prompt_bias, thoughts)
    return network.tails(batch.tail, batch.tail_positions, cache, thought_cache, batch.tail_bias)


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the stages of the mean cross-entropy per token."""
    losses = []
    for columns in batch.stage_columns:
        part = logits[:, columns].reshape(-1, logits.shape[-1]).float()
        losses.append(F.cross_entropy(part, batch.tail_targets[:, columns].reshape(-1), ignore_index=IGNORED))
    return torch.stack(losses).mean()


@torch.no_grad()
def evaluate(network: Network, examples: Sequence[Encoded], end: int, thoughts: int) -> dict[str, Any]:
    """Greedy accuracy with all thoughts ("latent", also by number of steps) and with none ("chain"), in
    percent.

    A tail counts when the arg max is right at every token, which is what greedy decoding would write.
    """
    by_steps: dict[int, list[float]] = {}
    chain: list[float] = []
    ordered = sorted(examples, key=lambda e: (len(e.steps), len(e.prompt)))
    for begin in range(0, len(ordered), 64):
        part = ordered[begin : begin + 64]
        batch = collate(part, (0, thoughts), thoughts, end, network.dtype)
        logits = forward(network, batch, thoughts)
        right = (logits.argmax(-1) == batch.tail_targets) | (batch.tail_targets == IGNORED)
        chain += right[:, batch.stage_columns[0]].all(1).tolist()
        for example, correct in zip(part, right[:, batch.stage_columns[1]].all(1).tolist(), strict=True):
            by_steps.setdefault(len(example.steps), []).append(correct)
    latent = [c for values in by_steps.values() for c in values]

    def percent(values: Sequence[float]) -> float:
        return round(100 * sum(values) / len(values), 1)

    return {
        "latent": percent(latent),
        "chain": percent(chain),
        "latent_by_steps": {n: percent(v) for n, v in sorted(by_steps.items())},
    }


def learning_rate(progress: float, step: int, recipe: dict[str, Any]) -> float:
    """Share of the full learning rate: warm-up in steps, then constant, then cosine in wall-clock
    progress."""
    warm = min(1.0, (step + 1) / recipe["warmup_steps"])
    after = max(0.0, min(1.0, (progress - recipe["constant"]) / (1 - recipe["constant"])))
    return warm * (recipe["final"] + (1 - recipe["final"]) * 0.5 * (1 + math.cos(math.pi * after)))


def average_over_workers(leaves: dict[str, Tensor], *scalars: float) -> list[float]:
    """Replaces every gradient by its mean over the workers; returns the means of the scalars."""
    given = [p for p in leaves.values() if p.grad is not None]
    flat = torch.cat([*(p.grad.float().flatten() for p in given), torch.tensor(scalars)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for p in given:
        p.grad = flat[offset : offset + p.numel()].view(p.shape).to(p.dtype)
        offset += p.numel()
    return flat[offset:].tolist()


def muon_names(leaves: dict[str, Tensor]) -> dict[str, int]:
    """The block matrices, each with the number of equal column blocks that Muon treats apart."""
    return {
        name: parts for name in leaves for key, parts in _MATRICES.items() if name.endswith(key + ".weight")
    }


def free_port() -> int:
    """A free TCP port of this machine, for the workers to meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train(rank: int, workers: int, recipe: dict[str, Any], minutes: float, work: Path, port: int) -> None:
    """One worker: a full copy of the model, its share of every batch, gradients averaged after each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    settings, model = recipe["generator"], recipe["model"]
    seed, thoughts = recipe["seed"], model["thoughts"]
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    shape = Shape(len(tokenizer), model["layers"], model["hidden"], model["heads"], model["positions"])
    drawn = generate(settings["train_problems"], split="train", steps=tuple(settings["steps"]), seed=seed)
    problems = [encoder.problem(p) for p in drawn]
    del drawn
    valid = [encoder.problem(p) for p in generate(_VALID_PROBLEMS, split="valid", steps=(2, 6), seed=seed)]

    kept_in_float = ("wte.weight", "wpe.weight")
    leaves = {
        name: (w if name in kept_in_float else w.bfloat16()).requires_grad_()
        for name, w in initial_weights(shape, seed).items()
    }
    optimizer = MuonAdamW(
        leaves, muon_names(leaves), settings["muon_lr"], settings["adam_lr"], settings["weight_decay"]
    )
    network = Network(leaves, shape, MaskPool(settings["dropout"], torch.bfloat16, _POOL, seed + rank))
    checkpoint = work / "checkpoint.pt"
    elapsed, epoch, seen = 0.0, 0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        optimizer.load_state_dict(state["optimizer"])
        elapsed, epoch, seen = state["elapsed"], state["epoch"] + 1, state["seen"]
    save_at = elapsed + 60 * settings["checkpoint_minutes"]
    evaluate_at = elapsed + 60 * settings["evaluate_minutes"]
    losses: list[float] = []

    def report() -> None:
        quiet = Network(optimizer.master, shape, MaskPool(0.0, torch.float32, 0, 0))
        line = {
            "minutes": round(elapsed / 60, 2),
            "steps": optimizer.step_count,
            "examples": seen,
            "loss": round(sum(losses) / max(1, len(losses)), 4),
            **evaluate(quiet, valid, encoder.end, thoughts),
        }
        with (work / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save() -> None:
        state = {"optimizer": optimizer.state_dict(), "elapsed": elapsed, "epoch": epoch, "seen": seen}
        partial = checkpoint.with_suffix(".partial")
        torch.save({**state, "shape": vars(shape)}, partial)
        partial.replace(checkpoint)

    while elapsed < 60 * minutes:
        rng = random.Random(seed * 1000 + epoch)
        for examples in bucketed(problems, settings["batch_size"], rng):
            began = time.perf_counter()
            every_thought = elapsed >= 60 * minutes * settings["every_thought_from"]
            stages = draw_stages(rng, len(examples[0].steps), thoughts)
            if every_thought:
                stages = list(range(1, thoughts + 1))
            mine = examples[rank::workers]
            batch = collate(mine, stages, thoughts, encoder.end, torch.bfloat16, next_step_only=every_thought)
            loss = loss_of(forward(network, batch, thoughts), batch)
            loss.backward()
            progress, mean_loss = average_over_workers(leaves, elapsed / (60 * minutes), loss.item())
            optimizer.step(learning_rate(progress, optimizer.step_count, settings), settings["clip"])
            losses.append(mean_loss)
            seen += len(examples)
            # All workers must leave the loop at the same step, so they share one clock.
            elapsed = progress * 60 * minutes + time.perf_counter() - began
            if progress * 60 * minutes >= evaluate_at:
                evaluate_at += 60 * settings["evaluate_minutes"]
                if rank == 0:
                    report()
                losses.clear()
            if progress * 60 * minutes >= save_at:
                save_at += 60 * settings["checkpoint_minutes"]
                if rank == 0:
                    save()
            if progress >= 1:
                break
        epoch += 1
    if rank == 0:
        save()
        report()
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Reads the recipe, trains, and leaves `checkpoint.pt`, `curve.jsonl` and the tokenizer in the work
    folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints and the learning curve"
    )
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.yaml"))
    parser.add_argument("--minutes", type=float, help="overrides the recipe's budget")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    arguments = parser.parse_args()
    recipe = yaml.safe_load(arguments.recipe.read_text())
    arguments.work.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(arguments.work / "tokenizer")
    minutes = arguments.minutes or recipe["generator"]["minutes"]
    options = (arguments.workers, recipe, minutes, arguments.work, free_port())
    torch.multiprocessing.spawn(train, options, nprocs=arguments.workers)


if __name__ == "__main__":
    main()
