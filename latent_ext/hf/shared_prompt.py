"""One prompt cache per question on unmodified Hugging Face models, through their attention interface.

Keyword arguments that a model's forward does not know travel down to its attention function; that is how the cache gets
there, so that no model code changes and ``past_key_values`` stays empty. Works for every class that takes its attention
from ``AttentionInterface`` and hands it all heads of all positions (GPT-2, Llama, Qwen2, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel

from latent_ext import ops
from latent_ext.engine.decoder import Pages, Prompts

SHARED_PROMPT = "latent_ext_shared_prompt"


@dataclass
class SharedPromptCache:
    """Keys and values of prompts, each kept once, and what every row has read behind its own.

    Attributes:
        prompts: per layer [prompts, kv_heads, max_prompt, head_dim].
        pages: the rows' own positions, found through an ancestry table: selecting rows moves indices, never a cache.
    """

    prompts: Prompts
    pages: Pages

    @classmethod
    def from_dynamic(
        cls,
        cache: DynamicCache,
        attention_mask: Tensor | None = None,
        *,
        rows_per_prompt: int = 1,
        room: int = 32,
    ) -> SharedPromptCache:
        """Shares what a ``DynamicCache`` holds.

        Args:
            cache: prompts that were read, one per row.
            attention_mask: (prompts, length) of ones and zeros, padding on either side; None for no padding.
            rows_per_prompt: rows that go on from each prompt, neighbours.
            room: positions that each row can read behind its prompt.

        Raises:
            ValueError: for a mask of another shape, or counts below 1.
        """
        layers: list[Any] = list(cache.layers)
        if not layers or cache.get_seq_length() == 0:
            raise ValueError("cache: holds no positions")
        for name, value in (("rows_per_prompt", rows_per_prompt), ("room", room)):
            if value < 1:
                raise ValueError(f"{name}: got {value}; at least 1 is needed")
        first = layers[0].keys
        count, kv_heads, length, head_dim = first.shape
        mask = torch.ones(count, length, device=first.device) if attention_mask is None else attention_mask
        if mask.shape != (count, length):
            raise ValueError(f"attention_mask: got shape {tuple(mask.shape)}; {(count, length)} is needed")
        # Real positions first; the order among them stays.
        order = mask.to(first.device).bool().logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        places = order[:, None, :, None]

        def packed(tensor: Tensor) -> Tensor:
            return tensor.gather(2, places.expand_as(tensor)).contiguous()

        lengths = mask.sum(1).to(torch.int64)
        prompts = Prompts(
            [packed(one.keys) for one in layers], [packed(one.values) for one in layers], lengths
        )
        rows = count * rows_per_prompt
        shape = (rows, kv_heads, room, head_dim)
        empty = [first.new_empty(shape) for _ in range(2 * len(layers))]
        own = torch.arange(rows, device=first.device)
        pages = Pages(
            empty[: len(layers)],
            empty[len(layers) :],
            own // rows_per_prompt,
            own.unsqueeze(1).expand(rows, room).contiguous(),
            torch.zeros_like(own),
        )
        return cls(prompts, pages)

    def to_dynamic(self) -> tuple[DynamicCache, Tensor]:
        """A ``DynamicCache`` of its own for every row, and its mask: any Hugging Face loop can go on from it.

        Returns:
            The cache, padded on the left, and int64 (rows, length) of ones and zeros.
        """
        lengths = self.lengths
        longest = int(lengths.max())
        places = torch.arange(longest, device=lengths.device) - (longest - lengths).unsqueeze(1)
        prompt_lengths = self.prompts.lengths[self.pages.prompt_index].unsqueeze(1)
        in_prompt, mask = (places >= 0) & (places < prompt_lengths), places >= 0
        behind = (places - prompt_lengths).clamp(min=0)
        slots = self.pages.ancestry.gather(1, behind.clamp(max=self.pages.ancestry.shape[1] - 1))
        prompt_rows = self.pages.prompt_index.unsqueeze(1)
        last = self.prompts.keys[0].shape[2] - 1

        def dense(prompt: Tensor, page: Tensor) -> Tensor:
            of_prompt = prompt[prompt_rows, :, places.clamp(0, last)]
            own = page[slots, :, behind.clamp(max=page.shape[2] - 1)]
            chosen = torch.where(in_prompt[..., None, None], of_prompt, own)
            return (
                torch.where(mask[..., None, None], chosen, torch.zeros_like(chosen))
                .transpose(1, 2)
                .contiguous()
            )

        keys = [dense(*pair) for pair in zip(self.prompts.keys, self.pages.keys, strict=True)]
        values = [dense(*pair) for pair in zip(self.prompts.values, self.pages.values, strict=True)]
        return DynamicCache(list(zip(keys, values, strict=True))), mask.to(torch.int64)

    @property
    def lengths(self) -> Tensor:
        """int64 [rows], positions that each row has read, its prompt included."""
        return self.prompts.lengths[self.pages.prompt_index] + self.pages.lengths

    def select(self, rows: Tensor) -> SharedPromptCache:
        """The same cache seen by `rows` (int64, each at most once): pruning copies nothing."""
        return SharedPromptCache(self.prompts, self.pages.select(rows))


def shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prompt: SharedPromptCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention function of the interface: `prefix_decode_attention` where a `SharedPromptCache` came along, else SDPA.

    Args:
        module: an attention layer with its ``layer_idx``.
        query: [rows, heads, 1, head_dim]; key, value: [rows, kv_heads, 1, head_dim].
        attention_mask: of no use with a shared cache, which knows its lengths.

    Returns:
        [rows, 1, heads, head_dim], and None.

    Raises:
        ValueError: for more than one new position, dropout, a sliding window that has been filled, or capped logits.
    """
    if shared_prompt is None:
        return AttentionInterface()["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if query.shape[2] != 1:
        raise ValueError(
            f"query: got {query.shape[2]} positions; a shared prompt cache is read one position at a time"
        )
    if dropout > 0.0 or kwargs.get("softcap") is not None:
        raise ValueError("shared_prompt: attention dropout and capped logits are not supported")
    window = kwargs.get("sliding_window")
    if window is not None and int(shared_prompt.lengths.max()) >= window:
        raise ValueError(f"shared_prompt: rows are longer than the model's sliding window of {window}")
    prompts, pages = shared_prompt.prompts, shared_prompt.pages
    layer: int = module.layer_idx  # type: ignore[assignment]
    context = ops.prefix_decode_attention(
        query[:, :, 0],
        key[:, :, 0],
        value[:, :, 0],
        prompts.keys[layer],
        prompts.values[layer],
        pages.prompt_index,
        prompts.lengths,
        pages.keys[layer],
        pages.values[layer],
        pages.ancestry,
        pages.lengths,
        scaling,
    )
    return context.unsqueeze(1), None


@contextmanager
def shared_prompt_attention_of(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within the context, `model` attends through `shared_prompt_attention`; afterwards as before.

    Raises:
        ValueError: for a class that does not take its attention from the interface.
    """
    AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
    # Without a mask function of the same name, Hugging Face silently drops the padding mask.
    AttentionMaskInterface.register(SHARED_PROMPT, AttentionMaskInterface()["sdpa"])
    before = model.config._attn_implementation
    model.set_attn_implementation(SHARED_PROMPT)
    try:
        yield model
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def read_prompts(
    model: PreTrainedModel, prompts: Sequence[Tensor], *, rows_per_prompt: int = 1, room: int = 32
) -> tuple[SharedPromptCache, Tensor]:
    """Reads every prompt once.

    Args:
        model: a causal language model in eval mode.
        prompts: int64 [length] ids each.
        rows_per_prompt, room: see `SharedPromptCache.from_dynamic`.

    Returns:
        The cache, and the final-norm hidden state of each row's last prompt token, [rows, hidden].
    """
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64, device=model.device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    output = model.base_model(input_ids=tokens, attention_mask=mask, use_cache=True)
    cache = SharedPromptCache.from_dynamic(
        _cache_of(output), mask, rows_per_prompt=rows_per_prompt, room=room
    )
    last = output.last_hidden_state[torch.arange(len(prompts)), mask.sum(1) - 1]
    return cache, last.repeat_interleave(rows_per_prompt, dim=0)


@torch.no_grad()
def read_position(model: PreTrainedModel, inputs: Tensor, cache: SharedPromptCache) -> Tensor:
    """Reads one more position of every row, inside `shared_prompt_attention_of`.

    Args:
        inputs: [rows, hidden], token embeddings or thoughts.
        cache: grows by one position per row.

    Returns:
        Final-norm hidden states, [rows, hidden].

    Raises:
        ValueError: if `cache` has no room left, or `model` does not attend through the interface.
    """
    room = cache.pages.ancestry.shape[1]
    if int(cache.pages.lengths.max()) >= room:
        raise ValueError(f"cache: each row has read the {room} positions that there is room for")
    if model.config._attn_implementation != SHARED_PROMPT:
        raise ValueError(
            "model: does not attend through the shared prompt; use it inside shared_prompt_attention_of"
        )
    output = model.base_model(
        inputs_embeds=inputs.unsqueeze(1),
        position_ids=cache.lengths.unsqueeze(1),
        use_cache=False,
        shared_prompt=cache,
    )
    cache.pages.lengths = cache.pages.lengths + 1
    return output.last_hidden_state[:, 0]


def _cache_of(output: Any) -> DynamicCache:
    # transformers 5.24 renamed the field.
    return output.past_key_values if getattr(output, "past_key_values", None) is not None else output.cache
