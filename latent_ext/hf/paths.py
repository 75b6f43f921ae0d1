"""Which paths a generation samples, and which of them come back."""

from __future__ import annotations

from typing import Any, cast

from latent_ext.engine.base import Beam
from latent_ext.models.family import Family
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.search.result import Trajectory
from latent_ext.search.select import SELECTORS


def asked_beam(
    rule: str, beams: int | None, candidates: int | None, num_paths: int | None, reward: LatentRM | None
) -> Beam | None:
    """The beam search that ``select="beam"`` asks for; None for another rule.

    Raises:
        ValueError: naming the argument that does not fit the rule.
    """
    if rule not in (*SELECTORS, "beam"):
        raise ValueError(f"select: got {rule!r}; allowed are {', '.join(SELECTORS)}, beam")
    if rule != "majority" and reward is None:
        raise ValueError(f"select: {rule!r} needs a reward; give reward=, or select='majority'")
    if rule != "beam":
        for name, value in (("beams", beams), ("candidates", candidates)):
            if value is not None:
                raise ValueError(f"{name}: got {value!r} with select={rule!r}; it belongs to select='beam'")
        return None
    if num_paths is not None:
        raise ValueError(
            f"num_paths: got {num_paths!r} with select='beam'; give beams= and candidates= instead"
        )
    for name, value in (("beams", beams), ("candidates", candidates)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}; select='beam' needs a whole number >= 1")
    return Beam(cast(int, beams), cast(int, candidates))


def check_beam(beam: Beam | None, model: LatentModel, argument: str) -> None:
    """Refuses a beam search over rows with numbers of thoughts of their own.

    Raises:
        ValueError: naming `argument`.
    """
    if beam is not None and model.semantics.stop != "fixed":
        raise ValueError(
            f"{argument}: asks for a beam search, and the rows of {model.family.name!r} stop by themselves; beams are "
            "compared after equal numbers of thoughts"
        )


def number_of_paths(num_paths: int | None, returned: int, beam: Beam | None, *, ranked: bool) -> int:
    """Trajectories per prompt that form the first thought.

    Args:
        returned: paths that come back per prompt.
        ranked: whether a reward ranks them.

    Raises:
        ValueError: if there are not that many, or nothing says which.
    """
    if beam is not None:
        if returned > beam.keep:
            raise ValueError(f"return_paths: got {returned}; {beam.keep} beams are left at most")
        return beam.keep * beam.candidates
    paths = returned if num_paths is None else num_paths
    if not isinstance(paths, int) or paths < 1:
        raise ValueError(f"num_paths: got {paths!r}; a whole number >= 1 is needed")
    if returned > paths:
        raise ValueError(f"return_paths: got {returned}; there are num_paths={paths}")
    if 1 < returned < paths and not ranked:
        raise ValueError(
            f"return_paths: got {returned} of num_paths={paths}; without a reward to rank them give 1 or all"
        )
    return paths


def chosen_paths(
    listed: list[Trajectory], rule: str, returned: int, family: Family, tokenizer: Any
) -> list[int]:
    """Which paths come back, best first; all of them in their own order."""
    if returned == len(listed):
        return list(range(returned))
    by_score = sorted(
        range(len(listed)), key=lambda n: float("inf") if (score := listed[n].score) is None else -score
    )
    if returned > 1 or rule in ("best_of_n", "beam"):
        return by_score[:returned]
    answers = [_answer(one, family, tokenizer) for one in listed]
    chosen = SELECTORS[rule](answers, [one.score for one in listed]).chosen
    # No answer could be read: the first path, or the best-scored one, stands for its prompt.
    return [by_score[0] if chosen is None else chosen]


def _answer(trajectory: Trajectory, family: Family, tokenizer: Any) -> str | None:
    if trajectory.tokens is None:
        return None
    if tokenizer is not None:
        return family.answer(str(tokenizer.decode(trajectory.tokens, skip_special_tokens=True)))
    return " ".join(map(str, trajectory.tokens)) if trajectory.finished else None
