"""Families of latent reasoning models and their checkpoints."""

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.latent_model import LatentModel, load

__all__ = ["CheckpointError", "LatentModel", "load"]
