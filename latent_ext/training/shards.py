"""Labels on disk: safetensors parts that are written once, and an index that only grows.

    run.json        what all labels of the directory depend on
    part-*.safetensors
                    some questions each, renamed into place when they are whole
    index.jsonl     one line per question, written after its part: what it says exists
    attempts.jsonl  times, hosts, versions; of no consequence
    merged/         `merge`: the same questions in the order of the problem file, a fixed number per shard

A process that is killed leaves at most a part without index lines and a torn last line. Both are dropped when the
directory is opened again, and their questions come once more, with the same bits.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latent_ext.durable import append_text, sync_directory, write_text
from latent_ext.training.index import INDEX, LabelError, index_lines, whole_parts
from latent_ext.training.labelled import LabelledQuestion

FORMAT = 1
_RUN, _ATTEMPTS, _LOCK, _MERGED = "run.json", "attempts.jsonl", ".lock", "merged"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STORED_AS = tuple(_DTYPES)


class LabelStore:
    """The directory of one annotation, open for one writer.

    Args:
        directory: made where it does not exist.
        settings: what labels depend on; those of a directory that exists must be the same.
        stored_as: dtype of thoughts on disk: "float32", "float16" or "bfloat16".

    Raises:
        LabelError: if another process writes here, or the directory belongs to other settings, naming them.
    """

    def __init__(
        self, directory: str | Path, settings: dict[str, Any], *, stored_as: str = "float32"
    ) -> None:
        if stored_as not in _DTYPES:
            raise ValueError(f"stored_as: got {stored_as!r}; allowed are {', '.join(_DTYPES)}")
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._dtype = _DTYPES[stored_as]
        # The lock goes with the process, however it ends.
        self._lock = (self.directory / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise LabelError(f"directory: another process writes to {self.directory}") from None
        try:
            self._agree({"format": FORMAT, "stored_as": stored_as, **settings})
            self.index = whole_parts(index_lines(self.directory))
            write_text(self.directory / INDEX, "".join(json.dumps(line) + "\n" for line in self.index))
            parts = {line["part"] for line in self.index}
            for left in self.directory.glob("part-*"):
                if left.name not in parts:
                    left.unlink()
        except BaseException:
            self._lock.close()
            raise
        self._next = max((int(part[5:13]) for part in parts), default=-1) + 1

    @property
    def places(self) -> set[int]:
        """Places in the problem file of the questions that are there."""
        return {line["place"] for line in self.index}

    def append(self, places: Sequence[int], questions: Sequence[LabelledQuestion]) -> None:
        """Writes one part; when this returns, its questions outlive a crash of the machine.

        Args:
            places: of the questions in the problem file.
            questions: at least one.
        """
        name = f"part-{self._next:08d}.safetensors"
        lines = _write_part(self.directory / name, name, places, questions, self._dtype)
        append_text(self.directory / INDEX, "".join(json.dumps(line) + "\n" for line in lines))
        self.index += lines
        self._next += 1

    def log(self, entry: dict[str, Any]) -> None:
        """One line of attempts.jsonl."""
        append_text(self.directory / _ATTEMPTS, json.dumps(entry) + "\n")

    def close(self) -> None:
        """Lets another process write."""
        self._lock.close()

    def _agree(self, settings: dict[str, Any]) -> None:
        path = self.directory / _RUN
        if not path.is_file():
            if (self.directory / INDEX).exists():
                raise LabelError(f"directory: {self.directory} has labels and no {_RUN} that says of what")
            write_text(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
            return
        found = read_settings(self.directory)
        differing = [
            f"{name} {found.get(name)!r}, not {settings.get(name)!r}"
            for name in sorted({*found, *settings})
            if found.get(name) != settings.get(name)
        ]
        if differing:
            raise LabelError(f"directory: {self.directory} was made with {'; '.join(differing)}")


def merge(directory: str | Path, shard_size: int) -> Path:
    """Writes all questions in the order of the problem file, `shard_size` to a shard, and returns where they are.

    The files depend on the labels and on `shard_size` alone: whatever interruptions there were, they are the same
    bytes.

    Raises:
        LabelError: if the directory holds no labels or a damaged part.
        ValueError: for a shard size below 1.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size: got {shard_size}; at least 1 question is needed")
    source = Path(directory)
    settings = read_settings(source)
    lines = sorted(whole_parts(index_lines(source)), key=lambda line: line["place"])
    if not lines:
        raise LabelError(f"directory: {source} holds no labelled question")
    dtype = _DTYPES[settings["stored_as"]]
    making, target = source / f"{_MERGED}.tmp", source / _MERGED
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    write_text(making / _RUN, json.dumps(settings, indent=2, sort_keys=True) + "\n")
    for number, start in enumerate(range(0, len(lines), shard_size)):
        chosen = lines[start : start + shard_size]
        name = f"part-{number:08d}.safetensors"
        questions = list(_questions(source, chosen, settings))
        written = _write_part(making / name, name, [line["place"] for line in chosen], questions, dtype)
        append_text(making / INDEX, "".join(json.dumps(line) + "\n" for line in written))
    shutil.rmtree(target, ignore_errors=True)
    making.rename(target)
    return target


def read_settings(directory: str | Path) -> dict[str, Any]:
    """run.json of a label directory.

    Raises:
        LabelError: if there is none that can be read.
    """
    path = Path(directory) / _RUN
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelError(f"directory: {path} cannot be read: {error}") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise LabelError(f"directory: {path} is not of format {FORMAT}")
    if settings.get("stored_as") not in _DTYPES or not isinstance(settings.get("rollouts"), int):
        raise LabelError(f"directory: {path} lacks stored_as or rollouts")
    return settings


def read_labels(directory: str | Path) -> list[LabelledQuestion]:
    """All questions of a label directory or of its `merged`, in the order of their index.

    Raises:
        LabelError: naming the file that is missing or damaged.
    """
    source = Path(directory)
    return list(_questions(source, whole_parts(index_lines(source)), read_settings(source)))


def _questions(
    source: Path, lines: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> Iterator[LabelledQuestion]:
    opened: tuple[str, dict[str, Tensor]] = ("", {})
    for line in lines:
        if line["part"] != opened[0]:
            opened = line["part"], _read_part(source / line["part"])
        row = line["row"]
        try:
            own = {
                name: opened[1][f"{row}.{name}"]
                for name in ("prompt", "reference", "thoughts", "counts", "logprobs")
            }
            flags = {name: opened[1][f"{row}.{name}"].bool() for name in ("correct", "usable")}
        except KeyError as error:
            raise LabelError(f"directory: {source / line['part']} lacks the tensor {error}") from None
        yield LabelledQuestion(
            id=line["id"],
            gold=line["gold"],
            prompt=own["prompt"].long(),
            reference=own["reference"].long(),
            reference_answer=line["reference_answer"],
            thoughts=own["thoughts"],
            counts=own["counts"].long(),
            rollouts=settings["rollouts"],
            correct=flags["correct"],
            answers=line["answers"],
            usable=flags["usable"],
            logprobs=own["logprobs"],
        )


def _write_part(
    path: Path, name: str, places: Sequence[int], questions: Sequence[LabelledQuestion], dtype: torch.dtype
) -> list[dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    lines: list[dict[str, Any]] = []
    for row, (place, question) in enumerate(zip(places, questions, strict=True)):
        tensors |= {
            f"{row}.prompt": question.prompt.int(),
            f"{row}.reference": question.reference.int(),
            f"{row}.thoughts": question.thoughts.to(dtype).contiguous(),
            f"{row}.counts": question.counts.int().contiguous(),
            f"{row}.correct": question.correct.to(torch.uint8),
            f"{row}.usable": question.usable.to(torch.uint8),
            f"{row}.logprobs": question.logprobs.float().contiguous(),
        }
        lines.append(
            {
                "place": place,
                "id": question.id,
                "gold": question.gold,
                "part": name,
                "row": row,
                "of": len(questions),
                "flag": question.flag,
                "reference_answer": question.reference_answer,
                "answers": question.answers,
            }
        )
    # The tensors are views of larger ones; safetensors wants each for itself.
    save_file(
        {key: value.clone() for key, value in tensors.items()}, f"{path}.tmp", metadata={"format": "pt"}
    )
    with Path(f"{path}.tmp").open("rb+") as written:
        os.fsync(written.fileno())
    Path(f"{path}.tmp").rename(path)
    sync_directory(path.parent)
    return lines


def _read_part(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LabelError(f"directory: {path} is missing or damaged: {error}") from None
