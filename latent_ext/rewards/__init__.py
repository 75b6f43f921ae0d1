"""Rewards that score trajectories."""

from latent_ext.rewards.answer_logprob import AnswerLogprob
from latent_ext.rewards.answer_reading import AnswerReading
from latent_ext.rewards.deviation import Deviation
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.latent_rm_files import load_reward, save_reward
from latent_ext.rewards.named import as_reward
from latent_ext.rewards.reward import Reward, Seen

__all__ = [
    "AnswerLogprob",
    "AnswerReading",
    "Deviation",
    "LatentRM",
    "Reward",
    "Seen",
    "as_reward",
    "load_reward",
    "save_reward",
]
