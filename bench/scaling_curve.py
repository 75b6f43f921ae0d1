"""Accuracy against N on shipped held-out problems: docs/scaling_curve.png and .csv (`make figure`)."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import latent_ext
from latent_ext.assets import SHIPPED_SAMPLER, SHIPPED_SPLIT
from latent_ext.evaluation.metrics import correct_flags, estimate, pass_at_k, selected_accuracy
from latent_ext.evaluation.problems import shipped_problems

SIZES = (1, 2, 4, 8, 16, 32, 64)
READING = "best-of-N, LatentRM that reads answers"
STYLE = {
    "coverage (a perfect selector)": ("#888888", "--"),
    "majority vote": ("#4477aa", "-"),
    "weighted vote, LatentRM": ("#228833", "-"),
    "best-of-N, LatentRM": ("#ee6677", "-"),
    READING: ("#aa3377", "-"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default=SHIPPED_SPLIT)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    problems = shipped_problems(arguments.split, arguments.limit)
    questions = [problem.question for problem in problems]
    golds = [str(problem.answer) for problem in problems]
    model, reward = latent_ext.load(), latent_ext.load_reward()
    settings = {"sampler": SHIPPED_SAMPLER, "reward": reward, "decode": "all", "n": max(SIZES)}
    settings["return_thoughts"] = True
    pools = [latent_ext.solve(model, questions, seed=seed, **settings) for seed in range(arguments.seeds)]
    greedy = latent_ext.solve(model, questions, n=1, sampler="none")
    read = [latent_ext.rescore(model, pool, "answer_rm", noise_free=greedy) for pool in pools]
    greedy_flags = [correct_flags(r, g)[0] for r, g in zip(greedy, golds, strict=True)]
    baseline = sum(greedy_flags) / len(greedy)

    rules = {
        "coverage (a perfect selector)": lambda r, g, k: pass_at_k(
            len(r.answers), sum(correct_flags(r, g)), k
        ),
        "majority vote": lambda r, g, k: selected_accuracy(latent_ext.majority_vote, r, g, k),
        "weighted vote, LatentRM": lambda r, g, k: selected_accuracy(latent_ext.weighted_vote, r, g, k),
        "best-of-N, LatentRM": lambda r, g, k: selected_accuracy(latent_ext.best_of_n, r, g, k),
    }
    rules[READING] = rules["best-of-N, LatentRM"]
    curves = {
        name: [
            estimate(
                [
                    [rule(r, g, k) for r, g in zip(pool, golds, strict=True)]
                    for pool in (read if name == READING else pools)
                ]
            )
            for k in SIZES
        ]
        for name, rule in rules.items()
    }
    arguments.folder.mkdir(exist_ok=True)
    with (arguments.folder / "scaling_curve.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "n", "accuracy", "low", "high"])
        writer.writerow(["greedy, noise-free", 1, f"{baseline:.4f}", "", ""])
        for name, points in curves.items():
            for k, point in zip(SIZES, points, strict=True):
                low, high = point.interval
                writer.writerow([name, k, f"{point.mean:.4f}", f"{low:.4f}", f"{high:.4f}"])
    draw(
        curves,
        baseline,
        f"{len(problems)} held-out problems, {SHIPPED_SAMPLER}",
        arguments.folder / "scaling_curve.png",
    )


def draw(curves, baseline: float, title: str, path: Path) -> None:
    """One line per selection rule over log2 N, with 95 % bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=150)
    for name, points in curves.items():
        color, line = STYLE[name]
        means = [100 * point.mean for point in points]
        axes.plot(SIZES, means, line, color=color, label=name, marker="o", markersize=3)
        low, high = zip(*(point.interval for point in points), strict=True)
        axes.fill_between(
            SIZES, [100 * v for v in low], [100 * v for v in high], color=color, alpha=0.12, linewidth=0
        )
    axes.axhline(100 * baseline, color="black", linewidth=0.8, linestyle=":", label="greedy, noise-free")
    axes.set_xscale("log", base=2)
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.set_xlabel("trajectories N")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
