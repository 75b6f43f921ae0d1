"""The GPU benchmark tried on the CPU: what is wrong gets no time, stages go on, targets say what was seen."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import gpu
import gpu_stages
import pytest
import torch
from gpu_cells import cells
from gpu_cells.cells import LatentCell, guarded, latent_records, op_records, solve_records
from gpu_cells.check import check, check_answers
from gpu_cells.hugging_face import HuggingFacePhase
from gpu_cells.setting import SHAPES, Setting, build
from gpu_cells.table import readable
from gpu_cells.targets import TARGETS
from gpu_cells.timing import Timed, copy_bandwidth, limit
from results import Results
from torch import Tensor

from latent_ext.engine.cuda import CudaEngine
from latent_ext.ops import philox, sites

CPU = torch.device("cpu")
BEAM = LatentCell(2, 16, beam="4x4")
FORMATS = [("tiny_gpt2", "fp32"), ("tiny_gpt2", "bf16"), ("tiny_llama", "fp32"), ("tiny_llama", "bf16")]


@pytest.fixture(scope="module", params=FORMATS, ids=lambda param: "/".join(param))
def setting(request: pytest.FixtureRequest) -> Setting:
    return build(*request.param, "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timed run instead of many, and no gradients, as the program runs."""
    monkeypatch.setattr(cells, "device_time", lambda work, *_: (work(), Timed.of([1.0]))[1])
    monkeypatch.setattr(cells, "host_time", lambda work, *_: (work(), Timed.of([1.0]))[1])


def later() -> float:
    return time.monotonic() + 60.0


def drawn(setting: Setting, **how: bool) -> tuple[HuggingFacePhase, Tensor, Tensor]:
    """Hugging Face's phase of 2 questions x 3 trajectories with our noise; its question and keys by row."""
    question = torch.arange(2).repeat_interleave(3)
    keys = setting.keys(2, 3).reshape(-1)
    length = len(setting.prompts[0])

    def noise(t: int, like: Tensor) -> Tensor:
        position = torch.full((6,), length + t)
        return philox.normals(3, keys, position, sites.NOISE, like.shape[1]).to(like.dtype)

    phase = HuggingFacePhase(setting, question, 0.5, with_reward=True, **how)
    phase.run(noise)
    return phase, question, keys


def test_hugging_face_s_own_phase_passes_the_check(setting: Setting) -> None:
    phase, question, keys = drawn(setting)
    assert check(setting, keys, 3, 0.5, phase.thoughts, phase.scores, question=question).right


def test_a_second_run_of_the_baseline_is_the_first(setting: Setting) -> None:
    phase, _, _ = drawn(setting)
    noise = torch.ones_like(phase.thoughts[:, 0])
    phase.run(lambda _t, _like: noise)
    first = phase.thoughts.clone(), phase.scores.clone()
    phase.run(lambda _t, _like: noise)
    assert torch.equal(phase.thoughts, first[0])
    assert torch.equal(phase.scores, first[1])


@pytest.mark.parametrize(
    "what", ["a thought", "a row", "a score", "the seed", "the keys", "the question", "nan"]
)
def test_what_is_wrong_does_not_pass_the_check(setting: Setting, what: str) -> None:
    phase, question, keys = drawn(setting)
    seed = 3
    if what == "a thought":
        phase.thoughts[2, 3] *= 1.5
    elif what == "a row":
        phase.thoughts[4] = phase.thoughts[3]
    elif what == "a score":
        phase.scores[1, 5] += 1.0
    elif what == "the seed":
        seed = 4
    elif what == "the keys":
        keys = keys.flip(0)
    elif what == "the question":
        question = 1 - question
    else:
        phase.thoughts[0, 0, 0] = float("nan")
    verdict = check(setting, keys, seed, 0.5, phase.thoughts, phase.scores, question=question)
    assert not verdict.right
    assert "off by" in verdict.why


def test_cells_of_every_kind_have_their_times(setting: Setting) -> None:
    records = [
        *latent_records(setting, LatentCell(2, 3), ["graph"], 1e9, later(), baselines=("hf eager",)),
        *latent_records(setting, BEAM, ["graph"], 1e9, later(), baselines=("hf eager",)),
        *solve_records(setting, 4, ("best_of_n", "weighted_vote"), [("modules", "")], later()),
        *op_records(CPU, 70, 96, setting.weights, later()),
    ]
    assert [record["method"] for record in records] == [
        "ours graph", "hf eager", "ours graph", "engine modules", "engine modules", "dropout_add_norm", "next_thought",
    ]  # fmt: skip
    assert all(record["microseconds"] == 1.0 for record in records), records
    assert records[0]["passes_over_weights"] == 5 + 6
    assert records[1]["passes_over_weights"] == 5 + 1


@pytest.mark.parametrize("cell", [LatentCell(2, 3), BEAM], ids=["plain", "beam"])
def test_a_wrong_phase_of_ours_gets_no_time(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, cell: LatentCell
) -> None:
    original = CudaEngine.roll_out

    def spoilt(self: CudaEngine, *arguments: object) -> object:
        made = original(self, *arguments)
        made.thoughts[1, 2] *= 1.5
        return made

    monkeypatch.setattr(CudaEngine, "roll_out", spoilt)
    (record,) = latent_records(setting, cell, ["graph"], 1e9, later(), baselines=())
    assert record["failure"].startswith("wrong: thoughts are off by")
    assert "microseconds" not in record


def test_a_beam_that_keeps_the_worst_rows_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = build("tiny_gpt2", "fp32", "cpu")
    original = cells.ops.score_and_prune

    def worst(hidden: Tensor, weight: Tensor, bias: Tensor, total: Tensor, offsets: Tensor, keep: int):  # type: ignore[no-untyped-def]
        score, total, _ = original(hidden, weight, bias, total, offsets, keep)
        _, _, survivors = original(-hidden, weight, -bias, -total + score, offsets, keep)
        return score, total, survivors

    monkeypatch.setattr("latent_ext.ops.score_and_prune", worst)
    (record,) = latent_records(setting, BEAM, ["graph"], 1e9, later(), baselines=())
    assert record["failure"] == "wrong: a row descends from one that the first step should have pruned"


def test_an_answer_with_a_worse_token_is_found(setting: Setting) -> None:
    result = cells.latent_ext.solve(
        setting.model, setting.questions[0], n=3, sampler="noise:0.5", engine="modules", decode="all", seed=3,
        max_answer_tokens=6, return_thoughts=True, reward=setting.reward,
    )[0]  # fmt: skip
    thoughts = torch.stack([trajectory.thoughts for trajectory in result.trajectories])
    tokens = [trajectory.tokens for trajectory in result.trajectories]
    finished = [trajectory.finished for trajectory in result.trajectories]
    with torch.no_grad():
        assert check_answers(setting, 0, thoughts, tokens, finished=finished) == ""
        tokens[1] = [*tokens[1][:1], (tokens[1][1] + 50) % 90, *tokens[1][2:]]
        assert "below the best" in check_answers(setting, 0, thoughts, tokens, finished=finished)
        assert (
            check_answers(setting, 0, thoughts, [[]] * 3, finished=[False] * 3) == "trajectory 0 drew nothing"
        )


def test_what_fails_or_takes_too_long_says_so_and_does_not_stop_the_rest() -> None:
    def fails() -> dict:
        raise RuntimeError("no such thing\nsecond line")

    def hangs() -> dict:
        while True:
            pass

    assert guarded({"method": "a"}, fails, later()) == {
        "method": "a",
        "failure": "RuntimeError: no such thing",
    }
    record = guarded({"method": "b"}, hangs, later(), longest=0.2)
    assert record == {"method": "b", "failure": "stopped after 0 s"}
    for left in (1.2, -1.0):  # the end of the run is no failure of what it cuts short
        record = guarded({"kind": "latent", "method": "c"}, hangs, time.monotonic() + left)
        assert record == {"kind": "left_out", "what": "latent c"}
    with limit(5.0):
        pass  # a limit that was kept leaves no alarm behind


def test_the_program_writes_each_record_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda device, _megabytes: copy_bandwidth(device, 1, 0.01))
    part = gpu.Part("tiny_gpt2/fp32", 1.0, ((LatentCell(1, 2), ()),))
    results = Results(tmp_path / "gpu.json")
    assert (
        gpu.run(results, "cpu", 60.0, (part, replace(part, name="no_such/fp32"), replace(part, until=0.0)))
        is False
    )
    again = Results(tmp_path / "gpu.json", resume=True).records
    assert [record["kind"] for record in again] == ["machine", "latent", "failure", "left_out"]
    text = readable(again)
    assert "ours graph" in text
    assert "failed: no_such/fp32: KeyError" in text
    assert "left out: tiny_gpt2/fp32" in text


def test_every_part_names_a_shape_and_a_format_that_there_is() -> None:
    for part in gpu.parts():
        shape, weights = part.name.split("/")
        assert shape in SHAPES
        assert weights in cells.DTYPES
    assert [part.until for part in gpu.parts()] == sorted(part.until for part in gpu.parts())


def latent(method: str, microseconds: float, **what: object) -> dict:
    base = {
        "kind": "latent",
        "shape": "gpt2",
        "weights": "bf16",
        "questions": 1,
        "n": 64,
        "with_reward": True,
    }
    base |= {"beam": "", "microseconds_per_step": 1.0, "share_of_bandwidth": 0.5}
    return base | {"method": method, "microseconds": microseconds} | what


def test_targets_take_the_best_of_ours_and_know_what_was_not_measured() -> None:
    by_name = {target.what: target for target in TARGETS}
    records = [latent("ours graph", 1500.0), latent("ours persistent", 800.0), latent("hf graph", 4400.0)]
    assert by_name["latent phase, N=64, noise, LatentRM"].reached(records) is True
    assert by_name["times faster than HF, static cache, CUDA graph"].value(records) == pytest.approx(5.5)
    assert by_name["times faster than HF, eager"].reached(records) is None
    assert by_name["latent phase, N=64, noise, no LatentRM"].reached(records) is None
    llama = [
        latent("ours stream", 1.0, shape="llama", n=n, share_of_bandwidth=share)
        for n, share in ((1, 0.8), (8, 0.6))
    ]
    share = by_name["Llama-3.2-1B, N <= 16: share of the copy bandwidth"]
    assert share.reached(llama) is None
    assert share.value([*llama, latent("ours graph", 1.0, shape="llama", n=16)]) == pytest.approx(50.0)
    text = readable(records)
    assert "not measured" in text
    assert "yes" in text


def test_a_wrong_record_is_in_the_table_with_its_reason() -> None:
    wrong = latent("ours persistent", 1.0, failure="wrong: thoughts are off by 1.0e-01, allowed 1.0e-02")
    del wrong["microseconds"]
    assert "wrong: thoughts are off by" in readable([wrong])
    assert all(target.value([wrong]) is None for target in TARGETS)


def stages(tmp_path: Path, seconds: float = 30.0) -> gpu_stages.Stages:
    return gpu_stages.Stages(sys.executable, tmp_path, seconds, {})


def test_stages_go_on_when_one_fails_and_the_table_says_which(tmp_path: Path) -> None:
    run = stages(tmp_path)
    said = "print('3 passed'); raise SystemExit({})"
    run.run("build", [[sys.executable, "-c", said.format(0)]], 20.0)
    assert run.failed is False
    run.run("tests", [[sys.executable, "-c", said.format(1)]], 20.0)
    run.run("bench", [[sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]], 1.0)
    run.record("memcheck", gpu_stages.Outcome("skipped", "no tool"), 0.0)
    assert run.failed is True
    records = Results(tmp_path / "gpu.json", resume=True).records
    assert [(r["stage"], r["outcome"]) for r in records] == [
        ("build", "passed"),
        ("tests", "failed"),
        ("bench", "out of time"),
        ("memcheck", "skipped"),
    ]
    text = readable(records)
    assert "3 passed" in text
    assert "out of time" in text
    assert "3 passed" in (tmp_path / "gpu_tests.log").read_text()


def test_a_second_command_is_tried_where_the_first_fails(tmp_path: Path) -> None:
    run = stages(tmp_path)
    fails, works = ([sys.executable, "-c", f"raise SystemExit({code})"] for code in (3, 0))
    assert run.run("build", [fails, works], 20.0).outcome == "passed"
    assert run.failed is False


def test_stages_build_for_this_device_alone_and_ask_no_index() -> None:
    own = gpu_stages.environment((9, 0))
    assert own["LATENT_EXT_CUDA_ARCHS"] == "90a-real"
    assert gpu_stages.architecture((8, 6)) == "86-real"
    assert own["PIP_NO_INDEX"] == "1"
    assert "CMAKE_CUDA_ARCHITECTURES" not in own
    assert own["PYTHONPATH"].startswith(str(gpu_stages.ROOT))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_there_is_one_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_stages.py", "--out", str(tmp_path)])
    assert gpu_stages.main() == 1
    assert capsys.readouterr().err == "make gpu: this torch sees no CUDA device\n"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    assert gpu.main() == 1
    assert capsys.readouterr().err == "bench/gpu.py: this torch sees no CUDA device\n"
    assert list(tmp_path.iterdir()) == []
