"""Beam search between thoughts: what it finds, what it equals at its edges, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from random_models import (
    BODIES,
    ENGINES,
    QUESTIONS,
    SEED,
    answer_all,
    make_engine,
    random_model,
    random_reward,
)
from torch import Tensor

import latent_ext
from latent_ext.engine import choose
from latent_ext.engine.base import Beam, LatentRequest, LatentRun
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops import child_key, question_key, sites, trajectory_key, trajectory_keys
from latent_ext.ops.philox import normals
from latent_ext.ops.tolerances import assert_close, tolerance
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.search.result import Result, Trajectory

# What `solve` takes by name; ENGINES also has the CUDA engine's Python on the CPU.
NAMED_ENGINES = tuple(choose.ENGINES)
SAMPLERS = ("dropout:0.2", "noise:0.5", "dropout:0.1+noise:0.4:relative", "dropout:0.2:trajectory")


def solved(model: LatentModel, reward: LatentRM, **how: object) -> list[Result]:
    how = {"sampler": "noise:0.5", "max_answer_tokens": 4, "seed": SEED, "return_thoughts": True} | how
    return latent_ext.solve(model, list(QUESTIONS), reward=reward, **how)


def assert_identical(got: Trajectory, wanted: Trajectory) -> None:
    assert torch.equal(got.thoughts, wanted.thoughts)
    assert (got.key, got.step_scores, got.tokens, got.logprob, got.answer) == (
        wanted.key, wanted.step_scores, wanted.tokens, wanted.logprob, wanted.answer,
    )  # fmt: skip


def searched(
    engine: str, model: LatentModel, reward: LatentRM, sampler: Sampler, width: int, beam: Beam
) -> LatentRun:
    """A beam search over all questions whose first thought has `width` trajectories."""
    runner, prompts = make_engine(engine, model), [model.encode(question) for question in QUESTIONS]
    keys = trajectory_keys(torch.tensor([question_key(prompt) for prompt in prompts]), width)
    request = LatentRequest(prompts, keys, sampler, SEED, beam)
    cache, reward_cache = runner.read_prompts(prompts, sampler), runner.read_reward_prompts(reward, prompts)
    return runner.sample(request, cache, reward, reward_cache)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("engine", NAMED_ENGINES)
def test_one_beam_with_one_candidate_is_the_run_with_one_trajectory(
    generator: torch.Generator, engine: str, sampler: str, scope: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    how = {"engine": engine, "sampler": sampler, "scope": scope, "temperature": 1.0}
    beams = solved(model, reward, select="beam", beams=1, candidates=1, **how)
    plain = solved(model, reward, select="best_of_n", n=1, **how)
    for beam, single in zip(beams, plain, strict=True):
        assert (beam.chosen, len(beam.trajectories)) == (0, 1)
        assert_identical(beam.best, single.best)


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("engine", NAMED_ENGINES)
def test_the_whole_width_kept_is_best_of_n(
    generator: torch.Generator, engine: str, sampler: str, scope: str
) -> None:
    model, reward = random_model(generator), random_reward(generator)
    how = {"engine": engine, "sampler": sampler, "scope": scope, "decode": "all"}
    beams = solved(model, reward, select="beam", beams=6, candidates=1, **how)
    plain = solved(model, reward, select="best_of_n", n=6, **how)
    for beam, best in zip(beams, plain, strict=True):
        assert beam.chosen == best.chosen
        for got, wanted in zip(beam.trajectories, best.trajectories, strict=True):
            assert got.key == wanted.key
            assert_identical(got, wanted)


@torch.no_grad()
def plain_path(
    model: LatentModel, reward: LatentRM, prompt: Tensor, keys: list[int], sigma: float
) -> tuple[Tensor, Tensor]:
    """Thoughts [T, hidden] and step scores [T] of the path that forms thought t under keys[t].

    Stock modules in float64, everything read again for each thought.
    """
    hf, rm = model.hf.double(), reward.module.double()
    inputs = hf.get_input_embeddings()(prompt)
    thoughts: list[Tensor] = []
    for t, key in enumerate(keys):
        hidden = hf(inputs_embeds=inputs.unsqueeze(0), output_hidden_states=True).hidden_states[-1][0, -1]
        noise = normals(SEED, torch.tensor([key]), torch.tensor([len(prompt) + t]), sites.NOISE, len(hidden))[
            0
        ]
        thoughts.append(hidden + sigma * noise.double())
        inputs = torch.cat([inputs, thoughts[-1].unsqueeze(0)])
    read = torch.cat([rm.body.get_input_embeddings()(prompt), torch.stack(thoughts)]).unsqueeze(0)
    scores = rm.classifier(rm.body(inputs_embeds=read).last_hidden_state)[0, len(prompt) :, 0]
    hf.float(), rm.float()
    return torch.stack(thoughts), scores


def paths_of(question: int, width: int, candidates: int, steps: int) -> list[list[int]]:
    """Keys of every path: each of `width` roots, then a child at every branching."""
    paths = []
    for root, *children in itertools.product(range(width), *[range(candidates)] * (steps - 1)):
        keys = [trajectory_key(question, root)]
        for t, child in enumerate(children, 1):
            keys.append(child_key(keys[-1], t, child))
        paths.append(keys)
    return paths


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_beam_that_keeps_everything_finds_the_best_path_of_an_exhaustive_search(
    generator: torch.Generator, engine: str, body: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward, width, candidates = make_model(generator, latent_length=3), make_reward(generator), 2, 2
    run = searched(engine, model, reward, Sampler.parse("noise:0.5"), width, Beam(8, candidates))
    assert run.rows == 8 * len(QUESTIONS)
    for b, question in enumerate(QUESTIONS):
        prompt = model.encode(question)
        paths = paths_of(question_key(prompt), width, candidates, 3)
        every = [plain_path(model, reward, prompt, keys, 0.5) for keys in paths]
        # Roots in order, the children of each next to each other: the order of the paths.
        mine = slice(8 * b, 8 * b + 8)
        assert run.keys[b].tolist() == [keys[-1] for keys in paths]
        thoughts = torch.stack([part for part, _ in every]).float()
        assert_close(run.thoughts[mine], thoughts, "latent_phase")
        scores = torch.stack([part for _, part in every]).float()
        assert_close(run.scores[mine], scores, "step_score")


def plain_beam(
    model: LatentModel, reward: LatentRM, prompt: Tensor, width: int, beam: Beam, steps: int
) -> tuple[list[list[int]], float]:
    """Key paths that a beam search leaves, by the definition, and the smallest lead that pruning relied on."""
    paths, lead = [[trajectory_key(question_key(prompt), n)] for n in range(width)], float("inf")
    for t in range(1, steps + 1):
        totals = [float(plain_path(model, reward, prompt, keys, 0.5)[1].sum()) for keys in paths]
        order = sorted(range(len(paths)), key=lambda n: -totals[n])
        if beam.keep < len(order):
            lead = min(lead, totals[order[beam.keep - 1]] - totals[order[beam.keep]])
        kept = [paths[n] for n in sorted(order[: beam.keep])]
        if t == steps:
            return kept, lead
        paths = [[*keys, child_key(keys[-1], t, c)] for keys in kept for c in range(beam.candidates)]
    raise AssertionError


@pytest.mark.parametrize("engine", ENGINES)
def test_a_narrow_beam_leaves_the_paths_that_its_definition_leaves(
    generator: torch.Generator, engine: str
) -> None:
    model, reward = random_model(generator, latent_length=4), random_reward(generator)
    beam, decided = Beam(2, 3), 0
    run = searched(engine, model, reward, Sampler.parse("noise:0.5"), 6, beam)
    for b, question in enumerate(QUESTIONS):
        left, lead = plain_beam(model, reward, model.encode(question), 6, beam, 4)
        if lead > 4 * 4 * tolerance("step_score", torch.float32).atol:
            assert run.keys[b].tolist() == [keys[-1] for keys in left]
            decided += 1
    assert decided >= 2


@pytest.mark.parametrize("scope", ["latent", "prompt+latent"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("engine", ["native", "modules"])
def test_fast_engines_search_like_the_reference(
    generator: torch.Generator, engine: str, body: str, sampler: str, scope: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    chosen, beam = Sampler.parse(sampler, scope=scope), Beam(3, 2)  # type: ignore[arg-type]
    run = searched(engine, model, reward, chosen, 6, beam)
    expected = searched("reference", model, reward, chosen, 6, beam)
    same = (run.keys == expected.keys).all(1)  # pruning by totals that rounding decides may differ
    assert int(same.sum()) >= len(QUESTIONS) - 1
    rows = same.repeat_interleave(3)
    assert torch.equal(run.lineage[rows], expected.lineage[rows])
    assert_close(run.thoughts[rows], expected.thoughts[rows], "latent_phase")
    assert_close(run.scores[rows], expected.scores[rows], "step_score")
    answers, slow = (
        answer_all(make_engine(engine, model), run),
        answer_all(make_engine("reference", model), expected),
    )
    agreeing = [answers.tokens[row] == slow.tokens[row] for row in rows.nonzero().squeeze(1).tolist()]
    assert sum(agreeing) >= len(agreeing) - 1


def test_lineage_leads_from_the_end_back_to_a_root(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    run = searched("native", model, reward, Sampler.parse("noise:0.5"), 6, Beam(3, 2))
    for b in range(len(QUESTIONS)):
        for n in range(3):
            first = int(run.lineage[3 * b + n, 0])
            root = run.request.keys[b, first]
            key = root.reshape(1)
            for t in range(1, model.family.latent_length):
                # Of each parent's two children, the even row goes on under its key.
                key = child_key(key, t, int(run.lineage[3 * b + n, t]) % 2)
            assert int(key) == int(run.keys[b, n])


def test_batch_mates_and_memory_change_nothing_in_a_native_search(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    how = {"select": "beam", "beams": 3, "candidates": 2, "engine": "native", "decode": "all", "seed": SEED}
    together = latent_ext.solve(model, list(QUESTIONS), reward=reward, return_thoughts=True, **how)
    for question, result in zip(QUESTIONS, together, strict=True):
        alone = latent_ext.solve(
            model, question, reward=reward, return_thoughts=True, memory_bytes=1000, max_rows=1, **how
        )
        for got, wanted in zip(alone[0].trajectories, result.trajectories, strict=True):
            assert_identical(got, wanted)


def test_a_search_reports_its_beams_and_decodes_the_best_alone(generator: torch.Generator) -> None:
    model, reward = random_model(generator), random_reward(generator)
    seen: list[tuple[int, int]] = []
    results = solved(
        model,
        reward,
        select="beam",
        beams=3,
        candidates=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (18, 18)
    for result in results:
        assert (result.settings["n"], result.settings["candidates"], result.select) == (3, 2, "beam")
        assert [trajectory.index for trajectory in result.trajectories] == [0, 1, 2]
        assert result.best.score == max(result.scores)
        assert [t.index for t in result.trajectories if t.text is not None] == [result.chosen]


@pytest.mark.parametrize(
    ("argument", "how"),
    [
        ("n", {"select": "beam", "n": 8}),
        ("beams", {"select": "beam", "beams": 0}),
        ("beams", {"select": "beam", "beams": True}),
        ("lookahead", {"select": "beam", "lookahead": False}),
        ("candidates", {"select": "beam", "candidates": 1.5}),
        ("beams", {"select": "best_of_n", "beams": 2}),
        ("candidates", {"select": "majority", "candidates": 2}),
    ],
)
def test_a_bad_argument_is_named(generator: torch.Generator, argument: str, how: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: "):
        latent_ext.solve(random_model(generator), "7", reward=random_reward(generator), **how)


def test_a_beam_without_a_reward_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"^select: 'beam' needs a reward"):
        latent_ext.solve(random_model(generator), "7", select="beam")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_refuses_a_beam_without_a_reward(generator: torch.Generator, engine: str) -> None:
    model = random_model(generator)
    prompts, sampler = [model.encode("7")], Sampler()
    runner = make_engine(engine, model)
    request = LatentRequest(prompts, torch.zeros(1, 2, dtype=torch.int64), sampler, SEED, Beam(1, 2))
    with pytest.raises(ValueError, match=r"^reward: "):
        runner.sample(request, runner.read_prompts(prompts, sampler))
