"""Declared thought heads compute what the modules that they were read off compute."""

from __future__ import annotations

import pytest
import torch
from random_models import EMBEDDING_STD, policy_module, projector_module
from torch import Tensor, nn

from latent_ext.models.family import HeadStage, ThoughtHead, apply_stages
from latent_ext.models.thought_heads import latent_policy_head, projector_head
from latent_ext.ops.norms import norm_reference
from latent_ext.ops.tolerances import assert_close


def thought(head: ThoughtHead, hidden: Tensor) -> Tensor:
    """Stages, then the norm and the scale that `next_thought` applies."""
    staged = apply_stages(head.stages, hidden)
    return head.scale * norm_reference(staged, head.weight, head.bias, head.eps, head.norm)


def randomise(module: nn.Module, generator: torch.Generator) -> nn.Module:
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("hidden", "inner"), [(48, 48), (40, 53), (7, 3)])
def test_a_projector_head_is_the_projector(generator: torch.Generator, hidden: int, inner: int) -> None:
    projector = randomise(projector_module(hidden, inner), generator)
    head = projector_head(projector)
    assert [stage.kind for stage in head.stages] == ["linear", "gelu", "linear"]
    assert (head.norm, head.scale) == ("layer", 1.0)
    x = torch.randn(5, hidden, generator=generator)
    assert_close(thought(head, x), projector(x), "thought")


@pytest.mark.parametrize(("hidden", "inner"), [(48, 48), (40, 53), (7, 3)])
def test_a_latent_policy_head_is_the_policy_times_the_embeddings_spread(
    generator: torch.Generator, hidden: int, inner: int
) -> None:
    policy = randomise(policy_module(hidden, inner), generator)
    head = latent_policy_head(policy, EMBEDDING_STD)
    assert [stage.kind for stage in head.stages] == ["linear", "gelu", "linear", "layer", "linear"]
    assert (head.norm, head.scale) == ("none", EMBEDDING_STD)
    x = torch.randn(5, hidden, generator=generator)
    assert_close(thought(head, x), EMBEDDING_STD * policy(x), "thought")


def test_a_head_shares_the_storage_of_its_module(generator: torch.Generator) -> None:
    projector = randomise(projector_module(8, 8), generator)
    head = projector_head(projector)
    assert head.stages[0].weight is projector.get_submodule("1").weight
    assert head.weight is projector.get_submodule("4").weight


def test_the_eps_of_a_layer_norm_is_its_own() -> None:
    projector, policy = projector_module(8, 8), policy_module(8, 8)
    projector.get_submodule("4").eps = policy.get_submodule("fc.3").eps = 0.25  # type: ignore[assignment]
    assert projector_head(projector).eps == 0.25
    assert latent_policy_head(policy, 1.0).stages[3].eps == 0.25


def test_a_module_of_another_layout_is_named() -> None:
    with pytest.raises(AttributeError, match="has no attribute `4`"):
        projector_head(nn.Sequential(nn.Dropout(), nn.Linear(4, 4), nn.GELU()))
    with pytest.raises(TypeError, match=r"^1: got GELU; a Linear is needed"):
        projector_head(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4)))
    with pytest.raises(TypeError, match=r"^4: got RMSNorm; a LayerNorm is needed"):
        projector_head(nn.Sequential(*projector_module(4, 4).children())[:4].append(nn.RMSNorm(4)))


def test_no_stages_hand_the_hidden_state_on() -> None:
    hidden = torch.ones(2, 3)
    assert apply_stages((), hidden) is hidden


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tanh",), "^kind: got 'tanh'"),
        (("linear",), "^weight: got none; a 'linear' stage takes a matrix"),
        (("linear", torch.ones(3)), r"^weight: got shape \(3,\); a 'linear' stage takes a matrix"),
        (("gelu", torch.ones(3)), "^weight: got .*; a 'gelu' stage takes none"),
        (("layer", torch.ones(3, 3)), "^weight: got .*; a 'layer' stage takes a vector"),
        (("linear", torch.ones(3, 4), torch.ones(4)), r"^bias: got shape \(4,\)"),
    ],
)
def test_a_stage_refuses_tensors_that_do_not_belong_to_it(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadStage(*arguments)
