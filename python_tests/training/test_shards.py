"""Label directories: what is refused, and what a reader gets back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latent_ext.training.index import LabelError
from latent_ext.training.labelled import LabelledQuestion
from latent_ext.training.shards import LabelStore, merge, read_labels

SETTINGS = {"rollouts": 3, "seed": 0}


def question(generator: torch.Generator, name: str) -> LabelledQuestion:
    return LabelledQuestion(
        id=name,
        gold="0",
        prompt=torch.tensor([4, 5, 6]),
        reference=torch.tensor([7, 8]),
        reference_answer=None,
        thoughts=torch.randn(2, 4, 8, generator=generator),
        counts=torch.tensor([[1, 2, 3, 3], [0, 0, 0, 0]]),
        rollouts=3,
        correct=torch.tensor([True, False]),
        answers=["0", None],
        usable=torch.tensor([True, False]),
        logprobs=torch.tensor([-0.5, -2.0]),
    )


def test_what_was_written_is_read_back(generator: torch.Generator, tmp_path: Path) -> None:
    store = LabelStore(tmp_path, SETTINGS)
    written = [question(generator, name) for name in "abc"]
    store.append([5, 2], written[:2])
    store.append([0], written[2:])
    store.close()
    for found, expected in zip(read_labels(tmp_path), written, strict=True):
        for name, value in vars(expected).items():
            got = getattr(found, name)
            assert torch.equal(got, value) if isinstance(value, torch.Tensor) else got == value, name
    assert [found.id for found in read_labels(merge(tmp_path, 2))] == ["c", "b", "a"]


def test_a_part_whose_index_lines_are_torn_is_written_again(
    generator: torch.Generator, tmp_path: Path
) -> None:
    store = LabelStore(tmp_path, SETTINGS)
    store.append([0, 1], [question(generator, "a"), question(generator, "b")])
    store.append([2, 3], [question(generator, "c"), question(generator, "d")])
    store.close()
    index = tmp_path / "index.jsonl"
    whole = index.read_bytes()
    # Every length that a crash while the second part's lines are appended can leave.
    first_part = whole.index(b"\n", whole.index(b'"b"')) + 1
    for length in range(first_part, len(whole)):
        index.write_bytes(whole[:length])
        store = LabelStore(tmp_path, SETTINGS)
        assert store.places == {0, 1}
        store.close()
        assert index.read_bytes() == whole[:first_part]
    assert not (tmp_path / "part-00000001.safetensors").exists()


def test_two_processes_cannot_write_to_one_directory(tmp_path: Path) -> None:
    store = LabelStore(tmp_path, SETTINGS)
    with pytest.raises(LabelError, match="another process writes"):
        LabelStore(tmp_path, SETTINGS)
    store.close()
    LabelStore(tmp_path, SETTINGS).close()


def test_labels_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    LabelStore(tmp_path, SETTINGS).close()
    with pytest.raises(LabelError, match="was made with seed 0, not 1"):
        LabelStore(tmp_path, SETTINGS | {"seed": 1})


@pytest.mark.parametrize("damage", ["truncated", "missing", "pickle"])
def test_a_damaged_part_is_named(generator: torch.Generator, tmp_path: Path, damage: str) -> None:
    store = LabelStore(tmp_path, SETTINGS)
    store.append([0], [question(generator, "a")])
    store.close()
    part = tmp_path / "part-00000000.safetensors"
    if damage == "truncated":
        part.write_bytes(part.read_bytes()[:-7])
    elif damage == "missing":
        part.unlink()
    else:
        torch.save({"0.prompt": torch.zeros(1)}, part)
    with pytest.raises(LabelError, match=r"part-00000000\.safetensors is missing or damaged"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", '{"part": "../../x", "place": 0, "row": 0, "of": 1, "answers": [], "gold": "1"}', "\\xff"],
)
def test_an_index_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    LabelStore(tmp_path, SETTINGS).close()
    (tmp_path / "index.jsonl").write_text(line + "\n")
    with pytest.raises(LabelError, match=r"index\.jsonl, line 1"):
        read_labels(tmp_path)


def test_an_empty_directory_has_nothing_to_merge(tmp_path: Path) -> None:
    LabelStore(tmp_path, SETTINGS).close()
    with pytest.raises(LabelError, match="holds no labelled question"):
        merge(tmp_path, 4)
