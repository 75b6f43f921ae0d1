"""Roll-outs per CPU-second: the native engine against careful PyTorch, checked and timed in one run.

Both sample N trajectories per question, roll each out M times from every thought but the last and decode every answer.
They first run with the same counter-based random numbers: a ratio is printed only if all answers agree but for the few
that rounding decides. Then they are timed in turns, the baseline with torch's own random numbers.

    python bench/annotate.py --shape gpt2 --n 4 --rollouts 16
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Annotated

import torch
import typer
from baselines.careful_rollouts import rollout_answers
from baselines.randomness import CounterRandomness, TorchRandomness
from baselines.task import Task
from machine import machine_facts
from shapes import SHAPES, build_shape

from latent_ext.engine.base import LatentRequest, LatentRun
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.rollouts import Rollouts
from latent_ext.ops.arguments import to_signed
from latent_ext.ops.keys import question_key, rollout_key, trajectory_keys
from latent_ext.samplers import as_sampler

# The share of answers in which rounding may have decided a token.
_ROUNDED_SHARE = 0.02


def native_answers(engine: NativeEngine, task: Task, seed: int, rollouts: int) -> list[list[list[int]]]:
    """As `rollout_answers`, by the native engine."""
    prompts = [task.model.encode(question) for question in task.questions]
    named = torch.tensor([to_signed(question_key(prompt)) for prompt in prompts])
    request = LatentRequest(prompts, trajectory_keys(named, task.n), task.sampler, seed)
    run = engine.sample(request, engine.read_prompts(prompts, task.sampler))

    def answers(of: LatentRun) -> list[list[int]]:
        rows = torch.arange(of.rows)
        return engine.answer(of, rows, max_tokens=task.max_answer_tokens).tokens

    room, keys = Rollouts(engine, run, rollouts), request.keys.reshape(-1, 1)
    continued = [
        answers(room.continue_from(t, rollout_key(keys, t, torch.arange(rollouts)), task.sampler))
        for t in range(1, task.latent_length)
    ]
    return [*continued, answers(run)]


def main(
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "gpt2",
    n: Annotated[int, typer.Option("--n", help="Trajectories per question.")] = 4,
    rollouts: Annotated[int, typer.Option(help="Roll-outs of each thought.")] = 16,
    questions: Annotated[int, typer.Option(help="Questions in one batch.")] = 1,
    sampler: Annotated[str, typer.Option(help="Latent sampler.")] = "noise:0.6",
    max_answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, questions and draws.")] = 0,
) -> None:
    torch.set_num_threads(threads)
    built = build_shape(shape, questions, seed)
    task = Task(
        built.model, built.reward, built.questions, n, as_sampler(sampler), "weighted_vote", max_answer_tokens
    )
    engine = NativeEngine(built.model, max_answer_tokens)
    named = torch.tensor([to_signed(question_key(built.model.encode(q))) for q in built.questions])
    keys = trajectory_keys(named, n).reshape(-1)

    def counted(t: int) -> CounterRandomness:
        own = rollout_key(keys.unsqueeze(1), t, torch.arange(rollouts)).reshape(-1)
        return CounterRandomness(task.sampler, seed, own)

    ours = native_answers(engine, task, seed, rollouts)
    theirs = rollout_answers(task, CounterRandomness(task.sampler, seed, keys), counted, rollouts)
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    differing = sum(a != b for a, b in pairs) / len(pairs)
    if differing > _ROUNDED_SHARE:
        raise SystemExit(f"{100 * differing:.1f} % of the answers differ: no ratio is printed")

    plain = TorchRandomness(task.sampler)
    spent: dict[str, list[float]] = {"ours": [], "careful": []}
    for _ in range(repeats):
        for name in spent:
            start = time.process_time()
            if name == "ours":
                native_answers(engine, task, seed, rollouts)
            else:
                rollout_answers(task, plain, lambda _t: plain, rollouts)
            spent[name].append(time.process_time() - start)
    count = (task.latent_length - 1) * task.rows * rollouts
    medians = {name: statistics.median(times) for name, times in spent.items()}
    record = {
        "shape": built.description,
        "n": n,
        "rollouts": rollouts,
        "questions": questions,
        "sampler": sampler,
        "max_answer_tokens": max_answer_tokens,
        "cpu_seconds": spent,
        "rollouts_per_cpu_second": {name: count / value for name, value in medians.items()},
        "ratio": medians["careful"] / medians["ours"],
        "answers": len(pairs),
        "differing_answers": sum(a != b for a, b in pairs),
        "machine": machine_facts(),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    typer.run(main)
