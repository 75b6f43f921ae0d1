"""A run's directory with known results, written without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latent_ext.evaluation.settings import settings_hash

STEPS = 3
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>$\\frac{1}{2}$&amp;"


def write_run(
    directory: Path,
    *,
    questions: int = 6,
    n: int = 8,
    lost: tuple[int, ...] = (1, 3),
    identifier: str = "q",
    analysis: bool = True,
) -> Path:
    """A run of two arms and two seeds: trajectory 0 of the pool is right but for the questions in `lost`.

    There trajectory 5 alone is right, and the reward prefers trajectory 0 everywhere.
    """
    settings: dict[str, Any] = {
        "version": "0",
        "model": "made up",
        "weights_hash": "0" * 16,
        "family": "coconut",
        "latent_length": STEPS,
        "switches": {},
        "rewards": {"shipped": "1" * 16},
        "engine": "native",
        "weights": "fp32",
        "datasets": [{"name": "sums", "problems": questions, "hash": "2" * 32}],
        "arms": [
            {"name": "greedy", "kind": "pool", "greedy": True, "n": 1, "sampler": "none", "reward": None},
            {"name": "noise", "kind": "pool", "greedy": False, "n": n, "sampler": "noise:0.6", "reward": "shipped"},
        ],
        "seeds": [0, 1],
        "at": [1, 4, n],
        "checker": "number",
    }  # fmt: skip
    settings["hash"] = settings_hash(settings)
    lines = []
    for arm, width in (("greedy", 1), ("noise", n)):
        for seed in (0, 1):
            for index in range(questions):
                right = 5 if index in lost and width > 5 else 0
                correct = [place == right and (width > 1 or index not in lost) for place in range(width)]
                scores = None if width == 1 else [float(-place) for place in range(width)]
                lines.append(
                    {
                        "dataset": "sums", "arm": arm, "seed": seed, "id": f"{identifier}{index}", "index": index,
                        "question_key": f"{index:016x}", "gold": "7",
                        "answers": ["7" if flag else str(100 + place) for place, flag in enumerate(correct)],
                        "correct": correct, "scores": scores, "step_scores": None, "logprobs": [None] * width,
                        "thoughts": [STEPS] * width, "answer_tokens": [2] * width, "finished": [True] * width,
                        "errors": {}, "chosen": 0,
                        "cost": {"prompt_tokens": 9, "thoughts": STEPS * width, "answer_tokens": 2 * width, "flops": None},
                    }
                )  # fmt: skip
    directory.mkdir(parents=True)
    (directory / "settings.json").write_text(json.dumps(settings))
    (directory / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "recipe.yaml").write_text(f"model: made up\n# {HOSTILE}\n")
    attempts = [
        {
            "at": "2026-01-01T00:00:00",
            "event": "started",
            "executor": "process",
            "shard": "1/1",
            "threads": 2,
        },
        {"at": "2026-01-01T00:00:05", "event": "batch", "seconds": 4.5, "host": HOSTILE, "pid": 7},
        {"at": "2026-01-01T00:00:06", "event": "forced", "changed": [HOSTILE]},
    ]
    (directory / "attempts.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in attempts))
    if analysis:
        (directory / "analysis.json").write_text(json.dumps(made_up_analysis(identifier)))
    return directory


def made_up_analysis(identifier: str) -> dict[str, Any]:
    """An analysis with every part that a report draws."""

    def mean(value: float) -> dict[str, Any]:
        return {"mean": value, "low": value - 0.05, "high": value + 0.05, "questions": 6}

    by_step = [mean(0.1 * (t + 1)) for t in range(STEPS)]
    groups = dict.fromkeys(("all", "right-right", "right-wrong", "wrong-wrong"), by_step)
    shares = {
        name: mean(0.5) for name in ("coverage", "single", "majority", "greedy", "diversity", "distinct")
    }
    path = [[float(t), float(t * t)] for t in range(STEPS)]
    shown = [{"sampler": f"noise:{0.2 * s}", **shares, "diversity": mean(0.1 * s)} for s in (1, 2, 3)]
    return {
        "about": {"plan": {"n": 4}, "problems": 6, "latent_length": STEPS},
        "distances": {"cosine": groups, "euclidean": groups},
        "movement": {"cosine": by_step[:-1], "euclidean": by_step[:-1]},
        "rank": {"within": by_step, "across": [1.0, 2.0, 3.0]},
        "fidelity": {"cosine": by_step, "relative": by_step},
        "read_out": {
            "k": 1, "part": "last", "agreement": by_step, "names": [[mean(0.9), mean(0.2)]] * STEPS,
            "names_other": [[mean(0.1), mean(0.1)]] * STEPS, "any_step": by_step, "any_other": by_step,
            "example": {
                "id": identifier, "question": HOSTILE, "values": ["1", "7"], "noise_free": ["1", HOSTILE, ">>"],
                "sampled": [[["1", 1.0]], [[HOSTILE, 0.75], ["$7$", 0.25]], [[">>", 1.0]]],
            },
        },
        "maps": [
            {"id": identifier, "method": "pca", "sampled": [path, [*path[:-1], None]], "noise_free": path,
             "correct": [True, False], "explained": [0.6, 0.3]}
        ],
        "sweep": shown,
        "steps_against_width": {
            "budget": 40, "rows": [{"thoughts": t, "n": 12 // t, "passes": 40.0, **shares} for t in (2, 3, 4)]
        },
    }  # fmt: skip
