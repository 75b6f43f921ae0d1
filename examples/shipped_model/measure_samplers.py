"""Measures samplers on the validation problems: pass@1, coverage, majority vote, and the two controls.

    python examples/shipped_model/measure_samplers.py --folder latent_ext/assets/generator

The demonstration's sampler is chosen from this table; test problems are never read here.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from batches import Encoder
from network import Shape
from safetensors.torch import load_file
from sampling import LatentSampler, Noise
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.evaluation.arithmetic import Problem, generate

TRAJECTORIES = 64
_LONGEST_ANSWER = 6
_CHUNK = 25


def load_generator(folder: Path) -> tuple[dict[str, Tensor], Shape, GPT2Config]:
    """Weights of an exported generator in float32, by the names of `network.initial_weights`."""
    config = GPT2Config.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("transformer."): w.float() for name, w in tensors.items()}
    shape = Shape(config.vocab_size, config.n_layer, config.n_embd, config.n_head, config.n_positions)
    return weights, shape, config


@torch.no_grad()
def answers_of(
    sampler: LatentSampler, encoder: Encoder, problems: Sequence[Problem], rows: int, temperature: float = 0.0
) -> list[list[str]]:
    """Each problem's `rows` answers, as text."""
    pieces = {index: piece for piece, index in encoder.ids.items()}
    answers: list[list[str]] = []
    for begin in range(0, len(problems), _CHUNK):
        questions = sampler.read([encoder.problem(p).prompt for p in problems[begin : begin + _CHUNK]])
        state, thoughts = sampler.sample(questions, rows)
        tokens = sampler.decode(
            questions, state, thoughts[:, :, -1], encoder.stop, _LONGEST_ANSWER, temperature
        )
        for of_question in tokens.tolist():
            texts = ["".join(pieces[t] for t in row if t != encoder.stop) for row in of_question]
            answers.append([text.removeprefix("### ") for text in texts])
    return answers


def summary(problems: Sequence[Problem], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """pass@1, coverage@k (unbiased), majority vote and number of distinct answers; percent except the
    last."""
    rows: dict[str, list[float]] = {}
    for problem, mine in zip(problems, answers, strict=True):
        n, right = len(mine), sum(a == problem.answer for a in mine)
        rows.setdefault("pass@1", []).append(100 * right / n)
        for k in (4, 16, 64):
            if k <= n:
                missed = math.comb(n - right, k) / math.comb(n, k)
                rows.setdefault(f"coverage@{k}", []).append(100 * (1 - missed))
        majority = Counter(mine).most_common(1)[0][0]
        rows.setdefault(f"majority@{n}", []).append(100.0 * (majority == problem.answer))
        rows.setdefault("distinct", []).append(len(set(mine)))
    return {name: round(sum(values) / len(values), 1) for name, values in rows.items()}


def main() -> None:
    """Prints one line per sampler and per number of steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=SHIPPED_GENERATOR)
    parser.add_argument("--problems", type=int, default=300, help="validation problems per number of steps")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 6])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    weights, shape, config = load_generator(arguments.folder)
    encoder = Encoder(AutoTokenizer.from_pretrained(arguments.folder))
    settings = [Noise(p=p) for p in (0.1, 0.2, 0.3)] + [Noise(sigma=s) for s in (0.2, 0.4, 0.6, 0.8)]
    for n_steps in arguments.steps:
        problems = generate(arguments.problems, split="valid", steps=(n_steps, n_steps), seed=7)
        runs = [("greedy", Noise(), 1, 0.0), ("temperature 1", Noise(), TRAJECTORIES, 1.0)]
        runs += [(str(noise), noise, TRAJECTORIES, 0.0) for noise in settings]
        for name, noise, rows, temperature in runs:
            sampler = LatentSampler(
                weights, shape, encoder.start, encoder.end, config.latent_length, noise, seed=0
            )
            answers = answers_of(sampler, encoder, problems, rows, temperature)
            print(f"valid, {n_steps} steps, {name}: {summary(problems, answers)}", flush=True)


if __name__ == "__main__":
    main()
