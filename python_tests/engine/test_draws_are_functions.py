"""Every random number is a function of seed, question, trajectory, position and site: nothing else moves it.

The draws of a run are collected where they happen: at the ops in the "modules" engine, at `philox` in the
"reference" engine. A mask or noise vector is then compared bit for bit by trajectory key, site and position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import latent_ext
from latent_ext import ops
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.ops import philox, sites

Draws = dict[tuple[int, int, int], bytes]

SAMPLERS = ["dropout:0.2", "noise:0.4:relative", "dropout:0.1:trajectory+noise:0.2"]
ENGINES = ["modules", "reference"]


@pytest.fixture(scope="module")
def model() -> latent_ext.LatentModel:
    return latent_ext.load()


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [problem.question for problem in shipped_problems("test_5", 3)]


@contextmanager
def collected() -> Iterator[Draws]:
    """Masks and noise of everything that runs inside, by (trajectory key, site, position)."""
    draws: Draws = {}

    def keep(keys: Tensor, positions: Tensor, site: int, values: Tensor) -> None:
        for key, position, row in zip(keys.tolist(), positions.tolist(), values, strict=True):
            bits = row.numpy().tobytes()
            assert draws.setdefault((key, site, position), bits) == bits

    def add_norm(
        branch: Tensor, *rest: Tensor, site: int, p: float, **named: object
    ) -> tuple[Tensor, Tensor]:
        residual, weight, bias, keys, positions, seed = rest
        if p > 0.0:
            keep(keys, positions, site, philox.keep_mask(seed, keys, positions, site, branch.shape[1], p))
        return real_add_norm(branch, residual, weight, bias, keys, positions, seed, site=site, p=p, **named)

    def thought_by(real: Callable[..., None]) -> Callable[..., None]:
        def next_thought(hidden: Tensor, *rest: Tensor, sigma: float, **named: object) -> None:
            _, _, _, keys, positions, seed = rest
            if sigma > 0.0:
                noise = philox.normals(seed, keys, positions, sites.NOISE, hidden.shape[1])
                keep(keys, positions, sites.NOISE, noise)
            real(hidden, *rest, sigma=sigma, **named)

        return next_thought

    def dropout(x: Tensor, seed: Tensor, keys: Tensor, positions: Tensor, site: int, p: float) -> Tensor:
        if p > 0.0:
            keep(keys, positions, site, philox.keep_mask(seed, keys, positions, site, x.shape[1], p))
        return real_dropout(x, seed, keys, positions, site, p)

    real_add_norm, real_dropout = ops.dropout_add_norm, philox.dropout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "dropout_add_norm", add_norm)
        patch.setattr(ops, "next_thought", thought_by(ops.next_thought))
        patch.setattr(ops, "next_thought_reference", thought_by(ops.next_thought_reference))
        patch.setattr(philox, "dropout", dropout)
        yield draws


def run(
    model: latent_ext.LatentModel, questions: list[str], **settings: object
) -> tuple[list[latent_ext.Result], Draws]:
    with collected() as draws:
        results = latent_ext.solve(model, questions, decode="all", return_thoughts=True, **settings)
    return results, draws


def assert_same_trajectories(some: latent_ext.Result, others: latent_ext.Result) -> None:
    """The first trajectories of two runs: equal keys, thoughts to rounding, equal answers."""
    for a, b in zip(some.trajectories, others.trajectories, strict=False):
        assert a.key == b.key
        size = a.thoughts.pow(2).mean().sqrt()
        assert (a.thoughts - b.thoughts).abs().max() <= 1e-5 * size
        assert a.tokens == b.tokens


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_first_16_of_64_are_the_16_run(model, questions, engine: str, sampler: str) -> None:
    wide, wide_draws = run(model, questions[:1], n=64, sampler=sampler, engine=engine)
    narrow, narrow_draws = run(model, questions[:1], n=16, sampler=sampler, engine=engine)
    assert narrow_draws
    for place, bits in narrow_draws.items():
        assert wide_draws[place] == bits
    keys = {trajectory.key for trajectory in narrow[0].trajectories}
    assert {place for place in wide_draws if place[0] in keys} == set(narrow_draws)
    assert_same_trajectories(narrow[0], wide[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_batch_mates_order_and_chunks_move_no_draw(
    model, questions, engine: str, scope: str, sampler: str
) -> None:
    settings = {"n": 6, "sampler": sampler, "scope": scope, "engine": engine}
    together, draws = run(model, questions, **settings)
    reversed_, reversed_draws = run(model, questions[::-1], **settings)
    chunked, chunked_draws = run(model, questions, max_rows=4, **settings)
    alone: Draws = {}
    for place, question in enumerate(questions):
        solo, solo_draws = run(model, [question], **settings)
        alone |= solo_draws
        for other in (together[place], reversed_[-1 - place], chunked[place]):
            assert_same_trajectories(solo[0], other)
    assert alone
    # A batch also draws for the pads behind shorter prompts, which nothing reads.
    for batched in (draws, reversed_draws, chunked_draws):
        assert {place: bits for place, bits in batched.items() if place in alone} == alone


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_threads_move_no_draw(model, questions, sampler: str) -> None:
    one, one_draws = run(model, questions, n=8, sampler=sampler)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two, two_draws = run(model, questions, n=8, sampler=sampler)
    finally:
        torch.set_num_threads(before)
    assert one_draws == two_draws
    for a, b in zip(one, two, strict=True):
        assert_same_trajectories(a, b)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pruning_siblings_moves_no_draw(model, questions, engine: str, sampler: str) -> None:
    from latent_ext.engine import choose_engine
    from latent_ext.engine.base import LatentRequest
    from latent_ext.ops.keys import question_key, trajectory_keys
    from latent_ext.samplers import as_sampler

    runner, _ = choose_engine(model, engine)
    prompt = model.encode(questions[0])
    keys = trajectory_keys(question_key(prompt), 12).unsqueeze(0)
    survivors = torch.tensor([7, 2, 11])
    found = []
    for chosen in (keys, keys[:, survivors].contiguous()):
        with collected() as draws:
            request = LatentRequest([prompt], chosen, as_sampler(sampler), seed=3)
            thoughts = runner.sample(request, runner.read_prompts([prompt], request.sampler)).thoughts
        found.append((thoughts, draws))
    (every, all_draws), (some, some_draws) = found
    assert some_draws
    assert all(all_draws[place] == bits for place, bits in some_draws.items())
    size = every.pow(2).mean(dim=(1, 2)).sqrt()[survivors]
    assert ((every[survivors] - some).abs().amax(dim=(1, 2)) <= 1e-5 * size).all()


def test_another_seed_question_or_trajectory_moves_every_draw(model, questions) -> None:
    _, draws = run(model, questions, n=4, sampler="dropout:0.2+noise:0.2")
    _, other = run(model, questions, n=4, sampler="dropout:0.2+noise:0.2", seed=1)
    assert draws.keys() == other.keys()
    assert all(draws[place] != other[place] for place in draws)
    assert len(set(draws.values())) == len(draws)


def test_trajectory_masks_are_drawn_once_for_all_positions(model, questions) -> None:
    _, draws = run(model, questions[:1], n=2, sampler="dropout:0.2:trajectory")
    assert {position for _, _, position in draws} == {sites.FIXED}
