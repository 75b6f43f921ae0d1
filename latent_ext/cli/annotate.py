"""`latent-ext annotate`: Monte-Carlo labels of thoughts, to train a LatentRM on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from latent_ext.assets import SHIPPED_SAMPLER
from latent_ext.cli.progress import reporting
from latent_ext.evaluation.arithmetic import generate
from latent_ext.evaluation.problems import NamedProblem, read_problems
from latent_ext.models import load
from latent_ext.samplers import as_sampler
from latent_ext.training.annotate import annotate as run_annotate
from latent_ext.training.labels import LabelSettings
from latent_ext.training.shards import merge as merge_labels
from latent_ext.training.shards import read_labels

RENAMED = {"trajectories": "--n"}

EXAMPLES = """Examples:

  latent-ext annotate labels --file train.jsonl --n 8 --rollouts 16

  latent-ext annotate labels --generate 20000 --steps 4 6 --rollouts 1

  latent-ext annotate labels --merge --shard-size 1000"""


def annotate(
    directory: Annotated[Path, typer.Argument(help="Where labels are written, and continued.")],
    file: Annotated[Path | None, typer.Option(help="Problems with answers, .jsonl or .json.")] = None,
    generated: Annotated[
        int | None, typer.Option("--generate", help="So many word problems of the shipped task instead.")
    ] = None,
    steps: Annotated[tuple[int, int], typer.Option(help="Fewest and most steps of generated problems.")] = (
        3,
        6,
    ),
    split: Annotated[str, typer.Option(help="Split of generated problems: train, valid or test.")] = "train",
    limit: Annotated[int | None, typer.Option(help="Only the first problems of the file.")] = None,
    model: Annotated[str, typer.Option(help="Directory or Hub id of the generator.")] = "shipped",
    n: Annotated[int, typer.Option("--n", help="Trajectories per question.")] = 8,
    rollouts: Annotated[int, typer.Option(help="Roll-outs from each thought.")] = 16,
    sampler: Annotated[str, typer.Option(help="Latent sampler.")] = SHIPPED_SAMPLER,
    scope: Annotated[str, typer.Option(help="latent, or prompt+latent.")] = "latent",
    policy: Annotated[
        str,
        typer.Option(help="What goes on from a thought: sampler, noise-free or outcome."),
    ] = "sampler",
    seed: Annotated[int, typer.Option(help="Run seed.")] = 0,
    problem_seed: Annotated[int, typer.Option(help="Seed of generated problems.")] = 0,
    weights: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    max_answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    part_size: Annotated[int, typer.Option(help="Questions that are written together.")] = 64,
    stored_as: Annotated[
        str, typer.Option(help="Dtype of thoughts: float32, float16, bfloat16.")
    ] = "float32",
    merge: Annotated[
        bool, typer.Option("--merge", help="Write what is there in the file's order, and do nothing else.")
    ] = False,
    shard_size: Annotated[int, typer.Option(help="Questions per merged shard.")] = 1024,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Samples N trajectories per question and rolls each out M times from every thought; goes on where it was."""
    if threads < 1:
        raise ValueError(f"threads: got {threads}; at least 1 is needed")
    torch.set_num_threads(threads)
    if merge:
        if file is not None or generated is not None:
            raise ValueError("merge: takes no problems; give it the directory alone")
        _describe(merge_labels(directory, shard_size))
        return
    problems = _problems(file, generated, steps, split, problem_seed, limit)
    drawn_by = as_sampler(sampler, scope)  # type: ignore[arg-type]
    settings = LabelSettings(n, rollouts, drawn_by, policy, seed, max_answer_tokens)
    generator = load(model)
    with reporting("annotating", unit="questions") as report:
        report(0, len(problems))
        labelled = run_annotate(
            generator,
            problems,
            directory,
            settings,
            weights=weights,
            part_size=part_size,
            stored_as=stored_as,
            progress=report,
        )
    print(f"{labelled} questions labelled now, {len(problems)} in {directory}")


def _problems(
    file: Path | None,
    generated: int | None,
    steps: tuple[int, int],
    split: str,
    seed: int,
    limit: int | None,
) -> list[NamedProblem]:
    if (file is None) == (generated is None):
        raise ValueError("file: give either --file or --generate, and not both")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; at least 1 problem is needed")
    if file is not None:
        problems = read_problems(file)
    else:
        assert generated is not None
        drawn = generate(generated, split=split, steps=steps, seed=seed)
        problems = [NamedProblem(problem.id, problem.question, problem.answer) for problem in drawn]
    if not problems:
        raise ValueError("file: holds no problem")
    return problems[:limit]


def _describe(directory: Path) -> None:
    questions = read_labels(directory)
    flags = [question.flag for question in questions]
    listed = ", ".join(f"{flags.count(flag)} {flag}" for flag in ("mixed", "all_right", "all_wrong"))
    print(f"{len(questions)} questions in {directory}: {listed}")
