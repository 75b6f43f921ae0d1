"""What the thoughts of many trajectories look like, measured: do they differ in meaning or only in noise?"""

from latent_ext.evaluation.analysis.analyse import LENGTHS, PARTS, SWEEP, AnalysisPlan, analyse
from latent_ext.evaluation.analysis.distances import DISTANCES, GROUPS, distances, movements
from latent_ext.evaluation.analysis.fidelity import fidelity
from latent_ext.evaluation.analysis.maps import MAP_METHODS, ThoughtMap, map_thoughts
from latent_ext.evaluation.analysis.means import QuestionMean, mean_over_questions
from latent_ext.evaluation.analysis.pools import ThoughtPool, sample_pools
from latent_ext.evaluation.analysis.rank import effective_rank, rank_across, rank_within
from latent_ext.evaluation.analysis.read_out import ReadOut, intermediate_values, read_out
from latent_ext.evaluation.analysis.steps_against_width import Budget, equal_compute, steps_against_width
from latent_ext.evaluation.analysis.sweep import SweepPoint, diversity_sweep

__all__ = [
    "DISTANCES",
    "GROUPS",
    "LENGTHS",
    "MAP_METHODS",
    "PARTS",
    "SWEEP",
    "AnalysisPlan",
    "Budget",
    "QuestionMean",
    "ReadOut",
    "SweepPoint",
    "ThoughtMap",
    "ThoughtPool",
    "analyse",
    "distances",
    "diversity_sweep",
    "effective_rank",
    "equal_compute",
    "fidelity",
    "intermediate_values",
    "map_thoughts",
    "mean_over_questions",
    "movements",
    "rank_across",
    "rank_within",
    "read_out",
    "sample_pools",
    "steps_against_width",
]
