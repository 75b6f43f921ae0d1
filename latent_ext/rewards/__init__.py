"""Rewards that score trajectories."""

from latent_ext.rewards.answer_reading import AnswerReading
from latent_ext.rewards.latent_rm import LatentRM, load_reward, save_reward

__all__ = ["AnswerReading", "LatentRM", "load_reward", "save_reward"]
