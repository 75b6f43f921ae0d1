"""With T = 0 the end token follows the prompt, and what the model writes is an explicit chain or an answer."""

from __future__ import annotations

import pytest
import torch
from random_models import BODIES, MAX_TOKENS, QUESTIONS

from latent_ext import load, solve
from latent_ext.engine.flops import cost_of, expand
from latent_ext.models.latent_model import LatentModel

_ENGINES = ("native", "modules", "reference")


def _model(body: str) -> LatentModel:
    return BODIES[body][0](torch.Generator().manual_seed(1), latent_length=0)


@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("body", BODIES)
def test_greedy_answers_are_those_of_plain_generation(body: str, engine: str) -> None:
    model = _model(body)
    results = solve(
        model, list(QUESTIONS), n=2, sampler="none", engine=engine, decode="all", max_answer_tokens=MAX_TOKENS
    )
    for question, result in zip(QUESTIONS, results, strict=True):
        ids = torch.cat([model.encode(question), torch.tensor([model.ids.end])]).unsqueeze(0)
        written = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=MAX_TOKENS,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        expected = written[: written.index(model.ids.eos)] if model.ids.eos in written else written
        assert [one.tokens for one in result.trajectories] == [expected, expected]
        assert [one.steps for one in result.trajectories] == [0, 0]


@pytest.mark.parametrize("body", BODIES)
def test_engines_sample_the_same_tokens(body: str) -> None:
    model = _model(body)
    drawn = []
    for engine in _ENGINES:
        results = solve(
            model,
            list(QUESTIONS),
            n=4,
            sampler="none",
            engine=engine,
            temperature=1.0,
            max_answer_tokens=MAX_TOKENS,
        )
        drawn.append([[one.tokens for one in result.trajectories] for result in results])
    assert drawn[0] == drawn[1] == drawn[2]
    assert any(len({tuple(tokens) for tokens in question}) > 1 for question in drawn[0])


def test_the_cost_is_of_prompt_and_answers_alone() -> None:
    model = _model("gpt2")
    results = solve(model, QUESTIONS[0], n=3, sampler="none", temperature=1.0, max_answer_tokens=1)
    cost = cost_of(model, None, results)
    assert (cost.thoughts, cost.phases["sample"]) == (0, 0)
    assert cost == expand(
        model, prompt_tokens=len(model.encode(QUESTIONS[0])), answer_tokens=1, n=3, sampler="none"
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"sampler": "dropout:0.2"}, "sampler"),
        ({"sampler": "noise:0.4"}, "sampler"),
        ({"sampler": "none", "reward": True}, "reward"),
    ],
)
def test_what_needs_thoughts_is_refused(given: dict[str, object], named: str) -> None:
    model = _model("gpt2")
    if "reward" in given:
        given = given | {"reward": BODIES["gpt2"][1](torch.Generator())}
    with pytest.raises(ValueError, match=f"^{named}: .*latent_length=0"):
        solve(model, QUESTIONS[0], n=2, **given)  # type: ignore[arg-type]


def test_a_family_that_ends_its_thoughts_by_a_fixed_number_loads_with_none() -> None:
    assert load(latent_length=0).family.latent_length == 0
    with pytest.raises(
        ValueError, match=r"^latent_length: got -1; a whole number of thoughts >= 0 is needed"
    ):
        load(latent_length=-1)
