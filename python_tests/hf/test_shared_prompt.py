"""One prompt cache per question on stock models: the hidden states of a cache of one's own per row."""

from __future__ import annotations

import inspect

import pytest
import torch
from live_models import live_model, prompts
from random_models import TOKENIZER
from torch import Tensor
from transformers import (
    AttentionInterface,
    DynamicCache,
    GPT2Model,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from latent_ext.hf.shared_prompt import (
    SHARED_PROMPT,
    SharedPromptCache,
    read_position,
    read_prompts,
    shared_prompt_attention_of,
)
from latent_ext.ops.tolerances import assert_close

ROWS, STEPS = 3, 5
# transformers 5.24 renamed the argument.
CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"


def stock_model(generator: torch.Generator, body: str) -> PreTrainedModel:
    if body != "qwen2":
        return live_model(generator, "coconut", body)
    config = Qwen2Config(
        vocab_size=len(TOKENIZER), hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(int(torch.randint(1 << 30, (), generator=generator)))
    return Qwen2ForCausalLM(config).eval()


@torch.no_grad()
def own_cache_states(model: PreTrainedModel, prompt: Tensor, inputs: Tensor) -> Tensor:
    """prompt [length], inputs [rows, steps, hidden] -> states [rows, steps, hidden], a DynamicCache for every row."""
    cache = DynamicCache()
    model.base_model(input_ids=prompt.unsqueeze(0), use_cache=True, **{CACHE: cache})
    cache.batch_repeat_interleave(len(inputs))
    states = []
    for step in range(inputs.shape[1]):
        positions = torch.full((len(inputs), 1), len(prompt) + step)
        read = model.base_model(
            inputs_embeds=inputs[:, step : step + 1], position_ids=positions, use_cache=True, **{CACHE: cache}
        )
        states.append(read.last_hidden_state[:, 0])
    return torch.stack(states, dim=1)


def random_inputs(model: PreTrainedModel, generator: torch.Generator, rows: int) -> Tensor:
    return torch.randn(rows, STEPS, model.config.hidden_size, generator=generator)


@pytest.mark.parametrize("body", ["gpt2", "llama", "qwen2"])
def test_rows_that_share_a_prompt_read_what_rows_with_a_cache_each_read(
    generator: torch.Generator, body: str
) -> None:
    model, listed = stock_model(generator, body), prompts()
    inputs = random_inputs(model, generator, ROWS * len(listed))
    expected = torch.cat(
        [
            own_cache_states(model, prompt, part)
            for prompt, part in zip(listed, inputs.split(ROWS), strict=True)
        ]
    )
    cache, _ = read_prompts(model, listed, rows_per_prompt=ROWS, room=STEPS)
    with shared_prompt_attention_of(model):
        states = [read_position(model, inputs[:, step], cache) for step in range(STEPS)]
    assert_close(torch.stack(states, dim=1), expected, "latent_phase")


@pytest.mark.parametrize("body", ["gpt2", "llama", "qwen2"])
def test_a_prompt_is_kept_once_whatever_the_number_of_rows(generator: torch.Generator, body: str) -> None:
    model = stock_model(generator, body)
    cache, last = read_prompts(model, prompts(), rows_per_prompt=64, room=1)
    assert cache.prompts.keys[0].shape[0] == len(prompts())
    assert len(cache.lengths) == len(last) == 64 * len(prompts())


@pytest.mark.parametrize("body", ["gpt2", "llama", "qwen2"])
def test_it_converts_from_and_to_a_dynamic_cache(generator: torch.Generator, body: str) -> None:
    model, listed = stock_model(generator, body), prompts()
    inputs = random_inputs(model, generator, ROWS * len(listed))
    shared, _ = read_prompts(model, listed, rows_per_prompt=ROWS, room=STEPS)
    with shared_prompt_attention_of(model):
        for step in range(STEPS - 1):
            read_position(model, inputs[:, step], shared)
        dense, mask = shared.to_dynamic()
        last = read_position(model, inputs[:, -1], shared)
    again = SharedPromptCache.from_dynamic(dense, mask, room=1)
    assert torch.equal(again.lengths, shared.lengths - 1)
    with shared_prompt_attention_of(model):
        assert_close(read_position(model, inputs[:, -1], again), last, "latent_phase")
    # A plain Hugging Face forward goes on from it as well.
    longer = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    with torch.no_grad():
        plain = model.base_model(
            inputs_embeds=inputs[:, -1:], attention_mask=longer, position_ids=mask.sum(1, keepdim=True),
            use_cache=True, **{CACHE: dense},
        )  # fmt: skip
    assert_close(plain.last_hidden_state[:, 0], last, "latent_phase")


def test_selected_rows_go_on_as_if_the_others_had_never_been(generator: torch.Generator) -> None:
    model, listed = stock_model(generator, "llama"), prompts()
    inputs = random_inputs(model, generator, ROWS * len(listed))
    whole, _ = read_prompts(model, listed, rows_per_prompt=ROWS, room=STEPS)
    pruned, _ = read_prompts(model, listed, rows_per_prompt=ROWS, room=STEPS)
    kept = torch.tensor([1, 5, 6, 8])
    with shared_prompt_attention_of(model):
        for step in range(2):
            read_position(model, inputs[:, step], whole)
            read_position(model, inputs[:, step], pruned)
        pruned = pruned.select(kept)
        expected = read_position(model, inputs[:, 2], whole)[kept]
        assert_close(read_position(model, inputs[kept, 2], pruned), expected, "latent_phase")


def test_the_model_attends_as_before_afterwards_and_with_padding_inside(generator: torch.Generator) -> None:
    model = stock_model(generator, "gpt2")
    ids = torch.randint(1, 50, (2, 6), generator=generator)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    how = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    before, implementation = model(ids, **how).logits, model.config._attn_implementation
    with shared_prompt_attention_of(model):
        assert model.config._attn_implementation == SHARED_PROMPT
        inside = model(ids, **how).logits
    assert model.config._attn_implementation == implementation
    assert torch.equal(inside[mask.bool()], before[mask.bool()])
    assert SHARED_PROMPT in AttentionInterface()


def test_what_a_shared_cache_cannot_do_is_refused_by_name(generator: torch.Generator) -> None:
    model, listed = stock_model(generator, "gpt2"), prompts()
    cache, _ = read_prompts(model, listed, room=1)
    inputs = random_inputs(model, generator, len(listed))
    with pytest.raises(ValueError, match=r"^model: does not attend"):
        read_position(model, inputs[:, 0], cache)
    with shared_prompt_attention_of(model):
        with pytest.raises(ValueError, match=r"^query: got 2 positions"), torch.no_grad():
            model.base_model(inputs_embeds=inputs[:, :2], use_cache=False, shared_prompt=cache)
        read_position(model, inputs[:, 0], cache)
        with pytest.raises(ValueError, match=r"^cache: each row"):
            read_position(model, inputs[:, 1], cache)
    with pytest.raises(ValueError, match=r"^cache: holds no positions"):
        SharedPromptCache.from_dynamic(DynamicCache())
    dense, mask = cache.to_dynamic()
    with pytest.raises(ValueError, match=r"^attention_mask: "):
        SharedPromptCache.from_dynamic(dense, mask[:, 1:])
    with pytest.raises(ValueError, match=r"^room: "):
        SharedPromptCache.from_dynamic(dense, mask, room=0)
