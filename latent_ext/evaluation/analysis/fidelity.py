"""Fidelity: how much of the noise-free thought is left in a sampled one."""

from __future__ import annotations

from collections.abc import Sequence

from latent_ext.evaluation.analysis.distances import row_distance
from latent_ext.evaluation.analysis.means import QuestionMean, means_by_step
from latent_ext.evaluation.analysis.pools import ThoughtPool

MEASURES = ("cosine", "relative")


def fidelity(pools: Sequence[ThoughtPool], measure: str = "cosine") -> list[QuestionMean]:
    """Sampled thoughts against the thought of the deterministic trajectory at the same step, over questions.

    Args:
        pools: one per question, with `noise_free`.
        measure: "cosine": 1 for the same direction; "relative": the Euclidean distance over the length of the
            noise-free thought, 0 for the same thought.

    Returns:
        One mean per thought, for the thoughts that both trajectories have.

    Raises:
        ValueError: for another measure, or a pool without its noise-free trajectory.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure: got {measure!r}; allowed are {', '.join(MEASURES)}")
    return means_by_step([_by_step(pool, measure) for pool in pools])


def _by_step(pool: ThoughtPool, measure: str) -> list[float | None]:
    base = pool.noise_free
    if base is None:
        raise ValueError("pools: one has no noise-free trajectory; give sample_pools(noise_free=)")
    values: list[float | None] = []
    for t in range(min(pool.longest, len(base))):
        sampled, _ = pool.at(t)
        target = base[t].double()
        if measure == "cosine":
            values.append(1.0 - float(row_distance(sampled, target, "cosine").mean()))
        else:
            length = float(target.norm())
            apart = float(row_distance(sampled, target, "euclidean").mean())
            values.append(apart / length if length > 0 else None)
    return values
