"""Which rung a CUDA device takes, who may ask for one, and what is said where it cannot be had."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from random_models import QUESTIONS, random_model

import latent_ext
from latent_ext.engine import cuda_rungs
from latent_ext.engine.choose import choose_engine, engine_report
from latent_ext.engine.cuda_capture import Capture, HostFlag, Shelf, bucket, power_of_two
from latent_ext.engine.cuda_rungs import RUNGS, SMALL_OPS, VARIABLE, asked_rung, choose_rung, rung_report
from latent_ext.models.devices import as_device

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@pytest.fixture
def device_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Pretends that "cuda" has kernels for some ops, and cooperative launch or not."""
    monkeypatch.delenv(VARIABLE, raising=False)

    def having(*names: str, cooperative: bool = True) -> str:
        monkeypatch.setattr(cuda_rungs, "has_kernel", lambda op, _device: op in names)
        monkeypatch.setattr(cuda_rungs, "_launches_cooperatively", lambda _device: cooperative)
        return "cuda"

    return having


def test_the_fastest_rung_that_the_device_can_take_is_taken(device_with: Callable[..., str]) -> None:
    assert choose_rung(None, device_with(*SMALL_OPS, "latent_rollout")).name == "persistent"
    assert choose_rung("auto", device_with(*SMALL_OPS, "latent_rollout", cooperative=False)).name == "stream"
    assert choose_rung(None, device_with(*SMALL_OPS)).name == "graph"


@pytest.mark.parametrize("name", RUNGS)
def test_each_rung_can_be_forced_by_argument_and_by_variable(
    device_with: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    device = device_with(*SMALL_OPS, "latent_rollout")
    assert choose_rung(name, device).name == name
    monkeypatch.setenv(VARIABLE, name)
    assert choose_rung(None, device).name == name
    other = RUNGS[(RUNGS.index(name) + 1) % len(RUNGS)]
    assert choose_rung(other, device).name == other


def test_a_rung_that_cannot_be_had_says_why(device_with: Callable[..., str]) -> None:
    with pytest.raises(RuntimeError, match=r"rung: 'persistent' cannot run on cuda: .*cooperative launch"):
        choose_rung("persistent", device_with(*SMALL_OPS, "latent_rollout", cooperative=False))
    with pytest.raises(RuntimeError, match="no cuda kernel for latent_rollout"):
        choose_rung("stream", device_with(*SMALL_OPS))
    with pytest.raises(RuntimeError, match="rung: none of persistent, stream, graph"):
        choose_rung(None, device_with())


def test_the_report_lists_every_rung_and_which_of_them_are_bit_equal(
    device_with: Callable[..., str],
) -> None:
    report = rung_report(device_with(*SMALL_OPS, "latent_rollout"))
    assert [choice.name for choice in report] == list(RUNGS)
    assert [choice.name for choice in report if "bit-equal" in choice.why] == list(cuda_rungs.BIT_EQUAL)
    assert not any(choice.usable for choice in rung_report("cpu"))


def test_a_name_that_is_no_rung_is_refused_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="rung: got 'fast'; allowed are auto, persistent, stream, graph"):
        asked_rung("fast")
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match="LATENT_EXT_RUNG: got 'fast'"):
        asked_rung(None)
    assert asked_rung("stream") == "stream"


def test_a_rung_is_refused_for_a_model_on_the_cpu(generator: torch.Generator) -> None:
    model = random_model(generator)
    with pytest.raises(ValueError, match="rungs are of CUDA devices, and the model is on cpu"):
        latent_ext.solve(model, QUESTIONS[2], n=1, rung="graph")
    result = latent_ext.solve(model, QUESTIONS[2], n=1, max_answer_tokens=1)[0]
    assert result.settings["rung"] is None


def test_the_variable_does_not_touch_a_model_on_the_cpu(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "graph")
    _, choice = choose_engine(random_model(generator))
    assert (choice.name, choice.rung) == ("native", None)


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: got '{name}'; this torch"):
        as_device(name)
    for load in (latent_ext.load, latent_ext.load_reward):
        with pytest.raises(ValueError, match=f"device: got '{name}'"):
            load(device=name)


def test_a_text_that_names_no_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device: got 'gpu'; allowed are cpu, cuda and cuda:N"):
        as_device("gpu")
    assert as_device("cpu") == torch.device("cpu")


@no_cuda
def test_engines_on_a_missing_device_name_the_ops_that_they_lack() -> None:
    report = {choice.name: choice for choice in engine_report("cuda")}
    assert not report["native"].usable
    assert "no cuda kernel for dropout_add_norm" in report["native"].why
    assert report["reference"].usable


def test_a_capture_on_the_cpu_runs_its_function_at_every_call() -> None:
    value = torch.zeros(1)
    capture = Capture(lambda: value.add_(1.0), torch.device("cpu"))  # type: ignore[arg-type, return-value]
    for _ in range(3):
        capture()
    assert value.item() == 3.0


def test_a_shelf_forgets_what_was_not_used_for_longest() -> None:
    made: list[str] = []
    shelf: Shelf[str] = Shelf(2)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert shelf.take(key, lambda key=key: made.append(key) or key) == key  # type: ignore[misc, func-returns-value]
    assert made == ["a", "b", "c", "b"]
    assert len(shelf) == 2


def test_a_flag_holds_what_was_there_when_it_was_taken() -> None:
    value = torch.tensor([True])
    flag = HostFlag(value)
    value.fill_(False)
    assert flag.get() is True


def test_sizes_are_rounded_up() -> None:
    assert [bucket(size, 32) for size in (0, 1, 32, 33)] == [32, 32, 32, 64]
    assert [power_of_two(size) for size in (0, 1, 2, 3, 5, 64)] == [1, 1, 2, 4, 8, 64]
