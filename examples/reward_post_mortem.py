"""Where the oracle had it and the choice missed it: what the LatentRM lost, and by how much.

latent-ext evaluate recipe.yaml --out RUN
python examples/reward_post_mortem.py RUN
"""

import argparse
from collections import Counter

from latent_ext.evaluation.report import missed, outcome, read_run
from latent_ext.evaluation.shares import RULES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="directory of a run")
    parser.add_argument("--show", type=int, default=5, help="questions per arm")
    arguments = parser.parse_args()
    run = read_run(arguments.run)
    for dataset in run.datasets:
        for arm in run.arms:
            pools = [
                line for line in run.lines_of(dataset, arm) if line["scores"] and len(line["answers"]) > 1
            ]
            if not pools:
                continue
            print(f"\n{dataset}, {arm}: {len(pools)} pools of {len(pools[0]['answers'])}")
            for rule in RULES:
                counts = Counter(outcome(line, rule) for line in pools)
                shares = {
                    name: f"{100 * counts[name] / len(pools):.1f} %"
                    for name in ("chosen", "missed", "nowhere")
                }
                print(
                    f"  {rule:13}  right {shares['chosen']}, missed {shares['missed']}, nowhere {shares['nowhere']}"
                )
            lost = missed(pools, "best-of-N")
            near = sum(one.rank is not None and one.rank <= 3 for one in lost)
            print(
                f"  best-of-N lost {len(lost)}; in {near} of them a right trajectory was among the three best scored"
            )
            for one in lost[: arguments.show]:
                print(
                    f"    {one.id}: gold {one.gold}, chose {one.chosen}, right {one.right} of {one.n}, rank {one.rank}"
                )


if __name__ == "__main__":
    main()
