"""Families of latent reasoning models and their checkpoints."""

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.load import load

__all__ = ["CheckpointError", "LatentModel", "load"]
