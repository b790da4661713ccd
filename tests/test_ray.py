"""A study on a Ray cluster ends with the rows that this machine alone gives it, whatever happens to the cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_study import compare, study_rows, write  # noqa: F401 - the last is a fixture

from vit.checks import UsageError
from vit.commands import CompareConfig, RayConfig
from vit.workers import open_workers


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one CPU each on this machine, seen by nobody else."""
    pytest.importorskip("ray", reason="Ray is an optional extra")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # there Ray takes 127.0.0.1 for what it is
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)  # Ray's would end the tests after this one


def family(node: Any) -> dict[int, str]:
    """The processes of a node, parents first: process id and command line."""
    table = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 2) for line in table.stdout.splitlines()]
    processes = [(int(pid), int(parent), args) for pid, parent, args in lines]
    found = {node.all_processes["raylet"][0].process.pid: "raylet"}
    while born := {pid: args for pid, parent, args in processes if parent in found and pid not in found}:
        found |= born
    return found


def trained_by(node: Any) -> str | None:
    """The name of the run that a node trains, once its training has begun."""
    commands = [args.split() for args in family(node).values() if "train.py --name=" in args]
    return commands[0][2].removeprefix("--name=") if commands else None


def until(condition: Callable[[], Any], process: subprocess.Popen) -> Any:
    while not (met := condition()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return met


def test_a_study_that_is_stopped_and_then_loses_a_machine_has_the_rows_of_a_local_one(
    write: Any,  # noqa: F811
    cluster: Any,
    tmp_path: Path,
) -> None:
    path, on_cluster = write(), f"--ray.address={cluster.address}"
    head, other = cluster.list_all_nodes()
    runs = tmp_path / "runs/studies/tiny"

    too_much = compare(path, on_cluster, "--ray.gpus_per_run=0.25")
    assert too_much.stderr is not None
    said = [too_much.stderr.readline() for _ in range(2)]
    assert said[1].startswith("Ray: none has 1 CPUs and 0.25 GPUs for a run (ray.cpus_per_run, "), said
    too_much.send_signal(signal.SIGINT)
    too_much.communicate(timeout=60)
    assert too_much.returncode == 130

    stopped = compare(path, on_cluster)
    until(lambda: trained_by(head) and trained_by(other), stopped)
    stopped.send_signal(signal.SIGINT)
    _, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, stderr
    assert "the same command goes on" in stderr.splitlines()[-1]
    assert not trained_by(head)
    assert not trained_by(other)

    going_on = compare(path, on_cluster)
    lost = until(lambda: trained_by(other), going_on)
    until(lambda: (runs / lost / "config.yaml").exists(), going_on)
    for process in family(other):
        os.kill(process, signal.SIGKILL)
    assert not (runs / lost / "summary.json").exists()
    cluster.remove_node(other, allow_graceful=False)
    stdout, stderr = going_on.communicate(timeout=120)
    assert stdout, stderr
    on_ray = study_rows(path)
    (tmp_path / "reports").rename(tmp_path / "reports_of_ray")
    (tmp_path / "runs").rename(tmp_path / "runs_of_ray")

    assert compare(path, "--workers=2").communicate(timeout=120)[0]
    assert on_ray == study_rows(path)


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = CompareConfig("study.yaml", ray=RayConfig(address="auto"))
    with pytest.raises(UsageError, match=r"^ray\.address: .* pip install -e '\.\[ray\]'$"), open_workers(config):
        pass
    assert next(open_workers(replace(config, ray=RayConfig())).gen)  # nobody else needs it


def test_a_cluster_that_is_not_there_is_refused_at_once(write: Any) -> None:  # noqa: F811
    pytest.importorskip("ray")
    process = compare(write(), "--ray.address=127.0.0.1:1")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr.startswith("compare.py: ray.address: cannot reach the cluster 127.0.0.1:1 (")
    assert len(stderr.splitlines()) == 1
