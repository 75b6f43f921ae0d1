"""The arithmetic that best-of-N cannot do without, and the time it takes at the machine's fma peak.

Counted are multiplications and additions of linear layers, attention (scores and weighted sum over the
positions that are seen) and heads, for every position that has to be read: a prompt once per question (once
per trajectory where dropout acts on it), thoughts once by generator and LatentRM, the last thought, the end
token and all answer tokens but the last for answers that are decoded. Norms, activations, exponentials and
random numbers are not counted. The parts are named after the engine's phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import LlamaConfig, PretrainedConfig

from latent_ext import _native
from latent_ext.samplers import Sampler


@dataclass(frozen=True)
class BodyOperations:
    """Operations of one position in a transformer body.

    Attributes:
        linear: of all linear layers.
        per_key: of attention, for each position that is seen.
        hidden: width of its output.
    """

    linear: int
    per_key: int
    hidden: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> BodyOperations:
        """Counts for a GPT-2 or Llama config."""
        if isinstance(config, LlamaConfig):
            width = config.hidden_size
            heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
            inner = heads * config.head_dim
            attention = 2 * width * inner + 2 * width * kv_heads * config.head_dim
            weights = attention + 3 * width * config.intermediate_size
            layers = config.num_hidden_layers
        else:
            width = inner = config.n_embd
            weights = 4 * width**2 + 2 * width * (config.n_inner or 4 * width)
            layers = config.n_layer
        return cls(2 * layers * weights, 4 * layers * inner, width)

    def read(self, first: int, last: int) -> int:
        """Operations of reading positions first .. last - 1, each seeing itself and all before it."""
        seen = (last * (last + 1) - first * (first + 1)) // 2
        return (last - first) * self.linear + seen * self.per_key

    def head(self, outputs: int) -> int:
        """Operations of a linear head on one position."""
        return 2 * self.hidden * outputs


def operations(
    generator: BodyOperations,
    reward: BodyOperations,
    *,
    prompts: Sequence[int],
    n: int,
    latent_length: int,
    sampler: Sampler,
    vocabulary: int,
    drawn: Sequence[tuple[int, int]],
) -> dict[str, int]:
    """Operations by phase.

    Args:
        generator, reward: the two bodies.
        prompts: tokens of each question's prompt.
        n: trajectories per question.
        latent_length: thoughts T.
        sampler: decides which passes a trajectory has for itself.
        vocabulary: outputs of the LM head.
        drawn: for each decoded answer, its question and the tokens drawn, the end of sequence included.
    """
    counts = dict.fromkeys(("read_prompts", "sample", "read_reward_prompts", "score", "answer"), 0)
    for length in prompts:
        own = length
        if sampler.drops:
            own = 0 if sampler.scope == "prompt+latent" else length - 1
        counts["read_prompts"] += generator.read(0, own)
        counts["sample"] += n * generator.read(own, length + latent_length - 1)
        counts["read_reward_prompts"] += reward.read(0, length)
        counts["score"] += n * (reward.read(length, length + latent_length) + latent_length * reward.head(1))
    for question, tokens in drawn:
        first = prompts[question] + latent_length - 1
        counts["answer"] += generator.read(first, first + 1 + tokens) + tokens * generator.head(vocabulary)
    return counts


def multiply_add_rate(seconds: float = 0.25) -> float:
    """GFLOP/s of one thread that does nothing but fma in registers, measured now."""
    return float(_native.multiply_add_rate(seconds))
