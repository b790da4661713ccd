"""Where the trainings of a study run: as processes of this machine, or as tasks of a Ray cluster.

Either way a training is `train.py` in a process of its own, which goes on where its run folder left off. On a cluster
that process starts in the folder that compare.py was started in, so every machine needs that folder, shared or as a
clone at the same path, and the same packages. Run folder, log and data lie in it on the machine that trains; what
results.csv needs comes back as the task's return value. A run whose machine or worker is lost is done again: from its
last state where the file system is shared, otherwise from the start.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vit.checks import UsageError
from vit.commands import CompareConfig, RayConfig
from vit.run_folder import read_correct, read_curve
from vit.terminal import say

# How many times a run whose worker was lost is started again: bounded, as a training may itself end its machine.
RETRIES = 5


@dataclass(frozen=True)
class Job:
    """A training to be done.

    Args:
        name: of the run, the folder below `runs_dir`.
        runs_dir: absolute, or relative to `directory`.
        options: the command line of train.py.
        directory: where the process starts.
        environment: variables over those of the machine that trains.
    """

    name: str
    runs_dir: str
    options: list[str]
    directory: str
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        code: exit code of train.py.
        words: the last line it said.
        summary: of a finished run; {} of any other.
        correct: of every test image, whether the finished run classified it right.
        curve: training FLOPs and validation accuracy of every evaluation of the finished run.
    """

    code: int
    words: str
    summary: dict[str, Any] = field(default_factory=dict)
    correct: list[bool] | None = None
    curve: list[tuple[int, float]] | None = None


# Does jobs and hands out each as it ends. Once the function given says to stop, those that run are told to save and
# handed out too, and the rest are left out.
Ended = Generator[tuple[Job, Outcome], None, None]
Workers = Callable[[list[Job], Callable[[], bool]], Ended]


@contextmanager
def open_workers(config: CompareConfig) -> Iterator[Workers]:
    """The Ray cluster, if the settings name one, else this machine.

    Raises:
        UsageError: Ray is not installed, or its cluster cannot be reached.
    """
    if config.ray.address is None:
        yield partial(train_here, config.workers)
        return
    try:
        import ray
    except ImportError:
        raise UsageError("ray.address: the package ray is missing: pip install -e '.[ray]'") from None
    address = config.ray.address
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for minutes
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"ray.address: cannot reach the cluster {address} ({error})") from None
    try:
        there = ray.cluster_resources()
        say(f"Ray: {len(ray.nodes())} machines, {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs")
        wanted = {"CPU": config.ray.cpus_per_run, "GPU": config.ray.gpus_per_run}
        if not any(all(node["Resources"].get(key, 0) >= n for key, n in wanted.items()) for node in ray.nodes()):
            needs = f"{wanted['CPU']} CPUs and {wanted['GPU']:g} GPUs"
            say(f"Ray: none has {needs} for a run (ray.cpus_per_run, ray.gpus_per_run); waiting for one that has")
        yield partial(train_on_ray, config.ray)
    finally:
        ray.shutdown()


def train_here(at_once: int, jobs: list[Job], stopped: Callable[[], bool]) -> Ended:
    """Train in processes of this machine, some at once."""
    # Where the system tells, the cores that this process may use, which may be some of the machine's.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(cores // at_once, 1)))
    given_up = threading.Event()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            futures = {}
            for job in jobs:
                if at_once > 1:
                    job = replace(job, environment=job.environment | {"OMP_NUM_THREADS": threads})
                futures[pool.submit(train, job, lambda: given_up.is_set() or stopped())] = job
            for future in as_completed(futures):
                if outcome := future.result():
                    yield futures[future], outcome
        finally:  # also where something went wrong in who asked: no training goes on unseen
            given_up.set()


def train_on_ray(settings: RayConfig, jobs: list[Job], stopped: Callable[[], bool]) -> Ended:
    """Train as tasks of Ray, as many at once as the cluster has CPUs and GPUs for."""
    import ray

    task = ray.remote(train).options(
        num_cpus=settings.cpus_per_run, num_gpus=settings.gpus_per_run, max_retries=RETRIES
    )
    waiting = {task.remote(job): job for job in jobs}
    cancelled = False
    try:
        while waiting:
            if stopped() and not cancelled:  # once: the task hears it as an exception, which must not hit its clean-up
                cancelled = True
                cancel(list(waiting))
            for reference in ray.wait(list(waiting), timeout=0.1)[0]:
                job = waiting.pop(reference)
                if outcome := outcome_of(reference):
                    yield job, outcome
    finally:
        if not cancelled:
            cancel(list(waiting))
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting))


def cancel(references: list[Any]) -> None:
    import ray

    for reference in references:
        ray.cancel(reference)


def outcome_of(reference: Any) -> Outcome | None:
    """What a task that has ended gives; None if it was cancelled."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return None
    except ray.exceptions.RayError as error:  # its worker was lost too often, or could not start a process
        return Outcome(1, str(error).strip().splitlines()[-1])


def train(job: Job, stopped: Callable[[], bool] = lambda: False) -> Outcome | None:
    """Do a training in a process of its own; None if it was stopped before it began.

    A process that an earlier, killed command or worker left behind may train the same run: that is waited for, and
    what it has done is taken over. Once `stopped`, or when an exception is raised here, the process is told to save.
    """
    folder = Path(job.directory, job.runs_dir, job.name)
    while True:
        while not stopped() and in_training(folder):
            time.sleep(0.1)
        if stopped():
            return None
        outcome = run_process(job, folder, stopped)
        # An earlier command's process that was still starting may have taken the name first.
        if outcome.code != UsageError.code or not in_training(folder):
            return outcome


def run_process(job: Job, folder: Path, stopped: Callable[[], bool]) -> Outcome:
    """One try: `train.py` to its end, or until it is `stopped`."""
    log = folder.with_name(f"{job.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as words:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent.parent / "train.py"), *job.options],
            cwd=job.directory,
            env=os.environ | job.environment,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            start_new_session=True,  # so that Ctrl-C reaches it once, through us
        )
    try:
        while process.poll() is None and not stopped():
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0.1)  # reads, or a training that prints much would wait for us
    finally:
        process.terminate()
        output, _ = process.communicate()
    said = (log.read_text().splitlines() or ["no word"])[-1]
    if process.returncode < 0:
        return Outcome(process.returncode, f"killed by {signal.Signals(-process.returncode).name}; its log is {log}")
    if process.returncode != 0:
        return Outcome(process.returncode, said)
    return Outcome(0, said, json.loads(output.splitlines()[-1]), read_correct(folder), read_curve(folder))


def in_training(folder: Path) -> bool:
    """Whether some process trains this run."""
    if not (folder / "config.yaml").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
