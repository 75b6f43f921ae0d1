"""Executors other than this process: the same bytes, and refusals in place of waiting for ever."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from latent_ext.evaluation.executors import choose_executor
from latent_ext.evaluation.executors.process import visible_devices
from python_tests.evaluation.runs import results, run, small_recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


@pytest.mark.slow
def test_processes_give_the_lines_of_a_single_run_and_one_that_dies_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    killed = []

    def kill_its_worker(done: int, total: int) -> None:
        if 0 < done < total and not killed:
            batches = [json.loads(line) for line in (out / "attempts.jsonl").read_text().splitlines()]
            killed.append(batches[-1]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RuntimeError, match="a worker process ended before its work was done"):
        run(out, executor=choose_executor("process", workers=2), batch=2, progress=kill_its_worker)
    assert killed
    assert killed != [os.getpid()]
    left = (out / "ledger.jsonl").read_bytes().count(b"\n")
    assert 0 < left < 56
    assert run(out).finished == 56 - left
    assert results(out) == results(whole)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("slurm", {}, "executor: got 'slurm'; allowed are inline, process, ray"),
        ("inline", {"workers": 2}, "workers: got 2 with executor 'inline'"),
        ("process", {"workers": 0}, "workers: got 0"),
        ("process", {"threads": -1}, "threads: got -1"),
        ("process", {"address": "auto"}, "ray-address: got 'auto' with executor 'process'"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_executor(name, **settings)


def test_devices_for_workers_are_those_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc,")
    assert visible_devices() == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == []


@pytest.mark.slow
def test_ray_on_two_nodes_gives_the_bytes_of_a_single_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    pytest.importorskip("ray.data", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    arguments = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        greedy = choose_executor("ray", workers=3, address=cluster.address, patience=2.0)
        with pytest.raises(
            ValueError, match=r"workers: got 3 of 1 CPUs each; the cluster's nodes have 1, 1 CPUs"
        ):
            run(tmp_path / "run", executor=greedy)
        wide = choose_executor("ray", workers=1, threads=2, address=cluster.address, patience=2.0)
        with pytest.raises(ValueError, match=r"workers: got 1 of 2 CPUs each; .* room for 0"):
            run(tmp_path / "run", executor=wide)
        executor = choose_executor("ray", workers=2, address=cluster.address)
        assert run(tmp_path / "run", executor=executor).finished == 56
        assert executor.workers == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert results(tmp_path / "run") == results(whole)


@pytest.mark.slow
def test_a_ray_cluster_that_is_not_there_is_an_error_in_time(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="the extra 'ray' is not installed")
    executor = choose_executor("ray", address="127.0.0.1:1", patience=3.0)
    with pytest.raises(RuntimeError, match=r"ray-address: no Ray cluster at 127\.0\.0\.1:1"):
        run(tmp_path / "run", small_recipe(), executor=executor)
