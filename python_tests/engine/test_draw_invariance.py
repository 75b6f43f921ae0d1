"""Random numbers are functions of the trajectory: nothing about how a run is organised changes a single bit."""

from __future__ import annotations

import pytest
import torch
from draw_recorder import Draws, recording
from random_models import BODIES, QUESTIONS, SEED, keys_of, make_engine, random_model, sample
from torch import Tensor

import latent_ext
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops import sites
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

ENGINES = ("modules", "reference")
SAMPLERS = (
    "dropout:0.2",
    "dropout:0.2:trajectory",
    "noise:0.4:relative",
    "dropout:0.1+noise:0.4:relative",
    "dropout:0.3:trajectory+noise:0.6",
)
SCOPES = ("latent", "prompt+latent")
everywhere = [
    pytest.mark.parametrize("scope", SCOPES),
    pytest.mark.parametrize("text", SAMPLERS),
    pytest.mark.parametrize("engine", ENGINES),
]


def on_everything(test):  # type: ignore[no-untyped-def]
    for mark in everywhere:
        test = mark(test)
    return test


def sampler_of(text: str, scope: str) -> Sampler:
    return Sampler.parse(text, scope=scope, sites="residual+embedding")  # type: ignore[arg-type]


def draw(
    engine: str,
    model: LatentModel,
    prompts: list[Tensor],
    sampler: Sampler,
    count: int,
    keys: Tensor | None = None,
) -> tuple[list[list[Draws]], Tensor]:
    """Draws [question][trajectory] and thoughts [questions, trajectories, T, hidden] of one batch."""
    with recording() as recorder:
        run = sample(make_engine(engine, model), prompts, sampler, count, keys)
    used = run.request.keys
    drawn = [
        recorder.of(used[b], len(prompt) + model.family.latent_length) for b, prompt in enumerate(prompts)
    ]
    return drawn, run.thoughts.reshape(len(prompts), used.shape[1], *run.thoughts.shape[1:])


def solve_draws(engine: str, model: LatentModel, question: str, sampler: Sampler, **how: object):  # type: ignore[no-untyped-def]
    """Draws, thoughts and answers of the first 16 trajectories of one question in a `solve`."""
    asked = how.pop("questions", [question])
    n = how.pop("n", 16)
    with recording() as recorder:
        results = latent_ext.solve(
            model, asked, n=n, sampler=sampler, engine=engine, seed=SEED, decode="all", max_answer_tokens=3,
            return_thoughts=True, **how,
        )  # fmt: skip
    prompt = model.encode(question)
    drawn = recorder.of(keys_of([prompt], 16), len(prompt) + model.family.latent_length)
    kept = [result.trajectories[:16] for result in results if result.question == question]
    return drawn, [torch.stack([one.thoughts for one in listed]) for listed in kept]


# Kinds of a layer's sites at which "residual" dropout acts.
DROPPED = {"gpt2": (sites.ATTENTION_OUTPUT, sites.MLP_OUTPUT), "llama": (sites.MLP_OUTPUT,)}


@on_everything
@pytest.mark.parametrize("body", BODIES)
def test_each_trajectory_draws_at_exactly_the_stated_sites_and_positions(
    generator: torch.Generator, body: str, engine: str, text: str, scope: str
) -> None:
    model, sampler = BODIES[body][0](generator), sampler_of(text, scope)
    prompts = [model.encode(question) for question in QUESTIONS]
    drawn, _ = draw(engine, model, prompts, sampler, 2)
    dropout_sites = [sites.EMBEDDING] + [
        sites.layer_site(layer, kind) for layer in range(2) for kind in DROPPED[body]
    ]
    for prompt, of_question in zip(prompts, drawn, strict=True):
        length, end = len(prompt), len(prompt) + model.family.latent_length
        read = range(0 if scope == "prompt+latent" else length - 1, end - 1)
        masks = [sites.FIXED] if sampler.dropout and sampler.dropout.per == "trajectory" else list(read)
        expected = (
            {(site, position) for site in dropout_sites for position in masks} if sampler.drops else set()
        )
        if sampler.noisy:
            expected |= {(sites.NOISE, position) for position in range(length, end)}
        for of_trajectory in of_question:
            # Right-padded prompts draw, and throw away, masks for their padding; it lies where thoughts come.
            assert set(of_trajectory) - {(s, end - 1) for s in dropout_sites} == expected


@on_everything
def test_the_first_16_of_64_trajectories_are_the_16_of_a_smaller_run(
    generator: torch.Generator, engine: str, text: str, scope: str
) -> None:
    model, sampler = random_model(generator), sampler_of(text, scope)
    small, (thoughts,) = solve_draws(engine, model, QUESTIONS[1], sampler)
    large, (first,) = solve_draws(engine, model, QUESTIONS[1], sampler, n=64)
    assert all(small)
    assert large == small
    assert_close(first, thoughts, "latent_phase")


ORGANISATIONS = {
    "one row at a time": {"max_rows": 1},
    "seven rows at a time": {"max_rows": 7},
    "little memory": {"memory_bytes": 60_000},
    "batch mates": {"questions": list(QUESTIONS)},
    "the order of questions": {"questions": list(reversed(QUESTIONS))},
    "duplicated questions": {"questions": [QUESTIONS[1], QUESTIONS[0], QUESTIONS[1]]},
    "mates and chunks": {"questions": list(QUESTIONS), "max_rows": 20},
}


@pytest.mark.parametrize("how", ORGANISATIONS, ids=str)
@pytest.mark.parametrize(("text", "scope"), [(SAMPLERS[3], SCOPES[0]), (SAMPLERS[4], SCOPES[1])])
@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_about_the_organisation_of_a_run_changes_a_draw(
    generator: torch.Generator, engine: str, text: str, scope: str, how: str
) -> None:
    model, sampler = random_model(generator), sampler_of(text, scope)
    expected, (thoughts,) = solve_draws(engine, model, QUESTIONS[1], sampler)
    actual, all_thoughts = solve_draws(engine, model, QUESTIONS[1], sampler, **ORGANISATIONS[how])

    def stated(drawn: list[Draws]) -> list[Draws]:
        # A mask for padding right behind the prompt's own reach is drawn by some batches and read by none.
        last = len(model.encode(QUESTIONS[1])) + model.family.latent_length - 1
        return [
            {place: d for place, d in one.items() if place[0] == sites.NOISE or place[1] != last}
            for one in drawn
        ]

    assert all(expected)
    assert stated(actual) == stated(expected)
    for got in all_thoughts:
        assert_close(got, thoughts, "latent_phase")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_number_of_threads_changes_no_draw(
    generator: torch.Generator, restored_threads: None, engine: str
) -> None:
    model, sampler = random_model(generator), sampler_of(SAMPLERS[3], "latent")
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs.append(solve_draws(engine, model, QUESTIONS[1], sampler))
    (one, (thoughts,)), (two, (again,)) = runs
    assert two == one
    assert_close(again, thoughts, "latent_phase")


@on_everything
def test_trajectories_draw_the_same_when_their_siblings_are_pruned(
    generator: torch.Generator, engine: str, text: str, scope: str
) -> None:
    model, sampler = random_model(generator), sampler_of(text, scope)
    prompts = [model.encode(question) for question in QUESTIONS[1:]]
    full, thoughts = draw(engine, model, prompts, sampler, 6)
    kept = [4, 1]
    pruned, fewer = draw(engine, model, prompts, sampler, 6, keys_of(prompts, 6)[:, kept].contiguous())
    assert pruned == [[of_question[n] for n in kept] for of_question in full]
    assert_close(fewer, thoughts[:, kept].contiguous(), "latent_phase")


@pytest.mark.parametrize("what", ["keys", "positions"])
def test_the_comparison_catches_draws_that_depend_on_the_row(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    model, sampler = random_model(generator), sampler_of("dropout:0.2", "latent")
    expected, _ = solve_draws("modules", model, QUESTIONS[1], sampler)
    if what == "keys":
        of = RowDropout.of.__func__  # type: ignore[attr-defined]

        def by_row(cls: type, sampler: Sampler, seed: Tensor, keys: Tensor) -> RowDropout:
            return of(cls, sampler, seed, torch.arange(len(keys)))

        monkeypatch.setattr(RowDropout, "of", classmethod(by_row))
    else:
        monkeypatch.setattr(RowDropout, "mask_positions", lambda self, at: at + torch.arange(len(at)))
    actual, _ = solve_draws("modules", model, QUESTIONS[1], sampler)
    assert actual != expected


def test_trajectories_of_one_question_differ(generator: torch.Generator) -> None:
    model = random_model(generator)
    drawn, thoughts = draw(
        "modules", model, [model.encode(QUESTIONS[1])], sampler_of(SAMPLERS[3], "latent"), 8
    )
    places = set(drawn[0][0])
    assert all(len({one[place] for one in drawn[0]}) == 8 for place in places)
    assert len({one.numpy().tobytes() for one in thoughts[0]}) == 8
