"""Losses against their formulas, written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards.reliability import concentration_of
from latent_ext.training import losses
from latent_ext.training.corruptions import LEVELS, corrupted_orders

Q, N, T, M = 3, 4, 5, 8


def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, counts and usable; the last question has no right roll-out and one trajectory is unusable."""
    scores = torch.randn(Q, N, T, generator=generator)
    counts = torch.randint(1, M, (Q, N, T), generator=generator)
    counts[-1] = 0
    usable = torch.ones(Q, N, dtype=torch.bool)
    usable[0, 2] = False
    return scores, counts, usable


def test_the_contrastive_loss_is_the_divergence_from_the_normalised_values(
    generator: torch.Generator,
) -> None:
    scores, counts, usable = drawn(generator)
    expected = []
    for q in range(Q - 1):
        rows = usable[q].nonzero().squeeze(1)
        for t in range(T):
            share = scores[q, rows, t].softmax(0).tolist()
            target = (counts[q, rows, t] / counts[q, rows, t].sum()).tolist()
            expected.append(sum(y * math.log(y / p) for y, p in zip(target, share, strict=True)))
    found = losses.contrastive(scores, counts / M, usable)
    assert_close(found, torch.tensor(sum(expected) / len(expected)), "logprob")


def test_the_published_form_weighs_questions_by_their_right_rollouts(generator: torch.Generator) -> None:
    scores, counts, usable = drawn(generator)
    expected = 0.0
    for q in range(Q):
        rows = usable[q].nonzero().squeeze(1)
        log_share = scores[q, rows].log_softmax(0)
        expected -= float((counts[q, rows] / M * log_share).sum()) / (Q * T)
    found = losses.contrastive(scores, counts / M, usable, "published")
    assert_close(found, torch.tensor(expected), "logprob")


def test_the_contrastive_loss_is_zero_at_its_optimum_and_does_not_see_a_shift(
    generator: torch.Generator,
) -> None:
    scores, counts, usable = drawn(generator)
    values = counts / M
    best = losses.contrastive(values.clamp_min(1e-9).log() + 3.0, values, usable)
    assert_close(best, torch.tensor(0.0), "logprob")
    shifted = scores + torch.randn(Q, 1, T, generator=generator)
    assert_close(
        losses.contrastive(shifted, values, usable), losses.contrastive(scores, values, usable), "logprob"
    )


def test_the_beta_binomial_loss_is_the_likelihood_of_the_counts(generator: torch.Generator) -> None:
    scores, counts, usable = drawn(generator)
    concentration = concentration_of(torch.randn(Q, N, T, generator=generator))
    mean = scores.double().sigmoid()
    likelihood = stats.betabinom.logpmf(
        counts.numpy(), M, (mean * concentration).numpy(), ((1 - mean) * concentration).numpy()
    )
    penalty = ((mean - counts / M).abs() * concentration).double()
    expected = (0.05 * penalty - torch.from_numpy(likelihood))[usable].mean().float()
    assert_close(losses.beta_binomial(scores, concentration, counts, M, usable), expected, "answer_logprob")


def test_the_binary_loss_takes_the_share_as_its_target(generator: torch.Generator) -> None:
    scores, counts, usable = drawn(generator)
    p, y = scores.double().sigmoid(), (counts / M).double()
    expected = -(y * p.log() + (1 - y) * (1 - p).log())[usable].mean().float()
    assert_close(losses.binary(scores, counts / M, usable), expected, "logprob")


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "normalised": lambda scores, counts, usable: losses.contrastive(scores, counts / M, usable),
    "published": lambda scores, counts, usable: losses.contrastive(scores, counts / M, usable, "published"),
    "binary": lambda scores, counts, usable: losses.binary(scores, counts / M, usable),
    "beta-binomial": lambda scores, counts, usable: losses.beta_binomial(
        scores, torch.ones_like(scores), counts, M, usable
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_an_unusable_trajectory_changes_neither_loss_nor_gradient(
    generator: torch.Generator, loss: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    scores, counts, usable = drawn(generator)
    other_scores, other_counts = scores.clone(), counts.clone()
    other_scores[~usable], other_counts[~usable] = 40.0, M
    results = []
    for s, c in ((scores, counts), (other_scores, other_counts)):
        s.requires_grad_(True)
        value = loss(s, c, usable)
        (gradient,) = torch.autograd.grad(value, s)
        assert not gradient[~usable].any()
        assert gradient[usable].any()
        results.append((value.detach(), gradient[usable]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_order_preference_asks_each_level_to_lie_below_the_one_before(generator: torch.Generator) -> None:
    clean = torch.randn(Q, N, generator=generator)
    usable = torch.ones(Q, N, dtype=torch.bool)
    levels = torch.arange(1, len(LEVELS) + 1).reshape(-1, 1, 1)
    assert losses.order_preference(clean, clean - 0.1 * levels, usable, margin=0.05) == 0.0
    equal = losses.order_preference(clean, clean.expand(len(LEVELS), Q, N), usable, margin=0.05)
    assert_close(equal, torch.tensor(0.05), "logprob")


@pytest.mark.parametrize("steps", [4, 6, 9])
def test_corruptions_are_orders_of_all_thoughts_and_none_is_the_sampled_one(
    generator: torch.Generator, steps: int
) -> None:
    for _ in range(20):
        orders = corrupted_orders(steps, generator)
        assert torch.equal(orders.sort(dim=1).values, torch.arange(steps).expand(len(LEVELS), steps))
        assert not (orders == torch.arange(steps)).all(dim=1).any()
    with pytest.raises(ValueError, match="steps: got 3"):
        corrupted_orders(3, generator)


def test_another_form_is_refused(generator: torch.Generator) -> None:
    scores, counts, usable = drawn(generator)
    with pytest.raises(ValueError, match="form: got 'sum'"):
        losses.contrastive(scores, counts / M, usable, "sum")  # type: ignore[arg-type]
