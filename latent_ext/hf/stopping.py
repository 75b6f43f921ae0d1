"""Stop rules of ``generate``, applied to finished answers: an answer cut where a loop would have stopped is the same.

Tokens are drawn one by one from what stands before them, so what comes later never changes what came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList, StopStringCriteria
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria


def asked_criteria(
    criteria: Sequence[Any] | None, stop_strings: str | list[str] | None, tokenizer: Any
) -> StoppingCriteriaList:
    """The criteria that have to be asked token by token; length and end-of-sequence are the engine's own.

    Args:
        criteria: ``StoppingCriteria`` objects, or None.
        stop_strings: strings that end an answer, or None.
        tokenizer: needed with `stop_strings`.

    Raises:
        ValueError: for stop strings without a tokenizer, or a limit on time.
    """
    asked = StoppingCriteriaList()
    for criterion in criteria or ():
        if isinstance(criterion, MaxTimeCriteria):
            raise ValueError("stopping_criteria: got MaxTimeCriteria; a limit on time is not supported")
        if not isinstance(criterion, (EosTokenCriteria, MaxLengthCriteria)):
            asked.append(criterion)
    if stop_strings is not None:
        if tokenizer is None:
            raise ValueError("stop_strings: given without a tokenizer, which is needed to find them")
        asked.append(StopStringCriteria(tokenizer, stop_strings))
    return asked


def cut_answers(
    sequences: Tensor, first: int, *, criteria: StoppingCriteriaList, eos: Sequence[int], pad: int
) -> Tensor:
    """Fills with padding what follows the first stop of each row, and drops columns that hold padding alone.

    Args:
        sequences: int64 (rows, length).
        first: column of the first answer token: criteria are asked in the answer alone.
        criteria: called with the tokens so far and scores None after every token.
        eos: ids that end an answer.
        pad: fills up.
    """
    rows, length = sequences.shape
    stops = torch.full((rows,), length, dtype=torch.int64)
    ends = torch.tensor(list(eos), dtype=torch.int64, device=sequences.device)
    for column in range(first, length):
        stopped = torch.isin(sequences[:, column], ends)
        if criteria:
            # The criteria of Hugging Face are typed for scores that most of them never read.
            stopped = stopped | criteria(sequences[:, : column + 1], None)
        stops = torch.where((stops == length) & stopped.cpu(), column + 1, stops)
    places = torch.arange(length)
    kept = sequences.masked_fill((places >= stops.unsqueeze(1)).to(sequences.device), pad)
    longest = int(stops.max()) if rows else length
    return kept[:, : max(longest, first)]
