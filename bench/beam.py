"""What pruning costs: beam search of K beams and C candidates against plain best-of-N with N = K * C, in one run.

Both sample N thoughts per step and score each; beam search also ranks, prunes and branches after every thought, and both
decode the answer of one trajectory. CPU time of one `latent_ext.solve` call each, in turns.

    python bench/beam.py --shape gpt2 --beams 4 --candidates 4
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Annotated, Any

import torch
import typer
from machine import machine_facts
from shapes import SHAPES, build_shape

import latent_ext


def main(
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "gpt2",
    beams: Annotated[int, typer.Option(help="Beams kept after every thought.")] = 4,
    candidates: Annotated[int, typer.Option(help="Candidates per beam.")] = 4,
    questions: Annotated[int, typer.Option(help="Questions in one call.")] = 1,
    sampler: Annotated[str, typer.Option(help="Latent sampler.")] = "noise:0.6",
    max_answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, questions and draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    torch.set_num_threads(threads)
    built = build_shape(shape, questions, seed)
    settings: dict[str, Any] = {
        "sampler": sampler,
        "reward": built.reward,
        "engine": "native",
        "max_answer_tokens": max_answer_tokens,
        "seed": seed,
    }
    ways: dict[str, dict[str, Any]] = {
        "plain": {"n": beams * candidates},
        "beam": {"select": "beam", "beams": beams, "candidates": candidates},
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            latent_ext.solve(built.model, built.questions, **way, **settings)
            if turn:  # the first call of each packs weights and touches memory for the first time
                spent[name].append(time.process_time() - start)
    seconds = {name: statistics.median(values) for name, values in spent.items()}
    ratios = [beam / plain for beam, plain in zip(spent["beam"], spent["plain"], strict=True)]
    found = {
        "shape": built.description,
        "beams": beams,
        "candidates": candidates,
        "questions": questions,
        "sampler": sampler,
        "threads": threads,
        "cpu_seconds": seconds,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "machine": machine_facts(),
    }
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{shape}, {questions} question(s): best-of-{beams * candidates} {seconds['plain']:.3f} CPU-s, "
        f"beam {beams} x {candidates} {seconds['beam']:.3f} CPU-s, ratio {found['ratio']:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    typer.run(main)
