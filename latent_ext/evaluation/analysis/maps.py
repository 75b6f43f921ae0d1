"""Maps: the thoughts of one question's trajectories as points of a plane, around the deterministic trajectory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latent_ext.evaluation.analysis.pools import ThoughtPool

MAP_METHODS = ("pca", "tsne", "umap")


@dataclass(frozen=True)
class ThoughtMap:
    """Coordinates of thoughts.

    Attributes:
        method: "pca", "tsne" or "umap".
        sampled: float64 (N, T, 2); NaN after the end of a trajectory.
        noise_free: float64 (T, 2).
        correct: bool (N,).
        explained: share of the variance along each of the two axes; None but for "pca".
    """

    method: str
    sampled: np.ndarray
    noise_free: np.ndarray
    correct: np.ndarray
    explained: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: coordinates with four significant digits, None after the end of a trajectory."""
        return {
            "method": self.method,
            "sampled": [[_point(xy) for xy in path] for path in self.sampled],
            "noise_free": [_point(xy) for xy in self.noise_free],
            "correct": [bool(flag) for flag in self.correct],
            "explained": self.explained,
        }


def map_thoughts(pool: ThoughtPool, method: str = "pca", *, seed: int = 0) -> ThoughtMap:
    """Places all thoughts of a question, sampled and noise-free, in one plane.

    Args:
        pool: with `noise_free`.
        method: "pca": the two directions of largest variance (signs fixed, so that the map is one). "tsne": van der
            Maaten and Hinton 2008, by scikit-learn. "umap": McInnes et al. 2018, by umap-learn. The latter two keep
            neighbourhoods; distances between far points mean nothing.
        seed: of "tsne" and "umap".

    Raises:
        ValueError: for another method, or a pool with fewer than four thoughts or no noise-free trajectory.
        ModuleNotFoundError: naming the extra `analysis`, for "tsne" and "umap" without it.
    """
    if method not in MAP_METHODS:
        raise ValueError(f"method: got {method!r}; allowed are {', '.join(MAP_METHODS)}")
    if pool.noise_free is None:
        raise ValueError("pool: it has no noise-free trajectory; give sample_pools(noise_free=)")
    n, longest = pool.thoughts.shape[:2]
    alive = torch.arange(longest) < pool.steps[:, None]
    points = torch.cat([pool.noise_free, pool.thoughts[alive]]).double().numpy()
    if len(points) < 4:
        raise ValueError(f"pool: got {len(points)} thoughts; a map needs at least 4")
    explained = None
    if method == "pca":
        placed, explained = _pca(points)
    else:
        placed = np.asarray(_embedding(method, len(points), seed)(points), dtype=np.float64)
    steps = len(pool.noise_free)
    sampled = np.full((n, longest, 2), np.nan)
    sampled[alive.numpy()] = placed[steps:]
    return ThoughtMap(method, sampled, placed[:steps], pool.correct.numpy(), explained)


def _pca(points: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    centred = points - points.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    # A singular vector's sign is arbitrary: the entry of largest size is made positive.
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    placed = centred @ directions.T
    if placed.shape[1] == 1:
        placed = np.pad(placed, ((0, 0), (0, 1)))
    variance = values**2
    total = float(variance.sum()) or 1.0
    shares = [*(variance / total).tolist(), 0.0]
    return placed, (shares[0], shares[1])


def _embedding(method: str, count: int, seed: int) -> Callable[[np.ndarray], Any]:
    try:
        if method == "tsne":
            from sklearn.manifold import TSNE

            # The perplexity must be below the number of points; 30 is scikit-learn's default.
            return TSNE(
                n_components=2, perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=seed
            ).fit_transform
        from umap import UMAP

        # Its spectral start needs two points beside the neighbours; one thread, so that a seed fixes the map.
        return UMAP(n_components=2, n_neighbors=min(15, count - 2), random_state=seed, n_jobs=1).fit_transform
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"method: {method!r} needs {missing.name}, of the extra analysis: pip install 'latent_ext[analysis]'"
        ) from None


def _point(xy: np.ndarray) -> list[float] | None:
    return [float(f"{v:.4g}") for v in xy] if np.isfinite(xy).all() else None
