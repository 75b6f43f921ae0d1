"""latent_ext: parallel test-time scaling of latent reasoning models, on compiled kernels.

>>> import latent_ext
>>> model, reward = latent_ext.load(), latent_ext.load_reward()
>>> results = latent_ext.solve(model, ["..."], n=64, sampler="dropout:0.2", reward=reward)  # doctest: +SKIP
>>> results[0].answer, results[0].best.score  # doctest: +SKIP
"""

from typing import Any

import transformers

from latent_ext._version import __version__
from latent_ext.mixture import Mixture
from latent_ext.models import CheckpointError, LatentModel, load
from latent_ext.rewards import LatentRM, load_reward, save_reward
from latent_ext.samplers import GaussianNoise, HeadNoise, MCDropout, Sampler
from latent_ext.search import (
    Result,
    Trajectory,
    best_of_n,
    majority_vote,
    rescore,
    solve,
    weighted_vote,
    weighted_vote_raw,
)

_PLUGS = {
    "LatentConfig": "latent_ext.hf.auto",
    "LatentForCausalLM": "latent_ext.hf.auto",
    "LatentGenerateOutput": "latent_ext.hf.output",
    "LatentGenerationConfig": "latent_ext.hf.generation_config",
    "accelerate": "latent_ext.hf.accelerate",
    "export_custom_generate": "latent_ext.hf.export",
    "generate": "latent_ext.hf.generate",
}

__all__ = [
    "CheckpointError",
    "GaussianNoise",
    "HeadNoise",
    "LatentConfig",
    "LatentForCausalLM",
    "LatentGenerateOutput",
    "LatentGenerationConfig",
    "LatentModel",
    "LatentRM",
    "MCDropout",
    "Mixture",
    "Result",
    "Sampler",
    "Trajectory",
    "__version__",
    "accelerate",
    "best_of_n",
    "export_custom_generate",
    "generate",
    "load",
    "load_reward",
    "majority_vote",
    "rescore",
    "save_reward",
    "solve",
    "weighted_vote",
    "weighted_vote_raw",
]


def __getattr__(name: str) -> Any:
    # What plugs into Hugging Face is imported when it is first used.
    if name in _PLUGS:
        import importlib

        return getattr(importlib.import_module(_PLUGS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# `accelerate` also serves transformers 4.52, whose configs are of another kind.
if hasattr(transformers, "PretrainedConfig"):
    from latent_ext.hf.auto import register

    register()
    del register
