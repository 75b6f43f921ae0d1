"""Reading thoughts through the LM head: which tokens they point at, and whether these name the right values.

The reading is that of the logit lens (nostalgebraist 2020), as CODI (arXiv 2502.21074, section 5) reads its latent
tokens: ``softmax(z @ lm_head.T)``. A thought of COCONUT is a final hidden state, which is what the LM head is trained
to read. A thought that left a head of its own (CODI's projector) is an input embedding, so that its reading says less.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latent_ext.evaluation.analysis.means import QuestionMean, means_by_step
from latent_ext.evaluation.analysis.pools import ThoughtPool
from latent_ext.models.answers import canonical_number

_RESULT = re.compile(r"=\s*([^=<>]+?)\s*(?:>>|$)")


@dataclass(frozen=True)
class ReadOut:
    """The tokens that thoughts point at.

    Attributes:
        top: per question, int64 (N, T, k): the k tokens of the largest logits, largest first; -1 after the end of a
            trajectory.
        agreement: per thought, share of pairs of trajectories whose first token is the same.
        names: ``names[t][s]``: share of trajectories whose thought t has among its k tokens the value of step s of
            the chain.
        names_other: the same against the chain of the next question, whose values it has no reason to name: what
            chance gives.
        any_step: per thought, share of trajectories that name the value of at least one step of the chain.
        any_other: the same against the chain of the next question.
    """

    top: list[Tensor]
    agreement: list[QuestionMean]
    names: list[list[QuestionMean]]
    names_other: list[list[QuestionMean]]
    any_step: list[QuestionMean]
    any_other: list[QuestionMean]


def intermediate_values(steps: Sequence[str]) -> list[str | None]:
    """Canonical result of each step of a chain such as ``"<<19-9=10>>"``; None where a step states none.

    >>> intermediate_values(["<<19-9=10>>", "<<10*10=100>>", "so"])
    ['10', '100', None]
    """
    found = [_RESULT.search(step) for step in steps]
    return [None if match is None else canonical_number(match[1]) for match in found]


def value_tokens(tokenizer: PreTrainedTokenizerBase, value: str, part: str = "last") -> set[int]:
    """The token ids by which a thought may name `value`, with and without a blank before it.

    Args:
        value: a number's canonical text.
        part: "last" or "first": which token of a value of several, for example of one token per digit. A value of
            one token is named by that token either way.
    """
    if part not in ("last", "first"):
        raise ValueError(f"part: got {part!r}; allowed are last, first")
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in (value, f" {value}")]
    blank = set(tokenizer.encode(" ", add_special_tokens=False))
    pieces = [[token for token in ids if token not in blank] for ids in encoded]
    return {ids[-1 if part == "last" else 0] for ids in pieces if ids} - {tokenizer.unk_token_id}


def read_out(
    pools: Sequence[ThoughtPool],
    chains: Sequence[Sequence[str]],
    lm_head: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    k: int = 1,
    part: str = "last",
) -> ReadOut:
    """Reads every thought through the LM head.

    Args:
        pools: one per question.
        chains: the worked steps of each question (`intermediate_values` reads them); empty where there are none.
        lm_head: (vocab, hidden), `LatentModel.lm_head`.
        tokenizer: the generator's.
        k: tokens per thought that count as named.
        part: see `value_tokens`.

    Raises:
        ValueError: if k is no whole number of tokens >= 1, or chains do not match pools.
    """
    if not 1 <= k <= len(lm_head):
        raise ValueError(f"k: got {k}; 1 to {len(lm_head)} (the vocabulary) are allowed")
    if len(chains) != len(pools):
        raise ValueError(f"chains: got {len(chains)} for {len(pools)} pools; one each is needed")
    head = lm_head.detach().to("cpu", torch.float32)
    top = [_top(pool, head, k) for pool in pools]
    values = [
        [set() if v is None else value_tokens(tokenizer, v, part) for v in intermediate_values(chain)]
        for chain in chains
    ]
    longest = max((pool.longest for pool in pools), default=0)
    stages = max((len(chain) for chain in values), default=0)
    named: dict[bool, list[list[list[float | None]]]] = {False: [], True: []}
    anywhere: dict[bool, list[list[float | None]]] = {False: [], True: []}
    for b, (pool, tokens) in enumerate(zip(pools, top, strict=True)):
        for other in (False, True):
            # Another question of the same task, so that the control shares its digits' frequencies.
            chain = values[(b + 1) % len(values)] if other else values[b]
            hits = [[_hits(tokens, pool, t, wanted) for t in range(pool.longest)] for wanted in chain]
            named[other].append(hits)
            any_of = set().union(*chain)
            anywhere[other].append([_hits(tokens, pool, t, any_of) for t in range(pool.longest)])

    def table(other: bool) -> list[list[QuestionMean]]:
        by_stage = [
            means_by_step([rows[s] if s < len(rows) else [] for rows in named[other]]) for s in range(stages)
        ]
        return [[column[t] for column in by_stage] for t in range(longest)]

    agreement = means_by_step(
        [[_agreement(x, p, t) for t in range(p.longest)] for x, p in zip(top, pools, strict=True)]
    )
    return ReadOut(
        top,
        agreement,
        table(False),
        table(True),
        means_by_step(anywhere[False]),
        means_by_step(anywhere[True]),
    )


def _top(pool: ThoughtPool, head: Tensor, k: int) -> Tensor:
    tokens = torch.full((*pool.thoughts.shape[:2], k), -1, dtype=torch.int64)
    for t in range(pool.longest):
        alive = pool.steps > t
        # sort() is stable: of equal logits the smaller token id comes first, on every machine.
        logits = pool.thoughts[alive, t] @ head.T
        tokens[alive, t] = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return tokens


def _hits(tokens: Tensor, pool: ThoughtPool, t: int, wanted: set[int]) -> float | None:
    """Share of trajectories that name one of the wanted tokens at thought t; None where none is wanted."""
    if not wanted:
        return None
    rows = tokens[pool.steps > t, t]
    return float(torch.isin(rows, torch.tensor(sorted(wanted))).any(dim=-1).double().mean())


def _agreement(tokens: Tensor, pool: ThoughtPool, t: int) -> float | None:
    first = tokens[pool.steps > t, t, 0].tolist()
    if len(first) < 2:
        return None
    same = sum(count * (count - 1) for count in Counter(first).values())
    return same / (len(first) * (len(first) - 1))
