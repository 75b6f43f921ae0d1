"""Prompts out of padded batches: what a missing mask means, and what is refused."""

from __future__ import annotations

import pytest
import torch

from latent_ext.hf.prompts import split_batch

PAD, EOS = 9, 0
IDS = torch.tensor([[PAD, PAD, 5, 6], [PAD, 4, 5, 6], [3, 4, 5, 6]])


def lists(prompts: list[torch.Tensor]) -> list[list[int]]:
    return [prompt.tolist() for prompt in prompts]


def test_a_mask_decides_whatever_the_ids_are() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
    assert lists(split_batch(IDS, mask, pad=PAD, eos=(EOS,))) == [[PAD, 5, 6], [6], [3, 4, 5, 6]]


def test_without_a_mask_a_padding_token_of_its_own_tells_the_padding() -> None:
    assert lists(split_batch(IDS, None, pad=PAD, eos=(EOS,))) == [[5, 6], [4, 5, 6], [3, 4, 5, 6]]


def test_without_a_mask_and_a_padding_token_everything_is_text() -> None:
    assert lists(split_batch(IDS, None)) == IDS.tolist()


def test_without_a_mask_an_end_of_sequence_token_may_be_text_or_padding() -> None:
    with pytest.raises(ValueError, match=r"^attention_mask: not given, and token 9 at the start of row 0"):
        split_batch(IDS, None, pad=PAD, eos=(EOS, PAD))
    # Alone, or in front of every row, it is text: many models begin with it.
    assert lists(split_batch(IDS[:1], None, pad=PAD, eos=(PAD,))) == [IDS[0].tolist()]
    assert lists(split_batch(IDS[:2], None, pad=PAD, eos=(PAD,))) == IDS[:2].tolist()


@pytest.mark.parametrize(
    ("argument", "ids", "mask"),
    [
        ("input_ids", IDS.float(), None),
        ("input_ids", [[1, 2]], None),
        ("input_ids", IDS[0], None),
        ("input_ids", IDS[:, :0], None),
        ("attention_mask", IDS, torch.ones(3, 3)),
        ("attention_mask", IDS, torch.full((3, 4), 2)),
        ("attention_mask", IDS, torch.tensor([[1, 1, 1, 0]] * 3)),
        ("attention_mask", IDS, torch.tensor([[1, 0, 1, 1]] * 3)),
        ("attention_mask", IDS, torch.tensor([[1] * 4, [0] * 4, [1] * 4])),
    ],
)
def test_what_is_no_left_padded_batch_is_refused_by_name(argument: str, ids, mask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}: "):
        split_batch(ids, mask)
