"""Answers on CUDA: one graph reads the last thought and the end token, another one is replayed for every token.

A row that has ended stays in the batch and is not looked at again. Whether all have ended is copied to the host every
few tokens without waiting for it; the host looks at the copy before, so the device always has work in hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.engine.cuda_blocks import CudaBlocks
from latent_ext.engine.cuda_capture import Capture, HostFlag, Turn, bucket, power_of_two
from latent_ext.engine.cuda_prompts import PromptCache
from latent_ext.engine.decoder import Pages, step
from latent_ext.engine.row_dropout import RowDropout

# Tokens between two looks at whether all rows have ended.
CHECK_EVERY = 4
# Longest answers of one graph differ by less than this.
_ROOM_STEP = 16
# Row counts above are rounded up to its multiples, below to powers of two.
_ROW_STEP = 64


@dataclass(frozen=True)
class AnswerInputs:
    """Where the rows stand that are to be answered.

    Attributes:
        thought: [rows, hidden], the last thought, not yet read.
        keys: int64 [rows].
        seed: int64 [1].
        prompt_index: int64 [rows].
        prompts: of the generator.
        key, value: pages [layers, slots, kv_heads, positions, head_dim].
        ancestry: int64 [rows, positions].
        held: positions that every row has read behind its prompt.
    """

    thought: Tensor
    keys: Tensor
    seed: Tensor
    prompt_index: Tensor
    prompts: PromptCache
    key: Tensor
    value: Tensor
    ancestry: Tensor
    held: int


class _Shape:
    """Static buffers of one shape, and its two graphs."""

    def __init__(
        self,
        blocks: CudaBlocks,
        lm_head: Tensor,
        rows: int,
        prompts: int,
        prompt_positions: int,
        held: int,
        room: int,
        temperature: float,
        end: int,
        eos: int,
    ) -> None:
        device, dtype = blocks.device, blocks.dtype
        self.turn = Turn(device)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def cache(entries: int, positions: int) -> Tensor:
            shape = (blocks.layers, entries, blocks.kv_heads, positions, blocks.head_dim)
            return torch.zeros(shape, dtype=dtype, device=device)

        self.thought = torch.zeros(rows, blocks.hidden_size, dtype=dtype, device=device)
        key, value = cache(prompts, prompt_positions), cache(prompts, prompt_positions)
        self.prompts = PromptCache(key, value, integers(prompts), self.thought)
        # The thought, the end token and all tokens but the last are read.
        self.key, self.value = cache(rows, held + 1 + room), cache(rows, held + 1 + room)
        self.keys, self.seed, self.prompt_index = integers(rows), integers(1), integers(rows)
        self.token, self.lengths, self.place = integers(rows), integers(rows), integers(1)
        self.tokens = integers(rows, room)
        self.logprobs = torch.zeros(rows, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.surplus = torch.zeros(rows, dtype=torch.bool, device=device)  # rows that only fill the shape
        self.all_ended = torch.zeros(1, dtype=torch.bool, device=device)
        ancestry = torch.arange(rows, device=device).unsqueeze(1).expand(rows, self.key.shape[3]).contiguous()
        prompt_layers = self.prompts.layered()
        key_layers, value_layers = list(self.key.unbind(0)), list(self.value.unbind(0))

        def read(inputs: Tensor) -> Tensor:
            pages = Pages(key_layers, value_layers, self.prompt_index, ancestry, self.lengths)
            hidden = step(blocks, inputs, prompt_layers, pages, RowDropout.clean(self.seed, self.keys))
            self.lengths.add_(1)
            return hidden

        def draw(hidden: Tensor) -> None:
            # A drawn token is indexed by the position that it will be read at.
            token, logprob = ops.next_token(
                hidden,
                None,
                None,
                lm_head,
                self.keys,
                prompt_layers.lengths[self.prompt_index] + self.lengths,
                self.seed,
                eps=0.0,
                norm="none",
                temperature=temperature,
            )
            self.logprobs.add_(logprob.masked_fill(self.ended, 0.0))
            self.ended.logical_or_(token == eos)
            written = token.masked_fill(self.ended, -1).unsqueeze(1)
            self.tokens.scatter_(1, self.place.expand(rows, 1), written)
            self.place.add_(1)
            self.token.copy_(token)
            self.all_ended.copy_(self.ended.all().reshape(1))

        def begin() -> None:
            self.tokens.fill_(-1)
            self.logprobs.zero_()
            self.ended.copy_(self.surplus)
            self.place.zero_()
            self.lengths.fill_(held)
            self.token.fill_(end)
            read(self.thought)
            draw(read(blocks.token_embedding(self.token)))

        def go_on() -> None:
            draw(read(blocks.token_embedding(self.token)))

        self.begin, self.go_on = Capture(begin, device), Capture(go_on, device)

    def fill(self, given: AnswerInputs) -> None:
        """Copies what the rows have read to where the graphs read it; surplus rows have ended from the start."""
        count, held = len(given.keys), given.held
        entries = given.prompts.key.shape[1]
        self.prompts.key[:, :entries] = given.prompts.key
        self.prompts.value[:, :entries] = given.prompts.value
        self.prompts.lengths[:entries] = given.prompts.lengths
        for name in ("thought", "keys", "prompt_index"):
            getattr(self, name)[:count] = getattr(given, name)
        self.prompt_index[count:] = 0
        self.seed.copy_(given.seed)
        self.surplus[:count] = False
        self.surplus[count:] = True
        if held == 0:
            return
        slots, places = given.ancestry[:, :held], torch.arange(held, device=given.keys.device)
        for old, new in ((given.key, self.key), (given.value, self.value)):
            # Index tensors on two axes come first: [rows, held, layers, kv_heads, head_dim].
            new[:, :count, :, :held] = old[:, slots, :, places].permute(2, 0, 3, 1, 4)


@dataclass(frozen=True)
class Decoded:
    """Answers of rows, on the device.

    Attributes:
        tokens: int64 [rows, max_tokens], without the end-of-sequence token, -1 behind the last token.
        logprobs: float32 [rows], sum of the tokens' log probabilities, end of sequence included.
        finished: bool [rows].
    """

    tokens: Tensor
    logprobs: Tensor
    finished: Tensor


def decode(
    blocks: CudaBlocks,
    lm_head: Tensor,
    given: AnswerInputs,
    *,
    max_tokens: int,
    temperature: float,
    end: int,
    eos: int,
) -> Decoded:
    """Reads the last thought and the end token, then draws up to `max_tokens` tokens for every row.

    Args:
        blocks: the generator.
        lm_head: (vocabulary, hidden), in the dtype of the blocks.
        given: rows, at least one.
        max_tokens: at least 1.
        temperature: of the tokens; 0 is argmax.
        end, eos: the token that is read first, and the one that ends an answer.
    """
    count = len(given.keys)
    rows = power_of_two(count) if count <= _ROW_STEP else bucket(count, _ROW_STEP)
    prompts = power_of_two(given.prompts.key.shape[1])
    room = bucket(max_tokens, _ROOM_STEP)
    sizes = (rows, prompts, given.prompts.key.shape[3], given.held, room)
    shape: _Shape = blocks.captured.take(
        ("answers", *sizes, temperature, end, eos),
        lambda: _Shape(blocks, lm_head, *sizes, temperature, end, eos),
    )
    with shape.turn:
        shape.fill(given)
        shape.begin()
        before: HostFlag | None = None
        for emitted in range(1, max_tokens):
            if emitted % CHECK_EVERY == 0:
                if before is not None and before.get():
                    break
                before = HostFlag(shape.all_ended)
            shape.go_on()
        return Decoded(
            shape.tokens[:count, :max_tokens].clone(),
            shape.logprobs[:count].clone(),
            shape.ended[:count].clone(),
        )
