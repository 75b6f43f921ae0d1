"""Trains the shipped LatentRM on fresh questions, sampling and labelling as it goes.

The loss is the step-wise contrastive cross-entropy of LatentTTS (section 3.2): at every step, a softmax
over the trajectories of one question against their Monte-Carlo values. It is taken on the running sum of
the step scores, because the running sum is what pruning and the final choice compare.

    python examples/shipped_model/train_latent_rm.py --work build/shipped_model
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
import yaml
from batches import Encoder
from judge import judge, prepare
from labels import Labelled, label
from measure_samplers import load_generator
from optimizer import MuonAdamW
from sampling import LatentSampler, Noise
from scorer import HEAD, Scorer, initial_scorer
from torch import Tensor
from train_generator import average_over_workers, free_port, learning_rate, muon_names
from transformers import AutoTokenizer

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.evaluation.arithmetic import Problem, stream


def contrastive_loss(step_scores: Tensor, values: Tensor) -> Tensor:
    """Cross-entropy between softmax over trajectories of the running score and the normalised values.

    Args:
        step_scores, values: [questions, rows, steps].

    Returns:
        Mean over the questions and steps where some value is not 0, less the entropy of the targets, so
        that 0 is the best possible value.
    """
    log_probability = step_scores.cumsum(2).log_softmax(1)
    total = values.sum(1, keepdim=True)
    target = values / total.clamp_min(1e-6)
    divergence = F.kl_div(log_probability, target, reduction="none").sum(1)  # [questions, steps]
    usable = total[:, 0] > 0
    return divergence[usable].sum() / usable.sum().clamp_min(1)


def batches_of(steps: tuple[int, int], size: int, seed: int) -> Iterator[list[Problem]]:
    """Endless batches of fresh training problems, all of one batch with the same number of steps."""
    waiting: dict[int, list[Problem]] = {}
    for problem in stream(split="train", steps=steps, seed=seed):
        mine = waiting.setdefault(problem.n_steps, [])
        mine.append(problem)
        if len(mine) == size:
            yield waiting.pop(problem.n_steps)


def train(
    rank: int, workers: int, recipe: dict[str, Any], minutes: float, folder: Path, work: Path, port: int
) -> None:
    """One worker: samples and labels its own questions; gradients are averaged after every batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    settings = recipe["latent_rm"]
    generator, shape, config = load_generator(folder)
    encoder = Encoder(AutoTokenizer.from_pretrained(folder))
    noise = Noise(**settings["noise"])
    sizes = (shape, encoder.start, encoder.end, config.latent_length)
    kept_in_float = ("wte.weight", "wpe.weight", *HEAD)
    fast = {name: w if name in kept_in_float else w.bfloat16() for name, w in generator.items()}
    sampler = LatentSampler(fast, *sizes, noise, seed=recipe["seed"] + rank)
    leaves = {
        name: (w if name in kept_in_float else w.bfloat16()).requires_grad_()
        for name, w in initial_scorer(generator).items()
    }
    optimizer = MuonAdamW(
        leaves, muon_names(leaves), settings["muon_lr"], settings["adam_lr"], settings["weight_decay"]
    )
    scorer = Scorer(leaves, *sizes)
    held_out = prepare(LatentSampler(generator, *sizes, noise, seed=0), encoder, settings["judge_problems"])
    rng = random.Random(recipe["seed"] + rank)
    elapsed, seen, mixed = 0.0, 0, 0
    evaluate_at = 60 * settings["evaluate_minutes"]
    losses: list[float] = []
    fresh: list[Labelled] = []
    past: list[Labelled] = []

    def report() -> None:
        torch.save({"weights": optimizer.master}, work / "latent_rm.pt")
        line = {
            "minutes": round(elapsed / 60, 2),
            "steps": optimizer.step_count,
            "questions": seen * workers,
            "mixed": mixed * workers,
            "divergence": round(sum(losses) / max(1, len(losses)), 4),
            **judge(Scorer(optimizer.master, *sizes), held_out),
        }
        with (work / "latent_rm_curve.jsonl").open("a") as curve:
            curve.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    drawn = batches_of(tuple(settings["steps"]), settings["label_batch"], seed=1000 + recipe["seed"] + rank)
    began = time.perf_counter()
    progress = 0.0
    for problems in drawn:
        encoded = [encoder.problem(p) for p in problems]
        prompts, answers = [e.prompt for e in encoded], [e.answer for e in encoded]
        found = label(sampler, prompts, answers, settings["rows"], settings["rollouts"])
        useful = [item for item in found if item.mixed]
        seen, mixed = seen + len(found), mixed + len(useful)
        fresh += useful
        if len(fresh) < settings["batch_size"] // workers:
            continue
        replayed = rng.sample(past, min(len(past), settings["replay"] * len(fresh)))
        examples = fresh + replayed
        past += fresh
        fresh = []
        scores = scorer.step_scores([e.prompt for e in examples], torch.stack([e.thoughts for e in examples]))
        loss = contrastive_loss(scores, torch.stack([e.values for e in examples]))
        loss.backward()
        elapsed += time.perf_counter() - began
        progress, mean_loss = average_over_workers(leaves, elapsed / (60 * minutes), loss.item())
        elapsed = progress * 60 * minutes
        began = time.perf_counter()
        optimizer.step(learning_rate(progress, optimizer.step_count, settings), settings["clip"])
        losses.append(mean_loss)
        if elapsed >= evaluate_at or progress >= 1:
            evaluate_at += 60 * settings["evaluate_minutes"]
            if rank == 0:
                report()
            losses.clear()
            dist.barrier()
            began = time.perf_counter()
        if progress >= 1:
            break
    dist.destroy_process_group()


def main() -> None:
    """Reads the recipe, trains, and leaves `latent_rm.pt` and `latent_rm_curve.jsonl` in the work folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the weights and the learning curve"
    )
    parser.add_argument("--folder", type=Path, default=SHIPPED_GENERATOR, help="the exported generator")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.yaml"))
    parser.add_argument("--minutes", type=float, help="overrides the recipe's budget")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    arguments = parser.parse_args()
    recipe = yaml.safe_load(arguments.recipe.read_text())
    arguments.work.mkdir(parents=True, exist_ok=True)
    minutes = arguments.minutes or recipe["latent_rm"]["minutes"]
    options = (arguments.workers, recipe, minutes, arguments.folder, arguments.work, free_port())
    torch.multiprocessing.spawn(train, options, nprocs=arguments.workers)


if __name__ == "__main__":
    main()
