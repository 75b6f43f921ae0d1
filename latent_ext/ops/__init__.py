"""The native ops and their PyTorch references.

Importing this package loads the native library. Each op `name` has a reference `name_reference` with the same
arguments, built from plain PyTorch, that draws the same random numbers.
"""

# Loads the libraries: an op must exist before its fake is registered.
from latent_ext import _library as _library
from latent_ext.ops.decode_answers import decode_answers, decode_answers_reference
from latent_ext.ops.dropout_add_norm import dropout_add_norm, dropout_add_norm_reference
from latent_ext.ops.keys import child_key, derive, question_key, rollout_key, trajectory_key, trajectory_keys
from latent_ext.ops.latent_rollout import latent_rollout, latent_rollout_reference
from latent_ext.ops.next_thought import next_thought, next_thought_reference
from latent_ext.ops.next_token import next_token, next_token_reference
from latent_ext.ops.pack_linear import pack_linear, pack_linear_reference
from latent_ext.ops.prefix_decode_attention import prefix_decode_attention, prefix_decode_attention_reference
from latent_ext.ops.read_prompts import read_prompts, read_prompts_reference
from latent_ext.ops.score_and_prune import score_and_prune, score_and_prune_reference

__all__ = [
    "child_key",
    "decode_answers",
    "decode_answers_reference",
    "derive",
    "dropout_add_norm",
    "dropout_add_norm_reference",
    "latent_rollout",
    "latent_rollout_reference",
    "next_thought",
    "next_thought_reference",
    "next_token",
    "next_token_reference",
    "pack_linear",
    "pack_linear_reference",
    "prefix_decode_attention",
    "prefix_decode_attention_reference",
    "question_key",
    "read_prompts",
    "read_prompts_reference",
    "rollout_key",
    "score_and_prune",
    "score_and_prune_reference",
    "trajectory_key",
    "trajectory_keys",
]
