"""Small random generators and LatentRMs, the questions they are asked, and one way to run an engine on them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
)

from latent_ext.assets import SHIPPED_GENERATOR
from latent_ext.engine.base import Answers, Engine, LatentRequest, LatentRun
from latent_ext.engine.cuda import CudaEngine
from latent_ext.engine.modules import ModulesEngine
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.models.checkpoint import cast_parameters
from latent_ext.models.coconut import Coconut
from latent_ext.models.family import ThoughtHead
from latent_ext.models.latent_model import LatentModel
from latent_ext.models.thought_heads import latent_policy_head, projector_head
from latent_ext.ops import question_key, trajectory_keys
from latent_ext.ops.philox import gumbels
from latent_ext.ops.sites import TOKEN
from latent_ext.ops.tolerances import tolerance
from latent_ext.rewards.latent_rm import LatentRM, LatentRMModule
from latent_ext.samplers import Sampler

TOKENIZER = AutoTokenizer.from_pretrained(SHIPPED_GENERATOR)
MAX_TOKENS = 5
SEED = -0x7EDCBA9876543210

# Prompts of different lengths, so that every batch of them is ragged.
QUESTIONS = (
    "Omar has 23 stones. He loses 6. He finds 9 more. How many stones does Omar have now?",
    "Anna starts with 12 tickets. She loses 1.",
    "7",
)


def _config(positions: int, **changes: object) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(TOKENIZER), n_positions=positions, n_embd=48, n_layer=2, n_head=4, bos_token_id=0,
        eos_token_id=0, **changes,
    )  # fmt: skip


def _llama_config(positions: int, **changes: object) -> LlamaConfig:
    # 40 is no multiple of 16, and 4 query heads share 2 heads of keys and values.
    sizes = {
        "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 10,
    }  # fmt: skip
    return LlamaConfig(
        vocab_size=len(TOKENIZER), max_position_embeddings=positions, bos_token_id=0, eos_token_id=0,
        **(sizes | changes),
    )  # fmt: skip


@torch.no_grad()
def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    # Larger than the usual initial weights: attention and norms must matter for the comparison to mean anything.
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.12
        norm_weight = parameter.dim() == 1 and name.endswith("weight")
        parameter.copy_(1.0 + noise if norm_weight else noise)


def projector_module(hidden: int, inner: int) -> nn.Module:
    """CODI's projector as LatentTTS writes it."""
    return nn.Sequential(
        nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden), nn.LayerNorm(hidden)
    )


def policy_module(hidden: int, inner: int) -> nn.Module:
    """CoLaR's head as LatentTTS writes it."""
    fc = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner))
    return nn.Sequential(OrderedDict(fc=fc, mean=nn.Linear(inner, hidden)))


EMBEDDING_STD = 0.12


@dataclass(frozen=True)
class RandomFamily(Coconut):
    """COCONUT's prompts with a thought head of choice, read off `hf.thought_head_module`."""

    head: str = "none"

    def thought_head(self, model: nn.Module) -> ThoughtHead:
        if self.head == "none":
            return ThoughtHead()
        module = model.get_submodule("thought_head_module")
        return (
            projector_head(module) if self.head == "projector" else latent_policy_head(module, EMBEDDING_STD)
        )


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda hidden, inner: nn.Identity(),
    "projector": projector_module,
    "policy": policy_module,
}


def plain_thought(hf: nn.Module, head: str, hidden: Tensor) -> Tensor:
    """The next thought by the head's own modules."""
    return hf.get_submodule("thought_head_module")(hidden) * (EMBEDDING_STD if head == "policy" else 1.0)


def _random_generator(
    hf: PreTrainedModel, generator: torch.Generator, head: str, dtype: torch.dtype, latent_length: int
) -> LatentModel:
    hidden = hf.config.hidden_size
    hf.thought_head_module = HEADS[head](hidden, hidden + 5)
    _randomise(hf, generator)
    with torch.no_grad():
        hf.get_output_embeddings().weight[0] *= 4.0  # answers often end before the limit
    cast_parameters(hf, dtype)
    hf = hf.eval().requires_grad_(False)
    family = RandomFamily(latent_length=latent_length, head=head)
    return LatentModel(hf, TOKENIZER, family, family.ids(TOKENIZER), "random")


def random_model(
    generator: torch.Generator,
    *,
    dtype: torch.dtype = torch.float32,
    positions: int = 64,
    latent_length: int = 4,
    head: str = "none",
) -> LatentModel:
    """A GPT-2 generator of 2 layers, hidden 48, 4 heads, with the shipped tokenizer; `head` is one of `HEADS`."""
    hf = GPT2LMHeadModel(_config(positions))
    return _random_generator(hf, generator, head, dtype, latent_length)


def random_llama_model(
    generator: torch.Generator,
    *,
    dtype: torch.dtype = torch.float32,
    positions: int = 64,
    latent_length: int = 4,
    head: str = "none",
    **changes: object,
) -> LatentModel:
    """A Llama generator of 2 layers, hidden 40, 4 heads over 2, untied, unless `changes` to its config say otherwise."""
    hf = LlamaForCausalLM(_llama_config(positions, **changes))
    return _random_generator(hf, generator, head, dtype, latent_length)


def _random_latent_rm(body: PreTrainedModel, generator: torch.Generator, dtype: torch.dtype) -> LatentRM:
    module = LatentRMModule(body)
    _randomise(module, generator)
    cast_parameters(module, dtype)
    return LatentRM(module.eval().requires_grad_(False), "random")


def random_reward(
    generator: torch.Generator, *, dtype: torch.dtype = torch.float32, positions: int = 64
) -> LatentRM:
    """A LatentRM of the size of `random_model`."""
    return _random_latent_rm(GPT2Model(_config(positions)), generator, dtype)


def random_llama_reward(
    generator: torch.Generator, *, dtype: torch.dtype = torch.float32, positions: int = 64, **changes: object
) -> LatentRM:
    """A LatentRM of the size of `random_llama_model`."""
    return _random_latent_rm(LlamaModel(_llama_config(positions, **changes)), generator, dtype)


# By body: a generator and a LatentRM that fit together.
BODIES: dict[str, tuple[Callable[..., LatentModel], Callable[..., LatentRM]]] = {
    "gpt2": (random_model, random_reward),
    "llama": (random_llama_model, random_llama_reward),
}


def keys_of(prompts: Sequence[Tensor], count: int) -> Tensor:
    """int64 [prompts, count], the keys that `solve` gives to these prompts' trajectories."""
    return trajectory_keys(torch.tensor([question_key(prompt) for prompt in prompts]), count)


ENGINES: dict[str, Callable[[LatentModel, int], Engine]] = {
    "native": NativeEngine,
    "modules": ModulesEngine,
    "reference": ReferenceEngine,
    # The Python of the native engine on CUDA, which runs on a CPU as well.
    "native, graph": lambda model, tokens: CudaEngine(model, tokens, "fp32", "graph"),
}


def make_engine(name: str, model: LatentModel, max_tokens: int = MAX_TOKENS) -> Engine:
    return ENGINES[name](model, max_tokens)


def sample(
    engine: Engine,
    prompts: Sequence[Tensor],
    sampler: Sampler,
    count: int = 3,
    keys: Tensor | None = None,
    reward: LatentRM | None = None,
) -> LatentRun:
    """The latent phase of all prompts in one batch, with its scores where there is a reward."""
    keys = keys_of(prompts, count) if keys is None else keys
    request = LatentRequest(prompts, keys, sampler, SEED)
    reward_cache = None if reward is None else engine.read_reward_prompts(reward, prompts)
    return engine.sample(request, engine.read_prompts(prompts, sampler), reward, reward_cache)


def answer_all(
    engine: Engine, run: LatentRun, temperature: float = 0.0, max_tokens: int = MAX_TOKENS
) -> Answers:
    return engine.answer(run, torch.arange(run.rows), max_tokens=max_tokens, temperature=temperature)


@torch.no_grad()
def decided_tokens(
    model: LatentModel,
    prompt: Tensor,
    thoughts: Tensor,
    tokens: list[int],
    key: Tensor,
    temperature: float = 0.0,
) -> int:
    """How many leading tokens of an answer no rounding can change.

    Reads prompt, thoughts [T, hidden] and the answer once in float64 and counts the tokens before the first one
    whose lead over the second-best is within the table's "logit_gap".
    """
    hf = copy.deepcopy(model.hf).double()
    written = torch.tensor([model.ids.end, *tokens])
    embed = hf.get_input_embeddings()
    inputs = torch.cat([embed(prompt), thoughts.double(), embed(written)]).unsqueeze(0)
    values = hf(inputs_embeds=inputs).logits[0, len(prompt) + len(thoughts) :]
    if temperature > 0.0:
        first = len(prompt) + len(thoughts) + 1
        positions = torch.arange(first, first + len(values))
        drawn = gumbels(SEED, key.expand(len(values)), positions, TOKEN, values.shape[1])
        values = values / temperature + drawn
    best = values.topk(2, dim=1).values
    close = best[:, 0] - best[:, 1] <= tolerance("logit_gap", model.dtype).atol
    return int(close.nonzero()[0]) if close.any() else len(values)


def assert_same_answers(
    model: LatentModel, run: LatentRun, actual: Answers, expected: Answers, temperature: float = 0.0
) -> None:
    """Answers are equal up to the first token that rounding may decide, of which there are few."""
    count = run.request.trajectories
    undecided = 0
    for row, (got, wanted) in enumerate(zip(actual.tokens, expected.tokens, strict=True)):
        b, n = divmod(row, count)
        decided = decided_tokens(
            model, run.request.prompts[b], run.thoughts[row], wanted, run.request.keys[b, n], temperature
        )
        assert got[:decided] == wanted[:decided], f"row {row}"
        if decided > len(wanted):
            assert (got, bool(actual.finished[row])) == (wanted, bool(expected.finished[row])), f"row {row}"
        else:
            undecided += 1
    assert undecided <= max(2, len(expected.tokens) // 4)
