"""latent_ext: parallel test-time scaling of latent reasoning models, on compiled kernels.

>>> import latent_ext
>>> model, reward = latent_ext.load(), latent_ext.load_reward()
>>> results = latent_ext.solve(model, ["..."], n=64, sampler="dropout:0.2", reward=reward)  # doctest: +SKIP
>>> results[0].answer, results[0].best.score  # doctest: +SKIP
"""

from latent_ext._version import __version__
from latent_ext.models import CheckpointError, LatentModel, load
from latent_ext.rewards import LatentRM, load_reward, save_reward
from latent_ext.samplers import GaussianNoise, HeadNoise, MCDropout, Sampler
from latent_ext.search import Result, Trajectory, best_of_n, majority_vote, solve, weighted_vote

__all__ = [
    "CheckpointError",
    "GaussianNoise",
    "HeadNoise",
    "LatentModel",
    "LatentRM",
    "MCDropout",
    "Result",
    "Sampler",
    "Trajectory",
    "__version__",
    "best_of_n",
    "load",
    "load_reward",
    "majority_vote",
    "save_reward",
    "solve",
    "weighted_vote",
]
