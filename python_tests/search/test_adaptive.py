"""The adaptive budget: when it stops, and that stopping changes nothing that was drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_models import SEED

import latent_ext
from latent_ext.engine import choose
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards import LatentRM, Seen
from latent_ext.rewards.reliability import step_beliefs, value_bounds
from latent_ext.search.adaptive import rounds
from latent_ext.search.beliefs import RewardBeliefs
from latent_ext.search.result import Result, Trajectory
from latent_ext.search.settle import chance_of_lead, leading_votes, settled_by_bounds, settled_by_vote

ENGINES = tuple(choose.ENGINES)
QUESTIONS = [problem.question for problem in shipped_problems("test_5", 8)]


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return latent_ext.load()


@pytest.fixture(scope="module")
def reward() -> LatentRM:
    return latent_ext.load_reward()


def solved(model: LatentModel, questions: Sequence[str] = QUESTIONS, **how: object) -> list[Result]:
    how = {"sampler": "noise:0.6:relative", "seed": SEED, "return_thoughts": True} | how
    return latent_ext.solve(model, questions, **how)


def assert_prefix(part: list[Trajectory], whole: list[Trajectory], *, identical: bool) -> None:
    for got, wanted in zip(part, whole, strict=False):
        assert (got.index, got.key) == (wanted.index, wanted.key)
        if identical:
            assert torch.equal(got.thoughts, wanted.thoughts)
            assert (got.tokens, got.logprob, got.step_scores) == (
                wanted.tokens, wanted.logprob, wanted.step_scores,
            )  # fmt: skip
        else:
            assert_close(got.thoughts, wanted.thoughts, "latent_phase")


@given(st.floats(0, 200), st.floats(0, 200))
def test_the_chance_of_the_lead_is_the_tail_of_its_beta_posterior(leader: float, runner_up: float) -> None:
    special = pytest.importorskip("scipy.special")
    wanted = torch.tensor(special.betainc(runner_up + 1, leader + 1, 0.5), dtype=torch.float64)
    assert_close(torch.tensor(chance_of_lead(leader, runner_up), dtype=torch.float64), wanted, "probability")


def test_a_vote_that_one_weight_decides_counts_as_one_voter() -> None:
    first, second = leading_votes(["4", "5", "6"], [50.0, 0.0, 0.0])
    assert (round(first, 6), round(second, 6)) == (1.0, 0.0)
    assert not settled_by_vote(["4"] * 9, [50.0] + [0.0] * 8, 0.95)


def test_equal_scores_are_a_count() -> None:
    answers = ["4", "4", None, "5", "4"]
    assert leading_votes(answers, [2.0] * 5) == pytest.approx(leading_votes(answers, None))


def test_nothing_is_settled_before_anybody_voted() -> None:
    assert not settled_by_vote([None] * 9, None, 0.6)
    assert not settled_by_bounds([None], [(0.0, 1.0)], None)


def test_bounds_settle_where_only_the_same_answer_overlaps() -> None:
    bounds = [(0.7, 0.9), (0.6, 0.8), (0.1, 0.6), None]
    assert settled_by_bounds(["4", "4", "5", "6"], bounds, "4")
    assert not settled_by_bounds(["4", "4", "5", "6"], bounds, "5")
    assert not settled_by_bounds(["4", "5", "5", "6"], bounds, "4")


@given(st.integers(1, 300))
def test_rounds_cover_every_number_once(n: int) -> None:
    assert [k for first, last in rounds(n) for k in range(first, last)] == list(range(n))


@pytest.mark.parametrize("rewarded", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_adaptive_run_is_the_beginning_of_the_fixed_run(
    model: LatentModel, reward: LatentRM, engine: str, rewarded: bool
) -> None:
    questions = QUESTIONS[: 3 if engine == "reference" else 8]
    how = {"engine": engine, "reward": reward if rewarded else None, "n": 14}
    fixed = solved(model, questions, select="weighted_vote" if rewarded else "majority", **how)
    adaptive = solved(model, questions, select="adaptive", confidence=0.8, **how)
    for got, wanted in zip(adaptive, fixed, strict=True):
        used = len(got.trajectories)
        assert used in (4, 8, 12, 14)
        assert_prefix(got.trajectories, wanted.trajectories, identical=engine == "native")
        # It stopped at the first round at which the rule says so.
        ends = [last for _, last in rounds(used)]
        settled = [settled_by_vote(got.answers[:k], got.scores[:k] if rewarded else None, 0.8) for k in ends]
        assert not any(settled[:-1])
        assert settled[-1] or used == 14


def test_batch_mates_and_memory_change_nothing(model: LatentModel, reward: LatentRM) -> None:
    how = {"engine": "native", "reward": reward, "n": 20, "select": "adaptive", "confidence": 0.7}
    together = solved(model, **how)
    assert len({len(result.trajectories) for result in together}) > 1  # some left the batch before others
    for question, result in zip(QUESTIONS, together, strict=True):
        for limits in ({}, {"memory_bytes": 1000, "max_rows": 3}):
            (alone,) = solved(model, [question], **how, **limits)
            assert (alone.chosen, alone.votes) == (result.chosen, result.votes)
            assert len(alone.trajectories) == len(result.trajectories)
            assert_prefix(alone.trajectories, result.trajectories, identical=True)


def test_more_confidence_never_draws_less(model: LatentModel) -> None:
    used = [
        [len(r.trajectories) for r in solved(model, select="adaptive", n=16, confidence=c)]
        for c in (0.55, 0.9, 0.99999)
    ]
    for fewer, more in itertools.pairwise(used):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert used[0] != used[-1]


def test_progress_ends_at_the_ceiling_and_never_falls(model: LatentModel) -> None:
    seen: list[tuple[int, int]] = []
    solved(model, select="adaptive", n=16, confidence=0.6, progress=lambda *now: seen.append(now))
    done = [part for part, _ in seen]
    assert seen[-1] == (16 * len(QUESTIONS), 16 * len(QUESTIONS))
    assert done == sorted(done)


@pytest.fixture(scope="module")
def reliable() -> LatentRM:
    """The shipped LatentRM with a concentration head that is nearly certain of every thought."""
    shipped = latent_ext.load_reward()
    head = torch.nn.Linear(shipped.blocks.hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, 1e9)
    shipped.module.concentration = head.requires_grad_(False)
    return shipped


def test_beliefs_do_not_depend_on_the_trajectories_read_together(
    model: LatentModel, reliable: LatentRM
) -> None:
    (result,) = solved(model, QUESTIONS[:1], n=5, reward=reliable, engine="modules")
    prompt, thoughts = model.encode(QUESTIONS[0]), torch.stack([one.thoughts for one in result.trajectories])
    means, deviations = step_beliefs(reliable, prompt, thoughts)
    alone = torch.cat([step_beliefs(reliable, prompt, one[None])[0] for one in thoughts])
    assert_close(means, alone, "step_score")
    assert_close(
        means, torch.tensor([one.step_scores for one in result.trajectories]).sigmoid(), "step_score"
    )
    assert float(deviations.max()) < 1e-3
    low, high = value_bounds(means, deviations)
    assert bool((low <= high).all())


def test_bounds_of_trajectories_of_different_lengths_are_those_of_each_alone(
    model: LatentModel, reliable: LatentRM
) -> None:
    (result,) = solved(model, QUESTIONS[:1], n=3, reward=reliable, engine="modules")
    prompt, thoughts = model.encode(QUESTIONS[0]), [one.thoughts for one in result.trajectories]
    cut = [thoughts[0][:2], thoughts[1], thoughts[2][:2], thoughts[0][:0]]
    drawn = [Trajectory(n, n, thoughts=one) for n, one in enumerate(cut)]
    found = RewardBeliefs(reliable, [prompt], keep_thoughts=True)(0, drawn)
    assert found[3] is None
    for belief, own in zip(found[:3], cut, strict=False):
        low, high = value_bounds(*step_beliefs(reliable, prompt, own[None]))
        assert_close(torch.tensor(belief.bounds), torch.cat([low, high]), "step_score")
        assert len(belief.means) == len(belief.deviations) == len(own)


def test_a_certain_reward_settles_sooner_and_draws_the_same(model: LatentModel, reliable: LatentRM) -> None:
    plain = latent_ext.load_reward()
    how = {"select": "adaptive", "n": 24, "confidence": 0.999, "engine": "native"}
    sure = solved(model, reward=reliable, return_thoughts=False, **how)
    unsure = solved(model, reward=plain, **how)
    used = [(len(one.trajectories), len(other.trajectories)) for one, other in zip(sure, unsure, strict=True)]
    assert all(fewer <= more for fewer, more in used)
    assert any(fewer < more for fewer, more in used)
    for one, other in zip(sure, unsure, strict=True):
        assert all(trajectory.thoughts is None for trajectory in one.trajectories)
        for got, wanted in zip(one.trajectories, other.trajectories, strict=False):
            assert (got.key, got.tokens, got.step_scores) == (wanted.key, wanted.tokens, wanted.step_scores)


def test_the_cost_is_of_what_was_drawn_and_never_beyond_the_budget(model: LatentModel) -> None:
    for result in solved(model, select="adaptive", n=16, confidence=0.9):
        assert result.cost.thoughts == len(result.trajectories) * model.family.latent_length
        assert result.cost.flops <= result.settings["budget"]["flops"]
        assert result.to_dict()["cost"]["answer_tokens"] == sum(
            len(one.tokens) + one.finished for one in result.trajectories
        )


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("confidence", {"select": "adaptive", "confidence": 1.0}),
        ("confidence", {"select": "adaptive", "confidence": "high"}),
        ("confidence", {"select": "majority", "confidence": 0.9}),
        ("beams", {"select": "adaptive", "beams": 2}),
        ("n", {"select": "adaptive", "n": 0}),
        ("n", {"select": "adaptive", "n": True}),
    ],
)
def test_a_bad_argument_is_named(model: LatentModel, argument: str, how: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: "):
        latent_ext.solve(model, QUESTIONS[0], **how)


@pytest.mark.filterwarnings("ignore:reward. deviation")  # of noise alone it says little, and says so
@pytest.mark.parametrize("name", ["answer_rm", "answer_reading", "answer_logprob", "deviation"])
def test_rewards_that_score_when_answers_are_known_score_round_by_round(
    model: LatentModel, name: str
) -> None:
    how = {"reward": name, "n": 24, "max_answer_tokens": 24}
    whole = solved(model, select="weighted_vote", **how)
    adaptive = solved(model, select="adaptive", **how)
    ends = [last for _, last in rounds(24)]
    # Squared distances are so far apart that one trajectory has nearly all the weight, and one voter settles nothing.
    assert name == "deviation" or len({len(result.trajectories) for result in adaptive}) > 1
    for result, fixed in zip(adaptive, whole, strict=True):
        count = len(result.trajectories)
        for found, wanted in zip(result.trajectories, fixed.trajectories, strict=False):
            assert (found.answer, found.key) == (wanted.answer, wanted.key)
            assert (found.score is None) == (wanted.score is None)
            if found.score is not None:
                assert_close(torch.tensor(found.score), torch.tensor(wanted.score), "answer_logprob")
        # It ends with the first round that settles the weighted vote, and with that vote's choice.
        settled = [k for k in ends if settled_by_vote(result.answers[:k], result.scores[:k], 0.95)]
        assert count == (settled[0] if settled else 24)
        assert result.chosen == latent_ext.weighted_vote(result.answers, result.scores).chosen


def test_a_reward_that_scores_trajectories_together_is_refused(model: LatentModel) -> None:
    @dataclass(frozen=True)
    class Ranks:
        name: str = "ranks"
        needs: frozenset = frozenset({"answers"})

        def concerns(self, sampler: object, generator_hash: str) -> list[str]:
            return []

        def score(self, model: LatentModel, seen: Seen) -> list[float]:
            raise AssertionError("nothing is sampled, so nothing is scored")

    with pytest.raises(
        ValueError, match=r"reward: ranks scores a question's trajectories together, not round by round"
    ):
        solved(model, reward=Ranks(), select="adaptive")
