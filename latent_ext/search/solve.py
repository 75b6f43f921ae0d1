"""`solve`: N trajectories per question, scored, decoded as far as the selection needs it, and one chosen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from latent_ext.engine import choose_engine
from latent_ext.engine.base import Engine, SearchStep
from latent_ext.engine.flops import costs_of, expand
from latent_ext.engine.replay import REPLAYS, check_replay
from latent_ext.mixture import Mixture, as_sampler_or_mixture, members
from latent_ext.models.latent_model import LatentModel
from latent_ext.ops.keys import question_key
from latent_ext.rewards.deviation import Deviation, check_deviation
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.rewards.named import as_reward
from latent_ext.rewards.reliability import is_reliable
from latent_ext.rewards.reward import Reward, kind_of
from latent_ext.samplers import GaussianNoise, HeadNoise, MCDropout, Sampler, Scope
from latent_ext.search.adaptive import Adaptive
from latent_ext.search.arguments import (
    asked_beam,
    asked_confidence,
    check_adaptive,
    check_extend,
    check_reward,
    encode,
    is_64_bits,
)
from latent_ext.search.beliefs import RewardBeliefs
from latent_ext.search.extend import Extend
from latent_ext.search.later_scores import LaterScores
from latent_ext.search.read_by_engine import on_engine
from latent_ext.search.result import Result, Trajectory
from latent_ext.search.run import Progress, Run
from latent_ext.search.select import SELECTORS, best_of_n, majority_vote, weighted_vote

_TRAJECTORIES = 64


def solve(
    model: LatentModel,
    questions: str | Sequence[str],
    *,
    n: int | None = None,
    sampler: Sampler | Mixture | MCDropout | GaussianNoise | HeadNoise | str = "dropout:0.2",
    scope: Scope | None = None,
    reward: Reward | str | Path | None = None,
    select: str | None = None,
    beams: int | None = None,
    candidates: int | None = None,
    subtrees: int | None = None,
    lookahead: int | None = None,
    confidence: float | None = None,
    extend: bool = False,
    decode: str = "needed",
    replay: str = "none",
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    engine: str = "auto",
    weights: str | None = None,
    rung: str | None = None,
    max_answer_tokens: int = 64,
    keys: Sequence[int] | None = None,
    return_thoughts: bool = False,
    return_search: bool = False,
    memory_bytes: int = 2 << 30,
    max_rows: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Parallel test-time scaling of a latent reasoning model (LatentTTS, arXiv 2510.07745).

    Args:
        model: from `latent_ext.load`.
        questions: one question or several.
        n: trajectories per question, 64 by default. The first 16 of n=64 are the n=16 run. With "adaptive" the most
            that a question may draw. Not with "beam".
        sampler: object or text form, for example "dropout:0.2", "noise:0.6", "noise:0.4:relative", "svp:0.6", "none", "head"
            for a model with a Gaussian head, or a mixture such as "mix(dropout:0.2|svp:0.6)", of which trajectory n is
            drawn by sampler n mod k.
        scope: overrides the sampler's scope: "latent" or "prompt+latent".
        reward: from `latent_ext.load_reward`, any `latent_ext.rewards.Reward`, or a text: "deviation" (distance of each
            thought to the noise-free prediction), "answer_logprob", "answer_reading" or "answer_rm" (of the shipped model),
            a ``.json`` file of `AnswerReading`, or what `load_reward` takes. Needed by every `select` but "majority" and
            "adaptive". All but a LatentRM on thoughts at their real positions have every answer decoded, and cannot guide
            beams.
        select: "best_of_n", "majority", "weighted_vote", "weighted_vote_raw" (sums of scores), "beam" or "adaptive".
            Default: best_of_n with a reward, else majority. "adaptive" draws trajectories in rounds of at least 4, the
            first ones of the fixed run, until the vote is settled, and chooses by weighted vote with a reward, else by
            majority.
        beams: with "beam", trajectories kept after every thought, 4 by default. They are the result's trajectories; the
            best-scored one is chosen.
        candidates: with "beam", next thoughts tried from each kept trajectory, 4 by default; the first thought has
            ``beams * candidates``. With one candidate nothing is pruned: best-of-N.
        subtrees: with "beam", independent groups of beams, each pruned for itself (diverse verifier tree search), 1 by
            default; it divides `beams`. With as many as beams, every beam is a greedy search of its own.
        lookahead: with "beam", further thoughts, rolled out without randomness, whose scores count in the comparison,
            0 by default. They are forgotten again.
        confidence: with "adaptive", how sure the leading answer's lead must be, 0.95 by default; in (0, 1). See
            `latent_ext.search.settle`. A LatentRM that knows how sure it is (trained with ``loss: beta_binomial``) ends
            a question also where its bounds leave the leading answer no rival.
        extend: with "adaptive", further rounds begin with 4 continuations of the best rival trajectory: the thoughts before
            its first bad one stay, the others are drawn anew (see `latent_ext.search.extend`). They count as
            trajectories, and `Trajectory.parent` and `inherited` tell of them. Needs a LatentRM on
            thoughts with positions="real", one sampler, and a model whose rows all have T >= 2 thoughts; not the native
            engine on CUDA. False by default.
        decode: "needed" decodes the winner alone where the selection allows it; "all" decodes every answer.
        replay: "clean": thoughts sampled under dropout are read again without it before their answers are decoded, so
            that nothing but the thoughts decides them (a LatentRM and "deviation" read them so anyway). For models with a
            fixed number of thoughts that a head forms; not by the native engine on CUDA. Without dropout and noise on
            W_V it changes nothing, for any model. "none": they are not.
        temperature: of the answer tokens; 0 is argmax.
        top_p: share of the probability, in (0, 1], that the most likely tokens must have together of which one is
            drawn; below 1 (default: all tokens) with a temperature above 0. See `latent_ext.ops.next_token`.
        seed: run seed, 64 bits.
        engine: "auto", "native", "modules" or "reference".
        weights: number format of the native engine: "fp32", "bf16" or "int8" (see `latent_ext.models.packed.pack`).
            Default: that of the model. The other engines compute in the model's own. No "int8" on CUDA.
        rung: how the native engine runs the latent phase of a model on a CUDA device: "auto", "persistent", "stream"
            or "graph" (docs/gpu.md). Default: what the variable LATENT_EXT_RUNG asks for, else "auto".
        max_answer_tokens: longest answer; less where the model's positions end sooner.
        keys: 64-bit question keys; default: from the prompt ids.
        return_thoughts: keep each trajectory's thoughts, [T, hidden] on the CPU.
        return_search: with "beam", keep `Result.search`: every candidate of every thought with its score, and whether it
            was kept. It changes no result, but takes the native engine some op calls more.
        memory_bytes: budget for caches; what does not fit is cut into chunks, with the same results.
        max_rows: further bound on the trajectories that are in memory at a time.
        progress: called with (trajectories done, trajectories in all).

    Returns:
        One `Result` per question, in order. A trajectory with a thought or score that is not finite is
        reported by a warning and in `Trajectory.error`, and never selected.

    Raises:
        ValueError: naming the argument, what was given and what is allowed, before anything is computed.
        TypeError: if `reward` is none.
        RuntimeError: if the engine or rung that is asked for cannot run the model on its device, or its thoughts cannot
            be read again for ``replay="clean"``.

    Example:
        >>> import latent_ext
        >>> model, reward = latent_ext.load(), latent_ext.load_reward()
        >>> result = latent_ext.solve(model, "Mia has 19 ...", n=16, reward=reward)[0]  # doctest: +SKIP
        >>> result.answer, result.best.score  # doctest: +SKIP
    """
    texts = [questions] if isinstance(questions, str) else list(questions)
    select = select or ("best_of_n" if reward is not None else "majority")
    if select not in (*SELECTORS, "beam", "adaptive"):
        raise ValueError(f"select: got {select!r}; allowed are {', '.join(SELECTORS)}, beam, adaptive")
    confidence = asked_confidence(select, confidence)
    beam = asked_beam(select, n, beams, candidates, subtrees, lookahead)
    if return_search and beam is None:
        raise ValueError(f"return_search: got True with select={select!r}; it belongs to select='beam'")
    if beam is not None:
        n = beam.keep * beam.candidates
    n = _TRAJECTORIES if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n: got {n!r}; a whole number of trajectories >= 1 is needed")
    if select not in ("majority", "adaptive") and reward is None:
        raise ValueError(f"select: {select!r} needs a reward; give reward=, or select='majority'")
    if decode not in ("needed", "all"):
        raise ValueError(f"decode: got {decode!r}; allowed are needed, all")
    if replay not in REPLAYS:
        raise ValueError(f"replay: got {replay!r}; allowed are {', '.join(REPLAYS)}")
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature!r}; a finite number >= 0 is needed")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p: got {top_p!r}; a number in (0, 1] is needed")
    if top_p < 1.0 and temperature == 0.0:
        raise ValueError(f"top_p: got {top_p!r} with temperature=0, which draws nothing; give temperature=")
    if not isinstance(max_answer_tokens, int) or max_answer_tokens < 1:
        raise ValueError(f"max_answer_tokens: got {max_answer_tokens!r}; a whole number >= 1 is needed")
    if not is_64_bits(seed):
        raise ValueError(f"seed: got {seed!r}; a whole number of 64 bits is needed")
    if keys is not None and len(keys) != len(texts):
        raise ValueError(f"keys: got {len(keys)} for {len(texts)} questions; one each is needed")
    for b, key in enumerate(() if keys is None else keys):
        if not is_64_bits(key):
            raise ValueError(f"keys[{b}]: got {key!r}; a whole number of 64 bits is needed")
    chosen_sampler = as_sampler_or_mixture(sampler, scope)
    judge = None if reward is None else as_reward(reward, device=model.device)
    # What the engine itself scores; other rewards are asked when all answers are known.
    latent_rm = judge if isinstance(judge, LatentRM) else None
    scorer = latent_rm if latent_rm is not None and latent_rm.by_step else None
    later = judge if scorer is None else None
    if latent_rm is not None:
        check_reward(model, latent_rm)
    check_extend(select, extend, scorer)
    if confidence is not None:
        check_adaptive(model, later)
    if isinstance(later, Deviation):
        check_deviation(model)
    if later is not None and beam is not None:
        raise ValueError(
            f"reward: {kind_of(later)} cannot guide select='beam', which scores thought by thought; "
            "a LatentRM that reads thoughts alone, with positions='real', can"
        )
    for concern in [] if judge is None else judge.concerns(chosen_sampler.to_dict(), model.weights_hash):
        warnings.warn(f"reward: {concern}; its scores may mislead", UserWarning, stacklevel=2)

    prompts = [encode(model, text, b) for b, text in enumerate(texts)]
    rereading = replay == "clean" and any(one.acts_in_body for one in members(chosen_sampler))
    if rereading:
        check_replay(model)
    runner, choice = choose_engine(
        model,
        engine,
        max_answer_tokens=max_answer_tokens,
        weights=weights,
        reward=scorer,
        rung=rung,
        samplers=members(chosen_sampler),
        top_p=top_p,
        by_steps=beam is not None and (beam.lookahead > 0 or return_search),
        continues=extend,
        replay=rereading,
    )
    question_keys = [question_key(prompt) for prompt in prompts] if keys is None else list(keys)
    settings: dict[str, Any] = {
        "model": model.name,
        "weights_hash": model.weights_hash,
        "reward": None if judge is None else judge.name,
        "engine": choice.name,
        "rung": choice.rung,
        "weights": runner.weights,
        "n": n if beam is None else beam.keep,
        "candidates": None if beam is None else beam.candidates,
        "subtrees": None if beam is None else beam.subtrees,
        "lookahead": None if beam is None else beam.lookahead,
        "seed": seed,
        "replay": replay,
        "temperature": temperature,
        "top_p": top_p,
        "decode": decode,
        "max_answer_tokens": max_answer_tokens,
        "keys": "prompt" if keys is None else "given",
        "latent_length": model.family.latent_length,
        "switches": model.semantics.differences(),
        **chosen_sampler.to_dict(),
    }
    if latent_rm is not None:
        settings["reward_positions"] = latent_rm.positions
    decode_all = decode == "all" or select not in ("best_of_n", "beam") or later is not None
    keep = return_thoughts or (later is not None and "thoughts" in later.needs)
    scores: LaterScores | None = None
    if later is not None:
        alone = None
        if "noise_free" in later.needs:
            alone = _noise_free(
                model, runner, prompts, question_keys, max_answer_tokens, memory_bytes, max_rows
            )
        scores = LaterScores(model, on_engine(later, runner), prompts, alone, keep_thoughts=return_thoughts)
    adaptive = None
    if confidence is not None:
        settings["confidence"] = confidence
        settings["extend"] = extend
        beliefs = None
        if scorer is not None and is_reliable(scorer):
            beliefs = RewardBeliefs(scorer, prompts, keep_thoughts=return_thoughts)
            keep = True
        extension = Extend(beliefs) if extend else None
        read = partial(_read_answer, model)
        adaptive = Adaptive(confidence, judge is not None, read, beliefs, extension, scores)
    settings["budget"] = None
    if prompts:
        settings["budget"] = expand(
            model,
            judge,
            prompt_tokens=max(len(prompt) for prompt in prompts),
            answer_tokens=max_answer_tokens,
            n=n,
            sampler=chosen_sampler,
            beam=beam,
            decoded=None if decode_all else 1,
            engine=choice.name,
            replay=rereading,
        ).to_dict()
    searches: dict[int, list[SearchStep]] | None = {} if return_search else None
    run = Run(
        model,
        runner,
        chosen_sampler,
        scorer,
        n,
        seed,
        temperature,
        decode_all,
        keep,
        beam,
        top_p=top_p,
        replay=rereading,
        adaptive=adaptive,
        searches=searches,
    )
    trajectories = run.over(
        prompts,
        question_keys,
        max_answer_tokens=max_answer_tokens,
        memory_bytes=memory_bytes,
        max_rows=max_rows,
        progress=progress,
    )
    _read_answers(model, trajectories)
    if scores is not None and adaptive is None:
        for question, listed in enumerate(trajectories):
            scores(question, listed)
    if not return_thoughts:
        for trajectory in (one for part in trajectories for one in part):
            trajectory.thoughts = None
    results = [_result(text, part, select, settings) for text, part in zip(texts, trajectories, strict=True)]
    for result, cost in zip(results, costs_of(model, judge, results), strict=True):
        result.cost = cost
    if searches is not None:
        for b, result in enumerate(results):
            result.search = searches[b]
    return results


def _noise_free(
    model: LatentModel,
    engine: Engine,
    prompts: Sequence[Tensor],
    question_keys: Sequence[int],
    max_answer_tokens: int,
    memory_bytes: int,
    max_rows: int | None,
) -> list[Trajectory]:
    """Each question's trajectory without randomness, its answer read."""
    found = Run(model, engine, Sampler(), None, 1, 0, 0.0, True, False).over(
        prompts,
        question_keys,
        max_answer_tokens=max_answer_tokens,
        memory_bytes=memory_bytes,
        max_rows=max_rows,
    )
    _read_answers(model, found)
    return [part[0] for part in found]


def _read_answers(model: LatentModel, trajectories: Sequence[Sequence[Trajectory]]) -> None:
    for trajectory in (one for part in trajectories for one in part):
        if trajectory.tokens is not None:
            _read_answer(model, trajectory)


def _read_answer(model: LatentModel, trajectory: Trajectory) -> None:
    assert trajectory.tokens is not None
    trajectory.text = model.decode(trajectory.tokens)
    trajectory.answer = model.family.answer(trajectory.text)


def _result(text: str, trajectories: list[Trajectory], select: str, settings: dict[str, Any]) -> Result:
    # What a later score has made unusable is decoded, but neither votes nor is selected.
    answers = [None if trajectory.error is not None else trajectory.answer for trajectory in trajectories]
    scores = [trajectory.score for trajectory in trajectories]
    rule = SELECTORS.get(select, best_of_n)
    if select == "adaptive":
        rule = majority_vote if settings["reward"] is None else weighted_vote
    selection = rule(answers, scores)
    return Result(text, trajectories, select, selection.chosen, selection.votes, settings)
