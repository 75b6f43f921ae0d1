"""The models that best-of-N is measured on: shapes with random weights, and the shipped model.

A random shape has a tokenizer of single words, so that a question has exactly the wanted length. Its weights
are larger than at initialisation: blocks then outweigh the embedding, and answers differ between trajectories
instead of repeating their last token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

import latent_ext
from latent_ext.assets import SHIPPED_SPLIT
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models.coconut import Coconut
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM, LatentRMModule

PROMPT_TOKENS = 73  # the start-latent token included
LATENT_LENGTH = 6
# Deviation of a linear's weights in units of width ** -0.5: large enough that answers differ, small enough that
# rounding is not amplified from thought to thought into another winner.
_GAIN = {"gpt2": 1.5, "llama": 0.8}
_FRAME = ("<|endoftext|>", "<|start-latent|>", "<|end-latent|>", "<|latent|>")


@dataclass(frozen=True)
class Shape:
    """A generator, a LatentRM and questions for them.

    Attributes:
        name: what the command line calls it.
        model, reward: of the same widths.
        questions: texts.
        description: one line for tables and records.
    """

    name: str
    model: LatentModel
    reward: LatentRM
    questions: list[str]
    description: str


class RandomWords(Coconut):
    """COCONUT over random words: the first word of an answer votes, for there is no number to be read."""

    def answer(self, text: str) -> str | None:
        return text.split()[0] if text.split() else None


def gpt2_small(vocabulary: int = 50257 + 3) -> GPT2Config:
    """GPT-2 small with the three added tokens of LatentTTS."""
    return GPT2Config(vocab_size=vocabulary, bos_token_id=None, eos_token_id=None)


def llama_1b(layers: int = 2, vocabulary: int = 32000 + 3) -> LlamaConfig:
    """Llama-3.2-1B's widths with fewer layers and a smaller vocabulary, so that copies for N=64 fit in memory."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )


def random_shape(
    name: str,
    config: PretrainedConfig,
    questions: int,
    seed: int,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    latent_length: int = LATENT_LENGTH,
    description: str = "",
    device: str = "cpu",
) -> Shape:
    """A shape with random weights.

    Args:
        name: of the shape.
        config: GPT-2 or Llama; the LatentRM has the same.
        questions: how many, all of `prompt_tokens` tokens with the start-latent token.
        seed: of weights and questions.
        device: where the models are made.
    """
    generator = torch.Generator(device).manual_seed(seed)
    of_words = generator if device == "cpu" else torch.Generator().manual_seed(seed)
    tokenizer = word_tokenizer(config.vocab_size)
    family = RandomWords(latent_length=latent_length)
    with torch.device(device):
        hf, body = _modules(config)
        reward = LatentRMModule(body)
    for module in (hf, reward):
        _randomise(module, generator, _GAIN[config.model_type])
        module.eval().requires_grad_(False)
    words = torch.randint(config.vocab_size - len(_FRAME), (questions, prompt_tokens - 1), generator=of_words)
    return Shape(
        name,
        LatentModel(hf, tokenizer, family, family.ids(tokenizer), name),
        LatentRM(reward, name),
        [" ".join(f"w{word}" for word in question) for question in words.tolist()],
        description,
    )


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words w0, w1, ... and the tokens that frame the latent phase; the word w7 is the id 7."""
    words = vocabulary - len(_FRAME)
    ids = {f"w{word}": word for word in range(words)}
    ids |= {token: words + place for place, token in enumerate(_FRAME)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=_FRAME[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_FRAME[0],
        pad_token=_FRAME[0],
        unk_token=_FRAME[0],
        additional_special_tokens=list(_FRAME[1:]),
        clean_up_tokenization_spaces=False,
    )


def _modules(config: PretrainedConfig) -> tuple[nn.Module, nn.Module]:
    if isinstance(config, LlamaConfig):
        return LlamaForCausalLM(config), LlamaModel(config)
    return GPT2LMHeadModel(config), GPT2Model(config)


@torch.no_grad()
def _randomise(module: nn.Module, generator: torch.Generator, gain: float) -> None:
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            continue  # norms and biases stay as initialised
        deviation = 0.02
        if name.startswith("classifier"):
            # Step scores of order 1, so that the best trajectory leads by more than rounding can change.
            deviation = parameter.shape[1] ** -0.5
        elif "wpe" not in name and "wte" not in name and "embed" not in name:
            deviation = gain * min(parameter.shape) ** -0.5
        parameter.normal_(0.0, deviation, generator=generator)


def _gpt2(questions: int, seed: int) -> Shape:
    description = f"GPT-2 small, 124M, random weights, prompt {PROMPT_TOKENS}, T {LATENT_LENGTH}"
    return random_shape("gpt2", gpt2_small(), questions, seed, description=description)


def _llama(questions: int, seed: int) -> Shape:
    config = llama_1b()
    description = (
        f"Llama-3.2-1B widths, {config.num_hidden_layers} layers, vocabulary {config.vocab_size}, "
        f"random weights, prompt {PROMPT_TOKENS}, T {LATENT_LENGTH}"
    )
    return random_shape("llama", config, questions, seed, description=description)


def _shipped(questions: int, seed: int) -> Shape:
    problems = shipped_problems(SHIPPED_SPLIT, questions)
    model = latent_ext.load()
    return Shape(
        "shipped",
        model,
        latent_ext.load_reward(),
        [problem.question for problem in problems],
        f"shipped model, held-out problems of {SHIPPED_SPLIT}, T {model.family.latent_length}",
    )


SHAPES: dict[str, Callable[[int, int], Shape]] = {"gpt2": _gpt2, "shipped": _shipped, "llama": _llama}


def build_shape(name: str, questions: int, seed: int) -> Shape:
    """The named shape with so many questions; `seed` makes weights and questions of a random one.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in SHAPES:
        raise ValueError(f"shape: got {name!r}; allowed are {', '.join(SHAPES)}")
    return SHAPES[name](questions, seed)
