"""The registry of random sites, here and in the C++ headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from latent_ext.ops import sites

HEADER = Path(__file__).parents[2] / "csrc" / "include" / "latent_ext" / "sites.h"

SHARED = {
    "kSiteNoise": sites.NOISE,
    "kSiteToken": sites.TOKEN,
    "kSiteInitialState": sites.INITIAL_STATE,
    "kSiteEmbedding": sites.EMBEDDING,
    "kSiteFirstLayer": sites.FIRST_LAYER_SITE,
    "kSitesPerLayer": sites.SITES_PER_LAYER,
    "kMaxLayers": sites.MAX_LAYERS,
    "kLayerAttentionOutput": sites.ATTENTION_OUTPUT,
    "kLayerMlpOutput": sites.MLP_OUTPUT,
    "kLayerAttentionProbabilities": sites.ATTENTION_PROBABILITIES,
    "kLayerValueNoise": sites.VALUE_NOISE,
    "kLayerValueWeights": sites.VALUE_WEIGHTS,
}


def test_the_cpp_registry_holds_the_same_numbers() -> None:
    constants = dict(re.findall(r"constexpr uint32_t (k\w+) = (\w+);", HEADER.read_text()))
    assert {name: int(value, 0) for name, value in constants.items()} == SHARED


def test_no_two_sites_share_a_number() -> None:
    whole = [sites.NOISE, sites.TOKEN, sites.INITIAL_STATE, sites.EMBEDDING]
    layers = [
        sites.layer_site(n, kind) for n in range(sites.MAX_LAYERS) for kind in range(sites.SITES_PER_LAYER)
    ]
    assert len(set(whole + layers)) == len(whole + layers)
    assert max(layers) == sites.SITE_COUNT - 1


def test_layers_and_kinds_out_of_range_are_refused_by_name() -> None:
    for layer in (-1, sites.MAX_LAYERS):
        with pytest.raises(ValueError, match="layer must"):
            sites.layer_site(layer, sites.MLP_OUTPUT)
    with pytest.raises(ValueError, match="kind must"):
        sites.layer_site(0, sites.SITES_PER_LAYER)


def test_attention_elements_name_a_head_and_a_key_position() -> None:
    assert sites.attention_element(3, 5) == 3 << 20 | 5
    assert sites.attention_element(sites.MAX_HEADS - 1, (1 << 20) - 1) == sites.ELEMENT_COUNT - 1
    with pytest.raises(ValueError, match="head must"):
        sites.attention_element(sites.MAX_HEADS, 0)
    with pytest.raises(ValueError, match="key_position must"):
        sites.attention_element(0, 1 << 20)
