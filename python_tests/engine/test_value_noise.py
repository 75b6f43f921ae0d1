"""Noise on W_V: each trajectory has its own value projection, the same in every engine, and none for the answer."""

from __future__ import annotations

import pytest
import torch
from random_models import (
    BODIES,
    MAX_TOKENS,
    QUESTIONS,
    SEED,
    answer_all,
    keys_of,
    make_engine,
    random_model,
    sample,
)
from test_engine_agreement import SCOPES, assert_engines_agree

import latent_ext
from latent_ext.engine.choose import choose_engine
from latent_ext.engine.native import NativeEngine
from latent_ext.engine.row_dropout import RowDropout
from latent_ext.engine.value_noise import ValueNoise
from latent_ext.models.packed import WEIGHTS
from latent_ext.models.value_projection import value_weight
from latent_ext.ops import sites, trajectory_keys
from latent_ext.ops.philox import normals
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

TOGETHER = "svp:0.4+dropout:0.1:trajectory+noise:0.3"


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", ["svp:0.6", TOGETHER])
@pytest.mark.parametrize("body", BODIES)
def test_native_agrees_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str, weights: str
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator), make_reward(generator)
    sampler = Sampler.parse(text, scope=scope)  # type: ignore[arg-type]
    assert_engines_agree(model, reward, sampler, NativeEngine(model, MAX_TOKENS, weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("text", ["svp:0.6", "wv:0.04", TOGETHER + "+wv:0.03"])
@pytest.mark.parametrize("body", BODIES)
def test_modules_agrees_with_reference(
    generator: torch.Generator, body: str, text: str, scope: str, dtype: torch.dtype
) -> None:
    make_model, make_reward = BODIES[body]
    model, reward = make_model(generator, dtype=dtype), make_reward(generator, dtype=dtype)
    assert_engines_agree(model, reward, Sampler.parse(text, scope=scope))  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.parametrize(
    "changes", [{"num_key_value_heads": 1}, {"head_dim": 12, "attention_bias": True}], ids=str
)
def test_engines_agree_where_values_have_their_own_width(
    generator: torch.Generator, engine: str, changes: dict[str, object]
) -> None:
    make_model, make_reward = BODIES["llama"]
    model, reward = make_model(generator, **changes), make_reward(generator, **changes)
    assert_engines_agree(model, reward, Sampler.parse("svp:0.6"), make_engine(engine, model))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("engine", ["native", "modules", "reference"])
@pytest.mark.parametrize("body", BODIES)
def test_zero_noise_on_w_v_is_no_noise_bit_for_bit(
    generator: torch.Generator, body: str, engine: str, scope: str
) -> None:
    model = BODIES[body][0](generator)
    prompts = [model.encode(question) for question in QUESTIONS]
    for beside in ("none", "dropout:0.2"):
        runs = []
        for text in (beside, "svp:0+wv:0" + ("" if beside == "none" else "+" + beside)):
            runner = make_engine(engine, model)
            run = sample(runner, prompts, Sampler.parse(text, scope=scope))  # type: ignore[arg-type]
            runs.append((run.thoughts, answer_all(runner, run).tokens))
        assert torch.equal(runs[0][0], runs[1][0])
        assert runs[0][1] == runs[1][1]


def noise(alpha: float, sigma: float, keys: torch.Tensor) -> ValueNoise:
    return ValueNoise(alpha, sigma, torch.tensor([SEED]), keys)


@pytest.mark.parametrize("body", BODIES)
def test_a_trajectory_reads_with_perturbed_singular_values(generator: torch.Generator, body: str) -> None:
    model = BODIES[body][0](generator)
    keys = keys_of([model.encode(QUESTIONS[0])], 3)[0]
    x = torch.randn(3, model.blocks.hidden_size, generator=generator)
    for layer in range(model.blocks.layers):
        own = value_weight(model.body, layer)
        left, values, right = torch.linalg.svd(own.double(), full_matrices=False)
        site = sites.layer_site(layer, sites.VALUE_NOISE)
        drawn = normals(SEED, keys, sites.FIXED, site, len(values))
        bound = noise(0.6, 0.0, keys)
        for n in range(3):
            wanted = left @ torch.diag(values * (1.0 + 0.6 * drawn[n].double())) @ right
            assert_close(bound.weight(model.body, layer)[n], wanted.float(), "logits")
            moved = bound.shift(model.body, layer, x)[n]
            assert_close(moved, x[n] @ (wanted - own.double()).float().t(), "logits")


def test_dense_noise_has_a_site_of_its_own_and_adds_to_svp(generator: torch.Generator) -> None:
    model, keys = random_model(generator), torch.arange(2)
    own, both = value_weight(model.body, 0), noise(0.5, 0.1, keys).weight(model.body, 0)
    spectral, dense = (noise(*pair, keys).weight(model.body, 0) for pair in ((0.5, 0.0), (0.0, 0.1)))
    assert_close(both, spectral + dense - own, "logits")
    site = sites.layer_site(0, sites.VALUE_WEIGHTS)
    drawn = normals(SEED, keys, sites.FIXED, site, own.numel()).reshape(2, *own.shape)
    assert_close(dense, own + 0.1 * drawn, "logits")


def test_the_factors_are_standard_normal_and_differ_between_layers_and_trajectories() -> None:
    keys = trajectory_keys(torch.tensor([5]), 2000)[0]
    bound = noise(1.0, 0.0, keys)
    layers = torch.stack([bound.spectral(layer, 48) for layer in range(2)])
    count = layers.numel()
    # Each bound is exceeded by chance less than once in 100 000.
    assert abs(float(layers.mean())) < 4.5 * count**-0.5
    assert abs(float(layers.var()) - 1.0) < 4.5 * (2 / count) ** 0.5
    flat = layers.reshape(2, -1)
    assert abs(float((flat[0] * flat[1]).mean())) < 4.5 * flat.shape[1] ** -0.5
    neighbours = layers[:, :-1] * layers[:, 1:]
    assert abs(float(neighbours.mean())) < 4.5 * neighbours.numel() ** -0.5


def test_a_deviation_of_zero_mean_grows_with_alpha(generator: torch.Generator) -> None:
    model = random_model(generator)
    prompts = [model.encode(QUESTIONS[0])]
    runner = make_engine("native", model)
    clean = sample(runner, prompts, Sampler(), 1).thoughts
    moved = [
        float((sample(runner, prompts, Sampler.parse(f"svp:{alpha}"), 32).thoughts - clean).norm())
        for alpha in (0.1, 0.4, 0.9)
    ]
    assert 0.0 < moved[0] < moved[1] < moved[2]


def test_no_noise_on_w_v_acts_in_the_answer_of_any_family() -> None:
    seed, keys = torch.tensor([1]), torch.arange(3)
    sampler = Sampler.parse("svp:0.5+dropout:0.2")
    assert RowDropout.of(sampler, seed, keys).values is not None
    assert RowDropout.of_answer(sampler, seed, keys).values is None
    assert RowDropout.of_answer(sampler, seed, keys).p == 0.2
    assert RowDropout.clean_of(sampler, seed, keys).values is None


def test_an_engine_that_cannot_draw_says_which_one_can(generator: torch.Generator) -> None:
    model = random_model(generator)
    dense, spectral = Sampler.parse("wv:0.1"), Sampler.parse("svp:0.5")
    _, choice = choose_engine(model, samplers=(spectral, dense))
    assert choice.name == "modules"
    assert "'native' cannot run" in choice.why
    assert "no dense noise on W_V" in choice.why
    assert choose_engine(model, samplers=(spectral,))[1].name == "native"
    with pytest.raises(RuntimeError, match=r"engine: 'native' cannot .* no dense noise on W_V"):
        latent_ext.solve(model, "7", n=2, sampler=dense, engine="native")
    with pytest.raises(ValueError, match=r"^sampler: got 'wv:0.1'; .*; take engine='modules'"):
        make_engine("native", model).read_prompts([], dense)
    prompts = [model.encode("7")]
    for sampler in (dense, spectral):
        with pytest.raises(
            ValueError, match=r"^sampler: got .* no noise on W_V .* on CUDA; take engine='modules'"
        ):
            sample(make_engine("native, graph", model), prompts, sampler)


def test_what_was_drawn_is_recorded(generator: torch.Generator) -> None:
    model = random_model(generator)
    (result,) = latent_ext.solve(
        model, "7", n=2, sampler="svp:0.5", temperature=0.7, top_p=0.9, max_answer_tokens=2
    )
    settings = result.settings
    assert (settings["sampler"], settings["svp"], settings["wv"]) == ("svp:0.5", 0.5, 0.0)
    assert (settings["temperature"], settings["top_p"]) == (0.7, 0.9)
