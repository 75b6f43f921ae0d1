"""Models, prompts and keys of a cell on the device, and the float32 copies that it is checked against."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from shapes import LATENT_LENGTH, PROMPT_TOKENS, Shape, gpt2_small, llama_1b, random_shape
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, PretrainedConfig

from latent_ext.models.checkpoint import cast_parameters
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.keys import question_key, trajectory_keys
from latent_ext.rewards.latent_rm import LatentRM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
QUESTIONS = 4
SEED = 20251007


def _tiny_gpt2() -> GPT2Config:
    return GPT2Config(
        vocab_size=103, n_positions=64, n_embd=48, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )


def _tiny_llama() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=103, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=10, max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


# "tiny" shapes are for trying the program where there is no device.
SHAPES: dict[str, tuple[Callable[[], PretrainedConfig], int, str]] = {
    "gpt2": (gpt2_small, PROMPT_TOKENS, "GPT-2 small, 124M"),
    "llama": (lambda: llama_1b(layers=16, vocabulary=128256 + 3), PROMPT_TOKENS, "Llama-3.2-1B"),
    "tiny_gpt2": (_tiny_gpt2, 21, "GPT-2, 2 layers of 48"),
    "tiny_llama": (_tiny_llama, 21, "Llama, 2 layers of 40"),
}


@dataclass(frozen=True)
class Setting:
    """One shape in one number format.

    Attributes:
        name: of the shape.
        weights: "fp32" or "bf16".
        model, reward: in that format, on the device.
        exact_model, exact_reward: the very same weights in float32 or float64.
        prompts: int64 [length], one per question, on the device.
        questions: their texts.
        description: one line.
    """

    name: str
    weights: str
    model: LatentModel
    reward: LatentRM
    exact_model: LatentModel
    exact_reward: LatentRM
    prompts: list[Tensor]
    questions: list[str]
    description: str

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def steps(self) -> int:
        return self.model.family.latent_length

    @property
    def weight_bytes(self) -> int:
        """Bytes that one pass of a body reads, generator and LatentRM alike: all parameters but the embeddings."""
        tables = ("wte", "wpe", "embed_tokens")
        named = self.model.body.named_parameters()
        return sum(
            p.numel() * p.element_size() for name, p in named if not any(part in name for part in tables)
        )

    def keys(self, questions: int, n: int) -> Tensor:
        """int64 [questions, n], the keys of `latent_ext.solve`."""
        return trajectory_keys(torch.tensor([question_key(prompt) for prompt in self.prompts[:questions]]), n)


def build(name: str, weights: str, device: str) -> Setting:
    """A shape with random weights, made on the device.

    The exact copies hold the weights after rounding to `weights`: what is compared is the computation. They are
    float64 where that fits easily, which is GPT-2 small, else float32.
    """
    make_config, prompt_tokens, description = SHAPES[name]
    shape: Shape = random_shape(
        name,
        make_config(),
        QUESTIONS,
        SEED,
        prompt_tokens=prompt_tokens,
        latent_length=LATENT_LENGTH,
        device=device,
    )
    for module in (shape.model.hf, shape.reward.module):
        cast_parameters(module, DTYPES[weights])
        module.eval().requires_grad_(False)
    shape.model.hf.tie_weights()
    exact = torch.float32 if name == "llama" else torch.float64
    hf, module = copy.deepcopy(shape.model.hf).to(exact), copy.deepcopy(shape.reward.module).to(exact)
    return Setting(
        name,
        weights,
        shape.model,
        shape.reward,
        replace(shape.model, hf=hf),
        replace(shape.reward, module=module),
        [shape.model.encode(question) for question in shape.questions],
        shape.questions,
        f"{description}, {weights}, random weights, prompt {prompt_tokens}, T {LATENT_LENGTH}",
    )


def forget() -> None:
    """Gives the memory of a setting back before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
