"""One measurement: what is asked of ours and of the baselines, checked, timed and put into a record."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import floor
import torch
from agreement import compare
from baselines import BASELINES, CounterRandomness, Outcome, Randomness, Task, TorchRandomness
from machine import machine_facts
from phases import recorded_phases
from shapes import Shape

import latent_ext
from latent_ext.engine.flops import cost_of
from latent_ext.models.packed import WEIGHTS
from latent_ext.ops.arguments import to_signed
from latent_ext.ops.keys import question_key, trajectory_keys
from latent_ext.samplers import Sampler, as_sampler
from latent_ext.search.result import Result

METHODS = ("ours", "careful", "published")
SELECTS = ("best_of_n", "weighted_vote")
# Default samplers by kind, with the published strengths for GPT-2 size models.
SAMPLERS = {"noise": "noise:0.6", "dropout": "dropout:0.2"}
# "published" copies prompts and all their logits: no larger batch is run.
PUBLISHED_ROWS = 64
# A method whose first timed run takes longer is timed once.
LONG_SECONDS = 20.0
ANSWER_TOKENS = 16

Baseline = Callable[[Task, Randomness], Outcome]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """The settings of one measurement; records of equal settings are comparable.

    Raises:
        ValueError: naming the argument, what was given and what is allowed.
    """

    shape: str
    n: int
    questions: int = 1
    sampler: str = "noise:0.6"
    scope: str = "latent"
    select: str = "best_of_n"
    weights: str = "fp32"
    engine: str = "auto"
    threads: int = 1
    repeats: int = 3
    seed: int = 0
    methods: tuple[str, ...] = METHODS
    max_answer_tokens: int = ANSWER_TOKENS

    def __post_init__(self) -> None:
        for name in ("n", "questions", "threads", "repeats", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; at least 1 is needed")
        if "ours" not in self.methods or set(self.methods) - set(METHODS):
            raise ValueError(
                f"methods: got {','.join(self.methods)}; ours and any of careful, published are allowed"
            )
        for name, allowed in (("select", SELECTS), ("weights", WEIGHTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if self.weights != "fp32" and self.engine not in ("auto", "native"):
            raise ValueError(f"weights: {self.weights!r} needs engine auto or native, got {self.engine!r}")
        if self.bound_sampler.deterministic:
            raise ValueError(f"sampler: got {self.sampler!r}; one that draws something is needed")

    @property
    def bound_sampler(self) -> Sampler:
        return as_sampler(self.sampler, self.scope)  # type: ignore[arg-type]

    @property
    def run_methods(self) -> tuple[str, ...]:
        """The methods that are run, in the order in which they are interleaved."""
        small = self.n * self.questions <= PUBLISHED_ROWS
        return tuple(m for m in METHODS if m in self.methods and (small or m != "published"))

    def settings(self) -> dict[str, Any]:
        return asdict(self) | {"methods": list(self.methods)}


def solve_ours(case: Case, shape: Shape, *, return_thoughts: bool = False) -> list[Result]:
    """`latent_ext.solve` under the settings of a case."""
    # fp32 is the models' own format, which every engine computes in.
    weights = {} if case.weights == "fp32" else {"weights": case.weights}
    return latent_ext.solve(
        shape.model,
        shape.questions,
        n=case.n,
        sampler=case.sampler,
        scope=case.scope,  # type: ignore[arg-type]
        reward=shape.reward,
        select=case.select,
        engine=case.engine,
        max_answer_tokens=case.max_answer_tokens,
        seed=case.seed,
        return_thoughts=return_thoughts,
        **weights,
    )


def measure(
    case: Case,
    shape: Shape,
    *,
    baselines: Mapping[str, Baseline] = BASELINES,
    report: Report = lambda done, total, label: None,
) -> dict[str, Any]:
    """Checks that all methods find the same, then times them in turns; one record.

    Args:
        case: settings.
        shape: its models and as many questions as the case asks for.
        baselines: by method name.
        report: called with (runs done, runs in all, what runs next).

    Returns:
        The record: `same_winner`, `agreement`, `cpu_s`, `wall_s`, `ratio`, `gflop`, floor, phases, machine
        facts and settings. What was not run is None; ratios are there only if all methods agreed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        return _measure(case, shape, baselines, report)
    finally:
        torch.set_num_threads(before)


def _measure(case: Case, shape: Shape, baselines: Mapping[str, Baseline], report: Report) -> dict[str, Any]:
    methods = case.run_methods
    total, done = len(methods) * (1 + case.repeats), 0
    task = Task(
        shape.model,
        shape.reward,
        shape.questions,
        case.n,
        case.bound_sampler,
        case.select,
        case.max_answer_tokens,
    )

    def next_run(label: str) -> None:
        nonlocal done
        report(done, total, label)
        done += 1

    # The checking runs are the warm-up as well.
    next_run("ours, check")
    results = solve_ours(case, shape, return_thoughts=True)
    agreement = {}
    for method in methods[1:]:
        next_run(f"{method}, check")
        outcome = baselines[method](task, counter_randomness(case, shape))
        agreement[method] = compare(shape.model, results, outcome, weights=case.weights)
    same = all(found.same for found in agreement.values())
    record = {
        "same_winner": same if agreement else None,
        "agreement": {method: found.to_dict() for method, found in agreement.items()},
        "cpu_s": dict.fromkeys(METHODS),
        "wall_s": dict.fromkeys(METHODS),
        "ratio": dict.fromkeys(METHODS[1:]),
        "runs": dict.fromkeys(METHODS, 0),
        **_operations(shape, results),
        "fma_gflop_per_s": None,
        "floor_cpu_s": None,
        "share_of_floor": None,
        "phases_cpu_s": None,
        "engine": results[0].settings["engine"],
        "shape": shape.description,
        "machine": machine_facts(),
        "settings": case.settings(),
    }
    if not same:
        return record

    cpu: dict[str, list[float]] = defaultdict(list)
    wall: dict[str, list[float]] = defaultdict(list)
    phases: dict[str, list[float]] = defaultdict(list)
    rates: list[float] = []
    torch.manual_seed(case.seed)
    for repeat in range(case.repeats):
        rates.append(floor.multiply_add_rate())
        for method in methods:
            next_run(f"{method}, run {repeat + 1} of {case.repeats}")
            if cpu[method] and method != "ours" and cpu[method][0] > LONG_SECONDS:
                continue
            with recorded_phases() as spent:
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                if method == "ours":
                    solve_ours(case, shape)
                else:
                    baselines[method](task, TorchRandomness(task.sampler))
                cpu[method].append(time.process_time() - cpu_start)
                wall[method].append(time.perf_counter() - wall_start)
            for phase, seconds in spent.items():
                phases[phase].append(seconds)
    report(total, total, "done")
    record["cpu_s"] |= {method: statistics.median(values) for method, values in cpu.items()}
    record["wall_s"] |= {method: statistics.median(values) for method, values in wall.items()}
    record["runs"] |= {method: len(values) for method, values in cpu.items()}
    record["ratio"] |= {m: record["cpu_s"][m] / record["cpu_s"]["ours"] for m in methods[1:]}
    record["phases_cpu_s"] = {phase: statistics.median(values) for phase, values in phases.items()}
    # Other work on the machine can only lower a rate: the best one seen is nearest to the peak.
    record["fma_gflop_per_s"] = max(rates)
    record["floor_cpu_s"] = record["gflop"] / max(rates)
    record["share_of_floor"] = record["floor_cpu_s"] / record["cpu_s"]["ours"]
    return record


def counter_randomness(case: Case, shape: Shape) -> CounterRandomness:
    """The random numbers that `latent_ext.solve` draws under the same settings."""
    questions = [to_signed(question_key(shape.model.encode(question))) for question in shape.questions]
    keys = trajectory_keys(torch.tensor(questions), case.n).reshape(-1)
    return CounterRandomness(case.bound_sampler, case.seed, keys)


def _operations(shape: Shape, results: list[Result]) -> dict[str, Any]:
    cost = cost_of(shape.model, shape.reward, results)
    assert cost.flops is not None
    by_phase = {phase: count / 1e9 for phase, count in cost.phases.items()}
    return {"gflop": cost.flops / 1e9, "gflop_by_phase": by_phase}
