"""`analyse`: every measure on one sample of trajectories, as the JSON object that a report is drawn from."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import torch

import latent_ext._version
from latent_ext.evaluation.analysis.distances import DISTANCES, GROUPS, distances, movements
from latent_ext.evaluation.analysis.fidelity import MEASURES, fidelity
from latent_ext.evaluation.analysis.maps import MAP_METHODS, map_thoughts
from latent_ext.evaluation.analysis.means import QuestionMean
from latent_ext.evaluation.analysis.pools import ThoughtPool, sample_pools
from latent_ext.evaluation.analysis.rank import rank_across, rank_within
from latent_ext.evaluation.analysis.read_out import ReadOut, intermediate_values, read_out
from latent_ext.evaluation.analysis.steps_against_width import passes, steps_against_width
from latent_ext.evaluation.analysis.sweep import diversity_sweep
from latent_ext.evaluation.metrics import Estimate
from latent_ext.evaluation.problems import NamedProblem
from latent_ext.hints import did_you_mean
from latent_ext.models import LatentModel
from latent_ext.search import Result, solve

PARTS = ("distances", "rank", "fidelity", "read_out", "maps", "sweep", "steps_against_width")
SWEEP = (
    "dropout:0.05", "dropout:0.1", "dropout:0.2", "dropout:0.3", "dropout:0.4", "dropout:0.5",
    "noise:0.1:relative", "noise:0.2:relative", "noise:0.4:relative", "noise:0.6:relative", "noise:0.8:relative",
    "noise:1.0:relative", "noise:1.2:relative",
)  # fmt: skip
LENGTHS = (2, 3, 4, 5, 6, 7, 8, 10)

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AnalysisPlan:
    """What is measured.

    Attributes:
        parts: of `PARTS`, in any order.
        n: trajectories per question.
        sampler: text form, for everything but the sweep.
        sweep: samplers of the sweep.
        lengths: numbers of thoughts T that are compared at equal compute.
        maps: questions that are drawn as maps.
        map_methods: of `latent_ext.evaluation.analysis.MAP_METHODS`; None: all whose packages are installed.
        part: which token of a value of several names it, see `latent_ext.evaluation.analysis.read_out`.
        k: tokens per thought that count as named.
        seed: run seed.
    """

    parts: Sequence[str] = PARTS
    n: int = 16
    sampler: str = "noise:0.6:relative"
    sweep: Sequence[str] = SWEEP
    lengths: Sequence[int] = LENGTHS
    maps: int = 2
    map_methods: Sequence[str] | None = None
    part: str = "last"
    k: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                hint = did_you_mean(part, PARTS)
                raise ValueError(f"parts: got {part!r}{hint}; allowed are {', '.join(PARTS)}")
        for method in self.map_methods or ():
            if method not in MAP_METHODS:
                hint = did_you_mean(method, MAP_METHODS)
                raise ValueError(f"map_methods: got {method!r}{hint}; allowed are {', '.join(MAP_METHODS)}")
        for name, least in (("n", 2), ("maps", 0), ("k", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: got {value!r}; a whole number >= {least} is needed")


def analyse(
    model: LatentModel,
    problems: Sequence[NamedProblem],
    plan: AnalysisPlan | None = None,
    *,
    report: Report | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measures the thoughts of N sampled trajectories per problem.

    Args:
        model: generator.
        problems: each with a gold answer; `steps` of a problem, where it has them, are what its thoughts may name.
        plan: what is measured. Default: everything, at N = 16.
        report: called with (phase, done, in all).
        settings: further arguments of `latent_ext.solve` for every run of the model, such as ``scope``, ``engine`` and
            ``max_answer_tokens``.

    Returns:
        A JSON object: "about" and one entry per part of the plan. Means are objects with mean, low, high (95 %) and
        questions, per thought; raw thoughts are not in it.

    Raises:
        ValueError: naming the argument, before the model runs.
    """
    plan = plan if plan is not None else AnalysisPlan()
    if not problems:
        raise ValueError("problems: got none; at least 1 is needed")
    for problem in problems:
        if problem.answer is None:
            raise ValueError(f"problems: {problem.id} has no answer; one is needed")
    questions, golds = [p.question for p in problems], [str(p.answer) for p in problems]
    common = {"seed": plan.seed, **settings}

    def phase(name: str) -> Callable[[int, int], None] | None:
        return None if report is None else lambda done, total: report(name, done, total)

    noise_free = solve(
        model, questions, n=1, decode="all", return_thoughts=True, progress=phase("noise-free"),
        **common | {"sampler": "none"},
    )  # fmt: skip
    results, pools = sample_pools(
        model, questions, golds, n=plan.n, noise_free=noise_free, progress=phase("sampling"),
        sampler=plan.sampler, **common,
    )  # fmt: skip
    found: dict[str, Any] = {"about": _about(model, problems, plan, results, pools)}
    if "distances" in plan.parts:
        found["distances"] = {
            kind: {group: _dicts(distances(pools, kind, group)) for group in GROUPS} for kind in DISTANCES
        }
        found["movement"] = {kind: _dicts(movements(pools, kind)) for kind in DISTANCES}
    if "rank" in plan.parts:
        found["rank"] = {"within": _dicts(rank_within(pools)), "across": rank_across(pools)}
    if "fidelity" in plan.parts:
        found["fidelity"] = {measure: _dicts(fidelity(pools, measure)) for measure in MEASURES}
    if "read_out" in plan.parts:
        chains = [problem.steps for problem in problems]
        read = read_out(pools, chains, model.lm_head, model.tokenizer, k=plan.k, part=plan.part)
        found["read_out"] = _read_out(read, model, problems, pools, noise_free, plan)
    if "maps" in plan.parts:
        found["maps"] = _maps(problems, pools, plan)
    if "sweep" in plan.parts:
        points = diversity_sweep(
            model, questions, golds, plan.sweep, n=plan.n, progress=phase("diversity sweep"), **common
        )
        found["sweep"] = [_fields(point) for point in points]
    if "steps_against_width" in plan.parts:
        spent = [passes(result) for result in results]
        budget = round(sum(spent) / len(spent))
        rows = steps_against_width(
            model, questions, golds, plan.lengths, budget=budget, sampler=plan.sampler,
            progress=phase("T against N"), **common,
        )  # fmt: skip
        found["steps_against_width"] = {"budget": budget, "rows": [_fields(row) for row in rows]}
    return found


def _about(
    model: LatentModel,
    problems: Sequence[NamedProblem],
    plan: AnalysisPlan,
    results: Sequence[Result],
    pools: Sequence[ThoughtPool],
) -> dict[str, Any]:
    return {
        "model": model.name,
        "weights_hash": model.weights_hash,
        "problems": len(problems),
        "latent_length": model.family.latent_length,
        "hidden": int(model.lm_head.shape[1]),
        "left_out": sum(pool.left_out for pool in pools),
        "plan": asdict(plan),
        "settings": results[0].settings,
        "latent_ext": latent_ext._version.__version__,
        "torch": torch.__version__,
    }


def _read_out(
    read: ReadOut,
    model: LatentModel,
    problems: Sequence[NamedProblem],
    pools: Sequence[ThoughtPool],
    noise_free: Sequence[Result],
    plan: AnalysisPlan,
) -> dict[str, Any]:
    shown = _telling(pools, 1)[0]
    head = model.lm_head.detach().to("cpu", torch.float32)
    base = pools[shown].noise_free
    assert base is not None
    spelled = model.tokenizer.decode
    example = {
        "id": problems[shown].id,
        "question": problems[shown].question,
        "values": intermediate_values(problems[shown].steps),
        "noise_free": [spelled([int(token)]) for token in (base @ head.T).argmax(dim=-1)],
        # The four tokens that most trajectories put first, with the share that does.
        "sampled": [
            [
                [spelled([token]), count / len(rows)]
                for token, count in Counter(rows).most_common(4)
            ]
            for t in range(pools[shown].longest)
            if (rows := read.top[shown][pools[shown].steps > t, t, 0].tolist())
        ],
    }  # fmt: skip
    return {
        "k": plan.k,
        "part": plan.part,
        "agreement": _dicts(read.agreement),
        "names": [_dicts(row) for row in read.names],
        "names_other": [_dicts(row) for row in read.names_other],
        "any_step": _dicts(read.any_step),
        "any_other": _dicts(read.any_other),
        "example": example,
    }


def _maps(
    problems: Sequence[NamedProblem], pools: Sequence[ThoughtPool], plan: AnalysisPlan
) -> list[dict[str, Any]]:
    packages = {"pca": "numpy", "tsne": "sklearn", "umap": "umap"}
    methods = plan.map_methods
    if methods is None:
        methods = [method for method, package in packages.items() if importlib.util.find_spec(package)]
    return [
        {"id": problems[b].id, **map_thoughts(pools[b], method, seed=plan.seed).to_dict()}
        for b in _telling(pools, plan.maps)
        for method in methods
    ]


def _telling(pools: Sequence[ThoughtPool], count: int) -> list[int]:
    """The first questions that show most: right and wrong trajectories as near to half and half as there are."""
    lean = [abs(float(pool.correct.float().mean()) - 0.5) if len(pool.correct) else 1.0 for pool in pools]
    return sorted(range(len(pools)), key=lambda b: lean[b])[:count]


def _fields(point: Any) -> dict[str, Any]:
    """A dataclass of numbers and means as a JSON object."""
    assert is_dataclass(point)
    return {field.name: _value(getattr(point, field.name)) for field in fields(point)}


def _value(value: Any) -> Any:
    if isinstance(value, QuestionMean):
        return value.to_dict()
    if isinstance(value, Estimate):
        low, high = value.interval
        return {"mean": value.mean, "low": low, "high": high, "questions": value.problems}
    return value


def _dicts(means: Sequence[QuestionMean]) -> list[dict[str, Any]]:
    return [mean.to_dict() for mean in means]
