"""Other scores for trajectories that are there: several rewards on one pool, without sampling it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latent_ext.engine import choose_engine
from latent_ext.engine.flops import costs_of
from latent_ext.models.latent_model import LatentModel
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.named import as_reward
from latent_ext.rewards.reward import Reward
from latent_ext.search.arguments import check_reward
from latent_ext.search.later_scores import LaterScores
from latent_ext.search.read_by_engine import on_engine
from latent_ext.search.result import Result
from latent_ext.search.run import Progress
from latent_ext.search.select import SELECTORS
from latent_ext.search.solve import solve


def rescore(
    model: LatentModel,
    results: Sequence[Result],
    reward: Reward | str | Path,
    *,
    select: str = "best_of_n",
    noise_free: Sequence[Result] | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> list[Result]:
    """The same trajectories with the scores of another reward, and the choice that follows from them.

    Args:
        model: that formed the trajectories.
        results: of `latent_ext.solve`, all answers decoded (``decode="all"``), and with ``return_thoughts=True`` where the
            reward needs thoughts. They are not changed.
        reward: as in `latent_ext.solve`.
        select: "best_of_n" (default), "majority", "weighted_vote" or "weighted_vote_raw".
        noise_free: results of the same questions with ``n=1, sampler="none"``, for a reward that needs them. Default: they
            are computed where they are needed.
        engine: of that computation, and of a LatentRM that reads answers.
        progress: called with (questions scored, questions in all).

    Returns:
        One `Result` per result, in order. Its settings name the new reward and selection; its cost is that of the run and
        of the new scores, where operations can be counted.

    Raises:
        ValueError: naming the argument, what came and what is needed, before anything is computed.

    Example:
        >>> pool = latent_ext.solve(model, questions, decode="all", return_thoughts=True)  # doctest: +SKIP
        >>> latent_ext.rescore(model, pool, "answer_rm")[0].answer  # doctest: +SKIP
    """
    judge = as_reward(reward, device=model.device)
    if select not in SELECTORS:
        raise ValueError(f"select: got {select!r}; allowed are {', '.join(SELECTORS)}")
    if isinstance(judge, LatentRM):
        check_reward(model, judge)
    for place, result in enumerate(results):
        usable = [one for one in result.trajectories if one.error is None]
        if any(one.tokens is None for one in usable):
            raise ValueError(
                f"results[{place}]: has answers that were not decoded; solve(decode='all') decodes them"
            )
        if "thoughts" in judge.needs and any(one.thoughts is None for one in usable):
            raise ValueError(
                f"results[{place}]: has no thoughts, which the reward {judge.name} needs; "
                "solve(return_thoughts=True) keeps them"
            )
    questions = [result.question for result in results]
    if noise_free is not None and [one.question for one in noise_free] != questions:
        raise ValueError(
            f"noise_free: got results of {len(noise_free)} questions that are not those of `results` in order"
        )
    if not results:
        return []
    longest = max(result.settings["max_answer_tokens"] for result in results)
    if noise_free is None and "noise_free" in judge.needs:
        noise_free = solve(model, questions, n=1, sampler="none", max_answer_tokens=longest, engine=engine)
    runner, _ = choose_engine(model, engine, max_answer_tokens=longest)
    trajectories = [
        [replace(one, score=None, step_scores=None) for one in result.trajectories] for result in results
    ]
    scores = LaterScores(
        model,
        on_engine(judge, runner),
        [model.encode(question) for question in questions],
        None if noise_free is None else [one.trajectories[0] for one in noise_free],
        keep_thoughts=True,
    )
    for question, listed in enumerate(trajectories):
        scores(question, listed)
        if progress is not None:
            progress(question + 1, len(trajectories))
    scored = []
    for result, listed in zip(results, trajectories, strict=True):
        answers = [None if one.error is not None else one.answer for one in listed]
        selection = SELECTORS[select](answers, [one.score for one in listed])
        settings = result.settings | {"reward": judge.name}
        scored.append(
            replace(
                result,
                trajectories=listed,
                select=select,
                chosen=selection.chosen,
                votes=selection.votes,
                settings=settings,
            )
        )
    for result, cost in zip(scored, costs_of(model, judge, scored), strict=True):
        result.cost = cost
    return scored
