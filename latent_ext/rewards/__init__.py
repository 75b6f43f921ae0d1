"""Rewards that score trajectories."""

from latent_ext.rewards.latent_rm import LatentRM, load_reward, save_reward

__all__ = ["LatentRM", "load_reward", "save_reward"]
