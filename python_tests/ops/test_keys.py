"""Keys of questions, trajectories, children and rollouts."""

from __future__ import annotations

import hashlib

import numpy
import pytest
import torch
from op_cases import random_keys

from latent_ext.ops import keys, philox


def test_the_question_key_is_the_start_of_a_blake2b_digest() -> None:
    ids = [50256, 0, 1212, 318]
    digest = hashlib.blake2b(numpy.array(ids, dtype="<i8").tobytes(), digest_size=64).digest()
    assert keys.question_key(ids) == int.from_bytes(digest[:8], "little", signed=True)
    assert keys.question_key(torch.tensor(ids)) == keys.question_key(ids)
    assert keys.question_key(torch.tensor(ids, dtype=torch.int32)) == keys.question_key(tuple(ids))


def test_the_question_key_depends_on_every_id_and_on_their_order() -> None:
    prompts = [[], [0], [1, 2], [2, 1], [1, 2, 0], [0, 1, 2]]
    assert len({keys.question_key(ids) for ids in prompts}) == len(prompts)


def test_a_derived_key_is_the_first_two_words_of_philox(generator: torch.Generator) -> None:
    parent = random_keys(generator, 3)
    low, high, _, _ = philox.philox(
        (parent & 0xFFFFFFFF, parent >> 32 & 0xFFFFFFFF),
        (torch.tensor(5), torch.tensor(6), torch.tensor(keys.BEAM), torch.tensor(0)),
    )
    derived = keys.derive(parent, 5, 6, keys.BEAM)
    assert torch.equal(derived & 0xFFFFFFFF, low)
    assert torch.equal(derived >> 32 & 0xFFFFFFFF, high)


def test_ints_and_tensors_give_the_same_keys(generator: torch.Generator) -> None:
    parents = random_keys(generator, 4)
    for function in (keys.child_key, keys.rollout_key):
        together = function(parents, 3, torch.arange(4))
        assert together.tolist() == [function(int(parents[n]), 3, n) for n in range(4)]
    assert keys.trajectory_key(-5, 2) == keys.trajectory_key((1 << 64) - 5, 2)


def test_the_first_trajectories_of_a_larger_run_are_those_of_a_smaller() -> None:
    question = keys.question_key([1, 2, 3])
    assert torch.equal(keys.trajectory_keys(question, 64)[:16], keys.trajectory_keys(question, 16))
    assert keys.trajectory_keys(question, 4).tolist() == [keys.trajectory_key(question, n) for n in range(4)]
    assert keys.trajectory_keys(torch.tensor([question, 7]), 3).shape == (2, 3)
    assert keys.trajectory_keys(question, 0).shape == (0,)


def test_child_zero_keeps_the_key_of_its_parent(generator: torch.Generator) -> None:
    parents = random_keys(generator, 3)
    children = keys.child_key(parents.unsqueeze(1), 2, torch.arange(4))
    assert torch.equal(children[:, 0], parents)
    assert keys.child_key(int(parents[0]), 2, 0) == int(parents[0])


def test_keys_of_different_paths_differ() -> None:
    root = keys.trajectory_key(keys.question_key([1]), 0)
    derived = [keys.derive(root, a, b, tag) for a in range(8) for b in range(8) for tag in (1, 2, 3)]
    assert len(set(derived)) == len(derived)


@pytest.mark.parametrize(("a", "b", "name"), [(-1, 0, "a must"), (0, 1 << 32, "b must")])
def test_numbers_beyond_one_word_are_refused_by_name(a: int, b: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        keys.derive(1, a, b, keys.ROOT)


def test_wrong_ids_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="ids"):
        keys.question_key(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="ids"):
        keys.question_key(torch.tensor([[1]]))
