"""The cells: the latent phase, `solve` as a whole, and two ops against a copy of the same bytes.

Every cell gives records as it goes; a method that fails or is wrong gives a record without a time that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import latent_ext
from gpu_cells.check import Verdict, check, check_answers
from gpu_cells.hugging_face import HuggingFacePhase
from gpu_cells.setting import DTYPES, Setting
from gpu_cells.timing import Timed, device_time, host_time, launches, limit
from latent_ext import ops
from latent_ext.engine.base import LatentRequest
from latent_ext.engine.cuda import CudaEngine
from latent_ext.engine.cuda_latent import LatentOutputs
from latent_ext.ops import philox, sites
from latent_ext.ops.tolerances import assert_close
from latent_ext.samplers import Sampler

SIGMA = 0.6
RUN_SEED = 11
ANSWER_TOKENS = 16
SECONDS = 0.3  # of timing, per method
# Seconds that one method may take, its check and its recording included; compiling takes longer.
LONGEST, LONGEST_COMPILED = 25.0, 75.0
# Beam searches by name: rows at the start, rows kept after every step but the last, candidates of each.
BEAMS = {"4x4": (16, 4, 4), "16x4": (64, 16, 4)}

Record = dict[str, Any]


@dataclass(frozen=True)
class LatentCell:
    """A latent phase with noise.

    Attributes:
        questions, n: B and N.
        with_reward: whether the LatentRM scores every thought.
        beam: a name of `BEAMS`, or "" to prune nothing.
    """

    questions: int
    n: int
    with_reward: bool = True
    beam: str = ""

    def keep(self, steps: int) -> tuple[tuple[int, ...], int]:
        if not self.beam:
            return (), 1
        _, kept, candidates = BEAMS[self.beam]
        return (kept,) * (steps - 1) + (1,), candidates


def guarded(what: Record, work: Callable[[], Record], end: float, longest: float = LONGEST) -> Record:
    """The record of a method; one that says why where it fails or takes too long.

    What is cut short because the whole run ends at `end` (``time.monotonic()``) did not fail: it is left out.
    """
    left = end - time.monotonic()
    left_out = {"kind": "left_out", "what": " ".join(str(value) for value in what.values())}
    if left < 1.0:
        return left_out
    try:
        with limit(min(longest, left)):
            return what | work()
    except TimeoutError as error:
        return left_out if left < longest else what | {"failure": str(error)}
    except Exception as error:
        text = str(error).strip()
        first = text.splitlines()[0] if text else ""
        return what | {"failure": f"{type(error).__name__}: {first}"[:300]}


def latent_records(
    setting: Setting,
    cell: LatentCell,
    rungs: list[str],
    bandwidth: float,
    end: float,
    *,
    baselines: tuple[str, ...],
) -> Iterator[Record]:
    """The latent phase by every rung, then by the baselines ("hf eager", "hf graph", "hf compile")."""
    base = {
        "kind": "latent",
        "shape": setting.name,
        "weights": setting.weights,
        **asdict(cell),
        "steps": setting.steps,
    }
    for rung in rungs:
        what = base | {"method": f"ours {rung}"}
        yield guarded(what, lambda rung=rung: _ours(setting, cell, rung, bandwidth), end)
    if not cell.beam:
        for name in baselines:
            longest = LONGEST_COMPILED if name == "hf compile" else LONGEST
            what = base | {"method": name}
            yield guarded(what, lambda name=name: _theirs(setting, cell, name, bandwidth), end, longest)


def _ours(setting: Setting, cell: LatentCell, rung: str, bandwidth: float) -> Record:
    engine = CudaEngine(setting.model, ANSWER_TOKENS, setting.weights, rung)
    sampler = Sampler.parse(f"noise:{SIGMA}")
    keys = setting.keys(cell.questions, cell.n)
    request = LatentRequest(setting.prompts[: cell.questions], keys, sampler, RUN_SEED)
    reward = setting.reward if cell.with_reward else None
    scored = None if reward is None else engine.read_reward_prompts(reward, request.prompts)
    settings, inputs = engine.inputs(request, engine.read_prompts(request.prompts, sampler), scored)
    keep, candidates = cell.keep(setting.steps)
    settings = replace(settings, keep=keep, candidates=candidates)

    def work() -> LatentOutputs:
        return engine.roll_out(settings, inputs, reward)

    work()
    made = work()  # a replay, which is what is timed
    rows = len(made.thoughts)
    question = torch.arange(cell.questions, device=setting.device).repeat_interleave(rows // cell.questions)
    verdict = check(
        setting, inputs.keys, RUN_SEED, SIGMA, made.thoughts, made.step_scores,
        question=question, lineage=made.lineage if keep else None, keep=keep, candidates=candidates,
    )  # fmt: skip
    if verdict.right and keep:
        plain = engine.roll_out(replace(settings, keep=(), candidates=1), inputs, reward)
        verdict = _first_choice(verdict, plain, made, cell)
    passes = settings.read_positions + (setting.steps if cell.with_reward else 0)
    return _measured(setting, verdict, work, passes, bandwidth)


def _first_choice(verdict: Verdict, plain: LatentOutputs, made: LatentOutputs, cell: LatentCell) -> Verdict:
    """Whether the ancestors of all rows are among the best of the first step, by the scores of a plain run."""
    assert plain.step_scores is not None
    assert verdict.allowed_scores is not None
    kept = BEAMS[cell.beam][1]
    first = plain.step_scores[:, 0].reshape(cell.questions, cell.n)
    last_kept = first.topk(kept, dim=1).values[:, -1]
    ancestors = first.reshape(-1)[made.lineage[:, 0]].reshape(cell.questions, -1)
    slack = verdict.allowed_scores * float(first.square().mean().sqrt())
    if bool((ancestors >= last_kept.unsqueeze(1) - slack).all()):
        return verdict
    return replace(verdict, right=False, why="a row descends from one that the first step should have pruned")


def _theirs(setting: Setting, cell: LatentCell, name: str, bandwidth: float) -> Record:
    question = torch.arange(cell.questions, device=setting.device).repeat_interleave(cell.n)
    keys = setting.keys(cell.questions, cell.n).reshape(-1).to(setting.device)
    lengths = torch.tensor([len(prompt) for prompt in setting.prompts], device=setting.device)[question]

    def ours(t: int, like: Tensor) -> Tensor:
        return philox.normals(RUN_SEED, keys, lengths + t, sites.NOISE, like.shape[1]).to(like.dtype)

    def compiled(body: Any) -> Any:
        return torch.compile(body, mode="reduce-overhead", dynamic=False)

    phase = HuggingFacePhase(
        setting, question, SIGMA, with_reward=cell.with_reward,
        **({"forward": compiled} if name == "hf compile" else {}),
    )  # fmt: skip
    phase.run(ours)
    verdict = check(setting, keys, RUN_SEED, SIGMA, phase.thoughts, phase.scores, question=question)
    work: Callable[[], object] = phase.captured() if name == "hf graph" else phase.run
    return _measured(setting, verdict, work, setting.steps - 1 + cell.with_reward, bandwidth)


def _measured(
    setting: Setting, verdict: Verdict, work: Callable[[], object], passes: int, bandwidth: float
) -> Record:
    """Time, launches and share of the bandwidth, of what is right."""
    record: Record = {"verdict": asdict(verdict), "passes_over_weights": passes}
    if not verdict.right:
        return record | {"failure": f"wrong: {verdict.why}"}
    timed = device_time(work, SECONDS, setting.device)
    read = passes * setting.weight_bytes
    return record | {
        "microseconds": timed.microseconds,
        "fastest": timed.fastest,
        "slowest": timed.slowest,
        "repeats": timed.repeats,
        "microseconds_per_step": timed.microseconds / setting.steps,
        "launches": launches(work, setting.device),
        "share_of_bandwidth": read / (timed.microseconds * 1e-6) / bandwidth,
    }


def solve_records(
    setting: Setting, n: int, selects: tuple[str, ...], ways: list[tuple[str, str]], end: float
) -> Iterator[Record]:
    """`latent_ext.solve` of one question with all it does, by (engine, rung); rung "" where an engine has none."""
    for select in selects:
        for engine, rung in ways:
            what = {
                "kind": "solve",
                "shape": setting.name,
                "weights": setting.weights,
                "questions": 1,
                "n": n,
                "select": select,
                "answer_tokens": ANSWER_TOKENS,
                "method": f"ours {rung}" if rung else f"engine {engine}",
            }
            yield guarded(what, lambda s=select, e=engine, r=rung: _solved(setting, n, s, e, r), end)


def _solved(setting: Setting, n: int, select: str, engine: str, rung: str) -> Record:
    def work(**how: Any) -> Any:
        return latent_ext.solve(
            setting.model, setting.questions[0], n=n, sampler=f"noise:{SIGMA}", reward=setting.reward, select=select,
            seed=RUN_SEED, engine=engine, max_answer_tokens=ANSWER_TOKENS, **({"rung": rung} if rung else {}), **how,
        )[0]  # fmt: skip

    result = work(return_thoughts=True)
    device = setting.device
    thoughts = torch.stack([trajectory.thoughts for trajectory in result.trajectories]).to(device)
    scores = torch.tensor([trajectory.step_scores for trajectory in result.trajectories], device=device)
    question = torch.zeros(n, dtype=torch.int64, device=device)
    keys = torch.tensor([trajectory.key for trajectory in result.trajectories], device=device)
    verdict = check(setting, keys, RUN_SEED, SIGMA, thoughts, scores, question=question)
    answered = [trajectory for trajectory in result.trajectories if trajectory.tokens is not None]
    why = verdict.why or check_answers(
        setting,
        0,
        thoughts[[trajectory.index for trajectory in answered]],
        [trajectory.tokens for trajectory in answered],
        finished=[trajectory.finished for trajectory in answered],
    )
    totals = [trajectory.score for trajectory in result.trajectories]
    if not why and select == "best_of_n" and result.chosen != totals.index(max(totals)):
        why = f"trajectory {result.chosen} was chosen, {totals.index(max(totals))} has the best score"
    record: Record = {"verdict": asdict(replace(verdict, right=not why, why=why)), "answers": len(answered)}
    if why:
        return record | {"failure": f"wrong: {why}"}
    timed: Timed = host_time(work, 2 * SECONDS, device)
    return record | {
        "microseconds": timed.microseconds,
        "fastest": timed.fastest,
        "slowest": timed.slowest,
        "repeats": timed.repeats,
        "launches": launches(work, device),
    }


def op_records(device: torch.device, rows: int, hidden: int, weights: str, end: float) -> Iterator[Record]:
    """`dropout_add_norm` and `next_thought`, each against a copy that reads and writes as many bytes."""
    for name, make in (("dropout_add_norm", _dropout_add_norm), ("next_thought", _next_thought)):
        what = {"kind": "op", "method": name, "rows": rows, "hidden": hidden, "weights": weights}
        yield guarded(what, lambda make=make: _op(device, rows, hidden, DTYPES[weights], make), end)


# What an op is: a call, its reference's results for the first rows beside its own, and the tensors of [rows, hidden]
# that it reads and writes.
_Op = tuple[Callable[[], object], Callable[[], None], int]


def _op(
    device: torch.device,
    rows: int,
    hidden: int,
    dtype: torch.dtype,
    make: Callable[[torch.device, int, int, torch.dtype], _Op],
) -> Record:
    work, verify, tensors = make(device, rows, hidden, dtype)
    work()
    verify()
    elements = tensors * rows * hidden // 2
    source = torch.empty(elements, dtype=dtype, device=device).zero_()
    target = torch.empty_like(source)
    timed = device_time(work, SECONDS, device)
    copied = device_time(lambda: target.copy_(source), SECONDS, device)
    return {
        "microseconds": timed.microseconds,
        "copy_microseconds": copied.microseconds,
        "times_a_copy": timed.microseconds / copied.microseconds,
        "bytes": tensors * rows * hidden * source.element_size(),
    }


_CHECKED = 64  # rows that an op is checked on


def _random_rows(device: torch.device, rows: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    keys = torch.randint(-(1 << 62), 1 << 62, (rows,), generator=generator).to(device)
    positions = torch.randint(1000, (rows,), generator=generator).to(device)
    return {"keys": keys, "positions": positions, "seed": torch.tensor([RUN_SEED], device=device)}


def _dropout_add_norm(device: torch.device, rows: int, hidden: int, dtype: torch.dtype) -> _Op:
    branch, residual = (torch.randn(rows, hidden, device=device).to(dtype) for _ in range(2))
    weight, bias = (torch.randn(hidden, device=device).to(dtype) for _ in range(2))
    row = _random_rows(device, rows)
    how = {"site": sites.layer_site(0, sites.MLP_OUTPUT), "p": 0.2, "eps": 1e-5, "norm": "layer"}

    def work() -> tuple[Tensor, Tensor]:
        return ops.dropout_add_norm(branch, residual, weight, bias, **row, **how)

    def verify() -> None:
        few = {name: value if name == "seed" else value[:_CHECKED] for name, value in row.items()}
        wanted = ops.dropout_add_norm_reference(
            branch[:_CHECKED], residual[:_CHECKED], weight, bias, **few, **how
        )
        for kind, made, expected in zip(("rng", "norm"), work(), wanted, strict=True):
            assert_close(made[:_CHECKED], expected, kind)

    return work, verify, 4


def _next_thought(device: torch.device, rows: int, hidden: int, dtype: torch.dtype) -> _Op:
    source = torch.randn(rows, hidden, device=device).to(dtype)
    into, store = torch.empty_like(source), torch.empty(rows, 1, hidden, dtype=dtype, device=device)
    row = _random_rows(device, rows)

    def work() -> None:
        ops.next_thought(source, None, None, None, **row, sigma=SIGMA, next_input=into, thoughts=store)

    def verify() -> None:
        few = {name: value if name == "seed" else value[:_CHECKED] for name, value in row.items()}
        wanted = torch.empty_like(source[:_CHECKED])
        ops.next_thought_reference(source[:_CHECKED], None, None, None, **few, sigma=SIGMA, next_input=wanted)
        for made in (into[:_CHECKED], store[:_CHECKED, 0]):
            assert_close(made.contiguous(), wanted, "thought")

    return work, verify, 3
