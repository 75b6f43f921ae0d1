"""Diversity against coverage: how far apart do p and sigma drive trajectories, and does that find more right answers?

python examples/diversity_sweep.py --limit 100 --n 16
"""

import argparse

import latent_ext
from latent_ext.evaluation.analysis import diversity_sweep
from latent_ext.evaluation.problems import shipped_problems


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="test_5")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--n", type=int, default=16)
    arguments = parser.parse_args()
    problems = shipped_problems(arguments.split, arguments.limit)
    samplers = [f"dropout:{p}" for p in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)]
    samplers += [f"noise:{sigma}:relative" for sigma in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)]
    points = diversity_sweep(
        latent_ext.load(),
        [problem.question for problem in problems],
        [str(problem.answer) for problem in problems],
        samplers,
        n=arguments.n,
    )
    print(f"{len(problems)} problems of {arguments.split}, N = {arguments.n}; percent with 95 % intervals")
    print(f"{'sampler':20} {'diversity':>9} {'answers':>8}   {'pass@1':19} {'majority vote':19} coverage")
    for point in points:
        shares = []
        for value in (point.single, point.majority, point.coverage):
            low, high = value.interval
            shares.append(f"{100 * value.mean:5.1f} ({100 * low:.1f}, {100 * high:.1f})")
        print(
            f"{point.sampler:20} {point.diversity.mean:9.3f} {point.distinct.mean:8.2f}   "
            f"{shares[0]:19} {shares[1]:19} {shares[2]}"
        )


if __name__ == "__main__":
    main()
