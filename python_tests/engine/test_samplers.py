"""Samplers: text forms read back, and bad ones name the argument."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_ext.mixture import Mixture, as_sampler_or_mixture, members
from latent_ext.sampler_parts import (
    SCHEDULES,
    DirichletNoise,
    GumbelNoise,
    InitialState,
    MixedNoise,
    SingularValueNoise,
    ValueWeightNoise,
)
from latent_ext.samplers import GaussianNoise, HeadNoise, MCDropout, Sampler, as_sampler

dropouts = st.builds(
    MCDropout, st.floats(0.0, 1.0, exclude_max=True), st.sampled_from(["step", "trajectory"])
)
noises = st.builds(GaussianNoise, st.floats(0.0, 1e30), st.booleans())


heads = st.builds(HeadNoise, st.floats(0.0, 1e30))
amounts = st.floats(0.0, 1e30)
parts = st.tuples(
    st.builds(InitialState, amounts),
    st.builds(MixedNoise, amounts, st.sampled_from(SCHEDULES)),
    st.builds(GumbelNoise, amounts, st.floats(1e-9, 1e9), st.booleans()),
    st.builds(DirichletNoise, st.floats(1e-9, 1e9)),
    st.builds(SingularValueNoise, amounts),
    st.builds(ValueWeightNoise, amounts),
)
some_parts = st.tuples(parts, st.sets(st.integers(0, 5))).map(
    lambda drawn: tuple(part for place, part in enumerate(drawn[0]) if place in drawn[1])
)


@given(
    st.builds(Sampler, st.none() | dropouts, st.none() | noises, parts=some_parts)
    | st.builds(Sampler, st.none() | dropouts, head=heads, parts=some_parts)
)
def test_the_text_of_a_sampler_reads_back_as_the_same_sampler(sampler: Sampler) -> None:
    assert Sampler.parse(str(sampler)) == sampler


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("none", Sampler()),
        ("head", Sampler(head=HeadNoise(1.0))),
        ("dropout:0.1+head:0.5", Sampler(MCDropout(0.1), head=HeadNoise(0.5))),
        ("dropout:0.2", Sampler(MCDropout(0.2))),
        ("dropout:0.2:step", Sampler(MCDropout(0.2))),
        ("noise:0.4:absolute", Sampler(noise=GaussianNoise(0.4))),
        ("state", Sampler(parts=(InitialState(1.0),))),
        ("gumbel:0.5+noise:1", Sampler(noise=GaussianNoise(1.0), parts=(GumbelNoise(0.5),))),
        ("gumbel:0.5:2:one-sided", Sampler(parts=(GumbelNoise(0.5, 2.0, True),))),
        ("state:0.5+mix:0.1:geom", Sampler(parts=(InitialState(0.5), MixedNoise(0.1, "geom")))),
        ("dirichlet:3", Sampler(parts=(DirichletNoise(3.0),))),
        ("svp:0.6", Sampler(parts=(SingularValueNoise(0.6),))),
        (
            "dropout:0.1+svp:0.5+wv:0.06",
            Sampler(MCDropout(0.1), parts=(SingularValueNoise(0.5), ValueWeightNoise(0.06))),
        ),
        (
            "noise:0.4:relative + dropout:0.1:trajectory",
            Sampler(MCDropout(0.1, "trajectory"), GaussianNoise(0.4, True)),
        ),
    ],
)
def test_text_forms(text: str, sampler: Sampler) -> None:
    assert Sampler.parse(text) == sampler


@pytest.mark.parametrize(
    "text", ["", "dropout", "dropout:", "dropout:x", "drop:0.1", "dropout:0.1:relative", "noise:1:step",
             "dropout:0.1+dropout:0.2", "none+noise:1", "noise:1:relative:x", "state:x", "state+state", "mix", "mix:1:late",
             "gumbel:1:2:both", "dirichlet", "dirichlet:1:2", "head:", "head:1:x", "head+head", "svp", "svp:x",
             "svp:1:2", "svp:1+svp:1", "wv", "wv:1:x", "mix(none|svp:1)"],
)  # fmt: skip
def test_text_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^sampler: got {re.escape(repr(text))}; "):
        Sampler.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "droput:0.2",
            r"'droput' is no part of a sampler \(did you mean 'dropout'\?\); allowed are none, .*svp:ALPHA",
        ),
        ("noise:1+dropuot:0.2", r"'dropuot' is no part of a sampler \(did you mean 'dropout'\?\)"),
        ("uniform:1", r"'uniform' is no part of a sampler; allowed are none, or one or more of dropout:P"),
        ("dropout", r"dropout is written dropout:P\[:step\|trajectory\]$"),
        ("svp:x", r"svp is written svp:ALPHA$"),
        ("noise:1+noise:2", r"noise stands twice$"),
        ("none+noise:1", r"none stands alone$"),
    ],
)
def test_text_outside_the_grammar_says_what_is_wrong_with_which_part(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Sampler.parse(text)


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("p", lambda: MCDropout(1.0)),
        ("p", lambda: MCDropout(-0.1)),
        ("p", lambda: Sampler.parse("dropout:nan")),
        ("per", lambda: MCDropout(0.1, "row")),
        ("sites", lambda: MCDropout(0.1, sites="everywhere")),
        ("sigma", lambda: GaussianNoise(-1.0)),
        ("sigma", lambda: Sampler.parse("noise:inf")),
        ("scope", lambda: Sampler(scope="answer")),
        ("parts", lambda: Sampler(parts=(InitialState(), InitialState()))),
        ("parts", lambda: Sampler(parts=(GaussianNoise(1.0),))),
        ("scale", lambda: Sampler.parse("state:-1")),
        ("share", lambda: MixedNoise(float("nan"))),
        ("schedule", lambda: MixedNoise(0.1, "late")),
        ("tau", lambda: GumbelNoise(1.0, 0.0)),
        ("alpha", lambda: DirichletNoise(0.0)),
        ("alpha", lambda: Sampler.parse("svp:-1")),
        ("alpha", lambda: SingularValueNoise(float("inf"))),
        ("sigma", lambda: Sampler.parse("wv:nan")),
        ("samplers", lambda: Mixture((Sampler(),))),
        ("samplers", lambda: Mixture((Sampler(), Sampler(scope="prompt+latent")))),
        ("sampler", lambda: as_sampler_or_mixture("mix(none)")),
        ("sampler", lambda: as_sampler_or_mixture("mix(none|")),
        ("sampler", lambda: as_sampler_or_mixture("mix(none|what:1)")),
        ("scope", lambda: as_sampler("none", "answer")),
    ],
)
def test_a_value_out_of_range_names_its_argument(argument: str, make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=f"^{argument}: got "):
        make()


def test_every_form_of_a_sampler_is_taken_and_a_scope_overrides_its_own() -> None:
    wanted = Sampler(MCDropout(0.2), scope="prompt+latent")
    for form in ("dropout:0.2", MCDropout(0.2), Sampler(MCDropout(0.2))):
        assert as_sampler(form, "prompt+latent") == wanted
    assert as_sampler(wanted) == wanted
    assert as_sampler(GaussianNoise(1.0)) == Sampler(noise=GaussianNoise(1.0))
    with pytest.raises(TypeError, match=r"^sampler: got int"):
        as_sampler(3)  # type: ignore[arg-type]


def test_zero_probability_and_zero_noise_count_as_deterministic() -> None:
    assert Sampler(MCDropout(0.0), GaussianNoise(0.0)).deterministic
    assert not Sampler(MCDropout(0.1)).deterministic
    assert not Sampler(noise=GaussianNoise(0.1)).deterministic
    assert Sampler(parts=(InitialState(0.0), MixedNoise(0.0), GumbelNoise(0.0))).deterministic
    assert Sampler.parse("svp:0+wv:0").deterministic
    assert not Sampler.parse("wv:0.1").deterministic
    assert not Sampler(parts=(InitialState(),)).deterministic


def test_noise_and_a_head_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="head: got head beside noise:1; one of the two is allowed"):
        Sampler.parse("noise:1+head")
    with pytest.raises(ValueError, match="temperature: got -1"):
        HeadNoise(-1.0)


def test_a_head_at_temperature_0_is_deterministic() -> None:
    assert Sampler(head=HeadNoise(0.0)).deterministic
    assert not as_sampler(HeadNoise(0.5), "prompt+latent").deterministic
    assert as_sampler(HeadNoise(0.5), "prompt+latent").scope == "prompt+latent"


def test_a_mixture_names_its_samplers_in_turn_and_reads_back() -> None:
    text = "mix(dropout:0.2|dropout:0.2|noise:0.6+svp:0.3|none)"
    mixture = as_sampler_or_mixture(text, "prompt+latent")
    assert isinstance(mixture, Mixture)
    assert str(mixture) == text
    assert [str(mixture.of_trajectory(n)) for n in (0, 1, 2, 3, 4, 6)] == [
        "dropout:0.2", "dropout:0.2", "noise:0.6+svp:0.3", "none", "dropout:0.2", "noise:0.6+svp:0.3",
    ]  # fmt: skip
    assert mixture.scope == "prompt+latent"
    assert len(members(mixture)) == 3
    assert as_sampler_or_mixture(mixture, "latent") == Mixture.parse(text)
    assert [part["p"] for part in mixture.to_dict()["samplers"]] == [0.2, 0.2, 0.0, 0.0]
    assert mixture.to_dict()["samplers"][2]["svp"] == 0.3
