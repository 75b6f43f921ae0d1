"""Records which random numbers an engine draws, by calling the very ops that it calls on inputs that show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from latent_ext import ops
from latent_ext.ops import philox
from latent_ext.ops.sites import NOISE

Draws = dict[tuple[int, int], bytes]


class Recorder:
    """Draws by trajectory key: (site, position) -> the bytes of the mask or of the Gaussian values.

    A draw that is repeated (a padded batch, a duplicated question) must repeat its bytes.
    """

    def __init__(self) -> None:
        self.by_key: dict[int, Draws] = defaultdict(dict)

    def add(self, site: int, keys: Tensor, positions: Tensor, values: Tensor) -> None:
        for key, position, row in zip(keys.tolist(), positions.tolist(), values, strict=True):
            drawn = row.contiguous().view(torch.uint8).numpy().tobytes()
            assert self.by_key[key].setdefault((site, position), drawn) == drawn

    def of(self, keys: Tensor, below: int | None = None) -> list[Draws]:
        """The draws of each trajectory, in the order of `keys`; positions of padding (>= `below`) left out."""
        limit = 1 << 20 if below is None else below
        return [
            {
                place: drawn
                for place, drawn in self.by_key[key].items()
                if place[1] < limit or place[1] == 0xFFFFF
            }
            for key in keys.reshape(-1).tolist()
        ]


@contextmanager
def recording() -> Iterator[Recorder]:
    """Within the context every mask and every Gaussian value of both engines is recorded.

    Masks are the op's own output on a branch of ones, Gaussian values its output on a hidden state of zeros.
    """
    recorder = Recorder()
    dropout_add_norm, dropout = ops.dropout_add_norm, philox.dropout

    def seen_dropout_add_norm(
        branch: Tensor, residual: Tensor, weight: Any, bias: Any, *randomness: Any, **settings: Any
    ):  # type: ignore[no-untyped-def]
        if settings["p"] > 0.0:
            ones = torch.ones(branch.shape)
            silent = settings | {"norm": "none"}
            shown, _ = dropout_add_norm(ones, torch.zeros_like(ones), None, None, *randomness, **silent)
            recorder.add(settings["site"], randomness[0], randomness[1], shown)
        return dropout_add_norm(branch, residual, weight, bias, *randomness, **settings)

    def seen_dropout(x: Tensor, seed: Tensor, keys: Tensor, positions: Tensor, site: int, p: float) -> Tensor:
        if p > 0.0:
            recorder.add(site, keys, positions, dropout(torch.ones(x.shape), seed, keys, positions, site, p))
        return dropout(x, seed, keys, positions, site, p)

    def seen_next_thought(original: Any) -> Any:
        def seen(hidden: Tensor, *arguments: Any, **settings: Any) -> None:
            if settings["sigma"] > 0.0:
                keys, positions, seed = arguments[3:6]
                shown = torch.empty(hidden.shape)
                zeros = torch.zeros(hidden.shape)
                original(zeros, None, None, None, keys, positions, seed, sigma=1.0, next_input=shown)
                recorder.add(NOISE, keys, positions, shown)
            original(hidden, *arguments, **settings)

        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "dropout_add_norm", seen_dropout_add_norm)
        patch.setattr(philox, "dropout", seen_dropout)
        patch.setattr(ops, "next_thought", seen_next_thought(ops.next_thought))
        patch.setattr(ops, "next_thought_reference", seen_next_thought(ops.next_thought_reference))
        yield recorder
