"""From trajectories to one answer: selection rules and the run that produces what they need."""

from latent_ext.search.rescore import rescore
from latent_ext.search.result import Result, Trajectory
from latent_ext.search.select import SELECTORS, best_of_n, majority_vote, weighted_vote, weighted_vote_raw
from latent_ext.search.solve import solve

__all__ = [
    "SELECTORS",
    "Result",
    "Trajectory",
    "best_of_n",
    "majority_vote",
    "rescore",
    "solve",
    "weighted_vote",
    "weighted_vote_raw",
]
