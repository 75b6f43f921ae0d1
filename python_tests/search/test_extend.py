"""Extending: which trajectory goes on from where, and that everything else stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from random_models import SEED, random_model, random_reward
from torch.utils.flop_counter import FlopCounterMode

import latent_ext
from latent_ext.engine import choose
from latent_ext.engine.base import LatentRequest
from latent_ext.engine.continuation import continue_rows
from latent_ext.engine.flops import cost_of
from latent_ext.engine.operations import BodyOperations
from latent_ext.engine.reference import ReferenceEngine
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.keys import question_key, rollout_key, trajectory_key
from latent_ext.ops.tolerances import assert_close
from latent_ext.rewards import LatentRM
from latent_ext.rewards.reliability import step_beliefs
from latent_ext.samplers import Sampler
from latent_ext.search import weighted_vote
from latent_ext.search.adaptive import rounds
from latent_ext.search.beliefs import Belief
from latent_ext.search.extend import CONTINUATIONS, Branch, Extend, first_bad, first_below, rival
from latent_ext.search.result import Result, Trajectory
from latent_ext.search.settle import settled_by_vote

QUESTIONS = [problem.question for problem in shipped_problems("test_6", 8)]
SAMPLERS = ("noise:0.6:relative", "dropout:0.2")


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return latent_ext.load()


@pytest.fixture(scope="module")
def reward() -> LatentRM:
    return latent_ext.load_reward()


@pytest.fixture(scope="module")
def reliable() -> LatentRM:
    """The shipped LatentRM, with means around one half and a concentration head that is not sure."""
    shipped = latent_ext.load_reward()
    shipped.module.classifier.bias += 2.5
    head = torch.nn.Linear(shipped.blocks.hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, 100.0)
    shipped.module.concentration = head.requires_grad_(False)
    return shipped


def solved(
    model: LatentModel, reward: LatentRM, questions: Sequence[str] = QUESTIONS, **how: object
) -> list[Result]:
    how = {
        "sampler": SAMPLERS[0], "seed": SEED, "n": 28, "select": "adaptive", "extend": True, "return_thoughts": True,
    } | how  # fmt: skip
    return latent_ext.solve(model, questions, reward=reward, **how)


def continuations(results: Sequence[Result]) -> list[tuple[Result, Trajectory]]:
    return [(result, one) for result in results for one in result.trajectories if one.parent is not None]


def assert_same(got: Result, wanted: Result) -> None:
    assert (got.chosen, got.votes, got.cost) == (wanted.chosen, wanted.votes, wanted.cost)
    for one, other in zip(got.trajectories, wanted.trajectories, strict=True):
        assert torch.equal(one.thoughts, other.thoughts)
        assert (one.parent, one.inherited, one.key) == (other.parent, other.inherited, other.key)
        assert (one.tokens, one.logprob, one.step_scores) == (other.tokens, other.logprob, other.step_scores)


def test_a_rival_answers_otherwise_and_reaches_the_leader() -> None:
    answers, bounds = ["4", "5", None, "5", "6"], [(0.5, 0.7), (0.3, 0.6), (0.8, 0.9), (0.3, 0.6), None]
    assert rival(answers, bounds, "4", overlapping=True) == 1
    assert rival(answers, bounds, "5", overlapping=True) == 0
    assert rival(answers, [(0.65, 0.7), *bounds[1:]], "4", overlapping=True) is None
    assert rival(answers, [(0.65, 0.7), *bounds[1:]], "4", overlapping=False) == 1
    assert rival(answers, bounds, None, overlapping=False) is None
    assert rival(["4", "4"], [(0.0, 1.0)] * 2, "4", overlapping=False) is None


def test_the_first_bad_thought_is_the_first_that_may_well_be_below_one_half() -> None:
    assert first_bad([0.9, 0.69, 0.1], [0.1, 0.1, 0.1]) == 1
    assert first_bad([0.4, 0.9], [0.0, 0.0]) == 0
    assert first_bad([0.9, 0.8, 0.9], [0.01, 0.02, 0.03]) == 2


def test_scores_are_compared_within_their_step() -> None:
    others = [[5.0, -9.0, 0.0], [7.0, -9.5, 0.0]]
    assert first_below([6.0, -9.0, 0.5], [*others, [6.0, -9.0, 0.5]]) is None
    assert first_below([6.0, -9.3, 9.0], [*others, [6.0, -9.3, 9.0]]) == 1


def trajectories(answers: Sequence[str | None], scores: Sequence[Sequence[float]]) -> list[Trajectory]:
    listed = [Trajectory(n, n, answer=answer) for n, answer in enumerate(answers)]
    for one, own in zip(listed, scores, strict=True):
        one.set_scores(list(own))
    return listed


def test_a_question_goes_on_from_where_its_best_rival_falls_behind() -> None:
    drawn = trajectories(["4", "4", "5", "6"], [[1.0, 1.0], [1.0, 0.0], [2.0, -1.0], [0.0, 0.0]])
    assert Extend().branch(0, drawn, "4") == Branch(2, 1, 0)
    drawn += trajectories(["4"], [[2.0, -2.0]])
    drawn[-1].parent, drawn[-1].inherited = 2, 1
    assert Extend().branch(0, drawn, "4") == Branch(2, 1, 1)
    # The best rival of "5" is never behind; that of nobody is nobody.
    assert Extend().branch(0, drawn, None) is None


def test_where_the_first_thought_is_bad_new_trajectories_are_drawn() -> None:
    drawn = trajectories(["4", "5"], [[1.0, 1.0], [0.0, 9.0]])
    assert Extend().branch(0, drawn, "4") is None


@pytest.mark.parametrize(
    ("means", "deviations", "kept"),
    [
        ([0.9, 0.3, 0.9], [0.1, 0.1, 0.1], 1),
        ([0.9, 0.9, 0.9], [0.01, 0.01, 0.02], 2),
        # All may be bad: the first that is below the other trajectory's.
        ([0.6, 0.7, 0.4], [0.2, 0.2, 0.2], 2),
        ([0.4, 0.7, 0.4], [0.2, 0.2, 0.2], None),
    ],
)
def test_a_rival_is_cut_before_what_its_beliefs_call_bad(
    means: list[float], deviations: list[float], kept: int | None
) -> None:
    drawn = trajectories(["4", "5"], [[0.0] * 3] * 2)
    beliefs = [Belief((0.5, 0.7), [0.5] * 3, [0.2] * 3), Belief((0.4, 0.6), means, deviations)]
    wanted = None if kept is None else Branch(1, kept, 0)
    assert Extend(lambda question, listed: list(beliefs)).branch(0, drawn, "4") == wanted
    beliefs[1] = Belief((0.3, 0.4), means, deviations)
    assert Extend(lambda question, listed: list(beliefs)).branch(0, drawn, "4") is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_kept_is_the_parents_and_what_is_new_is_its_own(
    model: LatentModel, reward: LatentRM, sampler: str
) -> None:
    found = continuations(solved(model, reward, sampler=sampler))
    assert len({(one.parent, one.inherited) for _, one in found}) > 1
    for result, one in found:
        parent, kept = result.trajectories[one.parent], one.inherited
        assert 1 <= kept < model.family.latent_length
        assert torch.equal(one.thoughts[:kept], parent.thoughts[:kept])
        assert one.step_scores[:kept] == parent.step_scores[:kept]
        assert not torch.isclose(one.thoughts[kept], parent.thoughts[kept]).all()
        assert one.score == sum(one.step_scores)


def test_keys_follow_from_the_question_the_parent_and_the_thought(
    model: LatentModel, reward: LatentRM
) -> None:
    most = 0
    for question, result in zip(QUESTIONS, solved(model, reward, seed=0), strict=True):
        earlier: dict[tuple[int, int], int] = {}
        for one in result.trajectories:
            if one.parent is None:
                assert one.key == trajectory_key(question_key(model.encode(question)), one.index)
                continue
            place = (one.parent, one.inherited)
            number = earlier[place] = earlier.get(place, -1) + 1
            assert one.key == rollout_key(result.trajectories[one.parent].key, one.inherited, number)
            most = max(most, number)
        assert len({one.key for one in result.trajectories}) == len(result.trajectories)
    # One was continued from the same thought in two rounds.
    assert most >= CONTINUATIONS


def test_each_round_continues_the_best_rival_and_draws_the_rest_anew(
    model: LatentModel, reward: LatentRM
) -> None:
    results = solved(model, reward)
    plain = solved(model, reward, extend=False, select="weighted_vote")
    seen = 0
    for result, fixed in zip(results, plain, strict=True):
        listed = result.trajectories
        assert [one.index for one in listed] == list(range(len(listed)))
        for first, last in rounds(len(listed)):
            before, own = listed[:first], [one for one in listed[first:last] if one.parent is not None]
            assert not settled_by_vote([o.answer for o in before], [o.score for o in before], 0.95)
            votes = weighted_vote([one.answer for one in before], [one.score for one in before]).votes
            rivals = [one for one in before if one.answer not in (None, next(iter(votes), None))]
            if not own:
                continue
            seen += 1
            best = max(rivals, key=lambda one: one.score)
            assert [one.index for one in own] == list(range(first, min(first + CONTINUATIONS, last)))
            assert {one.parent for one in own} == {best.index}
            kept = own[0].inherited
            columns = list(zip(*(one.step_scores for one in before), strict=True))
            behind = [score < sum(c) / len(c) for score, c in zip(best.step_scores, columns, strict=True)]
            assert behind.index(True) == kept
        for one in listed:
            if one.parent is None:
                wanted = fixed.trajectories[one.index]
                assert torch.equal(one.thoughts, wanted.thoughts)
                assert (one.tokens, one.step_scores) == (wanted.tokens, wanted.step_scores)
    assert seen > 2


def test_questions_that_are_settled_at_once_are_not_touched(model: LatentModel, reward: LatentRM) -> None:
    extended, plain = (solved(model, reward, confidence=0.6, extend=extend) for extend in (True, False))
    at_once = [(e, p) for e, p in zip(extended, plain, strict=True) if len(p.trajectories) == 4]
    assert 0 < len(at_once) < len(plain)
    for got, wanted in at_once:
        assert_same(got, wanted)


def test_batch_mates_and_memory_change_nothing(model: LatentModel, reward: LatentRM) -> None:
    together = solved(model, reward)
    assert continuations(together)
    for question, result in zip(QUESTIONS, together, strict=True):
        (alone,) = solved(model, reward, [question])
        assert_same(alone, result)
    for got, wanted in zip(solved(model, reward, memory_bytes=1000, max_rows=3), together, strict=True):
        assert_same(got, wanted)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("engine", choose.ENGINES)
def test_every_engine_extends_the_same_way(
    model: LatentModel, reward: LatentRM, engine: str, sampler: str
) -> None:
    how = {"n": 12, "sampler": sampler}
    got = solved(model, reward, QUESTIONS[:3], engine=engine, **how)
    assert {result.settings["engine"] for result in got} == {engine}
    wanted = solved(model, reward, QUESTIONS[:3], engine="native", **how)
    assert continuations(wanted)
    for result, other in zip(got, wanted, strict=True):
        for one, expected in zip(result.trajectories, other.trajectories, strict=True):
            assert (one.parent, one.inherited, one.key) == (expected.parent, expected.inherited, expected.key)
            assert_close(one.thoughts, expected.thoughts, "latent_phase")
            assert_close(torch.tensor(one.step_scores), torch.tensor(expected.step_scores), "step_score")
            assert one.answer == expected.answer


def test_bounds_choose_the_rival_and_the_cut_of_a_latent_rm_that_knows_how_sure_it_is(
    model: LatentModel, reliable: LatentRM
) -> None:
    found = continuations(solved(model, reliable))
    absolute = 0
    for result, one in found:
        prompt, parent = model.encode(result.question), result.trajectories[one.parent]
        (means,), (deviations,) = step_beliefs(reliable, prompt, parent.thoughts[None])
        bad = (means - 2 * deviations < 0.5).nonzero().flatten().tolist()
        if bad[:1] != [0]:
            assert one.inherited == (bad[0] if bad else int(deviations.argmax()))
            absolute += 1
    assert 0 < absolute <= len(found)


def test_thoughts_that_nobody_asked_for_are_not_kept(model: LatentModel, reliable: LatentRM) -> None:
    (result,) = solved(model, reliable, QUESTIONS[:1], return_thoughts=False)
    assert all(one.thoughts is None for one in result.trajectories)


@pytest.mark.parametrize("engine", choose.ENGINES)
def test_a_clean_replay_continues_what_was_drawn_not_what_was_read_again(
    model: LatentModel, reward: LatentRM, engine: str
) -> None:
    how = {"n": 8, "sampler": "dropout:0.3", "engine": engine}
    clean = solved(model, reward, QUESTIONS[:3], replay="clean", **how)
    hidden = solved(model, reward, QUESTIONS[:3], **how)
    compared = 0
    for one, other in zip(clean, hidden, strict=True):
        for got, wanted in zip(one.trajectories, other.trajectories, strict=False):
            if got.parent is not None and got.key == wanted.key:
                assert torch.equal(got.thoughts, wanted.thoughts)
                compared += 1
    assert compared


def test_the_cost_is_of_what_was_drawn_and_never_beyond_the_budget(
    model: LatentModel, reward: LatentRM
) -> None:
    results = solved(model, reward)
    assert continuations(results)
    for result in results:
        cost, steps = result.cost, model.family.latent_length
        assert cost.thoughts == sum(steps - (one.inherited or 0) for one in result.trajectories)
        assert cost.prompt_tokens == len(model.encode(result.question))
        assert cost.reward_positions == cost.prompt_tokens + steps * len(result.trajectories)
        assert cost.answer_tokens == sum(len(one.tokens) + one.finished for one in result.trajectories)
        assert cost.flops == sum(cost.phases.values()) <= result.settings["budget"]["flops"]
        assert len(result.trajectories) <= 28


def test_thoughts_are_counted_where_operations_are_not(model: LatentModel, reward: LatentRM) -> None:
    guided = replace(reward, reference="answer")
    results = solved(model, guided)
    assert continuations(results)
    for result in results:
        assert result.cost.flops is None
        wanted = sum(model.family.latent_length - (one.inherited or 0) for one in result.trajectories)
        assert result.cost.thoughts == wanted


@pytest.mark.parametrize("sampler", ["noise:0.4", "dropout:0.2"])
def test_the_cost_of_continuations_is_what_pytorch_counts(generator: torch.Generator, sampler: str) -> None:
    model, reward = random_model(generator), random_reward(generator)
    # PyTorch's counter does not know fused attention on the CPU.
    model.hf.set_attn_implementation("eager")
    reward.module.body.set_attn_implementation("eager")
    question, kept = "Omar has 23 stones. He loses 6.", 2
    (result,) = latent_ext.solve(
        model, [question], n=3, sampler=sampler, reward=reward, select="weighted_vote", engine="reference",
        max_answer_tokens=4,
    )  # fmt: skip
    before = cost_of(model, reward, result)
    engine, prompt = ReferenceEngine(model, 4), model.encode(question)
    keys = torch.tensor([[one.key for one in result.trajectories]])
    run = engine.sample(LatentRequest([prompt], keys, Sampler.parse(sampler), 0), None, reward, [prompt])
    one, again = torch.tensor([1]), rollout_key(keys[:, 1:2], kept, torch.arange(2))
    with FlopCounterMode(display=False) as counter:
        more = continue_rows(engine, run, one, kept, again, reward, [prompt])
        answers = engine.answer(more, torch.arange(2), max_tokens=4)
    for n in range(2):
        drawn = Trajectory(3 + n, 0, steps=4, tokens=answers.tokens[n], finished=bool(answers.finished[n]))
        drawn.parent, drawn.inherited = 1, kept
        result.trajectories.append(drawn)
    # The counter takes every key for every query of the LatentRM's pass; the mask hides some of them.
    scorer, length = BodyOperations.of(reward.module.body), len(prompt) + 4
    hidden = 2 * scorer.per_key * length * (length - 1) // 2
    after = cost_of(model, reward, result)
    assert after.flops - before.flops == counter.get_total_flops() - hidden
    assert after.thoughts - before.thoughts == 2 * (4 - kept)


def test_progress_ends_at_the_ceiling_and_never_falls(model: LatentModel, reward: LatentRM) -> None:
    seen: list[tuple[int, int]] = []
    solved(model, reward, progress=lambda *now: seen.append(now))
    done = [part for part, _ in seen]
    assert seen[-1] == (28 * len(QUESTIONS), 28 * len(QUESTIONS))
    assert done == sorted(done)


def test_results_say_what_continues_what(model: LatentModel, reward: LatentRM) -> None:
    found = [result.to_dict() for result in solved(model, reward, return_thoughts=False)]
    listed = [one for result in found for one in result["trajectories"]]
    assert any("parent" in one for one in listed)
    assert all(("parent" in one) == ("inherited" in one) for one in listed)
    assert all(result["settings"]["extend"] for result in found)


@pytest.mark.parametrize(
    ("message", "how"),
    [
        ("extend: got True with select='weighted_vote'; it belongs to select='adaptive'", {"select": "weighted_vote"}),
        ("extend: got True without scores of single thoughts; it needs as reward= a LatentRM", {"reward": None}),
        ("extend: got sampler 'mix.*'; trajectories of one sampler", {"sampler": "mix(dropout:0.2|noise:0.6)"}),
    ],
)  # fmt: skip
def test_what_cannot_be_extended_is_refused(
    model: LatentModel, reward: LatentRM, message: str, how: dict[str, object]
) -> None:
    how = {"select": "adaptive", "reward": reward, "extend": True} | how
    with pytest.raises(ValueError, match=f"^{message}"):
        latent_ext.solve(model, QUESTIONS[0], **how)


def test_a_model_with_one_thought_is_refused_before_anything_is_computed(generator: torch.Generator) -> None:
    model, reward = random_model(generator, latent_length=1), random_reward(generator)
    with pytest.raises(ValueError, match=r"^extend: .* latent_length=1 leaves none"):
        latent_ext.solve(model, "7", reward=reward, select="adaptive", extend=True)
