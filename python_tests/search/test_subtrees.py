"""Beam search in independent subtrees, with a lookahead, and the trace of what it looked at."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, QUESTIONS, SEED, make_engine, random_model, random_reward
from test_beam import ENGINES, NAMED_ENGINES, SAMPLERS, assert_identical, plain_path, solved

from latent_ext.engine.base import Beam, LatentRequest, LatentRun
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops import child_key, question_key, trajectory_key, trajectory_keys
from latent_ext.ops.tolerances import assert_close, tolerance
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler

SCOPES = ("latent", "prompt+latent")
GAP = 40 * tolerance("step_score", torch.float32).atol


def searched(
    engine: str,
    model: LatentModel,
    reward: LatentRM,
    sampler: Sampler,
    width: int,
    beam: Beam,
    *,
    trace: bool = False,
    columns: slice = slice(None),
) -> LatentRun:
    """A search over all questions whose first thought has `columns` of `width` trajectories."""
    runner, prompts = make_engine(engine, model), [model.encode(question) for question in QUESTIONS]
    keys = trajectory_keys(torch.tensor([question_key(prompt) for prompt in prompts]), width)
    request = LatentRequest(prompts, keys[:, columns].contiguous(), sampler, SEED, beam, trace)
    cache, reward_cache = runner.read_prompts(prompts, sampler), runner.read_reward_prompts(reward, prompts)
    return runner.sample(request, cache, reward, reward_cache)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_subtree_is_a_search_of_its_own(generator: torch.Generator, engine: str) -> None:
    model, reward = random_model(generator), random_reward(generator)
    sampler = Sampler.parse("dropout:0.2")
    run = searched(engine, model, reward, sampler, 8, Beam(4, 2, subtrees=2))
    for tree in range(2):
        alone = searched(engine, model, reward, sampler, 8, Beam(2, 2), columns=slice(4 * tree, 4 * tree + 4))
        mine = run.thoughts.reshape(len(QUESTIONS), 4, *run.thoughts.shape[1:])[:, 2 * tree : 2 * tree + 2]
        assert torch.equal(run.keys[:, 2 * tree : 2 * tree + 2], alone.keys)
        if engine == "native":
            assert torch.equal(mine.flatten(0, 1), alone.thoughts)
        else:
            assert_close(mine.flatten(0, 1), alone.thoughts, "latent_phase")


@pytest.mark.parametrize("engine", NAMED_ENGINES)
def test_one_subtree_is_the_plain_search_and_as_many_as_beams_are_greedy_ones(
    generator: torch.Generator, engine: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    how = {"engine": engine, "select": "beam", "beams": 3, "candidates": 2, "decode": "all"}
    for one, plain in zip(
        solved(model, reward, subtrees=1, **how), solved(model, reward, **how), strict=True
    ):
        for got, wanted in zip(one.trajectories, plain.trajectories, strict=True):
            assert_identical(got, wanted)
    greedy = solved(model, reward, subtrees=3, return_search=True, **how)
    for result in greedy:
        for step in result.search:
            pairs = step.ranks.reshape(3, 2)
            expected = torch.zeros(3, 2, dtype=torch.bool)
            expected[torch.arange(3), pairs.argmax(1)] = True
            assert torch.equal(step.kept.reshape(3, 2), expected)


def plain_search(
    model: LatentModel, reward: LatentRM, question: str, width: int, beam: Beam, steps: int
) -> tuple[list[int], float]:
    """Keys that a search leaves, by its definition, and the smallest lead that pruning relied on."""
    prompt, lead = model.encode(question), float("inf")
    paths = [[trajectory_key(question_key(prompt), n)] for n in range(width)]
    for t in range(1, steps + 1):
        ahead = min(beam.lookahead, steps - t)
        ranks = [rank_of(model, reward, prompt.tolist(), keys, ahead) for keys in paths]
        size, keep = len(paths) // beam.subtrees, beam.keep // beam.subtrees
        kept = []
        for start in range(0, len(paths), size):
            order = sorted(range(start, start + size), key=lambda n: -ranks[n])
            if keep < size:
                lead = min(lead, ranks[order[keep - 1]] - ranks[order[keep]])
            kept += [paths[n] for n in sorted(order[:keep])]
        if t == steps:
            return [keys[-1] for keys in kept], lead
        paths = [[*keys, child_key(keys[-1], t, c)] for keys in kept for c in range(beam.candidates)]
    raise AssertionError


def rank_of(model: LatentModel, reward: LatentRM, prompt: list[int], keys: list[int], ahead: int) -> float:
    """Sum of the scores of a path and of `ahead` noise-free thoughts behind it, everything read again in float64."""
    thoughts, scores = plain_path(model, reward, torch.tensor(prompt), keys, 0.5)
    if ahead == 0:
        return float(scores.sum())
    hf, rm = model.hf.double(), reward.module.double()
    with torch.no_grad():
        read = torch.cat([hf.get_input_embeddings()(torch.tensor(prompt)), thoughts])
        for _ in range(ahead):
            hidden = hf(inputs_embeds=read.unsqueeze(0), output_hidden_states=True).hidden_states[-1][0, -1:]
            read = torch.cat([read, hidden])
        judged = torch.cat([rm.body.get_input_embeddings()(torch.tensor(prompt)), read[len(prompt) :]])
        found = rm.classifier(rm.body(inputs_embeds=judged.unsqueeze(0)).last_hidden_state)[
            0, len(prompt) :, 0
        ]
    hf.float(), rm.float()
    return float(found.sum())


@pytest.mark.parametrize("beam", [Beam(2, 3, lookahead=1), Beam(2, 2, subtrees=2, lookahead=9)])
@pytest.mark.parametrize("engine", NAMED_ENGINES)
def test_a_lookahead_judges_by_the_noise_free_thoughts_that_would_follow(
    generator: torch.Generator, engine: str, beam: Beam
) -> None:
    model, reward = random_model(generator, latent_length=4), random_reward(generator)
    width, decided = beam.keep * beam.candidates, 0
    run = searched(engine, model, reward, Sampler.parse("noise:0.5"), width, beam)
    for b, question in enumerate(QUESTIONS):
        left, lead = plain_search(model, reward, question, width, beam, 4)
        if lead > GAP:
            assert run.keys[b].tolist() == left
            decided += 1
    assert decided >= 2


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_trace_changes_no_bit_of_a_native_search(
    generator: torch.Generator, sampler: str, scope: str, weights: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    how = {"engine": "native", "sampler": sampler, "scope": scope, "decode": "all", "weights": weights}
    how |= {"select": "beam", "beams": 4, "candidates": 2, "subtrees": 2}
    plain, traced = solved(model, reward, **how), solved(model, reward, return_search=True, **how)
    for one, other in zip(plain, traced, strict=True):
        assert one.search is None
        assert one.chosen == other.chosen
        for got, wanted in zip(other.trajectories, one.trajectories, strict=True):
            assert_identical(got, wanted)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("engine", NAMED_ENGINES)
def test_the_trace_leads_from_every_beam_back_to_its_scores(
    generator: torch.Generator, engine: str, body: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    results = solved(
        model, reward, engine=engine, select="beam", beams=3, candidates=2, lookahead=1, return_search=True
    )
    for result in results:
        last = result.search[-1]
        assert torch.equal(last.keys[last.kept], torch.tensor([one.key for one in result.trajectories]))
        for trajectory, row in zip(result.trajectories, last.kept.nonzero().squeeze(1).tolist(), strict=True):
            scores = []
            for step in reversed(result.search):
                assert bool(step.kept[row])
                scores.append(float(step.scores[row]))
                row = int(step.parents[row])
            found, wanted = torch.tensor(scores[::-1]), torch.tensor(trajectory.step_scores)
            assert_close(found, wanted, "step_score")
        # Nothing lies ahead of the last thought: its ranks are the scores that the result tells.
        ranks = torch.tensor([one.score for one in result.trajectories])
        assert_close(last.ranks[last.kept], ranks, "step_score")
        assert len(result.to_dict()["search"]) == model.family.latent_length


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("subtrees", {"select": "beam", "beams": 4, "subtrees": 3}),
        ("subtrees", {"select": "beam", "subtrees": 0}),
        ("subtrees", {"select": "majority", "subtrees": 2}),
        ("lookahead", {"select": "beam", "lookahead": -1}),
        ("lookahead", {"select": "best_of_n", "lookahead": 1}),
        ("return_search", {"select": "best_of_n", "return_search": True}),
    ],
)
def test_a_bad_argument_is_named(generator: torch.Generator, argument: str, how: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: "):
        solved(random_model(generator), random_reward(generator), **how)


def test_an_engine_refuses_subtrees_of_unequal_size(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    with pytest.raises(ValueError, match=r"^subtrees: "):
        searched("modules", model, reward, Sampler(), 5, Beam(4, 2, subtrees=2))
