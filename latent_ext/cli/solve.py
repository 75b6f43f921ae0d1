"""`latent-ext solve`: answers questions with N trajectories each."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latent_ext.assets import SHIPPED_SAMPLER
from latent_ext.cli.progress import Report, reporting
from latent_ext.cli.strict_json import strict_json
from latent_ext.engine.flops import Cost
from latent_ext.evaluation.problems import NamedProblem, as_problem, read_problems
from latent_ext.models import load
from latent_ext.models.registry import FAMILIES
from latent_ext.rewards import Reward, as_reward
from latent_ext.rewards.named import NAMED
from latent_ext.search import Result
from latent_ext.search import solve as run_solve

# Results of a file are printed after so many questions, so that an interrupt loses little.
_BLOCK = 16

# Arguments of Python functions that options of another name give; `latent_ext_cli.commands` reads it of every command.
RENAMED = {"positions": "--reward-positions", "switches": "--switch"}

EXAMPLES = """Examples:

  latent-ext solve "Mia has 19 apples. She loses 9. How many apples does Mia have now?" --n 16

  latent-ext solve --file problems.jsonl --sampler noise:0.4:relative --select weighted_vote

  latent-ext solve --file problems.jsonl --select adaptive --confidence 0.95

  latent-ext solve --file problems.jsonl --select adaptive --extend

  latent-ext solve --file problems.jsonl --select beam --beams 8 --subtrees 4 --lookahead 1

  latent-ext solve - --json < problems.jsonl > results.jsonl

  latent-ext solve --file problems.jsonl --device cuda --weights bf16 --rung persistent

  latent-ext solve --file problems.jsonl --model path/to/coconut --reward path/to/latent_rm

  latent-ext solve --file problems.jsonl --sampler dropout:0.2 --reward deviation

  latent-ext solve "..." --model path/to/codi --sampler noise:1.4 --switch pads=visible"""


def solve(
    question: Annotated[
        str | None, typer.Argument(help="The question, or - for JSON lines on standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Problems, .jsonl or .json.")] = None,
    model: Annotated[
        str, typer.Option(help="Directory, weight file or Hub id of the generator, in any published layout.")
    ] = "shipped",
    family: Annotated[
        str | None, typer.Option(help=f"{', '.join(FAMILIES)}. Default: read off the files.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Directory or Hub id of the generator's base model, for what its files leave out."),
    ] = None,
    latent_length: Annotated[
        int | None,
        typer.Option(
            help="Thoughts per trajectory (at most, where they end by themselves). Default: the model's own."
        ),
    ] = None,
    switch: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, a behaviour of the generator; docs/differences.md has the table."),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Directory or Hub id of a LatentRM, answer_rm, answer_reading, answer_logprob, deviation, a .json file of "
            "AnswerReading, or none. Default: shipped, for the shipped model."
        ),
    ] = None,
    reward_positions: Annotated[
        str, typer.Option(help="real, or published: the LatentRM counts pads as LatentTTS does.")
    ] = "real",
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            help="Trajectories per question, with --select adaptive the most. Default: 64; not with --select beam.",
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            help="dropout:P, noise:SIGMA[:relative], svp:ALPHA, ... joined by +, none, or mix(ONE|ANOTHER); "
            "docs/randomness.md has all."
        ),
    ] = SHIPPED_SAMPLER,
    scope: Annotated[str, typer.Option(help="latent, or prompt+latent (published behaviour).")] = "latent",
    select: Annotated[
        str | None,
        typer.Option(
            help="best_of_n, majority, weighted_vote, weighted_vote_raw, beam or adaptive. Default: best_of_n with a "
            "reward, else majority."
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(help="With --select beam: trajectories kept after every thought. Default: 4."),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(help="With --select beam: next thoughts tried from each of them. Default: 4."),
    ] = None,
    replay: Annotated[
        str,
        typer.Option(help="none, or clean: thoughts are re-read without dropout before answers are decoded."),
    ] = "none",
    subtrees: Annotated[
        int | None,
        typer.Option(help="With --select beam: groups of beams, each pruned for itself. Default: 1."),
    ] = None,
    lookahead: Annotated[
        int | None,
        typer.Option(
            help="With --select beam: further noise-free thoughts that judge a candidate. Default: 0."
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="With --select adaptive: how sure the leading answer must be. Default: 0.95."),
    ] = None,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend",
            help="With --select adaptive: each further round continues the best rival trajectory from before its first bad "
            "thought.",
        ),
    ] = False,
    temperature: Annotated[float, typer.Option(help="Of the answer tokens; 0 is argmax.")] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw answer tokens from the likeliest that make up this share.")
    ] = 1.0,
    all_answers: Annotated[
        bool, typer.Option("--all-answers", help="Decode every answer, not only those the selection needs.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Run seed.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, native, modules or reference.")] = "auto",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Number format of the native engine: fp32, bf16 or int8. Default: the model's own."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, cuda or cuda:N.")] = "cpu",
    rung: Annotated[
        str | None,
        typer.Option(
            help="Latent phase on a CUDA device: auto, persistent, stream or graph. Default: LATENT_EXT_RUNG, else auto."
        ),
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per question.")] = False,
) -> None:
    """Answers questions with N sampled trajectories each, and says how it chose."""
    problems = _problems(question, file)
    generator = load(
        model,
        family=family,
        latent_length=latent_length,
        switches=_switches(switch or []),
        base=base,
        device=device,
    )
    if reward is None:
        reward = "shipped" if model == "shipped" else "none"
    judge: Reward | None = None
    if (reward in NAMED or reward.endswith(".json")) and reward_positions != "real":
        raise ValueError(f"reward_positions: got {reward_positions!r}; {reward} is no LatentRM")
    if reward != "none":
        judge = as_reward(reward, positions=reward_positions, device=device)  # type: ignore[arg-type]
    for problem in problems:
        unknown = generator.unknown_words(problem.question)
        if unknown:
            words = ", ".join(repr(word) for word in dict.fromkeys(unknown))
            print(
                f"latent-ext: warning: this model's vocabulary has no {words}; expect a wrong answer",
                file=sys.stderr,
            )
    started = time.monotonic()
    spent: list[Cost] = []
    for start in range(0, len(problems), _BLOCK):
        block = problems[start : start + _BLOCK]
        # The bar is gone again before results are printed.
        with reporting("solving", since=started) as report:

            def progress(
                part: int, total: int, report: Report = report, before: int = start, size: int = len(block)
            ) -> None:
                per_question = total // size
                report(before * per_question + part, per_question * len(problems))

            results = run_solve(
                generator,
                [problem.question for problem in block],
                n=n,
                sampler=sampler,
                scope=scope,  # type: ignore[arg-type]
                reward=judge,
                select=select,
                beams=beams,
                candidates=candidates,
                subtrees=subtrees,
                lookahead=lookahead,
                confidence=confidence,
                extend=extend,
                decode="all" if all_answers else "needed",
                replay=replay,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                engine=engine,
                weights=weights,
                rung=rung,
                max_answer_tokens=max_answer_tokens,
                progress=progress,
            )
        _print(block, results, as_json)
        spent += [result.cost for result in results if result.cost is not None]
    if not as_json:
        _print_budget(results[-1], spent)


def _switches(texts: Sequence[str]) -> dict[str, str]:
    switches = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"switch: got {text!r}; NAME=VALUE is needed")
        switches[name] = value
    return switches


def _problems(question: str | None, file: Path | None) -> list[NamedProblem]:
    if (question is None) == (file is None):
        raise ValueError("question: give either a QUESTION (or - for standard input) or --file, and not both")
    if file is not None:
        problems = read_problems(file)
    elif question == "-":
        problems = read_problems(sys.stdin)
    else:
        problems = [as_problem(question, "the command line", "1")]
    if not problems:
        raise ValueError("file: holds no problem")
    return problems


def _print_budget(result: Result, spent: Sequence[Cost]) -> None:
    """What the budget meant: the most that a question could take, and what the questions did take."""
    if not spent:
        return
    most, count = result.settings["budget"], len(spent)
    used = {
        "thoughts": sum(one.thoughts for one in spent) / count,
        "answer_tokens": sum(one.answer_tokens for one in spent) / count,
        "flops": sum(one.flops or 0 for one in spent) / count,
    }
    average = " on average" if count > 1 else ""
    said = f"per question at most {_work(most)}; took{average} {_work(used)}"
    Console().print(said, style="dim", highlight=False, soft_wrap=True)


def _work(counts: Mapping[str, float]) -> str:
    said = f"{counts['thoughts']:.4g} thoughts, {counts['answer_tokens']:.4g} answer tokens"
    return f"{said}, {counts['flops'] / 1e9:.3g} GFLOP" if counts["flops"] else said


def _print(problems: Sequence[NamedProblem], results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        for problem, result in zip(problems, results, strict=True):
            print(strict_json({"id": problem.id, **result.to_dict(), "gold": problem.answer}), flush=True)
        return
    console = Console()
    for problem, result in zip(problems, results, strict=True):
        console.print(problem.question, style="dim", markup=False, highlight=False)
        answer = "no answer" if result.answer is None else result.answer
        gold = "" if problem.answer is None else f"   (gold {problem.answer})"
        console.print(f"[bold green]{answer}[/]{gold}   {result.select} of {_compared(result)}")
        table = Table("answer", "votes", box=None, header_style="dim")
        for text, weight in list(result.votes.items())[:5]:
            table.add_row(text, f"{weight:g}" if weight == int(weight) else f"{weight:.3f}")
        if len(result.votes) > 1:
            console.print(table)


def _compared(result: Result) -> str:
    """What a selection chose from; a beam search also from those that it did not keep."""
    candidates, kept = result.settings["candidates"], len(result.trajectories)
    return f"{kept} trajectories" if candidates is None else f"{kept} beams x {candidates} candidates"
