"""One-position passes over a shared prompt cache: the loop of engine="modules", for generator and LatentRM.

Hugging Face's own linears do the GEMMs; everything between them is a fused op. Prompts are kept once per
question (or once per trajectory where the scope demands it); what a row adds goes to its own pages, found
through the ancestry table, so selecting rows moves indices and never a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from latent_ext import ops
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.blocks import Blocks
from latent_ext.models.depth import DepthSteps
from latent_ext.ops import sites


@dataclass
class Prompts:
    """Keys and values of prompts, per layer.

    Attributes:
        keys, values: per layer [prompts, kv_heads, max_prompt, head_dim].
        lengths: int64 [prompts], real lengths.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor

    def select(self, prompts: Tensor) -> Prompts:
        """The same of some of the prompts, int64 [prompts]."""
        rows = prompts.to(self.lengths.device)
        return Prompts(
            [key[rows] for key in self.keys], [value[rows] for value in self.values], self.lengths[rows]
        )


@dataclass
class Pages:
    """What rows added behind their prompts.

    Attributes:
        keys, values: per layer [slots, kv_heads, max_suffix, head_dim].
        prompt_index: int64 [rows], the prompt of each row.
        ancestry: int64 [rows, max_suffix], the slot that holds suffix position s of a row.
        lengths: int64 [rows], positions each row has added so far.
    """

    keys: list[Tensor]
    values: list[Tensor]
    prompt_index: Tensor
    ancestry: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> Pages:
        """The same pages seen by some of the rows; further positions of one view are not seen by another."""
        return Pages(
            self.keys,
            self.values,
            self.prompt_index[rows],
            self.ancestry[rows].contiguous(),
            self.lengths[rows],
        )

    def branch(self, parents: Tensor) -> Pages:
        """The pages of rows that continue `parents` (int64 [rows]); row r writes to slot r from here on.

        What the parents have read stays where it is. All rows have read the same number of positions.
        """
        pages = self.select(parents)
        held = int(pages.lengths[0]) if len(parents) else 0
        pages.ancestry[:, held:] = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        return pages

    def among(self, rows: Tensor, count: int) -> Pages:
        """The pages with these rows as `rows` (int64) of `count`, the others of which have read nothing."""

        def spread(part: Tensor) -> Tensor:
            wide = part.new_zeros(count, *part.shape[1:])
            wide[rows] = part
            return wide

        seen = (spread(part) for part in (self.prompt_index, self.ancestry, self.lengths))
        return Pages(self.keys, self.values, *seen)


def read_prompts(
    blocks: Blocks | DepthSteps,
    prompts: Sequence[Tensor],
    dropout: RowDropout,
    dtype: torch.dtype,
    *,
    run: Callable[..., Tensor] | None = None,
) -> tuple[Prompts, Tensor]:
    """Reads whole prompts with causal attention.

    Args:
        blocks: the body.
        prompts: int64 [length] ids each; padded on the right, where causality keeps pads out of sight.
        dropout: one key per prompt.
        dtype: storage of the caches.
        run: how the body computes; default: `run_blocks`.

    Returns:
        The cache, and the final-norm hidden state of each prompt's last token, [prompts, hidden].
    """
    device = dropout.keys.device
    count = len(prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64, device=device)
    longest = max((len(prompt) for prompt in prompts), default=0)
    tokens = torch.zeros(count, longest, dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    shape = (count, blocks.kv_heads, longest, blocks.head_dim)

    def allocate() -> list[Tensor]:
        return [torch.empty(shape, dtype=dtype, device=device) for _ in range(blocks.layers)]

    cache = Prompts(allocate(), allocate(), lengths)
    return cache, read_padded(blocks, tokens, cache, dropout, run=run)


def read_padded(
    blocks: Blocks | DepthSteps,
    tokens: Tensor,
    cache: Prompts,
    dropout: RowDropout,
    *,
    run: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Reads prompts that are padded on the right, into a cache of the same length.

    Args:
        blocks: the body.
        tokens: int64 [prompts, longest].
        cache: with the real lengths; keys and values of all places are written, those of pads too.
        dropout: one key per prompt.
        run: how the body computes; default: `run_blocks`.

    Returns:
        Final-norm hidden state of each prompt's last token, [prompts, hidden].
    """
    count, longest = tokens.shape
    device = tokens.device
    positions = torch.arange(longest, device=device).expand(count, longest).reshape(-1)
    flat = replace(dropout, keys=dropout.keys.unsqueeze(1).expand(count, longest).reshape(-1))

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        def by_prompt(part: Tensor) -> Tensor:
            return part.reshape(count, longest, part.shape[1], part.shape[2]).transpose(1, 2)

        cache.keys[layer].copy_(by_prompt(key))
        cache.values[layer].copy_(by_prompt(value))
        context = functional.scaled_dot_product_attention(
            by_prompt(query),
            by_prompt(key),
            by_prompt(value),
            is_causal=True,
            scale=blocks.scales[layer],
            enable_gqa=blocks.heads != blocks.kv_heads,
        )
        return context.transpose(1, 2).reshape(count * longest, blocks.heads, blocks.head_dim)

    inputs = blocks.token_embedding(tokens.reshape(-1))
    hidden = (run or run_blocks)(blocks, inputs, positions, flat, attend)
    return hidden.reshape(count, longest, -1)[torch.arange(count, device=device), cache.lengths - 1]


def open_pages(
    blocks: Blocks | DepthSteps,
    prompt_index: Tensor,
    positions: int,
    dtype: torch.dtype,
    *,
    slots: int | None = None,
) -> Pages:
    """Empty pages of `positions` places for each row; row r writes to slot r. There are `slots`, or one per row."""
    rows, device = len(prompt_index), prompt_index.device
    shape = (rows if slots is None else slots, blocks.kv_heads, positions, blocks.head_dim)

    def allocate() -> list[Tensor]:
        return [torch.empty(shape, dtype=dtype, device=device) for _ in range(blocks.layers)]

    ancestry = torch.arange(rows, device=device).unsqueeze(1).expand(rows, positions).contiguous()
    return Pages(
        allocate(), allocate(), prompt_index, ancestry, torch.zeros(rows, dtype=torch.int64, device=device)
    )


def move_pages(pages: Pages, rows: Tensor, positions: int) -> Pages:
    """Pages of `positions` places that hold what `rows` have read; row i of the result writes to slot i.

    The answer phase starts and grows with this: places are taken for the rows that need them and no others.
    """
    held = int(pages.lengths[rows].max()) if len(rows) else 0
    slots = pages.ancestry[rows, :held]
    places = torch.arange(held, device=rows.device)

    def move(layers: list[Tensor]) -> list[Tensor]:
        moved = []
        for old in layers:
            new = old.new_empty(len(rows), old.shape[1], positions, old.shape[3])
            new[:, :, :held] = old[slots, :, places].transpose(1, 2)
            moved.append(new)
        return moved

    ancestry = (
        torch.arange(len(rows), device=rows.device).unsqueeze(1).expand(len(rows), positions).contiguous()
    )
    return Pages(
        move(pages.keys), move(pages.values), pages.prompt_index[rows], ancestry, pages.lengths[rows]
    )


def step(
    blocks: Blocks | DepthSteps,
    inputs: Tensor,
    prompts: Prompts,
    pages: Pages,
    dropout: RowDropout,
    *,
    run: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Reads one more position of every row.

    Args:
        inputs: [rows, hidden], a token's embedding or a thought, before positions are added.
        prompts, pages: what the rows have read; `pages` grows by one position.
        dropout: keys of the rows.
        run: how the body computes; default: `run_blocks`.

    Returns:
        Final-norm hidden state, [rows, hidden].
    """
    positions = prompts.lengths[pages.prompt_index] + pages.lengths

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return ops.prefix_decode_attention(
            query,
            key,
            value,
            prompts.keys[layer],
            prompts.values[layer],
            pages.prompt_index,
            prompts.lengths,
            pages.keys[layer],
            pages.values[layer],
            pages.ancestry,
            pages.lengths,
            blocks.scales[layer],
        )

    hidden = (run or run_blocks)(blocks, inputs, positions, dropout, attend)
    pages.lengths = pages.lengths + 1
    return hidden


def run_blocks(blocks, inputs, positions, dropout, attend):  # type: ignore[no-untyped-def]
    """All layers on flat rows; `attend(layer, query, key, value)` keeps what it must and returns the context.

    Args:
        inputs: [rows, hidden]; positions: int64 [rows].

    Returns:
        Final-norm hidden state, [rows, hidden].
    """
    mask_positions = dropout.mask_positions(positions)

    def residual_p(kind: int) -> float:
        return dropout.p if kind in blocks.dropout_sites else 0.0

    def drop_add_norm(
        branch: Tensor, residual: Tensor, norm: int, site: int, p: float
    ) -> tuple[Tensor, Tensor]:
        kind, weight, bias, eps = blocks.norms[norm]
        return ops.dropout_add_norm(
            branch,
            residual,
            weight,
            bias,
            dropout.keys,
            mask_positions,
            dropout.seed,
            site=site,
            p=p,
            eps=eps,
            norm=kind,
        )

    embedded = blocks.embed(inputs, positions)
    residual, normed = drop_add_norm(
        embedded, torch.zeros_like(embedded), 0, sites.EMBEDDING, dropout.p if dropout.embedding else 0.0
    )
    for layer in range(blocks.layers):
        query, key, value = blocks.query_key_value(layer, normed, positions)
        if dropout.values is not None:
            shift = dropout.values.shift(blocks.model, layer, normed)
            value = (value.to(torch.float32) + shift.reshape(value.shape)).to(value.dtype)
        branch = blocks.attention_output(layer, attend(layer, query, key, value))
        site = sites.layer_site(layer, sites.ATTENTION_OUTPUT)
        p = residual_p(sites.ATTENTION_OUTPUT)
        residual, normed = drop_add_norm(branch, residual, 2 * layer + 1, site, p)
        branch = blocks.mlp(layer, normed)
        site = sites.layer_site(layer, sites.MLP_OUTPUT)
        p = residual_p(sites.MLP_OUTPUT)
        residual, normed = drop_add_norm(branch, residual, 2 * layer + 2, site, p)
    return normed
