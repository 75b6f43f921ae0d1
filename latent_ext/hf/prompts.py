"""Prompts out of the padded batches that Hugging Face passes around."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentTokens:
    """Ids that frame the latent phase in sequences; `latent` stands where a thought is, and is never embedded.

    CoLaR's separator is both `start` and `end`.
    """

    latent: int
    start: int
    end: int


def split_batch(
    input_ids: Tensor, attention_mask: Tensor | None, *, pad: int | None = None, eos: tuple[int, ...] = ()
) -> list[Tensor]:
    """The real tokens of every row.

    Args:
        input_ids: int64 (batch, length), padded on the left.
        attention_mask: (batch, length) of ones and zeros; None: told by `pad` where that is no end-of-sequence token,
            else all ones, as Hugging Face does.
        pad, eos: token ids.

    Returns:
        int64 (length,) per row.

    Raises:
        TypeError: if `input_ids` are no integers.
        ValueError: for another shape, padding on the right or inside, an empty prompt, or padding that cannot be told
            from text.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dtype not in (torch.int64, torch.int32):
        got = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TypeError(f"input_ids: got {got}; an integer tensor (batch, length) is needed")
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(f"input_ids: got shape {tuple(input_ids.shape)}; (batch, length) is needed")
    mask = _mask(input_ids, attention_mask, pad, eos)
    prompts = []
    for row, (ids, real) in enumerate(zip(input_ids, mask, strict=True)):
        count = int(real.sum())
        if count == 0:
            raise ValueError(f"attention_mask: row {row} has no token")
        if not bool(real[-count:].all()):
            raise ValueError(
                f"attention_mask: row {row} is padded on the right or inside; pad on the left "
                "(tokenizer.padding_side = 'left')"
            )
        prompts.append(ids[-count:].to(torch.int64))
    return prompts


def _mask(input_ids: Tensor, attention_mask: Tensor | None, pad: int | None, eos: tuple[int, ...]) -> Tensor:
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask: got shape {tuple(attention_mask.shape)}; input_ids' {tuple(input_ids.shape)} is needed"
            )
        mask = attention_mask.to(input_ids.device)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("attention_mask: holds values other than 0 and 1")
        return mask.bool()
    everything = torch.ones_like(input_ids, dtype=torch.bool)
    if pad is None:
        return everything
    padded = input_ids[:, 0] == pad
    if pad not in eos:
        return (input_ids != pad) if bool((input_ids == pad).any()) else everything
    if len(input_ids) > 1 and bool(padded.any()) and not bool(padded.all()):
        raise ValueError(
            f"attention_mask: not given, and token {pad} at the start of row {int(padded.nonzero()[0])} may be padding "
            "or text; give the mask"
        )
    return everything


def check_frames(prompts: list[Tensor], tokens: LatentTokens) -> None:
    """Refuses prompts at whose end no latent phase begins.

    Raises:
        ValueError: if a prompt does not end with the start token, or already holds thoughts.
    """
    for row, prompt in enumerate(prompts):
        ids = prompt.tolist()
        if ids[-1] != tokens.start:
            raise ValueError(
                f"input_ids: row {row} ends with token {ids[-1]}; the latent phase begins after token {tokens.start}"
            )
        for name, token in (("latent", tokens.latent), ("end", tokens.end)):
            if token in ids and token != tokens.start:
                raise ValueError(
                    f"input_ids: row {row} holds the {name} token {token}; going on from given thoughts is not supported"
                )
