"""Stop rules of ``generate``, applied to finished answers: an answer cut where a loop would have stopped is the same.

Tokens are drawn one by one from what stands before them, so what comes later never changes what came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StoppingCriteria


@dataclass(frozen=True)
class StopRules:
    """What ends an answer beside its length and its end-of-sequence token, which are the engine's own.

    Attributes:
        criteria: called with the tokens so far and scores None, after every answer token.
        strings: strings that end an answer when its text holds one.
        tokenizer: reads the answer's text; needed with `strings`.
    """

    criteria: tuple[StoppingCriteria, ...] = ()
    strings: tuple[str, ...] = ()
    tokenizer: Any = None

    @classmethod
    def of(
        cls, criteria: Sequence[StoppingCriteria] | None, strings: str | Sequence[str] | None, tokenizer: Any
    ) -> StopRules:
        """The rules that a call of ``generate`` brings.

        Raises:
            ValueError: for stop strings without a tokenizer, or a limit on time.
        """
        asked = []
        for criterion in criteria or ():
            if isinstance(criterion, MaxTimeCriteria):
                raise ValueError("stopping_criteria: got MaxTimeCriteria; a limit on time is not supported")
            if not isinstance(criterion, (EosTokenCriteria, MaxLengthCriteria)):
                asked.append(criterion)
        if strings is None:
            return cls(tuple(asked))
        if tokenizer is None:
            raise ValueError("stop_strings: given without a tokenizer, which is needed to find them")
        return cls(tuple(asked), (strings,) if isinstance(strings, str) else tuple(strings), tokenizer)

    def __bool__(self) -> bool:
        return bool(self.criteria or self.strings)

    def stopped(self, sequences: Tensor, first: Tensor) -> Tensor:
        """bool (rows,): whether each row of sequences (rows, length) ends here; its answer begins at column `first`."""
        ended = torch.zeros(len(sequences), dtype=torch.bool)
        no_scores: Any = None
        for criterion in self.criteria:
            # One answer for all rows, or one per row: criteria may give either.
            ended |= torch.as_tensor(criterion(sequences, no_scores)).cpu().reshape(-1)
        if self.strings:
            answers = [row[start:] for row, start in zip(sequences.tolist(), first.tolist(), strict=True)]
            texts = [str(self.tokenizer.decode(answer)) for answer in answers]
            ended |= torch.tensor([any(string in text for string in self.strings) for text in texts])
        return ended


def cut_answers(
    sequences: Tensor, first: Tensor, *, rules: StopRules, eos: Sequence[int], pad: int
) -> Tensor:
    """Fills with padding what follows the first stop of each row, and drops columns that hold padding alone.

    Args:
        sequences: int64 (rows, length).
        first: int64 (rows,), column of each row's first answer token: rules are asked in the answer alone.
        rules: what ends an answer.
        eos: ids that end an answer.
        pad: fills up.
    """
    rows, length = sequences.shape
    stops = torch.full((rows,), length, dtype=torch.int64)
    ends = torch.tensor(list(eos), dtype=torch.int64, device=sequences.device)
    for column in range(int(first.min()) if rows else length, length):
        stopped = torch.isin(sequences[:, column], ends).cpu()
        if rules:
            stopped = stopped | rules.stopped(sequences[:, : column + 1], first)
        stops = torch.where((stops == length) & stopped & (first <= column), column + 1, stops)
    places = torch.arange(length)
    kept = sequences.masked_fill((places >= stops.unsqueeze(1)).to(sequences.device), pad)
    longest = int(stops.max()) if rows else length
    return kept[:, :longest]
