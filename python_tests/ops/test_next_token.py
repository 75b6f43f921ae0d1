"""next_token: greedy and sampled choice, log probabilities, ties, NaN, frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from op_cases import DTYPES, HIDDEN, ROWS, OpCase, next_token_case

from latent_ext.ops import next_token, next_token_reference, philox, sites
from latent_ext.ops.next_token import in_nucleus
from latent_ext.ops.norms import norm_reference
from latent_ext.ops.tolerances import assert_close, tolerance


def logits_of(case: OpCase) -> torch.Tensor:
    a = case.arguments
    normed = norm_reference(a["hidden"], a["norm_weight"], a["norm_bias"], a["eps"], a["norm"])
    return normed @ a["lm_head"].float().T


def assert_best(case: OpCase, token: torch.Tensor) -> None:
    """The token is the best of its row, or so close to it that rounding decides."""
    a, values = case.arguments, logits_of(case)
    if a["temperature"] > 0:
        noise = philox.gumbels(a["seed"], a["keys"], a["positions"], sites.TOKEN, values.shape[1])
        values = values / a["temperature"] + noise
    gap = values.amax(dim=-1) - values.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    allowed = tolerance("logit_gap", a["hidden"].dtype).atol / min(1.0, a["temperature"] or 1.0)
    assert (gap <= allowed).all(), f"{gap.max()} > {allowed}"


def choose_from(
    logits: torch.Tensor, keys: torch.Tensor, position: int = 0, seed: int = 0, temperature: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op on the same exact logits [vocab] in every row, where the reference must choose the same."""
    arguments = torch.ones(len(keys), 1), None, None, logits.unsqueeze(1), keys, position, seed
    token, logprob = next_token(*arguments, temperature=temperature)
    expected_token, expected_logprob = next_token_reference(*arguments, temperature=temperature)
    assert torch.equal(token, expected_token)
    assert_close(logprob, expected_logprob, "logprob")
    return token, logprob


def simple(logits: list[list[float]]) -> tuple[list[int], torch.Tensor]:
    """The op on given logits: hidden rows select columns of the head."""
    rows = len(logits)
    lm_head = torch.tensor(logits).T.contiguous()
    token, logprob = next_token(torch.eye(rows), None, None, lm_head, torch.arange(rows), 3, 5)
    return token.tolist(), logprob


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("rows", ROWS)
def test_agrees_with_the_reference(
    generator: torch.Generator, rows: int, hidden: int, temperature: float, dtype: torch.dtype
) -> None:
    norm = ("layer", "rms", "none")[rows % 3]
    case = next_token_case(generator, rows, hidden, dtype, norm=norm, temperature=temperature)
    token, logprob = case.run()
    assert token.shape == logprob.shape == (rows,)
    assert_best(case, token)
    expected = logits_of(case).log_softmax(dim=-1).gather(-1, token.unsqueeze(-1)).squeeze(-1)
    assert_close(logprob, expected, "logprob", storage=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 1000, 5003])
def test_vocabularies_of_any_size_agree_with_the_reference(
    generator: torch.Generator, vocab: int, dtype: torch.dtype
) -> None:
    for temperature in (0.0, 0.3, 2.0):
        case = next_token_case(generator, 9, 64, dtype, vocab, temperature=temperature)
        token, logprob = case.run()
        assert_best(case, token)
        expected = logits_of(case).log_softmax(dim=-1).gather(-1, token.unsqueeze(-1)).squeeze(-1)
        assert_close(logprob, expected, "logprob", storage=dtype)


def test_exact_logits_give_the_very_token_of_the_reference(generator: torch.Generator) -> None:
    case = next_token_case(generator, 17, 8, vocab=501, norm="none", temperature=1.0)
    whole = {
        name: torch.randint(-2, 3, case.arguments[name].shape, generator=generator).float()
        for name in ("hidden", "lm_head")
    }
    case = case.with_arguments(**whole)  # sums of small integers have no rounding
    assert torch.equal(case.run()[0], case.run_reference()[0])


def test_ties_go_to_the_smaller_id() -> None:
    assert simple([[1.0] * 40, [0.0] * 20 + [2.0] * 20])[0] == [0, 20]
    assert simple([[-0.0, 0.0], [0.0, -0.0]])[0] == [0, 0]


def test_nan_is_never_chosen_unless_all_are_nan() -> None:
    nan, inf = float("nan"), float("inf")
    head = torch.tensor([[nan, 1.0, 3.0, nan], [nan] * 4, [nan, -inf, -inf, nan], [0.0, inf, inf, nan]]).T
    for row in range(4):
        token, logprob = choose_from(head[:, row], torch.tensor([1]))
        assert token.tolist() == [[2], [0], [1], [1]][row]
        assert logprob.isnan().all()


def test_nan_is_never_drawn(generator: torch.Generator) -> None:
    logits = torch.randn(50, generator=generator)
    logits[::2] = torch.nan
    token, _ = choose_from(logits, torch.arange(200), temperature=5.0)
    assert (token % 2 == 1).all()
    assert len(token.unique()) > 10


def test_nan_stays_in_its_row(generator: torch.Generator) -> None:
    case = next_token_case(generator, 5)
    hidden = case.arguments["hidden"].clone()
    hidden[2] = torch.nan
    broken = case.with_arguments(hidden=hidden)
    others = [0, 1, 3, 4]
    for actual, expected in zip(broken.run(), case.run(), strict=True):
        assert torch.equal(actual[others], expected[others])
    assert broken.run()[0][2] == 0
    assert broken.run()[1][2].isnan()


def test_an_infinite_logit_is_chosen_at_every_temperature() -> None:
    for temperature in (0.0, 1.0, 100.0):
        logits = torch.tensor([0.0, torch.inf, 5.0])
        token, _ = choose_from(logits, torch.tensor([1]), temperature=temperature)
        assert token.tolist() == [1]


def test_large_logits_do_not_overflow() -> None:
    tokens, logprob = simple([[1e4, -1e4, 9999.0], [-1e4, -1e4, -1e4]])
    assert tokens == [0, 0]
    assert_close(logprob, torch.tensor([-math.log1p(math.exp(-1.0)), -math.log(3.0)]), "logprob")


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    logits, draws, temperature = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]), 20_000, 0.7
    token, _ = choose_from(logits, torch.arange(draws), 9, 1, temperature)
    expected = (logits / temperature).softmax(dim=-1) * draws
    counts = torch.bincount(token, minlength=5)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 23.5  # four degrees of freedom, exceeded by chance once in 10 000


def drawn_from(logits: torch.Tensor, draws: int, temperature: float, top_p: float) -> torch.Tensor:
    arguments = torch.ones(draws, 1), None, None, logits.unsqueeze(1), torch.arange(draws), 3, 5
    return next_token(*arguments, temperature=temperature, top_p=top_p)[0]


def test_the_nucleus_is_the_fewest_likely_tokens_that_reach_top_p() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1])
    logits = probabilities.log()
    for top_p, nucleus in (
        (0.3, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 2, 3]),
        (0.97, [0, 1, 2, 3, 4]),
    ):
        assert in_nucleus(logits.unsqueeze(0), 1.0, top_p).nonzero()[:, 1].tolist() == nucleus
        token = drawn_from(logits, 2000, 1.0, top_p)
        assert token.unique().tolist() == nucleus
        # The same Gumbel values: a token that was in the nucleus anyway stays.
        free = drawn_from(logits, 2000, 1.0, 1.0)
        inside = torch.isin(free, torch.tensor(nucleus))
        assert torch.equal(token[inside], free[inside])
    # At a higher temperature more tokens are needed for the same share.
    assert in_nucleus(logits.unsqueeze(0), 100.0, 0.71).sum() == 4


def test_tokens_of_a_nucleus_keep_their_odds() -> None:
    logits, draws = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]), 20_000
    token = drawn_from(logits, draws, 0.7, 0.9)
    kept = in_nucleus(logits.unsqueeze(0), 0.7, 0.9)[0]
    assert 1 < kept.sum() < 5
    expected = torch.where(kept, logits / 0.7, -torch.inf).softmax(dim=-1) * draws
    counts = torch.bincount(token, minlength=5)
    assert (counts[~kept] == 0).all()
    chi_square = float(((counts - expected) ** 2 / expected)[kept].sum())
    assert chi_square < 21.2  # three degrees of freedom at the most, exceeded by chance once in 10 000


def test_equally_likely_tokens_are_all_in_the_nucleus_and_nan_is_in_none() -> None:
    nan = float("nan")
    logits = torch.tensor([[0.0, 0.0, 0.0, -9.0], [nan, 2.0, nan, 0.0], [nan] * 4])
    assert in_nucleus(logits, 1.0, 0.1)[:2].tolist() == [
        [True, True, True, False],
        [False, True, False, False],
    ]
    assert drawn_from(logits[0], 200, 1.0, 0.1).unique().tolist() == [0, 1, 2]
    assert drawn_from(logits[1], 200, 1.0, 0.5).unique().tolist() == [1]
    assert drawn_from(logits[2], 2, 1.0, 0.5).tolist() == [0, 0]


def test_the_draw_depends_on_key_position_and_seed() -> None:
    changes = [(0, 0, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1 << 32)]
    draws = {
        int(choose_from(torch.zeros(1 << 16), torch.tensor([key]), position, seed, 1.0)[0])
        for key, position, seed in changes
    }
    assert len(draws) == 6


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"hidden": torch.zeros(5, 63, dtype=torch.float16)}, TypeError, "hidden"),
        ({"hidden": torch.zeros(63)}, ValueError, "hidden"),
        ({"lm_head": torch.zeros(101, 64)}, ValueError, "lm_head"),
        ({"lm_head": torch.zeros(101, 63, dtype=torch.bfloat16)}, TypeError, "lm_head"),
        ({"lm_head": torch.zeros(101, 63, device="meta")}, ValueError, "lm_head"),
        ({"lm_head": torch.zeros(0, 63)}, ValueError, "lm_head"),
        ({"norm_weight": torch.zeros(62)}, ValueError, "norm_weight"),
        ({"norm_bias": torch.zeros(63, dtype=torch.bfloat16)}, TypeError, "norm_bias"),
        ({"norm": "rms"}, ValueError, "norm_bias must be None"),
        ({"norm": ""}, ValueError, "norm"),
        ({"keys": torch.zeros(5, dtype=torch.int32)}, TypeError, "keys"),
        ({"positions": torch.full((5,), -2)}, (ValueError, RuntimeError), "position"),
        ({"seed": None}, TypeError, "seed"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"temperature": float("inf")}, ValueError, "temperature"),
        ({"top_p": 0.0}, ValueError, "top_p"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"hidden": torch.zeros(5, 0)}, ValueError, "hidden"),
        ({"eps": float("nan")}, ValueError, "eps"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    generator: torch.Generator, changes: dict, error: type[Exception], name: str
) -> None:
    case = next_token_case(generator).with_arguments(**changes)
    for function in (next_token, next_token_reference):
        with pytest.raises(error, match=name):
            case.run(function)
